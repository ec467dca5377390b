"""Replay of recorded candles or trades from .csv, .csv.gz or .parquet files.

The whole file is scanned once at the start, so that a bad line is reported at once and not after
hours; then it is streamed, never held, but for its candles as numbers, once they are asked for.
Prices are read from text, never through a float. Values and distances have bounds, so that no file
can overflow a sum or make a run endless.
"""

import csv
import gzip
import hashlib
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from core.domain import Side
from core.market import Candle, CandleRow, Evidence, Trade
from core.plain_text import counted
from core.ports import MarketError

if TYPE_CHECKING:
    from market.candles import Rows
    from market.recorded import Recorded

CANDLE_COLUMNS = ("time", "open", "high", "low", "close", "volume")
TRADE_COLUMNS = ("time", "price", "volume")
FILL_BARS, FILL_SEC = 3, 900.0
PRICE_MIN, PRICE_MAX = Decimal("1e-12"), Decimal(10**9)
VOLUME_MAX = Decimal(10**15)
COUNT_MAX = Decimal(10**12)
TIME_MIN, TIME_MAX = 1_230_768_000, 4_102_444_800  # 2009 and 2100 begin, UTC
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
INTERVAL_MIN_SEC, INTERVAL_MAX_SEC = 1.0, 15 * 86_400.0
MINUTE = 60.0
HOUR = 3600.0
GAP_MAX_SEC = 31 * 86_400.0
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?\s*", re.ASCII)
_LENGTH_MAX = 64
_PROBE_ROWS = 2000
Row = list[str]


class _Limits(NamedTuple):
    """The numbers that a column may hold, and what that is in words."""

    low: Decimal
    high: Decimal
    allowed: str


_PRICE = _Limits(PRICE_MIN, PRICE_MAX, f"a number from {PRICE_MIN:f} to {PRICE_MAX}")
_VOLUME = _Limits(Decimal(0), VOLUME_MAX, f"a number from 0 to {VOLUME_MAX}")
_COUNT = _Limits(Decimal(0), COUNT_MAX, f"a whole number from 0 to {COUNT_MAX}, or nothing")
_TIME = _Limits(
    Decimal(TIME_MIN),
    Decimal(TIME_MAX * 10**9),
    "seconds since 1970, UTC, from 2009 to 2100 (or milli-, micro- or nanoseconds)",
)


class ReplaySource:
    """A recorded file as a MarketSource; gaps are filled up to 15 minutes and counted beyond.

    The market begins with the first row at or after `start` (seconds, UTC; None: with the file) and
    ends with the last before `until` (None: with the file). What is before it is history: the whole
    file is checked, and tells its candles. `names` are what symbol and start are called where they
    were given, for messages.
    """

    candle_errors = 0
    candle_trouble: str | None = None

    def __init__(
        self,
        path: Path,
        *,
        symbol: str | None = None,
        start: float | None = None,
        until: float | None = None,
        names: tuple[str, str] = ("REPLAY_SYMBOL", "REPLAY_FROM"),
    ) -> None:
        self.path = path
        self._symbol_name, self._start_name = names
        self.symbol = symbol
        self.symbols: tuple[str, ...] = ()  # those of the file, where it names them
        self._from = -math.inf if start is None else start
        self._until = math.inf if until is None else until
        self._header = self._read_header()
        self.fingerprint = self._digest()
        self.is_candles = set(CANDLE_COLUMNS) <= set(self._header)
        if not self.is_candles and not set(TRADE_COLUMNS) <= set(self._header):
            raise MarketError(
                f"{path} line 1: columns are {', '.join(self._header)}; candles need "
                f"{', '.join(CANDLE_COLUMNS)}, trades need {', '.join(TRADE_COLUMNS)}"
            )
        self._at = {name: n for n, name in enumerate(self._header)}
        self._check_symbol()
        self._time_unit = self._infer_time_unit()
        self.interval = self._infer_interval() if self.is_candles else 0.0
        self.price_interval = self.interval or 1.0
        own = self.interval or MINUTE
        self.candle_interval = own if own >= MINUTE else math.ceil(MINUTE / own) * own
        self._recorded: Recorded | None = None
        self.gap_count = self.filled_count = 0
        self.longest_gap_sec = 0.0
        self._scan()
        self._begin()
        what = f"{self.interval / 60:g} min candles" if self.is_candles else "trades"
        if self._time_unit != "seconds":
            what += f", times in {self._time_unit}"
        if self._has_history:
            what += f", from {_words(self._start)}"
        self.name = f"replay of {path.name} ({what})"

    def _digest(self) -> str:
        """Return what tells this file from another of its name."""
        try:
            with self.path.open("rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()[:16]
        except OSError as error:
            raise MarketError(f"{self.path} cannot be read: {error.strerror}") from None

    # ---- the MarketSource protocol --------------------------------------------------------------

    def first_price(self) -> Decimal:
        """Return the opening price of the first evidence."""
        return self._first_price

    def start_time(self) -> float:
        """Return the time at which the market begins."""
        return self._start

    def end_time(self) -> float:
        """Return the time of the last evidence."""
        return self._end

    @cached_property
    def hours(self) -> frozenset[int]:
        """Return the UTC hours since 1970 that have prices; what is made up for gaps is none."""
        made: set[int] = set()
        for item in self._evidence():
            if not isinstance(item, Candle):
                made.add(int(item.time // HOUR))
            elif not item.is_filled:
                last = math.ceil((item.time + item.interval) / HOUR)
                made.update(range(int(item.time // HOUR), last))
        return frozenset(made)

    def total(self) -> int:
        """Return how many items there are in all, filled candles included."""
        return self._total

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items."""
        return islice(self._evidence(), skip, None)

    def candles(self, interval: float, since: float, until: float) -> Iterator[Candle]:
        """Yield closed candles, those before the start too; gaps are left. Raises MarketError.

        Trades and shorter candles are told from 60 s on. All are read, once, when the first are
        asked for. Raises ValueError where `interval` is no whole multiple of `candle_interval`.
        """
        return self._known().candles(interval, since, until)

    def candle_rows(self, interval: float, since: float, until: float) -> "Rows":
        """Return the same as arrays; see `market.pipeline.RowSource`."""
        return self._known().rows(interval, since, until)

    def _known(self) -> "Recorded":
        if self._recorded is None:
            from market.recorded import Recorded, joined  # noqa: PLC0415 - numpy, rarely needed

            is_whole = self.interval >= MINUTE
            rows = self._numbers()
            rows = rows if is_whole else joined(rows, self.candle_interval)
            self._recorded = Recorded(rows, self.candle_interval)
        return self._recorded

    def describe(self) -> str:
        """Return what was found, in plain words."""
        text = f"{self._total:,} items"
        if self.is_candles and not self.gap_count:
            text += ", no gaps"
        elif self.is_candles:
            text += (
                f", {counted(self.gap_count, 'gap')}, the longest {self.longest_gap_sec / 60:g} "
                f"min, {counted(self.filled_count, 'bar')} filled"
            )
        return text

    # ---- reading --------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, Row]]:
        """Yield (line number, cells) of every row below the header; blank lines are none."""
        if self.path.suffix == ".parquet":
            yield from self._parquet_rows()
            return
        try:
            with self._open() as handle:
                reader = csv.reader(handle)
                next(reader, None)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
            raise MarketError(f"{self.path} cannot be read: {error}") from None

    def _open(self) -> IO[str]:
        opener: Any = gzip.open if self.path.suffix == ".gz" else open
        handle: IO[str] = opener(self.path, "rt", newline="", encoding="utf-8-sig")
        return handle

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yield (line number, cells) of the rows of the chosen symbol."""
        if self.symbol is None or "symbol" not in self._at:
            yield from self._lines()
            return
        for line, cells in self._lines():
            if self._cell(line, cells, "symbol") == self.symbol:
                yield line, cells

    def _parquet_rows(self) -> Iterator[tuple[int, Row]]:
        number = 1
        try:
            for batch in _parquet(self.path).iter_batches(batch_size=10_000):
                columns = [batch.column(n).to_pylist() for n in range(batch.num_columns)]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield number, ["" if v is None else str(v) for v in values]
        except (OSError, ValueError) as error:
            raise MarketError(f"{self.path} cannot be read: {error}") from None

    def _read_header(self) -> Row:
        if not self.path.is_file():
            raise MarketError(f"{self.path} does not exist or is not a file")
        if self.path.stat().st_size == 0:
            raise MarketError(f"{self.path} is empty")
        try:
            if self.path.suffix == ".parquet":
                return list(_parquet(self.path).schema_arrow.names)
            with self._open() as handle:
                return [cell.strip().lower() for cell in next(csv.reader(handle), [])]
        except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
            raise MarketError(f"{self.path} cannot be read: {error}") from None

    def _check_symbol(self) -> None:
        at = self._at.get("symbol")
        if at is None:
            if self.symbol is not None:
                raise MarketError(
                    f"{self.path} has no column symbol; leave {self._symbol_name} unset for it"
                )
            return
        symbols = sorted({cells[at].strip() for _, cells in self._lines() if len(cells) > at})
        self.symbols = tuple(symbols)
        if self.symbol is None and len(symbols) > 1:
            raise MarketError(
                f"{self.path} holds several symbols; set {self._symbol_name} to one of: "
                f"{', '.join(symbols)}"
            )
        if self.symbol is not None and self.symbol not in symbols:
            raise MarketError(f"{self.path} holds no {self.symbol}; symbols: {', '.join(symbols)}")

    def _infer_time_unit(self) -> str:
        """Return the unit of the whole file's times, from the size of the first."""
        for line, cells in self._rows():
            value = self._number(line, cells, "time", _TIME)
            for unit, scale in UNITS.items():
                if TIME_MIN * scale <= value < TIME_MAX * scale:
                    allowed = f"{unit} since 1970, UTC, from 2009 to 2100, as line {line} is"
                    low, high = Decimal(TIME_MIN * scale), Decimal(TIME_MAX * scale - 1)
                    self._time_limits = _Limits(low, high, allowed)
                    self._time_scale = scale
                    return unit
            raise self._refused(line, cells, "time", _TIME.allowed)
        return "seconds"

    def _infer_interval(self) -> float:
        times = [self._time(line, cells) for line, cells in islice(self._rows(), _PROBE_ROWS)]
        if len(times) < 2:
            raise MarketError(f"{self.path} holds {len(times)} rows; at least 2 are needed")
        steps = Counter(round(b - a, 3) for a, b in pairwise(times) if b > a)
        if not steps:
            raise MarketError(f"{self.path} line 3: times do not rise")
        interval = steps.most_common(1)[0][0]
        if not INTERVAL_MIN_SEC <= interval <= INTERVAL_MAX_SEC:
            raise MarketError(
                f"{self.path} line 3: candles are {interval:.10g} s apart; allowed: 1 s to 15 days"
            )
        return interval

    def _wrong(self, line: int, text: str) -> MarketError:
        return MarketError(f"{self.path} line {line}: {text}")

    def _cell(self, line: int, cells: Row, name: str) -> str:
        at = self._at[name]
        if at >= len(cells):
            raise self._wrong(line, f"{name} is missing; {len(self._header)} columns are needed")
        return cells[at].strip()

    def _refused(self, line: int, cells: Row, name: str, allowed: str) -> MarketError:
        text = self._cell(line, cells, name)[:_LENGTH_MAX]
        return self._wrong(line, f"{name} {text!r} must be {allowed}")

    def _number(self, line: int, cells: Row, name: str, limits: _Limits) -> Decimal:
        at = self._at[name]
        text = cells[at] if at < len(cells) else self._cell(line, cells, name)
        if len(text) <= _LENGTH_MAX and _NUMBER.fullmatch(text):
            number = Decimal(text)
            if limits.low <= number <= limits.high:
                return number
        raise self._refused(line, cells, name, limits.allowed)

    def _count(self, line: int, cells: Row) -> int | None:
        if not self._cell(line, cells, "trades"):
            return None
        count = self._number(line, cells, "trades", _COUNT)
        if count != count.to_integral_value():
            raise self._refused(line, cells, "trades", _COUNT.allowed)
        return int(count)

    def _time(self, line: int, cells: Row) -> float:
        value = self._number(line, cells, "time", self._time_limits)
        return float(value if self._time_scale == 1 else value / self._time_scale)

    def _candle(self, line: int, cells: Row) -> Candle:
        open_, high, low, close = (
            self._number(line, cells, name, _PRICE) for name in CANDLE_COLUMNS[1:5]
        )
        if not high >= max(open_, close) >= min(open_, close) >= low:
            raise self._wrong(
                line, f"open {open_}, high {high}, low {low}, close {close} are inconsistent"
            )
        return Candle(
            time=self._time(line, cells),
            interval=self.interval,
            open=open_,
            high=high,
            low=low,
            close=close,
            volume=self._number(line, cells, "volume", _VOLUME),
            trades=self._count(line, cells) if "trades" in self._at else None,
        )

    def _trade(self, line: int, cells: Row) -> Trade:
        volume = self._number(line, cells, "volume", _VOLUME)
        if not volume:
            raise self._refused(line, cells, "volume", "above 0")
        side = self._cell(line, cells, "side").lower() if "side" in self._at else ""
        if side not in ("", "buy", "sell"):
            raise self._wrong(line, f"side {side!r} must be buy, sell or empty")
        return Trade(
            time=self._time(line, cells),
            price=self._number(line, cells, "price", _PRICE),
            volume=volume,
            side=Side(side) if side else None,
        )

    def _checked(self) -> Iterator[Candle | Trade]:
        """Yield rows in order. Raises MarketError for a row out of order."""
        parse = self._candle if self.is_candles else self._trade
        last: float | None = None
        for line, cells in self._rows():
            item = parse(line, cells)
            if last is not None:
                self._check_distance(line, last, item.time)
            last = item.time
            yield item

    def _numbers(self) -> Iterator[CandleRow]:
        """Yield all rows as plain numbers, a print as a candle of its own. Raises MarketError.

        They have been checked before: this is many times faster.
        """
        names = CANDLE_COLUMNS if self.is_candles else ("time", *["price"] * 4, "volume")
        at, first, high, low, close, volume = (self._at[name] for name in names)
        count = self._at.get("trades") if self.is_candles else None
        scale = self._time_scale
        for line, cells in self._rows():
            try:
                trades = 1.0 if not self.is_candles else None
                if count is not None and cells[count].strip():
                    trades = float(cells[count])
                yield (
                    float(cells[at]) / scale, float(cells[first]), float(cells[high]),
                    float(cells[low]), float(cells[close]), float(cells[volume]), trades,
                )  # fmt: skip
            except (ValueError, IndexError):
                raise self._wrong(line, "the file has changed since it was checked") from None

    def _check_distance(self, line: int, last: float, time: float) -> None:
        if time < last or (self.is_candles and time == last):
            raise self._wrong(line, f"time {time:f} is not after {last:f}")
        if time - last > GAP_MAX_SEC:
            what, days = "candles" if self.is_candles else "trades", (time - last) / 86_400
            raise self._wrong(line, f"no {what} for {days:.0f} days; allowed: up to 31 days")

    def _evidence(self) -> Iterator[Evidence]:
        begun = (item for item in self._checked() if self._from <= item.time < self._until)
        if not self.is_candles:
            yield from begun
            return
        last: Candle | None = None
        for item in begun:
            if isinstance(item, Candle) and last is not None:
                yield from self._fill(last, item.time)
            yield item
            last = item if isinstance(item, Candle) else None

    def _fill(self, last: Candle, until: float) -> Iterable[Candle]:
        missing = round((until - last.time) / self.interval) - 1
        if not 0 < missing * self.interval <= max(FILL_BARS * self.interval, FILL_SEC):
            return
        close = last.close
        for n in range(1, missing + 1):
            yield Candle(
                time=last.time + n * self.interval,
                interval=self.interval,
                open=close,
                high=close,
                low=close,
                close=close,
                volume=Decimal(0),
                trades=0,
                is_filled=True,
            )

    def _scan(self) -> None:
        count, last, last_real = 0, None, None
        for item in self._evidence():
            if last is None:
                self._start = item.time
                self._first_price = item.open if isinstance(item, Candle) else _price(item)
            if isinstance(item, Candle) and item.is_filled:
                self.filled_count += 1
            elif self.is_candles:
                if last_real is not None and item.time - last_real > self.interval * 1.5:
                    self.gap_count += 1
                    self.longest_gap_sec = max(self.longest_gap_sec, item.time - last_real)
                last_real = item.time
            last = item
            count += 1
        if (last is None or count < 2) and self._from > -math.inf:
            raise self._outside()
        if last is None or count < 2:
            raise MarketError(f"{self.path} holds {count} rows; at least 2 are needed")
        self._end = last.time + self.interval
        self._total = count

    def _begin(self) -> None:
        """Find out whether there is history; refuse a start before the file's."""
        first = next(self._time(line, cells) for line, cells in self._rows())
        self._has_history = self._start > first
        if self._from > -math.inf and self._from < first:
            raise self._outside()
        if self._has_history:
            self.fingerprint += f" from {self._start:.15g}"

    def _outside(self) -> MarketError:
        times = [item.time for item in self._checked()]
        if len(times) < 2:
            return MarketError(f"{self.path} holds {len(times)} rows; at least 2 are needed")
        return MarketError(
            f"{self.path} has no start at {_words(self._from)}; {self._start_name} may be from "
            f"{_words(times[0])} to {_words(times[-2])}"
        )


def _words(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ").removesuffix("+00:00") + " UTC"


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - large, rarely needed

    return pq.ParquetFile(path)


def _price(item: Evidence) -> Decimal:
    if isinstance(item, Trade):
        return item.price
    raise MarketError("a trade was expected")
