"""Orders at the exchange that no live intent owns: other people's, another database's, and ghosts.

Those of others are counted, never touched. One of ours is told as a ghost only after a closer look:
a view may be older than what we know, and what has executed may be booked already.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from core import events as e
from core.order_id import decode
from exchange.kraken_budget import Priority
from exchange.kraken_reads import OVERLAP_SEC
from exchange.kraken_records import OrderView

if TYPE_CHECKING:
    from exchange.kraken_desk import Desk

SWEEP_SEC = 2 * 86_400.0


class Strangers:
    """Looks after them for one desk."""

    def __init__(self, desk: "Desk") -> None:
        self.alive_at: float | None = None  # until when the last run surely heard of everything
        self._desk = desk
        self._has_swept = False
        # Open orders of ours without owner: since when, and the exchange's id.
        self._strange: dict[str, tuple[float, str]] = {}

    def note(self, views: Sequence[OrderView], asked_at: float) -> None:
        """Count open orders that are not ours; look closer at those that are, and nobody owns."""
        strange: dict[str, tuple[float, str]] = {}
        foreign, twice = [], []
        for view in views:
            order_id = view.client_order_id or ""
            place = decode(order_id)
            if place is None or place.tag != self._desk.tag:
                foreign.append(view)
            elif place.epoch != self._desk.epoch:
                foreign.append(view)
                self._tell_other_store(view)
            elif order_id not in self._desk.known:
                # A view may be older than what we know: it takes two, farther apart than views
                # lag, from having seen the first to asking for the second.
                since, _ = self._strange.get(order_id, (self._desk.clock(), ""))
                strange[order_id] = (since, view.txid)
                if asked_at - since >= self._desk.config.again_sec:
                    twice.append(view.txid)
                else:
                    self._desk.schedule("poll", self._desk.clock() + self._desk.config.again_sec)
        gone = [txid for x, (_, txid) in self._strange.items() if x not in strange]
        self._strange, self._desk.account.foreign = strange, foreign
        if twice or gone:
            found = self._desk.reader.orders([*twice, *gone], Priority.EXECUTIONS)
            self.tell_unowned([x for x in found if x.is_over or x.txid in twice])

    def _tell_ghost(self, view: OrderView) -> None:
        order_id, now = view.client_order_id or "", self._desk.clock()
        self._desk.post(e.GhostFound(time=now, client_order_id=order_id, txid=view.txid))

    def _tell_other_store(self, view: OrderView) -> None:
        self._desk.halt(
            f"order {view.txid} was placed by this bot from another database; two run, or the "
            "database is not the one that placed it. Stop the other, or cancel the order at Kraken"
        )

    def sweep(self) -> None:
        """Look for orders of ours that were over before anybody knew of them."""
        now = self._desk.clock()
        alive, self.alive_at = self.alive_at, None
        since = now - SWEEP_SEC if self._has_swept or alive is None else alive - OVERLAP_SEC
        reader = self._desk.reader
        views = reader.closed_orders(since + reader.offset_sec, Priority.EXECUTIONS)
        self._has_swept = True
        self.tell_unowned(views)

    def tell_unowned(self, views: Sequence[OrderView]) -> None:
        """Tell of orders of ours without owner that work, or have executed what is not booked."""
        ours, mine = [], (self._desk.tag, self._desk.epoch)
        for view in views:
            place = decode(view.client_order_id or "")
            is_ours = place is not None and (place.tag, place.epoch) == mine
            if is_ours and view.client_order_id not in self._desk.known:
                ours.append(view)
        done = [x for x in ours if x.executed > 0]
        ids = {x.txid: set(x.trade_ids) for x in done}
        if any(not x for x in ids.values()):  # not told with the order: asked for
            since = min(x.opened_at for x in done) - OVERLAP_SEC
            for trade in self._desk.reader.trades(since, Priority.EXECUTIONS):
                if trade.txid in ids:
                    ids[trade.txid].add(trade.execution_id)
        booked = self._desk.booked({x for some in ids.values() for x in some})
        for view in ours:
            is_unbooked = bool(ids.get(view.txid, set()) - booked)
            if is_unbooked or not view.is_over:
                self._tell_ghost(view)
