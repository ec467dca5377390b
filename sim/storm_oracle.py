"""What must hold in a storm, judged by the exchange's private truth and never by the bot's word.

Some of it is checked at every call, commit and step; the rest once everything has come to rest. The
invariants are those of the specification (grid, section 7; simulation, section 3).
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING

from accounting import orders
from core import events as e
from core.actions import Action, PlaceOrderAction
from core.domain import ZERO, OrderState, OrderStatus, Owed, Role, Side
from core.order_id import OrderPlace, decode
from core.ports import Loaded
from core.state import BotState, Exiting, Idle, LockName, Mode
from engine.books import ExchangeBooks, verify
from engine.live import PASSING_CHECKS
from exchange.kraken_records import Answer
from exchange.sandbox_records import OrderRow, TradeRow, Truth
from exchange.sandbox_venue import READS
from risk import PLACING_STATUSES
from sim.storm_clock import START
from sim.storm_events import is_foreign
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from sim.storm_world import World

LATE_SEC = 60.0
WRONGS_MAX = 20
OWED_SEC = 240.0  # an exit owed for so long in calm weather is forgotten
FORMS = ("Tick size", "Invalid price", "Invalid arguments:volume", "Invalid arguments:price")
# Halts that faults of the storm call for; every other one is an error.
HALTS = ("nonce errors", "carries the id of another order", "carry one client order id",
         "has not told of it", "none of our")  # fmt: skip


class Oracle:
    """Collects what is wrong in one world, and the rare states it has passed through."""

    def __init__(self, world: "World") -> None:
        self.wrongs: list[str] = []
        self.sometimes: dict[str, int] = {}
        self.halts: list[str] = []
        self._world = world
        self._said: set[str] = set()
        self._was: BotState | None = None
        self._seen_orders = 0
        self._amended: set[str] = set()  # one made larger may go on when its duty is done

    def wrong(self, text: str) -> None:
        """Take note of something that must never be, with the time at which it was first seen."""
        if text not in self._said and len(self.wrongs) < WRONGS_MAX:
            self._said.add(text)
            self.wrongs.append(f"{self._world.clock() - START:.1f} s: {text}")

    def met(self, name: str) -> None:
        """Count a rare state."""
        self.sometimes[name] = self.sometimes.get(name, 0) + 1

    # ---- at every call ------------------------------------------------------------------------

    def calling(self, method: str, params: Mapping[str, object]) -> None:
        """Judge a call that is about to be sent."""
        if method == "AddOrder":
            self._placing(params)
        elif method == "CancelOrder":
            row = self._world.venue.account.books.orders.get(str(params.get("txid", "")))
            if "txid" in params and (row is None or is_foreign(row)):
                self.wrong(f"cancels {params['txid']}, which is not its own")
        elif method not in (*READS, "GetApiKeyInfo"):
            self.wrong(f"calls {method}")

    def _placing(self, params: Mapping[str, object]) -> None:
        world, client_id = self._world, str(params["cl_ord_id"])
        place = decode(client_id)
        state = world.runtime.state
        if place is None:
            self.wrong(f"an order is sent with the id {client_id}, which names no place")
            return
        if place.role is Role.ENTRY and state.mode is Mode.HALTED:
            self.wrong("an entry is sent while halted")
        if world.exchange.desk.status not in PLACING_STATUSES:
            self.wrong(f"an order is sent in {world.exchange.desk.status}")
        if params.get("oflags") != "post,fciq":
            self.wrong("an order is sent that is not post-only")
        if world.needs_deadline and "deadline" not in params:
            self.wrong("an order is sent without a deadline")
        if not self._is_on_disk(client_id):
            self.wrong(f"order {client_id} is sent before its intent is on disk")
        if len(world.venue.account.books.open) > world.params.open_order_limit:
            self.wrong("more orders are open than the cap allows")

    def _is_on_disk(self, client_id: str) -> bool:
        uri = f"{self._world.disk.path.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            query = "SELECT count(*) FROM orders WHERE client_order_id = ?"
            return bool(db.execute(query, (client_id,)).fetchone()[0])

    def called(self, method: str, fault: str, answer: Answer) -> None:
        """Judge an answer, and what the venue has now."""
        for text in answer.errors:
            if any(x in text for x in FORMS):
                self.wrong(f"{method} is refused for its form: {text}")
        if "EAPI:Rate limit exceeded" in answer.errors and fault != "rate_limit":
            self.wrong("the venue's counter of calls is exceeded")
        if self._world.line.has_fallen:
            self._world.line.has_fallen = False
            self.wrong("a nonce has fallen")
        self.look()

    def look(self) -> None:
        """Judge the orders that are new at the venue: one for each duty."""
        books = self._world.venue.account.books
        if len(books.orders) == self._seen_orders:
            return
        new = list(books.orders.values())[self._seen_orders :]
        self._seen_orders = len(books.orders)
        for row in new:
            place = decode(row.client_id or "")
            if place is None or not row.is_open:
                continue
            same = [x.txid for x in map(books.orders.__getitem__, books.open)
                    if _duty(x) == _duty_of(place)]  # fmt: skip
            if len(same) > 1:
                self.wrong(f"orders {same} do one duty: {_duty_of(place)}")

    # ---- at every commit and step -------------------------------------------------------------

    def committed(self, state: BotState) -> None:
        """Judge a state that is on disk now."""
        before, self._was = self._was, state
        if before is None:
            return
        count = state.counters.get("violations", 0)
        if count > before.counters.get("violations", 0):
            locks = [x.reason for x in state.risk.locks if x.name is LockName.SAFETY]
            self.wrong(f"a safety invariant is violated: {locks}")

    def stepped(self, event: e.Event, actions: tuple[Action, ...]) -> None:
        """Count the rare states that a step has passed through."""
        match event:
            case e.OrderFound():
                self.met("uncertain order found")
            case e.OrderRejected(reason=reason):
                self.met(f"rejected: {reason}")
            case e.OrderUncertain():
                self.met("uncertain order")
                if self._world.venue.account.status == "maintenance":
                    self.met("uncertain during maintenance")
            case e.OrderClosed(reason=reason, executed=executed):
                self.met("partly executed and closed" if executed else f"closed: {reason}")
            case e.OrderAmended(client_order_id=order_id):
                self.met("amended by somebody")
                self._amended.add(order_id)
            case e.GhostFound(client_order_id=order_id) if order_id not in self._amended:
                self.wrong(f"order {order_id} of ours is found that no intent owns")
            case e.GhostFound():
                self.met("more of an amended order")
            case e.TradingHalted(reason=reason):
                self.met("halted")
                self.halts.append(reason)
            case e.FillEvent():
                self._met_fill(event)
            case e.ExternalFlow():
                self.met("external flow")
            case e.InstrumentUpdated():
                self.met("limits changed")
            case e.CommandReceived():
                self.met(f"command {type(event.command).__name__}")
        for action in actions:
            if isinstance(action, PlaceOrderAction):
                self.met(f"placed {action.order.role}")

    def _met_fill(self, event: e.FillEvent) -> None:
        was = self._was
        self.met("execution")
        if was is not None:
            order = next((x for x in orders(was) if x.client_order_id == event.client_order_id),
                         None)  # fmt: skip
            if order is not None and order.status is OrderStatus.CANCELLING:
                self.met("cancel lost the race")
        if event.time - event.executed_at > LATE_SEC:
            self.met("execution told late")

    def note_crash(self, point: str) -> None:
        """Count where the process has died."""
        self.met("crash " + point.split(" ", 2)[0] + " " + point.split(" ", 2)[1])

    def died(self) -> None:
        """Forget the state: the next one comes from disk."""
        self._was = None

    def refused(self, why: str) -> None:
        """Judge a start that was refused: only a clock that is wrong is a reason for that."""
        failed = {x.strip().partition(":")[0] for x in why.splitlines()[1:]}
        if "clock" not in failed or failed - {"clock", *PASSING_CHECKS}:
            self.wrong(f"the start is refused: {why}")

    def operate(self) -> None:
        """Do as an operator would who has looked: resume; why it halted is judged later."""
        world = self._world
        if world.runtime.state.mode is not Mode.RUNNING and not world.events.has_halted:
            world.resume()

    # ---- at rest ------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """Return everything that was or is wrong, once the world has come to rest."""
        world = self._world
        store = SqliteStore(world.disk.path)
        try:
            truth = world.venue.truth()
            foreign = {x.txid for x in truth.orders if is_foreign(x)}
            self._judge_books(store, truth, foreign)
            self._judge_orders(truth, foreign)
            self._judge_duties()
            self._judge_replica()
        finally:
            store.close()
        for reason in self.halts:
            if not any(x in reason for x in HALTS):
                self.wrong(f"halted: {reason}")
        return self.wrongs

    def _judge_books(self, store: SqliteStore, truth: Truth, foreign: set[str]) -> None:
        """Every execution is booked once, and every proof over the books holds."""
        world = self._world
        effects = {x.trade_id: _effect(x) for x in truth.trades if x.txid not in foreign}
        own, state = _own_balances(truth, foreign), world.runtime.state
        strange_base = state.balances.flow_base
        strange_quote = state.balances.flow_quote
        loaded = Loaded(seq=world.runtime.seq, state=state, params=world.runtime.params)
        books = ExchangeBooks(
            base=own[0] + strange_base, quote=own[1] + strange_quote, effects=effects,
            untold=frozenset(),
        )  # fmt: skip
        for check in verify(store, loaded, books):
            if not check.is_ok:
                self.wrong(f"{check.name}: {check.detail}")
        if world.weather.has_ledger:
            self._judge_flows(truth, foreign, state)
        elif strange_base or strange_quote:
            self.wrong(f"flows of {strange_base}, {strange_quote} are booked that no ledger told")

    def _judge_flows(self, truth: Truth, foreign: set[str], state: BotState) -> None:
        """With the ledger at hand what strangers have moved is known to the last digit."""
        moved = [x for x in truth.ledger if x.kind != "trade" and x.time > START]
        base = sum((x.amount for x in moved if x.asset == "XXDG"), ZERO)
        quote = sum((x.amount for x in moved if x.asset == "ZUSD"), ZERO)
        for x in truth.trades:
            if x.txid in foreign:
                effect = _effect(x)
                base, quote = base + effect[0], quote + effect[1]
        told = state.balances
        rounding = self._world.venue.account.instrument.rounding(len(truth.trades))
        is_same = (
            abs(told.flow_base - base) <= rounding[0]
            and abs(told.flow_quote - quote) <= rounding[1]
        )
        if not is_same:
            self.wrong(
                f"flows of {told.flow_base} base, {told.flow_quote} quote are booked; "
                f"there were {base}, {quote}"
            )

    def _judge_orders(self, truth: Truth, foreign: set[str]) -> None:
        """No order without an owner, none in doubt, no two with one id."""
        known = orders(self._world.runtime.state)
        live = {x.txid for x in known}
        lost = {x.txid for x in truth.orders if x.is_open} - foreign - live
        if lost:
            self.wrong(f"orders {sorted(lost)} have no owner")
        by_client: dict[str, list[str]] = {}
        for row in truth.orders:
            if row.txid not in foreign:
                by_client.setdefault(row.client_id or "", []).append(row.txid)
        for ids in by_client.values():
            if len(ids) > 1:
                self.wrong(f"orders {ids} have one client order id")
        doubtful = [x for x in known if x.status is OrderStatus.UNCERTAIN]
        if doubtful:
            self.wrong(f"{len(doubtful)} orders are still in doubt")

    def _judge_duties(self) -> None:
        """An exit owed rests at the venue or is tried again; the bot runs."""
        state = self._world.runtime.state
        if state.mode is not Mode.RUNNING:
            self.wrong(f"the bot is {state.mode}: {state.mode_reason}")
        stuck = {LockName.API_ERRORS, LockName.SAFETY, LockName.RESTORE}
        if self._world.weather.has_ledger:
            stuck.add(LockName.RECONCILIATION)
        for lock in state.risk.locks:
            if lock.name in stuck:
                self.wrong(f"the lock {lock.name} still holds: {lock.reason}")
        for slot in state.slots:
            for leg in slot.legs:
                if isinstance(leg.state, Exiting):
                    self._judge_exit(leg.state.exit, slot.slot_id)
                elif isinstance(leg.state, Idle) and leg.state.veto is None:
                    idle = state.now - leg.state.since
                    if idle > OWED_SEC and not leg.state.resume_at:
                        self.wrong(f"slot {slot.slot_id}: no entry for {idle:.0f} s, and no reason")
            for recovery in slot.recovery_orders:
                self._judge_exit(recovery.exit, slot.slot_id)

    def _judge_exit(self, exit_: OrderState | Owed, slot_id: int) -> None:
        state = self._world.runtime.state
        if isinstance(exit_, Owed) and state.now - exit_.retry_at > OWED_SEC:
            late = state.now - exit_.retry_at
            self.wrong(f"slot {slot_id}: an exit is owed ({exit_.reason}), overdue by {late:.0f} s")

    def _judge_replica(self) -> None:
        remote = self._world.beside.remote
        for name in ("orders", "executions", "cycles"):
            with closing(sqlite3.connect(self._world.disk.path)) as db:
                here = db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            there = remote.count(name)
            if here != there:
                self.wrong(f"the replica has {there} {name}, the database {here}")


def _duty(row: OrderRow) -> tuple[object, ...] | None:
    place = decode(row.client_id or "")
    return None if place is None else _duty_of(place)


def _duty_of(place: OrderPlace) -> tuple[object, ...]:
    return (place.slot, place.trade_id, place.role, place.cycle)


def _effect(trade: TradeRow) -> tuple[Decimal, Decimal]:
    sign = 1 if trade.side is Side.BUY else -1
    return sign * trade.volume, -sign * trade.cost - trade.fee


def _own_balances(truth: Truth, foreign: set[str]) -> tuple[Decimal, Decimal]:
    """Return the venue's balances less everything that was not the bot's doing."""
    base, quote = truth.balances["XXDG"], truth.balances["ZUSD"]
    for x in truth.trades:
        if x.txid in foreign:
            effect = _effect(x)
            base, quote = base - effect[0], quote - effect[1]
    moved = [x for x in truth.ledger if x.kind != "trade" and x.time > START]
    base -= sum((x.amount for x in moved if x.asset == "XXDG"), ZERO)
    quote -= sum((x.amount for x in moved if x.asset == "ZUSD"), ZERO)
    return base, quote
