"""A daemon's core against the sandbox, in one process on a clock that only the test moves.

Runtime, loop, desk, store, signatures and the venue are the real ones. The line between desk and
venue, the clocks and the market are those of the fault storm (`sim/storm_world.py`), which lives
through the whole daemon; here a test sets the parameters and sees every part. A crash throws
everything away but the store, as a killed process would.
"""

import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from core import events as e
from core.commands import Command, Resume
from core.domain import Instrument, Role
from core.market import Candle
from core.order_id import bot_tag, decode
from core.params import Params
from core.ports import Unavailable
from core.record import replace
from core.state import Mode
from engine.clock import Pacer
from engine.live import START_CALLS, last_alive
from engine.loop import Loop
from engine.restore import tell_restored
from engine.runtime import Runtime
from exchange.kraken_budget import Budget
from exchange.kraken_desk import Desk, DeskConfig
from exchange.kraken_start import Start, read_start
from exchange.matching import MatchingConfig
from exchange.nonce import Nonces
from exchange.sandbox_records import ApiKey, TradeRow, Truth
from exchange.sandbox_venue import READS, SandboxConfig, SandboxVenue
from risk import PLACING_STATUSES
from settings.table import DEMO_KEY, DEMO_SECRET
from sim.storm_clock import START, WALL_ERROR_SEC, Clock, Crash
from sim.storm_events import is_foreign
from sim.storm_line import Line
from sim.storm_weather import CALM, Weather
from sim.storm_world import Inline, Lively
from store.memory import MemoryStore
from store.restore import epochs_of
from store.sqlite import SqliteStore

TAG = bot_tag("test", "DOGE/USD")
EPOCH = 5
FRESH_SEC = 45.0
QUOTE_SEC = 1.0  # between two quotes of the feed
WEATHER = Weather(candle_sec=2.0)
PARAMS = Params(
    slot_count=3,
    entry_pct=Decimal("0.3"),
    profit_pct=Decimal("1.2"),
    order_size_usd=Decimal(20),
    open_order_limit=225,
    stale_price_max_age_sec=60.0,
    is_simulated=False,
)


class World:
    """One account at the venue and one bot with its store, in `WEATHER` changed by `weather`."""

    def __init__(
        self,
        seed: int = 1,
        *,
        params: Params = PARAMS,
        config: DeskConfig | None = None,
        **weather: Any,
    ) -> None:
        self.clock, self.rng = Clock(), random.Random(seed)
        self.params = params
        self.weather = replace(WEATHER, **weather)
        self.config = config or DeskConfig(
            poll_sec=self.weather.poll_sec, has_ledger=self.weather.has_ledger
        )
        key = ApiKey(name="bot", key=DEMO_KEY, secret=DEMO_SECRET)
        self.venue = SandboxVenue(
            Lively(seed, step_pct=self.weather.step_pct, interval=self.weather.candle_sec),
            Instrument(), MatchingConfig(seed=seed, tier=self.weather.tier, bar_grace_sec=0.2),
            (key,), now=START,
            config=SandboxConfig(
                start_base=Decimal(5000), start_quote=Decimal(500),
                lags=self.weather.lags, is_lag_random=True,
            ),
        )  # fmt: skip
        self.line = Line(self.venue, self.clock, random.Random(seed + 1))
        self.line.watch = self._check_call
        self.line.weather = self.weather
        self.line.point = self._point
        self.feed = SimpleNamespace(step=self.show_quote)
        self.store: SqliteStore = MemoryStore(epoch=EPOCH)
        self.clock.pass_(60.0)  # the account is older than any lag
        self.crashes = 0
        self.halts: list[str] = []
        self.until = 0.0
        self.misdeeds: list[str] = []

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
        if abs(self.clock.offset) >= WALL_ERROR_SEC:  # else a start is refused, and someone sets it
            self.clock.set_right()
        self._ceiling_before = self._ceiling()
        facts = self._start()
        self.runtime = Runtime(self.store, None, None, code="test")
        nonces = Nonces(self.clock.ns, self._ceiling())
        self.line.nonces = nonces
        self.exchange = self._exchange(facts, nonces)
        self.runtime.exchange = self.exchange
        self.runtime.restore()
        self.runtime.on_commit = self._on_commit
        self.loop = Loop(self.runtime, self.exchange, pacer=Pacer(None))
        self.runtime.start(facts.venue, self.params, now=self.clock(), bot_tag=TAG)
        tell_restored(self.store, self.runtime)
        self.exchange.begin(self.runtime.state)
        self.loop.run()

    def run_on(self, seconds: float) -> None:
        """Let the present life of the process go on for so long."""
        self.until = self.clock.there() + seconds
        self.loop.stopping.clear()
        self.loop.run()

    def plunge(self) -> None:
        """Let the market print far below everything, once."""
        at = self.clock()
        self.venue.feed(
            Candle(
                time=at, interval=0.5, open=Decimal("0.1"), high=Decimal("0.1"),
                low=Decimal("0.08"), close=Decimal("0.0995"), volume=Decimal(10**7),
            )
        )  # fmt: skip

    def command(self, command: Command) -> None:
        """Let the operator command."""
        self.runtime.step(
            e.CommandReceived(time=self.clock(), command_id=f"test{self.clock()}", command=command)
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
                time=self.clock(),
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
        self._point("commit")

    def _point(self, _name: str) -> None:
        """End the process here if that is drawn."""
        if self.rng.random() < self.line.weather.rate("crash"):
            raise Crash

    def _start(self) -> Start:
        weather, self.line.weather = self.line.weather, CALM
        self.line.nonces = Nonces(self.clock.ns, self._ceiling())
        wanted = self.line.nonces.wanted()
        if wanted is not None:
            self.store.keep_fact("nonce_ceiling", str(wanted))
            self.line.nonces.extend(wanted)
        try:
            epochs = epochs_of(self.store)
            return read_start(self.line, "XDGUSD", tag=TAG, epochs=epochs, clock=self.clock)
        finally:
            self.line.weather = weather

    def _ceiling(self) -> int:
        return int(self.store.identity()[1].get("nonce_ceiling", "0"))

    def _exchange(self, facts: Start, nonces: Nonces) -> Inline:
        def post(event: e.Event) -> None:
            self.exchange.post(event)

        now, budget = self.clock(), Budget(self.weather.tier)
        alive_at = last_alive(self.store, self._ceiling_before, now)
        budget.take_over(now, quiet_sec=max(0.0, now - alive_at))
        budget.spend(START_CALLS, now)
        desk = Desk(
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
        return exchange

    # ---- what the loop asks -------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when the run ends, by the daemon's clock."""
        return self.until - self.clock.offset

    def pass_(self) -> None:
        """Let everything happen that is due around the daemon."""
        self.line.deliver()
        if self.clock.there() >= self.until:
            self.loop.stop()
        self.operate()

    def show_quote(self) -> float:
        """Let the feed bring the venue's present quote; return after how long it comes again."""
        self.venue.advance(self.clock.there())
        quote = self.venue.account.engine.quote()
        if quote is not None:
            self.exchange.post(
                e.PriceTick(time=self.clock(), bid=quote.bid, ask=quote.ask, last=quote.last)
            )
        return QUOTE_SEC

    def operate(self) -> None:
        """Do as an operator would who has looked: resume after a halt, and note why it was."""
        state = self.runtime.state
        if state.mode != "halted":
            return
        self.halts.append(state.mode_reason)
        self.command(Resume())

    def booked(self, ids: Any) -> set[str]:
        """Return those executions that the store has."""
        return set(ids) & set(self.store.execution_ids())

    # ---- the oracle ---------------------------------------------------------------------------

    def settle(self, seconds: float = 300.0) -> None:
        """Stop all faults and let everything come to rest."""
        self.line.weather = CALM
        self.run(seconds)

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
        found += self._wrong_money(truth, fresh)
        live = {x.txid for x in self.exchange.desk.known.values()}
        open_there = {x.txid for x in truth.orders if x.is_open} - foreign
        if open_there - live:
            found.append(f"orders {sorted(open_there - live)} have no owner")
        for name in ("ghosts", "violations"):
            if state.counters.get(name):
                found.append(f"{state.counters[name]} {name}")
        if self.line.has_fallen:
            found.append("a nonce has fallen")
        found += [f"halted: {x}" for x in self.halts]
        found += [f"order {x.client_order_id} is still in doubt"
                  for x in self.exchange.desk.known.values()
                  if x.status in ("uncertain",)]  # fmt: skip
        return found

    def _wrong_money(self, truth: Truth, fresh: Sequence[TradeRow]) -> list[str]:
        """Compare the books with the venue's, less what cannot have been heard of yet."""
        base, quote = truth.balances["XXDG"], truth.balances["ZUSD"]
        for x in fresh:
            sign = 1 if x.side == "buy" else -1
            base, quote = base - sign * x.volume, quote + sign * x.cost + x.fee
        found, own = [], self.runtime.state.balances
        rounding = self.venue.account.instrument.rounding(len(truth.trades))
        if abs(own.base - base) > rounding[0] or abs(own.quote - quote) > rounding[1]:
            found.append(f"we own {own.base}, {own.quote}; the venue says {base}, {quote}")
        return found + [f"lock {x.name}: {x.reason}" for x in self.runtime.state.risk.locks]
