"""Kraken's REST interface over krakenex: every call gives an Answer, whatever happens to it.

Each request runs on a thread of its own that its caller leaves at the deadline. Only that bounds
all of it: a library's time-out is per read and per address, and none bounds the lookup of a name.
A request that has been left can no longer be sent, and the line of one that was sent is broken.

Never here: what an answer means (`exchange/kraken_wire.py`, `exchange/kraken_errors.py`), how often
calls may be made (`exchange/kraken_budget.py`), placing an order twice or once.
"""

import re
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

import krakenex  # type: ignore[import-untyped]  # it has no types
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from core.hosts import is_here
from exchange.kraken_records import Answer
from exchange.kraken_wire import decode_secret, form, read_answer
from exchange.nonce import NonceExhausted, Nonces

VENUE_HOST = "api.kraken.com"
ALLOWED_URL = (
    f"allowed is https://{VENUE_HOST}, http or https on a loopback address, or https on a host "
    "that KRAKEN_API_URL_ALLOW names; no path, no query, no user name"
)
BODY_MAX = 8 * 1024 * 1024
CHUNK = 64 * 1024
IDLE_SEC_MAX = 20.0  # a private call does not trust a connection that has been quiet for longer
UNDER_WAY_MAX = 8  # requests that hang, left ones included, before no more are begun
_URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::([0-9]{1,5}))?/?")
_METHOD = re.compile(r"[A-Za-z0-9]{1,40}")
_KEY = re.compile(r"[!-~]{1,200}")


# ---- which host -----------------------------------------------------------------------------


def check_url(url: str, allow: Collection[str]) -> None:
    """Raise ValueError in plain words unless `url` is one that keys may be sent to.

    `allow` holds host names, without port, besides Kraken's own and loopback addresses.
    """
    scheme, host, port = _parts(url)
    if is_here(host):
        return
    if host != VENUE_HOST and host not in {name.strip().lower() for name in allow}:
        raise ValueError(f"the address {url} is not one that a key may be sent to: {ALLOWED_URL}")
    if scheme != "https":
        raise ValueError(f"the address {url} would send the key in the clear: {ALLOWED_URL}")
    if host == VENUE_HOST and port not in (None, 443):
        raise ValueError(f"the address {url} has a port that Kraken does not serve: {ALLOWED_URL}")


def is_venue(url: str) -> bool:
    """Tell whether `url` is Kraken's own, where orders cost real money; False for any other."""
    try:
        check_url(url, ())
        return _parts(url)[1] == VENUE_HOST
    except ValueError:
        return False


def _parts(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of `url`; what the pattern does not know is refused."""
    if "@" in url:
        raise ValueError(f"the address must not hold a user name or password: {ALLOWED_URL}")
    match = _URL.fullmatch(url.lower())
    if match is None:
        raise ValueError(f"the address {url[:200]!a} cannot be used: {ALLOWED_URL}")
    scheme, host, port = match.groups()
    if port is not None and not 0 < int(port) < 65536:
        raise ValueError(f"the address {url} has no valid port: 1 to 65535")
    return scheme, host.strip("[]"), None if port is None else int(port)


# ---- one request and its line ---------------------------------------------------------------


class _Left(OSError):
    """The caller has gone: the request must not be sent any more."""


class _TooLong(Exception):
    """The body is longer than any answer may be."""


class _Call(threading.Thread):
    """One request under way; `work` runs on it and asks leave before the first byte goes out."""

    def __init__(self, work: Callable[[], Answer], is_too_late: Callable[[], bool]) -> None:
        super().__init__(name="kraken", daemon=True)
        self._work = work
        self._lock = threading.Lock()
        self._is_left = False
        self._line: socket.socket | None = None
        self.is_too_late = is_too_late
        self.answer: Answer | None = None
        self.was_sent = False
        self.is_on_used_line = False
        self.met_dead_line = False
        self.wake = threading.Event()

    def run(self) -> None:
        """Do the work; the caller is woken whatever becomes of it."""
        try:
            self.answer = self._work()
        finally:
            self.wake.set()

    def send_over(self, line: socket.socket, *, is_used: bool) -> None:
        """Note that the request goes out over `line` now. Raises _Left if nobody waits for it."""
        with self._lock:
            if self._is_left:
                raise _Left("left before it was sent")
            self._line, self.was_sent, self.is_on_used_line = line, True, is_used

    def leave(self) -> None:
        """Wait no longer: what was not sent never will be, what was sent is cut off."""
        with self._lock:
            self._is_left = True
            line = self._line
        if line is not None and self.answer is None:
            with suppress(OSError):
                # Not the TLS socket's own shutdown: it drops the encryption before the line, and
                # a write at that moment would go out in the clear.
                socket.socket.shutdown(line, socket.SHUT_RDWR)
        self.wake.set()


def _under_way() -> _Call:
    call = threading.current_thread()
    if not isinstance(call, _Call):
        raise TypeError("a request is made by KrakenClient only")
    return call


class _Watched(HTTPConnection):
    """A connection that asks its call for leave before it sends."""

    _is_used = False

    def connect(self) -> None:
        self._is_used = False
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        _under_way().send_over(self.sock, is_used=self._is_used)
        self._is_used = True
        super().request(*args, **kwargs)


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _PinnedAdapter(HTTPAdapter):
    """Sends to one scheme, host and port only, and never a second time."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        super().__init__(pool_connections=1, pool_maxsize=4, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        if not (request.url or "").startswith(f"{self._origin}/"):
            raise requests.exceptions.InvalidURL("a request for another host is not sent")
        return super().send(request, *args, **kwargs)


class _Api(krakenex.API):  # type: ignore[misc]  # krakenex has no types
    """krakenex with our nonces, and a way to the host that follows nothing and trusts nobody.

    krakenex takes the nonce, signs and names the paths; `_query` is where it would send.
    """

    def __init__(
        self,
        *,
        origin: str,
        key: str,
        secret: str,
        nonces: Nonces,
        body_max: int,
        library_sec: float,
    ) -> None:
        super().__init__(key, secret)
        self.uri = origin
        self._nonces = nonces
        self._body_max = body_max
        self._library_sec = library_sec
        self._way = _PinnedAdapter(origin)
        self.session.trust_env = False
        self.session.adapters.clear()
        self.session.mount(f"{origin}/", self._way)
        self.session.headers.update(
            {
                "User-Agent": "grid-daemon",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            }
        )

    def drop_connections(self) -> None:
        """Make the next request open a connection of its own."""
        self._way.close()

    def _nonce(self) -> int:
        return self._nonces.next()

    def _query(
        self,
        urlpath: str,
        data: Mapping[str, object],
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002  # krakenex's word; ours is set once
    ) -> Answer:
        call = _under_way()
        try:
            request = self.session.prepare_request(self._request(urlpath, data, headers))
            # Past the session: its own sending looks at redirects, cookies and hooks.
            response = self._way.send(
                request, stream=True, timeout=self._library_sec, verify=True, proxies={}
            )
            try:
                body = self._body(response, call)
            finally:
                response.close()
        except _TooLong:
            why = f"the body is longer than {self._body_max} bytes"
            return Answer(fault=why, was_sent=call.was_sent)
        except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            call.met_dead_line = call.is_on_used_line and isinstance(
                error, requests.ConnectionError
            )
            return Answer(fault=_cause(error), was_sent=call.was_sent)
        return read_answer(response.status_code, body)

    def _request(
        self, urlpath: str, data: Mapping[str, object], headers: Mapping[str, str] | None
    ) -> requests.Request:
        url = f"{self.uri}{urlpath}"
        if headers is None:
            return requests.Request("GET", url, params=dict(data))
        # Encoded here, so that the bytes sent are the bytes signed.
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return requests.Request("POST", url, data=urlencode(data), headers={**headers, **kind})

    def _body(self, response: Any, call: _Call) -> bytes:
        """Return the decoded body, read as it comes. Raises _TooLong, requests.Timeout."""
        parts = bytearray()
        while chunk := response.raw.read1(CHUNK, decode_content=True):
            parts += chunk
            if len(parts) > self._body_max:
                raise _TooLong
            if call.is_too_late():
                raise requests.Timeout
        return bytes(parts)


def _cause(error: BaseException) -> str:
    """Return what went wrong on the line, without what was sent over it."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    inner: BaseException | None = error
    words = type(error).__name__
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            words = inner.strerror
        inner = inner.__cause__ or inner.__context__
    if isinstance(error, requests.exceptions.SSLError):
        return f"no trusted TLS connection to the host: {words}"
    return f"the connection failed or broke: {words}"


# ---- the client -----------------------------------------------------------------------------


class KrakenClient:
    """Calls of Kraken's REST interface; total: nothing is raised, whatever comes back.

    `url` has no path; a host other than Kraken's or a loopback address must be in `allow`. `clock`
    tells monotonic seconds. `timeout_sec` bounds a call as a whole, `body_max` its decoded answer
    in bytes. An empty key and secret make a client for public calls only. Raises ValueError for a
    url, key or secret that cannot be used, without repeating key or secret.

    Private calls go one after another, nonce, signature and sending under one lock; public ones may
    run beside them. May be used from any thread.
    """

    def __init__(
        self,
        *,
        url: str,
        key: str,
        secret: str,
        nonces: Nonces,
        clock: Callable[[], float],
        timeout_sec: float = 8.0,
        body_max: int = BODY_MAX,
        allow: Collection[str] = (),
    ) -> None:
        check_url(url, allow)
        key, secret = key.strip(), secret.strip()
        check_key(key, secret)
        self._origin = url.lower().rstrip("/")
        self._has_key = bool(key)
        self._clock = clock
        self._timeout_sec = timeout_sec

        def api(key: str, secret: str) -> _Api:
            # The library's own time-out only ends what has been left: it must not come first.
            return _Api(
                origin=self._origin,
                key=key,
                secret=secret,
                nonces=nonces,
                body_max=body_max,
                library_sec=2 * timeout_sec,
            )

        # Two, so that the one that carries public calls has no key to lose.
        self._account, self._market = api(key, secret), api("", "")
        self._turn = threading.Lock()
        self._quiet_since = clock()  # guarded by _turn
        self._lock = threading.Lock()
        self._under_way: list[_Call] = []  # guarded by _lock
        self._is_closed = False  # guarded by _lock

    def __repr__(self) -> str:
        return f"KrakenClient({self._origin})"

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Return what the account's `method` answers, within the time a call may take.

        Waits its turn for half of that time at most and is not sent after it. Values are sent as
        `kraken_wire.form` writes them; `params` is not changed.
        """
        if not self._has_key:
            return _not_sent("no API key is set")
        if "nonce" in params:
            return _not_sent("a nonce among the parameters: the client gives it")
        deadline = self._clock() + self._timeout_sec
        texts = _form(method, params)
        if isinstance(texts, Answer):
            return texts
        if not self._turn.acquire(timeout=self._timeout_sec / 2):
            return _not_sent("earlier calls took too long")
        try:
            return self._ask_account(method, texts, deadline)
        finally:
            self._turn.release()

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Return what the market's `method` answers, within the time a call may take.

        Asks a second time, once, where a connection kept from earlier turns out dead.
        """
        deadline = self._clock() + self._timeout_sec
        texts = _form(method, params)
        if isinstance(texts, Answer):
            return texts

        def ask() -> Answer:
            answer: Answer = self._market.query_public(method, texts)
            return answer

        answer, met_dead_line = self._carry(ask, deadline)
        if met_dead_line:
            self._market.drop_connections()
            answer, _ = self._carry(ask, deadline)
        return answer

    def close(self) -> None:
        """Cut off the calls under way and refuse new ones; their callers get a fault at once."""
        with self._lock:
            self._is_closed = True
            calls = list(self._under_way)
        for call in calls:
            call.leave()
        self._account.close()
        self._market.close()

    def _ask_account(self, method: str, texts: dict[str, str], deadline: float) -> Answer:
        def ask() -> Answer:
            try:
                answer: Answer = self._account.query_private(method, texts)
            except NonceExhausted as error:
                return _not_sent(str(error))
            return answer

        if self._clock() - self._quiet_since > IDLE_SEC_MAX:
            self._account.drop_connections()
        answer, _ = self._carry(ask, deadline)
        if answer.fault is not None:
            # What is left of an answer that could not be read must not begin the next one.
            self._account.drop_connections()
        self._quiet_since = self._clock()
        return answer

    def _carry(self, ask: Callable[[], Answer], deadline: float) -> tuple[Answer, bool]:
        """Return the answer of `ask`, and whether it met a dead connection that was kept."""
        call = _Call(ask, lambda: self._clock() > deadline)
        with self._lock:
            if self._is_closed:
                return _not_sent("the client is closed"), False
            self._under_way = [x for x in self._under_way if x.is_alive()]
            if len(self._under_way) >= UNDER_WAY_MAX:
                return _not_sent(f"{UNDER_WAY_MAX} earlier requests still hang"), False
            try:
                call.start()
            except RuntimeError:
                return _not_sent("the system gives no thread"), False
            self._under_way.append(call)
        call.wake.wait(max(0.0, deadline - self._clock()))
        has_ended = call.wake.is_set()
        call.leave()
        answer = call.answer
        if self._is_closed and (answer is None or answer.fault is not None):
            why = "the client was closed meanwhile"
        elif call.is_too_late() or not has_ended:
            why = f"no answer within {self._timeout_sec:g} s"
        elif answer is None:
            why = "the call broke off"
        else:
            return answer, call.met_dead_line
        return Answer(fault=why, was_sent=call.was_sent), False


def _not_sent(why: str) -> Answer:
    return Answer(fault=why, was_sent=False)


def check_key(key: str, secret: str) -> None:
    """Raise ValueError in plain words, which hold neither, unless key and private key can be used.

    Both empty means public calls only.
    """
    if not key and not secret:
        return
    if not key or not secret:
        raise ValueError("the API key and the private key are set both or neither")
    if not _KEY.fullmatch(key):
        raise ValueError(
            "the API key holds a space or another character that no key has: copy it whole, up to "
            "200 visible ASCII characters"
        )
    decode_secret(secret)


def _form(method: str, params: Mapping[str, object]) -> dict[str, str] | Answer:
    if not _METHOD.fullmatch(method):
        return _not_sent(f"{method[:40]!a} is no method: letters and digits only")
    try:
        texts = form(params)
        urlencode(texts)
    except (ValueError, TypeError) as error:
        return _not_sent(f"the parameters of {method} cannot be sent: {error}")
    return texts
