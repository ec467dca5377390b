"""Open positions at mark: what closing them now would bring, after fees."""

from collections.abc import Iterator
from decimal import Decimal

from core.domain import ZERO, Position, TradeId
from core.record import Record
from core.state import BotState, Exiting
from grid_strategy import marked_profit


class Marked(Record, frozen=True, kw_only=True):
    """One open position; `tied` is a buy's cost with its fee, or the value of what was sold."""

    slot_id: int
    position: Position
    trade_id: TradeId
    tied: Decimal
    profit: Decimal  # at the bid, less both fees


def marked_positions(state: BotState) -> Iterator[Marked]:
    """Yield all open exits and recoveries; none without a market."""
    if state.market is None:
        return
    mark = state.market.bid
    for slot_id, trade_id, position in _open(state):
        share = position.open_volume / position.volume
        fees = position.fees * share
        closing = state.fees.maker * position.open_volume * mark
        yield Marked(
            slot_id=slot_id,
            position=position,
            trade_id=trade_id,
            tied=position.open_cost + (fees if trade_id is TradeId.B else ZERO),
            profit=marked_profit(position, trade_id, mark) - fees - closing,
        )


def _open(state: BotState) -> Iterator[tuple[int, TradeId, Position]]:
    for slot in state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Exiting):
                yield slot.slot_id, leg.trade_id, leg.state.position
        for recovery in slot.recovery_orders:
            yield slot.slot_id, recovery.trade_id, recovery.position
