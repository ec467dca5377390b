"""The sandbox's public answers: shapes of the venue's own, bars and prints that add up."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import Instrument, Side
from core.market import Book, Candle, Trade
from core.record import replace
from exchange.matching import EngineState, MatchingConfig, MatchingEngine, Quote
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_market import MarketView
from exchange.sandbox_tape import BARS_MAX, INTERVALS, PRINTS_MAX
from market.synthetic import SyntheticSource
from tests.wire_shapes import shape

D = Decimal
FIXTURES = Path(__file__).parent.parent.parent / "shared" / "kraken_rest"
DAY = 86_400
START = 20_000 * DAY  # midnight UTC
QUOTE = Quote(bid=D("0.0999750"), ask=D("0.1000250"), last=D("0.1"))


def candle(  # noqa: PLR0917 - a candle reads best in its usual order
    n: int, o: str, h: str, low: str, c: str, volume: str = "4000", *, interval: float = 300.0
) -> Candle:
    """Return the candle number `n` after the start."""
    return Candle(
        time=START + n * interval,
        interval=interval,
        open=D(o),
        high=D(h),
        low=D(low),
        close=D(c),
        volume=D(volume),
    )


def trade(at: float, price: str = "0.1", volume: str = "10", side: Side | None = None) -> Trade:
    """Return a print `at` seconds after the start."""
    return Trade(time=START + at, price=D(price), volume=D(volume), side=side)


def fed(*evidence: Candle | Trade | Book, quote: Quote | None = QUOTE) -> MarketView:
    """Return a view that has seen the evidence, with a fixed quote and books as they come."""
    view = MarketView(Instrument())
    for item in evidence:
        view.feed(item, quote, item if isinstance(item, Book) else None)
    return view


def ask(view: MarketView, method: str, now: float = START + DAY, **params: str) -> Any:
    """Return the answer as a client reads it, after JSON."""
    return json.loads(json.dumps(view.answer(method, params, now, "online")))


def rows(view: MarketView, method: str, now: float = START + DAY, **params: str) -> Any:
    """Return the rows of an answer about the pair."""
    return ask(view, method, now, pair="XDGUSD", **params)["XDGUSD"]


def refused(view: MarketView, method: str, **params: str) -> str:
    """Return the one error string of a refusal."""
    with pytest.raises(SandboxError) as found:
        ask(view, method, **params)
    return ", ".join(found.value.errors)


def recorded(name: str) -> Any:
    """Return the result of a recorded answer."""
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"no recorded answers beside the project: {name}")
    text = json.loads(path.read_text())
    return text.get("response", text)["result"]


def synthetic(count: int) -> tuple[MarketView, float]:
    """Return a view over the synthetic market through a matching engine, and the last time."""
    instrument = Instrument()
    state = EngineState(base=D(0), quote=D(0), inventory_cost=D(0))
    engine = MatchingEngine(instrument, MatchingConfig(), state)
    view, at = MarketView(instrument), 0.0
    for _, item in zip(
        range(count), SyntheticSource(7, instrument=instrument).read(0), strict=False
    ):
        engine.on_evidence(item)
        view.feed(item, engine.quote(), engine.book())
        at = item.time
    return view, at


# ---- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "name", "key"),
    [
        ("Ticker", "nautilus/http_ticker.json", "XBTUSDT"),
        ("Depth", "nautilus/http_order_book.json", "XBTUSDT"),
        ("Trades", "nautilus/http_trades.json", "XBTUSDT"),
        ("Spread", "jkorf/exchangedata/GetRecentSpread.json", "XXBTZUSD"),
        ("OHLC", "nautilus/http_ohlc.json", "XBTUSDT"),
        ("AssetPairs", "recorded/assetpairs_20260925.json", "XDGUSD"),
        ("Assets", "recorded/assets_20260925.json", "XXDG"),
    ],
)
def test_shapes_are_those_of_recorded_answers(method: str, name: str, key: str) -> None:
    """Every answer has the keys and types of one that the venue gave."""
    view, at = synthetic(400)
    theirs = recorded(name)
    ours = ask(view, method, at, **({} if method == "Assets" else {"pair": "XDGUSD"}))
    mine = ours["XXDG" if method == "Assets" else "XDGUSD"]
    assert shape(mine) == shape(theirs[key])
    if "last" in theirs:
        assert shape(ours["last"]) == shape(theirs["last"])


def test_pair_row_is_the_recorded_one() -> None:
    """AssetPairs says of the pair what the venue says of it."""
    theirs = recorded("recorded/assetpairs_20260925.json")["XDGUSD"]
    assert rows(fed(), "AssetPairs") == theirs


@pytest.mark.parametrize("asset", ["XXBT", "XXDG", "XETH", "ZUSD", "SOL"])
def test_asset_rows_are_the_recorded_ones(asset: str) -> None:
    """Assets says of each known asset what the venue says of it."""
    assert ask(fed(), "Assets")[asset] == recorded("recorded/assets_20260925.json")[asset]


def test_ticker_prices_have_the_decimals_of_the_recorded_pair() -> None:
    """Prices outside OHLC carry nine decimals for this pair, sizes three, volumes eight."""
    theirs = recorded("recorded/ticker_assetversion1_20260723_doge.json")["DOGE/USD"]
    view, at = synthetic(400)
    ours = ask(view, "Ticker", at, assetVersion="1")["DOGE/USD"]

    def decimals(row: Any) -> Any:
        if isinstance(row, list):
            return [decimals(item) for item in row]
        return len(row.partition(".")[2]) if isinstance(row, str) else row

    assert {k: decimals(v) for k, v in ours.items() if k != "t"} == {
        k: decimals(v) for k, v in theirs.items() if k != "t"
    }


def test_time_and_status_are_written_as_the_venue_writes_them() -> None:
    """The clock has whole seconds and a padded day, the status a time in UTC."""
    assert ask(fed(), "Time", 1391835876.9) == recorded("xchange/servertime-data.json")
    assert ask(fed(), "Time", 1762820224.0) == recorded("nautilus/http_server_time.json")
    status = fed().answer("SystemStatus", {}, 1762820230.5, "cancel_only")
    assert status == {"status": "cancel_only", "timestamp": "2025-11-11T00:17:10Z"}


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["XDGUSD", "DOGEUSD"])
def test_joined_names_are_answered_by_the_symbol(name: str) -> None:
    """A request by altname or joined tickers is answered under the pair's id."""
    assert list(ask(fed(trade(0)), "Depth", pair=name)) == ["XDGUSD"]


def test_a_name_with_a_slash_is_answered_by_that_name() -> None:
    """As recorded for BTC/USD, the key is the name that was asked for."""
    assert list(ask(fed(), "OHLC", pair="DOGE/USD")) == ["DOGE/USD", "last"]


@pytest.mark.parametrize("name", ["XDG/USD", "XBTUSD", "xdgusd", "XXDGZUSD", "XDGUSD,", " XDGUSD"])
@pytest.mark.parametrize("method", ["Ticker", "OHLC", "Depth", "Trades", "Spread", "AssetPairs"])
def test_other_pair_names_are_refused(method: str, name: str) -> None:
    """The web socket's name and every other pair are unknown, in the venue's words."""
    assert refused(fed(), method, pair=name) == "EQuery:Unknown asset pair"


def test_assets_by_any_name_and_no_other() -> None:
    """Assets are found by id, altname and ticker; answers are keyed by id."""
    assert list(ask(fed(), "Assets", asset="DOGE,USD,XXBT")) == ["XXDG", "ZUSD", "XXBT"]
    assert refused(fed(), "Assets", asset="XXDG,NIX") == "EQuery:Unknown asset"


def test_asset_pairs_by_part_and_with_the_markets_status() -> None:
    """A part asked for comes alone; maintenance shows as a pair that takes no orders."""
    fees = rows(fed(), "AssetPairs", info="fees")
    assert fees == {"fees": [], "fees_maker": [], "fee_volume_currency": "ZUSD"}
    told = fed().answer("AssetPairs", {}, START, "maintenance")["XDGUSD"]
    assert told["status"] == "cancel_only"
    assert refused(fed(), "AssetPairs", info="prices").startswith("EGeneral:Invalid arguments")


def test_an_instrument_of_unknown_assets_is_refused() -> None:
    """A catalogue without the asset cannot speak for the pair, and says what it knows."""
    with pytest.raises(ValueError, match="knows no asset PEPE; it knows BTC, DOGE"):
        MarketView(replace(Instrument(), base="PEPE", symbol="PEPEUSD"))


# ---- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("OHLC", {}),
        ("Depth", {}),
        ("Trades", {}),
        ("Spread", {}),
        ("OHLC", {"pair": "XDGUSD", "interval": "2"}),
        ("OHLC", {"pair": "XDGUSD", "interval": "-1"}),
        ("OHLC", {"pair": "XDGUSD", "interval": "x"}),
        ("OHLC", {"pair": "XDGUSD", "since": "1e9"}),
        ("Depth", {"pair": "XDGUSD", "count": "0"}),
        ("Depth", {"pair": "XDGUSD", "count": "501"}),
        ("Trades", {"pair": "XDGUSD", "count": "0"}),
        ("Trades", {"pair": "XDGUSD", "count": "1001"}),
        ("Trades", {"pair": "XDGUSD", "since": "."}),
        ("Trades", {"pair": "XDGUSD", "since": "soon"}),
        ("Trades", {"pair": "XDGUSD", "since": "9" * 40}),
        ("Spread", {"pair": "XDGUSD", "since": "٣"}),
    ],
)
def test_bad_arguments_are_refused(method: str, params: dict[str, str]) -> None:
    """A missing pair, an interval that is none, counts out of bounds and texts for numbers."""
    assert refused(fed(), method, **params) == "EGeneral:Invalid arguments"


def test_an_unknown_method_is_refused() -> None:
    """What the venue does not offer is no empty answer."""
    assert refused(fed(), "Nothing") == "EGeneral:Unknown method"


@given(
    method=st.sampled_from(["Ticker", "OHLC", "Depth", "Trades", "Spread", "Assets", "AssetPairs"]),
    params=st.dictionaries(
        st.sampled_from(["pair", "interval", "since", "count", "asset", "info", "assetVersion"]),
        st.sampled_from(["XDGUSD", "ZUSD", "1", "0", "5", "500", ".", "-1", "1e3", "²", "٣", "\0"]),
    ),
)
def test_any_parameters_give_an_answer_or_a_refusal(method: str, params: dict[str, str]) -> None:
    """No text in a parameter breaks the answer: it is JSON, or a refusal with strings."""
    view = fed(candle(0, "0.1", "0.11", "0.09", "0.1"))
    errors: tuple[str, ...] = ()
    try:
        text = json.dumps(view.answer(method, params, START + DAY, "online"))
    except SandboxError as error:
        text, errors = "", error.errors
    assert bool(text) != bool(errors)
    assert all(name.startswith("E") for name in errors)


def test_before_any_evidence_there_are_no_prices() -> None:
    """Ticker and depth are unavailable; tape and bars are empty, not invented."""
    view = MarketView(Instrument())
    assert refused(view, "Ticker", pair="XDGUSD") == "EService:Unavailable"
    assert refused(view, "Depth", pair="XDGUSD") == "EService:Unavailable"
    assert rows(view, "OHLC") == rows(view, "Trades") == rows(view, "Spread") == []


def test_an_opening_quote_is_shown_before_any_evidence() -> None:
    """Ticker and depth stand at it, without a trade having been."""
    view = MarketView(Instrument())
    view.show(QUOTE, None, START)
    got = ask(view, "Ticker", START)["XDGUSD"]
    assert (got["c"], got["t"]) == (["0.100000000", "0.00000000"], [0, 0])
    assert got["l"] == got["h"] == got["p"] == ["0.100000000"] * 2
    assert rows(view, "Depth", START)["bids"][0][::2] == ["0.099975000", START]
    assert rows(view, "Spread", START) == [[START, "0.099975000", "0.100025000"]]
    assert rows(view, "Trades", START) == []


# ---- the tape ---------------------------------------------------------------------------------


def test_a_candle_prints_its_corners_inside_its_time() -> None:
    """Open, nearer extreme, other extreme, close; a quarter of the volume each."""
    view = fed(candle(0, "0.1010", "0.1015", "0.0990", "0.1005", "4000"))
    got = rows(view, "Trades")
    assert [D(row[0]) for row in got] == [D("0.101"), D("0.1015"), D("0.099"), D("0.1005")]
    assert [D(row[1]) for row in got] == [D(1000)] * 4
    assert [row[2] - START for row in got] == [37.5, 112.5, 187.5, 262.5]
    assert [row[3] for row in got] == ["b", "b", "s", "b"]
    assert [row[6] for row in got] == [1, 2, 3, 4]


def test_volume_that_has_no_quarter_is_not_lost() -> None:
    """The last corner takes what rounding left."""
    view = fed(candle(0, "0.1", "0.1", "0.1", "0.1", "0.00000007"))
    assert [row[1] for row in rows(view, "Trades")] == ["0.00000001"] * 3 + ["0.00000004"]


def test_made_up_and_empty_candles_print_nothing() -> None:
    """A gap that was filled, and a candle without volume, had no trades."""
    quiet = candle(0, "0.1", "0.1", "0.1", "0.1", "0")
    filled = replace(candle(1, "0.1", "0.1", "0.1", "0.1"), is_filled=True)
    assert rows(fed(quiet, filled), "Trades") == []


def test_prints_of_trades_are_those_of_the_market() -> None:
    """Price, volume, time and side are told as they were; without a side the move tells it."""
    view = fed(
        trade(1.25, "0.1000001", "10.5", Side.SELL),
        trade(2, "0.1000000", "3"),
        trade(3, "0.1000000", "4"),
        trade(4, "0.1000002", "5"),
    )
    got = rows(view, "Trades")
    assert got[0][:4] == ["0.100000100", "10.50000000", START + 1.25, "s"]
    assert [row[3] for row in got] == ["s", "s", "s", "b"]


def test_trades_page_from_a_cursor_without_loss() -> None:
    """Pages are oldest first, the cursor is exclusive, prints of one instant are kept apart."""
    view = fed(*(trade(n // 7, volume=str(n + 1)) for n in range(100)))
    cursor, seen = "0", []
    while page := (answer := ask(view, "Trades", pair="XDGUSD", since=cursor, count="9"))["XDGUSD"]:
        seen += [row[6] for row in page]
        cursor = answer["last"]
    assert seen == list(range(1, 101))
    assert answer["last"] == cursor


def test_trades_without_a_cursor_are_the_newest() -> None:
    """The newest prints come, oldest first; a cursor in seconds is understood too."""
    view = fed(*(trade(n) for n in range(1, 1500)))
    assert [row[6] for row in rows(view, "Trades", count="3")] == [1497, 1498, 1499]
    assert len(rows(view, "Trades")) == 1000
    assert rows(view, "Trades", since=str(START + 1490))[0][6] == 1491


def test_memory_is_bounded() -> None:
    """Only the last prints are kept; their numbers go on."""
    view = fed(*(trade(n) for n in range(PRINTS_MAX + 500)))
    oldest = rows(view, "Trades", since="0", count="1")
    assert oldest[0][6] == 501


# ---- bars -------------------------------------------------------------------------------------


def test_bars_of_the_candles_interval_are_the_candles() -> None:
    """Open, high, low, close and volume come back exactly; the last row is still forming."""
    view = fed(
        candle(0, "0.1010", "0.1015", "0.0990", "0.1005", "4000"),
        candle(1, "0.1005", "0.1030", "0.1001", "0.1020", "10"),
    )
    answer = ask(view, "OHLC", START + 601, pair="XDGUSD", interval="5")
    first, second, forming = answer["XDGUSD"]
    assert first[:5] == [START, "0.1010000", "0.1015000", "0.0990000", "0.1005000"]
    assert (first[6], first[7]) == ("4000.00000000", 4)
    assert second[1:5] == ["0.1005000", "0.1030000", "0.1001000", "0.1020000"]
    assert D(second[5]) == D("0.1014")
    assert forming == [START + 600, *["0.1020000"] * 4, "0.0000000", "0.00000000", 0]
    assert answer["last"] == START + 300


def test_finer_bars_hold_the_corners_and_gaps_stand_still() -> None:
    """Minutes between the corners have no trades and stand at the close before."""
    view = fed(candle(0, "0.1010", "0.1015", "0.0990", "0.1005"))
    got = rows(view, "OHLC", START + 300)
    assert [row[4] for row in got[:5]] == [
        "0.1010000", "0.1015000", "0.1015000", "0.0990000", "0.1005000",
    ]  # fmt: skip
    assert [row[7] for row in got[:5]] == [1, 1, 0, 1, 1]


def test_since_is_exclusive_and_rows_are_bounded() -> None:
    """Polling with `last` gives what is newer; there are never more than 720 rows."""
    view = fed(trade(0), trade(80_000))
    now = START + 80_010
    assert len(rows(view, "OHLC", now, interval="1")) == BARS_MAX
    last = ask(view, "OHLC", now, pair="XDGUSD")["last"]
    polled = rows(view, "OHLC", now, since=str(last))
    assert [row[0] for row in polled] == [last + 60]
    assert len(rows(view, "OHLC", now, since="5")) == BARS_MAX


@pytest.mark.parametrize("interval", INTERVALS)
def test_bars_add_up(interval: int) -> None:
    """In every interval each bar holds exactly the prints of its time, in one unbroken row."""
    view, at = synthetic(3000)
    prints = rows(view, "Trades", at, since="0")
    bars = rows(view, "OHLC", at, interval=str(interval))
    step = interval * 60
    assert [bar[0] for bar in bars] == list(range(bars[0][0], int(at) + 1, step))
    end = prints[-1][2]
    for bar in bars:
        inside = [x for x in prints if bar[0] <= x[2] < bar[0] + step]
        if inside and bar[0] + step <= end:
            values = [D(x[0]) for x in inside]
            assert [D(x) for x in bar[1:5]] == [values[0], max(values), min(values), values[-1]]
            assert D(bar[6]) == sum(D(x[1]) for x in inside)
            assert bar[7] == len(inside)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.sampled_from(INTERVALS))
def test_nothing_is_told_before_its_time(gaps: list[int], interval: int) -> None:
    """No print and no bar lies after the evidence that has been fed."""
    view, at = MarketView(Instrument()), 0
    for gap in gaps:
        at += 1 + gap
        view.feed(candle(at - 1, "0.1", "0.12", "0.09", "0.11", interval=60.0), QUOTE, None)
        now = START + at * 60
        assert all(row[2] < now for row in rows(view, "Trades", now))
        assert all(row[0] <= now for row in rows(view, "OHLC", now, interval=str(interval)))


@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=12),
    st.sampled_from([7.3, 60.0, 95.0, 300.0]),
    st.sampled_from([1, 5]),
)
def test_a_committed_bar_never_changes(gaps: list[int], length: float, interval: int) -> None:
    """However late a candle is known, what `last` has committed stays as it was told."""
    view, told, number = MarketView(Instrument()), {}, 0
    for gap in gaps:
        for step in range(gap * 4):
            now = START + (number + step / 4) * length
            answer = ask(view, "OHLC", now, pair="XDGUSD", interval=str(interval))
            committed = [row for row in answer["XDGUSD"] if row[0] <= answer["last"]]
            assert len(answer["XDGUSD"]) - len(committed) in {0, 1}
            for row in committed:
                assert told.setdefault(row[0], row) == row
        number += gap
        price = str(D("0.1") + D(number) / 1000)
        view.feed(candle(number - 1, price, price, price, price, interval=length), QUOTE, None)


def test_bars_go_on_where_the_market_has_ended() -> None:
    """A candle's length after the last one it is certain that none came: bars stand still."""
    view = fed(candle(0, "0.1", "0.1", "0.1", "0.1"))
    assert ask(view, "OHLC", START + 599, pair="XDGUSD")["last"] == START + 240
    assert ask(view, "OHLC", START + 900, pair="XDGUSD")["last"] == START + 540
    view.feed(trade(901), QUOTE, None)
    assert ask(view, "OHLC", START + 901, pair="XDGUSD")["last"] == START + 840


# ---- depth, spread, ticker --------------------------------------------------------------------


def test_the_markets_book_is_shown_as_it_is() -> None:
    """Levels, order and time are those of the book; sizes round up to three decimals."""
    book = Book(
        time=START + 5.5,
        bids=((D("0.0999"), D("100.0001")), (D("0.0998"), D(7))),
        asks=((D("0.1001"), D(250)),),
    )
    got = rows(fed(book), "Depth", count="1")
    assert got["bids"] == [["0.099900000", "100.001", START + 5]]
    assert got["asks"] == [["0.100100000", "250.000", START + 5]]
    assert len(rows(fed(book), "Depth")["bids"]) == 2


def test_a_market_without_a_book_shows_levels_around_the_quote() -> None:
    """Ten levels and more on the tick grid, ordered, with the touch at the quote."""
    view = fed(candle(0, "0.1", "0.11", "0.09", "0.1", "4000"))
    got = rows(view, "Depth")
    bids, asks = ([D(row[0]) for row in got[side]] for side in ("bids", "asks"))
    assert (bids[0], asks[0]) == (QUOTE.bid, QUOTE.ask)
    assert len(bids) >= 10
    assert bids == sorted(set(bids), reverse=True)
    assert asks == sorted(set(asks))
    assert all(price % Instrument().tick_size == 0 for price in bids + asks)
    assert all(D(row[1]) >= 500 for row in got["bids"] + got["asks"])
    assert got == rows(view, "Depth", START + 2 * DAY)


def test_a_price_of_few_ticks_has_no_level_below_one() -> None:
    """Near zero the bids end where the grid ends."""
    quote = Quote(bid=D("0.0000003"), ask=D("0.0000005"), last=D("0.0000004"))
    view = fed(trade(1, "0.0000004"), quote=quote)
    assert [D(row[0]) for row in rows(view, "Depth")["bids"]] == [
        D("0.0000003"), D("0.0000002"), D("0.0000001"),
    ]  # fmt: skip


def test_spread_tells_changes_of_the_quote() -> None:
    """One row per change, the cursor inclusive as at the venue."""
    view = MarketView(Instrument())
    later = replace(QUOTE, bid=D("0.0999800"))
    for at, quote in ((1, QUOTE), (2, QUOTE), (3, later), (4, None)):
        view.feed(trade(at), quote, None)
    answer = ask(view, "Spread", pair="XDGUSD")
    assert [row[0] - START for row in answer["XDGUSD"]] == [1, 3]
    assert answer["XDGUSD"][1] == [START + 3, "0.099980000", "0.100025000"]
    assert rows(view, "Spread", since=str(answer["last"])) == answer["XDGUSD"][1:]


def test_ticker_tells_today_and_the_last_day() -> None:
    """Volume, extremes, count and opening of today; the second figure is of 24 hours."""
    view = fed(
        trade(-7200, "0.2", "5"),
        trade(10, "0.1", "10"),
        trade(20, "0.3", "30"),
        trade(700, "0.15", "60"),
    )
    got = ask(view, "Ticker", START + 800)["XDGUSD"]
    assert got["v"] == ["100.00000000", "105.00000000"]
    assert got["t"] == [3, 4]
    assert (got["o"], got["c"]) == ("0.100000000", ["0.150000000", "60.00000000"])
    assert (got["l"], got["h"]) == (["0.100000000"] * 2, ["0.300000000"] * 2)
    assert got["p"] == ["0.190000000", "0.190476190"]
    assert got["a"][0] == "0.100025000"


def test_ticker_of_a_day_without_trades_stands_at_the_last_price() -> None:
    """No volume, no count, and no price that nobody paid."""
    got = ask(fed(trade(0, "0.2")), "Ticker", START + 3 * DAY)["XDGUSD"]
    assert got["v"] == ["0.00000000"] * 2
    assert got["t"] == [0, 0]
    assert got["l"] == got["h"] == got["p"] == ["0.200000000"] * 2
