"""The line between daemon and venue in a simulated world: it carries signed bytes, and misbehaves.

It stands where `exchange.kraken.KrakenClient` stands; requests are made and answers read by the
same wire code. What befalls a request is drawn from the weather (`storm_weather.py`).
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode

from exchange.kraken_records import Answer
from exchange.kraken_wire import decode_secret, form, read_answer, sign
from exchange.nonce import NonceExhausted, Nonces
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_faults import Fault, FaultKind
from exchange.sandbox_orders import ENTRIES, check_deadline
from exchange.sandbox_params import read_body, rfc3339
from exchange.sandbox_venue import SandboxVenue
from leg import DEADLINE_SEC
from settings.table import DEMO_KEY, DEMO_SECRET
from sim.storm_clock import Clock
from sim.storm_weather import MARKET, REQUESTS, Weather

TIMEOUT_SEC = 8.0
STALL_MAX_SEC = 40.0
STALE_SEC = 90.0  # how long a price may stand still: longer than the daemon trusts it
Reply = tuple[int, bytes]
# What the venue is made to answer, in its own words.
TEXTS = {
    "rate_limit": "EAPI:Rate limit exceeded",
    "nonce_error": "EAPI:Invalid nonce",
    "unknown_error": "EGrid:Never heard of it",
    "unavailable_before": "EService:Unavailable",
}
REFUSALS = {
    "post_only_reject": "EOrder:Post only order",
    "insufficient_funds": "EOrder:Insufficient funds",
    "below_minimum": "EOrder:Order minimum not met",
}
ENDINGS = ("Post only order", "Self trade prevention", "Insufficient funds")
ODD_RESULTS: tuple[dict[str, Any], ...] = (
    {"txid": []},
    {"txid": ["OAAAAA-BBBBB-CCCCCC", "OAAAAA-BBBBB-DDDDDD"]},
    {"txid": [17]},
    {"descr": {}},
)


class Line:
    """Carries calls from the daemon's `clock` to the venue, as badly as `weather` says.

    `watch` sees every private call before it is carried, `point` each instant at which the process
    may die; `note` is told what came of a call.
    """

    def __init__(self, venue: SandboxVenue, clock: Clock, rng: random.Random) -> None:
        self.weather = Weather()
        self.nonces = Nonces(clock.ns, 0)
        self.count = 0
        self.seen: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.watch: Callable[[str, Mapping[str, object]], None] = lambda *_: None
        self.point: Callable[[str], None] = lambda _: None
        self.note: Callable[[str, str, Answer], None] = lambda *_: None
        self.last_nonce = 0
        self.has_fallen = False
        self._venue, self._clock, self._rng = venue, clock, rng
        self._secret = decode_secret(DEMO_SECRET)
        self._waiting: list[tuple[float, Callable[[float], None]]] = []
        self._stale_until = 0.0
        self._shown: dict[str, Reply] = {}  # what was last told of the market, by path

    def close(self) -> None:
        """Do nothing: a call in flight ends with the process."""

    # ---- private calls ------------------------------------------------------------------------

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Carry a private call."""
        self.count += 1
        self.watch(method, params)
        path = f"/0/private/{method}"
        try:
            number = self.nonces.next()
        except NonceExhausted as error:
            return Answer(fault=str(error), was_sent=False)
        self.has_fallen |= number <= self.last_nonce
        self.last_nonce, nonce = number, str(number)
        fault = self._draw(REQUESTS, method)
        if fault == "page_shift":
            params = _shifted(params, self._rng.choice((-1, 1)))
        body = urlencode({**form(params), "nonce": nonce})
        headers = {
            "api-key": DEMO_KEY,
            "api-sign": sign(self._secret, path, nonce, body),
            "content-type": "application/x-www-form-urlencoded",
        }
        self._clock.pass_(0.05 + self._rng.random() * 0.2)
        self.point(f"before {method}")
        answer = self._carry(fault, path, headers, body.encode())
        for text in answer.errors:
            self.errors[text] = self.errors.get(text, 0) + 1
        self.note(method, fault, answer)
        self.point(f"after {method}")
        return answer

    def next_time(self) -> float:
        """Return when something that has waited arrives, by the venue's clock."""
        return min((at for at, _ in self._waiting), default=math.inf)

    def deliver(self) -> None:
        """Bring what has waited to the venue, each at its time; nobody hears the answers."""
        now = self._clock.there()
        due = sorted((x for x in self._waiting if x[0] <= now), key=lambda x: x[0])
        self._waiting = [x for x in self._waiting if x[0] > now]
        for at, arrive in due:
            arrive(max(at, self._venue.now))

    def _stall(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Let a request pass the gate, nonce and all, and wait inside the venue."""
        self.deliver()
        venue, name, now = self._venue, path.rsplit("/", maxsplit=1)[1], self._clock.there()
        if name not in ENTRIES:
            venue.answer("POST", path, headers, body, now)
            return
        params = read_body(headers["content-type"], body)
        bare = dict(parse_qsl(body.decode()))
        bare.pop("deadline", None)
        inside = read_body(headers["content-type"], urlencode(bare).encode())
        venue.advance(now)
        with suppress(SandboxError):
            venue.gate.admit(path, headers, body, params, now)
            check_deadline(params, now)
            deadline = rfc3339(params, "deadline") or math.inf

            def enter(at: float) -> None:
                venue.advance(at)
                if at <= deadline:  # what remains of the check, once it has passed the gate
                    with suppress(SandboxError):
                        ENTRIES[name](venue.account, inside, at)

            self._waiting.append((now + self._long(), enter))

    def _wait(self, seconds: float, path: str, headers: dict[str, str], body: bytes) -> None:
        """Let a request wait before the gate."""

        def ask(at: float) -> None:
            self._venue.answer("POST", path, headers, body, at)

        self._waiting.append((self._clock.there() + seconds, ask))

    def _long(self) -> float:
        """Return longer than the client waits, half of the time just within the deadline."""
        if self._rng.random() < 0.5:
            return max(TIMEOUT_SEC, DEADLINE_SEC - self._rng.expovariate(2.0))
        return self._rng.uniform(TIMEOUT_SEC, STALL_MAX_SEC)

    def _draw(self, kinds: Mapping[str, float], method: str) -> str:
        for name in kinds:
            rate = self.weather.rates.get(name)
            if rate is not None and self._rng.random() < rate and befalls(name, method):
                self.seen[name] = self.seen.get(name, 0) + 1
                return name
        return ""

    def _carry(self, fault: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        clock, rng = self._clock, self._rng

        def told() -> Reply:
            self.deliver()
            return self._venue.answer("POST", path, headers, body, clock.there())

        lost = Answer(fault="no answer in time")
        match fault:
            case "lost_request":
                clock.pass_(TIMEOUT_SEC)
                return lost
            case "lost_response":
                told()
                clock.pass_(TIMEOUT_SEC)
                return lost
            case "replayed":
                told()
            case "echoed":
                self._wait(1.0 + rng.random() ** 2 * 24.0, path, headers, body)
            case "late":
                self._wait(self._long(), path, headers, body)
                clock.pass_(TIMEOUT_SEC)
                return lost
            case "stalled":
                self._stall(path, headers, body)
                clock.pass_(TIMEOUT_SEC)
                return lost
            case "slow":
                clock.pass_(1.0 + rng.random() * 3.0)
                reply = told()
                clock.pass_(rng.random() * 3.0)
                return read_answer(*reply)
            case "ended":
                fate = Fault(kind=FaultKind.ENDED, count=1, text=rng.choice(ENDINGS))
                self._venue.faults.add(fate)
            case "lockout":
                self._venue.faults.add(Fault(kind=FaultKind.LOCKOUT, count=1))
            case "error_before":
                return read_answer(502, b"<html>bad gateway</html>")
            case "rate_limit" | "nonce_error" | "unavailable_before":
                return read_answer(200, _error(TEXTS[fault]))
            case "post_only_reject" | "insufficient_funds" | "below_minimum":
                return read_answer(200, _error(REFUSALS[fault]))
        return read_answer(*_changed(fault, told(), rng))

    # ---- public calls -------------------------------------------------------------------------

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Carry a public call."""
        query = urlencode(form(params))
        path = f"/0/public/{method}" + (f"?{query}" if query else "")
        self._clock.pass_(0.02 + self._rng.random() * 0.1)
        fault = self._draw(MARKET, method)
        if fault == "stale_price":
            self._stale_until = self._clock.there() + self._rng.uniform(10.0, STALE_SEC)
        if fault == "market_lost":
            self._clock.pass_(TIMEOUT_SEC)
            answer = Answer(fault="no answer in time")
        elif fault == "market_error":
            answer = read_answer(503, b"<html>unavailable</html>")
        else:
            answer = read_answer(*self._told_of_market(fault, method, path))
        self.note(method, fault, answer)
        return answer

    def _told_of_market(self, fault: str, method: str, path: str) -> Reply:
        self.deliver()
        now = self._clock.there()
        is_price = method in ("Depth", "Trades", "Ticker")
        if is_price and now < self._stale_until and path in self._shown:
            return self._shown[path]
        reply = self._venue.answer("GET", path, {}, b"", now)
        if is_price:
            self._shown[path] = reply
        return reply if not fault else (reply[0], _bent(fault, reply[1], self._rng))


def befalls(fault: str, method: str) -> bool:
    """Tell whether a kind can happen to a call of that method at all."""
    methods = {
        **dict.fromkeys(("ended", *REFUSALS), ("AddOrder",)),
        "shuffled": ("TradesHistory", "ClosedOrders", "OpenOrders", "QueryOrders", "Ledgers"),
        "page_shift": ("TradesHistory", "ClosedOrders", "Ledgers"),
        **dict.fromkeys(("crossed_book", "one_sided_book", "zero_price"), ("Depth",)),
        "absurd_price": ("Depth",),
        "stale_price": ("Depth",),
        **dict.fromkeys(("candle_gap", "candle_correction"), ("OHLC",)),
    }
    return method in methods.get(fault, (method,))


def _shifted(params: Mapping[str, object], by: int) -> Mapping[str, object]:
    """Return parameters that ask for a page as if rows had come or gone since the one before."""
    offset = int(str(params.get("ofs", 0)))
    return {**params, "ofs": max(0, offset + by)} if offset else params


def _error(text: str) -> bytes:
    return json.dumps({"error": [text]}).encode()


def _changed(fault: str, reply: Reply, rng: random.Random) -> Reply:
    """Return the answer of a request that was executed, as it arrives."""
    status, body = reply
    match fault:
        case "error_after":
            return 520, b"<html>unknown</html>"
        case "html":
            return 200, b"<html>just a moment</html>"
        case "truncated":
            return status, body[: len(body) // 2]
        case "null_result":
            return status, b'{"error":[],"result":null}'
        case "odd_result":
            return status, json.dumps({"error": [], "result": rng.choice(ODD_RESULTS)}).encode()
        case "unknown_error":
            return status, _error(TEXTS[fault])
        case "unavailable_after":
            return status, _error("EService:Unavailable")
        case "shuffled":
            return status, _shuffled(body, rng)
    return reply


def _shuffled(body: bytes, rng: random.Random) -> bytes:
    """Return an answer with the rows of its lists in another order."""
    told = json.loads(body)
    result = told.get("result")
    if not isinstance(result, dict):
        return body
    for name, rows in result.items():
        if isinstance(rows, dict):
            keys = list(rows)
            rng.shuffle(keys)
            result[name] = {key: rows[key] for key in keys}
    return json.dumps(told).encode()


def _bent(fault: str, body: bytes, rng: random.Random) -> bytes:
    """Return what is told of the market, made absurd."""
    told = json.loads(body)
    result = told.get("result")
    if not isinstance(result, dict):
        return body
    for rows in result.values():
        if isinstance(rows, dict):
            _bend_book(fault, rows, rng)
        elif isinstance(rows, list) and rows and fault.startswith("candle"):
            place = rng.randrange(len(rows))
            if fault == "candle_gap":
                del rows[place]
            else:
                rows[place][4] = rows[place][2]  # it closed at its high after all
    return json.dumps(told).encode()


def _bend_book(fault: str, book: dict[str, list[list[Any]]], rng: random.Random) -> None:
    match fault:
        case "crossed_book":
            book["asks"], book["bids"] = book["bids"], book["asks"]
        case "one_sided_book":
            book[rng.choice(("asks", "bids"))] = []
        case "zero_price":
            for row in book["bids"]:
                row[0] = "0.0"
        case "absurd_price":
            factor = rng.choice((10.0, 0.1, 3.0, 0.5))
            for row in (*book["asks"], *book["bids"]):
                row[0] = f"{float(row[0]) * factor:.7f}"
