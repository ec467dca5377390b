"""The four numbers that a regime model sees of each closed candle.

One recursion serves training, replay and the live bot, so none of them can see anything else than
the others. Nothing here may look past the candle it is given.
"""

from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Row = tuple[float, float, float, float]

FEATURES = ("macd_hist_slope", "ema_spread", "rsi_zone", "volume_ratio")
SPREAD = FEATURES.index("ema_spread")
WARM_UP = 150
FILL_BARS, FILL_SEC = 3, 900.0
RESTART_SEC = 6 * 3600.0
PRICE_MIN, PRICE_MAX, VOLUME_MAX = 1e-15, 1e12, 1e18

# EMA(span) has α = 2/(span + 1); Wilder's smoothing over 14 has α = 1/14.
_FAST, _SLOW, _SIGNAL, _NEAR, _FAR, _VOLUME = 2 / 13, 2 / 27, 2 / 10, 2 / 10, 2 / 22, 2 / 21
_WILDER = 1 / 14
_STILL = 1e-12  # average moves below this share of the price are rounding, not movement


class Candles(Protocol):
    """Closed candles in order of time, short gaps already filled flat with zero volume.

    `time` (open, seconds), `close` and `volume` are float64 arrays (T,); `lengths` are the rows of
    each unbroken sequence and add up to T; `restarts` is a bool array (T,), true at a row before
    which averages start anew.
    """

    @property
    def time(self) -> Floats:
        """Return the open times."""
        ...

    @property
    def close(self) -> Floats:
        """Return the closing prices."""
        ...

    @property
    def volume(self) -> Floats:
        """Return the volumes."""
        ...

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the rows of each sequence."""
        ...

    @property
    def restarts(self) -> Bools:
        """Return where averages start anew."""
        ...


class Gap(Enum):
    """What lies between a candle and the one before it."""

    NONE = 0  # nothing, or so little that it is filled flat
    SEQUENCE = 1  # the sequence ends; averages continue
    RESTART = 2  # the sequence ends and averages start anew


class Missing(NamedTuple):
    """What a step from one candle to a later one leaps over."""

    gap: Gap
    flat_bars: int  # to be filled with the last close and zero volume before the later one


def missing(previous: float, time: float, interval_sec: float) -> Missing:
    """Return what lies between candles with these open times, in seconds.

    Up to max(3 bars, 15 min) is filled flat; beyond that the sequence ends, and beyond 6 h the
    averages start anew (`docs/HMM_DEEP_TRAINING_SPEC.md`).
    """
    bars = round((time - previous) / interval_sec) - 1
    if bars <= 0:
        return Missing(Gap.NONE, 0)
    lost = bars * interval_sec
    if lost <= max(FILL_BARS * interval_sec, FILL_SEC):
        return Missing(Gap.NONE, bars)
    return Missing(Gap.RESTART if lost > RESTART_SEC else Gap.SEQUENCE, 0)


def is_usable(close: float, volume: float) -> bool:
    """Return whether a candle's numbers can be computed with: finite, positive, not absurd."""
    return PRICE_MIN <= close <= PRICE_MAX and 0.0 <= volume <= VOLUME_MAX


class FeatureState:
    """The averages after the newest candle: all that the next row of features needs.

    EMAs begin at the first value, Wilder's averages at zero (their ratio is then that of properly
    weighted means). Sources: MACD, Appel 1979; RSI, Wilder 1978, written as (G − L)/(G + L), which
    is (RSI − 50)/50.
    """

    __slots__ = (
        "_close", "_far", "_fast", "_gain", "_hist", "_loss", "_near", "_signal", "_slow",
        "_volume", "count",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0  # candles since the averages began
        self._close = self._fast = self._slow = self._near = self._far = 0.0
        self._signal = self._hist = self._gain = self._loss = self._volume = 0.0

    def step(self, close: float, volume: float, *, is_restart: bool = False) -> Row | None:
        """Take one closed candle; return its features, None within the first WARM_UP candles.

        `close` must be positive and finite, `volume` not negative and finite. `is_restart` begins
        all averages anew with this candle.
        """
        if is_restart or not self.count:
            self.count = 1
            self._close = self._fast = self._slow = self._near = self._far = close
            self._signal = self._hist = self._gain = self._loss = 0.0
            self._volume = volume
            return None
        change = close - self._close
        self._close = close
        self._fast = fast = self._fast + _FAST * (close - self._fast)
        self._slow = slow = self._slow + _SLOW * (close - self._slow)
        macd = fast - slow
        self._signal = signal = self._signal + _SIGNAL * (macd - self._signal)
        hist = macd - signal
        slope = hist - self._hist
        self._hist = hist
        self._near = near = self._near + _NEAR * (close - self._near)
        self._far = far = self._far + _FAR * (close - self._far)
        gain, loss = self._gain, self._loss
        if change > 0.0:
            gain += _WILDER * (change - gain)
            loss -= _WILDER * loss
        else:
            gain -= _WILDER * gain
            loss -= _WILDER * (change + loss)
        self._gain, self._loss = gain, loss
        self._volume = average = self._volume + _VOLUME * (volume - self._volume)
        self.count += 1
        if self.count <= WARM_UP:
            return None
        moved = gain + loss
        return (
            slope / close,
            (near - far) / far,
            (gain - loss) / moved if moved > _STILL * close else 0.0,
            volume / average if average > 0.0 else 0.0,
        )


def features(candles: Candles) -> tuple[Floats, Bools]:
    """Return the features (T, 4), columns as FEATURES, and the mask (T,) of rows past warm-up.

    Row *t* knows closes and volumes up to *t*; rows within a warm-up (the first WARM_UP candles
    and those after a restart) are NaN. Raises ValueError for prices that are not positive or not
    finite, and for volumes that are negative or not finite.
    """
    unusable = count_unusable(candles.close, candles.volume)
    if unusable:
        raise ValueError(f"{unusable} candles with prices or volumes that are not usable numbers")
    matrix = np.full((len(candles.close), len(FEATURES)), np.nan)
    state = FeatureState()
    step = state.step
    rows = zip(
        candles.close.tolist(), candles.volume.tolist(), candles.restarts.tolist(), strict=True
    )
    kept, found = [], []
    for n, (close, volume, is_restart) in enumerate(rows):
        row = step(close, volume, is_restart=is_restart)
        if row is not None:
            kept.append(n)
            found.append(row)
    if found:
        matrix[kept] = found
    return matrix, ~np.isnan(matrix[:, 0])


def count_unusable(close: Floats, volume: Floats) -> int:
    """Return how many rows hold numbers that `is_usable` refuses."""
    good = (close >= PRICE_MIN) & (close <= PRICE_MAX) & (volume >= 0.0) & (volume <= VOLUME_MAX)
    return int(len(close) - np.count_nonzero(good))


def kept_lengths(mask: Bools, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many rows past the warm-up each sequence has, without the empty ones."""
    if not lengths:
        return ()
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.intp)
    counts = np.add.reduceat(mask.astype(np.int64), starts)
    return tuple(int(x) for x in counts if x)
