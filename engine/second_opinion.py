"""From settings to the advisor of a run. A program, as `engine/wiring.py`."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ai_advisor import KIMI, LLAMA_8B, LLAMA_70B, panel
from config import Settings
from core.ports import Advisor, StoreError
from core.record import replace
from core.state import BotState
from engine.advisor import AdvisorDesk, open_desk
from engine.advisor_context import HORIZONS_SEC, ContextFacts, trend_of
from engine.advisor_view import AdvisorFacts
from engine.books import Check
from store.history import SqliteHistory

if TYPE_CHECKING:
    from engine.models import RegimeModels

HOUR_SEC = 3_600.0


def open_advisor(
    settings: Settings,
    history: SqliteHistory,
    models: "RegimeModels | None",
    woken: Callable[[], None],
) -> AdvisorDesk | None:
    """Return the desk of a run, or None where the advisor is off; `woken` wakes the loop."""
    if not settings.params.advice.enabled:
        return None
    keys = {
        "NVIDIA_API_KEY": settings.nvidia_api_key,
        "GROQ_API_KEY": settings.groq_api_key,
        "AI_API_KEY": settings.ai_api_key,
    }
    named = {
        KIMI.name: settings.ai_kimi_model,
        LLAMA_70B.name: settings.ai_llama_70b_model,
        LLAMA_8B.name: settings.ai_llama_8b_model,
    }
    return open_desk(
        keys={name: key for name, key in keys.items() if key is not None},
        facts=lambda state: _facts(state, history, models),
        woken=woken,
        debounce_sec=settings.params.advice.debounce_sec,
        panelists=panel(
            prefer_reasoning=settings.ai_prefer_reasoning,
            models=named,
            base_url=settings.ai_base_url or "",
            model=settings.ai_model or "",
        ),
    )


def _facts(state: BotState, history: SqliteHistory, models: "RegimeModels | None") -> ContextFacts:
    """Return what the shell knows of a market at the present instant of the loop."""
    made = ContextFacts()
    with suppress(StoreError):  # then the rest is not known
        made = replace(made, fills_last_hour=history.fills_since(state.now - HOUR_SEC))
        if models is not None:
            own, second = models.matrices()
            made = replace(made, transmat=own, transmat_secondary=second)
            closes = models.closes(state.now, max(HORIZONS_SEC))
            made = replace(made, trend=trend_of(closes, state.now))
    return made


def advisor_checks(settings: Settings) -> list[Check]:
    """Return the line of `check` on the advisor; none where it is off. Nobody is asked."""
    desk = open_advisor(settings, SqliteHistory(settings.state_db), None, lambda: None)
    if desk is None:
        return []
    found = [x for x in desk.providers() if x.state != "no_key"]
    named = [f"{x.name} ({x.model} at {x.host})" for x in found]
    text = ", then ".join(named) or "nobody to ask: no key and no AI_BASE_URL is set"
    return [Check(name="second opinion", is_ok=bool(named), detail=text)]


def advisor_view(advisor: Advisor | None) -> AdvisorFacts:
    """Return what the status shows of the panel and the thread that asks it."""
    if advisor is None:
        return AdvisorFacts()
    return AdvisorFacts(providers=advisor.providers(), worker=advisor.worker())
