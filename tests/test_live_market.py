"""The paper exchange on a live market: order of time, late news, restarts, changes of the pair."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import events as e
from core.domain import Instrument, Side
from core.market import Book, Trade
from core.ports import Message, StoreError
from core.record import replace
from exchange.matching import VenueExecution
from exchange.paper import LATE_SEC, PaperExchange
from tests.test_paper_exchange import CONFIG, PLAIN, only, place

D = Decimal
News = e.HealthChanged | e.InstrumentUpdated


class ListMarket:
    """A live market that the test makes known bit by bit."""

    name, fingerprint, price_interval = "a live list", "", 5.0

    def __init__(self) -> None:
        self.known_until = 0.0
        self.items: list[Trade | Book] = []
        self.resumed: tuple[float, tuple[Trade, ...]] | None = None
        self.told: list[News] = []

    def first_price(self) -> Decimal:
        """Return 0.1."""
        return D("0.1")

    def start_time(self) -> float:
        """Return 0."""
        return 0.0

    def resume(self, at: float, seen: tuple[Trade, ...]) -> None:
        """Note what it was asked to go on from."""
        self.resumed, self.known_until = (at, seen), max(self.known_until, at)

    def horizon(self) -> float:
        """Return what is known."""
        return self.known_until

    def take(self) -> Trade | Book | None:
        """Return the next item."""
        return self.items.pop(0) if self.items else None

    def news(self) -> tuple[News, ...]:
        """Return what the test says."""
        told, self.told = tuple(self.told), []
        return told

    def reveal(self, until: float, *items: Trade | Book) -> None:
        """Make items known, and all until a time."""
        self.items += items
        self.known_until = until


def trade(at: float, price: str, volume: int = 1_000) -> Trade:
    """Return a print."""
    return Trade(time=at, price=D(price), volume=D(volume))


def book(at: float, bid: str = "0.0990", ask: str = "0.1010") -> Book:
    """Return a book."""
    return Book(time=at, bids=((D(bid), D(100)),), asks=((D(ask), D(100)),))


def open_on(
    market: ListMarket, path: Path | str = ":memory:", instrument: Instrument = PLAIN,
    terms: str = "as ever", base: int = 10_000,
) -> PaperExchange:  # fmt: skip
    """Return a paper exchange on the live market."""
    return PaperExchange(
        path, market, instrument, CONFIG, start_base=D(base), start_quote=D(1_000), terms=terms
    )  # fmt: skip


def live(x: PaperExchange) -> list[Message]:
    """Go on as the loop does, up to the horizon and no farther."""
    messages: list[Message] = []
    while (horizon := x.horizon()) is not None:
        at = x.next_time()
        if at is None or at > horizon:
            break
        messages.extend(x.advance(at))
        assert x.now() <= horizon
    return messages


def test_a_dry_market_is_not_an_ended_one() -> None:
    """It waits, and goes on when there is more."""
    market = ListMarket()
    x = open_on(market)
    assert x.next_time() is None
    market.reveal(5.0, trade(1.0, "0.1"))
    assert only(live(x), e.PriceTick)
    assert x.next_time() is None
    market.reveal(10.0, trade(6.0, "0.1005"))
    (tick,) = only(live(x), e.PriceTick)
    assert tick.last == D("0.1005")


def test_an_order_is_reached_only_by_prints_after_its_arrival() -> None:
    """However late those before it become known."""
    market = ListMarket()
    x = open_on(market)
    market.reveal(10.0, trade(9.0, "0.1"))
    live(x)
    x.place(place("one", Side.BUY, "0.0990", 100, at=x.now()))
    market.reveal(15.0, trade(9.1, "0.0990"), trade(12.0, "0.0990"))
    (fill,) = only(live(x), e.FillEvent)
    assert fill.executed_at == 12.0


def test_what_is_known_late_is_lived_unheard() -> None:
    """Orders fill when it happened; the bot hears of it when it is known, with the last quote."""
    market = ListMarket()
    x = open_on(market)
    market.reveal(5.0, trade(1.0, "0.1"))
    live(x)
    x.place(place("one", Side.BUY, "0.0990", 100, at=x.now()))
    live(x)
    prints = [trade(10.0 + n, "0.0980" if n == 30 else "0.1") for n in range(500)]
    market.reveal(600.0, *prints, book(600.0))
    messages = live(x)
    (fill,) = only(messages, e.FillEvent)
    assert (fill.time, fill.executed_at) == (600.0, 40.0)
    assert all(m.event.time == 600.0 for m in messages)
    market.reveal(601.0)
    (tick,) = only(live(x), e.PriceTick)
    assert tick.bid == D("0.0990")


def test_a_short_gap_is_lived_through_event_by_event() -> None:
    """A poll that comes a little late changes nothing for the bot."""
    market = ListMarket()
    x = open_on(market)
    market.reveal(LATE_SEC - 1, *[trade(1.0 + n, "0.1") for n in range(20)])
    times = [m.event.time for m in live(x)]
    assert len(times) == 20
    assert times[0] < 2


def test_a_restart_goes_on_behind_the_last_print_it_took(tmp_path: Path) -> None:
    """Also in the midst of prints of one instant."""
    market, path = ListMarket(), tmp_path / "x.db"
    x = open_on(market, path)
    x.place(place("one", Side.BUY, "0.0990", 100))
    sweep = [trade(3.0, "0.0985", n) for n in (10, 20, 30)]
    market.reveal(4.0, trade(1.0, "0.1"), *sweep)
    while x.now() < 3.0:
        x.advance(x.next_time() or 0.0)
    x.close()
    again = ListMarket()
    y = open_on(again, path)
    assert again.resumed is not None
    at, seen = again.resumed
    assert at == 3.0
    assert list(seen) == sweep[: len(seen)]
    again.reveal(8.0, *sweep[len(seen) :])
    live(y)
    assert sum(f.volume for f in y.executions()) == 60
    assert [f.time for f in y.executions()] == [3.0] * 3
    y.close()


def test_limits_may_change_between_runs_and_in_a_run_but_not_the_terms(tmp_path: Path) -> None:
    """The venue sets limits anew; what the run was started with stays."""
    market, path = ListMarket(), tmp_path / "x.db"
    x = open_on(market, path)
    changed = replace(PLAIN, order_min=D(60))
    market.told = [e.InstrumentUpdated(time=0.0, instrument=changed)]
    assert [type(m.event) for m in live(x)] == [e.InstrumentUpdated]
    assert x.describe().instrument == changed
    x.place(place("one", Side.BUY, "0.0990", 55))
    market.reveal(5.0)
    (refused,) = only(live(x), e.OrderRejected)
    assert refused.reason == "order_minimum"
    x.close()
    open_on(ListMarket(), path, instrument=replace(PLAIN, order_min=D(70)), base=77).close()
    with pytest.raises(StoreError, match="start settings was as ever, is now other"):
        open_on(ListMarket(), path, terms="other")
    with pytest.raises(StoreError, match="instrument pair"):
        open_on(ListMarket(), path, instrument=replace(PLAIN, pair="BTC/USD"))


def test_a_worse_status_is_told_and_refuses_orders() -> None:
    """The venue's own; that we cannot reach it says nothing of it."""
    market = ListMarket()
    x = open_on(market)
    market.told = [e.HealthChanged(time=0.0, system_status="unreachable", consecutive_errors=3)]
    (message,) = live(x)
    assert message.event == e.HealthChanged(
        time=0.0, system_status="unreachable", consecutive_errors=3
    )
    assert x.describe().system_status == "online"
    market.told = [e.HealthChanged(time=0.0, system_status="cancel_only")]
    live(x)
    assert x.describe().system_status == "cancel_only"
    x.place(place("one", Side.BUY, "0.0990", 100))
    market.reveal(5.0)
    (refused,) = only(live(x), e.OrderRejected)
    assert refused.reason == "market_mode"


@settings(max_examples=50, deadline=None)
@given(
    ticks=st.lists(st.tuples(st.integers(1, 3_000), st.integers(0, 12)), min_size=1, max_size=60),
    polls=st.lists(st.integers(100, int(LATE_SEC * 1000) - 1000), min_size=1, max_size=30),
)
def test_equal_prints_give_equal_executions_whatever_the_polling_pattern(
    ticks: list[tuple[int, int]], polls: list[int]
) -> None:
    """As if each print had been known at once; nothing is processed beyond what is known."""
    at, prints = 0, []
    for wait, level in ticks:
        at += wait
        prints.append(trade(at / 1000, f"0.{980 + 5 * level:04d}", 40))

    def executions(ends: Iterator[float]) -> list[VenueExecution]:
        market, left = ListMarket(), list(prints)
        x = open_on(market)
        x.place(place("buy", Side.BUY, "0.0990", 500, at=0.0))
        x.place(place("sell", Side.SELL, "0.1020", 500, at=0.0))
        x.place(place("late", Side.BUY, "0.0985", 500, at=20.0))
        for end in ends:
            known = [p for p in left if p.time <= end]
            left = left[len(known) :]
            market.reveal(end, *known)
            live(x)
        assert not left
        return list(x.executions())

    def pattern() -> Iterator[float]:
        end = 0.0
        for n in range(10_000):
            end += polls[n % len(polls)] / 1000
            yield end
            if end > at / 1000:
                return

    assert executions(pattern()) == executions(iter([n / 5 for n in range(1, at // 200 + 3)]))


def test_what_becomes_of_orders_survives_a_power_cut(tmp_path: Path) -> None:
    """What a live market showed comes only once: it is on disk for good before it is told."""
    market = ListMarket()
    x = open_on(market, tmp_path / "x.db")
    synced: list[float] = []
    x._file._sync = lambda: synced.append(x.now())  # type: ignore[method-assign]  # counts only
    market.reveal(2.0, trade(1.0, "0.1"))
    live(x)
    assert synced == []
    x.place(place("one", Side.BUY, "0.0990", 100, at=x.now()))
    market.reveal(5.0, trade(3.0, "0.0980"))
    messages = live(x)
    times = {m.event.time for m in messages if not isinstance(m.event, e.PriceTick)}
    assert len(only(messages, e.FillEvent)) == 1
    assert times <= set(synced)
    x.close()


def test_after_a_power_cut_news_of_the_present_are_heard(tmp_path: Path) -> None:
    """What is lived again was heard before; how the connection is now was not."""
    market = ListMarket()
    x = open_on(market, tmp_path / "x.db")
    market.told = [e.HealthChanged(time=0.0, system_status="cancel_only")]
    market.reveal(500.0, *[trade(float(n), "0.1") for n in range(1, 300)])
    x.catch_up(told=500, until=200.0)
    assert 199.0 <= x.now() < 200.0
    heard = live(x)
    assert [m.seq for m in heard] == list(range(501, 501 + len(heard)))
    (health,) = only(heard, e.HealthChanged)
    assert health == e.HealthChanged(time=heard[0].event.time, system_status="cancel_only")
    x.close()
