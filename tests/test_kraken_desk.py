"""The order protocol case by case, against the sandbox in one process on a virtual clock."""

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from accounting import orders
from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction
from core.commands import Halt, Pause
from core.domain import OrderStatus, Role, Side, TradeId
from core.order_id import OrderPlace, decode, encode
from core.record import replace
from core.state import Mode
from exchange.kraken_budget import Priority
from exchange.kraken_reads import CallFailed
from exchange.kraken_records import Answer, OrderView
from exchange.sandbox_faults import Fault, FaultKind
from exchange.sandbox_records import OrderRequest
from grid.invariants import check_invariants
from tests.kraken_world import EPOCH, PARAMS, TAG, World

D = Decimal


def calm(seed: int = 1, *, step_pct: float = 0.02, **options: Any) -> World:
    """Return a world that has run for half a minute: entries rest, prices flow."""
    world = World(seed, step_pct=step_pct, **options)
    world.run(30.0)
    return world


def fault(world: World, kind: FaultKind, method: str, **more: Any) -> None:
    """Switch a fault on for one call of a method."""
    world.venue.faults.add(Fault(kind=kind, methods=(method,), count=more.pop("count", 1), **more))


def events(world: World, *kinds: type) -> list[Any]:
    """Return the journaled events of these kinds."""
    return [x.event for x in world.store.journal(after=0) if isinstance(x.event, kinds)]


def calls(world: World) -> list[tuple[float, str, Mapping[str, object]]]:
    """Record every private call from now on."""
    made: list[tuple[float, str, Mapping[str, object]]] = []
    private = world.line.private

    def recorded(method: str, params: Mapping[str, object]) -> Answer:
        made.append((world.clock(), method, dict(params)))
        return private(method, params)

    world.line.private = recorded  # type: ignore[method-assign]  # the line is the test's own
    return made


def place_by_hand(world: World, client_id: str | None, price: str = "0.05") -> str:
    """Place a buy at the venue, past the bot; return its txid."""
    request = OrderRequest(
        side=Side.BUY, volume=D(200), price=D(price), is_post_only=True, client_id=client_id
    )
    return world.venue.account.place(request, world.clock()).txid


def our_id(*, epoch: int = EPOCH) -> str:
    """Return an id with the bot's tag that no intent has."""
    place = OrderPlace(
        tag=TAG, epoch=epoch, slot=2, trade_id=TradeId.B, role=Role.ENTRY, cycle=9, attempt=3
    )
    return encode(place)


def test_orders_go_out_post_only_with_a_deadline_and_the_fee_in_quote() -> None:
    """And with an id that reads back; once each."""
    world = World(1, step_pct=0.02)
    made = calls(world)
    world.run(30.0)
    sent = [x for _, method, x in made if method == "AddOrder"]
    assert len(sent) >= 4
    assert {x["oflags"] for x in sent} == {"post,fciq"}
    assert all(str(x["deadline"]).endswith("Z") for x in sent)
    ids = [str(x["cl_ord_id"]) for x in sent]
    assert len(set(ids)) == len(ids)
    assert all(place is not None and place.tag == TAG for place in map(decode, ids))
    assert world.wrong() == []


@pytest.mark.parametrize("kind", [FaultKind.LOST_RESPONSE, FaultKind.HTML, FaultKind.TRUNCATED,
                                  FaultKind.NULL_RESULT, FaultKind.ERROR_AFTER,
                                  FaultKind.UNAVAILABLE_AFTER])  # fmt: skip
def test_a_placement_without_an_answer_is_adopted(kind: FaultKind) -> None:
    """The order is found by its id and owned; nothing is sent for its leg meanwhile."""
    world = World(2, step_pct=0.02)
    fault(world, kind, "AddOrder")
    world.run(90.0)
    (doubt,) = events(world, e.OrderUncertain)
    found = [x for x in events(world, e.OrderFound) if x.client_order_id == doubt.client_order_id]
    assert found
    ours = [x for x in world.venue.truth().orders if x.client_id == doubt.client_order_id]
    assert [x.txid for x in ours] == [found[0].txid]
    assert world.wrong() == []


@pytest.mark.parametrize("kind", [FaultKind.LOST_REQUEST, FaultKind.ERROR_BEFORE,
                                  FaultKind.UNAVAILABLE_BEFORE, FaultKind.NONCE])  # fmt: skip
def test_a_placement_that_never_arrived_is_absent_only_after_its_time(kind: FaultKind) -> None:
    """Two looks, six seconds apart, ten after the deadline; then a new id, never the old one."""
    world = World(2, step_pct=0.02)
    fault(world, kind, "AddOrder")
    made = calls(world)
    world.run(120.0)
    (doubt,) = events(world, e.OrderUncertain)
    gone = [x for x in events(world, e.OrderRejected) if x.reason == "never_arrived"]
    assert [x.client_order_id for x in gone] == [doubt.client_order_id]
    sent_at = next(at for at, _, x in made if x.get("cl_ord_id") == doubt.client_order_id)
    assert gone[0].time - sent_at >= 10.0 + 10.0 + 6.0 - 0.5
    again = [x for _, method, x in made
             if method == "AddOrder" and x["cl_ord_id"] == doubt.client_order_id]  # fmt: skip
    assert len(again) == 1
    looks = [(method, at) for at, method, x in made
             if x.get("cl_ord_id") == doubt.client_order_id and method != "AddOrder"]  # fmt: skip
    assert {x for x, _ in looks} == {"OpenOrders", "ClosedOrders"}
    assert looks[0][0] == "OpenOrders"
    assert "TradesHistory" in {method for _, method, _ in made}
    assert world.wrong() == []


def test_an_order_that_filled_at_once_is_found_among_the_closed() -> None:
    """Its answer was lost and it is over before anybody looks: adopted, executions booked."""
    world = World(4, step_pct=0.5)
    fault(world, FaultKind.LOST_RESPONSE, "AddOrder", count=3)
    world.run(120.0)
    assert len(events(world, e.OrderUncertain)) >= 3
    assert world.settle() is None
    assert world.wrong() == []


def test_a_known_order_number_on_another_order_halts() -> None:
    """Somebody's order carries the id of ours, with another price: only a person can tell."""
    world = World(2, step_pct=0.02)
    fault(world, FaultKind.LOST_REQUEST, "AddOrder")
    world.run(9.0)
    (doubt,) = events(world, e.OrderUncertain)
    place_by_hand(world, doubt.client_order_id)
    world.run(60.0)
    assert any("carries the id of another order" in x for x in world.halts)


def test_a_cancel_is_believed_only_when_the_order_is_seen_over() -> None:
    """Whatever the cancel answers, the order is queried; it leaves by the exchange's word."""
    world = calm()
    fault(world, FaultKind.LOST_RESPONSE, "CancelOrder", count=2)
    fault(world, FaultKind.TEXT, "CancelOrder", text="EOrder:Unknown order", count=2)
    count = len(world.exchange.desk.known)
    world.command(Pause())  # which withdraws the entries
    world.run_on(90.0)
    cancelled = [x for x in events(world, e.OrderClosed) if x.reason == "cancelled"]
    assert len(cancelled) == count == 2 * world.params.slot_count
    assert not [x for x in world.venue.truth().orders if x.is_open]
    assert world.wrong() == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [("Post only order", "post_only"), ("Self trade prevention", "self_trade")],
)
def test_an_order_taken_and_then_ended_as_crossing_is_quoted_anew(words: str, reason: str) -> None:
    """Three within a minute, each farther away; then the leg rests. Nothing is placed in a loop."""
    world = World(1, step_pct=0.0, params=replace(PARAMS, slot_count=1), tier="starter")
    fault(world, FaultKind.ENDED, "AddOrder", text=words, count=20)
    world.run(15.0)
    used = world.exchange.desk.reader.budget.view(world.clock()).engine_used
    assert (used > 2) is (reason == "post_only")  # it is counted as if it had been told at once
    world.run_on(40.0)
    assert {x.reason for x in events(world, e.OrderClosed)} == {reason}
    sells = [x for x in world.venue.truth().orders if x.side is Side.SELL]
    prices = [x.last.price for x in sells]
    assert len(prices) == 3
    assert prices[0] < prices[1] < prices[2]
    world.venue.faults.clear()
    world.run(90.0)
    assert len([x for x in world.venue.truth().orders if x.is_open]) == 2
    assert world.wrong() == []


def test_a_cancel_is_repeated_only_after_a_look_at_what_the_last_one_did() -> None:
    """While reads have no room a repeated one would cost points, and end nothing."""
    world = calm(step_pct=0.0)  # none of them fills
    desk, count = world.exchange.desk, len(world.exchange.desk.known)
    orders_of = desk.reader.orders

    def no_room(*_: object) -> list[OrderView]:
        raise CallFailed("no room in the rate limit")

    desk.reader.orders = no_room  # type: ignore[method-assign]
    made = calls(world)
    fault(world, FaultKind.LOST_REQUEST, "CancelOrder")
    world.command(Pause())  # which withdraws the entries
    world.run_on(35.0)
    assert [method for _, method, _ in made].count("CancelOrder") == count
    desk.reader.orders = orders_of  # type: ignore[method-assign]
    world.run_on(90.0)
    assert [method for _, method, _ in made].count("CancelOrder") == count + 1
    assert world.wrong() == []


def test_a_ghost_is_cancelled_and_what_it_executed_booked() -> None:
    """An order of our tag and epoch that no intent owns: seen twice, then told, ended, booked."""
    world = calm()
    txid = place_by_hand(world, our_id())
    world.run(60.0)
    assert [x.txid for x in events(world, e.GhostFound)] == [txid]
    row = next(x for x in world.venue.truth().orders if x.txid == txid)
    assert row.last.status == "canceled"
    assert world.runtime.state.ghosts == ()
    assert world.runtime.state.mode is Mode.RUNNING
    assert check_invariants(world.runtime.state) == []


def test_an_order_of_ours_that_filled_while_nobody_watched_is_booked_after_a_restart() -> None:
    """The sweep at the start finds what no intent owns among the closed orders."""
    world = calm()
    quote = world.venue.account.engine.quote()
    assert quote is not None
    price = quote.ask * D("1.001")
    request = OrderRequest(
        side=Side.BUY, volume=D(200), price=price.quantize(D("1e-7")), client_id=our_id()
    )
    txid = world.venue.account.place(request, world.clock()).txid
    world.run(60.0)  # starts anew: a life of its own
    assert [x.txid for x in events(world, e.GhostFound)] == [txid]
    mine = [x for x in world.venue.truth().trades if x.txid == txid]
    assert mine
    assert {x.trade_id for x in mine} <= set(world.store.execution_ids())
    own, there = world.runtime.state.balances, world.venue.truth().balances
    assert own.base == there["XXDG"]
    assert abs(own.quote - there["ZUSD"]) < D("0.001")  # rounding
    assert check_invariants(world.runtime.state) == []


def test_a_ghost_that_fills_between_two_looks_is_booked() -> None:
    """It was seen once, open; then it is over."""
    world = calm(step_pct=0.0)
    quote = world.venue.account.engine.quote()
    assert quote is not None
    request = OrderRequest(side=Side.BUY, volume=D(200), price=quote.bid, client_id=our_id())
    txid = world.venue.account.place(request, world.clock()).txid
    made = calls(world)
    while "OpenOrders" not in {method for _, method, _ in made}:
        world.run_on(0.1)
    assert world.venue.account.books.orders[txid].is_open
    world.plunge()
    world.run_on(30.0)
    assert [x.txid for x in events(world, e.GhostFound)] == [txid]
    own, there = world.runtime.state.balances, world.venue.truth().balances
    assert own.base == there["XXDG"]
    assert abs(own.quote - there["ZUSD"]) < D("0.001")  # rounding


def test_an_order_of_another_database_of_this_bot_halts() -> None:
    """Two databases cannot both be right; nothing of it is touched."""
    world = calm()
    txid = place_by_hand(world, our_id(epoch=EPOCH + 1))
    world.run(30.0)
    assert any("another database" in x for x in world.halts)
    assert next(x for x in world.venue.truth().orders if x.txid == txid).is_open


def test_orders_of_others_are_counted_and_never_touched() -> None:
    """What they hold is not free; they rest on."""
    world = calm()
    txid = place_by_hand(world, None)
    world.run(400.0)
    assert world.exchange.view().foreign_orders == 1
    assert world.runtime.state.balances.foreign_quote == D(200) * D("0.05")
    assert next(x for x in world.venue.truth().orders if x.txid == txid).is_open
    assert world.wrong() == []


def test_deposits_withdrawals_and_foreign_trades_are_flows_booked_once() -> None:
    """Read again and again, after restarts too: the ledger's lines join once."""
    world = calm(has_ledger=True)
    world.venue.deposit("USD", D(100))
    world.run(400.0)
    world.venue.deposit("XXDG", D(-50))
    quote = world.venue.account.engine.quote()
    assert quote is not None
    price = (quote.ask * D("1.001")).quantize(D("1e-7"))
    request = OrderRequest(side=Side.BUY, volume=D(100), price=price)
    world.venue.account.place(request, world.clock())
    world.run(500.0)
    own, there = world.runtime.state.balances, world.venue.truth().balances
    assert own.base == there["XXDG"]
    assert abs(own.quote - there["ZUSD"]) < D("0.001")  # rounding
    assert own.flow_base == D(50)  # 100 bought by hand, 50 withdrawn
    assert len(events(world, e.ExternalFlow)) >= 4
    assert world.runtime.state.risk.locks == ()


def test_three_nonce_errors_in_five_minutes_halt() -> None:
    """Another program may use the key."""
    world = calm()
    fault(world, FaultKind.NONCE, "OpenOrders", count=3)
    world.run_on(120.0)
    assert any("another program using" in x for x in world.halts)


def test_after_a_rate_limit_nothing_is_called_before_the_pause_is_over() -> None:
    """Fifteen seconds of silence at least."""
    world = calm()
    made = calls(world)
    fault(world, FaultKind.RATE_LIMIT, "OpenOrders")
    world.run_on(60.0)
    times = [at for at, _, _ in made]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) >= 15.0
    assert world.wrong() == []


def test_after_a_lockout_there_is_silence_and_then_one_probe() -> None:
    """Asking would prolong it."""
    world = calm()
    made = calls(world)
    fault(world, FaultKind.LOCKOUT, "OpenOrders")
    world.run_on(1000.0)
    times = [at for at, _, _ in made]
    gaps = [b - a for a, b in pairwise(times)]
    assert max(gaps) >= 900.0
    world.settle()
    assert world.wrong() == []


def test_nothing_is_placed_while_the_exchange_is_closed_and_all_is_read_before_going_on() -> None:
    """Maintenance: orders rest; afterwards everything is read anew."""
    world = calm()
    open_before = {x.txid for x in world.venue.truth().orders if x.is_open}
    world.tell_status("maintenance")
    made = calls(world)
    world.run_on(60.0)
    assert not [x for _, method, x in made if method == "AddOrder"]
    world.tell_status("online")
    made.clear()
    world.run_on(60.0)
    methods = [method for _, method, _ in made]
    assert "OpenOrders" in methods
    assert "ClosedOrders" in methods
    first_order = methods.index("AddOrder") if "AddOrder" in methods else len(methods)
    assert methods.index("ClosedOrders") < first_order
    assert open_before <= {x.txid for x in world.venue.truth().orders}
    assert world.wrong() == []


def test_a_deposit_is_told_before_the_balances_though_orders_have_just_executed() -> None:
    """Balances are read after every execution: those too may hold a stranger's doings."""
    world = calm(has_ledger=True)
    before = len(events(world, e.BalancesReported, e.ExternalFlow))
    world.venue.deposit("ZUSD", D(100))
    world.plunge()
    world.exchange.desk.schedule("balances", world.clock(), Priority.RESOLVE)
    world.run_on(8.0)
    told = events(world, e.BalancesReported, e.ExternalFlow, e.FillEvent)
    assert any(isinstance(x, e.FillEvent) for x in told)
    (first, *_) = events(world, e.BalancesReported, e.ExternalFlow)[before:]
    assert isinstance(first, e.ExternalFlow)
    assert world.wrong() == []


def test_an_entry_that_waits_when_trading_is_halted_is_not_sent() -> None:
    """It was on its way to the exchange already; an exit in its place still goes."""
    world = calm()
    order = replace(next(iter(orders(world.runtime.state))), client_order_id=our_id())
    entry = PlaceOrderAction(slot_id=2, order=order, chain=(), deadline=world.clock() + 10.0)
    world.command(Halt())
    made = calls(world)
    world.exchange.desk.put(entry)
    world.exchange.desk.step()
    assert "AddOrder" not in [method for _, method, _ in made]
    world.exchange.desk.put(replace(entry, order=replace(order, role=Role.EXIT)))
    world.exchange.desk.step()
    assert "AddOrder" in [method for _, method, _ in made]


def test_an_order_whose_time_is_nearly_over_is_not_sent() -> None:
    """With less than eight seconds left it is refused here, surely never sent."""
    world = calm()
    desk = world.exchange.desk
    assert desk.obstacle(world.clock() + 10.0) is None
    assert "left to its deadline" in str(desk.obstacle(world.clock() + 7.9))
    desk.is_ready = False
    assert "has not been read" in str(desk.obstacle(world.clock() + 10.0))


def test_an_order_in_doubt_blocks_its_leg_alone() -> None:
    """The other legs place and fill meanwhile."""
    world = World(2, step_pct=0.02)
    fault(world, FaultKind.LOST_REQUEST, "AddOrder")
    world.run(20.0)
    (doubt,) = events(world, e.OrderUncertain)
    place = decode(doubt.client_order_id)
    assert place is not None
    known = world.exchange.desk.known
    assert known[doubt.client_order_id].status is OrderStatus.UNCERTAIN
    others = [x for x in known.values() if x.client_order_id != doubt.client_order_id]
    assert len(others) == 2 * world.params.slot_count - 1


@pytest.mark.parametrize("seed", [0, *(pytest.param(x, marks=pytest.mark.slow) for x in (1, 2))])
def test_a_view_that_lags_makes_no_ghost(seed: int) -> None:
    """Open orders shown twelve seconds late: orders long over and booked are left alone."""
    world = World(seed, lags={"": 4.0})
    world.run(20.0)
    world.venue.set_lags({"OpenOrders": 12.0})
    world.run(1200.0)
    world.venue.set_lags({})
    world.settle()
    assert world.wrong() == []
    assert world.runtime.state.counters["cycles"] > 10


def test_a_ghost_told_wrongly_books_nothing_twice() -> None:
    """Even then: executions that are booked stay booked once, and the daemon lives."""
    world = World(1, step_pct=0.3)
    world.run(200.0)
    booked = [x for x in world.venue.truth().orders if not x.is_open and x.last.executed > 0]
    order = booked[-1]
    known = len(list(world.store.execution_ids()))
    world.runtime.step(
        e.GhostFound(time=world.clock(), client_order_id=order.client_id or "", txid=order.txid)
    )
    assert len(world.runtime.state.ghosts) == 1
    world.run_on(100.0)
    assert world.runtime.state.ghosts == ()
    assert len(list(world.store.execution_ids())) >= known
    own, there = world.runtime.state.balances, world.venue.truth().balances
    assert abs(own.base - there["XXDG"]) < D(1000)
    world.settle()
    assert [x for x in world.wrong() if "ghosts" not in x] == []


def test_cancelled_orders_of_ours_are_never_counted_as_foreign() -> None:
    """A view that still shows them holds nothing back."""
    world = World(2, lags={"": 4.0})
    world.run(600.0)
    reports = events(world, e.BalancesReported)
    assert len(reports) > 5
    assert {(x.foreign_base, x.foreign_quote) for x in reports} == {(D(0), D(0))}


def test_one_order_that_kraken_will_not_tell_does_not_hide_the_others() -> None:
    """Its id is unknown there: the others are followed all the same."""
    world = calm()
    reader = world.exchange.desk.reader
    known = [x.txid for x in world.exchange.desk.known.values() if x.txid]
    views = reader.orders([known[0], "OXXXXX-XXXXX-XXXXXX", *known[1:]], Priority.EXECUTIONS)
    assert [x.txid for x in views] == known


def test_a_sleep_of_the_machine_moves_the_clock_on_once() -> None:
    """The offset told again, measured before it was applied, is not applied again."""
    world = calm()
    at = world.clock()
    for errors in range(3):
        world.exchange.post(
            e.HealthChanged(
                time=at, system_status="online", clock_offset_sec=3600.5, consecutive_errors=errors
            )
        )
    assert world.clock() - at == pytest.approx(3600.5)
    assert not world.exchange.desk.is_ready
    world.exchange.post(
        e.HealthChanged(time=at, system_status="online", clock_offset_sec=8 * 86_400.0)
    )
    assert world.clock() - at == pytest.approx(3600.5)


def test_cancels_of_one_order_do_not_pile_up() -> None:
    """Repeated while nothing can be called, one of them is left."""
    world = calm()
    desk = world.exchange.desk
    order = next(x for x in desk.known.values() if x.txid)
    for _ in range(50):
        desk.put(
            CancelOrderAction(client_order_id=order.client_order_id, txid=order.txid, reason="x")
        )
    made = calls(world)
    world.run_on(10.0)
    assert [method for _, method, _ in made].count("CancelOrder") == 1


def test_an_order_that_kraken_took_and_does_not_tell_halts_after_ten_minutes() -> None:
    """Once, and by name; the others are followed and balances read meanwhile."""
    world = calm(4)
    desk = world.exchange.desk
    lost = next(x.txid for x in desk.known.values() if x.txid)
    private = world.line.private

    def told(method: str, params: Mapping[str, object]) -> Answer:
        if method == "QueryOrders" and lost in str(params["txid"]):
            return Answer(errors=("EOrder:Unknown order",))
        answer = private(method, params)
        for name in ("open", "closed"):
            if isinstance(answer.result, dict) and isinstance(answer.result.get(name), dict):
                answer.result[name].pop(lost, None)
        return answer

    world.line.private = told  # type: ignore[method-assign]  # the line is the test's own
    world.run_on(560.0)
    assert world.runtime.state.mode is Mode.RUNNING
    assert desk.is_ready
    before = len(events(world, e.BalancesReported))
    world.run_on(120.0)
    (halt,) = events(world, e.TradingHalted)
    assert lost in halt.reason
    assert "for 10 min" in halt.reason
    world.run_on(660.0)
    assert len(events(world, e.TradingHalted)) == 1
    assert len(events(world, e.BalancesReported)) > before


def test_a_job_that_fails_says_why_until_it_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    """In the log once as a warning, and on the page."""
    world = calm(4)
    private, desk = world.line.private, world.exchange.desk

    def cut(method: str, params: Mapping[str, object]) -> Answer:
        answer = private(method, params)
        if method == "ClosedOrders" and isinstance(answer.result, dict):
            answer.result["count"] = 99
        return answer

    world.line.private = cut  # type: ignore[method-assign]  # the line is the test's own
    desk.schedule("sweep", world.clock())
    world.run_on(30.0)
    assert "99 rows" in world.exchange.view().last_error
    said = [x.message for x in caplog.records if x.levelname == "WARNING"]
    assert [x for x in said if "sweep failed" in x and "99 rows" in x] == said
    assert len(said) == 1
    world.line.private = private  # type: ignore[method-assign]
    world.run_on(60.0)
    assert world.exchange.view().last_error == ""
