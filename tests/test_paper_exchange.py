"""The paper exchange: messages, latencies, durability and its own books."""

import math
import random
import sqlite3
import stat
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import FeeRates, Instrument, OrderState, RejectReason, Role, Side, TradeId
from core.market import Book, Candle, Evidence, Trade, available_at
from core.ports import Message, StoreError
from core.record import replace
from exchange.matching import MatchingConfig
from exchange.paper import PaperExchange, read_books

D = Decimal
PLAIN = Instrument(tick_size=D("0.0001"), lot_size=D(1), order_min=D(1), cost_min=D("0.01"))
CONFIG = MatchingConfig(
    flat_fees=FeeRates(maker=D("0.004"), taker=D("0.008")), assumed_queue=D(0), jitter=0.0
)


class ListSource:
    """A market from a list."""

    price_interval = 1.0
    fingerprint = ""

    def __init__(self, items: list[Evidence], name: str = "a list") -> None:
        self.items = items
        self.name = name

    def first_price(self) -> Decimal:
        """Return 0.1."""
        return D("0.1")

    def start_time(self) -> float:
        """Return 0."""
        return 0.0

    def read(self, skip: int) -> Iterator[Evidence]:
        """Yield the rest."""
        yield from self.items[skip:]

    def total(self) -> int:
        """Return how many there are."""
        return len(self.items)


def trades(*rows: tuple[float, str, int]) -> list[Evidence]:
    """Return prints from (time, price, volume)."""
    return [Trade(time=t, price=D(p), volume=D(v)) for t, p, v in rows]


def paper(
    items: list[Evidence],
    config: MatchingConfig = CONFIG,
    *,
    path: Path | str = ":memory:",
    name: str = "a list",
    instrument: Instrument = PLAIN,
) -> PaperExchange:
    """Return an exchange with 10,000 base and 1,000 quote."""
    source = ListSource(items, name)
    return PaperExchange(
        path, source, instrument, config, start_base=D(10_000), start_quote=D(1_000)
    )


def place(  # noqa: PLR0917 - reads like the order ticket
    name: str, side: Side, price: str, volume: int, at: float = 0.0, deadline: float = 1e12
) -> PlaceOrderAction:
    """Return the action that places an order."""
    state = OrderState(
        client_order_id=name, trade_id=TradeId.B, role=Role.ENTRY, side=side, price=D(price),
        volume=D(volume), cycle=1, attempt=1, placed_at=at,
    )  # fmt: skip
    return PlaceOrderAction(slot_id=1, order=state, chain=(), deadline=deadline)


def cancel(name: str) -> CancelOrderAction:
    """Return the action that cancels an order."""
    return CancelOrderAction(client_order_id=name, txid=None, reason="test")


def read(*names: str) -> RequestReconcile:
    """Return the action that reads orders."""
    return RequestReconcile(reason="test", client_order_ids=names)


def drain(x: PaperExchange, until: float = math.inf) -> list[Message]:
    """Advance event by event up to `until`; return the messages, and check their numbers."""
    result: list[Message] = []
    while (at := x.next_time()) is not None and at <= until:
        result.extend(x.advance(at))
    return result


def kinds(messages: list[Message]) -> list[str]:
    """Return the names of the events, without prices."""
    events = [m.event for m in messages if not isinstance(m.event, e.PriceTick)]
    return [type(event).__name__ for event in events]


def only(messages: list[Message], kind: type) -> list[e.Event]:
    """Return the events of one kind."""
    return [m.event for m in messages if isinstance(m.event, kind)]


# ---- time -----------------------------------------------------------------------------------


def test_place_travels_and_answers_after_the_latencies() -> None:
    """Entry 150 ms, response 50 ms; an execution is heard of 50 ms after it."""
    x = paper(trades((1.0, "0.1010", 5), (5.0, "0.0990", 40)))
    x.advance(2.0)
    x.place(place("a", Side.BUY, "0.1000", 100, at=2.0))
    messages = drain(x)
    assert kinds(messages) == ["OrderAccepted", "FillEvent", "MarketEnded"]
    accepted = only(messages, e.OrderAccepted)[0]
    fill = only(messages, e.FillEvent)[0]
    assert accepted.time == pytest.approx(2.2)
    assert isinstance(fill, e.FillEvent)
    assert (fill.executed_at, fill.volume) == (5.0, 40)
    assert fill.time == pytest.approx(5.05)


def test_place_of_a_timer_never_arrives_before_it_was_sent() -> None:
    """An order that left after the exchange's last event travels from its own time."""
    x = paper(trades((1.0, "0.1010", 5), (50.0, "0.1010", 5)))
    x.advance(2.0)
    x.place(place("a", Side.BUY, "0.1000", 100, at=10.0))
    assert only(drain(x), e.OrderAccepted)[0].time == pytest.approx(10.2)


def test_place_after_its_deadline_is_rejected() -> None:
    """The exchange looks at the deadline on arrival."""
    x = paper(trades((1.0, "0.1010", 5)))
    x.place(place("a", Side.BUY, "0.1000", 100, deadline=0.1))
    x.place(place("b", Side.BUY, "0.1000", 100, deadline=0.2))
    messages = drain(x)
    rejected = only(messages, e.OrderRejected)
    assert [(r.client_order_id, r.reason) for r in rejected if isinstance(r, e.OrderRejected)] == [
        ("a", RejectReason.DEADLINE)
    ]
    assert len(only(messages, e.OrderAccepted)) == 1


def test_post_only_is_judged_on_arrival() -> None:
    """The market that moved while the order travelled refuses it."""
    x = paper(trades((1.0, "0.1010", 5), (2.1, "0.0980", 5)))
    x.advance(2.0)
    x.place(place("a", Side.BUY, "0.1000", 100, at=2.0))
    assert [r.reason for r in only(drain(x), e.OrderRejected)] == [RejectReason.POST_ONLY]  # type: ignore[union-attr]


def test_price_ticks_are_at_most_one_a_second_and_the_latest_wins() -> None:
    """Of quotes within a second the last is told; no tick knows more than the feed could."""
    items = trades(*((n / 10 + 0.003, f"0.1{n:03d}", 5) for n in range(1, 100)))
    ticks = [m.event for m in drain(paper(items)) if isinstance(m.event, e.PriceTick)]
    assert all(b.time - a.time >= 1.0 - 1e-9 for a, b in pairwise(ticks))
    for tick in ticks:
        known = [t for t in items if t.time + CONFIG.feed_sec <= tick.time + 1e-9]
        assert isinstance(known[-1], Trade)
        assert tick.last == known[-1].price


def test_candle_is_told_with_its_close_after_the_feed_latency() -> None:
    """A candle may be used only from its end on."""
    candle = Candle(
        time=0.0, interval=60.0, open=D("0.1"), high=D("0.11"), low=D("0.09"),
        close=D("0.105"), volume=D(100),
    )  # fmt: skip
    tick = drain(paper([candle]))[0].event
    assert isinstance(tick, e.PriceTick)
    assert (tick.time, tick.last) == (60.05, D("0.105"))


def test_market_ends_once_after_everything_in_flight() -> None:
    """One MarketEnded, last; then nothing is to come."""
    x = paper(trades((1.0, "0.1010", 5)))
    x.place(place("a", Side.BUY, "0.1000", 100, at=0.0))
    assert kinds(drain(x)) == ["OrderAccepted", "MarketEnded"]
    assert x.next_time() is None


# ---- cancel and reconcile -------------------------------------------------------------------


@pytest.mark.parametrize(("print_at", "expected"), [
    (2.10, ["FillEvent", "CancelRefused"]),
    (2.20, ["OrderClosed"]),
])  # fmt: skip
def test_cancel_can_lose_the_race_against_a_fill(print_at: float, expected: list[str]) -> None:
    """A print before the cancel arrives fills; after it finds nothing."""
    x = paper(trades((1.0, "0.1010", 5), (print_at, "0.0990", 100)))
    x.place(place("a", Side.BUY, "0.1000", 100))
    drain(x, 2.0)
    x.advance(2.0)
    x.cancel(cancel("a"))
    assert kinds(drain(x)) == [*expected, "MarketEnded"]


def test_cancel_of_a_partial_keeps_the_filled_part() -> None:
    """The last word names the whole executed volume and comes after the fills."""
    x = paper(trades((1.0, "0.1010", 5), (2.0, "0.0990", 30), (9.0, "0.1010", 5)))
    x.place(place("a", Side.BUY, "0.1000", 100))
    x.advance(3.0)
    x.cancel(cancel("a"))
    closed = only(drain(x), e.OrderClosed)[0]
    assert isinstance(closed, e.OrderClosed)
    assert (closed.reason, closed.executed) == ("cancelled", 30)


def test_reconcile_tells_executions_then_the_order_then_balances() -> None:
    """Working, closed, unknown; the balances follow the orders of the same reply."""
    x = paper(trades((1.0, "0.1010", 5), (2.0, "0.0990", 130), (9.0, "0.1010", 5)))
    for name in ("a", "b"):
        x.place(place(name, Side.BUY, "0.1000", 100))
    drain(x, 5.0)
    x.reconcile(read("a", "b", "ghost"))
    assert kinds(drain(x)) == [
        "FillEvent", "OrderClosed", "FillEvent", "OrderFound", "OrderRejected",
        "BalancesReported", "MarketEnded",
    ]  # fmt: skip


def test_reconcile_does_not_call_a_travelling_order_lost() -> None:
    """An order whose placement still travels is not "never arrived"."""
    config = replace(CONFIG, entry_sec=2.0)
    x = paper(trades((1.0, "0.1010", 5), (9.0, "0.1010", 5)), config)
    x.reconcile(read("a"))
    x.advance(1.0)
    x.place(place("a", Side.BUY, "0.1000", 100, at=1.0))
    assert kinds(drain(x)) == ["BalancesReported", "OrderAccepted", "MarketEnded"]


def test_balances_agree_with_the_fills_delivered_before_them() -> None:
    """Whatever the jitter, a report never knows more or less than the fills before it."""
    items = trades(*((1.0 + n / 50, "0.0990" if n % 2 else "0.1010", 7) for n in range(400)))
    for seed in range(20):
        x = paper(items, replace(CONFIG, seed=seed, jitter=1.0, tier="pro"))
        x.place(place("a", Side.BUY, "0.1000", 900))
        base, messages = D(10_000), []
        for n in range(40):
            messages += drain(x, 1.0 + n / 5)
            x.advance(1.0 + n / 5)
            x.reconcile(read())
        seen: set[str] = set()
        for event in (m.event for m in messages + drain(x)):
            if isinstance(event, e.FillEvent) and event.execution_id not in seen:
                seen.add(event.execution_id)
                base += event.volume
            elif isinstance(event, e.BalancesReported):
                assert event.base == base
        assert seen


def test_messages_of_one_order_never_overtake_each_other() -> None:
    """The acknowledgement comes before fills, fills in the order of execution."""
    items = trades(*((0.5 + n / 1000, "0.0990", 3) for n in range(100)))
    for seed in range(10):
        x = paper(items, replace(CONFIG, seed=seed, jitter=2.0))
        x.place(place("a", Side.BUY, "0.1000", 200))
        events = [m.event for m in drain(x) if getattr(m.event, "client_order_id", "") == "a"]
        fills = [event.execution_id for event in events if isinstance(event, e.FillEvent)]
        assert isinstance(events[0], e.OrderAccepted | e.OrderRejected)
        assert fills == sorted(fills)


def test_post_only_hides_nothing_of_the_books() -> None:
    """Totals equal the start and the sum over all executions."""
    items = trades((1.0, "0.1010", 5), (2.0, "0.0990", 60), (3.0, "0.1030", 25))
    x = paper(items)
    x.place(place("a", Side.BUY, "0.1000", 100))
    x.place(place("b", Side.SELL, "0.1020", 20))
    drain(x)
    books = x.books()
    assert (books.executions, books.orders, books.untold) == (2, 2, books.effects.keys())
    assert books.base == books.start_base + books.base_change == 10_040
    assert books.quote == books.start_quote + books.quote_change
    assert sum(f.fee for f in x.executions()) == books.fees > 0


# ---- durability -----------------------------------------------------------------------------


def mixed(seed: int, count: int) -> list[Evidence]:
    """Return prints, books and candles around 0.1, in order of availability."""
    rng = random.Random(seed)
    items: list[Evidence] = []
    for n in range(count):
        price = D("0.1") + rng.randint(-9, 9) * PLAIN.tick_size
        at, kind = float(n), rng.randrange(4)
        if kind == 0:
            levels = [(k, D(rng.randint(1, 90))) for k in range(1, 6)]
            items.append(Book(
                time=at,
                bids=tuple((price - k * PLAIN.tick_size, v) for k, v in levels),
                asks=tuple((price + k * PLAIN.tick_size, v) for k, v in levels),
            ))  # fmt: skip
        elif kind == 1:
            high, low = price + 9 * PLAIN.tick_size, price - 9 * PLAIN.tick_size
            items.append(Candle(
                time=at - 10, interval=10.0, open=price, high=high, low=low, close=price,
                volume=D(rng.randint(1, 900)),
            ))  # fmt: skip
        else:
            items.append(Trade(time=at, price=price, volume=D(rng.randint(1, 90))))
    assert items == sorted(items, key=available_at)
    return items


SCRIPT = replace(CONFIG, jitter=0.8, touch_prob=0.4, queue_model=CONFIG.queue_model, entry_sec=0.4)


def scripted(
    path: Path, seed: int, *, steps: int, reopen_at: int | None
) -> tuple[list[Message], int]:
    """Run a script of requests; kill and reopen after commit number `reopen_at` (None: never).

    Returns every message, and the number of commits.

    What was delivered and not acknowledged when it was killed is taken from `pending`.
    """
    items, rng = mixed(seed, steps), random.Random(seed)
    x, commits, stream = paper(items, SCRIPT, path=path), 0, []

    def committed() -> None:
        nonlocal x, commits
        commits += 1
        if commits == reopen_at:
            x._file._db.close()  # as a kill leaves it: nothing is written any more
            x = paper(items, SCRIPT, path=path)
            stream[len(stream) - len(x.pending(x._acknowledged)) :] = x.pending(x._acknowledged)

    for n in range(steps):
        while (at := x.next_time()) is not None and at <= n:
            stream += x.advance(at)
            if rng.random() < 0.5 and stream:
                x.acknowledge(stream[-1].seq)
            committed()
        x.advance(float(n))
        committed()
        side = rng.choice([Side.BUY, Side.SELL])
        price = f"0.{1000 + rng.randint(-8, 8):04d}"
        x.place(place(f"o{n}", side, price, rng.randint(5, 300), at=float(n)))
        committed()
        x.cancel(cancel(f"o{rng.randint(0, n)}"))
        committed()
        x.reconcile(read(f"o{rng.randint(0, n)}", f"x{n}"))
        committed()
    while (at := x.next_time()) is not None:
        stream += x.advance(at)
        committed()
    assert x.books().executions > 2
    x.close()
    return stream, commits


def check_every_kill(folder: Path, seed: int, steps: int) -> None:
    """Compare the run of a script with runs that were killed after each of its commits."""
    whole, commits = scripted(folder / "whole.db", seed, steps=steps, reopen_at=None)
    assert [m.seq for m in whole] == list(range(1, len(whole) + 1))
    assert {"FillEvent", "OrderAccepted", "BalancesReported"} <= set(kinds(whole))
    total = read_books(folder / "whole.db")
    for n in range(1, commits + 1):
        path = folder / f"{n}.db"
        assert scripted(path, seed, steps=steps, reopen_at=n) == (whole, commits)
        assert read_books(path) == total


@pytest.mark.slow
def test_kill_and_reopen_at_every_commit_changes_no_message(tmp_path: Path) -> None:
    """Whenever it is killed, the messages are those of the uninterrupted run, to the last digit."""
    check_every_kill(tmp_path, 3, 9)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_kill_and_reopen_at_every_commit_of_longer_runs(tmp_path: Path, seed: int) -> None:
    """The same over hundreds of commits."""
    check_every_kill(tmp_path, seed, 20)


def test_reopened_exchange_stands_at_the_same_instant(tmp_path: Path) -> None:
    """Time, quote, balances, orders and what is to come are as they were."""
    items = mixed(1, 40)
    x = paper(items, SCRIPT, path=tmp_path / "p.db")
    x.place(place("a", Side.BUY, "0.0995", 400))
    x.advance(12.3)
    x.reconcile(read("a"))
    before = (x.now(), x.next_time(), x.describe(), x.engine.state(), x.pending(0))
    y = paper(items, SCRIPT, path=tmp_path / "p.db")
    assert before == (
        y.now(),
        y.next_time(),
        y.describe(),
        y.engine.state(),
        y.pending(0),
    )


def test_pending_returns_what_was_not_acknowledged(tmp_path: Path) -> None:
    """Delivered messages stay, over a restart, until they are acknowledged."""
    x = paper(mixed(2, 20), path=tmp_path / "p.db")
    messages = drain(x, 10.0)
    x.acknowledge(messages[2].seq)
    assert list(x.pending(x._acknowledged)) == messages[3:]
    messages += x.advance(10.5)
    y = paper(mixed(2, 20), path=tmp_path / "p.db")
    assert list(y.pending(messages[2].seq)) == messages[3:]
    assert list(y.pending(messages[4].seq)) == messages[5:]
    with pytest.raises(StoreError, match="told the bot 3 messages, the database knows of 2"):
        y.pending(messages[1].seq)


@pytest.mark.parametrize(("change", "word"), [
    ({"config": replace(CONFIG, seed=9)}, "setting seed was 1, is now 9"),
    ({"instrument": replace(PLAIN, order_min=D(7))}, "instrument order_min was 1, is now 7"),
    ({"name": "another"}, "market was a list, is now another"),
])  # fmt: skip
def test_file_of_another_run_is_refused(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    """The message says what differs and what to do."""
    paper(mixed(1, 5), path=tmp_path / "p.db").close()
    with pytest.raises(StoreError) as error:
        paper(mixed(1, 5), path=tmp_path / "p.db", **change)  # type: ignore[arg-type]
    assert word in str(error.value)
    assert "delete the paper file" in str(error.value)


def test_file_is_private(tmp_path: Path) -> None:
    """Only the owner may read the file and what SQLite puts beside it."""
    x = paper(mixed(1, 5), path=tmp_path / "p.db")
    drain(x)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


def test_read_books_while_open_after_close_and_without_a_file(tmp_path: Path) -> None:
    """Verification reads the books of a running, a closed and a missing exchange."""
    x = paper(trades((1.0, "0.1010", 5), (2.0, "0.0990", 60)), path=tmp_path / "p.db")
    x.place(place("a", Side.BUY, "0.1000", 100))
    drain(x)
    running = read_books(tmp_path / "p.db")
    assert running == x.books()
    x.close()
    assert read_books(tmp_path / "p.db") == running
    with pytest.raises(StoreError):
        read_books(tmp_path / "nothing.db")


def test_file_that_cannot_be_used_is_a_store_error(tmp_path: Path) -> None:
    """Rubbish and a failing disk are told as StoreError."""
    (tmp_path / "p.db").write_text("this is not a database, and long enough to be looked at" * 9)
    with pytest.raises(StoreError):
        paper(mixed(1, 5), path=tmp_path / "p.db")
    x = paper(mixed(1, 5), path=tmp_path / "q.db")
    with sqlite3.connect(tmp_path / "q.db") as db:
        db.execute("DROP TABLE outbox")
    with pytest.raises(StoreError):
        drain(x)


def test_rest_counter_makes_reads_wait() -> None:
    """More reads than the counter allows are answered later, none is lost."""
    x = paper(trades((1.0, "0.1010", 5)), replace(CONFIG, tier="starter"))
    for _ in range(20):
        x.reconcile(read())
    times = [event.time for event in only(drain(x), e.BalancesReported)]
    assert len(times) == 20
    assert times[-1] > 5 / 0.33


@pytest.mark.parametrize("seed", range(20))
def test_answer_to_a_question_never_overtakes_what_was_said_before(seed: int) -> None:
    """Whatever the luck of each message: accepted, executed, then what the question found."""
    config = replace(CONFIG, seed=seed, jitter=1.5)
    x = paper(trades((9.0, "0.0990", 60), (99.0, "0.1010", 5)), config)
    x.place(place("a", Side.BUY, "0.1000", 100))
    messages = drain(x, 9.0)
    x.reconcile(read("a"))
    messages += drain(x)
    named = [type(m.event).__name__ for m in messages if hasattr(m.event, "client_order_id")]
    assert named[0] == "OrderAccepted"
    assert named[-1] == "OrderFound"
    assert named[1:-1] in (["FillEvent"], ["FillEvent"] * 2)


def test_nothing_is_said_of_an_order_whose_placement_still_travels() -> None:
    """Neither that it never arrived nor that an older one of its id is closed."""
    x = paper(trades(*((float(n), "0.1010", 5) for n in range(1, 20))))
    x.place(place("a", Side.BUY, "0.1000", 100))
    drain(x, 2.0)
    x.cancel(cancel("a"))
    drain(x, 4.0)
    x.place(place("a", Side.BUY, "0.1000", 100, at=x.now() + 5))
    x.place(place("b", Side.BUY, "0.1000", 100, at=x.now() + 5))
    x.reconcile(read("a", "b"))
    named = [m.event for m in drain(x, 8.0) if hasattr(m.event, "client_order_id")]
    assert named == []
    assert kinds(drain(x, 12.0)).count("OrderAccepted") == 2
