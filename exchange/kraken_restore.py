"""What our orders did since a restored state, told in the order in which it happened.

The bot binds each order to the place that its id names before it hears of its executions; so all is
read first, sorted by the exchange's own times, and then told. Nothing else is told meanwhile.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from core import events as e
from core.order_id import decode
from core.state import BotState
from exchange.kraken_budget import Priority
from exchange.kraken_errors import ending
from exchange.kraken_reads import CallFailed
from exchange.kraken_records import OrderView, TradeView
from exchange.kraken_watch import fill_event

if TYPE_CHECKING:
    from exchange.kraken_desk import Desk

log = logging.getLogger("kraken")

RETRY_SEC = 5.0
WINDOW_SEC = 86_400.0
WAIT_SEC = 0.25  # between two looks at whether the loop has taken what was told
# Of what happened at the same instant: executions, then what ended, then what was opened.
_FILL, _CLOSE, _OPEN = range(3)


class Restorer:
    """Holds a desk's other work back until a restored state has been told all of it."""

    def __init__(self, desk: "Desk") -> None:
        self.epochs: frozenset[int] = frozenset((desk.epoch,))  # that ids of our orders may carry
        self.aside: frozenset[str] = frozenset()  # client ids that a person decides about
        self._desk = desk
        self._since: float | None = None
        self._told: float | None = None  # of which restored state all has been posted
        self._again_at = 0.0

    def watch(self, state: BotState) -> None:
        """Take note of what the state lacks."""
        restoring = state.restoring
        self.epochs = frozenset((self._desk.epoch, *state.former_epochs))
        unbound = () if restoring is None else restoring.unbound
        self.aside = frozenset((*state.ignored, *(x.client_order_id for x in unbound)))
        is_untold = restoring is not None and not restoring.is_told
        self._since = restoring.since if restoring is not None and is_untold else None

    def is_ours(self, view: OrderView) -> bool:
        """Tell whether an order carries our tag, and an epoch of the state's."""
        place = decode(view.client_order_id or "")
        return place is not None and place.tag == self._desk.tag and place.epoch in self.epochs

    def step(self) -> float | None:
        """Tell what is to be told; return when to come again, None: nothing is waited for."""
        since, now = self._since, self._desk.clock()
        if since is None:
            return None
        if since != self._told and now >= self._again_at:
            try:
                self._tell(since)
                self._told = since
            except CallFailed as error:
                self._again_at = now + max(error.pause_sec, RETRY_SEC)
                if not error.is_stop:
                    log.warning("reading what happened since the restored state failed: %s", error)
        return now + WAIT_SEC

    def _tell(self, since: float) -> None:
        """Post what became of our orders, and that it is all; nothing where a call fails."""
        desk, reader = self._desk, self._desk.reader
        start = since + reader.offset_sec
        views = {x.txid: x for x in reader.open_orders(Priority.EXECUTIONS)}
        # Read later, so that an order that ends meanwhile is seen as ended.
        views |= {x.txid: x for x in self._closed(start)}
        lacking = {x.txid: x for x in desk.known.values() if x.txid and x.txid not in views}
        views |= {x.txid: x for x in reader.orders(list(lacking), Priority.EXECUTIONS)}
        oldest = min((x.placed_at + reader.offset_sec for x in lacking.values()), default=start)
        trades: dict[str, list[TradeView]] = {}
        for trade in self._trades(min(start, oldest)):
            trades.setdefault(trade.txid, []).append(trade)
        booked = desk.booked({x.execution_id for some in trades.values() for x in some})
        happened: list[tuple[float, int, int, e.Event]] = []
        for view in views.values():
            if self.is_ours(view) and view.pair in desk.facts.names:
                fresh = [x for x in trades.get(view.txid, ()) if x.execution_id not in booked]
                for at, rank, event in self._happened(view, fresh):
                    happened.append((at, rank, len(happened), event))
        for _, _, _, event in sorted(happened, key=lambda x: x[:3]):
            desk.post(event)
        desk.post(e.RestoreTold(time=desk.clock()))

    def _closed(self, start: float) -> Iterator[OrderView]:
        """Yield orders closed since an instant, read in windows: no walk is too long."""
        for first, last in self._windows(start):
            yield from self._desk.reader.closed_orders(first, Priority.EXECUTIONS, end=last)

    def _trades(self, start: float) -> Iterator[TradeView]:
        for first, last in self._windows(start):
            yield from self._desk.reader.trades(first, Priority.EXECUTIONS, end=last)

    def _windows(self, start: float) -> Iterator[tuple[float, float | None]]:
        """Yield windows of exchange time from `start` to now, which has no end."""
        while start + WINDOW_SEC < self._desk.clock() + self._desk.reader.offset_sec:
            yield start, start + WINDOW_SEC
            start += WINDOW_SEC
        yield start, None

    def _happened(
        self, view: OrderView, fresh: Sequence[TradeView]
    ) -> Iterator[tuple[float, int, e.Event]]:
        """Yield what happened to one order, each with its time and rank."""
        desk, now, order_id = self._desk, self._desk.clock(), view.client_order_id or ""
        offset = desk.reader.offset_sec
        known = desk.known.get(order_id)
        if known is not None:
            if not desk.is_same(known, view):
                return
            found = e.OrderFound(
                time=now, client_order_id=order_id, txid=view.txid, executed=view.executed
            )
            yield view.opened_at, _OPEN, found
        elif view.is_over and not fresh:
            return  # over without a trace, or part of the state already
        else:
            first = min((x.time for x in fresh), default=view.opened_at)
            is_at_once = first <= view.opened_at  # executed the instant it was opened
            opened = e.OrderRestored(
                time=now,
                client_order_id=order_id,
                txid=view.txid,
                side=view.side,
                price=view.price,
                volume=view.volume,
                opened_at=view.opened_at - offset,
            )
            yield min(first, view.opened_at), _FILL if is_at_once else _OPEN, opened
        for trade in fresh:
            yield trade.time, _FILL, fill_event(order_id, trade, now=now, offset_sec=offset)
        if view.is_over and view.closed_at is not None:
            closed = e.OrderClosed(
                time=now, client_order_id=order_id, reason=ending(view), executed=view.executed
            )
            yield view.closed_at, _CLOSE, closed
