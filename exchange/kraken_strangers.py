"""Orders at the exchange that no live intent owns: other people's, another database's, and ghosts.

Those of others are counted, never touched. One of ours is told as a ghost only after a closer look:
a view may be older than what we know, and what has executed may be booked already.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from core import events as e
from core.domain import ListedOrder, Listing
from core.order_id import decode
from core.record import Record, replace
from exchange.kraken_budget import Priority
from exchange.kraken_reads import OVERLAP_SEC, WALKS_MAX, CallFailed
from exchange.kraken_records import OrderView

if TYPE_CHECKING:
    from exchange.kraken_desk import Desk

SWEEP_SEC = 2 * 86_400.0


class Sweep(Record, frozen=True, kw_only=True):
    """A walk over what was closed in a window of exchange time, page by page."""

    start: float
    end: float
    seen: int = 0
    begun: int = 1  # how often, because rows had shifted away


class Strangers:
    """Looks after them for one desk."""

    def __init__(self, desk: "Desk") -> None:
        self.heard_at: float | None = None  # all that had happened by then was heard of
        self.listing: Listing | None = None  # replaced as a whole: the loop reads it too
        self._desk = desk
        self._sweeps: dict[bool, Sweep] = {}  # those not at their end, deep or not
        # Open orders of ours without owner: since when, and the exchange's id.
        self._strange: dict[str, tuple[float, str]] = {}

    def note(self, views: Sequence[OrderView], asked_at: float) -> None:
        """Count open orders that are not ours; look closer at those that are, and nobody owns."""
        strange: dict[str, tuple[float, str]] = {}
        foreign, twice = [], []
        for view in views:
            order_id = view.client_order_id or ""
            place = decode(order_id)
            if (
                place is None
                or place.tag != self._desk.tag
                or order_id in self._desk.restorer.aside
            ):
                foreign.append(view)
            elif not self._desk.restorer.is_ours(view):
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

    def complete(self, views: Sequence[OrderView], asked_at: float) -> None:
        """Take note of a listing of all open orders, once what it does not show was asked for."""
        self.heard_at = asked_at
        ours: list[ListedOrder] = []
        for view in views:
            order_id = view.client_order_id or ""
            place = decode(order_id)
            if place is not None and place.tag == self._desk.tag:
                ours.append(
                    ListedOrder(
                        client_order_id=order_id,
                        txid=view.txid,
                        side=view.side,
                        price=view.price,
                        volume=view.volume,
                    )
                )
        self.listing = Listing(at=asked_at, orders=tuple(ours), strangers=len(views) - len(ours))

    def strike(self, txids: Collection[str]) -> None:
        """Take orders off the listing that are over: what no longer rests there has no owner."""
        listing = self.listing
        if listing is not None and any(x.txid in txids for x in listing.orders):
            left = tuple(x for x in listing.orders if x.txid not in txids)
            self.listing = replace(listing, orders=left)

    def _tell_ghost(self, view: OrderView) -> None:
        order_id, now = view.client_order_id or "", self._desk.clock()
        self._desk.post(e.GhostFound(time=now, client_order_id=order_id, txid=view.txid))

    def _tell_other_store(self, view: OrderView) -> None:
        self._desk.halt(
            f"order {view.txid} was placed by this bot from another database; two run, or the "
            "database is not the one that placed it. Stop the other, or cancel the order at Kraken"
        )

    def plan_sweep(self, *, is_deep: bool) -> Sweep:
        """Plan to look at what was closed since all was heard of; deep: in the last two days."""
        now, offset = self._desk.clock(), self._desk.reader.offset_sec
        heard = now if self.heard_at is None else self.heard_at
        start = (now - SWEEP_SEC if is_deep else heard - OVERLAP_SEC) + offset
        if (unfinished := self._sweeps.get(is_deep)) is not None:
            start = min(start, unfinished.start)
        self._sweeps[is_deep] = Sweep(start=start, end=now + offset)
        return self._sweeps[is_deep]

    def sweep(self, *, is_deep: bool) -> bool:
        """Look at one page more of what is over; tell whether it was the last.

        There may be orders of ours that were over before anybody knew of them. Raises CallFailed.
        """
        reader = self._desk.reader
        sweep = self._sweeps.get(is_deep) or self.plan_sweep(is_deep=is_deep)
        page = reader.closed_page(sweep.start, sweep.end, sweep.seen, Priority.EXECUTIONS)
        if page.rows:
            self.tell_unowned(page.rows)
            self._sweeps[is_deep] = replace(sweep, seen=sweep.seen + len(page.rows))
            return False
        if sweep.seen < (page.count or 0) and sweep.begun < WALKS_MAX:
            self._sweeps[is_deep] = replace(sweep, seen=0, begun=sweep.begun + 1)
            return False
        del self._sweeps[is_deep]
        if sweep.seen < (page.count or 0):
            raise CallFailed(f"pages hold {sweep.seen} of {page.count} rows, {WALKS_MAX} times")
        return True

    def tell_unowned(self, views: Sequence[OrderView]) -> None:
        """Tell of orders of ours without owner that work, or have executed what is not booked."""
        desk = self._desk
        owned = desk.known.keys() | desk.restorer.aside
        ours = [x for x in views if desk.restorer.is_ours(x) and x.client_order_id not in owned]
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
