"""What happens around a daemon in a storm, drawn from a seed: everything is on in some worlds only.

Faults of the line, the tier, how far each endpoint lags, a machine whose clock drifts and that
sleeps, an exchange that closes for a while, an operator, and a person who trades on the same
account. The world they act on is in `tests/kraken_world.py`.
"""

import random
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from core.commands import Halt, Pause, Resume
from core.domain import Side
from core.order_id import decode
from core.record import Record, replace
from core.state import Mode
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_records import OrderRequest, OrderRow
from exchange.sandbox_venue import LAGGING
from tests.storm_line import CALM, STORM, Faults

if TYPE_CHECKING:
    from tests.kraken_world import World

LAG_MAX_SEC = 5.0  # what the daemon takes for granted
MEASURE_SEC, OFFSET_STEP_SEC = 60.0, 0.5  # as the feed asks for the time, and tells of a change
DRIFT_MAX = 0.01  # seconds a second: far more than any machine's
OPERATORS = (Halt, Pause)


class Weather(Record, frozen=True, kw_only=True):
    """What is on in a world. Means in seconds between two events; None: there are none."""

    faults: Faults = STORM
    tier: str = "pro"
    poll_sec: float = 5.0
    lags: dict[str, float] = msgspec.field(default_factory=dict)
    has_ledger: bool = False
    drifts: bool = False
    sleeps: float | None = None
    closes: float | None = None
    operates: float | None = None
    trades: float | None = None


def draw(seed: int) -> Weather:
    """Return the weather of a seed: each kind is on with some chance, and in its own strength."""
    rng = random.Random(f"weather {seed}")

    def some(chance: float, value: float) -> float | None:
        return value if rng.random() < chance else None

    rates = {
        name: getattr(STORM, name) * rng.uniform(0.5, 2.0) if rng.random() < 0.5 else 0.0
        for name in Faults.__struct_fields__
    }
    if rng.random() < 0.2:
        rates["slow"] = rng.uniform(0.3, 1.0)
    tier = rng.choice(("starter", "intermediate", "pro"))
    lags = {x: rng.uniform(0.0, LAG_MAX_SEC) for x in LAGGING if rng.random() < 0.7}
    return Weather(
        faults=replace(CALM, **rates),
        tier=tier,
        poll_sec=20.0 if tier == "starter" else rng.choice((5.0, 20.0)),
        lags=lags,
        has_ledger=rng.random() < 0.7,
        drifts=rng.random() < 0.5,
        sleeps=some(0.3, 400.0),
        closes=some(0.4, 400.0),
        operates=some(0.3, 300.0),
        trades=some(0.5, 90.0),
    )


class Events:
    """Makes the weather of one world happen, until it clears up."""

    def __init__(self, world: "World", weather: Weather, seed: int) -> None:
        self.seen: dict[str, int] = {}
        self._world, self._weather = world, weather
        self._rng = random.Random(f"events {seed}")
        kinds = {
            "sleeps": self._sleep,
            "closes": self._close,
            "operates": self._operate,
            "trades": self._trade,
        }
        means = {name: getattr(weather, name) for name in kinds}
        self._kinds = {x: act for x, act in kinds.items() if means[x] is not None}
        self._means = means
        now = world.clock.there()
        self._due = {x: now + self._wait(x) for x in self._kinds}
        self._ends: dict[str, float] = {}
        self._rate, self._turns_at, self._drifted_at = 0.0, now, now
        self._told_at, self._told = -1e9, 0.0
        self._mine: list[str] = []

    def _wait(self, kind: str) -> float:
        return self._rng.expovariate(1 / self._means[kind])

    @property
    def has_halted(self) -> bool:
        """Tell whether the operator of the weather has halted or paused, and will resume."""
        return "resume" in self._ends

    def begin_life(self, told: float) -> None:
        """Take note of the offset that a start has measured."""
        self._told, self._told_at = told, self._world.clock.there()

    def clear(self) -> None:
        """Let the weather clear up: nothing new happens, what has begun ends."""
        self._due.clear()
        self._rate = 0.0
        self._weather = replace(self._weather, drifts=False)
        for kind in list(self._ends):
            self._end(kind)
        for txid in self._mine:
            row = self._world.venue.account.books.orders[txid]
            if row.is_open:
                self._world.venue.account.withdraw(
                    row, self._world.venue.now, "canceled", "User requested"
                )

    def pass_(self) -> None:
        """Let happen what is due."""
        now = self._world.clock.there()
        self._drift(now)
        if self._world.runtime.state.balances.reported_at is None:
            return  # what comes before is part of the starting balances
        for kind, at in list(self._ends.items()):
            if at <= now:
                self._end(kind)
        for kind, at in list(self._due.items()):
            if at <= now:
                self.seen[kind] = self.seen.get(kind, 0) + 1
                self._kinds[kind]()
                self._due[kind] = self._world.clock.there() + self._wait(kind)

    # ---- clocks -------------------------------------------------------------------------------

    def _drift(self, now: float) -> None:
        clock = self._world.clock
        if self._weather.drifts and now >= self._turns_at:
            self._rate = self._rng.uniform(-DRIFT_MAX, DRIFT_MAX)
            self._turns_at = now + self._rng.uniform(60.0, 600.0)
        clock.offset += self._rate * (now - self._drifted_at)
        self._drifted_at = now
        if now - self._told_at >= MEASURE_SEC:
            self._told_at = now
            measured = clock.offset + self._rng.uniform(-0.3, 0.3)
            if abs(measured - self._told) >= OFFSET_STEP_SEC:
                self._told = measured
                self._world.tell_health(offset=measured)

    def _sleep(self) -> None:
        """The machine sleeps: its clock stands while the exchange goes on."""
        self._world.clock.sleep(self._rng.uniform(1.0, 120.0))

    # ---- the exchange and the operator --------------------------------------------------------

    def _close(self) -> None:
        self._world.venue.set_status(self._rng.choice(("maintenance", "cancel_only", "post_only")))
        now = self._world.clock.there()
        self._ends["tell"] = now + self._rng.uniform(0.0, 30.0)
        self._ends["open"] = now + self._rng.uniform(5.0, 120.0)

    def _operate(self) -> None:
        self._world.command(self._rng.choice(OPERATORS)())
        self._ends["resume"] = self._world.clock.there() + self._rng.uniform(10.0, 120.0)

    def _end(self, kind: str) -> None:
        del self._ends[kind]
        world = self._world
        if kind == "resume":
            if world.runtime.state.mode is not Mode.RUNNING:
                world.command(Resume())
            return
        if kind == "open":
            world.venue.set_status("online")
            self._ends.setdefault("tell", world.clock.there() + self._rng.uniform(0.0, 30.0))
        if kind == "tell" and "open" not in self._ends:
            world.tell_health(status=world.venue.account.status)

    # ---- the person ---------------------------------------------------------------------------

    def _trade(self) -> None:
        world, rng = self._world, self._rng
        venue = world.venue
        venue.advance(world.clock.there())
        acts = (self._place, self._place, self._take, self._withdraw, self._move, self._meddle)
        with suppress(SandboxError, ValueError):
            rng.choice(acts)()

    def _place(self) -> None:
        """Place an order that rests, near the market or far from it."""
        side = self._rng.choice(tuple(Side))
        away = Decimal(f"{self._rng.uniform(0.1, 5.0):.3f}") / 100
        self._send(side, -away if side is Side.BUY else away, "GTC")

    def _take(self) -> None:
        """Place an order that executes at once, as far as it can."""
        side = self._rng.choice(tuple(Side))
        self._send(side, Decimal("0.002") if side is Side.BUY else Decimal("-0.002"), "IOC")

    def _send(self, side: Side, away: Decimal, force: str) -> None:
        venue = self._world.venue
        quote = venue.account.engine.quote()
        if quote is None:
            return
        request = OrderRequest(
            side=side,
            volume=Decimal(self._rng.randint(60, 200)),
            price=venue.account.instrument.price_down(quote.last * (1 + away)),
            time_in_force=force,
        )
        self._mine.append(venue.account.place(request, venue.now).txid)

    def _withdraw(self) -> None:
        """Cancel an order of their own."""
        if self._mine:
            venue = self._world.venue
            venue.account.cancel(self._rng.choice(self._mine), venue.now)

    def _meddle(self) -> None:
        """Cancel an order of the daemon's."""
        venue = self._world.venue
        ours = [
            x for x in venue.account.books.open if not is_foreign(venue.account.books.orders[x])
        ]
        if ours:
            venue.account.cancel(self._rng.choice(ours), venue.now)

    def _move(self) -> None:
        """Deposit or withdraw."""
        asset = self._rng.choice(("XXDG", "ZUSD"))
        most = 400 if asset == "XXDG" else 40
        self._world.venue.deposit(asset, Decimal(self._rng.randint(-most, most)))


def is_foreign(row: OrderRow) -> bool:
    """Tell whether an order at the venue is not of this bot."""
    return decode(row.client_id or "") is None
