"""What the status shows of a start from an older state, and in which words locks end."""

from core.order_id import decode
from core.plain_text import clean_text
from core.record import plain
from core.state import BotState, LockName
from core.status import RestoreBlock, UnboundBlock

CLEARS = {
    LockName.API_ERRORS: "resume, once the exchange answers again",
    LockName.RECONCILIATION: "audit_pnl, when the books agree",
    LockName.FUNDS: "by itself, once funds suffice",
    LockName.EQUITY_STOP: "by itself, once equity is above EQUITY_STOP_USD again",
    LockName.SAFETY: "resume, after looking at what was violated",
    LockName.RESTORE: "by itself, once the exchange has told all; or adopt, or ignore",
}


def restore_block(state: BotState) -> RestoreBlock | None:
    """Return what is known of what a restored state lacks; None where it lacks nothing."""
    restoring = state.restoring
    if restoring is None:
        return None
    return RestoreBlock(
        since=round(restoring.since, 3),
        is_told=restoring.is_told,
        bound=restoring.bound,
        unbound=tuple(
            UnboundBlock(
                order=clean_text(x.txid),
                slot_id=place.slot,
                trade_id=place.trade_id,
                role=place.role,
                side=x.side,
                price=plain(x.price),
                volume=plain(x.volume),
                why=x.why,
            )
            for x in restoring.unbound
            if (place := decode(x.client_order_id)) is not None
        ),
    )
