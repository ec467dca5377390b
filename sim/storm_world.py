"""The whole daemon under a virtual clock, an exchange with its own truth, and the weather between.

Settings, store, runtime, loop, feed, desk, wire code, sizer, advisor and replica are the real ones,
put together as `engine/live.py` and `engine/wiring.py` do; the threads are missing, because one
clock drives all. A crash throws everything away but the files. What must hold is in
`storm_oracle.py`.
"""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import config
from core import events as e
from core.actions import Action
from core.commands import AuditPnl, Command, Resume
from core.domain import Instrument
from core.market import Candle
from core.order_id import bot_tag
from core.ports import Message, StartRefused, StoreError, Unavailable
from core.record import replace
from core.state import BotState
from engine.clock import Pacer
from engine.counter import prepare
from engine.kelly import KellyDesk, begin_sizer
from engine.live import Account, assemble, await_account, last_alive, venue_problems
from engine.loop import Loop
from engine.replication import forgetting
from engine.restore import tell_restored
from engine.runtime import Runtime
from engine.start_check import OPTIONAL
from engine.wiring import CANDLE_INTERVALS
from exchange.kraken_budget import Budget
from exchange.kraken_desk import Desk
from exchange.kraken_exchange import KrakenExchange
from exchange.kraken_market import KrakenMarket
from exchange.kraken_records import Answer
from exchange.matching import MatchingConfig
from exchange.nonce import Nonces
from exchange.sandbox_records import TRADING_PERMISSIONS, ApiKey
from exchange.sandbox_venue import SandboxConfig, SandboxVenue
from grid.regimes import is_estimate_outstanding
from market.public import KrakenFeed
from settings.table import DEMO_KEY, DEMO_SECRET
from sim.storm_beside import ADDRESS, Beside
from sim.storm_clock import START, Clock, Crash
from sim.storm_disk import Disk, FaultyStore
from sim.storm_events import Events
from sim.storm_line import Line
from sim.storm_oracle import Oracle
from sim.storm_weather import CALM, Weather
from store.codec import encode
from store.history import SqliteHistory

BOT, EPOCH = "storm", 5
RETRY_SEC = 10.0
FIRST_PRICE = Decimal("0.1")


class Lively:
    """A driftless market of short candles, endless and seeded: wide enough that orders fill."""

    name, fingerprint = "a lively market", ""

    def __init__(self, seed: int, *, step_pct: float, interval: float) -> None:
        self._seed, self._step, self.price_interval = seed, step_pct / 100, interval

    def first_price(self) -> Decimal:
        """Return the opening price."""
        return FIRST_PRICE

    def start_time(self) -> float:
        """Return when the market begins."""
        return START

    def total(self) -> int | None:
        """Return None: it never ends."""
        return None

    def read(self, skip: int) -> Any:
        """Yield candles."""
        rng, price, number = random.Random(f"market {self._seed}"), 0.1, 0
        while True:
            path = [price]
            for _ in range(3):
                path.append(path[-1] * (1 + rng.gauss(0, self._step)))
            path[-1] = price = path[-1] + (0.1 - path[-1]) * 0.02
            if number >= skip:
                o, h, low, c = (
                    Decimal(f"{x:.7f}") for x in (path[0], max(path), min(path), path[-1])
                )
                yield Candle(
                    time=START + number * self.price_interval, interval=self.price_interval,
                    open=o, high=h, low=low, close=c, volume=Decimal(rng.randint(500, 200_000)),
                )  # fmt: skip
            number += 1


class Inline(KrakenExchange):
    """The live exchange without its thread: the loop drives the desk, on the world's clock."""

    world: "World"
    _desk_at = _feed_at = 0.0

    def horizon(self) -> None:  # type: ignore[override]  # simulated time has no bound
        """Return None: time is simulated."""

    def next_time(self) -> float:
        """Return when the desk, the feed or the world has something."""
        super().horizon()
        waiting = super().next_time()
        if waiting is not None:
            return waiting
        clock = self.world.clock
        due = min(self._desk_at, self._feed_at, self.world.next_time())
        return max(clock(), due)

    def advance(self, to: float) -> tuple[Message, ...]:
        """Work until nothing is due."""
        clock = self.world.clock
        clock.at = max(clock.at, to)
        if clock() >= self._feed_at:
            self._feed_at = clock() + max(self.world.feed.step(), 0.01)
        self.world.pass_()
        self._desk_at = self._step()
        return super().advance(to)

    def begin(self, state: BotState) -> None:
        """Begin as `start` does, without a thread."""
        self.reserve_nonces()
        self.desk.resume_from(state)
        self.desk.begin()
        self._tell_health()


class _Stopping(threading.Event):
    """What tells a start that waits for the account to stop; it waits on the world's clock.

    In the calm at the end it is let wait: a lockout may last longer than that.
    """

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    def wait(self, timeout: float | None = None) -> bool:
        """Let time pass; True: the chaos is over."""
        world = self._world
        world.clock.pass_(timeout or 0.0)
        world.pass_by()
        return not world.is_settling and world.clock.there() >= world.until


class World:
    """One account at the venue, one bot with its files in `folder`, and the weather."""

    desk_class: type[Desk] = Desk
    exchange_class: type[Inline] = Inline
    needs_deadline = True  # not where a variant without one is to be caught by what it does

    def __init__(self, seed: int, weather: Weather = CALM, *, folder: Path) -> None:
        self.seed, self.weather = seed, weather
        self.clock, self.rng = Clock(), random.Random(f"world {seed}")
        self.trace = hashlib.sha256()
        self.counts: dict[str, int] = {}
        self.settings = settings_for(weather, folder)
        may = {*TRADING_PERMISSIONS} - (set() if weather.has_ledger else OPTIONAL)
        key = ApiKey(
            name="bot", key=DEMO_KEY, secret=DEMO_SECRET, nonce_window=weather.nonce_window,
            permissions=tuple(sorted(may)),
        )  # fmt: skip
        self.venue = SandboxVenue(
            Lively(seed, step_pct=weather.step_pct, interval=weather.candle_sec), Instrument(),
            MatchingConfig(seed=seed, tier=weather.tier, bar_grace_sec=0.2), (key,), now=START,
            config=SandboxConfig(
                start_base=Decimal(5000), start_quote=Decimal(500), lags=weather.lags,
                is_lag_random=weather.is_lag_random, page_rows=weather.page_rows,
            ),
        )  # fmt: skip
        self.disk = Disk(
            self.settings.state_db, random.Random(f"disk {seed}"),
            now=self.clock, wait=self.clock.pass_,
        )  # fmt: skip
        self.line = Line(self.venue, self.clock, random.Random(f"line {seed}"))
        self.oracle = Oracle(self)
        self.line.watch = self._watch_call
        self.line.note = self._note_call
        self.line.point = self.disk.point = self._point
        self.beside = Beside(weather, seed, self.clock)
        self.clock.pass_(60.0)  # the account is older than any lag
        self.events = Events(self, seed)
        self.line.weather = weather
        self.dies: Callable[[str], str | None] = self._dies
        self.store: FaultyStore | None = None
        self.until = 0.0
        self.is_up = self.is_settling = False

    # ---- running ------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Run for so long, starting again after every end of the process, and end well."""
        self.run_on(seconds)
        self.stop()

    def run_on(self, seconds: float) -> None:
        """Run for so long; a process that runs at the end goes on with the next call."""
        self.until = self.clock.there() + seconds
        while self.clock.there() < self.until:
            with self._ends():
                self.pass_by()
                if not self.is_up:
                    self._start()
                if self.is_up:
                    self.loop.stopping.clear()
                    self.loop.run()
                    if self.clock.there() < self.until:
                        self._stop()

    def stop(self) -> None:
        """Tell a process that runs to end."""
        with self._ends():
            if self.is_up:
                self._stop()

    @contextmanager
    def _ends(self) -> Iterator[None]:
        """Let the process end in every way it may, and time pass until somebody starts it again."""
        try:
            yield
        except Crash as crash:
            self._count(str(crash))
            self._die(str(crash))
            self.clock.pass_(1.0 + self.rng.random() * (self.weather.down_sec - 1.0))
        except StoreError as error:  # exit code 4: a person looks, and starts it again
            self._count("store_error")
            self._log("store error", str(error))
            self._die("crash")
            self.clock.pass_(RETRY_SEC)
            self._mend_disk()
        except Unavailable as error:
            self._log("unavailable", str(error))
            self._die("crash")
            self.clock.pass_(max(RETRY_SEC, error.pause_sec))
        except StartRefused as error:
            self._count("start_refused")
            self._die("crash")
            self.oracle.refused(str(error))
            self.clock.set_right()
            self.clock.pass_(RETRY_SEC)

    def _start(self) -> None:
        """Begin a life of the process; it is up afterwards, or was told to stop while it waited."""
        self.clock.restart()
        self._count("starts")
        self.store = store = FaultyStore(self.disk, epoch=EPOCH, replica=ADDRESS)
        self.account = account = self._open_account(store)
        self.feed = feed = self._open_feed()
        feed.look()
        start = await_account(account, self.settings, _Stopping(self), lambda _: None)
        if start is None:
            self._close()
            return
        self.exchange = exchange = assemble(
            account, self.settings, start, feed, self.exchange_class, desk_class=self.desk_class,
            wait=self._wait,
        )  # fmt: skip
        exchange.world = self
        feed.resume(exchange.now(), ())
        feed.begin()
        self.runtime = runtime = Runtime(store, exchange, None)
        runtime.restore()
        self.loop = Loop(
            runtime, exchange, pacer=Pacer(None), prepare=lambda x: prepare(runtime, x),
            models=self.beside.models if self.settings.params.hmm_enabled else None,
        )  # fmt: skip
        self._attach(runtime, store)
        tag = bot_tag(BOT, "DOGE/USD")
        now = max(exchange.now(), runtime.state.now)
        runtime.start(start.venue, self.params, now=now, bot_tag=tag)
        self._begin(runtime, exchange, now)
        self.is_up = True

    def _stop(self) -> None:
        """End as a daemon does that was told to."""
        self.runtime.stop()
        if self.beside.replica is not None:
            self.beside.replica.send_once()
        self._close()

    def settle(self, seconds: float = 300.0, still_sec: float = 400.0) -> None:
        """Stop all faults, then the market too, and let everything come to rest."""
        self.is_settling = True
        self.line.weather = self.weather = replace(self.weather, rates={})
        self.events.clear()
        self.beside.clear()
        self._mend_disk()
        self.venue.faults.clear()
        self.run(seconds)
        self.venue.is_still = True
        self.run(still_sec)

    def close(self) -> None:
        """Release the files."""
        if self.store is not None:
            self._die("crash")

    # ---- one life -----------------------------------------------------------------------------

    @property
    def params(self) -> Any:
        """Return the decision parameters as the daemon has them."""
        return replace(
            self.settings.params,
            stale_price_max_age_sec=self.settings.stale_after(self.feed.price_interval),
        )

    def _open_account(self, store: FaultyStore) -> Account:
        ceiling = int(store.identity()[1].get("nonce_ceiling", "0"))
        budget, now = Budget(self.settings.kraken_tier), self.clock()
        budget.take_over(now, quiet_sec=max(0.0, now - last_alive(store, ceiling, now)))
        self.line.nonces = nonces = Nonces(self.clock.ns, ceiling)
        account = Account(
            store=store, client=self.line,  # type: ignore[arg-type]  # it stands for the client
            nonces=nonces, clock=self.clock, budget=budget,
        )  # fmt: skip
        account.keep_nonces_ahead()
        return account

    def _open_feed(self) -> KrakenFeed:
        with_models = self.settings.params.hmm_enabled
        return KrakenFeed(
            KrakenMarket(self.line, "DOGE/USD"), name="storm",
            poll_sec=min(self.settings.poll_sec, self.weather.price_sec),
            wall=self.clock, monotonic=self.clock, settle_sec=0.0,
            candle_intervals=CANDLE_INTERVALS if with_models else CANDLE_INTERVALS[:1],
        )  # fmt: skip

    def _wait(self, seconds: float) -> None:
        """Let the desk wait; the loop, which has a thread of its own, keeps nonces ahead."""
        self.clock.pass_(seconds)
        self.exchange.reserve_nonces()

    def _attach(self, runtime: Runtime, store: FaultyStore) -> None:
        run = str(store.identity()[1]["run"])
        forget = forgetting(store, self.beside.open_replica(self.disk.path, run, EPOCH))
        exchange = self.exchange

        def on_commit(state: BotState) -> None:
            exchange.watch(state)
            forget(state)
            self.oracle.committed(state)

        runtime.on_commit = on_commit
        runtime.on_step = self._note_step
        if self.settings.params.advice.enabled:
            runtime.advisor = self.beside.advisor(self.settings.params.advice.debounce_sec)

    def _begin(self, runtime: Runtime, exchange: Inline, now: float) -> None:
        tell_restored(self.account.store, runtime)
        exchange.begin(runtime.state)
        if self.settings.params.hmm_enabled:
            self.beside.models.restart()
            runtime.models = self.beside.models
            if is_estimate_outstanding(runtime.state):
                runtime.step(self.beside.models.estimate(now))
        if runtime.params.kelly_enabled:
            begin_sizer(runtime, KellyDesk(self.account.store.recent_cycles))

    def _close(self) -> None:
        """Close everything, in order."""
        self.account.leave()
        self._close_beside()
        if self.store is not None:
            self.disk.close(self.store)
            self.store = None
        self.is_up = False

    def _die(self, how: str) -> None:
        self._log("died", how)
        self.is_up = False
        self.oracle.died()
        self._close_beside()
        self.disk.die(self.store, how)
        self.store = None

    def _close_beside(self) -> None:
        if self.beside.replica is not None:
            self.beside.replica.stop()
            self.beside.replica = None

    def _mend_disk(self) -> None:
        self.disk.unlock()
        self.disk.full_until = self.disk.locked_until = 0.0

    # ---- what the loop asks -------------------------------------------------------------------

    def next_time(self) -> float:
        """Return when something around the daemon is due, by its clock."""
        at = self.events.next_time()
        end = self.until if at is None else min(at, self.until)
        return min(end, self.line.next_time()) - self.clock.offset

    def pass_by(self) -> None:
        """Let happen what does not need a daemon that runs."""
        self.line.deliver()
        self.events.pass_by()

    def pass_(self) -> None:
        """Let everything happen that is due around the daemon."""
        self.line.deliver()
        self.events.pass_()
        self.beside.step()
        self.oracle.operate()
        if self.clock.there() >= self.until:
            self.loop.stop()

    def prepared(self, command: Command) -> Command:
        """Return a command as the door of HTTP hands it on."""
        if isinstance(command, AuditPnl):
            return AuditPnl(audit=SqliteHistory(self.settings.state_db).audit())
        return command

    def resume(self) -> None:
        """Resume, as an operator does."""
        self.events.command(Resume())

    def set_minimum(self, volume: Decimal | None) -> None:
        """Have the venue ask for another least volume of orders; None: the usual."""
        self.venue.set_order_min(Instrument().order_min if volume is None else volume)

    # ---- points, notes and the trace ----------------------------------------------------------

    def _point(self, name: str) -> None:
        """End the process here if that is drawn."""
        how = self.dies(name)
        if how is not None:
            self._log("crash", how, name)
            self.oracle.note_crash(name)
            raise Crash(how)

    def _dies(self, name: str) -> str | None:
        rates = self.weather.rates
        drawn = self.rng.random()
        if drawn < (rate := rates.get("crash", 0.0)):
            return "crash"
        if name.startswith("after step") and drawn < (rate := rate + rates.get("torn_write", 0.0)):
            return "torn_write"
        return "power_cut" if drawn < rate + rates.get("power_cut", 0.0) else None

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _log(self, *words: str) -> None:
        self.trace.update(f"{self.clock():.6f} {' '.join(words)}\n".encode())

    def _watch_call(self, method: str, params: Mapping[str, object]) -> None:
        if method == "CancelOrder":
            self.events.on_cancel(str(params.get("txid", "")))
        self.oracle.calling(method, params)

    def _note_call(self, method: str, fault: str, answer: Answer) -> None:
        self._log(method, fault, *answer.errors, answer.fault or "")
        self.oracle.called(method, fault, answer)

    def _note_step(self, event: e.Event, actions: tuple[Action, ...]) -> None:
        self.trace.update(encode(event).encode())
        self.oracle.stepped(event, actions)


def settings_for(weather: Weather, folder: Path) -> config.Settings:
    """Return the daemon's settings in a weather. Raises ConfigError."""
    env = {
        "MODE": "live", "MARKET_DATA": "kraken", "BOT_NAME": BOT,
        "KRAKEN_API_URL": "http://127.0.0.1:9", "KRAKEN_API_KEY": DEMO_KEY,
        "KRAKEN_API_SECRET": DEMO_SECRET, "KRAKEN_TIER": weather.tier,
        "POLL_INTERVAL_SECONDS": f"{weather.poll_sec:g}", "STATE_DB": str(folder / "storm.db"),
        **weather.env,
    }  # fmt: skip
    return config.load(env, folder / ".env", (venue_problems,))
