"""Clients that nobody here wrote work against the sandbox, unchanged but for the address.

Each of krakenex, ccxt and python-kraken-sdk speaks through real sockets on loopback; the clock is
moved by hand, so that a fill needs no waiting.
"""

import base64
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import ccxt
import krakenex
import pytest
from kraken import exceptions as sdk_errors
from kraken.spot import Market, Trade, User

from core.domain import Side
from core.market import Trade as Print
from exchange.sandbox import Sandbox
from tests.sandbox_client import KEY, START, make_venue

pytestmark = pytest.mark.slow

D = Decimal
PAIR = "XDGUSD"
BAD_SECRET = base64.b64encode(b"a secret of another key" * 2).decode()
HIGH_NONCE = 2**63


class World:
    """An open sandbox: its address, a key, and the market in the test's hand."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.url, self.key, self.secret = sandbox.url, KEY.key, KEY.secret
        self.now = sandbox.clock()
        self._sandbox = sandbox

    def print_trade(self, price: str, side: Side) -> None:
        """Have the public trade a lot at a price."""
        trade = Print(time=self.now, price=D(price), volume=D(10_000), side=side)
        with self._sandbox.lock:
            self._sandbox.venue.feed(trade)

    def fall(self) -> None:
        """Have the price fall through 0.0950."""
        self.print_trade("0.0940", Side.SELL)

    def rise(self) -> None:
        """Have the price rise through 0.1050."""
        self.print_trade("0.1060", Side.BUY)


@pytest.fixture
def world() -> Iterator[World]:
    """Yield a sandbox on a socket, with 1,000 USD, 5,000 DOGE and one print at 0.1."""
    with Sandbox(make_venue(), clock=lambda: START + 10) as sandbox:
        opened = World(sandbox)
        opened.print_trade("0.1", Side.BUY)
        yield opened


def burn_nonces(world: World) -> None:
    """Use the key once with a nonce far above those the clients make."""
    other = krakenex.API(world.key, world.secret)
    other.uri = world.url
    other._nonce = lambda: HIGH_NONCE
    assert other.query_private("Balance")["error"] == []


# ---- krakenex ---------------------------------------------------------------------------------


def krakenex_of(world: World, *, secret: str | None = None) -> Callable[..., dict[str, Any]]:
    """Return a private call; one whose clock gave the same nonce twice is made again."""
    api = krakenex.API(world.key, secret or world.secret)
    api.uri = world.url

    def call(method: str, **params: str) -> dict[str, Any]:
        for _ in range(20):
            answer: dict[str, Any] = api.query_private(method, dict(params))
            if answer["error"] != ["EAPI:Invalid nonce"]:
                return answer
            time.sleep(0.001)
        return answer

    return call


def order(side: str, volume: str, price: str, **more: str) -> dict[str, str]:
    """Return the parameters of a post-only limit order."""
    fields = {"pair": PAIR, "type": side, "ordertype": "limit", "oflags": "post,fciq"}
    return fields | {"volume": volume, "price": price} | more


def test_krakenex_reads_the_market(world: World) -> None:
    """Every public method answers in the shape krakenex hands on."""
    api = krakenex.API()
    api.uri = world.url

    def read(method: str, **params: str) -> Any:
        answer = api.query_public(method, params)
        assert answer["error"] == []
        return answer["result"]

    assert read("Time")["unixtime"] == int(world.now)
    assert read("SystemStatus")["status"] == "online"
    assert read("Assets")["XXDG"]["altname"] == "XDG"
    assert read("AssetPairs", pair="DOGEUSD")[PAIR]["ordermin"] == "50"
    assert D(read("Ticker", pair=PAIR)[PAIR]["c"][0]) == D("0.1")
    assert len(read("Depth", pair=PAIR, count="5")[PAIR]["bids"]) == 5
    assert len(read("OHLC", pair="DOGE/USD", interval="5")["DOGE/USD"]) == 1
    trades = read("Trades", pair=PAIR, since="0")
    assert [row[0] for row in trades[PAIR]] == ["0.100000000"]
    assert read("Trades", pair=PAIR, since=trades["last"])[PAIR] == []
    assert read("Spread", pair=PAIR)[PAIR]
    assert api.query_public("Ticker", {"pair": "XDG/USD"})["error"] == ["EQuery:Unknown asset pair"]


def test_krakenex_reads_prices_before_the_first_evidence() -> None:
    """A market of long candles has a ticker from the start: around its opening price."""
    with Sandbox(make_venue(), clock=lambda: START) as sandbox:
        api = krakenex.API()
        api.uri = sandbox.url
        ticker = api.query_public("Ticker", {"pair": PAIR})
        depth = api.query_public("Depth", {"pair": PAIR})
    assert D(ticker["result"][PAIR]["b"][0]) < D("0.1") < D(ticker["result"][PAIR]["a"][0])
    assert len(depth["result"][PAIR]["asks"]) > 10


def test_krakenex_places_cancels_and_fills(world: World) -> None:
    """An order is seen open, cancelled, closed; another fills and is booked once."""
    call = krakenex_of(world)
    name = str(uuid.uuid4())
    placed = call("AddOrder", **order("buy", "100", "0.0950000", cl_ord_id=name))
    assert placed["error"] == []
    (txid,) = placed["result"]["txid"]
    assert placed["result"]["descr"]["order"] == "buy 100.00000000 XDGUSD @ limit 0.0950000"
    opened = call("OpenOrders")["result"]["open"]
    assert list(opened) == [txid]
    assert opened[txid]["cl_ord_id"] == name
    assert D(call("BalanceEx")["result"]["ZUSD"]["hold_trade"]) > D("9.5")
    assert call("CancelOrder", txid=txid)["result"]["count"] == 1
    assert call("CancelOrder", txid=txid)["error"] == ["EOrder:Unknown order"]
    assert call("ClosedOrders", cl_ord_id=name)["result"]["closed"][txid]["status"] == "canceled"

    (txid,) = call("AddOrder", **order("buy", "100", "0.0950000"))["result"]["txid"]
    world.fall()
    filled = call("QueryOrders", txid=txid, trades="true")["result"][txid]
    assert (filled["status"], D(filled["vol_exec"])) == ("closed", D(100))
    history = call("TradesHistory", consolidate_taker="false")["result"]["trades"]
    assert list(history) == filled["trades"]
    assert D(call("Balance")["result"]["XXDG"]) == D(5100)
    spent = D(1000) - D(call("Balance")["result"]["ZUSD"])
    assert abs(spent - D("9.5") * D("1.004")) < D("0.0001")


def test_krakenex_reads_fees_key_and_ledger(world: World) -> None:
    """Fees come in percent, the key tells its permissions, the ledger the fill."""
    call = krakenex_of(world)
    call("AddOrder", **order("sell", "100", "0.1050000"))
    volume = call("TradeVolume", pair=PAIR)["result"]
    assert D(volume["fees_maker"][PAIR]["fee"]) == D("0.4")
    assert D(volume["fees"][PAIR]["fee"]) == D("0.8")
    assert "withdraw-funds" not in call("GetApiKeyInfo")["result"]["permissions"]
    world.rise()
    rows = call("Ledgers", type="trade")["result"]["ledger"].values()
    assert {row["asset"] for row in rows} == {"XXDG", "ZUSD"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (order("buy", "50000", "0.0950000"), "EOrder:Insufficient funds"),
        (order("buy", "49", "0.0950000"), "EOrder:Order minimum not met"),
        (order("buy", "50", "0.0050000"), "EOrder:Cost minimum not met"),
        (order("buy", "100", "0.2000000"), "EOrder:Post only order"),
        (order("buy", "100", "0.0950000") | {"pair": "XBTUSD"}, "EQuery:Unknown asset pair"),
    ],
)
def test_krakenex_hears_the_venues_refusals(
    world: World, fields: dict[str, str], error: str
) -> None:
    """Each refusal comes in the venue's words, and nothing was placed."""
    call = krakenex_of(world)
    assert call("AddOrder", **fields)["error"] == [error]
    assert call("OpenOrders")["result"]["open"] == {}


def test_krakenex_with_a_bad_nonce_or_signature_is_refused(world: World) -> None:
    """A nonce below the highest and a signature of another secret are told apart."""
    wrong = krakenex_of(world, secret=BAD_SECRET)
    assert wrong("Balance")["error"] == ["EAPI:Invalid signature"]
    burn_nonces(world)
    assert krakenex_of(world)("Balance")["error"] == ["EAPI:Invalid nonce"]


# ---- ccxt -------------------------------------------------------------------------------------


def ccxt_of(world: World, *, secret: str | None = None) -> Any:
    """Return ccxt's kraken at the sandbox's address, not slowed down between calls."""
    client = ccxt.kraken(
        {"apiKey": world.key, "secret": secret or world.secret, "enableRateLimit": False}
    )
    client.urls["api"]["public"] = client.urls["api"]["private"] = world.url
    return client


def test_ccxt_reads_the_market(world: World) -> None:
    """ccxt loads its markets and reads prices, depth, bars, trades, time and status."""
    client = ccxt_of(world)
    market = client.load_markets()["DOGE/USD"]
    assert (market["id"], market["active"]) == (PAIR, True)
    assert market["limits"]["amount"]["min"] == 50
    assert market["precision"]["price"] == 1e-7
    ticker = client.fetch_ticker("DOGE/USD")
    assert ticker["bid"] < ticker["last"] == 0.1 < ticker["ask"]
    depth = client.fetch_order_book("DOGE/USD", 5)
    assert len(depth["bids"]) == len(depth["asks"]) == 5
    assert [x["price"] for x in client.fetch_trades("DOGE/USD")] == [0.1]
    assert client.fetch_ohlcv("DOGE/USD", "5m")[-1][1:5] == [0.1] * 4
    since = int((START - 600) * 1000)
    assert client.fetch_ohlcv("DOGE/USD", "5m", since=since)[-1][4] == 0.1
    assert client.fetch_time() == int(world.now) * 1000
    assert client.fetch_status()["status"] == "ok"
    assert client.fetch_trading_fee("DOGE/USD")["maker"] == 0.004


def test_ccxt_places_cancels_and_fills(world: World) -> None:
    """ccxt's unified orders go through the life of an order, and its trades add up."""
    client = ccxt_of(world)
    post = {"postOnly": True}
    balance = client.fetch_balance()
    assert (balance["USD"]["free"], balance["DOGE"]["total"]) == (1000, 5000)
    name = str(uuid.uuid4())
    placed = client.create_order(
        "DOGE/USD", "limit", "buy", 100, 0.095, post | {"clientOrderId": name}
    )
    (seen,) = client.fetch_open_orders("DOGE/USD")
    assert seen["id"] == placed["id"]
    assert (seen["clientOrderId"], seen["price"], seen["remaining"]) == (name, 0.095, 100)
    assert client.fetch_balance()["USD"]["used"] > 9.5
    client.cancel_order(placed["id"])
    assert client.fetch_open_orders("DOGE/USD") == []
    assert [x["status"] for x in client.fetch_closed_orders("DOGE/USD")] == ["canceled"]

    placed = client.create_order("DOGE/USD", "limit", "sell", 100, 0.105, post)
    world.rise()
    done = client.fetch_order(placed["id"])
    assert (done["status"], done["filled"], done["average"]) == ("closed", 100, 0.105)
    trades = client.fetch_my_trades("DOGE/USD")
    assert sum(x["amount"] for x in trades) == 100
    assert {(x["order"], x["side"], x["takerOrMaker"]) for x in trades} == {
        (placed["id"], "sell", "maker")
    }
    assert client.fetch_balance()["DOGE"]["total"] == 4900
    assert [x["type"] for x in client.fetch_ledger("DOGE")] == ["transaction", "trade"]


def test_ccxt_places_amends_and_cancels_several(world: World) -> None:
    """ccxt's JSON batches, its amendment in place and its ways to cancel all reach the venue."""
    client = ccxt_of(world)
    one = {"symbol": "DOGE/USD", "type": "limit", "side": "buy", "amount": 100}
    ids = [x["id"] for x in client.create_orders([one | {"price": 0.09}, one | {"price": 0.091}])]
    assert {x["id"] for x in client.fetch_open_orders("DOGE/USD")} == set(ids)
    client.edit_order(ids[0], "DOGE/USD", "limit", "buy", 120, 0.092)
    amended = client.fetch_order(ids[0])
    assert (amended["amount"], amended["price"]) == (120, 0.092)
    client.cancel_orders(ids)
    assert client.fetch_open_orders("DOGE/USD") == []
    client.create_order("DOGE/USD", "limit", "sell", 100, 0.2)
    client.cancel_all_orders()
    assert client.fetch_open_orders("DOGE/USD") == []
    answer = client.cancel_all_orders_after(60_000)
    assert answer["result"]["triggerTime"] > answer["result"]["currentTime"]


def test_ccxt_takes_at_market(world: World) -> None:
    """A market order fills at once, as a taker."""
    client = ccxt_of(world)
    placed = client.create_order("DOGE/USD", "market", "buy", 100)
    told = client.fetch_order(placed["id"])["info"]["trades"]
    (trade,) = client.fetch_order_trades(placed["id"], "DOGE/USD", params={"trades": told})
    assert (trade["takerOrMaker"], trade["amount"]) == ("taker", 100)
    assert trade["fee"]["cost"] == pytest.approx(trade["cost"] * 0.008, rel=1e-6)


@pytest.mark.parametrize(
    ("volume", "price", "error", "text"),
    [
        (50_000, 0.095, ccxt.InsufficientFunds, "EOrder:Insufficient funds"),
        (49, 0.095, ccxt.InvalidOrder, "EOrder:Order minimum not met"),
        (100, 0.2, ccxt.ExchangeError, "EOrder:Post only order"),
    ],
)
def test_ccxt_raises_its_own_errors(
    world: World, volume: float, price: float, error: type[Exception], text: str
) -> None:
    """ccxt maps the venue's words to its exceptions."""
    client = ccxt_of(world)
    with pytest.raises(error, match=text):
        client.create_order("DOGE/USD", "limit", "buy", volume, price, {"postOnly": True})
    assert client.fetch_open_orders("DOGE/USD") == []


def test_ccxt_with_a_bad_nonce_or_signature_raises(world: World) -> None:
    """A wrong secret is an exchange error, an old nonce one of its own."""
    with pytest.raises(ccxt.ExchangeError, match="EAPI:Invalid signature"):
        ccxt_of(world, secret=BAD_SECRET).fetch_balance()
    burn_nonces(world)
    with pytest.raises(ccxt.InvalidNonce):
        ccxt_of(world).fetch_balance()


# ---- python-kraken-sdk ------------------------------------------------------------------------


def sdk_order(trade: Trade, side: str, volume: str, price: str, **more: Any) -> Any:
    """Place a post-only limit order."""
    return trade.create_order(
        ordertype="limit", side=side, pair=PAIR, volume=volume, price=price, oflags="post", **more
    )


def test_sdk_reads_the_market(world: World) -> None:
    """The SDK's market client reads every public method."""
    market = Market(url=world.url)
    assert market.get_system_status()["status"] == "online"
    assert market.get_assets(assets=["XXDG", "ZUSD"])["ZUSD"]["altname"] == "USD"
    assert market.get_asset_pairs(pair=PAIR)[PAIR]["status"] == "online"
    assert market.get_ticker(pair=PAIR)[PAIR]["c"][0] == "0.100000000"
    assert len(market.get_order_book(pair=PAIR, count=3)[PAIR]["asks"]) == 3
    assert market.get_ohlc(pair=PAIR, interval=5)[PAIR][-1][4] == "0.1000000"
    assert len(market.get_recent_trades(pair=PAIR)[PAIR]) == 1
    assert market.get_recent_spreads(pair=PAIR)[PAIR]
    # The SDK looks for the words of an unknown asset first, and finds them in those of a pair.
    with pytest.raises(sdk_errors.KrakenUnknownAssetError, match="EQuery:Unknown asset pair"):
        market.get_ticker(pair="NIXUSD")


def test_sdk_places_cancels_and_fills(world: World) -> None:
    """The SDK, which writes booleans as Python does, goes through the life of an order."""
    user = User(world.key, world.secret, url=world.url)
    trade = Trade(world.key, world.secret, url=world.url)
    assert D(user.get_account_balance()["ZUSD"]) == 1000
    name = str(uuid.uuid4())
    (txid,) = sdk_order(trade, "buy", "100", "0.0950000", cl_ord_id=name)["txid"]
    assert list(user.get_open_orders(cl_ord_id=name)["open"]) == [txid]
    assert user.get_balance("USD")["available_balance"] < 991
    assert trade.cancel_order(txid=txid)["count"] == 1
    assert user.get_closed_orders()["closed"][txid]["status"] == "canceled"
    with pytest.raises(sdk_errors.KrakenUnknownOrderError):
        trade.cancel_order(txid=txid)

    (txid,) = sdk_order(trade, "buy", "100", "0.0950000")["txid"]
    world.fall()
    done = user.get_orders_info(txid=txid, trades=True)[txid]
    assert (done["status"], D(done["vol_exec"])) == ("closed", 100)
    history = user.get_trades_history(consolidate_taker=False)["trades"]
    assert [row["ordertxid"] for row in history.values()] == [txid] * len(history)
    assert sum(D(row["vol"]) for row in history.values()) == 100
    assert set(user.get_trades_info(txid=list(history))) == set(history)
    assert {row["type"] for row in user.get_ledgers_info(type_="trade")["ledger"].values()} == {
        "trade"
    }
    assert D(user.get_trade_volume(pair=PAIR)["fees_maker"][PAIR]["fee"]) == D("0.4")
    assert D(user.get_trade_balance()["eb"]) > 0


def test_sdk_places_amends_and_cancels_several(world: World) -> None:
    """The SDK's JSON batches, its amendment and its timer reach the venue."""
    user = User(world.key, world.secret, url=world.url)
    trade = Trade(world.key, world.secret, url=world.url)
    one = {"ordertype": "limit", "type": "buy", "volume": "100"}
    told = trade.create_order_batch(
        [one | {"price": "0.0900000"}, one | {"price": "0.0910000"}], pair=PAIR
    )
    ids = [row["txid"] for row in told["orders"]]
    assert set(user.get_open_orders()["open"]) == set(ids)
    assert trade.amend_order(txid=ids[0], order_qty="120", limit_price="0.0920000")["amend_id"]
    row = user.get_open_orders()["open"][ids[0]]
    assert (D(row["vol"]), D(row["descr"]["price"])) == (120, D("0.092"))
    assert trade.cancel_order_batch(orders=ids)["count"] == 2
    sdk_order(trade, "buy", "100", "0.0950000")
    assert trade.cancel_all_orders()["count"] == 1
    timer = trade.cancel_all_orders_after_x(timeout=60)
    assert timer["triggerTime"] > timer["currentTime"]


def test_sdk_validates_without_placing(world: World) -> None:
    """An order sent to be validated is described and does not exist."""
    trade = Trade(world.key, world.secret, url=world.url)
    user = User(world.key, world.secret, url=world.url)
    answer = sdk_order(trade, "buy", "100", "0.0950000", validate=True)
    assert "descr" in answer
    assert "txid" not in answer
    assert user.get_open_orders()["open"] == {}


@pytest.mark.parametrize(
    ("volume", "price", "error"),
    [
        ("50000", "0.0950000", sdk_errors.KrakenInsufficientFundsError),
        ("49", "0.0950000", sdk_errors.KrakenOrderMinimumNotMetError),
        ("50", "0.0050000", sdk_errors.KrakenCostMinimumNotMetError),
    ],
)
def test_sdk_raises_its_own_errors(
    world: World, volume: str, price: str, error: type[Exception]
) -> None:
    """The SDK knows the venue's words."""
    trade = Trade(world.key, world.secret, url=world.url)
    with pytest.raises(error):
        sdk_order(trade, "buy", volume, price)


def test_sdk_hands_on_what_it_does_not_know(world: World) -> None:
    """A post-only refusal has no exception of the SDK: it returns the answer with the error."""
    trade = Trade(world.key, world.secret, url=world.url)
    answer = sdk_order(trade, "buy", "100", "0.2000000")
    assert answer["error"] == ["EOrder:Post only order"]


def test_sdk_with_a_bad_nonce_or_signature_raises(world: World) -> None:
    """A wrong secret and an old nonce are told apart."""
    with pytest.raises(sdk_errors.KrakenInvalidSignatureError):
        User(world.key, BAD_SECRET, url=world.url).get_account_balance()
    burn_nonces(world)
    with pytest.raises(sdk_errors.KrakenInvalidNonceError):
        User(world.key, world.secret, url=world.url).get_account_balance()
