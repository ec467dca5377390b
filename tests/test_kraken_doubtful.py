"""Accounts that others use much, ids that name two orders, clocks that differ: the desk goes on."""

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from accounting import orders
from core import events as e
from core.commands import Resume
from core.domain import OrderStatus, Role, Side
from core.order_id import decode
from core.state import Mode
from exchange.kraken_records import Answer
from exchange.rates import RateCounter
from exchange.sandbox_faults import Fault, FaultKind
from exchange.sandbox_records import OrderRequest
from tests.kraken_world import World
from tests.test_kraken_desk import calls, events

D = Decimal


def place_and_cancel(world: World, **more: Any) -> str:
    """Place a buy at the venue past the bot, and cancel it; return its txid."""
    account, venue = world.venue.account, world.venue
    venue.advance(world.clock.there())
    request = OrderRequest(**{"side": Side.BUY, "volume": D(60), "price": D("0.02")} | more)
    txid = account.place(request, venue.now).txid
    account.withdraw(account.books.orders[txid], venue.now, "canceled", "User requested")
    account.set_counter(RateCounter())
    return txid


@pytest.mark.slow
def test_after_an_outage_only_what_was_closed_meanwhile_is_read() -> None:
    """However many orders the account has closed before; polls go on beside the deep look."""
    world = World(3, step_pct=0.1)
    world.run(60.0)
    for _ in range(300):
        place_and_cancel(world)
    world.run_on(400.0)
    made = calls(world)
    world.tell_health(status="unreachable")
    world.run_on(20.0)
    world.tell_health(status="online")
    world.run_on(20.0)
    assert world.exchange.desk.is_ready
    assert [x for _, x, _ in made].count("ClosedOrders") <= 3
    world.run_on(600.0)
    deep = [x for _, method, x in made if method == "ClosedOrders"]
    assert len(deep) > 300 / 50
    assert {x["closetime"] for x in deep} == {"close"}
    polls = [at for at, method, _ in made if method == "OpenOrders"]
    assert max(b - a for a, b in pairwise(polls)) < 60.0
    assert world.wrong() == []


def in_doubt(world: World) -> Any:
    """Return an order whose placing was lost on the way."""
    world.venue.faults.add(Fault(kind=FaultKind.LOST_REQUEST, methods=("AddOrder",), count=1))
    world.run(12.0)
    (order,) = [x for x in orders(world.runtime.state) if x.status is OrderStatus.UNCERTAIN]
    return order


def test_a_halt_for_another_order_of_our_id_can_be_left() -> None:
    """Once the wrong one is cancelled by hand, the order that never arrived is absent."""
    world = World(3, step_pct=0.02)
    world.operate = lambda: None  # type: ignore[method-assign]  # the operator is the test
    order, venue = in_doubt(world), world.venue
    venue.advance(world.clock.there())
    price = order.price * (D("0.98") if order.side is Side.BUY else D("1.02"))
    request = OrderRequest(
        side=order.side, volume=order.volume, client_id=order.client_order_id,
        price=venue.account.instrument.price_down(price),
    )  # fmt: skip
    txid = venue.account.place(request, venue.now).txid
    world.run_on(40.0)
    assert "carries the id of another order" in world.runtime.state.mode_reason
    venue.advance(world.clock.there())
    account = venue.account
    account.withdraw(account.books.orders[txid], venue.now, "canceled", "User requested")
    world.command(Resume())
    world.run_on(300.0)
    assert world.runtime.state.mode is Mode.RUNNING
    gone = [x.client_order_id for x in events(world, e.OrderRejected) if "never" in x.reason]
    assert order.client_order_id in gone


def test_of_two_orders_with_one_id_a_cancelled_one_makes_no_third() -> None:
    """The one that works is adopted; nothing is placed beside it."""
    world = World(3, step_pct=0.02)
    world.operate = lambda: None  # type: ignore[method-assign]
    order, venue = in_doubt(world), world.venue
    same: dict[str, Any] = {
        "side": order.side, "volume": order.volume, "price": order.price,
        "client_id": order.client_order_id, "is_post_only": True,
    }  # fmt: skip
    place_and_cancel(world, **same)
    txid = venue.account.place(OrderRequest(**same), venue.now).txid
    world.run_on(120.0)
    assert world.runtime.state.mode is Mode.RUNNING
    found = [x for x in events(world, e.OrderFound) if x.client_order_id == order.client_order_id]
    assert [x.txid for x in found] == [txid]
    place = decode(order.client_order_id)
    assert place is not None
    mine = [x for x in map(decode, (x.client_id or "" for x in venue.truth().orders if x.is_open))
            if x is not None and (x.slot, x.trade_id) == (place.slot, place.trade_id)]  # fmt: skip
    assert len(mine) == 1


def test_the_thread_may_begin_the_moment_it_is_told_that_the_machine_is_back() -> None:
    """Whoever comes first: what is held is begun."""
    world = World(3)
    world.run(300.0)
    exchange, desk = world.exchange, world.exchange.desk
    hold = desk.hold

    def held_late() -> None:
        if exchange._is_back:  # the private thread gets its turn just here
            exchange._is_back = False
            desk.begin()
        hold()

    desk.hold = held_late  # type: ignore[method-assign]
    world.clock.sleep(30.0)
    world.tell_health(offset=world.clock.offset)
    desk.hold = hold  # type: ignore[method-assign]
    world.run_on(120.0)
    assert desk.is_ready


@pytest.mark.slow
def test_an_exit_is_owed_while_clocks_differ() -> None:
    """A deadline by a clock that is wrong bounds nothing; the reason is told."""
    world = World(3)
    world.run(600.0)
    made = calls(world)
    world.clock.offset -= 5.0
    world.tell_health(offset=-5.0)
    world.run_on(900.0)
    assert [x for _, x, _ in made].count("AddOrder") == 0
    world.clock.offset += 5.0
    world.tell_health(offset=0.0)
    world.run_on(300.0)
    sent = [decode(str(x["cl_ord_id"])) for _, method, x in made if method == "AddOrder"]
    assert Role.EXIT in {x.role for x in sent if x is not None}


def test_when_the_account_answers_nothing_the_market_alone_is_not_enough() -> None:
    """The status says so within a minute; nothing is placed; then all is read anew."""
    world = World(3)
    world.run(120.0)
    world.venue.faults.add(Fault(kind=FaultKind.UNAVAILABLE_BEFORE))
    made = calls(world)
    world.run_on(90.0)
    assert world.runtime.state.health.system_status == "unreachable"
    made.clear()
    world.run_on(300.0)
    assert "AddOrder" not in {method for _, method, _ in made}
    world.venue.faults.clear()
    world.run_on(120.0)
    assert world.runtime.state.health.system_status == "online"
    assert "ClosedOrders" in {method for _, method, _ in made}
    assert world.wrong() == []


def test_an_account_that_tells_of_none_of_our_orders_changes_no_books() -> None:
    """Another account's balances are nobody's deposit; after ten minutes a person is asked for."""
    world = World(3, step_pct=0.02)
    world.run(30.0)
    flow, private = world.runtime.state.balances, world.line.private

    def of_another(method: str, params: Any) -> Answer:
        if method in ("QueryOrders", "CancelOrder"):
            return Answer(errors=("EOrder:Unknown order",))
        answer = private(method, params)
        if method == "OpenOrders" and isinstance(answer.result, dict):
            answer.result["open"].clear()
        if method == "Balance" and isinstance(answer.result, dict):
            answer.result["ZUSD"] = "123456.0000"
        return answer

    world.line.private = of_another  # type: ignore[method-assign]  # the line is the test's own
    world.tell_health(status="maintenance")
    world.run_on(10.0)
    world.tell_health(status="online")
    world.run_on(300.0)
    state = world.runtime.state
    assert state.health.system_status == "reconciling"
    assert "none of our" in world.exchange.view().last_error
    assert (state.balances.flow_base, state.balances.flow_quote) == (
        flow.flow_base,
        flow.flow_quote,
    )
    assert state.balances.reported_quote == flow.reported_quote
    world.run_on(600.0)
    (halt,) = events(world, e.TradingHalted)
    assert "the account that placed it" in halt.reason


def test_an_order_amended_by_somebody_is_told_once() -> None:
    """With what it is now; it is followed as ever."""
    world = World(3, step_pct=0.02)
    world.run(30.0)
    account, venue = world.venue.account, world.venue
    venue.advance(world.clock.there())
    order = next(x for x in orders(world.runtime.state) if x.side is Side.BUY and x.txid)
    price = venue.account.instrument.price_down(order.price * D("0.97"))
    account.amend(
        account.books.orders[str(order.txid)],
        venue.now,
        volume=None,
        price=price,
        is_post_only=True,
    )
    world.run_on(90.0)
    (told,) = events(world, e.OrderAmended)
    assert (told.client_order_id, told.price) == (order.client_order_id, price)
