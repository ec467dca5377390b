"""The matching engine's eight rules, with their golden numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import FeeRates, RejectReason, Side
from core.market import Candle
from core.record import replace
from exchange.matching import (
    Accepted,
    MatchingConfig,
    MatchingEngine,
    NewOrder,
    VenueOrder,
)
from exchange.queue import QueueModel, fill_probability, queue_after_depth_change
from exchange.rates import RateCounter, fee_tier
from tests.venue_world import (
    CENTS,
    NO_FEES,
    D,
    accepted,
    bar,
    book,
    buy,
    engine,
    sell,
    trade,
    volumes,
)

# ---- rules 1 to 3: candles ------------------------------------------------------------------


def test_candle_golden_participation() -> None:
    """Share .4 of 50,000 at 10 % is a budget of 2,000 for an order of 3,000."""
    e = engine()
    e.submit(buy("0.1000", 3000), 0.0)
    fills = e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1005"))
    assert volumes(fills) == [2000]
    left = e.order("a")
    assert left is not None
    assert left.remaining == 1000


def test_candle_golden_participation_mirrored() -> None:
    """A sell takes the same share of the volume above it."""
    e = engine()
    e.submit(sell("0.1010", 3000), 0.0)
    assert volumes(e.on_evidence(bar("0.1000", "0.1020", "0.0995", "0.1005"))) == [2000]


def test_candle_touch_does_not_fill_and_one_tick_through_does() -> None:
    """A range that only touches the limit is no evidence."""
    e = engine()
    e.submit(buy("0.1000", 100), 0.0)
    assert e.on_evidence(bar("0.1010", "0.1015", "0.1000", "0.1005", n=1)) == []
    assert volumes(e.on_evidence(bar("0.1010", "0.1015", "0.0999", "0.1005", n=2))) == [100]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_candle_touch_probability_is_a_frequency(probability: float) -> None:
    """A touch fills as often as `touch_prob` says, for values between 0 and 1 too."""
    e = engine(replace(NO_FEES, touch_prob=probability))
    hits = 0
    for n in range(1000):
        e.submit(buy("0.1000", 10), 60.0 * n)
        hits += bool(e.on_evidence(bar("0.1010", "0.1015", "0.1000", "0.1005", n=n + 1)))
        e.cancel("a", 1e6 + 1000.0 * n)
    assert hits / 1000 == pytest.approx(probability, abs=0.05)


def test_candle_that_is_too_wide_fills_nothing_under_stress() -> None:
    """Its range is compared with its low; the next one may fill what it has passed."""
    e = engine(replace(NO_FEES, widest_pct=D("2.5")))
    e.submit(buy("0.1000", 100), 0.0)
    assert e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.0995", n=1)) == []  # 2.525 %
    assert volumes(e.on_evidence(bar("0.0995", "0.1000", "0.0990", "0.0995", n=2))) == [100]


@pytest.mark.parametrize("candle", [
    bar("0.1010", "0.1015", "0.0990", "0.1005", 0),
    replace(bar("0.1010", "0.1015", "0.0990", "0.1005"), is_filled=True),
])  # fmt: skip
def test_candle_without_trading_never_fills(candle: Candle) -> None:
    """Empty and gap-filled bars are no evidence."""
    e = engine()
    e.submit(buy("0.1000", 100), 0.0)
    assert e.on_evidence(candle) == []


def test_candle_flat_bar_through_the_limit_gives_the_full_share() -> None:
    """A bar without range beyond the limit offers φ of all its volume."""
    e = engine()
    e.submit(buy("0.1000", 9000), 0.0)
    assert volumes(e.on_evidence(bar("0.0990", "0.0990", "0.0990", "0.0990"))) == [5000]


def test_candle_budget_is_shared_best_price_first() -> None:
    """What a better order takes is gone for a deeper one."""
    e = engine()
    e.submit(buy("0.0998", 3000, "deep"), 0.0)
    e.submit(buy("0.1000", 1000, "near"), 0.0)
    fills = e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1005"))
    assert [(x.client_order_id, int(x.volume)) for x in fills] == [("near", 1000), ("deep", 600)]


def test_candle_order_from_inside_a_bar_waits_for_the_next() -> None:
    """Without grace an order is active only in bars that open at or after its arrival."""
    e = engine(replace(NO_FEES, bar_grace_sec=0.0))
    e.submit(buy("0.1000", 100), 60.2)
    assert e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1005", n=1)) == []
    assert volumes(e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1005", n=2))) == [100]


def test_candle_grace_lets_an_answer_to_bar_t_live_in_the_next() -> None:
    """An order sent at the close of a bar arrives fractions after the next bar's open."""
    e = engine()
    e.submit(buy("0.1000", 100), 60.2)
    assert volumes(e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1005", n=1))) == [100]


@pytest.mark.parametrize(("open_", "first"), [("0.0995", "low"), ("0.1008", "high")])
def test_candle_path_goes_to_the_nearer_extreme_first(open_: str, first: str) -> None:
    """Two resting orders fill in the order of open, nearer extreme, other extreme, close."""
    e = engine()
    e.submit(sell("0.1005", 10, "high"), 0.0)
    e.submit(buy("0.0995", 10, "low"), 0.0)
    fills = e.on_evidence(bar(open_, "0.1010", "0.0990", "0.1000"))
    assert fills[0].client_order_id == first
    assert len(fills) == 2


def test_candle_remainder_the_market_has_passed_is_first_in_line() -> None:
    """It takes the budget of the following bar from its open, before a better new order."""
    e = engine()
    e.submit(buy("0.1000", 3000, "old"), 0.0)
    e.on_evidence(bar("0.1010", "0.1015", "0.0990", "0.1010"))
    accepted(e.submit(buy("0.1002", 900, "new"), 119.0))
    gap = bar("0.0985", "0.0990", "0.0980", "0.0985", 5_000, n=2)
    fills = e.on_evidence(gap)
    assert [(x.client_order_id, int(x.volume)) for x in fills] == [("old", 500)]


# ---- rule 1 and 2: trades and books ---------------------------------------------------------


def test_trade_through_fills_capped_by_the_print_shared_by_price() -> None:
    """One print is shared among own orders and never used twice."""
    e = engine()
    e.submit(buy("0.1000", 100, "a"), 0.0)
    e.submit(buy("0.1000", 100, "b"), 0.0)
    fills = e.on_evidence(trade("0.0999", 150))
    assert [(x.client_order_id, int(x.volume)) for x in fills] == [("a", 100), ("b", 50)]


def test_trade_at_the_limit_consumes_the_queue_first() -> None:
    """Ahead 100, order 50, prints 80, 30, 50: fills 0, 10, 40."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(50, 100)], [(51, 10)]))
    e.submit(buy("50", 50), 0.0)
    prints = [e.on_evidence(trade("50", v, t)) for t, v in ((1.0, 80), (2.0, 30), (3.0, 50))]
    assert [sum(volumes(x)) for x in prints] == [0, 10, 40]


def test_trade_at_the_limit_two_own_orders_share_one_queue() -> None:
    """The queue ahead is consumed once, not once per order."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(50, 10)], [(51, 10)]))
    e.submit(buy("50", 5, "a"), 0.0)
    e.submit(buy("50", 50, "b"), 0.0)
    fills = e.on_evidence(trade("50", 30))
    assert [(x.client_order_id, int(x.volume)) for x in fills] == [("a", 5), ("b", 15)]


def test_evidence_older_than_an_order_fills_nothing() -> None:
    """A print or book from before the arrival is told late; it says nothing about the order."""
    e = engine(instrument=CENTS)
    e.submit(buy("50", 50), 5.0)
    assert e.on_evidence(trade("49", 80, 4.9)) == []
    assert e.on_evidence(book([(48, 10)], [(49, 80)], 4.9)) == []
    assert volumes(e.on_evidence(book([(48, 10)], [(49, 30)], 5.0))) == [30]
    assert volumes(e.on_evidence(trade("49", 80, 5.1))) == [20]


def test_trade_by_a_taker_of_our_side_is_no_evidence_at_the_limit() -> None:
    """A buyer who pays our bid price took somebody's ask."""
    e = engine()
    e.submit(buy("0.1000", 100), 0.0)
    assert e.on_evidence(trade("0.1000", 500, side=Side.BUY)) == []
    assert volumes(e.on_evidence(trade("0.1000", 500, 2.0, side=Side.SELL))) == [100]


@pytest.mark.parametrize(("model", "rows"), [
    (QueueModel.RISK_AVERSE, (80, 20, 50)),
    (QueueModel.POWER, (64, 16, 40)),
    (QueueModel.LOG, (68.19, 11.82, 40)),
])  # fmt: skip
def test_queue_models_match_the_table(model: QueueModel, rows: tuple[float, ...]) -> None:
    """Ahead 80, 20 and 50 of 100, displayed size falls to 80."""
    for ahead, expected in zip((80, 20, 50), rows, strict=True):
        moved = queue_after_depth_change(model, ahead=D(ahead), before=D(100), after=D(80))
        assert float(moved) == pytest.approx(expected, abs=0.01)


@given(
    model=st.sampled_from(QueueModel), ahead=st.integers(0, 500), behind=st.integers(0, 500),
    after=st.integers(0, 1500),
)  # fmt: skip
def test_queue_never_moves_back_nor_below_zero(
    model: QueueModel, ahead: int, behind: int, after: int
) -> None:
    """A cancel cannot pre-pay a fill, and nobody jumps before us."""
    before = D(ahead + behind)
    moved = queue_after_depth_change(model, ahead=D(ahead), before=before, after=D(after))
    assert 0 <= moved <= ahead


def test_book_prints_are_not_counted_again_as_depth_changes() -> None:
    """A print of 20 moves us by 20; the smaller display that follows does not move us again."""
    e = engine(replace(NO_FEES, queue_model=QueueModel.POWER), instrument=CENTS)
    e.on_evidence(book([(50, 100)], [(51, 10)]))
    e.submit(buy("50", 10), 0.0)
    e.on_evidence(book([(50, 120)], [(51, 10)], 0.5))
    e.on_evidence(trade("50", 20, 1.0))
    e.on_evidence(book([(50, 100)], [(51, 10)], 2.0))
    resting = e.order("a")
    assert resting is not None
    assert resting.ahead == 80


def test_book_order_beyond_the_display_has_an_assumed_queue_until_seen() -> None:
    """Unknown depth is not zero depth; on first sight all that is displayed stands before us."""
    e = engine(replace(NO_FEES, assumed_queue=D(700)), instrument=CENTS)
    e.on_evidence(book([(50, 100), (49, 100)], [(51, 10)]))
    e.submit(buy("45", 10), 0.0)
    ahead = e.order("a")
    assert ahead is not None
    assert ahead.ahead == 700
    e.on_evidence(book([(46, 100), (45, 300)], [(47, 10)], 1.0))
    seen = e.order("a")
    assert seen is not None
    assert seen.ahead == 300


def test_book_other_side_at_our_limit_fills_what_is_displayed_once() -> None:
    """An ask at our bid fills as far as it is displayed; the same display gives nothing more."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(50, 10)], [(52, 10)]))
    e.submit(buy("51", 30), 0.0)
    assert volumes(e.on_evidence(book([(50, 10)], [(51, 12)], 1.0))) == [12]
    assert e.on_evidence(book([(50, 10)], [(51, 12)], 2.0)) == []
    assert volumes(e.on_evidence(book([(50, 10)], [(51, 15)], 3.0))) == [15]


@pytest.mark.parametrize(("behind", "low", "high"), [(0.0, 0.40, 0.50), (-1.0, 0.85, 1.0)])
def test_probabilistic_model_is_calibrated(behind: float, low: float, high: float) -> None:
    """At the touch 40 to 50 % of ten-second windows fill; an aggressive order 85 to 100 %."""
    assert low <= fill_probability(behind, 10.0) <= high


@given(st.floats(-5, 50), st.floats(0, 5), st.floats(0.1, 100))
def test_probabilistic_model_is_monotone_and_bounded(at: float, more: float, sec: float) -> None:
    """A worse price never fills more often."""
    near, far = fill_probability(at, sec), fill_probability(at + more, sec)
    assert 0.01 <= far <= near <= 0.99


def test_probabilistic_model_fills_without_prints_only_when_chosen() -> None:
    """Books alone fill an order at the touch at about the calibrated rate."""
    hits = 0
    for n in range(400):
        for is_on in (True, False):
            e = engine(replace(NO_FEES, seed=n, is_probabilistic=is_on), instrument=CENTS)
            e.on_evidence(book([(50, 10)], [(52, 10)]))
            e.submit(buy("50", 5), 0.0)
            fills = e.on_evidence(book([(50, 10)], [(52, 10)], 10.0))
            hits += len(fills)
            assert is_on or not fills
    assert 0.38 <= hits / 400 <= 0.52


# ---- rules 5 to 7 ---------------------------------------------------------------------------


def test_taker_walks_the_book_golden() -> None:
    """250 of 80@50, 120@51, 180@52: average 50.88."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(49, 10)], [(50, 80), (51, 120), (52, 180)]))
    fills = accepted(e.submit(buy("52", 250, post=False), 0.0)).executions
    assert volumes(list(fills)) == [80, 120, 50]
    assert sum(x.cost for x in fills) / 250 == D("50.88")
    assert not any(x.is_maker for x in fills)


def test_taker_without_a_book_pays_the_touch_and_one_tick_more() -> None:
    """Nothing is known of the depth: the touch is not given away."""
    e = engine(instrument=CENTS)
    e.on_evidence(trade("50", 1, 0.0))
    quote = e.quote()
    assert quote is not None
    (fill,) = accepted(e.submit(buy("60", 10, post=False), 1.0)).executions
    assert fill.price == quote.ask + CENTS.tick_size
    (fill,) = accepted(e.submit(sell("40", 10, "b", post=False), 1.0)).executions
    assert fill.price == quote.bid - CENTS.tick_size


def test_taker_stops_at_its_limit_and_rests() -> None:
    """Limit 51: 200 filled, 50 rest."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(49, 10)], [(50, 80), (51, 120), (52, 180)]))
    fills = accepted(e.submit(buy("51", 250, post=False), 0.0)).executions
    resting = e.order("a")
    assert sum(volumes(list(fills))) == 200
    assert resting is not None
    assert resting.remaining == 50


@pytest.mark.parametrize(("at", "fresh", "found"), [(1.0, 80, 30), (5.0, 80, 80), (1.0, 90, 90)])
def test_taker_finds_a_level_consumed_until_fresh_data_or_five_seconds(
    at: float, fresh: int, found: int
) -> None:
    """After a take of 50@50 the next order finds 30@50."""
    e = engine(instrument=CENTS)
    e.on_evidence(book([(49, 10)], [(50, 80)]))
    e.submit(buy("50", 50, "a", post=False), 0.0)
    e.on_evidence(book([(49, 10)], [(50, fresh)], at))
    fills = accepted(e.submit(buy("50", 100, "b", post=False), at)).executions
    assert sum(volumes(list(fills))) == found


def refused(e: MatchingEngine, new: NewOrder, at: float = 0.0) -> Accepted | RejectReason:
    """Submit after a first quote of 50 / 52."""
    e.on_evidence(book([(50, 10)], [(52, 10)]))
    return e.submit(new, at)


@pytest.mark.parametrize(("new", "reason"), [
    (buy("52", 10), RejectReason.POST_ONLY),
    (sell("50", 10), RejectReason.POST_ONLY),
    (buy("50.5", 10), RejectReason.TICK_SIZE),
    (buy("0", 10), RejectReason.TICK_SIZE),
    (buy("50", D("0.5")), RejectReason.ORDER_MINIMUM),
    (buy("50", D("10.5")), RejectReason.OTHER),
    (buy("50", 3000), RejectReason.INSUFFICIENT_FUNDS),
    (sell("60", 100_001), RejectReason.INSUFFICIENT_FUNDS),
])  # fmt: skip
def test_venue_refuses(new: NewOrder, reason: RejectReason) -> None:
    """Each constraint has its reason."""
    assert refused(engine(instrument=CENTS), new) is reason


def test_venue_refuses_cost_below_minimum_duplicates_and_self_trade() -> None:
    """Duplicate ids count among open orders only; own opposite orders never meet."""
    e = engine(instrument=replace(CENTS, cost_min=D(100)))
    assert refused(e, buy("40", 2)) is RejectReason.COST_MINIMUM
    accepted(e.submit(buy("49", 10, "a"), 0.0))
    assert e.submit(buy("48", 10, "a"), 0.0) is RejectReason.DUPLICATE_ID
    e.cancel("a", 1000.0)
    accepted(e.submit(buy("51", 10, "a"), 1000.0))
    assert e.submit(sell("51", 10, "b"), 1000.0) is RejectReason.SELF_TRADE


def test_venue_caps_open_orders_and_obeys_the_pair_status() -> None:
    """The cap and the pair's status refuse with reasons of their own."""
    e = engine(replace(NO_FEES, open_order_limit=2))
    accepted(e.submit(buy("0.1", 10, "a"), 0.0))
    accepted(e.submit(buy("0.1", 10, "b"), 0.0))
    assert e.submit(buy("0.1", 10, "c"), 0.0) is RejectReason.ORDERS_LIMIT
    e.set_status("cancel_only")
    assert isinstance(e.cancel("a", 400.0), VenueOrder)
    assert e.submit(buy("0.1", 10, "c"), 400.0) is RejectReason.MARKET_MODE


def test_rate_counter_refuses_the_fourteenth_quick_cancel() -> None:
    """Intermediate: 13 adds and cancels make 117; the 14th cancel would make 126 of 125."""
    e = engine(replace(NO_FEES, tier="intermediate"))
    for n in range(13):
        accepted(e.submit(buy("0.1", 10, f"o{n}"), 0.0))
        assert isinstance(e.cancel(f"o{n}", 0.0), VenueOrder)
    accepted(e.submit(buy("0.1", 10, "last"), 0.0))
    assert e.cancel("last", 0.0) == "rate_limit"
    assert isinstance(e.cancel("last", 1.0), VenueOrder)


def test_rate_counter_golden_examples_of_the_documentation() -> None:
    """50 adds, then ten seconds on Intermediate leave 26.6."""
    counter = RateCounter()
    for _ in range(50):
        counter = counter.add(1.0, 0.0, 2.34)
    assert counter.now(10.0, 2.34) == pytest.approx(26.6)


def test_rest_counter_delays_reads() -> None:
    """Starter: 15 points, then a read of 4 waits."""
    e = engine(replace(NO_FEES, tier="starter"))
    waits = [e.read_wait(4.0, 0.0) for _ in range(4)]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert waits[3] == pytest.approx(1 / 0.33)


@pytest.mark.parametrize(("volume", "maker", "taker"), [
    ("0", "0.004", "0.008"), ("2499.99", "0.004", "0.008"), ("2500", "0.003", "0.006"),
    ("100000", "0.0012", "0.0025"), ("250000", "0.0010", "0.0022"), ("99999999", "0", "0.0010"),
])  # fmt: skip
def test_fee_tiers(volume: str, maker: str, taker: str) -> None:
    """The tier is that of the rolling 30-day volume."""
    assert fee_tier(D(volume)) == FeeRates(maker=D(maker), taker=D(taker))


def test_fee_tier_changes_mid_run_and_falls_after_thirty_quiet_days() -> None:
    """3,000 of volume earn 0.30 %; a month later it is 0.40 % again."""
    e = engine(MatchingConfig(assumed_queue=D(0)))
    e.submit(sell("0.1", 30_000), 0.0)
    first = e.on_evidence(trade("0.2", 30_000))
    assert first[0].fee == D("12.00000000")
    assert e.fees(2.0).maker == D("0.003")
    assert e.fees(31 * 86_400.0).maker == D("0.004")


def test_candle_quote_is_on_the_grid_and_a_tick_apart() -> None:
    """Half the spread to each side: bid rounded down, ask up, never together."""
    e = engine(replace(NO_FEES, spread_bps=D(0)))
    e.on_evidence(bar("0.1", "0.1", "0.1", "0.1"))
    quote = e.quote()
    assert quote is not None
    assert (quote.bid, quote.ask, quote.last) == (D("0.1000"), D("0.1001"), D("0.1"))
