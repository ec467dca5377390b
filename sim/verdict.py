"""Whether one sizing was better than another on the same fills, and what chance does.

Paired daily log growth with an interval of the stationary bootstrap (Politis and Romano, JASA 89,
1994), its mean block by the rule of Politis and White (Econometric Reviews 23, 2004; corrected
with Patton, 2009), and a permutation test against shuffles of the tested sizes. Total: what cannot
be judged is not distinguishable, with the reason. Nothing here says what will be.
"""

import math

import numpy as np
import numpy.typing as npt

from core.plain_text import counted
from core.record import Record

Floats = npt.NDArray[np.float64]

BETTER, WORSE, SAME = "BETTER", "WORSE", "NOT DISTINGUISHABLE"
DAYS_MIN = 20
DRAWS = 2_000
P_MAX = 0.05
POWER = 2.8  # standard errors that a two-sided 5 % test sees in 80 % of cases: 1.96 + 0.84
ALIKE = 1e-12  # differences of growth a day below this are rounding


class Interval(Record, frozen=True, kw_only=True):
    """The mean of a daily series with its 95 % interval (percentiles of the bootstrap)."""

    mean: float
    low: float
    high: float
    error: float  # standard error
    block_days: int  # mean length of a block

    @property
    def detectable(self) -> float:
        """Return the smallest true mean that would mostly be seen: 2.8 standard errors."""
        return POWER * self.error


class Verdict(Record, frozen=True, kw_only=True):
    """The word, why, and the numbers it rests on; log growth a day, of the tested less fixed."""

    word: str
    sentence: str
    reason: str | None = None  # why nothing could be judged, or what was not met
    days: int
    interval: Interval | None = None
    detectable: float | None = None
    placebos: int = 0
    p_better: float | None = None  # share of shuffles that did as well, the tested one counted
    p_worse: float | None = None  # share that did as badly


def judge(
    name: str,
    *,
    tested: Floats,
    matched: Floats,
    placebo: Floats,
    multipliers: Floats,
    seed: int = 0,
) -> Verdict:
    """Return the verdict on the sizing `name`.

    `tested` and `matched`: daily equity, (days + 1,), of it and of fixed sizes with the same mean
    notional; `placebo`: log growth a day of each shuffle of its `multipliers`.
    """
    reason = _unjudged(tested, matched, multipliers)
    days = max(0, len(tested) - 1)
    if reason is not None:
        return Verdict(word=SAME, sentence=f"{SAME}: {name}: {reason}.", reason=reason, days=days)
    difference = np.diff(np.log(tested)) - np.diff(np.log(matched))
    if np.ptp(difference) <= ALIKE:
        reason = "its daily growth differs from that of fixed sizes by a constant, or not at all"
        return Verdict(word=SAME, sentence=f"{SAME}: {name}: {reason}.", reason=reason, days=days)
    found = bootstrap(difference, seed=seed)
    own = math.log(tested[-1] / tested[0]) / days
    p_better = placebo_p(placebo, own)
    p_worse = placebo_p(-placebo, -own)
    word, unmet = _word(found, p_better, p_worse)
    return Verdict(
        word=word,
        sentence=_sentence(name, word, unmet, found, days),
        reason=unmet,
        days=days,
        interval=found,
        detectable=found.detectable,
        placebos=len(placebo),
        p_better=p_better,
        p_worse=p_worse,
    )


def bootstrap(series: Floats, *, seed: int = 0, block: int | None = None) -> Interval:
    """Return the mean of `series` (≥ 4 days, not constant) with its interval.

    `block`: mean length of a block in days, by default Politis and White's.
    """
    from arch.bootstrap import (  # noqa: PLC0415 - it takes two seconds
        StationaryBootstrap,
        optimal_block_length,
    )

    if block is None:
        with np.errstate(invalid="ignore", divide="ignore"):
            best = float(optimal_block_length(series)["stationary"].iloc[0])
        block = min(math.ceil(best), len(series) // 2) if math.isfinite(best) else 1
    drawn = StationaryBootstrap(block, series, seed=seed).apply(np.mean, DRAWS)[:, 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(
        mean=float(series.mean()),
        low=float(low),
        high=float(high),
        error=float(drawn.std(ddof=1)),
        block_days=block,
    )


def placebo_p(placebo: Floats, observed: float) -> float:
    """Return (1 + shuffles that did at least as well) ÷ (1 + shuffles); alike counts as well."""
    return (1 + int((placebo >= observed - ALIKE).sum())) / (1 + len(placebo))


# ---- helpers ------------------------------------------------------------------------------------


def _unjudged(tested: Floats, matched: Floats, multipliers: Floats) -> str | None:
    """Return why these curves cannot be judged, or None."""
    if len(tested) != len(matched):
        return "the curves have different lengths"
    if len(multipliers) == 0:
        return "there were no cycles"
    if np.ptp(multipliers) <= ALIKE:
        return "its sizes did not vary"
    if len(tested) - 1 < DAYS_MIN:
        return f"{counted(max(0, len(tested) - 1), 'whole day')} with prices; {DAYS_MIN} are needed"
    for equity in (tested, matched):
        if not (np.isfinite(equity).all() and (equity > 0).all()):
            return "equity was used up"
    return None


def _word(found: Interval, p_better: float, p_worse: float) -> tuple[str, str | None]:
    """Return the word and, without distinction, what was not met."""
    if found.low > 0 and p_better < P_MAX:
        return BETTER, None
    if found.high < 0 and p_worse < P_MAX:
        return WORSE, None
    if found.low > 0:
        return SAME, f"shuffles of its sizes did as well too often (p {p_better:.3f})"
    if found.high < 0:
        return SAME, f"shuffles of its sizes did as badly too often (p {p_worse:.3f})"
    return SAME, "the interval includes no difference"


def _sentence(name: str, word: str, unmet: str | None, found: Interval, days: int) -> str:
    """Return the verdict in plain words."""
    grew = (
        f"{name} grew {100 * abs(found.mean):.4f} % a day "
        f"{'more' if found.mean >= 0 else 'less'} than fixed sizes of the same mean notional "
        f"(95 % interval {100 * found.low:.4f} to {100 * found.high:.4f}, {days} days)"
    )
    if word == SAME:
        return (
            f"{word}: {grew}; {unmet}. A true difference below "
            f"{100 * found.detectable:.4f} % a day would mostly not be seen in these data."
        )
    how = "well" if word == BETTER else "badly"
    return f"{word}: {grew}, and few shuffles of its sizes did as {how}. No promise for other data."
