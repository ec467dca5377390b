"""Kraken's public answers in our words, over a real socket, and what goes wrong on the way."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from core.domain import Side
from core.ports import Unavailable
from engine.clock import monotonic
from exchange.kraken import KrakenClient
from exchange.kraken_market import KrakenMarket
from exchange.nonce import Nonces
from tests.public_server import PublicServer, serving

D = Decimal


@pytest.fixture
def server() -> Iterator[PublicServer]:
    """Yield a server that answers."""
    with serving() as made:
        yield made


def market(server: PublicServer, pair: str = "DOGE/USD") -> KrakenMarket:
    """Return the adapter over a real client."""
    client = KrakenClient(
        url=server.url, key="", secret="", nonces=Nonces(lambda: 0, 0), clock=monotonic,
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
