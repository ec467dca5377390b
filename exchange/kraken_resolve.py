"""Orders in doubt: whether an order whose placing had no definite answer exists.

Found among the open orders, then among the closed (an order moves only that way): it is adopted.
Absent only after two looks that found nothing, farther apart than reads lag, both after its
deadline and a margin by the exchange's clock, and a look at the trades of orders nobody knows.
"""

import math
from typing import TYPE_CHECKING

from core.domain import OrderStatus, RejectReason
from core.record import Record
from exchange.kraken_budget import Priority
from exchange.kraken_reads import CallFailed
from exchange.kraken_records import OrderView
from exchange.kraken_watch import Watched
from leg import DEADLINE_SEC

if TYPE_CHECKING:
    from exchange.kraken_desk import Desk

BEFORE_SEC = 120.0  # history is read from so long before the order was placed
LOOK_AGAIN_SEC = 30.0
AGAIN_SEC = 5.0  # after a look that failed


class Doubt(Record, frozen=True, kw_only=True):
    """One order in doubt, and how often it was looked for in vain when that counted."""

    negatives: int = 0
    negative_at: float = 0.0


def _that_count(order: Watched, found: list[OrderView]) -> list[OrderView]:
    """Leave out orders that were cancelled untouched, but for one that is as ours was to be."""
    alive = [x for x in found if x.executed or not x.is_over]
    return alive or [x for x in found if not order.differs_from(x)][:1]


class Doubts:
    """All orders in doubt; works for one desk."""

    def __init__(self, desk: "Desk") -> None:
        self.unseen: set[str] = set()  # not looked for yet since they came in doubt
        self._desk = desk
        self._open: dict[str, Doubt] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, client_order_id: str) -> None:
        """Look for an order at once, and again until its fate is certain."""
        if client_order_id not in self._open:
            self._open[client_order_id] = Doubt()
            self.unseen.add(client_order_id)
        self._plan(client_order_id, self._desk.clock())

    def settled(self, client_order_id: str) -> None:
        """Forget an order whose fate is known."""
        self._open.pop(client_order_id, None)
        self.unseen.discard(client_order_id)

    def look(self, client_order_id: str) -> None:
        """Look for an order and all others that are due, and say what became of each if certain.

        They share the reads: one by one a crash with many orders on their way would use up the
        rate limit. Raises CallFailed.
        """
        desk = self._desk
        others = [x for x in desk.take_due("resolve") if x != client_order_id]
        wanted = [x for x in map(self._in_doubt, (client_order_id, *others)) if x is not None]
        if not wanted:
            return
        asked_at = desk.clock()
        self._strange = None
        try:
            found = self._seek(wanted)
            for order in wanted:
                self._judge(order, found[order.client_order_id], asked_at)
        except CallFailed:
            for order_id in others:
                if order_id in self._open:
                    self._plan(order_id, desk.clock() + AGAIN_SEC)
            raise

    def _in_doubt(self, client_order_id: str) -> Watched | None:
        """Return the order if it is still in doubt; forget it if it is not."""
        order = self._desk.known.get(client_order_id)
        in_doubt = (OrderStatus.PENDING, OrderStatus.UNCERTAIN)
        is_known = order is not None and order.txid and order.status not in in_doubt
        if order is None or client_order_id not in self._open or is_known:
            self.settled(client_order_id)
            return None
        return order

    def _judge(self, order: Watched, found: list[OrderView], asked_at: float) -> None:
        desk, order_id = self._desk, order.client_order_id
        self.unseen.discard(order_id)
        found = _that_count(order, found)
        if len(found) > 1:  # nothing is told of either: which is ours only a person can say
            ids = ", ".join(sorted(x.txid for x in found))
            desk.halt_once(f"orders {ids} carry one client order id, {order_id}")
        elif found:
            desk.learn(found)
        else:
            self._not_found(order, self._open[order_id], asked_at)
        if order_id in self._open:
            self._plan(order_id, desk.clock() + LOOK_AGAIN_SEC)

    def _seek(self, wanted: list[Watched]) -> dict[str, list[OrderView]]:
        """Return by client id what is among the open orders, then among the closed."""
        reader = self._desk.reader
        only = wanted[0].client_order_id if len(wanted) == 1 else None
        views = [*reader.open_orders(Priority.RESOLVE, only)]
        views += reader.closed_orders(self._start(wanted), Priority.RESOLVE, only)
        by_txid = {x.txid: x for x in views}.values()
        return {
            order.client_order_id: [
                x for x in by_txid if x.client_order_id == order.client_order_id
            ]
            for order in wanted
        }

    def _start(self, wanted: list[Watched]) -> float:
        placed_at = min(x.placed_at for x in wanted)
        return placed_at + self._desk.reader.offset_sec - BEFORE_SEC

    def settles_at(self, order: Watched) -> float:
        """Return from when on an order that is not found counts as not there."""
        return order.placed_at + DEADLINE_SEC + self._desk.config.settle_sec

    def _not_found(self, order: Watched, doubt: Doubt, asked_at: float) -> None:
        desk, config, order_id = self._desk, self._desk.config, order.client_order_id
        settles_at = self.settles_at(order)
        if asked_at < settles_at or desk.offset_error_sec > config.offset_error_max_sec:
            self._plan_together(order_id, max(settles_at, asked_at + config.again_sec))
            return
        if not doubt.negatives or asked_at - doubt.negative_at >= config.again_sec:
            doubt = Doubt(negatives=doubt.negatives + 1, negative_at=desk.clock())
            self._open[order_id] = doubt
        if doubt.negatives >= self.negatives_needed and not self._is_traded(order):
            self.settled(order_id)
            desk.reject(order_id, RejectReason.NEVER_ARRIVED, "not found after its deadline")
            return
        self._plan_together(order_id, doubt.negative_at + config.again_sec)

    negatives_needed = 2

    def _is_traded(self, order: Watched) -> bool:
        """Look whether an order that nobody knows has executed, and whether it is this one."""
        if self._strange is None:
            self._strange = self._strange_orders()
        found = [x for x in self._strange if x.client_order_id == order.client_order_id]
        if found:
            self._desk.learn(found)
        return bool(found)

    _strange: list[OrderView] | None = None  # of the present look

    def _strange_orders(self) -> list[OrderView]:
        """Return the orders unknown to us that have executed since those in doubt were placed."""
        desk = self._desk
        doubted = [x for x in map(desk.known.get, self._open) if x is not None]
        known = {x.txid for x in desk.known.values()}
        trades = desk.reader.trades(self._start(doubted), Priority.RESOLVE)
        strange = sorted({x.txid for x in trades} - known)
        views = desk.reader.orders(strange, Priority.RESOLVE) if strange else []
        if len(views) < len(strange):
            raise CallFailed("an order that has executed cannot be read")
        return views

    def _plan_together(self, client_order_id: str, due: float) -> None:
        """Plan a look at an instant that all orders in doubt share, so that they share reads."""
        step = self._desk.config.again_sec
        self._plan(client_order_id, math.ceil(due / step) * step)

    def _plan(self, client_order_id: str, due: float) -> None:
        self._desk.schedule("resolve", due, Priority.RESOLVE, key=client_order_id)
