"""The sandbox's market in wall time: re-timed, never early, the same after a kill."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.domain import Instrument, Side
from core.market import Candle, Evidence, Trade, available_at
from core.ports import StoreError
from exchange.matching import MatchingConfig
from exchange.sandbox_feed import Feed
from exchange.sandbox_file import read_truth
from exchange.sandbox_records import Truth
from exchange.sandbox_venue import SandboxConfig, SandboxVenue
from market.synthetic import SyntheticSource
from tests.sandbox_client import KEY, START, Caller, make_venue


class Recorded:
    """A market of a few recorded pieces."""

    name, fingerprint, price_interval = "recorded", "", 1.0

    def __init__(self, items: list[Evidence]) -> None:
        self.items = items

    def first_price(self) -> Decimal:
        """Return the first price."""
        return Decimal("0.1")

    def start_time(self) -> float:
        """Return the first time."""
        return self.items[0].time

    def total(self) -> int:
        """Return how many there are."""
        return len(self.items)

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield what is left."""
        return iter(self.items[skip:])


def candle(time: float) -> Candle:
    """Return a flat 5 min candle."""
    price = Decimal("0.1")
    return Candle(
        time=time, interval=300.0, open=price, high=price, low=price, close=price, volume=price
    )


def test_evidence_is_known_at_its_time_divided_by_the_speed() -> None:
    """Candles shrink with their interval; a trade comes where it was."""
    trade = Trade(time=1900.0, price=Decimal("0.1"), volume=Decimal(1), side=Side.BUY)
    feed = Feed(Recorded([candle(1000.0), candle(1300.0), trade]), lap_start=START, speed=60.0)
    first, second, third = (feed.pop() for _ in range(3))
    assert isinstance(first, Candle)
    assert (first.time, first.interval) == (START, 5.0)
    assert available_at(second) == START + 10
    assert third.time == START + 15
    assert feed.has_ended
    assert feed.next_at is None
    with pytest.raises(StopIteration):
        feed.pop()


def test_a_looping_market_begins_anew_where_it_ended() -> None:
    """The second lap goes on from the end of the first."""
    feed = Feed(Recorded([candle(1000.0)]), lap_start=START, speed=60.0, is_looping=True)
    times = [available_at(feed.pop()) for _ in range(3)]
    assert times == [START + 5, START + 10, START + 15]
    assert (feed.lap, feed.read) == (3, 0)
    for speed in (0.0, 1e6):
        with pytest.raises(ValueError, match="speed"):
            Feed(Recorded([candle(1.0)]), lap_start=START, speed=speed)


def synthetic(path: Path | str = ":memory:", *, now: float = START, **more: Any) -> SandboxVenue:
    """Return a venue over the synthetic market at 600 times its speed."""
    config = SandboxConfig(
        start_base=Decimal(20_000), start_quote=Decimal(5000), speed=600.0, **more
    )
    source = SyntheticSource(7, instrument=Instrument())
    matching = MatchingConfig(seed=7, tier="pro", assumed_queue=Decimal(0))
    return SandboxVenue(source, Instrument(), matching, (KEY,), now=now, config=config, path=path)


def test_a_candle_fills_at_its_end_and_never_before() -> None:
    """An order that rested before a candle opened executes when the candle is complete."""
    low = msgspec.structs.replace(
        candle(1300.0), low=Decimal("0.08"), high=Decimal("0.11"), volume=Decimal(50_000)
    )
    source = Recorded([candle(1000.0), low])
    venue = SandboxVenue(
        source,
        Instrument(),
        MatchingConfig(tier="pro"),
        (KEY,),
        now=START,
        config=SandboxConfig(speed=60.0),
    )
    caller = Caller(venue)
    caller.now += 1
    txid = caller.place()
    caller.now = START + 9.999
    assert caller.ask("QueryOrders", txid=txid)[txid]["vol_exec"] == "0.00000000"
    caller.now = START + 10
    told = caller.ask("QueryOrders", txid=txid)[txid]
    assert (told["status"], told["closetm"]) == ("closed", START + 10)
    assert venue.has_ended
    rows = caller.public("OHLC", "?pair=XDGUSD&interval=1")["XDGUSD"]
    assert rows[-1][3] == "0.0800000"


LEVELS = (("buy", "0.0995"), ("sell", "0.1005"), ("buy", "0.0965"), ("sell", "0.1035"))


def trade_for(caller: Caller, until: float, *, polls: float) -> None:
    """Place orders at fixed times around the price; between them look every `polls` seconds."""
    placed = 0
    while caller.now < until:
        due = START + 10.0 * placed
        if caller.now >= due:
            for side, price in LEVELS:
                caller.raw("AddOrder", **caller.order(side, price, oflags="fciq"))
            placed += 1
        caller.now = min(caller.now + polls, START + 10.0 * placed, until)
        caller.public("Time")


def essence(truth: Truth) -> list[Any]:
    """Return what does not hang on who looked when."""
    return [(x.trade_id, x.txid, x.price, x.volume, x.time) for x in truth.trades]


def test_the_market_does_not_hang_on_who_looks() -> None:
    """The same orders at the same times give the same executions, however often one asks."""
    truths = []
    for polls in (0.1, 2.5):
        caller = Caller(synthetic())
        trade_for(caller, START + 60, polls=polls)
        truths.append(caller.venue.truth())
    assert essence(truths[0]) == essence(truths[1])
    assert len(truths[0].trades) > 5


@pytest.mark.slow
def test_a_venue_opened_again_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Left without a farewell and opened later, it has caught up and lost nothing."""
    whole = Caller(synthetic())
    trade_for(whole, START + 30, polls=0.5)
    whole.now = START + 300
    whole.ask("Balance")
    path = tmp_path / "sandbox.db"
    broken = Caller(synthetic(path))
    trade_for(broken, START + 30, polls=0.5)
    before, nonce = broken.venue.truth(), broken.nonce
    broken.venue.close()
    assert read_truth(path) == before
    again = Caller(synthetic(path, now=START + 300))
    assert again.refusal("Balance") == ["EAPI:Invalid nonce"]
    again.nonce, again.now = nonce, START + 300
    again.ask("Balance")
    assert essence(again.venue.truth()) == essence(whole.venue.truth())
    assert again.venue.truth().balances == whole.venue.truth().balances
    assert len(again.venue.truth().trades) > len(before.trades)
    again.place(price="0.09")
    ids = [x.txid for x in again.venue.truth().orders]
    assert len(set(ids)) == len(ids) == len(before.orders) + 1


def test_every_answer_is_on_disk_before_it_is_given(tmp_path: Path) -> None:
    """A reader of the file sees an order as soon as its txid was answered."""
    path = tmp_path / "sandbox.db"
    caller = Caller(make_venue(path=path))
    for _ in range(3):
        txid = caller.place()
        assert txid in {x.txid for x in read_truth(path).orders}
        caller.ask("CancelOrder", txid=txid)
        assert {x.last.status for x in read_truth(path).orders} == {"canceled"}


def test_a_file_is_refused_to_others_and_with_other_settings(tmp_path: Path) -> None:
    """Two sandboxes cannot share it; another speed or start is named; nonsense is no database."""
    path = tmp_path / "sandbox.db"
    venue = make_venue(path=path)
    with pytest.raises(StoreError, match="used by another sandbox"):
        make_venue(path=path)
    venue.close()
    with pytest.raises(StoreError, match="speed was 1, is now 2"):
        make_venue(path=path, speed=2.0)
    make_venue(path=path).close()
    bad = tmp_path / "bad.db"
    bad.write_text("nonsense " * 200)
    with pytest.raises(StoreError, match="cannot be used"):
        make_venue(path=bad)
    with pytest.raises(StoreError, match="does not exist"):
        read_truth(tmp_path / "none.db")


def test_status_timer_and_lockout_survive(tmp_path: Path) -> None:
    """What was set stays set over a restart."""
    path = tmp_path / "sandbox.db"
    venue = make_venue(path=path)
    caller = Caller(venue)
    caller.place()
    caller.ask("CancelAllOrdersAfter", timeout="60")
    venue.set_status("post_only")
    venue.close()
    again = make_venue(path=path, now=START + 100)
    again.advance(START + 100)
    assert again.account.status == "post_only"
    assert again.truth().orders[0].last.closed_at == START + 60


def test_evidence_of_the_past_cannot_be_fed() -> None:
    """A market by hand goes forwards only."""
    venue = make_venue()
    with pytest.raises(ValueError, match="past"):
        venue.feed(Trade(time=START - 1, price=Decimal(1), volume=Decimal(1)))
    assert json.loads(venue.answer("GET", "/0/public/Time", {}, b"", START)[1])["error"] == []


def test_a_market_that_stands_still_waits_and_then_catches_up() -> None:
    """Nothing executes meanwhile, timers go on; set free, it brings what has waited."""
    still, free = Caller(synthetic()), Caller(synthetic())
    for caller in (still, free):
        trade_for(caller, START + 30, polls=0.5)
    done = len(still.venue.truth().trades)
    still.venue.is_still = True
    still.ask("CancelAllOrdersAfter", timeout="60")
    still.now = START + 89
    still.ask("Balance")
    assert len(still.venue.truth().trades) == done
    assert any(x.is_open for x in still.venue.truth().orders)
    still.now = START + 95
    still.ask("Balance")
    assert not any(x.is_open for x in still.venue.truth().orders)
    still.venue.is_still, free.now = False, START + 95
    assert still.public("Ticker", "?pair=XDGUSD") == free.public("Ticker", "?pair=XDGUSD")
