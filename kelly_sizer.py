"""Order sizes by measured edge: regime-conditional Kelly statistics over completed cycles.

Pure computation, total on any finite input: the daemon feeds cycles and applies the answer, which
never blocks an order. Mode tilt multiplies a size by 1 + c·f*; mode bankroll, in
`kelly_bankroll.py`, asks what share of equity the returns bear. Formulas: Kelly (Bell System
Technical Journal 35, 1956), f* = (b·p − q)/b for odds b.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.kelly import (
    AGGREGATE,
    ALL_WINS,
    BANKROLL,
    INSUFFICIENT,
    NO_EDGE,
    OK,
    PAYOFF_MAX,
    UNKNOWN,
    Book,
    KellyConfig,
    KellyResult,
    fallback,
    sizing,
)
from core.record import parse_regime, replace
from kelly_bankroll import bankroll_results
from kelly_samples import Cycle, newest_first, recency_weights

__all__ = [
    "KellyConfig",
    "KellyResult",
    "KellySizer",
    "compute_kelly_fraction",
    "partition_cycles_by_regime",
]


def compute_kelly_fraction(
    wins: Sequence[float],
    losses: Sequence[float],
    fraction: float = 0.25,
    weights_w: Sequence[float] | None = None,
    weights_l: Sequence[float] | None = None,
) -> KellyResult:
    """Return the Kelly fraction of these outcomes; losses are positive magnitudes.

    Magnitudes that are zero, negative or not finite do not count, nor do weights that are not
    finite and positive. The payoff ratio stays within 1/PAYOFF_MAX and PAYOFF_MAX. Raises
    ValueError when weights and outcomes differ in number.
    """
    won, lost = _sample(wins, weights_w), _sample(losses, weights_l)
    counts = KellyResult(n_total=len(won) + len(lost), n_wins=len(won), n_losses=len(lost))
    top = max((w for _, w in (*won, *lost)), default=0.0)
    if top <= 0.0:
        return counts
    weight_w, avg_win = _weighted_mean(won, top)
    weight_l, avg_loss = _weighted_mean(lost, top)
    p = weight_w / (weight_w + weight_l)
    found = replace(counts, win_rate=p, avg_win=avg_win, avg_loss=avg_loss, sufficient_data=True)
    if weight_w == 0.0:
        return replace(found, edge=-1.0, reason=NO_EDGE)
    is_safe = weight_l == 0.0
    b = PAYOFF_MAX if is_safe else _payoff(avg_win, avg_loss)
    edge = b * p - (1.0 - p)
    f_star = edge / b
    found = replace(found, payoff_ratio=b, edge=edge, f_star=f_star, f_fractional=fraction * f_star)
    if f_star <= 0.0:
        return replace(found, reason=NO_EDGE)
    return replace(found, multiplier=1.0 + fraction * f_star, reason=ALL_WINS if is_safe else OK)


def _payoff(avg_win: float, avg_loss: float) -> float:
    """Return the odds, bounded so that no result leaves the finite numbers."""
    if avg_win >= avg_loss * PAYOFF_MAX:
        return PAYOFF_MAX
    return max(avg_win / avg_loss, 1.0 / PAYOFF_MAX)


def _sample(values: Sequence[float], weights: Sequence[float] | None) -> list[tuple[float, float]]:
    """Return the usable (magnitude, weight) pairs."""
    if weights is None:
        weights = [1.0] * len(values)
    if len(values) != len(weights):
        raise ValueError(f"{len(values)} outcomes, {len(weights)} weights: they must be as many")
    return [
        (x, w if math.isfinite(w) and w > 0.0 else 0.0)
        for x, w in zip(values, weights, strict=True)
        if math.isfinite(x) and x > 0.0
    ]


def _weighted_mean(sample: list[tuple[float, float]], top: float) -> tuple[float, float]:
    """Return the weights' sum, in units of `top`, and the weighted mean; (0, 0) without weight."""
    total = math.fsum(w / top for _, w in sample)
    if total == 0.0:
        return 0.0, 0.0
    largest = max(x for x, _ in sample)
    share = math.fsum(x / largest * (w / top) for x, w in sample) / total
    return total, largest * min(share, 1.0)


def partition_cycles_by_regime(
    cycles: Iterable[Cycle], regime_labels: Mapping[int, str]
) -> dict[str, list[Cycle]]:
    """Return the cycles by the label of their entry's regime, in their order.

    Besides the labels there are "unknown", for tags that are none, and "aggregate", for all.
    """
    parts: dict[str, list[Cycle]] = {label: [] for label in regime_labels.values()}
    parts[UNKNOWN], parts[AGGREGATE] = [], []
    for cycle in cycles:
        tag = parse_regime(cycle.get("regime_at_entry"))
        parts[UNKNOWN if tag is None else regime_labels.get(tag, UNKNOWN)].append(cycle)
        parts[AGGREGATE].append(cycle)
    return parts


# ---- mode tilt ----------------------------------------------------------------------------------


def _tilt(cycles: Iterable[Cycle], cfg: KellyConfig) -> KellyResult:
    """Return what one bucket says, without regard to how few they are."""
    recent = newest_first(cycles, cfg.lookback_cycles)
    weights = recency_weights(len(recent), cfg)
    won = [(x, w) for (x, _), w in zip(recent, weights, strict=True) if x > 0]
    lost = [(-x, w) for (x, _), w in zip(recent, weights, strict=True) if x < 0]
    found = compute_kelly_fraction(
        [x for x, _ in won], [x for x, _ in lost], cfg.kelly_fraction,
        [w for _, w in won], [w for _, w in lost],
    )  # fmt: skip
    return replace(found, n_total=len(recent))


def _tilt_results(parts: Mapping[str, list[Cycle]], cfg: KellyConfig) -> dict[str, KellyResult]:
    """Return what each bucket says; a regime's counts only where there are enough in all."""
    total = _tilt(parts[AGGREGATE], cfg)
    is_enough = total.n_total >= cfg.min_samples_total
    results = {AGGREGATE: _judged(total, is_enough=is_enough)}
    for label in cfg.regime_labels.values():
        found = _tilt(parts[label], cfg)
        is_own_enough = found.n_total >= cfg.min_samples_per_regime
        results[label] = _judged(found, is_enough=is_enough and is_own_enough)
    return results


def _judged(found: KellyResult, *, is_enough: bool) -> KellyResult:
    if found.n_total == 0:
        return KellyResult()
    if not is_enough:
        return replace(found, multiplier=1.0, sufficient_data=False, reason=INSUFFICIENT)
    if found.n_wins + found.n_losses == 0:  # all of them exactly zero: nothing won
        return replace(found, sufficient_data=True, reason=NO_EDGE)
    return found


class KellySizer:
    """The statistics of all cycles by entry-time regime, and the sizes that follow."""

    def __init__(self, cfg: KellyConfig | None = None) -> None:
        self.cfg = cfg or KellyConfig()
        self.results: dict[str, KellyResult] = {}
        self.active_regime: str | None = None
        self.update_count = 0
        self.unknown_count = 0  # of the cycles of the last update, entered in no known regime
        self.last_update_n = 0
        self._book: Book | None = None

    def update(
        self,
        cycles: Iterable[Cycle],
        regime_label: str | int | None = None,
        *,
        book: Book | None = None,
    ) -> dict[str, KellyResult]:
        """Take in all completed cycles; return the results by label, and of the aggregate.

        `regime_label` is the regime now (None: unknown). Cycles are mappings with `net_profit`,
        `regime_at_entry` and `exit_time`; mode bankroll also reads what is tied up
        (`kelly_bankroll.capital`) and needs a `book`.
        """
        known = list(cycles)
        parts = partition_cycles_by_regime(known, self.cfg.regime_labels)
        self.active_regime = self._label(regime_label)
        self.unknown_count, self.last_update_n = len(parts[UNKNOWN]), len(known)
        self._book = book
        if self.cfg.mode == BANKROLL:
            self.results = {} if book is None else bankroll_results(parts, self.cfg, book)
        else:
            self.results = _tilt_results(parts, self.cfg)
        self.update_count += 1
        return dict(self.results)

    def size_for_slot(
        self, base_order_usd: float, regime_label: str | int | None = None
    ) -> tuple[float, str]:
        """Return the order's size in USD and why; without a label that of the last update."""
        label = self.active_regime if regime_label is None else self._label(regime_label)
        bank = None if self._book is None else self._book.bank
        made = sizing(self.results, label, self.cfg, base_usd=base_order_usd, bank=bank)
        return base_order_usd * made.multiplier, made.reason

    def status_payload(self) -> dict[str, Any]:
        """Return what the status shows; finite JSON values only."""
        labels = (*self.cfg.regime_labels.values(), AGGREGATE)
        book = self._book
        return {
            "enabled": True,
            "mode": self.cfg.mode,
            "active_regime": self.active_regime,
            "kelly_fraction": self.cfg.kelly_fraction,
            **{x: self.results.get(x, KellyResult()).to_dict() for x in labels},
            "unknown_count": self.unknown_count,
            "fallback": fallback(self.results, self.active_regime, self.cfg),
            "last_update_n": self.last_update_n,
            "open_losers": {
                "count": 0 if book is None else book.open_losers,
                "marked_usd": 0.0 if book is None else book.open_losers_usd,
            },
        }

    def snapshot_state(self) -> dict[str, Any]:
        """Return what a restart needs; the results are computed anew."""
        return {"active_regime": self.active_regime, "update_count": self.update_count}

    def restore_state(self, data: Any) -> None:
        """Take up what `snapshot_state` gave; anything else is left alone."""
        if not isinstance(data, Mapping):
            return
        label, count = data.get("active_regime"), data.get("update_count")
        self.active_regime = self._label(label)
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            self.update_count = count

    def _label(self, value: Any) -> str | None:
        """Return the label that an id, a label or a legacy text means, None for anything else."""
        if isinstance(value, str) and value in self.cfg.regime_labels.values():
            return value
        tag = parse_regime(value)
        return None if tag is None else self.cfg.regime_labels.get(tag)
