"""What the policy made of each candle when it closed: the rows that evidence is gathered from.

In growing arrays, and on disk so that a restart knows them; a time's first label stays.
"""

import logging
import math

import numpy as np

from core.market import LabelRow
from core.ports import LabelStore, StoreError
from regime.evidence import UNLABELLED
from regime.features import Floats

log = logging.getLogger("models")

PRUNE_SEC = 86_400.0
KEPT_SEC = 400 * 86_400.0
DAY_SEC = 86_400.0
SPAN_SEC = KEPT_SEC - DAY_SEC  # of evidence, from a midnight on: what any disk still has
NEWEST = 300_000  # rows that evidence is gathered from at most: all at once take the loop 20 ms
_CAPACITY_MIN = 4096


class Labelled:
    """Open time, close and label of the primary candles that a model has read, oldest first."""

    def __init__(self, store: LabelStore, interval_sec: float) -> None:
        self._store, self._interval = store, interval_sec
        self._table = np.empty((3, _CAPACITY_MIN))
        self._first = self._end = 0
        self._pruned_at = -np.inf
        try:
            self._put(store.labels(interval_sec))
        except StoreError as error:
            log.warning("what followed the labels is not known any more: %s", error)

    def append(self, rows: list[LabelRow], now: float) -> None:
        """Add rows newer than all before; what the disk does not take is known till the end."""
        newest = self._table[0, self._end - 1] if self._end > self._first else -np.inf
        new = [x for x in rows if x[0] > newest]
        self._put(new)
        try:
            self._store.append_labels(self._interval, new)
            if now - self._pruned_at >= PRUNE_SEC:
                self._pruned_at = now
                self._store.prune_labels(now)
        except StoreError as error:
            log.warning("labels are not kept: %s", error)
        times = self._table[0, self._first : self._end]
        self._first += int(np.searchsorted(times, now - KEPT_SEC))

    def arrays(self, until: float) -> tuple[Floats, Floats, Floats]:
        """Return open times, closes and labels of the candles closed by `until`, newest last.

        What is too old, or too much, ends at a midnight: with it a whole day begins to be missing.
        """
        opens = self._table[0, self._first : self._end]
        end = int(opens.searchsorted(until - self._interval, side="right"))
        least = until - SPAN_SEC
        if end > NEWEST:
            least = max(least, float(opens[end - NEWEST]))
        begin = min(end, int(opens.searchsorted(math.ceil(least / DAY_SEC) * DAY_SEC)))
        found = self._table[:, self._first + begin : self._first + end]
        return found[0], found[1], found[2]

    def _put(self, rows: list[LabelRow]) -> None:
        if not rows:
            return
        new = np.array([(t, c, UNLABELLED if x is None else x) for t, c, x in rows]).T
        count = self._end - self._first
        if self._end + len(rows) > self._table.shape[1]:
            table = np.empty((3, max(_CAPACITY_MIN, 2 * (count + len(rows)))))
            table[:, :count] = self._table[:, self._first : self._end]
            self._table, self._first, self._end = table, 0, count
        self._table[:, self._end : self._end + len(rows)] = new
        self._end += len(rows)
