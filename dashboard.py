"""The HTTP server of the page and the API: threaded, on the standard library, loopback by default.

Handlers send bytes that others made and pass commands on; they never lock and never touch the
state. Routes and the checks of Host and Origin are here; limits and deadlines in
`web/connection.py`, tokens and sessions in `web/gate.py`, the event stream in `web/stream.py`. The
page is `static/dashboard.html`, the contract `core/status.py`.
"""

import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs

from core.commands import Command, CommandError, parse
from core.ports import ConfigError, StoreError
from core.record import replace
from core.status import Published
from web.charts import read_charts
from web.connection import LINE_MAX, REQUEST_SEC, Request, Server
from web.gate import Gate, IdReused, Memory, Reply, access_problems, binding_problem
from web.history_views import HISTORY_VIEWS, ONE_OF, TABLES, History, one
from web.kelly_views import KELLY_VIEWS, KellyHistory
from web.message import (
    CSP_PAGE,
    Answer,
    Refusal,
    json_answer,
    kept,
    packed,
    read_body,
    retry_after,
    takes_gzip,
)
from web.metrics import Metrics, ServerFacts, StepTimes
from web.payoff import payoff
from web.recent import Recent
from web.stream import Streams, stream_answer

__all__ = ["Busy", "Dashboard", "DashboardHistory", "IdReused", "Reply", "access_problems"]

log = logging.getLogger("dashboard")

PAGE = Path(__file__).parent / "static" / "dashboard.html"
ANYWHERE = ("0.0.0.0", "::")  # every address of this machine
_POLL_SEC = 0.05  # how soon a stop is seen
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NONCE = b"{{nonce}}"


class DashboardHistory(History, KellyHistory, Protocol):
    """What the history routes read; every method is safe from any thread."""


class Busy(Exception):
    """The loop takes no command at the moment; ask again."""


T = TypeVar("T")
Submit = Callable[[str, Command, int | None], Reply]
Route = Callable[[Request, str], Answer | None]


class Dashboard:
    """The server: bound when constructed, serving once started.

    `published` returns the newest status or None; `readiness` the reason why not ready or None;
    `liveness` whether the loop lives; `submit` carries a command out within 2 s (may raise Busy and
    IdReused); `monotonic` measures deadlines; what follows it is for `/metrics`, but for `history`,
    which may be set later, once it is open. Raises ConfigError for an unsafe binding, and for an
    address or port that cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        token: str | None,
        read_only: bool,
        allowed_hosts: Sequence[str],
        published: Callable[[], Published | None],
        readiness: Callable[[], str | None],
        liveness: Callable[[], bool],
        submit: Submit,
        monotonic: Callable[[], float],
        step_age_sec: Callable[[], float | None] = lambda: None,
        publisher_errors: Callable[[], int] = int,
        step_times: Callable[[], StepTimes | None] = lambda: None,
        state_db: Path | None = None,
        history: DashboardHistory | None = None,
    ) -> None:
        problems = access_problems(host, token)
        if problems:
            raise ConfigError(problems)
        self.monotonic = monotonic
        self.refused = 0  # connections turned away
        self.is_stopping = False
        self.history = history
        self._read_only = read_only
        self._published = published
        self._readiness = readiness
        self._liveness = liveness
        self._submit = submit
        self._gate = Gate(token, monotonic)
        self._memory = Memory(monotonic)
        self._recent = Recent(monotonic)
        self._page = PAGE.read_bytes()
        if token is not None:
            self._page = self._page.replace(b'id="logout" hidden', b'id="logout"')
        self._charts = read_charts()
        self._streams = Streams(published, monotonic)
        self._step_age_sec, self._publisher_errors = step_age_sec, publisher_errors
        self._step_times, self._state_db = step_times, state_db
        self._metrics = Metrics(published, self._facts)
        try:
            self._server = Server(host, port, self)
        except (OSError, UnicodeError) as error:  # a name such as "a..b" cannot even be encoded
            raise ConfigError([binding_problem(host, port, error)]) from None
        self.port: int = self._server.server_address[1]
        names = {"127.0.0.1", "localhost", "[::1]"}
        if host not in ANYWHERE:  # there the name is one of `allowed_hosts`
            names |= {f"[{host}]" if ":" in host else host.lower()}
        own = {f"{name}:{self.port}" for name in names}
        named = {name.lower() for name in allowed_hosts}
        self._hosts = own | named | {f"{name}:{self.port}" for name in named if ":" not in name}
        self._cookie = f"grid_session_{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SEC,), name="dashboard", daemon=True
        )

    def start(self) -> None:
        """Begin to serve."""
        self._streams.start()
        self._thread.start()

    def hurry(self) -> None:
        """Have what was just published sent to the streams at once; never blocks."""
        self._streams.hurry()

    def stop(self) -> None:
        """Take no more connections, close the streams and release the port; others end soon."""
        self.is_stopping = True
        self._streams.stop()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(REQUEST_SEC)
        self._server.server_close()

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request whose head was read; raises a refusal.

        None when the connection became a stream.
        """
        if request.headers.get("Transfer-Encoding") is not None:
            raise Refusal(501, "Transfer-Encoding is not supported", closes=True)
        self._check_host(request)
        body = b""
        if request.command == "POST" or request.headers.get("Content-Length") is not None:
            body = request.body()
        path, _, query = request.target.partition("?")
        if request.command not in ("GET", "HEAD", "POST"):
            raise Refusal(405, "method not allowed", headers=(("Allow", "GET, HEAD, POST"),))
        if path in ("/api/action", "/login", "/logout"):
            is_removed = path == "/api/action" and self._read_only
            if request.command != "POST" or is_removed:
                allow = "" if is_removed else "POST"
                raise Refusal(405, "method not allowed", headers=(("Allow", allow),))
            return self._post(request, path, body)
        if len(query) > LINE_MAX // 4 or not (get := self._route(path)):
            raise Refusal(404, "not found")
        if request.command == "POST":
            raise Refusal(405, "method not allowed", headers=(("Allow", "GET, HEAD"),))
        if path.startswith("/api/") or path == "/metrics":
            self._check_session(request)
            _check_site(request)
        return get(request, query)

    def _route(self, path: str) -> Route | None:
        routes: dict[str, Route] = {
            "/": self._get_page,
            "/lightweight-charts.js": self._get_charts,
            "/metrics": lambda *_: self._metrics.answer(),
            "/healthz": self._get_health,
            "/readyz": self._get_readiness,
            "/api/status": self._get_status,
            "/api/stream": self._get_stream,
            "/api/payoff": self._get_payoff,
            **dict.fromkeys(HISTORY_VIEWS, self._get_history),
            **dict.fromkeys(TABLES, self._get_table),
            **{f"/api/kelly/{name}": self._get_kelly for name in KELLY_VIEWS},
        }
        parent, _, name = path.rpartition("/")
        if parent in ONE_OF and _ID.fullmatch(name):
            return self._get_one
        return routes.get(path)

    # ---- checks ---------------------------------------------------------------------------------

    def _check_host(self, request: Request) -> None:
        host = request.only("Host")
        if host is None:
            raise Refusal(400, "Host is missing", closes=True)
        if host.lower() not in self._hosts:
            raise Refusal(421, "not a name of this server", closes=True)

    def _check_session(self, request: Request) -> None:
        if self._gate.is_open:
            return
        presented = _bearer(request)
        if presented is not None:
            address = str(request.client_address[0])
            is_known = self._gate.token_is_right(presented, address)
        else:
            session = self._session(request)
            is_known = session is not None and self._gate.session_holds(session)
        if not is_known:
            raise Refusal(401, "log in first", headers=(("WWW-Authenticate", "Bearer"),))

    def _session(self, request: Request) -> str | None:
        for part in (request.only("Cookie") or "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                return value
        return None

    def _check_origin(self, request: Request, *, needed: bool) -> None:
        origin, host = request.only("Origin"), request.only("Host") or ""
        same = {f"{scheme}://{host.lower()}" for scheme in ("http", "https")}
        if needed if origin is None else origin.lower() not in same:
            raise Refusal(403, "not from this origin")
        _check_site(request)
        kind = (request.only("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "Content-Type must be application/json")

    # ---- reading --------------------------------------------------------------------------------

    def _get_page(self, request: Request, _query: str) -> Answer:
        nonce = secrets.token_urlsafe(18)
        answer = Answer(
            status=200,
            body=self._page.replace(_NONCE, nonce.encode()),
            content_type="text/html; charset=utf-8",
            csp=CSP_PAGE.format(nonce=nonce),
        )
        return packed(answer, request.headers.get("Accept-Encoding") or "")

    def _get_charts(self, request: Request, _query: str) -> Answer:
        if self._charts is None:
            raise Refusal(404, "not found")
        answer = kept(self._charts, request.headers, cache="no-cache")
        return replace(answer, content_type="text/javascript; charset=utf-8")

    def _get_health(self, _request: Request, _query: str) -> Answer:
        is_alive = self._liveness()
        return json_answer(200 if is_alive else 503, {"alive": is_alive})

    def _get_readiness(self, _request: Request, _query: str) -> Answer:
        reason = self._readiness()
        return json_answer(
            200 if reason is None else 503, {"ready": reason is None, "reason": reason}
        )

    def _facts(self) -> ServerFacts:
        return ServerFacts(
            is_alive=self._liveness(),
            is_ready=self._readiness() is None,
            step_age_sec=self._step_age_sec(),
            publisher_errors=self._publisher_errors(),
            streams=len(self._streams),
            streams_refused=self._streams.refused,
            connections_refused=self.refused,
            step_times=self._step_times(),
            state_db=self._state_db,
        )

    def _get_status(self, request: Request, _query: str) -> Answer:
        published = self._published()
        if published is None:
            reason = self._readiness() or "the first status"
            raise Refusal(503, f"not ready: {reason}", headers=retry_after(1))
        return kept(published, request.headers)

    def _get_stream(self, request: Request, _query: str) -> Answer | None:
        is_packed = takes_gzip(request.headers.get("Accept-Encoding") or "")
        if request.command == "HEAD":
            return stream_answer(is_packed=is_packed)
        session = None if self._gate.is_open or _bearer(request) else self._session(request)
        self._streams.open(
            request.connection,
            is_packed=is_packed,
            is_allowed=lambda: session is None or self._gate.session_holds(session),
        )
        return None

    def _get_history(self, request: Request, query: str) -> Answer:
        view = HISTORY_VIEWS[_path(request)]
        return self._shared(request, lambda: self._read(lambda history: view(history, query)))

    def _get_one(self, request: Request, query: str) -> Answer:
        parent, _, name = _path(request).rpartition("/")
        return _packed(request, self._read(lambda history: one(history, parent, name, query)))

    def _get_table(self, request: Request, query: str) -> Answer:
        path = _path(request)
        parts = self._read(lambda history: TABLES[path](history, query))
        name = path.rpartition("/")[2]
        answer = Answer(
            status=200,
            content_type="text/csv; charset=utf-8; header=present",
            headers=(("Content-Disposition", f'attachment; filename="{name}"'),),
            parts=parts,
        )
        if request.request_version == "HTTP/1.0":  # knows no chunks
            return replace(answer, is_endless=True, closes=True)
        return answer

    def _read(self, read: Callable[[DashboardHistory], T]) -> T:
        """Return what is read of the history; refused until it is open, and where it fails."""
        if self.history is None:
            raise Refusal(503, f"not ready: {self._readiness()}", headers=retry_after(1))
        try:
            return read(self.history)
        except StoreError as error:
            log.warning("history not read: %s", error)
            raise Refusal(503, "the history cannot be read", headers=retry_after(1)) from None

    def _get_kelly(self, request: Request, query: str) -> Answer:
        status, view = self._newest(), KELLY_VIEWS[_path(request).rpartition("/")[2]]
        told = self._read(lambda history: view(status, history, parse_qs(query)))
        return _packed(request, told)

    def _get_payoff(self, request: Request, _query: str) -> Answer:
        return self._shared(request, lambda: payoff(self._newest()))

    def _shared(self, request: Request, make: Callable[[], object]) -> Answer:
        """Return an answer that all who ask the same within a second get."""
        is_packed = takes_gzip(request.headers.get("Accept-Encoding") or "")
        key = f"{is_packed} {request.target}"
        return self._recent.answer(key, lambda: _packed(request, make()))

    def _newest(self) -> dict[str, Any]:
        """Return the newest status. Raises Refusal where there is none yet."""
        published = self._published()
        if published is None:
            raise Refusal(503, "not ready: the first status", headers=retry_after(1))
        status: dict[str, Any] = json.loads(published.body)
        return status

    # ---- acting ---------------------------------------------------------------------------------

    def _post(self, request: Request, path: str, body: bytes) -> Answer:
        if path == "/login":
            self._check_origin(request, needed=False)
            return self._log_in(request, read_body(body))
        self._check_session(request)
        self._check_origin(request, needed=self._gate.is_open or _bearer(request) is None)
        if path == "/api/action":
            return self._act(read_body(body))
        session = self._session(request)
        if session is not None:
            self._gate.close_session(session)
        gone = f"{self._cookie}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0"
        return json_answer(200, {"message": "logged out"}, headers=(("Set-Cookie", gone),))

    def _log_in(self, request: Request, values: Mapping[str, Any]) -> Answer:
        token = values.get("token")
        if self._gate.is_open:
            raise Refusal(409, "no token is set: there is nothing to log in to")
        if not isinstance(token, str) or len(values) != 1:
            raise Refusal(400, "token must be text, and the only field", field="token")
        if not self._gate.token_is_right(token, str(request.client_address[0])):
            raise Refusal(401, "that is not the token")
        cookie = f"{self._cookie}={self._gate.open_session()}; HttpOnly; SameSite=Strict; Path=/"
        if (request.only("Origin") or "").lower().startswith("https:"):
            cookie += "; Secure"
        return json_answer(200, {"message": "logged in"}, headers=(("Set-Cookie", cookie),))

    def _act(self, values: dict[str, Any]) -> Answer:
        command_id = values.pop("id", None)
        version = values.pop("expect_version", None)
        if command_id is None:
            command_id = secrets.token_hex(12)
        if not isinstance(command_id, str) or not _ID.fullmatch(command_id):
            raise Refusal(400, "id must be 1 to 64 of A-Z a-z 0-9 _ -", field="id")
        if version is not None and (type(version) is not int or version < 0):
            raise Refusal(400, "expect_version must be a whole number", field="expect_version")
        try:
            command = parse(values)
            reply = self._memory.once(
                command_id, command, lambda: self._submit(command_id, command, version)
            )
        except CommandError as error:
            raise Refusal(400, str(error), field=error.field[:40]) from None
        except IdReused:
            said = "this id was used for another command; send this one under a new id"
            raise Refusal(409, said, field="id") from None
        except (Busy, TimeoutError):
            raise Refusal(503, "busy; ask again", headers=retry_after(1)) from None
        log.info("command %s id=%s status=%d", values["action"], command_id, reply.status)
        if reply.field:
            raise Refusal(reply.status, reply.message, field=reply.field)
        outcome = {"accepted": reply.status == HTTPStatus.OK, "message": reply.message}
        ids = {"command_id": reply.command_id, "changed": reply.changed}
        return json_answer(reply.status, outcome | ids)


def _check_site(request: Request) -> None:
    """Refuse what a browser says another site's page asked for; that page must not cost us work."""
    if request.only("Sec-Fetch-Site") not in (None, "same-origin", "none"):
        raise Refusal(403, "not from this origin")


def _bearer(request: Request) -> str | None:
    scheme, _, token = (request.only("Authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _path(request: Request) -> str:
    return request.target.partition("?")[0]


def _packed(request: Request, value: object) -> Answer:
    return packed(json_answer(200, value), request.headers.get("Accept-Encoding") or "")
