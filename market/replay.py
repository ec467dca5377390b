"""Replay of recorded candles or trades from .csv, .csv.gz or .parquet files.

The whole file is scanned once at the start, so that a bad line is reported at once and not after
hours; then it is streamed, never held. Prices are read from text, never through a float.
"""

import csv
import gzip
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from core.domain import Side
from core.market import Candle, Evidence, Trade
from core.ports import MarketError

CANDLE_COLUMNS = ("time", "open", "high", "low", "close", "volume")
TRADE_COLUMNS = ("time", "price", "volume")
FILL_BARS, FILL_SEC = 3, 900.0
_PROBE_ROWS = 2000
Row = list[str]


class ReplaySource:
    """A recorded file as a MarketSource; gaps are filled up to 15 minutes and counted beyond."""

    def __init__(self, path: Path, *, symbol: str | None = None) -> None:
        self.path = path
        self.symbol = symbol
        self._header = self._read_header()
        self.is_candles = set(CANDLE_COLUMNS) <= set(self._header)
        if not self.is_candles and not set(TRADE_COLUMNS) <= set(self._header):
            raise MarketError(
                f"{path} line 1: columns are {', '.join(self._header)}; candles need "
                f"{', '.join(CANDLE_COLUMNS)}, trades need {', '.join(TRADE_COLUMNS)}"
            )
        self._at = {name: n for n, name in enumerate(self._header)}
        self._check_symbol()
        self.interval = self._infer_interval() if self.is_candles else 0.0
        self.price_interval = self.interval or 1.0
        self.gap_count = self.filled_count = 0
        self.longest_gap_sec = 0.0
        self._scan()
        what = f"{self.interval / 60:g} min candles" if self.is_candles else "trades"
        self.name = f"replay of {path.name} ({what})"

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

    def total(self) -> int:
        """Return how many items there are in all, filled candles included."""
        return self._total

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield evidence in order, without the first `skip` items."""
        return islice(self._evidence(), skip, None)

    def describe(self) -> str:
        """Return what was found, in plain words."""
        text = f"{self._total:,} items"
        if self.is_candles:
            text += (
                f", {self.gap_count} gaps, the longest {self.longest_gap_sec / 60:g} min, "
                f"{self.filled_count} bars filled"
            )
        return text

    # ---- reading --------------------------------------------------------------------------------

    def _lines(self) -> Iterator[tuple[int, Row]]:
        """Yield (line number, cells) of every row below the header."""
        if self.path.suffix == ".parquet":
            yield from self._parquet_rows()
            return
        is_packed = self.path.suffix == ".gz"
        try:
            with (
                gzip.open(self.path, "rt", newline="", encoding="utf-8")
                if is_packed
                else self.path.open(newline="", encoding="utf-8")
            ) as handle:
                reader = csv.reader(handle)
                next(reader, None)
                for cells in reader:
                    yield reader.line_num, cells
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise MarketError(f"{self.path} cannot be read: {error}") from None

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
            opener: Any = gzip.open if self.path.suffix == ".gz" else open
            with opener(self.path, "rt", newline="", encoding="utf-8") as handle:
                return [cell.strip().lower() for cell in next(csv.reader(handle), [])]
        except (OSError, EOFError, ValueError, csv.Error) as error:
            raise MarketError(f"{self.path} cannot be read: {error}") from None

    def _check_symbol(self) -> None:
        at = self._at.get("symbol")
        if at is None:
            return
        symbols = sorted({cells[at] for _, cells in self._lines() if len(cells) > at})
        if self.symbol is None and len(symbols) > 1:
            raise MarketError(
                f"{self.path} holds several symbols; set REPLAY_SYMBOL to one of: "
                f"{', '.join(symbols)}"
            )
        if self.symbol is not None and self.symbol not in symbols:
            raise MarketError(f"{self.path} holds no {self.symbol}; symbols: {', '.join(symbols)}")

    def _infer_interval(self) -> float:
        times = [self._float(n, cells, "time") for n, cells in islice(self._lines(), _PROBE_ROWS)]
        if len(times) < 2:
            raise MarketError(f"{self.path} holds {len(times)} rows; at least 2 are needed")
        steps = Counter(b - a for a, b in pairwise(times) if b > a)
        if not steps:
            raise MarketError(f"{self.path} line 3: times do not rise")
        return steps.most_common(1)[0][0]

    def _wrong(self, line: int, text: str) -> MarketError:
        return MarketError(f"{self.path} line {line}: {text}")

    def _cell(self, line: int, cells: Row, name: str) -> str:
        at = self._at[name]
        if at >= len(cells):
            raise self._wrong(line, f"{name} is missing; {len(self._header)} columns are needed")
        return cells[at].strip()

    def _float(self, line: int, cells: Row, name: str) -> float:
        text = self._cell(line, cells, name)
        try:
            value = float(text)
        except ValueError:
            raise self._wrong(line, f"{name} {text!r} is not a number") from None
        if not math.isfinite(value):
            raise self._wrong(line, f"{name} {text!r} is not finite")
        return value

    def _decimal(self, line: int, cells: Row, name: str) -> Decimal:
        text = self._cell(line, cells, name)
        try:
            value = Decimal(text)
        except InvalidOperation:
            raise self._wrong(line, f"{name} {text!r} is not a number") from None
        if not value.is_finite():
            raise self._wrong(line, f"{name} {text!r} is not finite")
        return value

    def _candle(self, line: int, cells: Row) -> Candle:
        values = [self._decimal(line, cells, name) for name in CANDLE_COLUMNS[1:]]
        open_, high, low, close, volume = values
        if low <= 0:
            raise self._wrong(line, f"low {low} is not positive")
        if not high >= max(open_, close) >= min(open_, close) >= low:
            raise self._wrong(
                line, f"open {open_}, high {high}, low {low}, close {close} are inconsistent"
            )
        if volume < 0:
            raise self._wrong(line, f"volume {volume} is negative")
        count = self._cell(line, cells, "trades") if "trades" in self._at else ""
        return Candle(
            time=self._float(line, cells, "time"),
            interval=self.interval,
            open=open_,
            high=high,
            low=low,
            close=close,
            volume=volume,
            trades=int(float(count)) if count else None,
        )

    def _trade(self, line: int, cells: Row) -> Trade:
        price = self._decimal(line, cells, "price")
        volume = self._decimal(line, cells, "volume")
        if price <= 0 or volume <= 0:
            raise self._wrong(line, f"price {price} and volume {volume} must be positive")
        side = self._cell(line, cells, "side").lower() if "side" in self._at else ""
        if side not in ("", "buy", "sell"):
            raise self._wrong(line, f"side {side!r} must be buy, sell or empty")
        return Trade(
            time=self._float(line, cells, "time"),
            price=price,
            volume=volume,
            side=Side(side) if side else None,
        )

    def _checked(self) -> Iterator[Candle | Trade]:
        """Yield rows in order. Raises MarketError for a row out of order."""
        parse = self._candle if self.is_candles else self._trade
        at = self._at.get("symbol")
        last = -math.inf
        for line, cells in self._lines():
            if not cells:
                continue
            if at is not None and self.symbol is not None and cells[at] != self.symbol:
                continue
            item = parse(line, cells)
            if item.time < last or (self.is_candles and item.time == last):
                raise self._wrong(line, f"time {item.time:f} is not after {last:f}")
            last = item.time
            yield item

    def _evidence(self) -> Iterator[Evidence]:
        if not self.is_candles:
            yield from self._checked()
            return
        last: Candle | None = None
        for item in self._checked():
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
        if last is None or count < 2:
            raise MarketError(f"{self.path} holds {count} rows; at least 2 are needed")
        self._end = last.time + self.interval
        self._total = count


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - large, rarely needed

    return pq.ParquetFile(path)


def _price(item: Evidence) -> Decimal:
    if isinstance(item, Trade):
        return item.price
    raise MarketError("a trade was expected")
