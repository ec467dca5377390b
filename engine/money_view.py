"""The blocks of the status about money; see `engine/status_view.py`."""

from decimal import Decimal

import core.status as s
from accounting import benchmarks, breakdown, equity, trial_balance
from core.domain import HUNDRED
from core.params import Params
from core.record import exact, rounded
from core.state import BotState
from grid.watch import beyond_rounding
from grid_strategy import break_even_pct, net_per_cycle_pct
from risk import drawdown


def rounded_or_null(value: Decimal | None, decimals: int) -> str | None:
    """Return `value` rounded, as text, or None where there is none."""
    return None if value is None else rounded(value, decimals)


def share_pct(part: Decimal, whole: Decimal, decimals: int = 3) -> str | None:
    """Return which percentage of `whole` the part is, as text; None of nothing."""
    return rounded(part * HUNDRED / whole, decimals) if whole > 0 else None


def equity_block(state: BotState, params: Params) -> s.EquityBlock:
    """Return equity and what explains it; `params` are those in force for all slots."""
    own, now, lines = state.balances, equity(state), breakdown(state)
    held = _holding(state, now)
    start = None if lines is None or now is None else now - lines.change
    mark = None if state.market is None else state.market.bid
    return s.EquityBlock(
        equity=rounded_or_null(now, 8),
        cash=rounded(own.quote, 8),
        base=exact(own.base),
        inventory=None if mark is None else rounded(own.base * mark, 8),
        start_equity=rounded_or_null(start, 8),
        drawdown_pct=rounded(drawdown(state, params) * HUNDRED, 3),
        change=None
        if lines is None
        else s.Change(
            total=exact(lines.change),
            grid_profit=exact(lines.grid_profit),
            inventory_pnl=exact(lines.inventory_pnl),
            fees=exact(lines.fees),
            flows=exact(lines.flows),
            unexplained=exact(lines.unexplained),
        ),
        change_pct=None if lines is None or start is None else share_pct(lines.change, start),
        holding=held,
        holding_base=None if held is None else exact(own.start_base + own.flow_base),
        holding_quote=None if held is None else rounded(own.start_quote + own.flow_quote, 8),
        liquidation_cost=None if lines is None else rounded(lines.liquidation_cost, 8),
        economics=_economics(state, params),
    )


def _holding(state: BotState, now: Decimal | None) -> s.Holding | None:
    values = benchmarks(state)
    if values is None or now is None:
        return None

    def against(value: Decimal) -> s.Comparison:
        ahead = now - value
        return s.Comparison(
            value=rounded(value, 8), ahead=rounded(ahead, 8), ahead_pct=share_pct(ahead, value)
        )

    return s.Holding(
        start=against(values.hold),
        usd=against(values.usd),
        doge=against(values.doge),
        half=against(values.half),
    )


def _economics(state: BotState, params: Params) -> s.Economics:
    maker, target = state.fees.maker, params.profit_pct
    net = net_per_cycle_pct(target, maker)
    gross = -(state.accounts.grid_profit + state.accounts.unbooked)
    counters = state.counters
    return s.Economics(
        profit_pct=rounded(target, 4),
        break_even_pct=rounded(break_even_pct(maker), 4),
        net_per_cycle_pct=rounded(net, 4),
        net_per_cycle_usd=rounded(params.order_size_usd * net / HUNDRED, 4),
        fee_share_pct=share_pct(target - net, target, 1),
        paid_fee_share_pct=share_pct(state.accounts.fees, gross, 1),
        cycles=counters.get("cycles", 0),
        wins=counters.get("wins", 0),
        losses=counters.get("losses", 0),
    )


def ledger_block(state: BotState) -> s.LedgerBlock:
    """Return our books against the exchange's last report."""
    own = state.balances
    at = own.reported_at  # an older report than the last execution says nothing of it
    is_known = at is not None and at >= (own.last_execution_at or 0.0)
    base, quote = own.reported_base - own.base, own.reported_quote - own.quote
    return s.LedgerBlock(
        drift_base=exact(base) if is_known else None,
        drift_quote=exact(quote) if is_known else None,
        agrees=not any(beyond_rounding(state, base, quote)) if is_known else None,
        drift_since=own.drift_since,
        reported_at=own.reported_at,
        is_balanced=trial_balance(state.accounts) == 0,
    )
