"""The reducer's rules: transcripts, tables and edge cases (spec: grid, sections 3 to 7).

Transcripts in `tests/transcripts/` hold commands, then `----`, then what the reducer did. Set
REWRITE_TRANSCRIPTS=1 to write them anew, and review the difference.
"""

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from accounting import held
from core import actions as a
from core import commands as c
from core import events as e
from core.domain import OrderStatus, Owed, RejectReason, TradeId
from core.order_id import decode
from core.params import PausePolicy
from core.record import replace
from core.regime import LABELS
from core.state import Entering, Exiting, Idle, Mode
from grid.invariants import liveness
from state_machine import reduce
from tests.regime_world import estimated
from tests.world import (
    ACTING_PARAMS,
    GOLDEN_INSTRUMENT,
    GOLDEN_PARAMS,
    HMM_PARAMS,
    START,
    World,
    describe_action,
    describe_state,
    entered,
    holding_both,
)

D = Decimal
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


def run_line(world: World, line: str) -> list[a.Action]:
    """Carry out one line of a transcript."""
    word, *args = line.split()
    options = dict(arg.split("=") for arg in args if "=" in arg)
    args = [arg for arg in args if "=" not in arg]
    match word:
        case "price":
            return world.price(args[0])
        case "timer":
            return world.timer(float(args[0]) if args else 1.0)
        case "enter":
            count = len(world.log)
            world.enter()
            return world.log[count:]
        case "accept":
            world.accept(*args)
            return []
        case "fill":
            volume = int(args[1]) if len(args) > 1 else None
            return world.fill(args[0], volume, fee=options.get("fee", "0"))
        case "close":
            return world.close(args[0], int(args[1]) if len(args) > 1 else None)
        case "reject":
            return world.reject(args[0], RejectReason(args[1]))
        case "say":
            regime = None if args[0] == "nothing" else LABELS.index(args[0])
            return world.step(estimated(world.now, regime, float(options.get("confidence", 0.9))))
        case "do":
            body = {"action": args[0], **options, **({"confirm": True} if "yes" in args else {})}
            if "slot" in body:
                body["slot"] = int(str(body["slot"]))
            count = len(world.log)
            world.command(c.parse(body))
            return world.log[count:]
        case _:
            raise AssertionError(f"unknown transcript line {line!r}")


def run_transcript(lines: list[str]) -> Iterator[str]:
    """Yield what the reducer did for each line."""
    world = World(ACTING_PARAMS)
    before: list[str] = []
    for line in lines:
        yield f"> {line}"
        for action in run_line(world, line):
            if (text := describe_action(action)) is not None:
                yield f"  {text}"
        after = describe_state(world.state)
        for text in after:
            if text not in before:
                yield f"  {text}"
        before = after


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """The reducer does what the reviewed transcript says."""
    source, _, expected = path.read_text().partition("----\n")
    lines = [x for x in source.splitlines() if x.strip() and not x.startswith("#")]
    actual = "\n".join(run_transcript(lines)) + "\n"
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(f"{source}----\n{actual}")
    assert actual == expected or os.environ.get("REWRITE_TRANSCRIPTS")


def test_there_are_transcripts() -> None:
    """The folder of transcripts is found."""
    assert len(TRANSCRIPTS) >= 8


def test_round_trip_books_the_golden_profit() -> None:
    """A B round trip of 20 with fees 0.005 and 0.00504: gross 0.01996, net 0.00992."""
    world = entered()
    world.fill("1B.entry", fee="0.005")
    actions = world.fill("1B.exit", fee="0.00504")
    record = next(x.record for x in actions if isinstance(x, a.BookCycleAction))
    assert (record.gross_profit, record.net_profit) == (D("0.01996"), D("0.00992"))
    assert (record.cycle, record.regime_at_entry) == (1, None)
    assert world.leg("1B").cycle == 2


def test_duplicate_execution_changes_nothing() -> None:
    """An execution already known leaves state and books as they are."""
    world = entered()
    order = world.order("1B.entry")
    fill = e.FillEvent(
        time=world.now, client_order_id=order.client_order_id, txid="T", execution_id="X",
        price=order.price, volume=D(5), cost=order.price * 5, fee=D(0), executed_at=world.now,
    )  # fmt: skip
    world.step(fill)
    before = world.state
    assert not any(isinstance(x, a.RecordExecution) for x in world.step(fill))
    assert world.state.slots == before.slots
    assert world.state.balances == before.balances


def test_late_execution_after_close_is_waited_for() -> None:
    """A closed order whose executions do not add up stays until the missing one arrives."""
    world = entered()
    order = world.order("1B.entry")
    world.fill("1B.entry", 5)
    actions = world.close("1B.entry", executed=12)
    assert any(isinstance(x, a.RequestReconcile) for x in actions)
    assert isinstance(world.leg("1B").state, Entering)
    world.step(
        e.FillEvent(
            time=world.now, client_order_id=order.client_order_id, txid="T", execution_id="late",
            price=order.price, volume=D(7), cost=order.price * 7, fee=D(0), executed_at=world.now,
        )
    )  # fmt: skip
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    assert state.position.volume == 12


def test_fill_racing_a_cancel_is_never_lost() -> None:
    """An entry that fills while its cancel travels becomes a position with an exit."""
    world = entered()
    world.command(c.Pause())
    world.timer()
    assert world.order("1B.entry").status is OrderStatus.CANCELLING
    world.fill("1B.entry")
    assert isinstance(world.leg("1B").state, Exiting)


def test_replacement_waits_for_the_end_of_the_cancelled_order() -> None:
    """A refreshed entry is placed again only after the exchange's word that the old one is over."""
    world = entered()
    world.price("0.103")
    placed = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    placed += [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    assert placed == []
    assert world.order("1B.entry").status is OrderStatus.CANCELLING
    world.close("1B.entry")
    placed = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    assert [x.order.trade_id for x in placed] == [TradeId.B]
    assert placed[0].order.attempt == 2


def test_client_order_ids_name_their_place_and_never_repeat() -> None:
    """Ids decode to slot, leg, role, cycle and attempt, and are unique over a long run."""
    world = entered()
    for _ in range(5):
        world.fill("1B.entry")
        world.accept("1B.exit")
        world.fill("1B.exit")
        world.enter()
    orders = [x.order for x in world.log if isinstance(x, a.PlaceOrderAction)]
    assert len({x.client_order_id for x in orders}) == len(orders)
    place = decode(orders[-1].client_order_id)
    assert place is not None
    assert (place.tag, place.epoch, place.slot) == (1, 2, 1)
    assert (place.cycle, place.role) == (orders[-1].cycle, orders[-1].role)


@pytest.mark.parametrize(
    ("estimated_at", "regime", "expected"),
    [(0.0, 2, 2), (-600.0, 0, 0), (-601.0, 0, None), (0.0, None, None)],
)
def test_regime_tag_is_that_of_the_first_execution(
    estimated_at: float, regime: int | None, expected: int | None
) -> None:
    """The tag travels entry → position → cycle; an estimate older than two intervals gives None."""
    world = entered(HMM_PARAMS)
    world.step(estimated(world.now, regime))
    world.state = replace(
        world.state,
        regime=replace(world.state.regime, time=world.now + estimated_at),
    )
    world.fill("1B.entry", 5)
    world.step(estimated(world.now, 1))
    world.fill("1B.entry")
    world.accept("1B.exit")
    actions = world.fill("1B.exit")
    record = next(x.record for x in actions if isinstance(x, a.BookCycleAction))
    assert record.regime_at_entry == expected


def test_owed_exit_is_retried_at_once_when_the_instrument_changes() -> None:
    """A raised minimum keeps the exit owed; lowering it places the exit at once."""
    world = entered()
    raised = replace(world.state.instrument, order_min=D(1000))
    world.step(e.InstrumentUpdated(time=world.now, instrument=raised))
    world.fill("1B.entry")
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    assert isinstance(state.exit, Owed)
    assert state.exit.reason == "below_minimum"
    lowered = replace(raised, order_min=D(1))
    world.step(e.InstrumentUpdated(time=world.now, instrument=lowered))
    assert world.order("1B.exit").volume == 20


def test_partial_entry_is_cancelled_after_its_time() -> None:
    """A partly filled entry works for PARTIAL_ENTRY_MAX_SEC, then its volume goes to an exit."""
    world = entered()
    world.fill("1B.entry", 5)
    world.timer(599)
    assert world.order("1B.entry").status is OrderStatus.OPEN
    world.timer(2)
    assert world.order("1B.entry").status is OrderStatus.CANCELLING
    world.close("1B.entry")
    assert world.order("1B.exit").volume == 5


def test_sub_minimum_volume_becomes_a_residual_that_joins_the_next_exit() -> None:
    """Executed volume below the minimum is kept with cost, fees and tag, and closed later."""
    world = entered()
    small = replace(world.state.instrument, order_min=D(6))
    world.step(e.InstrumentUpdated(time=world.now, instrument=small))
    world.fill("1B.entry", 5, fee="0.001")
    world.timer(601)
    world.close("1B.entry")
    residual = world.leg("1B").residual
    assert residual is not None
    assert (residual.volume, residual.fees) == (D(5), D("0.001"))
    world.enter()
    world.fill("1B.entry")
    assert world.order("1B.exit").volume == 25
    assert world.leg("1B").residual is None


def test_exit_ended_by_the_exchange_is_placed_again_for_the_rest() -> None:
    """A rest at or above the minimum is re-placed under the same cycle with a new attempt."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.fill("1B.exit", 8)
    world.close("1B.exit")
    order = world.order("1B.exit")
    assert (order.volume, order.cycle, order.attempt) == (D(12), 1, 2)
    actions = world.fill("1B.exit")
    record = next(x.record for x in actions if isinstance(x, a.BookCycleAction))
    assert record.volume == 20


def test_exit_with_a_tiny_rest_books_what_was_executed() -> None:
    """A rest below the minimum becomes the residual; the cycle takes its share of cost and fees."""
    world = entered()
    small = replace(world.state.instrument, order_min=D(3))
    world.step(e.InstrumentUpdated(time=world.now, instrument=small))
    world.fill("1B.entry", fee="0.02")
    world.accept("1B.exit")
    world.fill("1B.exit", 18)
    actions = world.close("1B.exit")
    booked = next(x for x in actions if isinstance(x, a.BookCycleAction))
    assert booked.resolution == "partial"
    assert booked.record.volume == 18
    assert booked.record.entry_fee == D("0.018")
    residual = world.leg("1B").residual
    assert residual is not None
    assert (residual.volume, residual.fees) == (D(2), D("0.002"))


def test_post_only_rejections_move_the_price_away_and_rest_the_leg() -> None:
    """Each rejection needs a newer quote and moves the price; the third rests the leg for 60 s."""
    world = entered()
    world.command(c.Pause())
    world.timer()
    world.close("1B.entry")
    world.command(c.Resume())
    seen = []
    for _ in range(3):
        world.advance(1)
        world.price("0.1")
        world.timer()
        seen.append(world.order("1B.entry").price)
        world.reject("1B.entry", RejectReason.POST_ONLY)
        world.timer()
        assert isinstance(world.leg("1B").state, Idle)
    assert seen[0] > seen[1] > seen[2]
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert state.resume_at is not None
    assert 58 <= state.resume_at - world.now <= 60


def test_anti_chase_lets_two_refreshes_pass_and_holds_the_third() -> None:
    """After two refreshes in one direction the next waits until 300 s after the second."""
    world = entered()
    mid = D("0.1")
    for _ in range(2):
        mid *= D("1.03")
        world.price(str(mid.quantize(D("0.000001"))))
        world.timer()
        world.close("1B.entry")
        world.enter()
    mid *= D("1.03")
    world.price(str(mid.quantize(D("0.000001"))))
    world.timer()
    assert world.order("1B.entry").status is OrderStatus.OPEN
    world.timer(299)
    assert world.order("1B.entry").status is OrderStatus.CANCELLING


def test_s1_exit_is_orphaned_only_when_old_and_adverse() -> None:
    """Age alone is not enough: the market must stand against the entry by the profit target."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.timer(21_601)
    assert isinstance(world.leg("1B").state, Exiting)
    world.price("0.0985")
    actions = world.timer()
    assert any(isinstance(x, a.OrphanOrderAction) for x in actions)
    assert isinstance(world.leg("1B").state, Idle | Entering)
    assert world.leg("1B").loss_streak == 1
    assert world.order("1B.recovery").volume == 20


def test_s2_orphans_the_exit_farther_from_the_market_once() -> None:
    """In S2 only the farther exit goes, after S2_ORPHAN_AFTER_SEC; the cap stops the next."""
    world = holding_both()
    world.timer(21_601)
    assert world.state.counters.get("orphans", 0) == 0
    world.price("0.097")
    world.timer(21_601)
    assert [x.trade_id for x in world.slot().recovery_orders] == [TradeId.B]
    world.timer(50_000)
    assert len(world.slot().recovery_orders) == 1


def test_recovery_books_its_own_cycle_and_leaves_the_leg_alone() -> None:
    """A filled recovery books the old cycle with from_recovery; the leg goes on with its own."""
    world = entered()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.price("0.0985")
    world.timer(21_601)
    cycle = world.leg("1B").cycle
    actions = world.fill("1B.recovery")
    booked = next(x for x in actions if isinstance(x, a.BookCycleAction))
    assert (booked.record.cycle, booked.record.from_recovery) == (1, True)
    assert booked.orphaned_at is not None
    assert world.leg("1B").cycle == cycle == 2
    assert world.slot().recovery_orders == ()


def test_loss_streak_rests_the_leg() -> None:
    """At LOSS_STREAK_REST_AT losses in a row the leg rests LOSS_REST_SEC."""
    world = World(replace(GOLDEN_PARAMS, loss_streak_rest_at=1))
    world.enter()
    world.fill("1B.entry", fee="1")
    world.accept("1B.exit")
    world.fill("1B.exit", fee="1")
    state = world.leg("1B").state
    assert isinstance(state, Idle)
    assert state.resume_at == world.now + 900


def test_entry_pass_serves_the_longest_waiting_leg_first_at_two_a_second() -> None:
    """The token bucket allows two entries a second over all slots."""
    world = World(replace(GOLDEN_PARAMS, slot_count=3))
    first = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    second = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    assert [(x.slot_id, x.order.trade_id) for x in first] == [(1, "A"), (1, "B")]
    assert [(x.slot_id, x.order.trade_id) for x in second] == [(2, "A"), (2, "B")]
    assert world.state.counters["veto:throttle"] == 4


def test_slots_are_staggered_by_their_place() -> None:
    """Slot i enters SLOT_STAGGER_PCT · i farther out, so that slots form a grid."""
    world = World(replace(GOLDEN_PARAMS, slot_count=3, slot_stagger_pct=D("0.5")))
    world.enter()
    prices = [world.order(f"{n}B.entry").price for n in (1, 2, 3)]
    assert prices == [D("0.0998"), D("0.0993"), D("0.0988")]


@pytest.mark.parametrize("policy", ["withdraw", "stay"])
def test_pause_withdraws_entries_or_leaves_them(policy: str) -> None:
    """PAUSE_POLICY decides what happens to resting entries; exits are never touched."""
    world = World(replace(GOLDEN_PARAMS, pause_policy=PausePolicy(policy)))
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    world.command(c.Pause())
    world.timer()
    wanted = OrderStatus.CANCELLING if policy == "withdraw" else OrderStatus.OPEN
    assert world.order("1A.entry").status is wanted
    assert world.order("1B.exit").status is OrderStatus.OPEN


def test_halted_bot_still_places_owed_exits() -> None:
    """A fill while halted gets its exit; no entry is placed."""
    world = entered()
    world.command(c.Halt())
    actions = world.fill("1B.entry")
    assert [x.order.role for x in actions if isinstance(x, a.PlaceOrderAction)] == ["exit"]
    assert world.state.mode is Mode.HALTED


def test_insane_price_needs_a_second_sample() -> None:
    """A jump beyond PRICE_JUMP_MAX_PCT vetoes entries until another sample agrees."""
    world = World()
    world.price("0.2")
    assert world.state.market is not None
    assert world.state.market.last == D("0.1")
    world.timer()
    assert world.state.counters["veto:insane_price"] == 2
    world.advance(1)
    world.price("0.2")
    assert world.state.market.last == D("0.2")


def test_stale_price_vetoes_entries_but_not_exits() -> None:
    """Without a fresh price no entry is placed, while an exit owed is."""
    world = World(replace(GOLDEN_PARAMS, stale_price_max_age_sec=60.0))
    world.enter()
    world.advance(1000)
    actions = world.fill("1B.entry")
    assert any(isinstance(x, a.PlaceOrderAction) for x in actions)
    world.close("1A.entry")
    world.timer()
    state = world.leg("1A").state
    assert isinstance(state, Idle)
    assert state.veto == "stale_price"


def test_safety_violation_halts_new_risk_only() -> None:
    """An over-filled order locks entries; the execution is booked all the same."""
    world = entered()
    order = world.order("1B.entry")
    fill = e.FillEvent(
        time=world.now, client_order_id=order.client_order_id, txid="T", execution_id="X",
        price=order.price, volume=D(25), cost=order.price * 25, fee=D(0), executed_at=world.now,
    )  # fmt: skip
    state, actions = reduce(world.state, fill, world.params)
    assert any(isinstance(x, a.RecordExecution) for x in actions)
    assert any(isinstance(x, a.PlaceOrderAction) for x in actions)
    assert state.balances.base == world.state.balances.base + 25


def test_liveness_reports_a_missing_entry_without_halting() -> None:
    """An entry that cannot be placed is named with its reason; the bot stays running."""
    world = World(quote=D("0.05"))
    world.enter()
    world.timer(400)
    missing = liveness(world.state, world.params)
    assert any("funds" in text for text in missing)
    assert world.state.mode is Mode.RUNNING
    assert isinstance(world.leg("1A").state, Entering)


def test_started_in_the_same_circumstances_changes_no_decision() -> None:
    """A restart with nothing in flight leaves everything as it was, quiet bounds included."""
    world = entered()
    before = world.state
    started = e.Started(
        time=world.now, params=world.params, instrument=before.instrument, fees=before.fees,
        bot_tag=1, store_epoch=2, code_version="test",
    )  # fmt: skip
    own = before.balances
    world.step(started)
    world.step(e.BalancesReported(time=world.now, base=own.base, quote=own.quote))
    after = replace(world.state, balances=before.balances)
    assert after == before


def test_uncertain_order_moves_only_by_reconciliation() -> None:
    """An unknown outcome asks for reconciliation; found adopts it, never arrived frees the leg."""
    world = World()
    world.timer()
    order = world.order("1B.entry")
    actions = world.step(e.OrderUncertain(time=world.now, client_order_id=order.client_order_id))
    assert any(isinstance(x, a.RequestReconcile) for x in actions)
    assert world.order("1B.entry").status is OrderStatus.UNCERTAIN
    world.timer(600)
    assert world.order("1B.entry").status is OrderStatus.UNCERTAIN
    world.reject("1B.entry", RejectReason.NEVER_ARRIVED)
    world.timer()
    assert world.order("1B.entry").attempt == 2


def test_time_never_runs_backwards() -> None:
    """An event with an older time does not move the state's clock back."""
    world = entered()
    now = world.state.now
    world.step(e.TimerTick(time=START - 100))
    assert world.state.now == now


@pytest.mark.parametrize(("first", "second", "expected"), [(3, 4, 2), (4, 3, 1)])
def test_tag_of_the_larger_part_stays_when_residuals_meet(
    first: int, second: int, expected: int
) -> None:
    """Two residuals of different regimes: the larger one's tag; then the position's against it."""
    small = replace(GOLDEN_INSTRUMENT, order_min=D(8))
    world = World(HMM_PARAMS, instrument=small)
    for regime, volume in ((1, first), (2, second)):
        world.step(estimated(world.now, regime))
        world.enter()
        world.fill("1B.entry", volume)
        world.timer(601)
        world.close("1B.entry")
        world.timer()
        if regime == 1:
            residual = world.leg("1B").residual
            assert residual is not None
            assert (residual.volume, residual.regime_at_entry) == (first, 1)
    residual = world.leg("1B").residual
    assert residual is not None
    assert (residual.volume, residual.regime_at_entry) == (first + second, expected)
    world.step(estimated(world.now, 0))
    world.enter()
    world.fill("1B.entry")
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    assert state.position.volume == 27
    assert state.position.regime_at_entry == 0


def test_times_of_a_cycle_are_those_of_its_executions() -> None:
    """Entry: the first execution; ages: the entry's last; exit: the exit's last; not of reports."""
    world = entered()
    first = world.now
    world.fill("1B.entry", 5)
    world.advance(10)
    world.fill("1B.entry", late=3.0)
    state = world.leg("1B").state
    assert isinstance(state, Exiting)
    assert (state.position.entered_at, state.position.filled_at) == (first, world.now - 3)
    world.advance(100)
    record = next(
        x.record for x in world.fill("1B.exit", late=2.0) if isinstance(x, a.BookCycleAction)
    )
    assert (record.entry_time, record.exit_time) == (first, world.now - 2)


def test_late_estimate_and_executions_out_of_order_do_not_change_the_tag() -> None:
    """The regime is the one at the exchange time of the earliest execution, however it is told."""
    world = entered(HMM_PARAMS)
    world.step(estimated(world.now, 2))
    world.advance(50)
    world.step(estimated(world.now, 0))
    world.advance(1)
    world.fill("1B.entry", 5)  # after the second estimate
    assert world.order("1B.entry").regime_at_entry == 0
    world.advance(4)
    world.fill("1B.entry", 5, late=10.0)  # executed before it, told after it
    assert world.order("1B.entry").regime_at_entry == 2


def test_order_that_is_over_holds_nothing_while_its_executions_are_missing() -> None:
    """The exchange has let go of it: only what will still be booked counts."""
    world = entered()
    before = held(world.state)
    world.close("1B.entry", executed=7)
    after = held(world.state)
    assert before.quote - after.quote == D("0.0998") * 20 * D("1.0025")
    assert after.base == before.base
