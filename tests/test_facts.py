"""What the reducer takes in beside orders: prices, limits, fees, health, starts, order news."""

from decimal import Decimal

import pytest

from core import actions as a
from core import events as e
from core.domain import FeeRates, Instrument, OrderStatus, Owed, RejectReason
from core.record import replace
from core.state import Exiting, Health
from grid.reduction import Reduction
from state_machine import FEE_MAX, PRICE_MAX, PRICE_MIN, quiet_bounds
from tests.world import GOLDEN_FEES, GOLDEN_INSTRUMENT, GOLDEN_PARAMS, World, entered, of

D = Decimal
TICK = D("1e-13")


def debt(world: World) -> Owed | None:
    """Return what leg B owes, None once its exit is placed."""
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    return state.exit if isinstance(state.exit, Owed) else None


def owing() -> World:
    """Return a world whose leg B owes an exit that is tried again in a second."""
    world = entered()
    world.fill("1B.entry")
    world.reject("1B.exit", RejectReason.INSUFFICIENT_FUNDS)
    world.advance(0.5)
    return world


# ---- prices ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bid", "ask", "last", "is_taken"),
    [
        (PRICE_MIN, PRICE_MIN * 2, PRICE_MIN, True),
        (PRICE_MIN - TICK, PRICE_MIN, PRICE_MIN, False),
        (PRICE_MIN, PRICE_MIN * 2, PRICE_MIN - TICK, False),
        (PRICE_MAX / 2, PRICE_MAX, PRICE_MAX, True),
        (PRICE_MAX / 2, PRICE_MAX + 1, PRICE_MAX, False),
        (D("0.1"), D("0.1"), D("0.1"), False),
        (D("0.1"), D("0.2"), D("NaN"), False),
        (D("0.1"), D("Infinity"), D("0.1"), False),
    ],
)
def test_a_quote_is_a_price_only_between_its_bounds(
    bid: Decimal, ask: Decimal, last: Decimal, is_taken: bool
) -> None:
    """Both bounds are prices; what is crossed or locked is none."""
    world = World(price=None)
    world.step(e.PriceTick(time=world.now, bid=bid, ask=ask, last=last))
    assert (world.state.market is not None) is is_taken
    assert world.state.counters.get("insane_prices", 0) == (0 if is_taken else 1)


def test_a_jump_counts_only_beyond_its_limit_and_once_a_second_sample_agrees() -> None:
    """A tenth is no jump; one that disagrees with the last insane one is insane itself."""
    world = World()
    world.quote(D("0.1099"), D("0.1101"))  # from a mid of 0.1
    market = world.state.market
    assert market is not None
    assert market.bid == D("0.1099")
    world.quote(D("0.1409"), D("0.1411"))
    world.quote(D("0.0799"), D("0.0801"))
    market = world.state.market
    assert market is not None
    assert (market.bid, market.candidate) == (D("0.1099"), D("0.08"))
    assert world.state.counters["insane_prices"] == 2
    assert world.state.pass_due == world.now
    world.quote(D("0.0879"), D("0.0881"))  # a tenth from it
    market = world.state.market
    assert market is not None
    assert (market.bid, market.candidate) == (D("0.0879"), None)


def test_range_of_the_bid_is_kept_until_it_is_looked_at() -> None:
    """Highest and lowest since the last timer, quiet or not."""
    world = entered()
    for bid in ("0.101", "0.099", "0.1"):
        world.quote(D(bid), D(bid) + D("0.00002"))
    market = world.state.market
    assert market is not None
    assert (market.bid_high, market.bid_low) == (D("0.101"), D("0.099"))
    world.timer()
    market = world.state.market
    assert market is not None
    assert (market.bid_high, market.bid_low) == (D("0.1"), D("0.1"))


def test_a_price_ends_the_end_of_the_market() -> None:
    """A replay that has run dry may be followed by another."""
    world = World()
    world.step(e.MarketEnded(time=world.now))
    assert world.state.market_ended
    world.price("0.1001")
    assert not world.state.market_ended


# ---- the pair, the account, the connection ----------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "is_taken"),
    [(D(0), True), (FEE_MAX, True), (FEE_MAX + TICK, False), (-TICK, False), (D("NaN"), False)],
)
def test_a_fee_is_taken_only_between_nothing_and_half(maker: Decimal, is_taken: bool) -> None:
    """Another is told of as an error and changes nothing."""
    world = World()
    fees = FeeRates(maker=maker, taker=D("0.004"))
    told = of(world.step(e.FeesUpdated(time=world.now, fees=fees)), a.Notify)
    assert world.state.fees == (fees if is_taken else GOLDEN_FEES)
    assert [x.level for x in told if x.kind == "fees"] == ["info" if is_taken else "error"]


def test_units_of_assets_outlive_new_limits_of_the_pair() -> None:
    """The pair's limits do not tell them; an exit owed is tried at once."""
    world = owing()
    world.state = replace(
        world.state,
        instrument=replace(world.state.instrument, base_unit=D("1e-5"), quote_unit=D("1e-4")),
    )
    new = Instrument(order_min=D(2), lot_size=D(1), tick_size=D("1e-6"))
    world.step(e.InstrumentUpdated(time=world.now, instrument=new))
    wanted = replace(new, base_unit=D("1e-5"), quote_unit=D("1e-4"))
    assert world.state.instrument == wanted
    assert debt(world) is None
    assert world.state.pass_due == world.now


@pytest.mark.parametrize(("status", "is_tried"), [("online", False), ("post_only", True)])
def test_exits_owed_are_tried_at_once_when_the_market_changes(status: str, is_tried: bool) -> None:
    """Not at each word of the connection: else the waits between tries were none."""
    world = owing()
    world.step(
        e.HealthChanged(
            time=world.now, system_status=status, clock_offset_sec=0.3, consecutive_errors=2
        )
    )
    assert world.state.health == Health(
        system_status=status, clock_offset_sec=0.3, consecutive_errors=2
    )
    assert (debt(world) is None) is is_tried


@pytest.mark.parametrize(("base", "is_tried"), [(0, False), (1, True)])
def test_exits_owed_are_tried_at_once_when_the_balances_change(base: int, is_tried: bool) -> None:
    """A report of what is known changes nothing."""
    world = owing()
    own = world.state.balances
    known = replace(own, reported_base=own.base, reported_quote=own.quote, drift_since=None)
    world.state = replace(world.state, balances=replace(known, foreign_base=D(1)))
    world.step(e.BalancesReported(time=world.now, base=own.base + base, quote=own.quote))
    assert (debt(world) is None) is is_tried


def test_a_report_of_balances_hurries_the_entry_pass_a_second_at_most() -> None:
    """And only where it is due at all."""
    world = World()
    own = world.state.balances
    for due, wanted in ((100.0, 1.0), (0.5, 0.5), (None, None)):
        at = None if due is None else world.now + due
        world.state = replace(world.state, pass_due=at)
        foreign = world.state.balances.foreign_base + 1  # else it would be no news
        world.step(
            e.BalancesReported(time=world.now, base=own.base, quote=own.quote, foreign_base=foreign)
        )
        assert world.state.pass_due == (None if wanted is None else world.now + wanted)


def test_a_flow_places_what_is_owed_at_once() -> None:
    """It may be what was missing."""
    world = owing()
    world.step(e.ExternalFlow(time=world.now, base=D(0), quote=D(5), reference="R1"))
    assert debt(world) is None


# ---- starts ---------------------------------------------------------------------------------


def start(world: World, **changes: object) -> list[a.Action]:
    """Start the world's run again, with these changes."""
    started = e.Started(
        time=world.now, params=world.params, instrument=GOLDEN_INSTRUMENT, fees=GOLDEN_FEES,
        bot_tag=1, store_epoch=2, code_version="test",
    )  # fmt: skip
    return world.step(replace(started, **changes))


def test_the_first_start_makes_the_slots_and_sets_the_clocks() -> None:
    """A later one keeps its time and adds no slot."""
    world = World(replace(GOLDEN_PARAMS, slot_count=2), price=None)
    began = world.now
    assert len(world.state.slots) == 2
    assert (world.state.started_at, world.state.mode_since) == (began, began)
    assert world.state.entry_tokens_at == began
    world.advance(50)
    start(world, code_version="other", bot_tag=7, store_epoch=3)
    assert len(world.state.slots) == 2
    assert (world.state.started_at, world.state.mode_since) == (began, began)
    now = world.state
    assert (now.code_version, now.bot_tag, now.store_epoch) == ("other", 7, 3)


@pytest.mark.parametrize(
    ("changes", "is_hurried"),
    [
        ({}, False),
        ({"code_version": "other"}, False),
        ({"instrument": replace(GOLDEN_INSTRUMENT, order_min=D(2))}, True),
        ({"fees": replace(GOLDEN_FEES, maker=D("0.002"))}, True),
        ({"params": replace(GOLDEN_PARAMS, entry_pct=D("0.3"))}, True),
    ],
)
def test_a_start_with_other_facts_has_the_entry_pass_look_again(
    changes: dict[str, object], is_hurried: bool
) -> None:
    """Other code alone changes no decision; what is new is in force from here on."""
    world = entered()
    world.state = replace(world.state, pass_due=None)
    world.advance(50)
    start(world, **changes)
    assert world.state.pass_due == (world.now if is_hurried else None)
    assert world.state.instrument == changes.get("instrument", GOLDEN_INSTRUMENT)
    assert world.state.fees == changes.get("fees", GOLDEN_FEES)


@pytest.mark.parametrize(
    ("status", "closed", "is_asked"),
    [
        (OrderStatus.OPEN, None, False), (OrderStatus.PENDING, None, True),
        (OrderStatus.UNCERTAIN, None, True), (OrderStatus.CANCELLING, None, True),
        (OrderStatus.OPEN, D(3), True),
    ],
)  # fmt: skip
def test_a_start_asks_about_every_order_whose_fate_may_have_changed_unseen(
    status: OrderStatus, closed: Decimal | None, is_asked: bool
) -> None:
    """Those that rest for certain are not asked about."""
    world = entered()
    order = world.order("1B.entry")
    r = Reduction(world.state, world.params)
    found = r.find(order.client_order_id)
    assert found is not None
    r.put_order(found, replace(order, status=status, closed_executed=closed))
    world.state = r.state
    asked = [x.client_order_ids for x in of(start(world), a.RequestReconcile)]
    assert asked == ([(order.client_order_id,)] if is_asked else [])


# ---- news of orders -------------------------------------------------------------------------


@pytest.mark.parametrize("is_found", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (OrderStatus.PENDING, OrderStatus.OPEN), (OrderStatus.UNCERTAIN, OrderStatus.OPEN),
        (OrderStatus.CANCELLING, OrderStatus.CANCELLING),
    ],
)  # fmt: skip
def test_an_order_that_is_acknowledged_or_found_is_open_under_its_id(
    is_found: bool, before: OrderStatus, after: OrderStatus
) -> None:
    """Unless its cancel is on its way; the entry pass looks again."""
    world = entered()
    order = world.order("1B.entry")
    r = Reduction(world.state, world.params)
    found = r.find(order.client_order_id)
    assert found is not None
    r.put_order(found, replace(order, status=before, txid=None))
    r.put_leg(1, replace(r.leg(1, found.trade_id), refusals=3))
    world.state = replace(r.state, pass_due=None)
    told: e.Event = e.OrderAccepted(
        time=world.now, client_order_id=order.client_order_id, txid="NEW"
    )
    if is_found:
        told = e.OrderFound(
            time=world.now, client_order_id=order.client_order_id, txid="NEW", executed=D(0)
        )
    world.step(told)
    assert world.order("1B.entry") == replace(order, status=after, txid="NEW")
    assert world.leg("1B").refusals == 0
    assert world.state.pass_due == world.now


def test_a_doubtful_order_is_asked_about_once_and_only_if_it_was_not_known() -> None:
    """A timeout of an order that rests proves nothing against it."""
    world = World()
    world.timer()
    order = world.order("1B.entry")
    doubt = e.OrderUncertain(time=world.now, client_order_id=order.client_order_id)
    (asked,) = of(world.step(doubt), a.RequestReconcile)
    assert asked.client_order_ids == (order.client_order_id,)
    assert world.order("1B.entry") == replace(
        order, status=OrderStatus.UNCERTAIN, asked_at=world.now
    )
    assert world.state.counters["uncertain"] == 1
    assert of(world.step(doubt), a.RequestReconcile) == []
    world.accept("1B.entry")
    assert of(world.step(doubt), a.RequestReconcile) == []
    assert world.order("1B.entry").status is OrderStatus.OPEN


def test_a_refused_cancel_is_asked_about_and_the_end_of_an_order_counted() -> None:
    """Only the exchange's word ends it."""
    world = entered()
    order = world.order("1B.entry")
    world.advance(3)
    refused = e.CancelRefused(
        time=world.now, client_order_id=order.client_order_id, reason="unknown"
    )
    (asked,) = of(world.step(refused), a.RequestReconcile)
    assert asked.client_order_ids == (order.client_order_id,)
    assert world.order("1B.entry") == replace(order, asked_at=world.now)
    world.close("1B.entry", reason="expired")
    assert world.state.counters["closed:expired"] == 1


def test_bounds_of_quiet_ticks_are_those_of_the_state_after_every_event() -> None:
    """Whatever has changed, they are made anew from it."""
    world = entered()
    world.fill("1B.entry", 5)
    assert world.state.quiet == quiet_bounds(world.state, world.params)
    world.price("0.103")
    world.timer()
    assert world.state.quiet == quiet_bounds(world.state, world.params)
    assert world.state.timer_at == world.now
