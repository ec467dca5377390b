"""Our live orders and ghosts, as much of them as following them at the exchange takes."""

from decimal import Decimal

from accounting import orders
from core import events as e
from core.domain import ZERO, OrderStatus, Side
from core.record import Record
from core.state import BotState
from exchange.kraken_records import OrderView, TradeView

GHOST_SEC = 2 * 86_400.0  # so long before it was found a ghost may have executed


class Watched(Record, frozen=True, kw_only=True):
    """An order that the state knows: an intent that may live, or a ghost (no price, no volume)."""

    client_order_id: str
    txid: str | None
    side: Side
    price: Decimal | None
    volume: Decimal | None
    status: OrderStatus
    placed_at: float
    filled: Decimal = ZERO
    execution_ids: tuple[str, ...] = ()
    is_ghost: bool = False
    since: float = 0.0  # no execution that is not known yet is older

    def differs_from(self, view: OrderView) -> bool:
        """Tell whether an order there that carries this one's id is another than was meant."""
        if view.side is not self.side:
            return True
        if self.txid is not None:  # known by its number, it may have been amended by a person
            return view.txid != self.txid
        return view.price != self.price or view.volume != self.volume


def watched(state: BotState) -> dict[str, Watched]:
    """Return every order to follow, by client order id."""
    found = {
        x.client_order_id: Watched(
            client_order_id=x.client_order_id,
            txid=x.txid,
            side=x.side,
            price=x.price,
            volume=x.volume,
            status=x.status,
            placed_at=x.placed_at,
            filled=x.filled_volume,
            execution_ids=x.execution_ids,
            since=x.placed_at,
        )
        for x in orders(state)
    }
    for ghost in state.ghosts:
        found[ghost.client_order_id] = Watched(
            client_order_id=ghost.client_order_id,
            txid=ghost.txid,
            side=ghost.side,
            price=None,
            volume=None,
            status=OrderStatus.CANCELLING,
            placed_at=ghost.found_at,
            filled=ghost.executed,
            execution_ids=ghost.execution_ids,
            is_ghost=True,
            since=ghost.found_at - GHOST_SEC if ghost.since is None else ghost.since,
        )
    return found


def fill_event(
    client_order_id: str, trade: TradeView, *, now: float, offset_sec: float
) -> e.FillEvent:
    """Return an execution as the bot hears of it; `offset_sec`: exchange time less ours."""
    return e.FillEvent(
        time=now,
        client_order_id=client_order_id,
        txid=trade.txid,
        execution_id=trade.execution_id,
        price=trade.price,
        volume=trade.volume,
        cost=trade.cost,
        fee=trade.fee,
        executed_at=trade.time - offset_sec,
        is_maker=trade.is_maker,
    )
