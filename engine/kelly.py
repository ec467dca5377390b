"""Feeds the Kelly sizer with completed cycles and open positions, and passes its word on."""

import logging
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from accounting import equity
from core.domain import HUNDRED
from core.events import KellyUpdated
from core.kelly import NO_DATA, TILT, Bank, Book, OpenPosition
from core.params import Params
from core.record import replace
from core.state import BotState
from engine.positions import marked_positions
from engine.runtime import Runtime
from grid.kelly import active_label, is_outstanding
from kelly_sizer import KellySizer

log = logging.getLogger("kelly")

HORIZON_SEC, CYCLES_MIN = 4 * 3600.0, 30
NO_DATA_SAID = f"{NO_DATA} f=0.0000 m=1.000"
Cycles = list[dict[str, Any]]


class KellyDesk:
    """The sizer of a run. `recent_cycles(limit)` gives the newest of each regime, oldest first."""

    def __init__(self, recent_cycles: Callable[[int], Cycles]) -> None:
        self._recent_cycles = recent_cycles
        self._said: dict[str, str] = {}
        self._known: tuple[object, KellyUpdated] | None = None  # after so many cycles

    def update(self, state: BotState, params: Params) -> KellyUpdated:
        """Return the statistics of all cycles completed so far; in mode tilt they are all of it."""
        cfg = params.kelly
        basis = (state.counters.get("cycles", 0), cfg)
        if cfg.mode == TILT and self._known is not None and self._known[0] == basis:
            return replace(self._known[1], time=state.now)
        cycles = self._recent_cycles(cfg.lookback_cycles)
        sizer = KellySizer(cfg)
        results = sizer.update(
            cycles, active_label(state), book=book_of(state, params, horizon_sec(cycles))
        )
        if cfg.log_kelly_updates:
            self._tell(results)
        updated = KellyUpdated(
            time=state.now,
            results=results,
            cycles=sizer.last_update_n,
            unknown=sizer.unknown_count,
        )
        self._known = (basis, updated)
        return updated

    def _tell(self, results: Mapping[str, Any]) -> None:
        """Log what has changed since the last time, once for each bucket."""
        for name, found in results.items():
            said = f"{found.reason} f={found.f_star:.4f} m={found.multiplier:.3f}"
            if self._said.get(name, NO_DATA_SAID) != said:
                self._said[name] = said
                log.info("kelly bucket=%s n=%d reason=%s", name, found.n_total, said)


def begin_sizer(runtime: Runtime, sizer: KellyDesk) -> None:
    """Have sizes follow from completed cycles, and answer what was asked last."""
    runtime.sizer = sizer
    if is_outstanding(runtime.state):
        runtime.step(sizer.update(runtime.state, runtime.params))


def horizon_sec(cycles: Cycles) -> float:
    """Return for how long a cycle is open in the median, 4 h until there are enough."""
    spans = [x["exit_time"] - x["entry_time"] for x in cycles]
    return median(spans) if len(spans) >= CYCLES_MIN else HORIZON_SEC


def structural_loss(params: Params) -> float:
    """Return what a loss would cost, as a fraction, where none was seen."""
    adverse = params.orphan_min_adverse_pct or params.profit_pct  # where an exit is given up
    return float(max(adverse, params.profit_pct) / HUNDRED)


def book_of(state: BotState, params: Params, horizon_sec: float) -> Book | None:
    """Return what sizes are a share of, and the open positions at mark; None without a market."""
    worth = equity(state)
    if worth is None:
        return None
    return Book(
        now=state.now,
        bank=Bank(
            equity_usd=float(worth),
            equity_share=float(params.max_equity_share),
            slots=len(state.slots),
        ),
        horizon_sec=horizon_sec,
        structural_loss=structural_loss(params),
        base_usd=float(params.order_size_usd),
        positions=tuple(
            OpenPosition(
                regime_at_entry=x.position.regime_at_entry,
                opened_at=x.position.filled_at,
                capital_usd=float(x.tied),
                marked_usd=float(x.profit),
            )
            for x in marked_positions(state)
        ),
    )
