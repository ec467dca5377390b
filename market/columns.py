"""A recorded file of candles as columns, for runs that skip what changes nothing.

It is the replay of `market/replay.py`, read at once: numbers to search in, texts to make exact
candles of. Whatever is irregular is left to the replay, which has the words for it.
"""

from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from pyarrow import csv as pa_csv
from pyarrow import parquet as pq

from core.domain import ZERO
from core.market import Candle, Columns, Evidence
from market.candles import Floats, Rows
from market.recorded import Recorded
from market.replay import (
    CANDLE_COLUMNS,
    COUNT_MAX,
    FILL_BARS,
    FILL_SEC,
    GAP_MAX_SEC,
    HOUR,
    MINUTE,
    PRICE_MAX,
    PRICE_MIN,
    TIME_MAX,
    TIME_MIN,
    VOLUME_MAX,
    ReplaySource,
)


class ColumnSource(ReplaySource):
    """A replay of candles that tells its bars as columns too; trades are replayed as they are."""

    columns: Columns | None = None

    def _scan(self) -> None:
        rows = self._arrays() if self.is_candles else None
        if rows is None or not self._take(rows):
            super()._scan()

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items; at once, wherever that is."""
        if self.columns is None:
            return super().read(skip)
        return self._bars(skip)

    def exact_close(self, n: int) -> Decimal:
        """Return the close of bar `n` as it is written."""
        return self._exact(3, int(self._row[n]))

    @cached_property
    def hours(self) -> frozenset[int]:
        """Return the UTC hours since 1970 that have prices; what is made up for gaps is none."""
        if self.columns is None:
            return super().hours
        opens = self._opens[~self._is_made]
        first = np.floor(opens / HOUR).astype(np.int64)
        last = np.ceil((opens + self.interval) / HOUR).astype(np.int64)
        newest = np.append(np.flatnonzero(np.diff(first)), first.size - 1)  # bar of each hour
        spans = zip(first[newest].tolist(), last[newest].tolist(), strict=True)
        return frozenset(x for begin, end in spans for x in range(begin, end))

    def _known(self) -> Recorded:
        if self.columns is None or self.interval < MINUTE:
            return super()._known()
        if self._recorded is None:
            self._recorded = Recorded(self._raw, self.candle_interval)
        return self._recorded

    # ---- reading --------------------------------------------------------------------------------

    def _table(self) -> Any:
        """Return the columns that matter as text, or None where they cannot be read at once."""
        names = [name for name in self._header if name in (*CANDLE_COLUMNS, "trades", "symbol")]
        try:
            if self.path.suffix == ".parquet":
                table = pq.read_table(self.path, columns=names)
                return table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
            table = pa_csv.read_csv(
                self.path,
                read_options=pa_csv.ReadOptions(column_names=self._header, skip_rows=1),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=names,
                    column_types={name: pa.string() for name in names},
                    strings_can_be_null=False,
                ),
            )
        except (pa.ArrowException, OSError, ValueError):
            return None
        if self.symbol is not None and "symbol" in names:
            table = table.filter(pc.equal(pc.utf8_trim_whitespace(table["symbol"]), self.symbol))
        return table.combine_chunks()

    def _arrays(self) -> Rows | None:
        """Return the file's rows as numbers, or None where anything is irregular."""
        table = self._table()
        if table is None or table.num_rows < 2:
            return None
        try:
            found = [_numbers(table[name]) for name in CANDLE_COLUMNS]
        except pa.ArrowException:
            return None
        time, open_, high, low, close, volume = found
        time = time / self._time_scale
        trades = _counts(table, time.size)
        if trades is None:
            return None
        step = np.diff(time)
        is_sound = (
            np.all((time >= TIME_MIN) & (time < TIME_MAX))
            and np.all((step > 0) & (step <= GAP_MAX_SEC))
            and np.all((low >= float(PRICE_MIN)) & (high <= float(PRICE_MAX)))
            and np.all((high >= np.maximum(open_, close)) & (np.minimum(open_, close) >= low))
            and np.all((volume >= 0) & (volume <= float(VOLUME_MAX)))
        )
        if not is_sound:
            return None
        self._texts = [table[name].combine_chunks() for name in CANDLE_COLUMNS[1:]]
        return Rows(time, open_, high, low, close, volume, trades)

    def _take(self, rows: Rows) -> bool:
        """Keep the rows as columns, from start to end, short gaps filled; False: too few."""
        begin, end = (int(np.searchsorted(rows.time, x)) for x in (self._from, self._until))
        time = rows.time[begin:end]
        if time.size < 2:
            return False
        interval = self.interval
        step = np.diff(time)
        missing = np.rint(step / interval).astype(np.int64) - 1
        is_short = (missing > 0) & (missing * interval <= max(FILL_BARS * interval, FILL_SEC))
        made = np.append(np.where(is_short, missing, 0), 0)
        at = np.repeat(np.arange(time.size), made + 1)
        starts = np.cumsum(made + 1) - (made + 1)
        ahead = np.arange(at.size) - starts[at]  # bars after the last that is in the file
        is_made = ahead > 0
        opens = time[at] + ahead * interval
        low, high, close, volume = (
            x[begin:end][at] for x in (rows.low, rows.high, rows.close, rows.volume)
        )
        self._raw, self._row, self._opens, self._is_made = rows, at + begin, opens, is_made
        is_empty = is_made | (volume <= 0)
        self.columns = Columns(
            closes_at=opens + interval,
            low=np.where(is_empty, np.inf, low),
            high=np.where(is_empty, -np.inf, high),
            close=close,
        )
        is_gap = step > interval * 1.5
        self.gap_count = int(np.count_nonzero(is_gap))
        self.longest_gap_sec = float(step[is_gap].max()) if self.gap_count else 0.0
        self.filled_count = int(np.count_nonzero(is_made))
        self._start, self._end = float(opens[0]), float(opens[-1]) + interval
        self._total = int(at.size)
        self._first_price = self._exact(0, int(self._row[0]))
        return True

    # ---- exact candles --------------------------------------------------------------------------

    def _exact(self, column: int, row: int) -> Decimal:
        return Decimal(self._texts[column][row].as_py().strip())

    def _bars(self, skip: int) -> Iterator[Evidence]:
        for n in range(skip, self._total):
            yield self._bar(n)

    def _bar(self, n: int) -> Candle:
        row, time = int(self._row[n]), float(self._opens[n])
        if self._is_made[n]:
            close = self._exact(3, row)
            return Candle(
                time=time, interval=self.interval, open=close, high=close, low=close, close=close,
                volume=ZERO, trades=0, is_filled=True,
            )  # fmt: skip
        first, high, low, close, volume = (self._exact(column, row) for column in range(5))
        trades = self._raw.trades[row]
        return Candle(
            time=time, interval=self.interval, open=first, high=high, low=low, close=close,
            volume=volume, trades=None if np.isnan(trades) else int(trades),
        )  # fmt: skip


def _numbers(column: Any) -> Floats:
    """Return a column of texts as numbers. Raises ArrowException for anything else."""
    made: Floats = pc.cast(pc.utf8_trim_whitespace(column), pa.float64()).to_numpy()
    return made


def _counts(table: Any, size: int) -> Floats | None:
    """Return the number of trades in each bar, nan where it is unknown; None if it is no number."""
    if "trades" not in table.column_names:
        return np.full(size, np.nan)
    texts = pc.utf8_trim_whitespace(table["trades"])
    known = pc.if_else(pc.equal(texts, ""), None, texts)
    try:
        counts: Floats = pc.cast(known, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    is_count = np.isnan(counts) | (
        (counts >= 0) & (counts <= float(COUNT_MAX)) & (counts == np.rint(counts))
    )
    return counts if bool(np.all(is_count)) else None
