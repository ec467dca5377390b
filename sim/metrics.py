"""Figures of one equity curve and of its cycles; None wherever a figure is not defined.

Equity is one mark a UTC day, at liquidation (bid less taker fee); returns are simple, of whole days
with prices; a year has 365 days, the riskless rate is 0. Sources: Bailey and López de Prado, "The
Sharpe ratio efficient frontier" (Journal of Risk 15, 2012: PSR, MinTRL) and "The deflated Sharpe
ratio" (Journal of Portfolio Management 40, 2014); Wilson (JASA 22, 1927) for the interval of a
share; Martin and McCann (1989) for the ulcer index.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from core.record import Record, replace

Floats = npt.NDArray[np.float64]

YEAR_DAYS = 365
CAGR_DAYS_MIN = 90  # of a shorter run the total return says all
TAIL = 0.05
CONFIDENCE = 0.95


class Trials(Record, frozen=True, kw_only=True):
    """All configurations that were ever evaluated on the data."""

    count: int
    variance: float  # of their Sharpe ratios per day


class Curve(Record, frozen=True, kw_only=True):
    """Figures of daily equity. Fractions; drawdowns and downside are positive, CVaR is a return."""

    days: int  # that count: whole ones with prices
    total_return: float | None = None
    cagr: float | None = None
    growth_per_day: float | None = None  # mean log growth
    volatility: float | None = None  # a year
    sharpe_per_day: float | None = None
    sharpe: float | None = None  # a year
    sortino: float | None = None  # a year
    drawdown_max: float | None = None
    drawdown_days: int | None = None  # of the deepest: from its peak to recovery or the end
    ulcer: float | None = None
    cvar_95: float | None = None  # mean of the worst 5 % of days
    calmar: float | None = None
    psr: float | None = None  # probability that the true Sharpe ratio is positive
    track_days_min: float | None = None  # MinTRL: days for a PSR of 95 %
    deflated_sharpe: float | None = None

    def without_days(self) -> "Curve":
        """Return the figures less those that rest on single days."""
        return replace(self, **dict.fromkeys(OF_DAYS))


OF_DAYS = (
    "volatility", "sharpe_per_day", "sharpe", "sortino", "cvar_95", "psr", "track_days_min",
    "deflated_sharpe",
)  # fmt: skip


class CycleFigures(Record, frozen=True, kw_only=True):
    """Figures of completed cycles; the win rate is of those that won or lost."""

    count: int
    wins: int
    win_rate: float | None = None
    win_rate_low: float | None = None  # Wilson, 95 %
    win_rate_high: float | None = None
    profit_factor: float | None = None  # won ÷ lost
    expectancy: float | None = None  # mean net profit
    holding_p50_sec: float | None = None
    holding_p95_sec: float | None = None


def curve(
    equity: Floats,
    trials: Trials | None = None,
    *,
    elapsed_days: float | None = None,
    whole: Floats | None = None,
) -> Curve:
    """Return the figures of `equity`, float64 (marks,): the first mark is the start.

    `whole`: equity in whole days with prices alone, float64 (days + 1,), where not every mark ends
    such a day; what rests on single days is of these. `elapsed_days`: the time from the first mark
    to the last, of which growth is a day's.
    A curve that touches zero, or holds a number that is not finite, has its length only.
    """
    whole = equity if whole is None else whole
    days = max(0, len(whole) - 1)
    if len(equity) < 2 or not (np.isfinite(equity).all() and (equity > 0).all()):
        return Curve(days=days)
    total = float(equity[-1] / equity[0])
    span = elapsed_days or float(len(equity) - 1)
    cagr = _finite(_power(total, YEAR_DAYS / span) - 1.0) if span >= CAGR_DAYS_MIN else None
    drawdown = 1.0 - equity / np.maximum.accumulate(equity)
    deepest = float(drawdown.max())
    found = Curve(
        days=days,
        total_return=_finite(total - 1.0),
        cagr=cagr,
        growth_per_day=_finite(math.log(total) / span) if total > 0 else None,
        drawdown_max=deepest,
        drawdown_days=_deepest_days(equity, drawdown),
        ulcer=math.sqrt(float(np.mean(drawdown**2))),
        calmar=None if cagr is None else _ratio(cagr, deepest),
    )
    return found if days == 0 else _with_ratios(found, whole[1:] / whole[:-1] - 1.0, trials)


def _with_ratios(found: Curve, returns: Floats, trials: Trials | None) -> Curve:
    """Return the figures with those that rest on single days."""
    annual, mean = math.sqrt(YEAR_DAYS), float(returns.mean())
    volatility = _deviation(returns)
    sharpe = _ratio(mean, volatility)
    sortino = _ratio(mean, math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2))))
    worst = np.sort(returns)[: math.ceil(TAIL * len(returns))]
    found = replace(
        found,
        volatility=None if volatility is None else _finite(volatility * annual),
        sharpe_per_day=sharpe,
        sharpe=None if sharpe is None else _finite(sharpe * annual),
        sortino=None if sortino is None else _finite(sortino * annual),
        cvar_95=_finite(float(worst.mean())),
    )
    return found if sharpe is None else _with_evidence(found, sharpe, returns, trials)


def _with_evidence(found: Curve, sharpe: float, returns: Floats, trials: Trials | None) -> Curve:
    """Return the figures with what the Sharpe ratio is worth as evidence."""
    skew, kurtosis = float(stats.skew(returns)), float(stats.kurtosis(returns, fisher=False))
    shape = {"skew": skew, "kurtosis": kurtosis}
    best = None if trials is None else expected_best_sharpe(trials)
    deflated = None
    if best is not None:
        deflated = probabilistic_sharpe(sharpe, days=found.days, against=best, **shape)
    return replace(
        found,
        psr=probabilistic_sharpe(sharpe, days=found.days, **shape),
        track_days_min=track_record_days(sharpe, **shape),
        deflated_sharpe=deflated,
    )


def probabilistic_sharpe(
    sharpe: float, *, days: int, skew: float = 0.0, kurtosis: float = 3.0, against: float = 0.0
) -> float | None:
    """Return the probability that the true Sharpe ratio exceeds `against`; both per day.

    `kurtosis` is 3 for the normal distribution.
    """
    variance = _sharpe_variance(sharpe, skew, kurtosis)
    if variance is None or days < 2:
        return None
    return _finite(float(stats.norm.cdf((sharpe - against) * math.sqrt((days - 1) / variance))))


def track_record_days(
    sharpe: float, *, skew: float = 0.0, kurtosis: float = 3.0, against: float = 0.0
) -> float | None:
    """Return how many days a Sharpe ratio per day needs for a PSR of 95 %: MinTRL."""
    variance = _sharpe_variance(sharpe, skew, kurtosis)
    if variance is None or sharpe <= against:
        return None
    z = float(stats.norm.ppf(CONFIDENCE))
    return _finite(1.0 + variance * _power(z / (sharpe - against), 2.0))


def expected_best_sharpe(trials: Trials) -> float | None:
    """Return the Sharpe ratio per day that the best of so many trials has without any skill."""
    n, variance = trials.count, trials.variance
    if n < 1 or not (math.isfinite(variance) and variance >= 0.0):
        return None
    if n == 1:
        return 0.0
    gamma = float(np.euler_gamma)
    top, next_top = stats.norm.ppf([1.0 - 1.0 / n, 1.0 - 1.0 / (n * math.e)])
    return _finite(math.sqrt(variance) * float((1.0 - gamma) * top + gamma * next_top))


def cycle_figures(net_profit: Floats, holding_sec: Floats) -> CycleFigures:
    """Return the figures of cycles by net profit, in quote, and the time from entry to exit."""
    count = len(net_profit)
    if count == 0:
        return CycleFigures(count=0, wins=0)
    won, lost = net_profit[net_profit > 0], net_profit[net_profit < 0]
    decided = len(won) + len(lost)
    low, high = wilson(len(won), decided)
    p50, p95 = np.percentile(holding_sec, [50, 95])
    return CycleFigures(
        count=count,
        wins=len(won),
        win_rate=len(won) / decided if decided else None,
        win_rate_low=low,
        win_rate_high=high,
        profit_factor=_ratio(float(won.sum()), float(-lost.sum())),
        expectancy=_finite(float(net_profit.mean())),
        holding_p50_sec=_finite(float(p50)),
        holding_p95_sec=_finite(float(p95)),
    )


def wilson(wins: int, count: int) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of a share by Wilson's score; None, None of nothing."""
    if count == 0:
        return None, None
    found = stats.binomtest(wins, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


# ---- helpers ------------------------------------------------------------------------------------


def _sharpe_variance(sharpe: float, skew: float, kurtosis: float) -> float | None:
    """Return the variance of a Sharpe ratio's estimate, times T − 1; None where it has none."""
    found = 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    return found if math.isfinite(found) and found > 0.0 else None


def _deepest_days(equity: Floats, drawdown: Floats) -> int:
    """Return for how many days the deepest drawdown lasted, peak to recovery or to the end."""
    if drawdown.max() <= 0.0:
        return 0
    bottom = int(drawdown.argmax())
    peak = int(np.flatnonzero(drawdown[:bottom] == 0.0)[-1])
    recovered = np.flatnonzero(equity[bottom:] >= equity[peak])
    end = bottom + int(recovered[0]) if len(recovered) else len(equity) - 1
    return end - peak


def _deviation(returns: Floats) -> float | None:
    """Return the sample's standard deviation; None of one, or where all are alike to rounding."""
    if len(returns) < 2:
        return None
    found = float(returns.std(ddof=1))
    return found if found > 1e-12 * max(1.0, float(np.abs(returns).max())) else 0.0


def _ratio(above: float, below: float | None) -> float | None:
    return None if below is None or below <= 0.0 else _finite(above / below)


def _power(base: float, exponent: float) -> float:
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
