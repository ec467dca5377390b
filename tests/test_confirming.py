"""What is confirmed is what was told: `expects` names the targets (docs: OPERATION)."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from core import actions as a
from core import commands as c
from core.domain import ListedOrder, Listing, Side
from core.order_id import OrderPlace, decode, encode
from core.record import replace
from engine.runtime import comparable
from tests.test_ghosts import ghost_id
from tests.world import World, entered, holding_both

D = Decimal
SENT = (a.PlaceOrderAction, a.CancelOrderAction, a.RequestReconcile)


def two_recoveries() -> World:
    """Return a world with the recoveries 1-A-1, a minute older, and 1-B-1."""
    world = holding_both()
    assert world.command(c.RemoveSlot(slot=1, disposition="keep_recoveries")).is_accepted
    first, second = world.slot().recovery_orders
    assert (first.recovery_id, second.recovery_id) == ("1-A-1", "1-B-1")
    slot = replace(world.slot(), recovery_orders=(
        replace(first, orphaned_at=world.now - 60), replace(second, orphaned_at=world.now)
    ))  # fmt: skip
    world.state = replace(world.state, slots=(slot,))
    world.price("0.0995")
    return world


def enter_again(world: World, leg: str) -> None:
    """Have a leg complete its cycle and enter a second one."""
    world.fill(f"1{leg}.exit")
    world.price("0.1")
    world.enter()
    world.fill(f"1{leg}.entry")
    world.accept(f"1{leg}.exit")


def listing(world: World, count: int) -> Listing:
    """Return a listing of so many orders of ours that nobody owns."""
    place = decode(ghost_id(world))
    assert isinstance(place, OrderPlace)
    lost = tuple(
        ListedOrder(
            client_order_id=encode(replace(place, attempt=n)), txid=f"OLOST-{n}", side=Side.BUY,
            price=D("0.09"), volume=D(50),
        )
        for n in range(1, count + 1)
    )  # fmt: skip
    return Listing(at=world.now, orders=lost)


def ask(world: World, body: dict[str, Any], lost: int) -> a.ReplyToOperator:
    """Send a command as a program does; the shell adds the listing."""
    command = c.parse(body)
    if isinstance(command, c.ReconcileDrift):
        command = replace(command, listing=listing(world, lost))
    return world.command(command)


Case = tuple[dict[str, Any], Callable[[], World], Callable[[World], object], tuple[str, ...]]
CASES: dict[str, Case] = {
    "soft_close_next": (
        {"max_loss_pct": 50}, two_recoveries, lambda world: world.price("0.1005"),
        ("1-A-1", "slot 1 recovery 1-A-1: ", "1-B-1", "slot 1 recovery 1-B-1: "),
    ),
    "soft_close": (
        {"slot": 1, "leg": "B", "max_loss_pct": 50}, holding_both,
        lambda world: enter_again(world, "B"), ("1-B-1", "slot 1 leg B: ", "1-B-2", "slot 1 leg B"),
    ),
    "pair_off": (
        {"slot": 1}, holding_both, lambda world: enter_again(world, "A"),
        ("1-A-1,1-B-1", "slot 1 legs A and B: ", "1-A-2,1-B-1", "slot 1 legs A and B: "),
    ),
    "cancel_stale_recoveries": (
        {"older_than_sec": 30}, two_recoveries, lambda world: world.advance(40),
        ("1-A-1", "1-A-1: ", "1-A-1,1-B-1", "1-B-1: "),
    ),
    "reconcile_drift": (
        {}, World, lambda world: world.advance(1),
        ("OLOST-1", "order OLOST-1: ", "OLOST-1,OLOST-2", "order OLOST-2: "),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_another_target_than_the_one_told_is_told_anew(name: str) -> None:
    """Nothing is done but an answer that names the new one, which can then be confirmed."""
    fields, make, change, (told, words, now, new_words) = CASES[name]
    world = make()
    body = {"action": name, **fields}
    first = ask(world, body, 1)
    assert not first.is_accepted
    assert first.message.startswith("needs confirm: ")
    assert words in first.message
    assert first.changed[0] == ("expects", told)
    change(world)
    before, count = world.state, len(world.log)
    confirmed = {**body, "confirm": True, "expects": first.changed[0][1]}
    second = ask(world, confirmed, 2)
    assert not second.is_accepted
    assert second.message.startswith("needs confirm: the target is another now: ")
    assert new_words in second.message
    assert second.changed[0] == ("expects", now)
    assert comparable(world.state) == comparable(replace(before, now=world.now))
    assert world.log[count:] == [second]
    assert ask(world, {**confirmed, "expects": now}, 2).is_accepted
    assert [x for x in world.log[count:] if isinstance(x, SENT)]


@pytest.mark.parametrize("name", CASES)
def test_the_target_that_was_told_is_taken_also_at_other_prices(name: str) -> None:
    """What is told holds for the target alone; without `expects` any is taken, as by programs."""
    fields, make, _, (told, *_) = CASES[name]
    body = {"action": name, **fields}
    for more in ({"expects": told}, {"expects": None}, {}):
        world = make()
        assert ask(world, body, 1).changed[0] == ("expects", told)
        world.price("0.0994")
        count = len(world.log)
        reply = ask(world, {**body, "confirm": True, **more}, 1)
        assert reply.is_accepted
        assert "expects" not in dict(reply.changed)
        assert [x for x in world.log[count:] if isinstance(x, SENT)]


def test_expects_alone_confirms_nothing() -> None:
    """It names the target; `confirm` is still needed."""
    reply = ask(holding_both(), {"action": "pair_off", "slot": 1, "expects": "1-A-1,1-B-1"}, 0)
    assert not reply.is_accepted
    assert reply.message.startswith("needs confirm: slot 1 legs A and B: ")


def test_what_has_no_target_of_its_own_tells_none() -> None:
    """Resetting the peak is the same whenever it is confirmed."""
    assert entered().command(c.ResetRiskPeak()).changed == ()
    with pytest.raises(c.CommandError, match="has no field 'expects'"):
        c.parse({"action": "reset_risk_peak", "expects": "1-A-1"})


@pytest.mark.parametrize("value", ["", "1-A-1 ", "a.b", "ä", "x\n", "1" * (c.EXPECTS_MAX + 1), 1])
def test_expects_is_read_strictly(value: object) -> None:
    """Ids and commas, up to a bound; two full lists of open orders fit."""
    with pytest.raises(c.CommandError) as caught:
        c.parse({"action": "pair_off", "slot": 1, "expects": value})
    assert caught.value.field == "expects"
    assert len(str(caught.value)) < 120
    most = ",".join(["OABCDE-FGHIJ-KLMNOP"] * 450)
    assert c.parse({"action": "reconcile_drift", "expects": most}) == c.ReconcileDrift(expects=most)


def test_a_confirmed_target_belongs_to_the_command_that_is_known_again() -> None:
    """An old journal has none; the same id for another target is another command."""
    asked = c.parse({"action": "pair_off", "slot": 1, "confirm": True})
    old = '{"action":"pair_off","slot":1,"confirm":true}'
    assert c.is_same(asked, old)
    assert not c.is_same(replace(asked, expects="1-A-1,1-B-1"), old)
