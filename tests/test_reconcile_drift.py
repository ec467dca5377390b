"""`reconcile_drift`: the open orders at the exchange against ours, listed first, then settled."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import ListedOrder, Listing, OrderState, OrderStatus, Role, Side, TradeId
from core.order_id import OrderPlace, encode
from core.params import Params
from core.record import replace
from core.state import BotState
from engine.counter import prepare
from engine.runtime import Runtime, comparable, fold
from tests.helpers import write_candles
from tests.kraken_world import EPOCH, TAG
from tests.kraken_world import World as KrakenWorld
from tests.test_ghosts import fill, ghost_id
from tests.test_kraken_desk import place_by_hand
from tests.test_models import Run, running
from tests.world import World, entered, of

D = Decimal


def listed(world: World, *names: str, extra: tuple[ListedOrder, ...] = (), **more: Any) -> Listing:
    """Return a listing of the named orders and others, as of now."""
    shown = tuple(
        ListedOrder(
            client_order_id=x.client_order_id, txid=x.txid or "", side=x.side, price=x.price,
            volume=x.volume,
        )
        for x in map(world.order, names)
    )  # fmt: skip
    return Listing(at=world.now, orders=shown + extra, **more)


def orphan_of(client_order_id: str, txid: str = "OLOST") -> ListedOrder:
    """Return an order at the exchange that carries that id."""
    return ListedOrder(
        client_order_id=client_order_id, txid=txid, side=Side.BUY, price=D("0.09"), volume=D(50)
    )


def test_what_nobody_owns_is_listed_then_ended_and_booked() -> None:
    """Without confirm nothing happens but a list; with it the order is a ghost like any other."""
    world = entered()
    world.advance(60)
    lost = orphan_of(ghost_id(world))
    listing = listed(world, "1A.entry", "1B.entry", extra=(lost,), strangers=2)
    before, logged = world.state, len(world.log)
    reply = world.command(c.ReconcileDrift(listing=listing))
    text = "buy 50 at 0.09, by its id slot 1 leg B: nobody owns it, it is cancelled"
    assert not reply.is_accepted
    assert reply.message == (
        f"needs confirm: order OLOST: {text}; 2 of our orders rest there as in the books, "
        "2 of others are left alone (listed 0 s ago)"
    )
    assert reply.changed == (("expects", "OLOST"), ("order OLOST", text))
    assert comparable(world.state) == comparable(replace(before, now=world.now))
    assert len(world.log) == logged + 1  # the reply alone
    reply = world.command(c.ReconcileDrift(listing=listing, confirm=True))
    assert reply.is_accepted
    assert reply.changed == (("order OLOST", text),)
    assert [x.txid for x in of(world.log, a.CancelOrderAction)] == ["OLOST"]
    assert of(fill(world, lost.client_order_id, "T1", "30"), a.RecordExecution)
    known = world.command(c.ReconcileDrift(listing=listing, confirm=True))
    assert known.message.startswith("nothing to reconcile: 3 of our orders rest there")
    world.step(
        e.OrderClosed(
            time=world.now, client_order_id=lost.client_order_id, reason="x", executed=D(30)
        )
    )
    assert world.state.ghosts == ()


def test_what_is_held_as_open_and_not_listed_is_asked_for_again() -> None:
    """The order stays as it is until the exchange says what became of it."""
    world = entered()
    world.advance(60)
    order = world.order("1B.entry")
    listing = listed(world, "1A.entry")
    refused = world.command(c.ReconcileDrift(listing=listing))
    assert not refused.is_accepted
    assert refused.changed == (
        ("expects", "T-1B.entry"),
        ("order T-1B.entry",
         f"buy {order.volume:f} at {order.price:f}, slot 1 leg B: held as open but not listed, it "
         "is asked for again"),
    )  # fmt: skip
    assert world.order("1B.entry") == order
    assert world.command(c.ReconcileDrift(listing=listing, confirm=True)).is_accepted
    asked = of(world.log, a.RequestReconcile)[-1]
    assert asked.client_order_ids == (order.client_order_id,)
    assert world.order("1B.entry") == replace(order, asked_at=world.now)
    assert world.state.ghosts == ()


@pytest.mark.parametrize("case", ["young", "cancelling", "pending"])
def test_an_order_whose_place_is_open_anyway_is_no_drift(case: str) -> None:
    """Too young to be shown, being cancelled, or in doubt: others look after these."""
    world = entered()
    if case == "cancelling":
        world.advance(60)
        world.command(c.Pause())
        world.timer()
        assert world.order("1B.entry").status is OrderStatus.CANCELLING
    elif case == "pending":
        world = World()
        world.timer()
        world.timer()
        world.advance(60)
    reply = world.command(c.ReconcileDrift(listing=listed(world)))
    assert reply.is_accepted
    assert reply.message == "nothing to reconcile: 0 of our orders rest there as in the books " + (
        "(listed 0 s ago)"
    )
    assert reply.changed == ()


def test_orders_of_others_are_never_touched() -> None:
    """Another bot's, another database's, and one the operator ignores, whatever is confirmed."""
    world = World()
    place = OrderPlace(
        tag=world.state.bot_tag, epoch=world.state.store_epoch + 1, slot=1, trade_id=TradeId.B,
        role=Role.ENTRY, cycle=1, attempt=1,
    )  # fmt: skip
    ignored = ghost_id(world)
    world.state = replace(world.state, ignored=(ignored,))
    extra = tuple(
        orphan_of(x, f"O{n}")
        for n, x in enumerate(
            (encode(place), encode(replace(place, tag=world.state.bot_tag + 1)), "no id", ignored)
        )
    )
    listing = Listing(at=world.now, orders=extra, strangers=3)
    reply = world.command(c.ReconcileDrift(listing=listing, confirm=True))
    assert reply.is_accepted
    assert "7 of others are left alone" in reply.message
    assert not of(world.log, a.CancelOrderAction)
    assert world.state.ghosts == ()


def test_many_are_told_by_number_and_listed_in_full() -> None:
    """A sentence stays one; the reply lists every order."""
    world = World()
    base = OrderPlace(
        tag=world.state.bot_tag, epoch=world.state.store_epoch, slot=1, trade_id=TradeId.A,
        role=Role.EXIT, cycle=1, attempt=1,
    )  # fmt: skip
    lost = tuple(orphan_of(encode(replace(base, attempt=n)), f"O{n}") for n in range(1, 9))
    reply = world.command(c.ReconcileDrift(listing=Listing(at=world.now, orders=lost)))
    assert "; and 3 more; 0 of our orders" in reply.message
    assert [x for x, _ in reply.changed[1:]] == [f"order O{n}" for n in range(1, 9)]


def test_it_waits_for_a_listing_and_for_a_restore() -> None:
    """Without facts, and while a restored state is being told, nothing is done."""
    world = World()
    assert "has not listed" in world.command(c.ReconcileDrift(confirm=True)).message
    world.step(e.RestoreBegun(time=world.now, since=world.now - 60))
    listing = Listing(at=world.now, orders=(orphan_of(ghost_id(world)),))
    reply = world.command(c.ReconcileDrift(listing=listing, confirm=True))
    assert not reply.is_accepted
    assert "adopt and ignore decide" in reply.message
    assert world.state.ghosts == ()


def test_the_operator_cannot_name_the_listing() -> None:
    """It is the shell's; an answer that was given is known again without it."""
    with pytest.raises(c.CommandError):
        c.parse({"action": "reconcile_drift", "listing": None})
    asked = c.parse({"action": "reconcile_drift", "confirm": True})
    journaled = '{"action":"reconcile_drift","confirm":true,"listing":{"at":1.0,"orders":[]}}'
    assert c.is_same(asked, journaled)
    assert not c.is_same(c.ReconcileDrift(), journaled)


def test_a_ghost_whose_cancel_is_refused_is_asked_about() -> None:
    """It may have filled before the cancel came: its end is told in answer, and it goes."""
    world = World()
    order_id = ghost_id(world)
    world.step(e.GhostFound(time=world.now, client_order_id=order_id, txid="OGHOST"))
    refused = e.CancelRefused(time=world.now, client_order_id=order_id, reason="unknown_order")
    assert of(world.step(refused), a.RequestReconcile)[0].client_order_ids == (order_id,)
    assert not of(world.step(replace(refused, client_order_id="x")), a.RequestReconcile)


# ---- through real exchanges ---------------------------------------------------------------------


def lost_id(*, tag: int, epoch: int, attempt: int = 7) -> str:
    """Return an id of the bot's that no intent has."""
    place = OrderPlace(
        tag=tag, epoch=epoch, slot=1, trade_id=TradeId.B, role=Role.ENTRY, cycle=900,
        attempt=attempt,
    )  # fmt: skip
    return encode(place)


def place_unknown(run: Run, *, attempt: int, price_share: str) -> str:
    """Send a buy at a share of the bid to the paper exchange, past the bot; return its id."""
    at, market = run.parts.exchange.now(), run.runtime.state.market
    assert market is not None
    order_id = lost_id(tag=1, epoch=run.runtime.state.store_epoch, attempt=attempt)
    order = OrderState(
        client_order_id=order_id, trade_id=TradeId.B, role=Role.ENTRY, side=Side.BUY,
        price=(market.bid * D(price_share)).quantize(D("1e-7")), volume=D(300), cycle=900,
        attempt=attempt, placed_at=at,
    )  # fmt: skip
    action = a.PlaceOrderAction(slot_id=1, order=order, chain=(), deadline=at + 60)
    run.parts.exchange.place(action)
    return order_id


def asked(runtime: Runtime, at: float, name: str, *, confirm: bool) -> a.ReplyToOperator:
    """Send the command as the daemon does: with what only the shell knows."""
    command = prepare(runtime, c.ReconcileDrift(confirm=confirm))
    event = e.CommandReceived(time=at, command_id=name, command=command)
    return next(x for x in runtime.step(event) if isinstance(x, a.ReplyToOperator))


def check_journal(runtime: Runtime) -> None:
    """Check that the journal alone folds to what was decided."""
    state, params = BotState(), Params()
    for row in runtime.store.journal(after=0):
        state, params, actions = fold(state, params, row.event)
        assert actions == row.actions, row.seq
    assert comparable(state) == comparable(runtime.state)


def test_on_paper_a_lost_order_is_found_ended_and_its_executions_booked(tmp_path: Path) -> None:
    """It reaches the exchange past the bot; a second one has filled before it is looked at."""
    write_candles(tmp_path / "candles.csv", bars=240, seed=5)
    with running(
        tmp_path / "a", REPLAY_FILE=str(tmp_path / "candles.csv"), HMM_ENABLED="false"
    ) as run:
        runtime, exchange = run.runtime, run.parts.exchange

        def until(at: float) -> None:
            run.loop.stopping.clear()
            run.go_on(lambda x: run.loop.stop() if x.time >= at else None)

        until(runtime.state.now + 1_800)
        assert asked(runtime, exchange.now(), "c1", confirm=False).message.startswith("nothing to")
        order_id = place_unknown(run, attempt=7, price_share="0.99")
        until(runtime.state.now + 5)
        refused = asked(runtime, exchange.now(), "c2", confirm=False)
        assert [text.split(":")[1] for _, text in refused.changed[1:]] == [
            " nobody owns it, it is cancelled"
        ]
        assert asked(runtime, exchange.now(), "c3", confirm=True).is_accepted
        assert [x.client_order_id for x in runtime.state.ghosts] == [order_id]
        until(runtime.state.now + 600)
        assert runtime.state.ghosts == ()
        assert exchange.books().base == runtime.state.balances.base
        filled_id = place_unknown(run, attempt=8, price_share="0.9999")
        while not any(x.client_order_id == filled_id for x in exchange.executions()):
            until(runtime.state.now + 60)
        until(runtime.state.now + 60)
        found = e.GhostFound(time=runtime.state.now, client_order_id=filled_id, txid="late")
        runtime.step(found)  # as seen before it filled: its cancel is refused
        until(runtime.state.now + 60)
        assert runtime.state.ghosts == ()
        assert exchange.books().base == runtime.state.balances.base
        done = asked(runtime, exchange.now(), "c4", confirm=True)
        assert done.message.startswith("nothing to reconcile")
        check_journal(runtime)


def test_at_kraken_a_lost_order_is_ended_and_a_strangers_rests_on() -> None:
    """Between two looks the operator may be first; the stranger's order is counted, not touched."""
    world = KrakenWorld(1, step_pct=0.02)
    world.run(60.0)
    lost = place_by_hand(world, lost_id(tag=TAG, epoch=EPOCH))
    strange = place_by_hand(world, None, "0.04")
    desk = world.exchange.desk
    while lost not in {x.txid for x in desk.strangers.listing.orders}:
        world.run_on(1.0)
    assert world.runtime.state.ghosts == ()
    refused = asked(world.runtime, world.clock(), "c1", confirm=False)
    assert refused.changed[0] == ("expects", lost)
    assert [name for name, _ in refused.changed[1:]] == [f"order {lost}"]
    assert "1 of others are left alone" in refused.message
    assert asked(world.runtime, world.clock(), "c2", confirm=True).is_accepted
    world.run_on(60.0)
    rows = {x.txid: x for x in world.venue.truth().orders}
    assert (rows[lost].is_open, rows[strange].is_open) == (False, True)
    assert world.runtime.state.ghosts == ()
    assert not [x for x in world.misdeeds if strange in x]
    done = asked(world.runtime, world.clock(), "c3", confirm=True)
    assert done.message.startswith("nothing to reconcile"), done.message
    check_journal(world.runtime)


def test_at_kraken_what_is_over_since_the_listing_is_no_drift() -> None:
    """Entries are withdrawn between two listings: what is learned of each leaves the last one."""
    world = KrakenWorld(3, step_pct=0.02)
    world.run(60.0)
    strangers = world.exchange.desk.strangers
    first = strangers.listing
    while strangers.listing.at == first.at:
        world.run_on(1.0)
    last, seen = strangers.listing, []
    world.command(c.Pause())
    for number in range(8):
        world.run_on(1.0)
        seen.append((strangers.listing.at == last.at, len(strangers.listing.orders)))
        assert asked(world.runtime, world.clock(), f"c{number}", confirm=False).is_accepted
    assert len(last.orders) == 6
    assert (True, 0) in seen
