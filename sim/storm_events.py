"""What happens around a daemon in a storm beside its requests and its disk, until it clears up.

Clocks, the exchange's status, operators, strangers on the same account, the market, and whoever
floods the daemon with commands. The world they act on is in `storm_world.py`.
"""

import math
import random
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from accounting import orders
from core.commands import AuditPnl, Command, CommandError, Halt, Pause, Resume, parse
from core.domain import Side
from core.market import Candle
from core.order_id import decode
from core.record import replace
from core.state import Mode
from engine.loop import INBOX_SIZE, Full
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_records import OrderRequest, OrderRow
from sim.storm_weather import EVENTS, Weather

if TYPE_CHECKING:
    from sim.storm_world import World

DRIFT_MAX = 0.01  # seconds a second: far more than any machine's
JUMP_MAX_SEC = 3600.0
SLOTS_MAX = 5  # a flood would add as many as there may be, and the storm would crawl
STATUSES = ("maintenance", "cancel_only", "post_only", "limit_only")
# What an operator, or anybody with a browser, may send; some of it is no command at all.
COMMANDS: tuple[dict[str, Any], ...] = (
    {"action": "pause"},
    {"action": "resume"},
    {"action": "set_entry_pct", "value": "0.4"},
    {"action": "set_profit_pct", "value": "1.5"},
    {"action": "set_order_size", "value": "25"},
    {"action": "set_order_size", "value": "1e9"},
    {"action": "set_entry_pct", "value": "-1"},
    {"action": "add_slot"},
    {"action": "remove_slot", "slot": 1},
    {"action": "remove_slot", "slot": 2, "disposition": "keep_recoveries"},
    {"action": "add_layer"},
    {"action": "remove_layer"},
    {"action": "soft_close_next"},
    {"action": "pair_off", "slot": 1, "confirm": True},
    {"action": "cancel_stale_recoveries"},
    {"action": "reset_risk_peak", "confirm": True},
    {"action": "ai_regime_override"},
    {"action": "ai_regime_revert"},
    {"action": "ai_council"},
    {"action": "retrain_hmm"},
    {"action": "sell_everything"},
    {"action": "pause", "confirm": "NaN"},
)


class Events:
    """Makes the weather of one world happen."""

    def __init__(self, world: "World", seed: int) -> None:
        self.seen: dict[str, int] = {}
        self.refused_commands = 0
        self._world, self._weather = world, world.weather
        self._rng = random.Random(f"events {seed}")
        self._acts: dict[str, Callable[[], None]] = {
            "disk_full": self._fill_disk,
            "locked": self._lock_database,
            "sleep": self._sleep,
            "clock_jump": self._jump,
            **{x: partial(self._close, x) for x in STATUSES},
            "restart": lambda: self._world.loop.stop(),  # noqa: PLW0108 - it is another each time
            "operator": self._operate,
            "stranger": self._trade,
            "deposit": self._move,
            "meddling": self._meddle,
            "venue_cancel": lambda: self._end_order("canceled", "Liquidity"),
            "venue_expiry": lambda: self._end_order("expired", "Order expired"),
            "flash_crash": self._plunge,
            "fill_during_cancel": self._arm,
            "new_minimum": self._change_minimum,
            "flood": self._flood,
            "replica_down": lambda: self._world.beside.cut_replica(self._span(10.0, 600.0)),
            "advisor_hangs": lambda: self._world.beside.hang_advisor(self._span(10.0, 900.0)),
        }
        now = world.clock.there()
        self._due = {x: now + self._wait(x) for x in EVENTS if self._weather.rate(x)}
        self._ends: dict[str, float] = {}
        self._rate, self._turns_at, self._drifted_at = 0.0, now, now
        self._mine: list[str] = []
        self._opened_at: int | None = None
        self._has_begun = False
        self._commands = 0
        self.is_armed = False

    def _wait(self, kind: str) -> float:
        return self._rng.expovariate(1 / self._weather.rate(kind))

    def _span(self, low: float, high: float) -> float:
        """Return when something that lasts so long ends, by the exchange's clock."""
        return self._world.clock.there() + self._rng.uniform(low, high)

    @property
    def has_halted(self) -> bool:
        """Tell whether the operator of the weather has halted or paused, and will resume."""
        return "resume" in self._ends

    def next_time(self) -> float | None:
        """Return when something is due, by the exchange's clock; None: nothing, or not yet."""
        if not self._is_open():
            return None
        return min((*self._due.values(), *self._ends.values()), default=None)

    def _is_open(self) -> bool:
        """Tell whether the starting balances are in the books for good: nothing comes before."""
        if self._opened_at is None and self._world.runtime.state.balances.reported_at is not None:
            self._opened_at = self._world.disk.syncs
        if self._opened_at is not None and not self._has_begun:
            is_lost = self._world.runtime.state.balances.reported_at is None
            self._opened_at = None if is_lost else self._opened_at
            self._has_begun = not is_lost and self._world.disk.syncs > (self._opened_at or 0)
        return self._has_begun

    def clear(self) -> None:
        """Let the weather clear up: nothing new happens, what has begun ends."""
        self._due.clear()
        self._rate = 0.0
        self._weather = replace(self._weather, rates={})
        for kind in list(self._ends):
            self._end(kind)
        venue = self._world.venue
        for txid in self._mine:
            row = venue.account.books.orders[txid]
            if row.is_open:
                venue.account.withdraw(row, venue.now, "canceled", "User requested")
        self.is_armed = False

    def pass_(self) -> None:
        """Let happen what is due."""
        now = self._world.clock.there()
        self._drift(now)
        if not self._is_open():
            return
        for kind, at in list(self._ends.items()):
            if at <= now:
                self._end(kind)
        for kind, at in list(self._due.items()):
            if at <= now:
                self.seen[kind] = self.seen.get(kind, 0) + 1
                self._acts[kind]()
                self._due[kind] = self._world.clock.there() + self._wait(kind)

    def pass_by(self) -> None:
        """Let end what ends by itself, while no daemon runs."""
        for kind in ("open", "minimum"):
            if self._ends.get(kind, math.inf) <= self._world.clock.there():
                self._end(kind)

    def _end(self, kind: str) -> None:
        del self._ends[kind]
        if kind == "resume":
            if self._world.runtime.state.mode is not Mode.RUNNING:
                self.command(Resume())
        elif kind == "open":
            self._world.venue.set_status("online")
        elif kind == "minimum":
            self._world.set_minimum(None)

    # ---- clocks and disk ----------------------------------------------------------------------

    def _drift(self, now: float) -> None:
        clock = self._world.clock
        if self._weather.rate("drift") and now >= self._turns_at:
            self._rate = self._rng.uniform(-DRIFT_MAX, DRIFT_MAX)
            self._turns_at = now + self._rng.uniform(60.0, 600.0)
            self.seen["drift"] = self.seen.get("drift", 0) + 1
        clock.offset += self._rate * (now - self._drifted_at)
        self._drifted_at = now

    def _sleep(self) -> None:
        """The machine sleeps: its clock stands while the exchange goes on."""
        self._world.clock.sleep(self._rng.uniform(1.0, 120.0))

    def _jump(self) -> None:
        self._world.clock.wall_error += self._rng.uniform(-JUMP_MAX_SEC, JUMP_MAX_SEC)

    def _fill_disk(self) -> None:
        self._world.disk.full_until = self._world.clock() + self._rng.uniform(5.0, 120.0)

    def _lock_database(self) -> None:
        self._world.disk.lock(self._world.clock() + self._rng.uniform(0.1, 60.0))

    # ---- the exchange and the market ----------------------------------------------------------

    def _close(self, status: str) -> None:
        self._world.venue.set_status(status)
        self._ends["open"] = self._span(5.0, 120.0)

    def _own(self) -> list[OrderRow]:
        books = self._world.venue.account.books
        return [x for x in map(books.orders.__getitem__, books.open) if not is_foreign(x)]

    def _end_order(self, status: str, reason: str) -> None:
        """The venue ends an order of ours by itself."""
        venue = self._world.venue
        venue.advance(self._world.clock.there())
        if own := self._own():
            venue.account.withdraw(self._rng.choice(own), venue.now, status, reason)

    def _plunge(self) -> None:
        """Let the market print far below and above everything, once."""
        venue = self._world.venue
        venue.advance(self._world.clock.there())
        quote = venue.account.engine.quote()
        if quote is not None:
            depth = Decimal(f"{self._rng.uniform(0.02, 0.25):.4f}")
            self._print(quote.last * (1 - depth), quote.last * (1 + depth), Decimal(10**6))

    def _print(self, low: Decimal, high: Decimal, volume: Decimal) -> None:
        venue = self._world.venue
        quote, down = venue.account.engine.quote(), venue.account.instrument.price_down
        if quote is None:
            return
        last = down(quote.last)
        venue.feed(
            Candle(
                time=venue.now, interval=0.5, open=last, high=max(last, down(high)),
                low=min(last, down(low)), close=last, volume=volume,
            )
        )  # fmt: skip

    def _arm(self) -> None:
        self.is_armed = True

    def on_cancel(self, txid: str) -> None:
        """A cancel is on its way: where it is drawn, the market reaches the order before it."""
        venue = self._world.venue
        row = venue.account.books.orders.get(txid)
        if not self.is_armed or row is None or not row.is_open or row.last.price is None:
            return
        self.is_armed = False
        venue.advance(self._world.clock.there())
        tick = venue.account.instrument.tick_size * 10
        price, volume = row.last.price, row.last.volume * self._rng.choice((2, 20, 200))
        self._print(price - tick, price + tick, volume)

    def _change_minimum(self) -> None:
        self._world.set_minimum(Decimal(self._rng.choice((60, 80, 150))))
        self._ends["minimum"] = self._span(60.0, 900.0)

    # ---- operators ----------------------------------------------------------------------------

    def command(self, command: Command, command_id: str = "") -> None:
        """Put a command where HTTP would put it."""
        self._commands += 1
        name = command_id or f"storm-{self._commands}"
        try:
            self._world.loop.inbox.put(name, self._world.prepared(command))
        except Full:
            self.refused_commands += 1

    def _operate(self) -> None:
        self.command(self._rng.choice((Halt, Pause, AuditPnl))())
        self._ends["resume"] = self._span(10.0, 120.0)

    def _flood(self) -> None:
        """Send more than the inbox holds, ids repeated, nonsense among it."""
        for _ in range(self._rng.choices((3, 20, INBOX_SIZE + 50), (8, 4, 1))[0]):
            told = self._rng.choice(COMMANDS)
            if told["action"] == "add_slot" and len(self._world.runtime.state.slots) >= SLOTS_MAX:
                continue
            try:
                self.command(parse(told), f"flood-{self._rng.randrange(50)}")
            except CommandError:
                self.refused_commands += 1
        self._ends["resume"] = self._span(1.0, 60.0)

    # ---- strangers ----------------------------------------------------------------------------

    def _trade(self) -> None:
        self._world.venue.advance(self._world.clock.there())
        with suppress(SandboxError, ValueError):
            self._rng.choice((self._place, self._place, self._take, self._withdraw))()

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
        """Cancel or amend an order of the daemon's."""
        venue = self._world.venue
        venue.advance(self._world.clock.there())
        own = self._own()
        if not own:
            return
        row = self._rng.choice(own)
        known = {x.txid for x in orders(self._world.runtime.state)}
        with suppress(SandboxError, ValueError):
            # One in doubt that is not as it was sent halts the bot for good, as it should.
            if self._rng.random() < 0.7 or row.txid not in known:
                venue.account.cancel(row.txid, venue.now)
            else:
                volume = row.last.volume + 10
                venue.account.amend(row, venue.now, volume=volume, price=None, is_post_only=True)

    def _move(self) -> None:
        """Deposit or withdraw."""
        asset = self._rng.choice(("XXDG", "ZUSD"))
        most = 400 if asset == "XXDG" else 40
        with suppress(ValueError):  # less than that is there
            self._world.venue.deposit(asset, Decimal(self._rng.randint(-most, most)))


def is_foreign(row: OrderRow) -> bool:
    """Tell whether an order at the venue is not of this bot."""
    return decode(row.client_id or "") is None


def weather_of(text: str) -> Weather:
    """Return weather from its JSON. Raises ValueError."""
    return msgspec.json.decode(text, type=Weather)
