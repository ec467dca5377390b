"""What Kraken's public answers say: clock, status, names, limits of the pairs, market evidence.

Pure. Answers are keyed by a name of the pair that may differ from the one asked for; a pair or an
asset is known by the names the exchange itself tells, and by its documented ticker synonyms, never
by stripping letters. Single values are checked in `exchange/kraken_values.py`.
"""

from collections.abc import Collection, Mapping
from decimal import Decimal
from itertools import pairwise

from core.domain import Instrument, Side
from core.market import Book, Candle, Trade
from exchange.kraken_records import PairFacts, WireError
from exchange.kraken_values import (
    among_pairs,
    as_amount,
    as_book_side,
    as_count,
    as_mapping,
    as_positive,
    as_row,
    as_rows,
    as_text,
    as_time,
    of_pair,
    part,
)

# The two assets that the exchange calls by another name than the rest of the world does.
TICKERS = {"XBT": "BTC", "XDG": "DOGE"}
_SIDES = {"b": Side.BUY, "s": Side.SELL}
_DECIMALS_MAX = 18


# ---- clock, status, names -------------------------------------------------------------------


def server_time(result: object) -> float:
    """Return the exchange's clock, seconds since the epoch, to the second. Raises WireError."""
    return as_time(part(as_mapping(result, "Time"), "unixtime", "Time"), "Time unixtime")


def system_status(result: object) -> str:
    """Return the exchange's status as told; only `online` means online. Raises WireError."""
    told = as_mapping(result, "SystemStatus")
    return as_text(part(told, "status", "SystemStatus"), "SystemStatus status")


def _synonyms(name: str) -> frozenset[str]:
    return frozenset({name, TICKERS.get(name, name)})


def asset_names(result: object) -> dict[str, frozenset[str]]:
    """Return asset id → every name of it: id, short name, ticker. Raises WireError."""
    found: dict[str, frozenset[str]] = {}
    for key, value in as_mapping(result, "Assets").items():
        asset = as_text(key, "Assets id")
        told = as_mapping(value, f"Assets {asset}")
        short = as_text(part(told, "altname", f"Assets {asset}"), f"Assets {asset} altname")
        found[asset] = frozenset({asset}) | _synonyms(short)
    return found


def asset_units(result: object) -> dict[str, Decimal]:
    """Return asset id → the unit in which balances of it are kept. Raises WireError."""
    return {
        asset: _grid(as_mapping(told, f"Assets {asset}"), "decimals", f"Assets {asset}")
        for asset, told in as_mapping(result, "Assets").items()
    }


def suffixed(
    balances: Mapping[str, Decimal], assets: Mapping[str, frozenset[str]]
) -> dict[str, Decimal]:
    """Return the entries that hold one of `assets` under a suffix (`XDG.F`), where not zero.

    Such money is put to earn, bonded, staked or otherwise bound: it is not in the balance that
    orders draw on. `assets` is what `asset_names` gave, or a part of it.
    """
    names = frozenset().union(*assets.values())
    return {
        key: amount
        for key, amount in balances.items()
        if amount and "." in key and key.rsplit(".", maxsplit=1)[0] in names
    }


# ---- pairs ----------------------------------------------------------------------------------


def pair_facts(result: object) -> tuple[PairFacts, ...]:
    """Return what AssetPairs says of each pair that tells all its limits.

    A limit that is not told is not "no limit": such a pair is left out, and if none is left,
    WireError says what the first one lacks.
    """
    found: list[PairFacts] = []
    first: WireError | None = None
    for key, value in as_mapping(result, "AssetPairs").items():
        try:
            found.append(_pair(key, value))
        except WireError as error:
            first = first or error
    if not found:
        raise first or WireError("AssetPairs: there is no pair")
    return tuple(found)


def _pair(key: str, value: object) -> PairFacts:
    where = f"AssetPairs {as_text(key, 'AssetPairs name')}"
    told = as_mapping(value, where)
    short = as_text(part(told, "altname", where), f"{where} altname")
    long = as_text(part(told, "wsname", where), f"{where} wsname")
    base, slash, quote = long.partition("/")
    if not (base and slash and quote) or "/" in quote:
        raise WireError(f"{where} wsname: BASE/QUOTE is expected")
    if as_count(part(told, "lot_multiplier", where), f"{where} lot_multiplier") != 1:
        raise WireError(f"{where} lot_multiplier: lots of more than one unit are not supported")
    instrument = Instrument(
        pair=f"{TICKERS.get(base, base)}/{TICKERS.get(quote, quote)}",
        symbol=short,
        base=TICKERS.get(base, base),
        quote=TICKERS.get(quote, quote),
        tick_size=_tick_size(told, where),
        lot_size=_grid(told, "lot_decimals", where),
        order_min=as_positive(part(told, "ordermin", where), f"{where} ordermin"),
        cost_min=as_positive(part(told, "costmin", where), f"{where} costmin"),
        cost_decimals=_decimals(told, "cost_decimals", where),
    )
    forms = {
        f"{x}{sign}{y}" for x in _synonyms(base) for y in _synonyms(quote) for sign in ("", "/")
    }
    return PairFacts(
        instrument=instrument,
        status=as_text(part(told, "status", where), f"{where} status"),
        base_id=as_text(part(told, "base", where), f"{where} base"),
        quote_id=as_text(part(told, "quote", where), f"{where} quote"),
        names=frozenset(forms | {key, short}),
    )


def _decimals(told: Mapping[str, object], key: str, where: str) -> int:
    count = as_count(part(told, key, where), f"{where} {key}")
    if count > _DECIMALS_MAX:
        raise WireError(f"{where} {key}: {count} is not plausible, {_DECIMALS_MAX} is the most")
    return count


def _grid(told: Mapping[str, object], key: str, where: str) -> Decimal:
    return Decimal(1).scaleb(-_decimals(told, key, where))


def _tick_size(told: Mapping[str, object], where: str) -> Decimal:
    by_decimals = _grid(told, "pair_decimals", where)
    tick = as_positive(part(told, "tick_size", where), f"{where} tick_size")
    coarse, fine = max(tick, by_decimals), min(tick, by_decimals)
    if (coarse / fine) % 1:
        raise WireError(f"{where} tick_size: {tick} does not fit its {by_decimals} decimals")
    return coarse


# ---- market ---------------------------------------------------------------------------------


def public_trades(result: object, names: Collection[str]) -> tuple[tuple[Trade, ...], int]:
    """Return prints in the exchange's order, and the cursor in ns to go on from.

    Prints of no volume are left out: they are evidence of nothing. Raises WireError.
    """
    told = as_mapping(result, "Trades")
    cursor = as_count(part(told, "last", "Trades"), "Trades last")
    trades: list[Trade] = []
    for item in as_rows(of_pair(told, names, "Trades"), "Trades"):
        price, volume, moment, side, *_ = as_row(item, 4, "Trades row")
        if side not in ("b", "s"):
            raise WireError("Trades side: b or s is expected")
        trade = Trade(
            time=as_time(moment, "Trades time"),
            price=as_positive(price, "Trades price"),
            volume=as_amount(volume, "Trades volume"),
            side=_SIDES[side],
        )
        if trade.volume:
            trades.append(trade)
    return tuple(trades), cursor


def depth(result: object, names: Collection[str], at: float) -> Book:
    """Return the displayed book as of `at`; crossed, unordered or one-sided is a WireError."""
    told = as_mapping(of_pair(as_mapping(result, "Depth"), names, "Depth"), "Depth")
    bids = as_book_side(part(told, "bids", "Depth"), "Depth bids")
    asks = as_book_side(part(told, "asks", "Depth"), "Depth asks")
    if any(a[0] <= b[0] for a, b in pairwise(bids)):
        raise WireError("Depth bids: the best level does not come first")
    if any(a[0] >= b[0] for a, b in pairwise(asks)):
        raise WireError("Depth asks: the best level does not come first")
    _refuse_crossed(bids[0][0], asks[0][0], "Depth")
    return Book(time=at, bids=bids, asks=asks)


def candles(result: object, names: Collection[str], interval_sec: float) -> tuple[Candle, ...]:
    """Return the committed candles in order; the one still forming is left out.

    Raises WireError, also where rows are out of order. A price outside low and high is told as it
    is: such a row is refused by itself where candles are taken in (`market/candles.py`).
    """
    told = as_mapping(result, "OHLC")
    last = as_time(part(told, "last", "OHLC"), "OHLC last")
    rows = [_candle(item, interval_sec) for item in as_rows(of_pair(told, names, "OHLC"), "OHLC")]
    if any(a.time + interval_sec > b.time for a, b in pairwise(rows)):
        raise WireError("OHLC rows: they are not in order, or not of this interval")
    return tuple(row for row in rows if row.time <= last)


def _candle(item: object, interval_sec: float) -> Candle:
    start, first, high, low, close, _, volume, count, *_ = as_row(item, 8, "OHLC row")
    return Candle(
        time=as_time(start, "OHLC time"),
        interval=interval_sec,
        open=as_positive(first, "OHLC open"),
        high=as_positive(high, "OHLC high"),
        low=as_positive(low, "OHLC low"),
        close=as_positive(close, "OHLC close"),
        volume=as_amount(volume, "OHLC volume"),
        trades=as_count(count, "OHLC count"),
    )


def ticker(result: object, names: Collection[str]) -> tuple[Decimal, Decimal, Decimal]:
    """Return bid, ask and last price; the answer may name other pairs too. Raises WireError."""
    told = as_mapping(among_pairs(as_mapping(result, "Ticker"), names, "Ticker"), "Ticker")
    bid, ask, last = (
        as_positive(as_row(part(told, key, "Ticker"), 1, f"Ticker {key}")[0], f"Ticker {key}")
        for key in ("b", "a", "c")
    )
    _refuse_crossed(bid, ask, "Ticker")
    return bid, ask, last


def _refuse_crossed(bid: Decimal, ask: Decimal, field: str) -> None:
    if bid >= ask:
        raise WireError(f"{field}: the bid {bid} is not below the ask {ask}")
