"""Kraken's public answers in our words, over a real socket, and what goes wrong on the way."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

import pytest

from core.domain import Side
from core.market import Trade
from core.ports import Unavailable
from engine.clock import monotonic
from exchange.kraken import KrakenClient
from exchange.kraken_market import KrakenMarket
from exchange.kraken_records import Answer
from exchange.nonce import Nonces
from exchange.sandbox import Sandbox
from tests.public_server import PublicServer, serving
from tests.sandbox_client import START, make_venue
from tests.wire_answers import read, recorded

D = Decimal


@pytest.fixture
def server() -> Iterator[PublicServer]:
    """Yield a server that answers."""
    with serving() as made:
        yield made


def market(server: PublicServer, pair: str = "DOGE/USD") -> KrakenMarket:
    """Return the adapter to a server."""
    return market_at(server.url, pair)


def market_at(url: str, pair: str = "DOGE/USD") -> KrakenMarket:
    """Return the adapter over a real client."""
    client = KrakenClient(
        url=url, key="", secret="", nonces=Nonces(lambda: 0, 0), clock=monotonic,
        timeout_sec=3.0,
    )  # fmt: skip
    return KrakenMarket(client, pair)


def test_it_tells_facts_book_and_prints(server: PublicServer) -> None:
    """All that the feed asks for, read from real answers."""
    data = market(server)
    instrument, status = data.pair()
    assert (instrument.symbol, instrument.order_min, status) == ("XDGUSD", D(50), "online")
    assert data.system_status() == "online"
    book = data.depth(10)
    assert len(book.bids) == len(book.asks) == 10
    assert book.bids[0][0] < D("0.1") < book.asks[0][0]
    prints, cursor = data.trades(0)
    assert [x.side for x in prints] == [Side.BUY, Side.SELL]
    at = server.move("0.2", volume="7")
    new, after = data.trades(cursor)
    assert [(x.price, x.volume) for x in new] == [(D("0.2"), D(7))] * 2
    assert abs(new[0].time - at) < 1e-6
    assert data.trades(after) == ((), after)
    assert abs(data.server_time() - at) < 5


def test_it_tells_candles_that_have_closed() -> None:
    """From a sandbox's real answers: the newest 720, none still forming, then what is new."""
    now = [START + 10]
    venue = make_venue(now=START)
    with Sandbox(venue, clock=lambda: now[0]) as sandbox:
        data = market_at(sandbox.url)
        first = START // 60 * 60 + 60
        for n in range(800):
            now[0] = first + n * 60 + 5
            with sandbox.lock:
                venue.feed(Trade(time=now[0], price=D("0.1") + D(n) / 10_000, volume=D(n + 1)))
        got = data.candles(60.0, 0.0)
        assert len(got) == 719  # the 720th is still forming
        assert got[-1].time + 60 <= now[0] < got[-1].time + 120
        assert [x.time for x in got] == [got[0].time + 60 * n for n in range(719)]
        assert (got[-1].close, got[-1].volume, got[-1].trades) == (D("0.1798"), D(799), 1)
        now[0] += 60
        assert [x.time for x in data.candles(60.0, got[-1].time)] == [got[-1].time + 60]
        assert data.candles(60.0, got[-1].time + 60) == ()
        quarters = data.candles(900.0, 0.0)
        assert [x.time % 900 for x in quarters] == [0] * len(quarters)
        assert quarters[-1].time + 900 <= now[0] < quarters[-1].time + 1800
        own = [x for x in got if 0 <= x.time - quarters[-2].time < 900]
        assert quarters[-2].open == own[0].open
        assert quarters[-2].high == max(x.high for x in own)


@recorded
def test_recorded_candles_are_told_without_the_one_still_forming() -> None:
    """What the live venue answered, through the same adapter."""

    class Played:
        """Answers AssetPairs and OHLC as the venue did."""

        def public(self, method: str, params: Mapping[str, object]) -> Answer:
            """Return what is recorded."""
            names = {"OHLC": "ohlc_btcusd_60_20260925", "AssetPairs": "assetpairs_20260925"}
            return read(f"recorded/{names[method]}.json")

    data = KrakenMarket(Played(), "BTC/USD")
    got = data.candles(3600.0, 0.0)
    assert [x.time for x in got] == [1790348400, 1790352000, 1790355600]
    assert data.candles(3600.0, 1790352000.0) == got[2:]
    with pytest.raises(Unavailable, match="not of this interval"):
        data.candles(7200.0, 0.0)


def test_it_can_be_asked_for_prices_first(server: PublicServer) -> None:
    """The names of the pair are read when they are needed."""
    assert market(server).depth(3).time == 0.0
    assert server.asked == ["AssetPairs", "Depth"]


def test_a_pair_that_kraken_does_not_know_is_delisted(server: PublicServer) -> None:
    """There is nothing to wait for, so it is no passing trouble."""
    assert market(server, "BTC/USD").pair()[1] == "delisted"
    with pytest.raises(Unavailable, match="Unknown asset pair"):
        market(server, "BTC/USD").depth(10)


@pytest.mark.parametrize(
    ("error", "pause_sec"),
    [
        ("EGeneral:Too many requests", 60.0),
        ("EAPI:Rate limit exceeded", 60.0),
        ("EService:Unavailable", 0.0),
    ],
)
def test_errors_become_a_reason_and_a_pause(
    server: PublicServer, error: str, pause_sec: float
) -> None:
    """A rate limit calls for a minute of silence at least."""
    data = market(server)
    data.pair()
    server.error = error
    with pytest.raises(Unavailable, match=error) as caught:
        data.trades(0)
    assert caught.value.pause_sec >= pause_sec


def test_nobody_there_is_a_reason_too(server: PublicServer) -> None:
    """Not an empty answer."""
    data = market(server)
    server.down()
    with pytest.raises(Unavailable, match="Time: the connection failed"):
        data.server_time()
