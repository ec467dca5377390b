"""The Kelly block of the status, from the state. Pure; the contract is `core/kelly_status.py`."""

from core.domain import ZERO
from core.kelly import AGGREGATE, BANKROLL, KellyResult, fallback, sizing
from core.kelly_status import KellyBlock, OpenLosersBlock
from core.params import Params
from core.record import plain
from core.state import BotState
from engine.positions import marked_positions
from grid.kelly import active_label, facts_of


def kelly_block(state: BotState, params: Params) -> KellyBlock:
    """Return what completed cycles say of sizes, and what that does now."""
    facts = facts_of(state, params)
    if facts is None:
        return KellyBlock(enabled=False)
    cfg, heard = params.kelly, state.kelly
    label = active_label(state)
    base = float(params.order_size_usd)
    now = sizing(heard.results, label, cfg, base_usd=base, bank=facts.bank)
    sizes = state.counters.get("kelly_sizes", 0)
    capped = state.counters.get("kelly_sizes_capped", 0)

    def told(name: str) -> KellyResult:
        found = heard.results.get(name, KellyResult())
        return KellyResult.from_dict(found.to_dict())  # finite, whatever was heard

    return KellyBlock(
        enabled=True,
        mode=cfg.mode,
        active_regime=label,
        kelly_fraction=cfg.kelly_fraction,
        floor_mult=cfg.kelly_floor_mult,
        ceiling_mult=cfg.kelly_ceiling_mult,
        negative_edge_mult=cfg.negative_edge_mult,
        bearish=told("bearish"),
        ranging=told("ranging"),
        bullish=told("bullish"),
        aggregate=told(AGGREGATE),
        unknown_count=heard.unknown,
        fallback="base size: the equity is not known yet"
        if cfg.mode == BANKROLL and facts.bank is None
        else fallback(heard.results, label, cfg),
        multiplier_now=round(now.multiplier, 6),
        reason_now=now.reason,
        last_update_n=heard.cycles,
        updated_at=heard.heard_at,
        next_update=heard.due,
        sizes=sizes,
        capped_share=round(capped / sizes, 4) if sizes else None,
        open_losers=_losers(state),
    )


def _losers(state: BotState) -> OpenLosersBlock:
    lost = [x.profit for x in marked_positions(state) if x.profit < 0]
    return OpenLosersBlock(count=len(lost), marked_usd=plain(round(sum(lost, ZERO), 2)))
