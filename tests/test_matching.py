"""The eight rules of the matching engine, and the economics they imply (spec: simulation, 1)."""

import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import FeeRates, Instrument, RejectReason, Side
from core.market import Book, Candle, Trade
from core.record import Record, replace
from exchange.matching import (
    EngineState,
    MatchingConfig,
    MatchingEngine,
    VenueExecution,
    VenueOrder,
    preset,
)
from exchange.queue import QueueModel, fill_probability, queue_after_depth_change
from exchange.rates import cancel_cost, fee_tier, latency

D = Decimal
MUCH = D(100_000)
COARSE = Instrument(tick_size=D("0.0001"), lot_size=D(1), order_min=D(1), cost_min=D("0.0001"))
CENTS = Instrument(tick_size=D(1), lot_size=D(1), order_min=D(1), cost_min=D("0.1"))
GOLDEN = Candle(
    time=60.0, interval=60.0, open=D(".1010"), high=D(".1015"), low=D(".0990"), close=D(".1005"),
    volume=D(50_000),
)  # fmt: skip
FLAT = FeeRates(maker=D("0.004"), taker=D("0.008"))


def engine(
    instrument: Instrument = COARSE,
    *,
    base: Decimal = MUCH,
    quote: Decimal = MUCH,
    **changes: object,
) -> MatchingEngine:
    """Return an engine with an account and a quote at 0.1010."""
    config = replace(MatchingConfig(flat_fees=FLAT), **changes)
    state = EngineState(base=base, quote=quote, inventory_cost=base * D("0.1"))
    return MatchingEngine(instrument, config, state)


def rest(
    made: MatchingEngine, side: Side, price: str, volume: int, *, at: float = 0.0, name: str = ""
) -> VenueOrder:
    """Rest an order or fail."""
    order = made.submit(
        client_order_id=name or f"{side}{price}{volume}{at}",
        side=side,
        price=D(price),
        volume=D(volume),
        at=at,
    )
    assert isinstance(order, VenueOrder), order
    return order


def test_candle_fill_is_golden() -> None:
    """Share .4 of 50,000 at φ .1 is a budget of 2,000: an order of 3,000 fills 2,000."""
    made = engine()
    rest(made, Side.BUY, "0.1000", 3000)
    fills = made.on_evidence(GOLDEN)
    assert [(x.volume, x.price) for x in fills] == [(2000, D("0.1"))]
    assert made.orders()[0].remaining == 1000


def test_touch_is_no_fill() -> None:
    """The range must pass the limit by a tick; a touch fills nothing by default."""
    made = engine()
    rest(made, Side.BUY, "0.0990", 100)
    rest(made, Side.SELL, "0.1015", 100)
    assert made.on_evidence(GOLDEN) == []
    lucky = engine(touch_prob=1.0)
    rest(lucky, Side.BUY, "0.0990", 100)
    assert [x.volume for x in lucky.on_evidence(GOLDEN)] == [100]


def test_budget_is_shared_by_price_then_time() -> None:
    """Two buys share what traded beyond; the better price comes first."""
    made = engine()
    rest(made, Side.BUY, "0.0995", 900, name="low")
    rest(made, Side.BUY, "0.1000", 1500, name="high")
    fills = made.on_evidence(GOLDEN)
    assert [(x.client_order_id, x.volume) for x in fills] == [("high", 1500)]


@pytest.mark.parametrize(("arrived", "volume"), [(60.0, 2000), (64.9, 2000), (66.0, 0), (100.0, 0)])
def test_orders_are_live_from_the_next_bar(arrived: float, volume: int) -> None:
    """An order sent at a bar's close is live in the next bar; one sent within it is not."""
    made = engine()
    rest(made, Side.BUY, "0.1000", 3000, at=arrived)
    assert sum(x.volume for x in made.on_evidence(GOLDEN)) == volume


def test_passed_remainder_takes_the_budget_of_the_next_bar_first() -> None:
    """What a bar left over stays first in line, also before a better price."""
    made = engine()
    rest(made, Side.BUY, "0.1000", 3000, name="first")
    made.on_evidence(GOLDEN)
    rest(made, Side.BUY, "0.1002", 3000, at=70.0, name="later")
    below = replace(GOLDEN, time=120.0, open=D(".0992"), high=D(".0995"), low=D(".0980"))
    fills = made.on_evidence(replace(below, close=D(".0990")))
    assert [(x.client_order_id, x.volume) for x in fills] == [("first", 1000), ("later", 3000)]


def test_filled_and_empty_candles_fill_nothing() -> None:
    """No volume, no fill."""
    made = engine()
    rest(made, Side.BUY, "0.1000", 100)
    assert made.on_evidence(replace(GOLDEN, volume=D(0))) == []
    assert made.on_evidence(replace(GOLDEN, is_filled=True)) == []


def book(bid: str, ask: str, size: int, at: float = 1.0) -> Book:
    """Return a book of one level a side."""
    return Book(time=at, bids=((D(bid), D(size)),), asks=((D(ask), D(size)),))


def test_queue_ahead_is_consumed_by_prints() -> None:
    """100 ahead, order 50, prints 80, 30, 50 fill 0, 10, 40."""
    made = engine()
    made.on_evidence(book("0.1000", "0.1010", 100))
    rest(made, Side.BUY, "0.1000", 50, at=2.0)
    filled = []
    for n, volume in enumerate((80, 30, 50)):
        trade = Trade(time=3.0 + n, price=D("0.1"), volume=D(volume), side=Side.SELL)
        filled.append(sum(x.volume for x in made.on_evidence(trade)))
    assert filled == [0, 10, 40]


def test_print_through_the_limit_fills_at_most_the_print_earliest_first() -> None:
    """One print is shared among own orders, the earliest first."""
    made = engine()
    rest(made, Side.BUY, "0.1000", 60, name="one")
    rest(made, Side.BUY, "0.1001", 60, name="two")
    fills = made.on_evidence(Trade(time=1.0, price=D("0.0999"), volume=D(100)))
    assert [(x.client_order_id, x.volume) for x in fills] == [("one", 60), ("two", 40)]


def test_print_at_the_limit_by_our_own_side_fills_nothing() -> None:
    """A buyer's print at our bid did not trade with buyers."""
    made = engine(assumed_queue=D(0))
    rest(made, Side.BUY, "0.1000", 60)
    taken = Trade(time=1.0, price=D("0.1"), volume=D(100), side=Side.BUY)
    assert made.on_evidence(taken) == []


@pytest.mark.parametrize(
    ("model", "ahead", "expected"),
    [
        (QueueModel.RISK_AVERSE, 80, "80"), (QueueModel.RISK_AVERSE, 50, "50"),
        (QueueModel.POWER, 80, "64"), (QueueModel.POWER, 20, "16"), (QueueModel.POWER, 50, "40"),
        (QueueModel.LOG, 80, "68.19"), (QueueModel.LOG, 20, "11.82"), (QueueModel.LOG, 50, "40"),
    ],
)  # fmt: skip
def test_queue_models_are_golden(model: QueueModel, ahead: int, expected: str) -> None:
    """Depth 100 → 80 moves us as the published formulas say."""
    moved = queue_after_depth_change(model, ahead=D(ahead), before=D(100), after=D(80))
    assert abs(moved - D(expected)) < D("0.011")


@given(st.sampled_from(QueueModel), *[st.integers(0, 1000)] * 3)
def test_queue_position_never_moves_back_or_below_zero(
    model: QueueModel, ahead: int, before: int, after: int
) -> None:
    """Whatever the depth does, we only move forward."""
    moved = queue_after_depth_change(
        model, ahead=D(min(ahead, before)), before=D(before), after=D(after)
    )
    assert 0 <= moved <= min(ahead, before)


def test_taker_walks_the_book_and_consumes_it() -> None:
    """80@50, 120@51, 180@52: buy 250 takes 80 + 120 + 50; the next finds what is left."""
    made = engine(CENTS)
    levels = ((D(50), D(80)), (D(51), D(120)), (D(52), D(180)))
    made.on_evidence(Book(time=1.0, bids=((D(49), D(10)),), asks=levels))
    fills = made.submit(
        client_order_id="t", side=Side.BUY, price=D(52), volume=D(250), at=2.0, post_only=False
    )
    assert isinstance(fills, tuple)
    assert [(x.price, x.volume) for x in fills] == [(50, 80), (51, 120), (52, 50)]
    assert sum(x.cost for x in fills) / 250 == D("50.88")
    assert not fills[0].is_maker
    again = made.submit(
        client_order_id="u", side=Side.BUY, price=D(52), volume=D(200), at=3.0, post_only=False
    )
    assert isinstance(again, tuple)
    assert [(x.price, x.volume) for x in again] == [(52, 130)]
    later = made.submit(
        client_order_id="v", side=Side.BUY, price=D(50), volume=D(80), at=9.0, post_only=False
    )
    assert isinstance(later, tuple)
    assert [x.volume for x in later] == [80]


def test_taker_with_a_limit_rests_for_the_remainder() -> None:
    """With limit 51 it fills 200 and rests 50."""
    made = engine(CENTS)
    levels = ((D(50), D(80)), (D(51), D(120)), (D(52), D(180)))
    made.on_evidence(Book(time=1.0, bids=((D(49), D(10)),), asks=levels))
    fills = made.submit(
        client_order_id="t", side=Side.BUY, price=D(51), volume=D(250), at=2.0, post_only=False
    )
    assert isinstance(fills, tuple)
    assert sum(x.volume for x in fills) == 200
    assert made.orders()[0].remaining == 50


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": D("0.10005")}, RejectReason.TICK_SIZE),
        ({"volume": D("0.5")}, RejectReason.ORDER_MINIMUM),
        ({"price": D("0.1010")}, RejectReason.POST_ONLY),
        ({"volume": D(2_000_000)}, RejectReason.INSUFFICIENT_FUNDS),
        ({"side": Side.SELL, "volume": D(200_000)}, RejectReason.INSUFFICIENT_FUNDS),
        ({"client_order_id": "known"}, RejectReason.DUPLICATE_ID),
        ({"side": Side.SELL, "price": D("0.0999")}, RejectReason.SELF_TRADE),
    ],
)
def test_venue_constraints_refuse_with_their_reason(
    changes: dict[str, object], reason: RejectReason
) -> None:
    """Tick, minimum, post-only, funds, duplicate id and self-trade."""
    made = engine()
    made.on_evidence(replace(GOLDEN, time=0.0))
    rest(made, Side.BUY, "0.0999", 10, name="known")
    order: dict[str, object] = {
        "client_order_id": "new", "side": Side.BUY, "price": D("0.0998"), "volume": D(10),
        "at": 1.0,
    }  # fmt: skip
    assert made.submit(**{**order, **changes}) is reason  # type: ignore[arg-type]  # a table


def test_open_order_limit_and_rate_counter_refuse() -> None:
    """The cap of open orders, and fourteen quick cancels on Intermediate."""
    made = engine(open_order_limit=2)
    for n in range(2):
        rest(made, Side.BUY, f"0.09{90 + n}", 10)
    refused = made.submit(
        client_order_id="x", side=Side.BUY, price=D("0.0980"), volume=D(10), at=1.0
    )
    assert refused is RejectReason.ORDERS_LIMIT
    busy = engine(tier="intermediate")
    results = []
    for n in range(15):
        results.append(
            busy.submit(
                client_order_id=f"{n}", side=Side.BUY, price=D("0.09"), volume=D(10), at=0.0
            )
        )
        busy.cancel(f"{n}", 0.0)
    assert results[13] is not RejectReason.RATE_LIMIT
    assert results[14] is RejectReason.RATE_LIMIT


@pytest.mark.parametrize(("age", "cost"), [(0, 8), (5, 6), (44, 4), (299, 1), (300, 0)])
def test_cancel_costs_fall_with_age(age: float, cost: float) -> None:
    """The engine counter's table."""
    assert cancel_cost(age) == cost


@pytest.mark.parametrize(
    ("volume", "maker"), [(0, "0.004"), (2500, "0.003"), (99_999, "0.0015"), (10**8, "0")]
)
def test_fee_tiers_follow_the_volume(volume: int, maker: str) -> None:
    """0.40 % at first, less with volume."""
    assert fee_tier(D(volume)).maker == D(maker)


def test_fees_use_the_rolling_volume_of_thirty_days() -> None:
    """Volume counts for 30 days and then falls out."""
    made = engine(flat_fees=None, participation=D(1))
    rest(made, Side.BUY, "0.1000", 30_000)
    made.on_evidence(replace(GOLDEN, volume=D(10**6)))
    assert made.fees(100.0).maker == D("0.003")
    assert made.fees(31 * 86_400.0).maker == D("0.004")


@pytest.mark.parametrize("seconds", [10.0])
def test_hazard_model_is_calibrated_and_monotone(seconds: float) -> None:
    """40–50 % at the touch in ten seconds, 85 % or more when aggressive, always within bounds."""
    assert 0.40 <= fill_probability(0.0, seconds) <= 0.50
    assert 0.85 <= fill_probability(-1.0, seconds) <= 0.99
    chances = [fill_probability(x / 4, seconds) for x in range(-40, 41)]
    assert chances == sorted(chances, reverse=True)
    assert min(chances) == 0.01
    assert max(chances) == 0.99


def test_latency_is_seeded_and_positive() -> None:
    """The same key has the same latency; keys do not shift each other."""
    values = [latency(0.15, 0.5, 1, f"k{n}") for n in range(500)]
    assert values == [latency(0.15, 0.5, 1, f"k{n}") for n in range(500)]
    assert all(x > 0 for x in values)
    assert 0.12 < sorted(values)[250] < 0.18


# ---- economics ----------------------------------------------------------------------------------


class Plan(Record, frozen=True, kw_only=True):
    """One order of a random policy."""

    side: Side
    offset: int
    volume: int


def walk(seed: int, bars: int, sd: float = 0.004) -> list[Candle]:
    """Return a driftless walk as candles."""
    rng = random.Random(seed)
    price, candles = 0.1, []
    for n in range(bars):
        end = price * (1 + rng.gauss(0.0, sd))
        high = max(price, end) * (1 + abs(rng.gauss(0.0, sd / 3)))
        low = min(price, end) * (1 - abs(rng.gauss(0.0, sd / 3)))
        values = [D(f"{x:.4f}") for x in (price, high, low, end)]
        candles.append(
            Candle(
                time=n * 60.0, interval=60.0, open=values[0], high=max(values), low=min(values),
                close=values[3], volume=D(rng.randint(1000, 60_000)),
            )
        )  # fmt: skip
        price = float(values[3])
    return candles


def run_policy(made: MatchingEngine, candles: list[Candle], seed: int) -> list[VenueExecution]:
    """Rest and cancel orders at random around the market; check cash on the way."""
    rng = random.Random(seed)
    fills: list[VenueExecution] = []
    start = made.snapshot()
    for n, candle in enumerate(candles):
        fills += made.on_evidence(candle)
        check_cash(made, start)
        if len(made.orders()) > 6:
            made.cancel(made.orders()[0].client_order_id, candle.time + 60)
        side = rng.choice(list(Side))
        step = D(rng.randint(1, 12)) * COARSE.tick_size
        price = candle.close - step if side is Side.BUY else candle.close + step
        made.submit(
            client_order_id=f"p{n}", side=side, price=price, volume=D(rng.randint(50, 900)),
            at=candle.time + 60,
        )  # fmt: skip
    return fills


def check_cash(made: MatchingEngine, start: EngineState) -> None:
    """Available + reserved + inventory at cost + fees − realised is what it was; none negative."""
    now = made.snapshot()
    base, quote = made.reserved()
    assert now.base >= base >= 0
    assert now.quote >= quote >= 0
    total = now.quote + now.inventory_cost + now.fees - now.realised
    assert total == start.quote + start.inventory_cost


@given(st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_cash_is_conserved_and_balances_are_never_negative(seed: int) -> None:
    """Exactly, after every event of a random policy, and fills never exceed φ of the volume."""
    made = engine(base=D(2000), quote=D(150))
    candles = walk(seed, 150)
    fills = run_policy(made, candles, seed)
    for candle in candles:
        done = sum((x.volume for x in fills if x.time == candle.time + 60), D(0))
        assert done <= candle.volume * D("0.2")


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_same_seed_same_bytes_and_snapshots_go_on(seed: int) -> None:
    """A run that is stored and restored halfway ends like one that was not."""
    candles = walk(seed, 120)
    one, two = engine(), engine()
    assert run_policy(one, candles, seed) == run_policy(two, candles, seed)
    assert one.snapshot() == two.snapshot()
    again = MatchingEngine(COARSE, one.config, EngineState.from_dict(one.snapshot().to_dict()))
    tail = walk(seed + 1, 40)
    moved = [replace(c, time=c.time + 120 * 60.0) for c in tail]
    assert [one.on_evidence(c) for c in moved] == [again.on_evidence(c) for c in moved]


def test_a_flat_price_earns_minus_fees_never_more() -> None:
    """Round trips between a bid and an ask that never move cost the fees."""
    made = engine(base=D(5000), quote=D(500))
    start = made.snapshot()
    flat = replace(
        GOLDEN, open=D(".1"), high=D(".1002"), low=D(".0998"), close=D(".1"), volume=D(10**6)
    )
    for n in range(200):
        made.on_evidence(replace(flat, time=n * 60.0))
        for side in Side:
            made.submit(
                client_order_id=f"{side}{n}", side=side, price=D("0.1"), volume=D(100),
                at=n * 60.0 + 60,
            )  # fmt: skip
    end = made.snapshot()
    value = end.quote - start.quote + (end.base - start.base) * D("0.1")
    assert value <= -end.fees


def test_holding_earns_nothing() -> None:
    """Without orders nothing changes."""
    made = engine()
    start = made.totals()
    for candle in walk(5, 500):
        made.on_evidence(candle)
    assert made.totals() == start


@given(st.integers(0, 3000), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_a_higher_buy_limit_never_fills_later(seed: int, one: int, more: int) -> None:
    """On the same path a better price is never worse off."""

    def first_fill(ticks: int) -> float:
        made = engine()
        rest(made, Side.BUY, str(D("0.0990") + ticks * COARSE.tick_size), 10)
        for candle in walk(seed, 80):
            if made.on_evidence(candle):
                return candle.time
        return 1e18

    assert first_fill(one + more) <= first_fill(one)


@given(st.integers(0, 3000))
@settings(max_examples=30, deadline=None)
def test_splitting_an_order_never_fills_more(seed: int) -> None:
    """Two halves together fill no more than the whole."""
    whole, split = engine(), engine()
    rest(whole, Side.BUY, "0.0995", 8000)
    rest(split, Side.BUY, "0.0995", 4000, name="a")
    rest(split, Side.BUY, "0.0995", 4000, name="b")
    done = [D(0), D(0)]
    for candle in walk(seed, 60):
        for n, made in enumerate((whole, split)):
            done[n] += sum((x.volume for x in made.on_evidence(candle)), D(0))
        assert done[1] <= done[0]


@given(st.integers(0, 3000))
@settings(max_examples=20, deadline=None)
def test_presets_are_ordered(seed: int) -> None:
    """For a fixed schedule the optimist fills at least as much as the default, it the pessimist."""
    filled = []
    for name in ("optimistic", "default", "pessimistic"):
        config = preset(name, MatchingConfig(flat_fees=FLAT))
        state = EngineState(base=D(100_000), quote=D(100_000), inventory_cost=D(10_000))
        made = MatchingEngine(COARSE, config, state)
        rest(made, Side.BUY, "0.0993", 20_000)
        rest(made, Side.SELL, "0.1009", 20_000)
        total = sum((x.volume for c in walk(seed, 60) for x in made.on_evidence(c)), D(0))
        filled.append(total)
    assert filled[0] >= filled[1] >= filled[2]


@pytest.mark.slow
def test_a_random_policy_does_not_gain_on_a_driftless_path() -> None:
    """Over 10^5 steps in twenty paths the mean gain is not beyond three standard errors."""
    gains = []
    for seed in range(20):
        made = engine(base=D(5000), quote=D(500))
        candles = walk(seed, 5000, 0.002)
        run_policy(made, candles, seed)
        end, last = made.snapshot(), candles[-1].close
        hold = D(500) + D(5000) * last
        gains.append(float(end.quote + end.base * last - hold))
    mean = sum(gains) / len(gains)
    sd = (sum((x - mean) ** 2 for x in gains) / (len(gains) - 1)) ** 0.5
    assert mean <= 3 * sd / len(gains) ** 0.5
