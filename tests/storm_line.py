"""The line between desk and venue in a simulated world: it carries signed bytes, and misbehaves.

Here are also the clocks of both ends. The world that uses them is in `tests/kraken_world.py`.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from core.record import Record
from exchange.kraken_records import Answer
from exchange.kraken_wire import decode_secret, form, read_answer, sign
from exchange.nonce import NonceExhausted, Nonces
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_faults import Fault, FaultKind
from exchange.sandbox_orders import ENTRIES
from exchange.sandbox_params import read_body
from exchange.sandbox_venue import SandboxVenue
from settings.table import DEMO_KEY, DEMO_SECRET

START = 1_700_000_000.0
TIMEOUT_SEC = 8.0
WALL_ERROR_SEC = 1.5


class Crash(BaseException):
    """The process ends here, without another instruction."""


class Clock:
    """The daemon's time, and the exchange's: `offset` ahead of it."""

    def __init__(self) -> None:
        self.now = START
        self.offset = 0.0
        self._moved = 0.0  # by how much the daemon has moved its clock on since it runs

    def __call__(self) -> float:
        return self.now

    def ns(self) -> int:
        """Return the time in nanoseconds."""
        return int(self.now * 1e9)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def there(self) -> float:
        """Return the exchange's time."""
        return self.now + self.offset

    def forward(self, seconds: float) -> None:
        """Move the daemon's clock on; the exchange's time stays."""
        self._move(seconds)
        self._moved += seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass that the daemon's clock does not count: the machine sleeps."""
        self.pass_(seconds)
        self.forward(-seconds)

    def restart(self) -> None:
        """Begin anew at the machine's time of day, which has never been moved nor slept."""
        self._move(-self._moved)
        self._moved = 0.0
        if abs(self.offset) >= WALL_ERROR_SEC:  # else a start is refused, and someone sets it
            self._move(self.offset)

    def _move(self, seconds: float) -> None:
        self.now += seconds
        self.offset -= seconds


class Faults(Record, frozen=True, kw_only=True):
    """Chances per request, and per step for a crash."""

    lost_request: float = 0.0
    lost_response: float = 0.0
    replayed: float = 0.0  # by something in between: both copies arrive, the second answers
    echoed: float = 0.0  # a copy of it arrives some seconds later
    late: float = 0.0  # it waits before the exchange, longer than the client does
    stalled: float = 0.0  # it has passed the gate and waits inside the exchange
    error_before: float = 0.0
    error_after: float = 0.0
    html: float = 0.0
    unavailable_before: float = 0.0
    unavailable_after: float = 0.0
    ended: float = 0.0  # the exchange takes the order and ends it for what others are refused for
    slow: float = 0.0  # the answer is good and takes seconds
    crash: float = 0.0


CALM = Faults()
STORM = Faults(
    lost_request=0.02,
    lost_response=0.03,
    replayed=0.02,
    echoed=0.05,
    late=0.02,
    stalled=0.02,
    error_before=0.01,
    error_after=0.01,
    html=0.01,
    unavailable_before=0.01,
    unavailable_after=0.02,
    ended=0.02,
    slow=0.03,
    crash=0.012,
)


class Line:
    """The line to the venue: signs as the client does, and misbehaves as told."""

    def __init__(self, venue: SandboxVenue, clock: Clock, rng: random.Random) -> None:
        self.faults = CALM
        self.nonces = Nonces(clock.ns, 0)
        self.count = 0
        self.seen: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.watch: Callable[[str, Mapping[str, object]], None] = lambda *_: None
        self.last_nonce = 0
        self.has_fallen = False
        self._venue, self._clock, self._rng = venue, clock, rng
        self._secret = decode_secret(DEMO_SECRET)
        self._waiting: list[tuple[float, str, dict[str, str], bytes]] = []
        self._stalled: list[tuple[float, str, Any]] = []

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
        body = urlencode({**form(params), "nonce": nonce})
        headers = {
            "api-key": DEMO_KEY,
            "api-sign": sign(self._secret, path, nonce, body),
            "content-type": "application/x-www-form-urlencoded",
        }
        self._clock.pass_(0.05 + self._rng.random() * 0.2)
        self._crash()
        fault = self._draw()
        answer = self._carry(fault, path, headers, body.encode())
        for text in answer.errors:
            self.errors[text] = self.errors.get(text, 0) + 1
        self._crash()
        return answer

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Carry a public call; the public side is calm."""
        query = urlencode(form(params))
        path = f"/0/public/{method}" + (f"?{query}" if query else "")
        return read_answer(*self._venue.answer("GET", path, {}, b"", self._clock.there()))

    def deliver(self) -> None:
        """Bring what has waited to the venue; nobody hears the answer."""
        due = [x for x in self._waiting if x[0] <= self._clock.there()]
        self._waiting = [x for x in self._waiting if x not in due]
        for _, path, headers, body in due:
            self._venue.answer("POST", path, headers, body, self._clock.there())
        ready = [x for x in self._stalled if x[0] <= self._clock.there()]
        self._stalled = [x for x in self._stalled if x not in ready]
        for _, name, params in ready:
            self._venue.advance(self._clock.there())
            with suppress(SandboxError):
                ENTRIES[name](self._venue.account, params, self._clock.there())

    def _stall(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Let a request pass the gate, nonce and all, and wait inside the venue."""
        venue, name = self._venue, path.rsplit("/", maxsplit=1)[1]
        if name not in ENTRIES:
            venue.answer("POST", path, headers, body, self._clock.there())
            return
        params = read_body(headers["content-type"], body)
        venue.advance(self._clock.there())
        with suppress(SandboxError):
            venue.gate.admit(path, headers, body, params, self._clock.there())
            due = self._clock.there() + 9.0 + self._rng.random() * 16.0
            self._stalled.append((due, name, params))

    def _crash(self) -> None:
        if self._rng.random() < self.faults.crash:
            raise Crash

    def _draw(self) -> str:
        for name in Faults.__struct_fields__:
            if name != "crash" and self._rng.random() < getattr(self.faults, name):
                self.seen[name] = self.seen.get(name, 0) + 1
                return name
        return ""

    def _carry(self, fault: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        clock, venue = self._clock, self._venue

        def told() -> Answer:
            return read_answer(*venue.answer("POST", path, headers, body, clock.there()))

        match fault:
            case "lost_request":
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
            case "lost_response":
                told()
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
            case "replayed":
                told()
                return told()
            case "echoed":
                wait = 1.0 + self._rng.random() ** 2 * 24.0
                self._waiting.append((clock.there() + wait, path, headers, body))
                return told()
            case "late":
                wait = 9.0 + self._rng.random() * 31.0
                self._waiting.append((clock.there() + wait, path, headers, body))
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
            case "stalled":
                self._stall(path, headers, body)
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
            case "slow":
                clock.pass_(1.0 + self._rng.random() * 3.0)
                answer = told()
                clock.pass_(self._rng.random() * 3.0)
                return answer
            case "ended":
                words = self._rng.choice(("Post only order", "Self trade prevention"))
                venue.faults.add(Fault(kind=FaultKind.ENDED, count=1, text=words))
                return told()
            case "error_before":
                return read_answer(502, b"<html>bad gateway</html>")
            case "error_after":
                told()
                return read_answer(520, b"<html>unknown</html>")
            case "html":
                told()
                return read_answer(200, b"<html>just a moment</html>")
            case "unavailable_before":
                return read_answer(200, b'{"error":["EService:Unavailable"]}')
            case "unavailable_after":
                told()
                return read_answer(200, b'{"error":["EService:Unavailable"]}')
        return told()
