"""Samples of completed cycles for Kelly statistics: which count, and with what weight."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.kelly import KellyConfig

Cycle = Mapping[str, Any]


def newest_first(cycles: Iterable[Cycle], count: int) -> list[tuple[float, Cycle]]:
    """Return (net profit, cycle) of the newest `count` usable cycles, newest first.

    One whose profit is no finite number does not count; one without a time is older than all.
    """
    usable = [(profit, c) for c in cycles if (profit := number(c.get("net_profit"))) is not None]
    usable.reverse()  # of equal times the later in the list is the newer
    usable.sort(key=lambda x: _exit_time(x[1]), reverse=True)
    return usable[: max(0, count)]


def _exit_time(cycle: Cycle) -> float:
    found = number(cycle.get("exit_time"))
    return -math.inf if found is None else found


def number(value: Any) -> float | None:
    """Return a finite float, or None for everything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def recency_weights(count: int, cfg: KellyConfig) -> list[float]:
    """Return the weights by rank, newest first: exp(−ln 2/halflife · rank)."""
    if not cfg.use_recency_weighting:
        return [1.0] * count
    rate = math.log(2.0) / max(cfg.recency_halflife_cycles, 1e-9)
    return [math.exp(-min(rate * rank, 700.0)) for rank in range(count)]


def n_effective(weights: Sequence[float]) -> float:
    """Return (Σ w)²/Σ w²: how many outcomes of equal weight these are worth."""
    squares = math.fsum(w * w for w in weights)
    return 0.0 if squares <= 0 else math.fsum(weights) ** 2 / squares
