"""Kraken's public answers: names, limits, prints, books, candles; and the shapes of answers."""

from decimal import Decimal
from typing import Any

import pytest

from core.domain import Side
from exchange import kraken_wire as wire
from exchange.kraken_public import asset_units
from exchange.kraken_records import WireError
from market.candles import Window
from tests.wire_answers import BTC, DOGE, PAIR, read, recorded
from tests.wire_shapes import shape

D = Decimal

# ---- market ---------------------------------------------------------------------------------


@recorded
def test_names_of_a_pair_are_those_told_and_the_documented_tickers() -> None:
    """XDGUSD is DOGE/USD; nothing is made up by adding or taking letters."""
    facts = {x.instrument.symbol: x for x in wire.pair_facts(read(
        "recorded/assetpairs_20260925.json").result)}  # fmt: skip
    doge, btc = facts["XDGUSD"], facts["XBTUSD"]
    assert doge.names == DOGE
    assert btc.names == {"XXBTZUSD", "XBTUSD", "XBT/USD", "BTCUSD", "BTC/USD"}
    assert (doge.base_id, doge.quote_id, doge.status) == ("XXDG", "ZUSD", "online")
    instrument = doge.instrument
    assert (instrument.pair, instrument.base, instrument.quote) == ("DOGE/USD", "DOGE", "USD")
    assert (instrument.tick_size, instrument.lot_size) == (D("1E-7"), D("1E-8"))
    assert (instrument.order_min, instrument.cost_min) == (D(50), D("0.5"))
    assert instrument.cost_decimals == 9
    assets = wire.asset_names(read("recorded/assets_20260925.json").result)
    assert assets["XXDG"] == {"XXDG", "XDG", "DOGE"}
    assert assets["SOL"] == {"SOL"}
    units = asset_units(read("recorded/assets_20260925.json").result)
    assert (units["XXDG"], units["ZUSD"]) == (D("1E-8"), D("0.0001"))


@recorded
def test_no_name_belongs_to_two_pairs() -> None:
    """Over all pairs of a recorded answer, completed by limits, names stay apart."""
    told = read("recorded/assetpairs_20210417_full.json.gz").result
    limits = {"ordermin": "1", "costmin": "1", "cost_decimals": 5, "status": "online"}
    whole = {
        key: limits | value | {"tick_size": D(1).scaleb(-value["pair_decimals"])}
        for key, value in told.items()
    }
    pairs = wire.pair_facts(whole)
    names = [name for facts in pairs for name in facts.names]
    assert len(pairs) == sum("wsname" in value for value in told.values()) > 250
    assert len(names) == len(set(names))


def test_the_coarser_of_tick_and_decimals_counts() -> None:
    """Both must be kept; a tick off the grid of decimals is refused."""
    (facts,) = wire.pair_facts({"XDGUSD": PAIR | {"tick_size": "0.0005"}})
    assert facts.instrument.tick_size == D("0.0005")
    (facts,) = wire.pair_facts({"XDGUSD": PAIR | {"tick_size": "0.00000001"}})
    assert facts.instrument.tick_size == D("1E-7")
    with pytest.raises(WireError, match="does not fit"):
        wire.pair_facts({"XDGUSD": PAIR | {"tick_size": "0.00000025"}})


def test_a_pair_that_cannot_be_read_does_not_hide_the_others() -> None:
    """It is left out; alone, it is said what is wrong with it."""
    odd = PAIR | {"ordermin": "0"}
    assert len(wire.pair_facts({"XDGUSD": PAIR, "ODDUSD": odd})) == 1
    for changes in (
        {"ordermin": "0"},
        {"lot_multiplier": 10},
        {"pair_decimals": 99},
        {"wsname": "X"},
    ):
        with pytest.raises(WireError, match=next(iter(changes))):
            wire.pair_facts({"XDGUSD": PAIR | changes})


@recorded
def test_candles_still_forming_are_left_out() -> None:
    """Of the recorded rows the last is not committed."""
    result = read("recorded/ohlc_btcusd_60_20260925.json").result
    rows = wire.candles(result, BTC, 3600)
    assert len(rows) == len(result["BTC/USD"]) - 1
    assert (rows[-1].time, rows[-1].interval, rows[-1].close) == (1790355600, 3600, D("83765.4"))
    assert (rows[-1].volume, rows[-1].trades) == (D("81.13696690"), 5879)
    with pytest.raises(WireError, match="not of this interval"):
        wire.candles(result, BTC, 7200)


@pytest.mark.parametrize(
    "row",
    [
        [60, "0", "2", "0", "2", "1", "5", 3],
        [60, "1", "2", "1", "2", "1", "5"],
    ],
)
def test_impossible_candles_are_refused(row: list[Any]) -> None:
    """Zero prices, missing columns."""
    with pytest.raises(WireError):
        wire.candles({"XDGUSD": [row], "last": 60}, DOGE, 60)


def test_one_odd_candle_does_not_cost_the_others() -> None:
    """A price outside low and high is told, and refused alone where candles are taken in."""
    rows = [
        [0, "1", "2", "1", "2", "1", "5", 3],
        [60, "1", "2", "1.5", "2", "1", "5", 3],
        [120, "1", "2", "1", "2.5", "1", "5", 3],
        [180, "1", "2", "1", "2", "1", "5", 3],
    ]
    window = Window(60.0)
    assert window.add(wire.candles({"XDGUSD": rows, "last": 180}, DOGE, 60)) == 2
    assert (window.refused, window.last_close_time) == (2, 240.0)


@recorded
def test_prints_keep_their_order_side_and_cursor() -> None:
    """The cursor is told in nanoseconds as text."""
    trades, cursor = wire.public_trades(read("recorded/trades_btcusd_20260925.json").result, BTC)
    assert cursor == 1790359841138228746
    assert [x.side for x in trades] == [Side.SELL, Side.BUY, Side.BUY]
    assert (trades[0].price, trades[0].volume) == (D("83930.3"), D("0.000051"))
    assert trades[0].time == pytest.approx(1790359840.9392912)
    none, _ = wire.public_trades({"XDGUSD": [["1", "0", 1, "b"]], "last": 5}, DOGE)
    assert none == ()


@pytest.mark.parametrize(
    ("bids", "asks", "words"),
    [
        ([["2", "1", 1]], [["2", "1", 1]], "not below the ask"),
        ([], [["2", "1", 1]], "no level"),
        ([["1", "1", 1]], [], "no level"),
        ([["1", "0", 1]], [["2", "1", 1]], "above zero"),
        ([["1", "1", 1], ["1.5", "1", 1]], [["2", "1", 1]], "bids: the best"),
        ([["1", "1", 1]], [["3", "1", 1], ["2", "1", 1]], "asks: the best"),
    ],
)
def test_a_book_that_cannot_be_is_refused(bids: Any, asks: Any, words: str) -> None:
    """Crossed, one-sided, empty levels, out of order."""
    with pytest.raises(WireError, match=words):
        wire.depth({"XDGUSD": {"bids": bids, "asks": asks}}, DOGE, 5.0)


@recorded
def test_a_ticker_of_all_pairs_gives_ours() -> None:
    """Ours is found by name among more than a thousand; crossed prices are refused."""
    result = read("recorded/ticker_assetversion1_20260723_full.json.gz").result
    assert wire.ticker(result, DOGE) == (D("0.0723188"), D("0.0723189"), D("0.072317"))
    with pytest.raises(WireError, match="named 0 times"):
        wire.ticker(result, {"NOSUCH"})
    crossed = {"XDGUSD": {"a": ["1"], "b": ["2"], "c": ["1"]}}
    with pytest.raises(WireError, match="not below the ask"):
        wire.ticker(crossed, DOGE)


def test_an_answer_about_another_pair_is_refused() -> None:
    """The only key beside `last` must be one of our names."""
    for told in (
        {"XETHZUSD": [], "last": 1},
        {"last": 1},
        {"XDGUSD": [], "XETHZUSD": [], "last": 1},
    ):
        with pytest.raises(WireError):
            wire.public_trades(told, DOGE)


def test_clock_and_status() -> None:
    """Any status is told as it is; what it allows is decided elsewhere."""
    assert wire.server_time({"unixtime": 1700000000}) == 1.7e9
    assert wire.system_status({"status": "cancel_only"}) == "cancel_only"


# ---- shapes ---------------------------------------------------------------------------------


def test_shapes_tell_keys_and_kinds() -> None:
    """A number as text differs from a number; ids, values and lengths do not matter."""
    first = {"open": {"OUF4EM-FRGI2-MQMWZD": {"vol": "1.5", "t": 1, "a": [], "r": None}}}
    other = {"open": {"OAAAAA-BBBBB-CCCCCC": {"r": None, "t": D("1.5"), "a": [], "vol": "7"}}}
    assert shape(first) == shape(other)
    inner = {"a": {"list of": []}, "r": "null", "t": "number", "vol": "numeral"}
    assert shape(first) == {"open": {"<id>": [inner]}}
    assert shape({"vol": 1.5}) != shape({"vol": "1.5"})
    assert shape({"a": 1}) != shape({"b": 1})
    assert shape({"a": True}) == {"a": "boolean"}
    assert shape({"x": [["1", 2, "b"], ["3", 4, "s"]]}) == {
        "x": {"list of": [{"row": ["numeral", "number", "text"]}]}
    }
    with pytest.raises(TypeError, match="bytes"):
        shape(b"")


@recorded
def test_shapes_of_recorded_answers_are_finite_and_stable() -> None:
    """Two recordings of one method, of the same years, have the same shape."""
    pairs = read("recorded/trades_btcusd_20260925.json").result["BTC/USD"]
    older = read("nautilus/http_trades.json").result["XBTUSDT"]
    assert shape(pairs) == shape(older)
    assert len(shape(older)["list of"]) == 1
