"""Candles for a chart: what the file of candles holds of a run's market, in any longer interval.

Read-only. Candles are made where they are read, of what there is: nothing is invented. Look next at
`store/candles.py`, which keeps them.
"""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.record import plain
from core.regime import LABELS
from store.reader import Reader

SUM_DIGITS = 12  # of a sum of volumes that passed through doubles: the rest is noise
# Both tables have time in their key. A bare column beside one max() is of the row of that maximum.
_BARS = """
WITH bars AS (
    SELECT CAST(time / :to AS INTEGER) AS bar, min(time) AS first, max(time) AS last,
        max(high) AS high, min(low) AS low, sum(volume) AS volume
    FROM candles
    WHERE pair = :pair AND interval = :own AND time >= :since AND time < :until GROUP BY bar
), marks AS (
    SELECT CAST(time / :to AS INTEGER) AS bar, label, max(time) FROM labels
    WHERE pair = :labelled AND interval = :own AND time >= :since AND time < :until
        AND label IS NOT NULL
    GROUP BY bar
)
SELECT bars.bar * :to AS time, a.open, bars.high, bars.low, z.close, bars.volume, marks.label
FROM bars
JOIN candles AS a ON a.pair = :pair AND a.interval = :own AND a.time = bars.first
JOIN candles AS z ON z.pair = :pair AND z.interval = :own AND z.time = bars.last
LEFT JOIN marks ON marks.bar = bars.bar
ORDER BY bars.bar
"""
_OF = "FROM candles WHERE pair = :pair AND interval = :own"
_NEWEST = f"SELECT max(time) AS time {_OF} AND time < :top"
_ENDS = f"SELECT (SELECT min(time) {_OF}) AS oldest, (SELECT max(time) {_OF}) AS newest"


class CandleChart:
    """The candles of one `pair` in the file `path`; `interval`, seconds, is the market's own.

    Labels are those of the `policy`.
    """

    def __init__(self, path: Path, *, pair: str, interval: float, policy: str = "") -> None:
        self._rows = Reader(path).rows
        self._pair, self._own = pair, interval
        self._labelled = f"{pair} by {policy}"

    def candles(
        self, interval: float, limit: int, before: float | None = None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return the interval that could be had, seconds, and candles of it, oldest first.

        They are those of the `limit` intervals that end with the newest which opened before
        `before` and of which anything is known: fewer where some are missing, none once there are
        no older ones. A candle is made of what is known of it. Left out are the first, if it begins
        before the record does, and one that has not closed. An interval that is no whole multiple
        of the market's own gives the market's own. `regime` is the newest label known within it.
        Raises StoreError.
        """
        to = interval if interval % self._own == 0 else self._own
        values = {"to": to, "pair": self._pair, "labelled": self._labelled, "own": self._own}
        ends = self._rows(_ENDS, values)[0]
        if ends["newest"] is None:
            return to, []
        top = math.floor((ends["newest"] + self._own) / to) * to
        if before is not None:
            top = min(top, math.ceil(before / to) * to)
        newest = self._rows(_NEWEST, {**values, "top": top})[0]["time"]
        if newest is None:
            return to, []
        until = (math.floor(newest / to) + 1) * to
        since = max(until - limit * to, math.ceil(ends["oldest"] / to) * to)
        found = self._rows(_BARS, {**values, "since": since, "until": until})
        return to, [_told(row, is_sum=to != self._own) for row in found]


def _told(row: dict[str, Any], *, is_sum: bool) -> dict[str, Any]:
    """Return a row with prices and volume as decimal text, and the label by its name."""
    prices = {name: _plain(row[name]) for name in ("open", "high", "low", "close")}
    volume, label = row["volume"], row["label"]
    volume = _plain(float(f"{volume:.{SUM_DIGITS}g}") if is_sum else volume)
    regime = None if label is None else LABELS[label]
    return {"time": row["time"], **prices, "volume": volume, "regime": regime}


def _plain(value: float) -> str:
    """Return a number as the decimal that it was read from: up to fifteen digits stay."""
    text = plain(Decimal(repr(value)))
    return text.rstrip("0").rstrip(".") if "." in text else text
