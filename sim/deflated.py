"""How much of a Sharpe ratio is luck: probabilistic and deflated Sharpe ratios.

After Bailey and López de Prado, "The Sharpe Ratio Efficient Frontier" (2012) and "The Deflated
Sharpe Ratio" (2014). Ratios are those of one period (a day), never annualised.
"""

import math
from statistics import NormalDist

EULER_GAMMA = 0.5772156649015329
_NORMAL = NormalDist()


def probabilistic_sharpe(
    sharpe: float, *, benchmark: float, periods: int, skewness: float, kurtosis: float
) -> float:
    """Return the probability that the true Sharpe ratio is above `benchmark`.

    `sharpe` was seen over `periods` returns of that skewness and (non-excess) kurtosis. Raises
    ValueError for fewer than 2 periods, and for moments that no returns have.
    """
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if periods < 2 or spread <= 0:
        raise ValueError(f"{periods} periods, skewness {skewness}, kurtosis {kurtosis}")
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(periods - 1) / math.sqrt(spread))


def luckiest_sharpe(variance: float, trials: int) -> float:
    """Return the Sharpe ratio that the best of `trials` without any edge is expected to show.

    `variance` is that of the trials' Sharpe ratios. The deflated Sharpe ratio is
    `probabilistic_sharpe` with this as its benchmark. Raises ValueError for less than one trial.
    """
    if trials < 1:
        raise ValueError(f"{trials} trials")
    if trials == 1:
        return 0.0
    first = _NORMAL.inv_cdf(1 - 1 / trials)
    second = _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - EULER_GAMMA) * first + EULER_GAMMA * second)
