"""A daemon's core against the sandbox, in one process on a clock that only the test moves.

Runtime, loop, desk, store, signatures and the venue are the real ones; only the line between desk
and venue is a double: it carries the signed bytes and can lose, delay and repeat them. A crash
throws everything away but the store, as a killed process would.
"""

import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from core import events as e
from core.commands import Command, Resume
from core.domain import ZERO, Instrument, Role
from core.market import Candle
from core.order_id import bot_tag, decode
from core.params import Params
from core.ports import Message, Unavailable
from core.state import LockName, Mode
from engine.clock import Pacer
from engine.live import START_CALLS, last_alive
from engine.loop import Loop
from engine.restore import tell_restored
from engine.runtime import Runtime
from exchange.kraken_budget import Budget
from exchange.kraken_desk import Desk, DeskConfig
from exchange.kraken_exchange import KrakenExchange
from exchange.kraken_start import Start, read_start
from exchange.matching import MatchingConfig
from exchange.nonce import Nonces
from exchange.sandbox_records import ApiKey, TradeRow, Truth
from exchange.sandbox_venue import READS, SandboxConfig, SandboxVenue
from risk import PLACING_STATUSES
from settings.table import DEMO_KEY, DEMO_SECRET
from store.memory import MemoryStore
from store.restore import epochs_of
from store.sqlite import SqliteStore
from tests.storm_line import CALM, START, Clock, Crash, Line
from tests.storm_weather import Events, Weather, is_foreign

TAG = bot_tag("test", "DOGE/USD")
EPOCH = 5
FRESH_SEC = 45.0
PARAMS = Params(
    slot_count=3,
    entry_pct=Decimal("0.3"),
    profit_pct=Decimal("1.2"),
    order_size_usd=Decimal(20),
    open_order_limit=225,
    stale_price_max_age_sec=60.0,
    is_simulated=False,
)


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
        if clock.there() >= self.world.until:
            self.world.loop.stop()
        self.world.events.pass_()
        self.world.operate()
        self._desk_at = self._step()
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
        weather: Weather | None = None,
    ) -> None:
        self.clock, self.rng = Clock(), random.Random(seed)
        self.params = params
        self.weather = weather or Weather(faults=CALM, lags={"": lag} if lag else {})
        self.config = config or DeskConfig(
            poll_sec=self.weather.poll_sec, has_ledger=self.weather.has_ledger
        )
        key = ApiKey(name="bot", key=DEMO_KEY, secret=DEMO_SECRET, nonce_window=nonce_window)
        self.venue = SandboxVenue(
            Lively(seed, step_pct=step_pct), Instrument(),
            MatchingConfig(seed=seed, tier=self.weather.tier, bar_grace_sec=0.2), (key,), now=START,
            config=SandboxConfig(
                start_base=Decimal(5000), start_quote=Decimal(500),
                lags=self.weather.lags, is_lag_random=True,
            ),
        )  # fmt: skip
        self.line = Line(self.venue, self.clock, random.Random(seed + 1))
        self.line.watch = self._check_call
        self.store: SqliteStore = MemoryStore(epoch=EPOCH)
        self.clock.pass_(60.0)  # the account is older than any lag
        self.crashes = 0
        self.halts: list[str] = []
        self.until = 0.0
        self.misdeeds: list[str] = []
        self.events = Events(self, self.weather, seed)

    # ---- running ------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Run for so long, starting again after every crash."""
        self.until = self.clock.there() + seconds
        while self.clock.there() < self.until:
            try:
                self.live()
            except Crash:
                self.crashes += 1
                self.clock.pass_(1.0 + self.rng.random() * 5.0)
            except Unavailable:  # the start waits and tries again
                self.clock.pass_(10.0)

    def live(self) -> None:
        """Run one life of the process, to its end or a crash."""
        self.clock.restart()
        self._ceiling_before = self._ceiling()
        facts = self._start()
        self.events.begin_life(facts.account.clock_offset_sec)
        self.runtime = Runtime(self.store, None, None, code="test")
        nonces = Nonces(self.clock.ns, self._ceiling())
        self.line.nonces = nonces
        self.exchange = self._exchange(facts, nonces)
        self.runtime.exchange = self.exchange
        self.runtime.restore()
        self.runtime.on_commit = self._on_commit
        self.loop = Loop(self.runtime, self.exchange, pacer=Pacer(None))
        self.runtime.start(facts.venue, self.params, now=self.clock.now, bot_tag=TAG)
        tell_restored(self.store, self.runtime)
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
        self.until = self.clock.there() + seconds
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
        self.tell_health(status=status)

    def tell_health(self, *, status: str | None = None, offset: float | None = None) -> None:
        """Let the feed tell of the exchange's status, or of its clock."""
        health = self.exchange._public
        self.exchange.post(
            e.HealthChanged(
                time=self.clock.now,
                system_status=health.system_status if status is None else status,
                clock_offset_sec=health.clock_offset_sec if offset is None else offset,
            )
        )

    def _check_call(self, method: str, params: Mapping[str, object]) -> None:
        """Note what no call may do, whatever the weather."""
        if method == "CancelOrder" and "txid" in params:
            row = self.venue.account.books.orders.get(str(params["txid"]))
            if row is None or is_foreign(row):
                self.misdeeds.append(f"cancels {params['txid']}, which is not its own")
        if method == "AddOrder":
            place = decode(str(params["cl_ord_id"]))
            is_entry = place is not None and place.role is Role.ENTRY
            if is_entry and self.runtime.state.mode is Mode.HALTED:
                self.misdeeds.append("an entry is sent while halted")
            if self.exchange.desk.status not in PLACING_STATUSES:
                self.misdeeds.append(f"an order is sent in {self.exchange.desk.status}")
        elif method not in ("CancelOrder", *READS, "GetApiKeyInfo"):
            self.misdeeds.append(f"calls {method}")

    def _on_commit(self, state: Any) -> None:
        self.exchange.watch(state)
        if self.rng.random() < self.line.faults.crash / 2:
            raise Crash

    def _start(self) -> Start:
        faults, self.line.faults = self.line.faults, CALM
        self.line.nonces = Nonces(self.clock.ns, self._ceiling())
        wanted = self.line.nonces.wanted()
        if wanted is not None:
            self.store.keep_fact("nonce_ceiling", str(wanted))
            self.line.nonces.extend(wanted)
        try:
            epochs = epochs_of(self.store)
            return read_start(self.line, "XDGUSD", tag=TAG, epochs=epochs, clock=self.clock)
        finally:
            self.line.faults = faults

    def _ceiling(self) -> int:
        return int(self.store.identity()[1].get("nonce_ceiling", "0"))

    def _exchange(self, facts: Start, nonces: Nonces) -> Inline:
        holder: dict[str, Any] = {}

        def post(event: e.Event) -> None:
            if self.show(event):
                holder["exchange"].post(event)

        now, budget = self.clock.now, Budget(self.weather.tier)
        alive_at = last_alive(self.store, self._ceiling_before, now)
        budget.take_over(now, quiet_sec=max(0.0, now - alive_at))
        budget.spend(START_CALLS, now)
        desk = self.desk_class(
            self.line, budget, facts.pair, tag=TAG, epoch=self.store.identity()[0],
            config=self.config,
            clock=self.clock, pause=self.clock.pass_, post=post, booked=self.booked,
        )  # fmt: skip
        desk.reader.offset_sec = facts.account.clock_offset_sec
        desk.offset_error_sec = facts.account.clock_error_sec
        exchange = Inline(
            desk, facts.venue, nonces, None, clock=self.clock, forward=self.clock.forward,
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
        if state.mode != "halted" or self.events.has_halted:
            return
        self.halts.append(state.mode_reason)
        self.command(Resume())

    def booked(self, ids: Any) -> set[str]:
        """Return those executions that the store has."""
        return set(ids) & set(self.store.execution_ids())

    def show_quote(self) -> None:
        """Let the feed bring the venue's present quote."""
        self.venue.advance(self.clock.there())
        quote = self.venue.account.engine.quote()
        if quote is not None:
            self.exchange.post(
                e.PriceTick(time=self.clock.now, bid=quote.bid, ask=quote.ask, last=quote.last)
            )

    # ---- the oracle ---------------------------------------------------------------------------

    def settle(self, seconds: float = 300.0) -> None:
        """Stop all faults and let everything come to rest."""
        self.line.faults = CALM
        self.events.clear()
        self.run(seconds)

    def wrong_but_for(self, txid: str) -> list[str]:
        """Return what is wrong, leaving out that an order of somebody else has no owner here."""
        return [x for x in self.wrong() if x != f"orders {[txid]} have no owner"]

    def wrong(self) -> list[str]:
        """Return everything that the venue's own truth says is wrong; empty if all is well.

        What has executed in the last seconds cannot have been heard of yet.
        """
        truth, state = self.venue.truth(), self.runtime.state
        foreign = {x.txid for x in truth.orders if is_foreign(x)}
        ours = [x for x in truth.trades if x.txid not in foreign]
        booked = set(self.store.execution_ids())
        since = self.clock.there() - self.config.poll_sec - FRESH_SEC
        fresh = [x for x in ours if x.time > since and x.trade_id not in booked]
        there = {x.trade_id for x in ours} - {x.trade_id for x in fresh}
        found = list(self.misdeeds)
        if booked != there:
            found.append(f"booked {len(booked - there)} too many, {len(there - booked)} missing")
        by_client: dict[str, list[str]] = {}
        for row in truth.orders:
            if row.txid not in foreign:
                by_client.setdefault(row.client_id or "", []).append(row.txid)
        found += [f"two orders {ids} with one id" for ids in by_client.values() if len(ids) > 1]
        found += self._wrong_money(truth, foreign, fresh)
        live = {x.txid for x in self.exchange.desk.known.values()}
        open_there = {x.txid for x in truth.orders if x.is_open} - foreign
        if open_there - live:
            found.append(f"orders {sorted(open_there - live)} have no owner")
        for name in ("ghosts", "violations"):
            if state.counters.get(name):
                found.append(f"{state.counters[name]} {name}")
        if self.line.has_fallen:
            found.append("a nonce has fallen")
        found += [f"halted: {x}" for x in self.halts if "nonce errors" not in x]
        found += [f"order {x.client_order_id} is still in doubt"
                  for x in self.exchange.desk.known.values()
                  if x.status in ("uncertain",)]  # fmt: skip
        return found

    def _wrong_money(self, truth: Truth, foreign: set[str], fresh: Sequence[TradeRow]) -> list[str]:
        """Compare the books with the venue's, less what cannot be known of strangers' doings."""
        base, quote = truth.balances["XXDG"], truth.balances["ZUSD"]
        strange = [x for x in truth.trades if x.txid in foreign]
        untold = [*fresh, *(() if self.weather.has_ledger else strange)]
        for x in untold:
            sign = 1 if x.side == "buy" else -1
            base, quote = base - sign * x.volume, quote + sign * x.cost + x.fee
        moved = [x for x in truth.ledger if x.kind != "trade" and x.time > START]
        if not self.weather.has_ledger:
            base -= sum((x.amount for x in moved if x.asset == "XXDG"), ZERO)
            quote -= sum((x.amount for x in moved if x.asset == "ZUSD"), ZERO)
        found, own, locks = [], self.runtime.state.balances, self.runtime.state.risk.locks
        rounding = self.venue.account.instrument.rounding(len(truth.trades))
        if abs(own.base - base) > rounding[0] or abs(own.quote - quote) > rounding[1]:
            found.append(f"we own {own.base}, {own.quote}; the venue says {base}, {quote}")
        is_unknown = bool(strange or moved) and not self.weather.has_ledger
        allowed = {LockName.FUNDS} if strange or moved else set()
        if is_unknown:
            allowed.add(LockName.RECONCILIATION)
            is_far = abs(truth.balances["ZUSD"] - quote) > self.params.order_size_usd
            # Where reads are dear, executions come faster than two reports without one between.
            is_far = is_far and self.weather.tier != "starter"
            if is_far and LockName.RECONCILIATION not in {x.name for x in locks}:
                found.append("the balances differ, and no lock holds")
        return found + [f"lock {x.name}: {x.reason}" for x in locks if x.name not in allowed]
