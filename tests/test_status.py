"""The status: built from small states, exact where it must be, and published by its own thread."""

import json
import os
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from core.domain import (
    Instrument,
    OrderState,
    OrderStatus,
    Owed,
    Position,
    RecoveryOrder,
    Role,
    SizeStep,
    TradeId,
)
from core.order_id import OrderPlace, encode
from core.params import Params
from core.plain_text import TEXT_MAX, clean_text
from core.record import replace
from core.state import (
    Accounts,
    Balances,
    Benchmarks,
    BotState,
    Entering,
    Exiting,
    Idle,
    Leg,
    LegTotals,
    Lock,
    LockName,
    Market,
    Mode,
    Override,
    RiskLevel,
    RiskState,
    SlotState,
    SlotTotals,
    Stint,
)
from core.status import Status
from engine.publish import publication
from engine.report import status_text
from engine.status_view import Facts, build_status, percentile

GOLDEN = Path(__file__).parent / "golden" / "status.json"
D = Decimal
T0 = 1_760_000_000.0  # 2025-10-09 08:53:20 UTC
NOW = T0 + 2 * 86_400.0


def order(
    slot: int,
    leg: TradeId,
    role: Role,
    *,
    price: str,
    volume: str,
    filled: str = "0",
    age: float = 3_600.0,
    status: OrderStatus = OrderStatus.OPEN,
) -> OrderState:
    """Return an order of the sample."""
    place = OrderPlace(tag=7, epoch=1, slot=slot, trade_id=leg, role=role, cycle=4, attempt=1)
    side = leg.entry_side if role is Role.ENTRY else leg.exit_side
    return OrderState(
        client_order_id=encode(place),
        trade_id=leg,
        role=role,
        side=side,
        price=D(price),
        volume=D(volume),
        cycle=4,
        attempt=1,
        placed_at=NOW - age,
        status=status,
        filled_volume=D(filled),
        filled_cost=D(filled) * D(price),
    )


def position(price: str, volume: str, *, age: float = 7_200.0) -> Position:
    """Return an open position bought or sold at `price`, with a maker fee of 0.4 %."""
    cost = D(price) * D(volume)
    at = NOW - age
    return Position(
        volume=D(volume), cost=cost, fees=cost * D("0.004"), entered_at=at, filled_at=at,
        regime_at_entry=None if age < 7_200.0 else 1,
    )  # fmt: skip


def totals(volume: str, cost: str) -> LegTotals:
    """Return running totals of a leg that still holds what it entered."""
    return LegTotals(entered_volume=D(volume), entered_cost=D(cost))


CHAIN = (
    SizeStep(stage="base", amount_usd=D("40.9"), reason="size 40 USD + slot profit 0.9000"),
    SizeStep(stage="layers", amount_usd=D("40.9"), reason="0 layers"),
    SizeStep(stage="kelly", amount_usd=D("40.9"), reason="off"),
    SizeStep(stage="rebalancer", amount_usd=D("40.9"), reason="off"),
    SizeStep(stage="risk", amount_usd=D("40.9"), reason="level LOW, × 1"),
    SizeStep(stage="fund_guard", amount_usd=D("40.9"), reason="funded"),
    SizeStep(stage="final", amount_usd=D("40.685"), reason="395 at 0.1030000"),
)


def working_slot() -> SlotState:
    """Return slot 1: a part-filled sell entry on A, a position with its exit on B."""
    a, b = TradeId.A, TradeId.B
    entry = order(1, a, Role.ENTRY, price="0.1030000", volume="395", filled="100", age=900.0)
    exit_ = order(1, b, Role.EXIT, price="0.1025000", volume="400", age=7_100.0)
    held = Exiting(position=position("0.0995", "400"), exit=exit_)
    return SlotState(
        slot_id=1,
        place=0,
        alias="Luna",
        legs=(
            Leg(
                trade_id=a,
                state=Entering(order=entry),
                cycle=5,
                last_chain=CHAIN,
                totals=totals("100", "10.30"),
            ),
            Leg(trade_id=b, state=held, cycle=4, last_chain=CHAIN, totals=totals("400", "39.8")),
        ),
        totals=SlotTotals(cycles=5, gross=D("4.1"), fees=D("1.65"), net=D("2.45")),
    )


def parked_slot(slot_id: int = 2) -> SlotState:
    """Return a slot (the second) whose legs both hold; only the price can free it."""
    a, b = TradeId.A, TradeId.B
    day = 86_400.0
    buy = order(slot_id, a, Role.EXIT, price="0.0975000", volume="390", age=day)
    sell = order(slot_id, b, Role.EXIT, price="0.1080000", volume="420", age=day)
    rest = order(slot_id, b, Role.RECOVERY, price="0.1090000", volume="380", age=1.5 * day)
    recovery = RecoveryOrder(
        recovery_id=f"{slot_id}B3",
        trade_id=b,
        cycle=3,
        position=position("0.1045", "380", age=1.6 * day),
        exit=rest,
        orphaned_at=NOW - 1.4 * day,
        reason="S1 timeout",
    )
    return SlotState(
        slot_id=slot_id,
        place=1,
        alias="Mars",
        legs=(
            Leg(
                trade_id=a,
                state=Exiting(position=position("0.1010", "390", age=day), exit=buy),
                cycle=2,
                totals=totals("390", "39.39"),
            ),
            Leg(
                trade_id=b,
                state=Exiting(position=position("0.1030", "420", age=0.9 * day), exit=sell),
                cycle=4,
                loss_streak=1,
                totals=totals("800", "82.97"),
            ),
        ),
        recovery_orders=(recovery,),
        totals=SlotTotals(cycles=2, gross=D("1.5"), fees=D("0.6012"), net=D("0.8988"), orphans=1),
    )


def waiting_slot() -> SlotState:
    """Return slot 3: both sides are missing, each for a reason."""
    return SlotState(
        slot_id=3,
        place=2,
        alias="Nova <b>&amp;</b>",
        legs=(
            Leg(
                trade_id=TradeId.A,
                state=Idle(since=NOW - 1_200.0, resume_at=NOW + 600.0, veto="cooldown"),
                loss_streak=5,
            ),
            Leg(trade_id=TradeId.B, state=Idle(since=NOW - 300.0, veto="portfolio")),
        ),
    )


COUNTERS = {
    "orders": 31,
    "fills": 24,
    "partial_fills": 3,
    "cycles": 7,
    "wins": 7,
    "orphans": 1,
    "veto:cooldown": 4,
    "veto:portfolio": 12,
    "rejected:post_only": 2,
}


def sample_state() -> BotState:
    """Return a state with every kind of slot, whose books add up to the last digit."""
    quote, reserved = D("429.57896"), D("38.1771")
    return BotState(
        bot_tag=7,
        now=NOW,
        started_at=T0,
        mode_since=T0,
        instrument=Instrument(),
        market=Market(
            bid=D("0.1012000"),
            ask=D("0.1012500"),
            last=D("0.1012000"),
            time=NOW - 1.0,
            bid_high=D("0.1012000"),
            bid_low=D("0.1012000"),
        ),
        slots=(working_slot(), parked_slot(), waiting_slot()),
        next_slot_id=4,
        balances=Balances(
            base=D(5710),
            quote=quote,
            start_base=D(5000),
            start_quote=D(500),
            start_mark=D("0.1000000"),
            reported_base=D(5710),
            reported_quote=quote,
            reported_at=NOW - 60.0,
        ),
        accounts=Accounts(
            cash=quote - reserved,
            reserved=reserved,
            inventory=D(500),
            inventory_base=D(5000),
            positions=D("73.08"),
            fees=D("2.94104"),
            capital=D(-1000),
            grid_profit=D("-5.60"),
        ),
        benchmarks=Benchmarks(usd=D(1000), doge=D(10_000), half_quote=D(500), half_base=D(5000)),
        risk=RiskState(
            level_since=T0, peak=D("1.004"), day=20_371, day_start=D(2), day_start_equity=D(1005)
        ),
        overrides=(
            Override(name="profit_pct", value=D("2.5"), at=NOW - 5_000.0),
            Override(name="entry_pct", value=D("0.8"), at=NOW - 4_000.0, slot_id=3),
        ),
        counters=COUNTERS,
        fill_secs=(40.0, 610.0, 95.5, 3_600.0),
        stints={"parked:2": Stint(total_sec=3_600.0, since=NOW - 7_200.0, spans=2)},
    )


EVENTS = (
    {
        "time": NOW - 7_200.0,
        "kind": "fill",
        "level": "info",
        "text": "slot 1 bought 400 DOGE at 0.0995000, exit resting at 0.1025000, expected "
        "+0.8768 USD after fees",
    },
    {
        "time": NOW - 9_000.0,
        "kind": "notice",
        "level": "warning",
        "text": "hostile <img src=x onerror=alert(1)></script> \u202etxet\x1b[31m text",
    },
    {
        "time": NOW - 36_000.0,
        "kind": "cycle",
        "level": "info",
        "text": "slot 1 leg A closed cycle 4: 395 DOGE, entry 0.1040000, exit 0.1010000, "
        "net +0.8612 USD after fees",
    },
    {
        "time": NOW - 120_960.0,
        "kind": "orphan",
        "level": "info",
        "text": "slot 2 leg B: exit waits as recovery 2B3 (S1 timeout); the leg may enter again",
    },
    {"time": T0, "kind": "command", "level": "info", "text": "resumed"},
)


def sample_facts() -> Facts:
    """Return what a shell on a simulated market would say."""
    return Facts(
        version="0.1.0",
        exchange_mode="SIMULATED MARKET",
        market_name="synthetic market, seed 1",
        speed=600.0,
        started_wall=T0,
        now_wall=T0 + 288.0,
        journal_seq=18_240,
        state_seq=18_102,
        recent_events=EVENTS,
    )


def sample_status() -> Status:
    """Return the status of the sample."""
    return build_status(sample_state(), Params(), sample_facts())


def test_status_price_of_a_silent_live_market_grows_stale_by_the_wall() -> None:
    """While nothing comes the market's time stands still; the page must not take that for calm."""
    state, params = sample_state(), Params()
    assert state.market is not None
    wall = state.market.time + params.stale_price_max_age_sec + 1.0
    for is_real_time in (False, True):
        facts = replace(sample_facts(), now_wall=wall, is_real_time=is_real_time)
        status = build_status(state, params, facts)
        assert status.market.is_stale is is_real_time
        assert ("No fresh price" in status.bot.reasons) is is_real_time


def test_status_golden() -> None:
    """The status of the sample is the golden file; WRITE_GOLDEN=1 rewrites it."""
    body = msgspec.json.encode(sample_status())
    text = msgspec.json.format(body, indent=1).decode() + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_status_change_adds_up() -> None:
    """The five lines are exact decimals that add up to the change, and nothing is unexplained."""
    equity = sample_status().equity
    lines = equity.change
    assert lines is not None
    parts = (lines.grid_profit, lines.inventory_pnl, lines.fees, lines.flows, lines.unexplained)
    assert sum(map(D, parts)) == D(lines.total)
    assert lines.unexplained == "0"
    assert equity.start_equity == "1000"
    assert equity.holding is not None
    assert D(equity.holding.start.value) == D("500") + 5000 * D("0.1012")
    assert D(equity.equity or 0) - D(equity.holding.start.value) == D(equity.holding.start.ahead)


def test_status_is_plain_decimal_text() -> None:
    """No exponent, no NaN, no Infinity anywhere, however small the numbers."""
    state = replace(sample_state(), accounts=replace(sample_state().accounts, fees=D("1E-12")))
    body = msgspec.json.encode(build_status(state, Params(), sample_facts())).decode()
    assert "NaN" not in body
    assert "Infinity" not in body
    assert "E-" not in body
    assert "E+" not in body


def test_status_before_first_price_is_null() -> None:
    """A state without a market gives nulls, not zeros or errors."""
    status = build_status(BotState(), Params(), sample_facts())
    assert status.market.bid is None
    assert status.equity.equity is None
    assert status.equity.change is None
    assert status.equity.holding is None
    assert status.bot.condition == "attention"
    assert "No fresh price" in status.bot.reasons


def test_status_condition_names_what_is_wrong() -> None:
    """Attention, stopped and alarm come with their reasons; a quiet bot is ok."""
    quiet = replace(sample_state(), slots=(), balances=Balances(), accounts=Accounts())
    assert build_status(quiet, Params(), sample_facts()).bot.condition == "ok"
    assert sample_status().bot.condition == "attention"
    assert any("Mars" in reason for reason in sample_status().bot.reasons)
    lock = Lock(name=LockName.DAILY_LOSS, since=NOW, reason="lost 51.00 USD today")
    risk = RiskState(level=RiskLevel.MEDIUM, locks=(lock,))
    locked = build_status(replace(sample_state(), risk=risk), Params(), sample_facts())
    assert locked.bot.condition == "stopped"
    assert "Locked (daily loss): lost 51.00 USD today" in locked.bot.reasons
    assert "midnight" in locked.risk.locks[0].clears
    broken = replace(sample_state(), accounts=Accounts())
    assert build_status(broken, Params(), sample_facts()).bot.condition == "alarm"


@pytest.mark.parametrize("reason", ["order O1 carries the id of another order", "operator"])
def test_status_says_why_it_is_halted(reason: str) -> None:
    """Page, messages and JSON show the reasons: who or what has halted is one of them."""
    state = replace(sample_state(), mode=Mode.HALTED, mode_reason=reason)
    status = build_status(state, Params(), sample_facts())
    assert status.bot.condition == "stopped"
    words = f"Halted: {reason}; nothing new but owed exits"
    assert words in status.bot.reasons
    assert words in status_text(status)


@pytest.mark.parametrize(
    ("vetoes", "expected"),
    [
        (("below_minimum", "below_minimum"), "No entry can be placed: the order would be below"),
        (("below_break_even", "below_break_even"), "No entry can be placed: the profit target"),
        (("below_minimum", "cooldown"), "raise the order size (set_order_size)"),
        (("below_break_even", "cooldown"), "raise the profit target (set_profit_pct)"),
        (("below_minimum", "below_break_even"), "would not pay the fees"),
        (("below_minimum", "funds"), None),
        (("below_minimum", None), None),
        (("below_minimum", "throttle"), None),
        (("cooldown", "cooldown"), None),
    ],
)
def test_status_is_not_well_while_no_entry_can_be_placed(
    vetoes: tuple[str | None, str | None], expected: str | None
) -> None:
    """Sizes or targets that veto every leg that wants an entry are told, with the way out."""
    waiting = waiting_slot()
    legs = (
        replace(waiting.legs[0], state=Idle(since=NOW, veto=vetoes[0])),
        replace(waiting.legs[1], state=Idle(since=NOW, veto=vetoes[1])),
    )
    state = replace(
        sample_state(), slots=(replace(waiting, legs=legs),), balances=Balances(),
        accounts=Accounts(),
    )  # fmt: skip
    block = build_status(state, Params(), sample_facts()).bot
    assert block.condition == ("ok" if expected is None else "attention")
    assert expected is None or expected in "; ".join(block.reasons)


def test_status_explains_missing_sides_and_parked_slots() -> None:
    """A missing side has its reason in words, a parked slot its two prices and the ways out."""
    working, waits, missing = sample_status().slots
    assert [slot.phase for slot in (working, waits, missing)] == ["S1b", "S2", "S0"]
    rests, vetoed = (leg.missing for leg in missing.legs)
    assert rests is not None
    assert rests.why == "the leg rests before its next entry"
    assert rests.until == NOW + 600.0
    assert vetoed is not None
    assert vetoed.veto == "portfolio"
    assert waits.parked is not None
    assert (waits.parked.low_price, waits.parked.high_price) == ("0.0975000", "0.1080000")
    assert waits.parked.total_sec == 10_800.0
    assert waits.parked.text == "waits for 0.0975 or 0.108 USD"
    assert waits.parked.ways_out == ("wait", "soft_close", "pair_off")
    assert waits.recoveries[0].order is not None
    assert [x.position.tag for x in (*waits.legs, *waits.recoveries) if x.position] == [1, 1, 1]
    assert working.legs[0].order is not None
    assert working.legs[0].order.distance_pct == "1.75"
    owed = Owed(reason="insufficient_funds", retry_at=NOW + 5.0)
    owing = replace(position("0.1", "9"), owed_since=NOW - 30.0)
    leg = replace(working_slot().legs[1], state=Exiting(position=owing, exit=owed))
    slot = replace(working_slot(), legs=(working_slot().legs[0], leg))
    state = replace(sample_state(), slots=(slot,))
    shown = build_status(state, Params(), sample_facts()).slots[0].legs[1]
    assert shown.missing is not None
    assert (shown.missing.since, shown.missing.until) == (NOW - 30.0, NOW + 5.0)
    assert shown.missing.why == "its exit is owed and could not be placed: insufficient funds"


def test_status_position_expectation_is_after_fees() -> None:
    """The expected result of an exit is its gross less the entry's and the exit's fee."""
    leg = sample_status().slots[0].legs[1]
    assert leg.position is not None
    gross = (D("0.1025") - D("0.0995")) * 400
    fees = (D("0.0995") + D("0.1025")) * 400 * D("0.004")
    assert D(leg.position.expected_net or 0) == gross - fees
    sold = sample_status().slots[1].legs[0].position
    assert sold is not None
    assert D(sold.unrealised or 0) == (D("0.1010") - D("0.1012")) * 390


def test_status_overrides_show_the_way_back() -> None:
    """An override lists the configured value (with its stagger), the current one, the way back."""
    profit, entry = sample_status().overrides
    assert (profit.configured, profit.current, profit.slot) == ("2", "2.5", None)
    assert profit.way_back == "reset_override PAIR_PROFIT_PCT"
    assert (entry.configured, entry.current, entry.slot) == ("1.5", "0.8", 3)
    assert entry.way_back == "reset_override PAIR_ENTRY_PCT for slot 3"
    assert sample_status().settings.profit_pct == "2.5"


def test_status_cleans_hostile_text() -> None:
    """Control and direction marks go, surrogates are replaced, length is bounded."""
    assert clean_text("a\x1b[31m\u202eb\nc\x00") == "a [31mb c "
    assert clean_text("\ud800x") == "?x"
    long = clean_text("x" * 10_000_000)
    assert len(long) == TEXT_MAX
    assert long.endswith("…")


def thirty_slots() -> tuple[SlotState, ...]:
    """Return thirty slots, all legs holding, each with a recovery and chains."""

    def full(slot_id: int) -> SlotState:
        slot = parked_slot(slot_id)
        legs = tuple(replace(leg, last_chain=CHAIN) for leg in slot.legs)
        return replace(slot, alias=f"slot {slot_id}", legs=legs)

    return tuple(full(n) for n in range(1, 31))


def test_status_of_thirty_full_slots_fits_64_kib() -> None:
    """At most 64 KiB; with everything else on too: `tests/test_advisor_status.py`."""
    state = replace(sample_state(), slots=thirty_slots())
    events = tuple(EVENTS[0] for _ in range(200))
    facts = replace(sample_facts(), recent_events=events)
    made = publication(build_status(state, Params(), facts))
    assert len(made.body) <= 64 * 1024, len(made.body)
    assert len(made.gzip_body) < 8 * 1024


def test_status_round_trips_through_its_contract() -> None:
    """What is sent decodes to the same status, and later blocks say that they are off."""
    body = msgspec.json.encode(sample_status())
    assert msgspec.json.decode(body, type=Status) == sample_status()
    plain = json.loads(body)
    assert plain["schema_version"] == 1
    off = {"enabled": False}
    assert plain["hmm_regime"] == plain["kelly"] == off
    assert plain["ai_regime_advisor"] == off | {"state": "off"}


def test_times_to_fill_are_nearest_ranks() -> None:
    """The least value that so many percent do not exceed: one that there was, never beyond it."""
    for values, pct, expected in (
        ([], 50, None),
        ([7.0], 50, 7.0),
        ([7.0], 95, 7.0),
        ([100.0, 1.0], 50, 1.0),
        ([1.0, 2.0, 3.0, 4.0], 50, 2.0),
        ([float(n) for n in range(1, 21)], 95, 19.0),
        ([float(n) for n in range(1, 101)], 95, 95.0),
    ):
        assert percentile(values, pct) == expected, (values, pct)
