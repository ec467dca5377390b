"""Kelly sizing in the state: when the sizer is asked, and what is heard of it.

The sizer runs in the shell (`engine/kelly.py`); what it says is an event. The size pipeline reads
it from the state (`grid_strategy.py`).
"""

from accounting import equity
from core.actions import RequestKelly
from core.events import KellyUpdated
from core.kelly import Bank, KellyResult, KellyState
from core.params import Params
from core.record import replace
from core.regime import LABELS
from core.state import BotState
from grid.reduction import Reduction
from grid_strategy import KellyFacts


def begin(r: Reduction) -> None:
    """Ask at once, or forget what was heard: a start, or one in other circumstances."""
    if r.params.kelly_enabled:
        r.update(kelly=replace(r.state.kelly, due=r.now))
    elif r.state.kelly != KellyState():
        r.update(kelly=KellyState())


def tend(r: Reduction) -> None:
    """Ask the sizer when it is due."""
    due = ask_due(r.state, r.params)
    if due is None or r.now < due:
        return
    next_due = r.now + r.params.regime_eval_interval_sec
    models_due = r.state.regimes.estimate_due
    if r.params.hmm_enabled and models_due is not None and r.now < models_due < next_due:
        next_due = models_due  # from then on both are asked at once
    r.update(kelly=replace(r.state.kelly, due=next_due, asked_at=r.now))
    r.act(RequestKelly())


def hear(r: Reduction, event: KellyUpdated) -> None:
    """Take in what the sizer says; entries placed from now on go by it."""
    if not r.params.kelly_enabled:
        r.count("kelly_ignored")
        return
    old = r.state.kelly
    for name, found in event.results.items():
        before = old.results.get(name, KellyResult()).reason
        if found.reason != before:
            text = (
                f"{found.reason} after {before}: {found.n_wins} won, {found.n_losses} lost of "
                f"{found.n_total}, f {found.f_star:.4f}, multiplier {found.multiplier:.3f}"
            )
            r.transition("kelly", name, text)
    r.update(
        kelly=replace(
            old, heard_at=r.now, results=event.results, cycles=event.cycles,
            unknown=event.unknown, updates=old.updates + 1,
        )
    )  # fmt: skip


def ask_due(state: BotState, params: Params) -> float | None:
    """Return when the sizer is to be asked next, or None while it is off."""
    return state.kelly.due if params.kelly_enabled else None


def is_outstanding(state: BotState) -> bool:
    """Tell whether the sizer was asked and has not answered: after a restart."""
    asked, heard = state.kelly.asked_at, state.kelly.heard_at
    return asked is not None and (heard is None or heard < asked)


def active_label(state: BotState) -> str | None:
    """Return the label that a position entered now would be tagged with, None if unknown."""
    tag = None if state.regime is None else state.regime.regime
    return None if tag is None else LABELS[tag]


def facts_of(state: BotState, params: Params) -> KellyFacts | None:
    """Return what sizes depend on, None while Kelly is off."""
    if not params.kelly_enabled:
        return None
    worth = equity(state)
    bank = None
    if worth is not None:
        share, slots = float(params.max_equity_share), len(state.slots)
        bank = Bank(equity_usd=float(worth), equity_share=share, slots=slots)
    return KellyFacts(results=state.kelly.results, label=active_label(state), bank=bank)
