"""Random walks as markets: candles whose prices are known to follow nothing, or to drift.

One-minute returns in the manner of DOGE: volatility that changes slowly and in bursts, fat tails
(Student's t), volume that goes with both. Made of a seed alone. Nothing here trades.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from core.market import Candle
from core.regime import BEARISH, BULLISH, RANGING
from market.candles import Floats, Rows
from market.recorded import Recorded

MINUTE, DAY_SEC, DAY_MINUTES = 60.0, 86_400.0, 1_440
START = 1_767_571_200.0  # 2026-01-05 00:00 UTC
START_PRICE = 0.1
# Log volatility is the sum of two AR(1) with these deviations and time constants in minutes. With
# it an hour's volatility has the log deviation (0.5) of the recorded DOGE of 2023, and keeps a
# correlation of 0.7 after one hour and 0.3 after one day.
DAILY_VOLATILITY = 0.05  # deviation of a day's log return, in the long run
SLOW, FAST = (0.40, 3 * DAY_MINUTES), (0.35, 180)
TAIL_DEGREES = 4  # of Student's t, scaled to deviation 1, cut at TAIL_MAX deviations
TAIL_MAX = 15.0
VOLUME_MEDIAN = 20_000.0  # base units a minute
VOLUME_MOODS = (0.7, 240)  # deviation and time constant of the volume's own slow part
VOLUME_NOISE = 0.5
DRIFT_SHARPE = 3.0  # planted drift of a day over the deviation of a day's return
DRIFT_DAYS = 2.0  # mean length of a planted regime


class Walk(NamedTuple):
    """One-minute bars from START on; `planted` (T,) is the label whose drift each was given."""

    rows: Rows
    planted: "np.typing.NDArray[np.int8]"


class WalkSource:
    """A walk as a market that can tell its candles."""

    candle_interval = MINUTE
    candle_errors = 0
    candle_trouble: str | None = None

    def __init__(self, walk: Walk) -> None:
        columns = (column.tolist() for column in walk.rows)
        self._recorded = Recorded(zip(*columns, strict=True), MINUTE)

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield closed candles; see `core.market.CandleSource`."""
        return self._recorded.candles(interval, since, until)

    def candle_rows(self, interval: float, since: float, until: float) -> Rows:
        """Return the same as arrays; see `market.pipeline.RowSource`."""
        return self._recorded.rows(interval, since, until)


def random_walk(seed: int, days: float, *, is_planted: bool) -> Walk:
    """Return a walk of so many days; the same seed gives the same chance with and without drift.

    Without drift the expected log return of every minute is 0, whatever was before. Planted drifts
    are regimes, bearish, none or bullish, of exponential length, DRIFT_DAYS in the mean, the next
    one of the other two by chance; within one every minute has ∓DRIFT_SHARPE·σ/1440 more, σ the
    deviation of a day's return.
    """
    count = round(days * DAY_MINUTES)
    chance = np.random.Generator(np.random.PCG64([seed, 1]))
    log_volatility = _ar1(chance, count, *SLOW) + _ar1(chance, count, *FAST)
    variance = SLOW[0] ** 2 + FAST[0] ** 2
    minute = DAILY_VOLATILITY / np.sqrt(DAY_MINUTES)
    # The mean of exp(2x) is exp(2·variance): this makes the long-run variance minute².
    volatility = minute * np.exp(log_volatility - variance)
    shocks = chance.standard_t(TAIL_DEGREES, count) * np.sqrt((TAIL_DEGREES - 2) / TAIL_DEGREES)
    shocks = np.clip(shocks, -TAIL_MAX, TAIL_MAX)
    moods = _ar1(chance, count, *VOLUME_MOODS) + VOLUME_NOISE * chance.standard_normal(count)
    volume = VOLUME_MEDIAN * np.exp(moods + log_volatility) * (0.5 + np.abs(shocks))
    wicks = np.abs(chance.standard_normal((2, count))) * volatility * 0.3
    planted = _planted(seed, count) if is_planted else np.full(count, RANGING, dtype=np.int8)
    drift = (planted.astype(np.float64) - RANGING) * DRIFT_SHARPE * DAILY_VOLATILITY / DAY_MINUTES
    log_close = np.cumsum(volatility * shocks + drift)
    close = START_PRICE * np.exp(log_close)
    first = np.append(START_PRICE, close[:-1])
    rows = Rows(
        time=START + MINUTE * np.arange(count, dtype=np.float64),
        open=first,
        high=np.maximum(first, close) * np.exp(wicks[0]),
        low=np.minimum(first, close) * np.exp(-wicks[1]),
        close=close,
        volume=volume,
        trades=np.full(count, np.nan),
    )
    return Walk(rows, planted)


def _planted(seed: int, count: int) -> "np.typing.NDArray[np.int8]":
    """Return the label of the drift of each minute."""
    chance = np.random.Generator(np.random.PCG64([seed, 2]))
    labels = np.empty(count, dtype=np.int8)
    at, label = 0, int(chance.integers(3))
    while at < count:
        end = at + max(1, round(chance.exponential(DRIFT_DAYS) * DAY_MINUTES))
        labels[at:end] = label
        others = [x for x in (BEARISH, RANGING, BULLISH) if x != label]
        at, label = end, others[int(chance.integers(2))]
    return labels


def _ar1(chance: np.random.Generator, count: int, deviation: float, minutes: float) -> Floats:
    """Return a stationary AR(1) of that deviation; its correlation falls as exp(−t/minutes)."""
    keep = float(np.exp(-1.0 / minutes))
    noise = chance.standard_normal(count) * deviation * np.sqrt(1.0 - keep * keep)
    value = float(chance.standard_normal()) * deviation
    values = []
    for x in noise.tolist():
        value = keep * value + x
        values.append(value)
    return np.array(values)
