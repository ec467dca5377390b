"""What the sandbox tells of its market: the `result` of Kraken's public methods.

Pure: no clock, no socket; whoever owns the matching engine feeds each piece of evidence here with
what the engine then displays, in order of time, and passes the time of each question. Nothing is
told before its time. Prices come with the decimals the venue uses: in OHLC those of the pair, in
all other answers those of its cost. Own orders and executions are not part of tape and depth. Look
next at `exchange/sandbox_tape.py` (prints and bars) and `exchange/sandbox_assets.py` (names).
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any

from core.domain import ONE, ZERO, Instrument, Side
from core.market import Book, Candle, Evidence, Trade, available_at
from core.record import plain
from exchange.rates import chance
from exchange.sandbox_assets import Pair, asset_rows
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_tape import INTERVALS, SECOND_NS, Bar, Print, Tape
from exchange.venue import Quote

INVALID = "EGeneral:Invalid arguments"
UNKNOWN_METHOD = "EGeneral:Unknown method"
NO_MARKET_YET = "EService:Unavailable"
TRADES_MAX = 1000
DEPTH_DEFAULT, DEPTH_MAX = 100, 500
SPREADS_MAX = 200
LEVELS = 50  # of the book made up around the quote where the market has none
RECENT_PRINTS = 100  # whose mean volume such a book is made of
SIZE_DECIMALS = 3  # of displayed sizes
VOLUME_DECIMALS = 8
DAY_SEC = 86_400
DAY_STEP = 5  # minutes of the bars that the figures of 24 hours are made of
# A cursor below this is in seconds, above in nanoseconds: the venue takes both.
CURSOR_SECONDS_MAX = 10**12
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Params = dict[str, str]
Level = tuple[Decimal, Decimal]


class MarketView:
    """The public side of one pair. Memory is bounded: the last 10,000 prints, 720 bars each.

    Raises ValueError for an instrument whose assets the sandbox does not know.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.pair = Pair(instrument)
        self._instrument = instrument
        self._tape = Tape(instrument)
        self._quote: Quote | None = None
        self._book: Book | None = None
        self._spreads: deque[tuple[int, Decimal, Decimal]] = deque(maxlen=SPREADS_MAX)
        self._seen_at = 0.0
        self._shown_at = 0.0
        self._candle_sec = 0.0  # of the last evidence, where that was a candle
        self._methods: dict[str, Callable[[Params, float, str], Any]] = {
            "Time": self._time,
            "SystemStatus": self._system_status,
            "Assets": self._assets,
            "AssetPairs": self._asset_pairs,
            "Ticker": self._ticker,
            "OHLC": self._ohlc,
            "Depth": self._depth,
            "Trades": self._trades,
            "Spread": self._spread,
        }

    def list_as(self, instrument: Instrument) -> None:
        """Tell of other limits from now on."""
        self.pair, self._instrument = Pair(instrument), instrument

    def feed(self, evidence: Evidence, quote: Quote | None, book: Book | None) -> None:
        """Take one piece of evidence, and what the venue displays after it (None: as before)."""
        if isinstance(evidence, Candle):
            self._tape.add_candle(evidence)
        elif isinstance(evidence, Trade):
            self._tape.add_trade(evidence)
        self._seen_at = max(self._seen_at, available_at(evidence))
        self._candle_sec = evidence.interval if isinstance(evidence, Candle) else 0.0
        self.show(quote, book, self._seen_at)

    def show(self, quote: Quote | None, book: Book | None, at: float) -> None:
        """Take what the venue displays at `at` (None: as before), such as before any evidence."""
        self._shown_at = max(self._shown_at, at)
        if book is not None:
            self._book = book
        if quote is not None and quote != self._quote:
            self._spreads.append((int(self._shown_at), quote.bid, quote.ask))
            self._quote = quote

    def answer(self, method: str, params: Params, now: float, status: str) -> Any:
        """Return the `result` of a public method, ready for JSON.

        `now` is the venue's time in seconds, not before that of the last evidence; `status` the
        market's: online, post_only, limit_only, cancel_only or maintenance. Unknown parameters are
        ignored, as at the venue. Raises SandboxError.
        """
        found = self._methods.get(method)
        if found is None:
            raise SandboxError(UNKNOWN_METHOD)
        return found(params, max(now, self._seen_at), status)

    # ---- the venue ----------------------------------------------------------------------------

    def _time(self, _params: Params, now: float, _status: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(int(now), UTC)
        day, month = DAYS[at.weekday()], MONTHS[at.month - 1]
        text = f"{day}, {at.day:2d} {month} {at.year % 100:02d} {at:%H:%M:%S} +0000"
        return {"unixtime": int(now), "rfc1123": text}

    def _system_status(self, _params: Params, now: float, status: str) -> dict[str, Any]:
        at = datetime.fromtimestamp(int(now), UTC)
        return {"status": status, "timestamp": f"{at:%Y-%m-%dT%H:%M:%SZ}"}

    def _assets(self, params: Params, _now: float, _status: str) -> dict[str, Any]:
        return asset_rows(params.get("asset"))

    def _asset_pairs(self, params: Params, _now: float, status: str) -> dict[str, Any]:
        return self.pair.rows(params.get("pair"), params.get("info", "info"), status)

    # ---- prices -------------------------------------------------------------------------------

    def _ticker(self, params: Params, now: float, _status: str) -> dict[str, Any]:
        asked = params.get("pair") or self.pair.symbol
        version = params.get("assetVersion")
        keys = [self.pair.key(name, version) for name in asked.split(",")]
        return {key: self._ticker_row(now) for key in keys}

    def _ticker_row(self, now: float) -> dict[str, Any]:
        quote, last = self._shown_quote(), self._tape.last
        bids, asks = self._sides(quote, 1)
        day_start = int(now) // DAY_SEC * DAY_SEC
        today = self._tape.recent(DAY_STEP, day_start)
        rolling = self._tape.recent(DAY_STEP, now - DAY_SEC)
        spans = (today, rolling)
        price = quote.last if last is None else last.price
        return {
            "a": self._touch(asks, quote.ask),
            "b": self._touch(bids, quote.bid),
            "c": [self._price(price), _volume(ZERO if last is None else last.volume)],
            "v": [_volume(_sum(span)) for span in spans],
            "p": [self._price(_vwap(span) or price) for span in spans],
            "t": [sum(bar.count for bar in span) for span in spans],
            "l": [self._price(min((bar.low for bar in span), default=price)) for span in spans],
            "h": [self._price(max((bar.high for bar in span), default=price)) for span in spans],
            "o": self._price(today[0].open if today else price),
        }

    def _ohlc(self, params: Params, now: float, _status: str) -> dict[str, Any]:
        key = self._key(params)
        interval = _whole(params, "interval", 1)
        if interval not in INTERVALS:
            raise SandboxError(INVALID)
        since = _whole(params, "since", 0)
        known = self._known_until(now)
        bars = self._tape.bars(interval, known)
        committed = int(known) // (interval * 60) * interval * 60 - interval * 60
        rows = [self._ohlc_row(bar) for bar in bars if bar.start > since]
        return {key: rows, "last": committed}

    def _known_until(self, now: float) -> float:
        """Return the time before which nothing can come any more.

        A candle is known at its end: until then a bar within its time must not count as committed.
        """
        return max(self._seen_at, now - self._candle_sec) if self._candle_sec else now

    def _ohlc_row(self, bar: Bar) -> list[Any]:
        places = self.pair.price_decimals
        vwap = bar.cost / bar.volume if bar.volume else ZERO
        prices = (bar.open, bar.high, bar.low, bar.close, vwap)
        return [bar.start, *(_fixed(x, places) for x in prices), _volume(bar.volume), bar.count]

    def _trades(self, params: Params, _now: float, _status: str) -> dict[str, Any]:
        key = self._key(params)
        count = _whole(params, "count", TRADES_MAX)
        if not 1 <= count <= TRADES_MAX:
            raise SandboxError(INVALID)
        cursor = _cursor_ns(params.get("since"))
        rows = self._tape.latest(count) if cursor is None else self._tape.after(cursor, count)
        last = rows[-1].at_ns if rows else cursor or 0
        return {key: [self._trade_row(row) for row in rows], "last": str(last)}

    def _trade_row(self, row: Print) -> list[Any]:
        side = "b" if row.side is Side.BUY else "s"
        at = round(row.at_ns / SECOND_NS, 7)
        return [self._price(row.price), _volume(row.volume), at, side, "l", "", row.number]

    # ---- depth --------------------------------------------------------------------------------

    def _depth(self, params: Params, _now: float, _status: str) -> dict[str, Any]:
        key = self._key(params)
        count = _whole(params, "count", DEPTH_DEFAULT)
        if not 1 <= count <= DEPTH_MAX:
            raise SandboxError(INVALID)
        bids, asks = self._sides(self._shown_quote(), count)
        at = int(self._shown_at if self._book is None else self._book.time)

        def rows(levels: tuple[Level, ...]) -> list[list[Any]]:
            return [[self._price(price), _size(size), at] for price, size in levels[:count]]

        return {key: {"asks": rows(asks), "bids": rows(bids)}}

    def _spread(self, params: Params, now: float, _status: str) -> dict[str, Any]:
        key = self._key(params)
        since = _whole(params, "since", 0)
        rows = [
            [at, self._price(bid), self._price(ask)]
            for at, bid, ask in self._spreads
            if at >= since
        ]
        return {key: rows, "last": rows[-1][0] if rows else since or int(now)}

    def _shown_quote(self) -> Quote:
        if self._quote is None:
            raise SandboxError(NO_MARKET_YET)
        return self._quote

    def _sides(
        self, quote: Quote, count: int = LEVELS
    ) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
        """Return bids and asks, best first: the market's own book, or one around the quote."""
        if self._book is not None:
            return self._book.bids, self._book.asks
        return self._made_up(quote, Side.BUY, count), self._made_up(quote, Side.SELL, count)

    def _made_up(self, quote: Quote, side: Side, count: int) -> tuple[Level, ...]:
        """Return levels half a spread apart, of sizes like recent prints and growing outwards."""
        tick = self._instrument.tick_size
        step = max(tick, self._instrument.price_down((quote.ask - quote.bid) / 2))
        typical = self._tape.mean_volume(RECENT_PRINTS) or self._instrument.order_min * 20
        levels = []
        for n in range(min(count, LEVELS)):
            price = quote.bid - n * step if side is Side.BUY else quote.ask + n * step
            if price < tick:
                break
            wobble = Decimal(str(round(0.5 + chance(0, f"{side}/{price.normalize()}"), 3)))
            levels.append((price, typical * (1 + Decimal(n) / 4) * wobble))
        return tuple(levels)

    # ---- shapes -------------------------------------------------------------------------------

    def _key(self, params: Params) -> str:
        name = params.get("pair")
        if not name:
            raise SandboxError(INVALID)
        return self.pair.key(name, params.get("assetVersion"))

    def _price(self, value: Decimal) -> str:
        return _fixed(value, max(self._instrument.cost_decimals, self.pair.price_decimals))

    def _touch(self, levels: tuple[Level, ...], price: Decimal) -> list[str]:
        """Return price and whole displayed size of the best level."""
        size = levels[0][1] if levels and levels[0][0] == price else ONE
        whole = size.to_integral_value(ROUND_CEILING)
        return [self._price(price), plain(whole), _fixed(whole, SIZE_DECIMALS)]


def _whole(params: Params, name: str, default: int) -> int:
    text = params.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise SandboxError(INVALID)
    return int(text)


def _cursor_ns(text: str | None) -> int | None:
    """Return a cursor in nanoseconds. Raises SandboxError if it is no number."""
    if not text:
        return None
    whole, _, fraction = text.partition(".")
    if not (whole + fraction).isascii() or not (whole + fraction).isdecimal() or len(text) > 32:
        raise SandboxError(INVALID)
    value = Decimal(text)
    return int(value * SECOND_NS) if value < CURSOR_SECONDS_MAX else int(value)


def _fixed(value: Decimal, places: int) -> str:
    return plain(value.quantize(ONE.scaleb(-places), ROUND_HALF_UP))


def _volume(value: Decimal) -> str:
    return _fixed(value, VOLUME_DECIMALS)


def _size(value: Decimal) -> str:
    """Return a displayed size, rounded up: what stands before us is never told too small."""
    return plain(value.quantize(ONE.scaleb(-SIZE_DECIMALS), ROUND_CEILING))


def _sum(bars: list[Bar]) -> Decimal:
    return sum((bar.volume for bar in bars), ZERO)


def _vwap(bars: list[Bar]) -> Decimal | None:
    volume = _sum(bars)
    return sum((bar.cost for bar in bars), ZERO) / volume if volume else None
