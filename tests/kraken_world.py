"""A daemon's core against the sandbox, in one process on a clock that only the test moves.

Runtime, loop, desk, store, signatures and the venue are the real ones; only the line between desk
and venue is a double: it carries the signed bytes and can lose, delay and repeat them. A crash
throws everything away but the store, as a killed process would.
"""

import random
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from core import events as e
from core.commands import Command, Resume
from core.domain import Instrument
from core.market import Candle
from core.order_id import bot_tag
from core.params import Params
from core.ports import Message, Unavailable
from core.record import Record
from engine.clock import Pacer
from engine.loop import Loop
from engine.runtime import Runtime
from exchange.kraken_budget import Budget
from exchange.kraken_desk import Desk, DeskConfig
from exchange.kraken_exchange import KrakenExchange
from exchange.kraken_records import Answer
from exchange.kraken_start import Start, read_start
from exchange.kraken_wire import decode_secret, form, read_answer, sign
from exchange.matching import MatchingConfig
from exchange.nonce import Nonces
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_orders import ENTRIES
from exchange.sandbox_params import read_body
from exchange.sandbox_records import ApiKey
from exchange.sandbox_venue import SandboxConfig, SandboxVenue
from settings.table import DEMO_KEY, DEMO_SECRET
from store.memory import MemoryStore

START = 1_700_000_000.0
TAG = bot_tag("test", "DOGE/USD")
EPOCH = 5
TIMEOUT_SEC = 8.0
FRESH_SEC = 20.0
PARAMS = Params(
    slot_count=3,
    entry_pct=Decimal("0.3"),
    profit_pct=Decimal("1.2"),
    order_size_usd=Decimal(20),
    open_order_limit=225,
    stale_price_max_age_sec=60.0,
    is_simulated=False,
)


class Crash(BaseException):
    """The process ends here, without another instruction."""


class Clock:
    """The time of everybody in the world."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def ns(self) -> int:
        """Return the time in nanoseconds."""
        return int(self.now * 1e9)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Lively:
    """A driftless market of short candles, endless and seeded: wide enough that orders fill."""

    name, fingerprint, price_interval = "a lively market", "", 1.0

    def __init__(self, seed: int, *, step_pct: float = 0.25, interval: float = 2.0) -> None:
        self._seed, self._step, self._interval = seed, step_pct / 100, interval

    def first_price(self) -> Decimal:
        """Return the opening price."""
        return Decimal("0.1")

    def start_time(self) -> float:
        """Return when the market begins."""
        return START

    def total(self) -> int | None:
        """Return None: it never ends."""
        return None

    def read(self, skip: int) -> Any:
        """Yield candles."""
        rng, price, number = random.Random(self._seed), 0.1, 0
        while True:
            path = [price]
            for _ in range(3):
                path.append(path[-1] * (1 + rng.gauss(0, self._step)))
            price = path[-1] + (0.1 - path[-1]) * 0.02
            path[-1] = price
            if number >= skip:
                yield Candle(
                    time=START + number * self._interval,
                    interval=self._interval,
                    open=Decimal(f"{path[0]:.7f}"),
                    high=Decimal(f"{max(path):.7f}"),
                    low=Decimal(f"{min(path):.7f}"),
                    close=Decimal(f"{path[-1]:.7f}"),
                    volume=Decimal(200_000),
                )
            number += 1


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
    crash=0.012,
)


class Line:
    """The line to the venue: signs as the client does, and misbehaves as told."""

    def __init__(self, venue: SandboxVenue, clock: Clock, rng: random.Random) -> None:
        self.faults = CALM
        self.nonces = Nonces(clock.ns, 0)
        self.count = 0
        self.seen: dict[str, int] = {}
        self._venue, self._clock, self._rng = venue, clock, rng
        self._secret = decode_secret(DEMO_SECRET)
        self._waiting: list[tuple[float, str, dict[str, str], bytes]] = []
        self._stalled: list[tuple[float, str, Any]] = []

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Carry a private call."""
        self.count += 1
        path = f"/0/private/{method}"
        nonce = str(self.nonces.next())
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
        self._crash()
        return answer

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Carry a public call; the public side is calm."""
        query = urlencode(form(params))
        path = f"/0/public/{method}" + (f"?{query}" if query else "")
        return read_answer(*self._venue.answer("GET", path, {}, b"", self._clock.now))

    def deliver(self) -> None:
        """Bring what has waited to the venue; nobody hears the answer."""
        due = [x for x in self._waiting if x[0] <= self._clock.now]
        self._waiting = [x for x in self._waiting if x not in due]
        for _, path, headers, body in due:
            self._venue.answer("POST", path, headers, body, self._clock.now)
        ready = [x for x in self._stalled if x[0] <= self._clock.now]
        self._stalled = [x for x in self._stalled if x not in ready]
        for _, name, params in ready:
            self._venue.advance(self._clock.now)
            with suppress(SandboxError):
                ENTRIES[name](self._venue.account, params, self._clock.now)

    def _stall(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Let a request pass the gate, nonce and all, and wait inside the venue."""
        venue, name = self._venue, path.rsplit("/", maxsplit=1)[1]
        if name not in ENTRIES:
            venue.answer("POST", path, headers, body, self._clock.now)
            return
        params = read_body(headers["content-type"], body)
        venue.advance(self._clock.now)
        with suppress(SandboxError):
            venue.gate.admit(path, headers, body, params, self._clock.now)
            due = self._clock.now + 9.0 + self._rng.random() * 16.0
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
            return read_answer(*venue.answer("POST", path, headers, body, clock.now))

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
                self._waiting.append((clock.now + wait, path, headers, body))
                return told()
            case "late":
                wait = 9.0 + self._rng.random() * 31.0
                self._waiting.append((clock.now + wait, path, headers, body))
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
            case "stalled":
                self._stall(path, headers, body)
                clock.pass_(TIMEOUT_SEC)
                return Answer(fault="no answer in time")
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


class Inline(KrakenExchange):
    """The live exchange without its thread: the loop drives the desk, on the world's clock."""

    world: "World"
    tick_sec = 1.0
    _tick_at = 0.0

    def horizon(self) -> None:  # type: ignore[override]  # simulated time has no bound
        """Return None: time is simulated."""

    def next_time(self) -> float:
        """Return when the desk, the line or the market has something."""
        waiting = super().next_time()
        if waiting is not None:
            return waiting
        return max(self._clock(), min(self._desk_at, self._tick_at))

    _desk_at = 0.0

    def advance(self, to: float) -> tuple[Message, ...]:
        """Work until nothing is due."""
        clock = self.world.clock
        clock.now = max(clock.now, to)
        if clock.now >= self._tick_at:
            self.world.show_quote()
            self._tick_at = clock.now + self.tick_sec
        self.world.line.deliver()
        if clock.now >= self.world.until:
            self.world.loop.stop()
        self.world.operate()
        if self._is_back:
            self._is_back = False
            self.desk.begin()
        self._desk_at = self.desk.step()
        self._tell_health()
        return super().advance(to)

    def begin(self, state: Any) -> None:
        """Begin as `start` does, without a thread."""
        self.reserve_nonces()
        self.desk.resume_from(state)
        self.desk.begin()
        self._tell_health()


class World:
    """One account at the venue, one bot with its store."""

    desk_class: type[Desk] = Desk

    def __init__(
        self,
        seed: int = 1,
        *,
        params: Params = PARAMS,
        lag: float = 0.0,
        config: DeskConfig | None = None,
        nonce_window: int = 0,
        step_pct: float = 0.25,
        has_ledger: bool = False,
    ) -> None:
        self.clock, self.rng = Clock(), random.Random(seed)
        self.params = params
        self.config = config or DeskConfig(poll_sec=5.0, has_ledger=has_ledger)
        key = ApiKey(name="bot", key=DEMO_KEY, secret=DEMO_SECRET, nonce_window=nonce_window)
        self.venue = SandboxVenue(
            Lively(seed, step_pct=step_pct), Instrument(),
            MatchingConfig(seed=seed, tier="pro", bar_grace_sec=0.2), (key,), now=START,
            config=SandboxConfig(
                start_base=Decimal(5000), start_quote=Decimal(500),
                lags={"": lag} if lag else {}, is_lag_random=True,
            ),
        )  # fmt: skip
        self.line = Line(self.venue, self.clock, random.Random(seed + 1))
        self.store = MemoryStore(epoch=EPOCH)
        self.clock.pass_(60.0)  # the account is older than any lag
        self.crashes = 0
        self.halts: list[str] = []
        self.until = 0.0

    # ---- running ------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Run for so long, starting again after every crash."""
        self.until = self.clock.now + seconds
        while self.clock.now < self.until:
            try:
                self.live()
            except Crash:
                self.crashes += 1
                self.clock.pass_(1.0 + self.rng.random() * 5.0)
            except Unavailable:  # the start waits and tries again
                self.clock.pass_(10.0)

    def live(self) -> None:
        """Run one life of the process, to its end or a crash."""
        facts = self._start()
        self.runtime = Runtime(self.store, None, None, code="test")
        ceiling = int(self.store.identity()[1].get("nonce_ceiling", "0"))
        nonces = Nonces(self.clock.ns, ceiling)
        self.line.nonces = nonces
        self.exchange = self._exchange(facts, nonces)
        self.runtime.exchange = self.exchange
        self.runtime.restore()
        self.runtime.on_commit = self._on_commit
        self.loop = Loop(self.runtime, self.exchange, pacer=Pacer(None))
        self.runtime.start(facts.venue, self.params, now=self.clock.now, bot_tag=TAG)
        self.after_start(self.runtime.state)
        self.exchange.begin(self.runtime.state)
        self.loop.run()

    def after_start(self, state: Any) -> None:
        """Do nothing; a variant may."""

    def show(self, _event: e.Event) -> bool:
        """Return True: every event is told; a variant may keep some back."""
        return True

    def run_on(self, seconds: float) -> None:
        """Let the present life of the process go on for so long."""
        self.until = self.clock.now + seconds
        self.loop.stopping.clear()
        self.loop.run()

    def plunge(self) -> None:
        """Let the market print far below everything, once."""
        at = self.clock.now
        self.venue.feed(
            Candle(
                time=at, interval=0.5, open=Decimal("0.1"), high=Decimal("0.1"),
                low=Decimal("0.08"), close=Decimal("0.0995"), volume=Decimal(10**7),
            )
        )  # fmt: skip

    def command(self, command: Command) -> None:
        """Let the operator command."""
        self.runtime.step(
            e.CommandReceived(
                time=self.clock.now, command_id=f"test{self.clock.now}", command=command
            )
        )

    def tell_status(self, status: str) -> None:
        """Set the venue's status, and let the feed tell of it."""
        self.venue.set_status(status)
        self.exchange.post(e.HealthChanged(time=self.clock.now, system_status=status))

    def _on_commit(self, state: Any) -> None:
        self.exchange.watch(state)
        if self.rng.random() < self.line.faults.crash / 2:
            raise Crash

    def _start(self) -> Start:
        faults, self.line.faults = self.line.faults, CALM
        self.line.nonces = Nonces(
            self.clock.ns, int(self.store.identity()[1].get("nonce_ceiling", "0"))
        )
        wanted = self.line.nonces.wanted()
        if wanted is not None:
            self.store.keep_fact("nonce_ceiling", str(wanted))
            self.line.nonces.extend(wanted)
        try:
            return read_start(self.line, "XDGUSD", tag=TAG, epoch=EPOCH, clock=self.clock)
        finally:
            self.line.faults = faults

    def _exchange(self, facts: Start, nonces: Nonces) -> Inline:
        holder: dict[str, Any] = {}

        def post(event: e.Event) -> None:
            if self.show(event):
                holder["exchange"].post(event)

        desk = self.desk_class(
            self.line, Budget("pro"), facts.pair, tag=TAG, epoch=EPOCH, config=self.config,
            clock=self.clock, pause=self.clock.pass_, post=post, booked=self.booked,
        )  # fmt: skip
        desk.offset_error_sec = 0.5
        exchange = Inline(
            desk, facts.venue, nonces, None, clock=self.clock, forward=self.clock.pass_,
            reserve=lambda x: self.store.keep_fact("nonce_ceiling", str(x)), abort=lambda: None,
        )  # fmt: skip
        exchange.world = self
        holder["exchange"] = exchange
        return exchange

    def operate(self) -> None:
        """Do as an operator would who has looked: resume after a halt for nonces, and count it.

        With a line that repeats requests they are to be expected; every other halt is an error.
        """
        state = self.runtime.state
        if state.mode != "halted":
            return
        self.halts.append(state.mode_reason)
        self.command(Resume())

    def booked(self, ids: Any) -> set[str]:
        """Return those executions that the store has."""
        return set(ids) & set(self.store.execution_ids())

    def show_quote(self) -> None:
        """Let the feed bring the venue's present quote."""
        self.venue.advance(self.clock.now)
        quote = self.venue.account.engine.quote()
        if quote is not None:
            self.exchange.post(
                e.PriceTick(time=self.clock.now, bid=quote.bid, ask=quote.ask, last=quote.last)
            )

    # ---- the oracle ---------------------------------------------------------------------------

    def settle(self, seconds: float = 300.0) -> None:
        """Stop all faults and let everything come to rest."""
        self.line.faults = CALM
        self.run(seconds)

    def wrong_but_for(self, txid: str) -> list[str]:
        """Return what is wrong, leaving out that an order of somebody else has no owner here."""
        return [x for x in self.wrong() if x != f"orders {[txid]} have no owner"]

    def wrong(self) -> list[str]:
        """Return everything that the venue's own truth says is wrong; empty if all is well.

        What has executed in the last seconds cannot have been heard of yet.
        """
        truth, state = self.venue.truth(), self.runtime.state
        found: list[str] = []
        booked = set(self.store.execution_ids())
        fresh = [x for x in truth.trades
                 if x.time > self.clock.now - FRESH_SEC and x.trade_id not in booked]  # fmt: skip
        there = {x.trade_id for x in truth.trades} - {x.trade_id for x in fresh}
        if booked != there:
            found.append(f"booked {len(booked - there)} too many, {len(there - booked)} missing")
        by_client: dict[str, list[str]] = {}
        for row in truth.orders:
            by_client.setdefault(row.client_id or "", []).append(row.txid)
        found += [f"two orders {ids} with one id" for ids in by_client.values() if len(ids) > 1]
        own = state.balances
        base, quote = truth.balances["XXDG"], truth.balances["ZUSD"]
        for x in fresh:
            sign = 1 if x.side == "buy" else -1
            base, quote = base - sign * x.volume, quote + sign * x.cost + x.fee
        if (own.base, own.quote) != (base, quote):
            found.append(f"we own {own.base}, {own.quote}; the venue says {base}, {quote}")
        live = {x.txid for x in self.exchange.desk.known.values()}
        open_there = {x.txid for x in truth.orders if x.is_open}
        if open_there - live:
            found.append(f"orders {sorted(open_there - live)} have no owner")
        for name in ("ghosts", "violations"):
            if state.counters.get(name):
                found.append(f"{state.counters[name]} {name}")
        found += [f"halted: {x}" for x in self.halts if "nonce errors" not in x]
        found += [f"lock {x.name}: {x.reason}" for x in state.risk.locks]
        found += [f"order {x.client_order_id} is still in doubt"
                  for x in self.exchange.desk.known.values()
                  if x.status in ("uncertain",)]  # fmt: skip
        return found
