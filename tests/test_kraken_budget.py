"""The budget of calls: worked examples, reserves, back-off, and that no counter runs over."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import RejectReason
from exchange.kraken_budget import Budget, Priority, engine_cost, rest_cost
from exchange.kraken_errors import judge
from exchange.kraken_records import Judgement, Purpose, Trouble, Verdict
from exchange.rates import ENGINE_LIMITS, REST_LIMITS, RateCounter

READ = Purpose.READ


def punished(text: str, tier: str = "starter", purpose: Purpose = READ) -> Budget:
    """Return a budget that has just been told `text` at time 0."""
    budget = Budget(tier)
    budget.punish(judge([text], purpose), 0.0)
    return budget


def read_wait(budget: Budget, now: float) -> float:
    """Return how long a read that costs one point waits."""
    return budget.wait(1.0, 0.0, Priority.EXECUTIONS, now)


def spend(budget: Budget, cost: float, engine: float, priority: Priority) -> int:
    """Charge at time 0 until it is no longer allowed, and return how often it was."""
    count = 0
    while budget.wait(cost, engine, priority, 0.0) == 0:
        budget.charge(cost, engine, priority, 0.0)
        count += 1
    return count


def test_costs_add_up_as_in_the_documented_example() -> None:
    """Add, amend at 7 s, cancel at 43 s: 8 points."""
    costs = engine_cost("AddOrder"), engine_cost("AmendOrder", 7), engine_cost("CancelOrder", 43)
    assert costs == (1, 3, 4)
    assert sum(costs) == 8


def test_counter_decays_as_in_the_documented_example() -> None:
    """Fifty orders at once, then ten seconds on Intermediate: 26.6 points."""
    _, decay = ENGINE_LIMITS["intermediate"]
    counter = RateCounter()
    for _ in range(50):
        counter = counter.add(engine_cost("AddOrder"), 0.0, decay)
    assert counter.now(10.0, decay) == pytest.approx(26.6)
    budget = Budget("intermediate", engine_used=50)
    assert budget.view(10.0).engine_used == pytest.approx(26.6)


@pytest.mark.parametrize(
    ("age_sec", "cost"),
    [(0, 8), (4.9, 8), (5, 6), (10, 5), (15, 4), (45, 2), (90, 1), (299, 1), (300, 0)],
)
def test_a_cancel_costs_by_the_age_of_the_order(age_sec: float, cost: float) -> None:
    """The younger the order, the dearer its cancel."""
    assert engine_cost("CancelOrder", age_sec) == cost


def test_rest_costs_by_method() -> None:
    """Orders cost the key nothing, history two; what is not listed counts most."""
    assert [rest_cost(x) for x in ("AddOrder", "CancelOrder", "Ticker")] == [0, 0, 0]
    assert [rest_cost(x) for x in ("OpenOrders", "QueryOrders", "BalanceEx")] == [1, 1, 1]
    assert [rest_cost(x) for x in ("ClosedOrders", "TradesHistory", "Ledgers")] == [2, 2, 2]
    assert rest_cost("SomethingNew") == 2


@pytest.mark.parametrize("method", ["AddOrderBatch", "EditOrder", "CancelAll"])
def test_methods_without_a_model_are_refused(method: str) -> None:
    """What cannot be counted is not called free."""
    with pytest.raises(ValueError, match="not modelled"):
        engine_cost(method)


@pytest.mark.parametrize("tier", sorted(REST_LIMITS))
def test_seventy_percent_is_the_most_and_a_quarter_is_kept(tier: str) -> None:
    """Reads stop at three quarters of 70 %; resolving goes on to 70 %, and no further."""
    most = REST_LIMITS[tier][0] * 0.7
    budget = Budget(tier)
    assert spend(budget, 1.0, 0.0, Priority.EXECUTIONS) == math.floor(most * 0.75 + 1e-6)
    spend(budget, 1.0, 0.0, Priority.RESOLVE)
    assert most - 1 < budget.view(0.0).rest_used <= most


@pytest.mark.parametrize("tier", sorted(ENGINE_LIMITS))
@pytest.mark.parametrize("last", [Priority.EXIT, Priority.CANCEL])
def test_entries_leave_room_for_exits_and_cancels(tier: str, last: Priority) -> None:
    """Each more urgent priority still finds room where the less urgent one has none."""
    budget = Budget(tier)
    counts = [
        spend(budget, 0.0, 1.0, priority) for priority in (Priority.TELEMETRY, Priority.ENTRY, last)
    ]
    assert all(counts)
    assert sum(counts) == math.floor(ENGINE_LIMITS[tier][0] * 0.7 + 1e-6)


@pytest.mark.parametrize("tier", sorted(ENGINE_LIMITS))
def test_cancels_do_not_keep_an_exit_waiting(tier: str) -> None:
    """Where they have used all there is, it waits for the decay of its own one point at most."""
    budget = Budget(tier)
    spend(budget, 0.0, 8.0, Priority.CANCEL)
    spend(budget, 0.0, 1.0, Priority.CANCEL)
    assert 0 < budget.wait(0.0, 1.0, Priority.EXIT, 0.0) <= 1 / ENGINE_LIMITS[tier][1] + 1e-6


def test_a_wait_that_is_over_is_over() -> None:
    """After exactly the seconds that were told, the call is allowed."""
    budget = Budget("starter")
    spend(budget, 1.0, 0.0, Priority.EXECUTIONS)
    left = read_wait(budget, 0.0)
    assert left > 0
    with pytest.raises(ValueError, match="EXECUTIONS is not allowed"):
        budget.charge(1.0, 0.0, Priority.EXECUTIONS, left / 2)
    budget.charge(1.0, 0.0, Priority.EXECUTIONS, left)


def test_what_can_never_be_allowed_waits_for_ever() -> None:
    """A call that costs more than there can be is told so, not counted down."""
    assert Budget("starter").wait(8.0, 0.0, Priority.ENTRY, 0.0) == math.inf
    assert Budget("starter").wait(8.0, 0.0, Priority.RESOLVE, 0.0) == 0


@pytest.mark.parametrize("cost", [-1.0, math.nan])
def test_costs_below_zero_are_refused(cost: float) -> None:
    """A negative cost would be a gift."""
    with pytest.raises(ValueError, match="0 or more"):
        Budget("pro").wait(cost, 0.0, Priority.EXIT, 0.0)


def test_a_wrong_start_is_refused() -> None:
    """An unknown tier and a counter above its maximum are named."""
    with pytest.raises(ValueError, match="starter, intermediate, pro"):
        Budget("expert")
    with pytest.raises(ValueError, match="rest_used 16"):
        Budget("starter", rest_used=16)


def test_rate_error_silences_every_call_and_halves_the_budget() -> None:
    """Nothing for 15 s, not even resolving; then half the counter for ten minutes."""
    budget = punished("EAPI:Rate limit exceeded", "pro")
    for priority in Priority:
        assert budget.wait(0.0, 0.0, priority, 14.9) > 0
    assert budget.blocked_until(0.0) == 15
    assert budget.view(0.0).rest_used == 20  # the exchange says so
    assert budget.view(60.0).rest_most == 7
    assert budget.view(600.0).rest_most == 14
    assert "rate limit" in budget.view(1.0).why


def test_throttled_waits_until_the_time_that_was_told() -> None:
    """By the exchange's clock, at most an hour; a minute where that clock is not known."""
    said = judge(["EService:Throttled: 1700000100"], READ)
    for exchange_now, until in ((1.7e9, 100), (1.6e9, 3600), (1.8e9, 15), (None, 60)):
        budget = Budget("pro")
        budget.punish(said, 0.0, exchange_now=exchange_now)
        assert budget.blocked_until(0.0) == until


def test_lockout_means_silence_and_then_exactly_one_probe() -> None:
    """A quarter of an hour nothing; then one read, and the others when it was answered well."""
    budget = punished("EGeneral:Temporary lockout")
    assert read_wait(budget, 899.0) == 1.0
    budget.forgive()  # a late good answer ends nothing
    assert read_wait(budget, 899.0) == 1.0
    assert budget.wait(0.0, 1.0, Priority.EXIT, 900.0) > 0  # an order is no probe
    budget.charge(1.0, 0.0, Priority.RESOLVE, 900.0)
    for priority in Priority:
        assert budget.wait(0.0, 0.0, priority, 901.0) > 0
    assert "one call" in budget.view(901.0).why
    budget.forgive()
    assert budget.wait(0.0, 1.0, Priority.EXIT, 902.0) == 0
    assert budget.view(902.0).why == ""


def test_a_failed_probe_is_followed_by_another_single_one() -> None:
    """A probe locked out again waits again; one that is lost gives way after 30 s."""
    budget = punished("EGeneral:Temporary lockout")
    budget.charge(1.0, 0.0, Priority.RESOLVE, 900.0)
    budget.punish(judge(["EGeneral:Temporary lockout"], READ), 901.0)
    assert read_wait(budget, 902.0) == 899.0
    budget.charge(1.0, 0.0, Priority.RESOLVE, 1801.0)
    assert read_wait(budget, 1802.0) == 29.0
    budget.charge(1.0, 0.0, Priority.RESOLVE, 1831.0)
    budget.punish(judge(["EService:Busy"], READ), 1832.0)
    budget.charge(1.0, 0.0, Priority.RESOLVE, 1837.0)
    assert read_wait(budget, 1838.0) > 0


def test_down_backs_off_from_5_to_60_seconds_and_begins_anew() -> None:
    """It doubles while the exchange is down, and is forgotten with the first good answer."""
    budget, now, pauses = Budget("pro"), 0.0, []
    for _ in range(6):
        budget.punish(judge(["EService:Unavailable"], READ), now)
        pauses.append(read_wait(budget, now))
        now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 60, 60]
    budget.forgive()
    budget.punish(judge(["EService:Unavailable"], READ), now)
    assert read_wait(budget, now) == 5


def test_engine_refusal_stops_orders_until_its_counter_is_half_empty() -> None:
    """Reads go on; neither orders nor cancels go before the model has fallen to half."""
    budget = punished("EOrder:Rate limit exceeded", "starter", Purpose.PLACE)
    assert read_wait(budget, 0.0) == 0
    assert budget.view(0.0).engine_used == 60
    for priority in (Priority.EXIT, Priority.ENTRY, Priority.CANCEL):
        assert budget.wait(0.0, 1.0, priority, 29.0) > 0
    assert budget.wait(0.0, 1.0, Priority.EXIT, 30.0) == 0
    assert "pair" in budget.view(0.0).why


def test_market_mode_stops_orders_but_not_cancels() -> None:
    """Nothing is placed for 30 s; cancels and reads go on."""
    said = "EService:Market in cancel_only mode"
    budget = punished(said, "starter", Purpose.PLACE)
    assert budget.wait(0.0, 1.0, Priority.EXIT, 0.0) == 30
    assert budget.wait(0.0, 8.0, Priority.CANCEL, 0.0) == 0
    assert read_wait(budget, 0.0) == 0
    assert budget.view(0.0).blocked_until is None
    assert "market" in budget.view(0.0).why


def test_a_refused_post_only_order_may_have_cost_eight_points() -> None:
    """The cost that others report is assumed, up to the counter's maximum."""
    budget = punished("EOrder:Post only order", "starter", Purpose.PLACE)
    assert budget.view(0.0).engine_used == 8
    for _ in range(20):
        budget.punish(judge(["EOrder:Post only order"], Purpose.PLACE), 0.0)
    assert budget.view(0.0).engine_used == 60


def test_a_refused_key_pauses_so_that_no_loop_leads_to_a_lockout() -> None:
    """Even if someone asks in a loop, one call a minute goes out."""
    assert read_wait(punished("EAPI:Invalid key"), 0.0) == 60


def test_a_shorter_pause_never_ends_a_longer_one() -> None:
    """A lockout outlasts a later busy answer."""
    budget = punished("EGeneral:Temporary lockout")
    budget.punish(judge(["EService:Busy"], READ), 1.0)
    assert budget.blocked_until(1.0) == 900


JUDGEMENTS = st.builds(
    Judgement,
    verdict=st.sampled_from(Verdict),
    trouble=st.sampled_from(Trouble),
    reason=st.sampled_from([RejectReason.OTHER, RejectReason.POST_ONLY]),
    pause_sec=st.sampled_from([0.0, 5.0, 60.0]),
    until=st.none() | st.floats(0, 1e11),
)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.sampled_from([0.0, 1.0, 2.0]),
        st.sampled_from([0.0, 1.0, 2.0, 5.0, 8.0]),
        st.sampled_from(Priority),
        st.none() | st.just("good") | JUDGEMENTS,
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(tier=st.sampled_from(sorted(REST_LIMITS)), steps=STEPS)
def test_no_counter_ever_exceeds_its_maximum(
    tier: str, steps: list[tuple[float, float, float, Priority, Judgement | str | None]]
) -> None:
    """Whatever is asked and answered, an independent count of what went out stays below 70 %."""
    budget, now = Budget(tier), 0.0
    (rest_max, rest_decay), (engine_max, engine_decay) = REST_LIMITS[tier], ENGINE_LIMITS[tier]
    rest = engine = 0.0
    for elapsed, cost, engine_points, priority, said in steps:
        now += elapsed
        rest = max(0.0, rest - elapsed * rest_decay)
        engine = max(0.0, engine - elapsed * engine_decay)
        if budget.wait(cost, engine_points, priority, now) == 0:
            budget.charge(cost, engine_points, priority, now)
            rest, engine = rest + cost, engine + engine_points
        else:
            with pytest.raises(ValueError, match="not allowed"):
                budget.charge(cost, engine_points, priority, now)
        if isinstance(said, Judgement):
            budget.punish(said, now, exchange_now=now)
        elif said:
            budget.forgive()
        assert rest <= rest_max * 0.7 + 1e-6
        assert engine <= engine_max * 0.7 + 1e-6
        seen = budget.view(now)
        assert seen.rest_used <= rest_max + 1e-6
        assert seen.engine_used <= engine_max + 1e-6


def test_a_clock_that_is_moved_on_lets_nothing_decay_and_no_pause_pass() -> None:
    """The machine has slept and its clock catches up: the calls of the last seconds still count.

    Seed 19 of the storm: they were taken for minutes old, and the venue's counter was exceeded.
    """
    budget = Budget("starter")
    budget.charge(1.0, 1.0, Priority.EXECUTIONS, 100.0)
    budget.punish(judge(("EAPI:Rate limit exceeded",), READ), 100.0)
    before = budget.view(100.0)
    until = budget.blocked_until(100.0)
    assert until is not None
    budget.forward(119.0)
    after = budget.view(219.0)
    assert (after.rest_used, after.engine_used) == (before.rest_used, before.engine_used)
    assert budget.blocked_until(219.0) == until + 119.0
