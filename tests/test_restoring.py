"""A state put back that lacks what happened since: orders find their places, nothing is lost."""

from decimal import Decimal
from pathlib import Path

import pytest

from core import actions as a
from core import events as e
from core.commands import Adopt, Command, Ignore
from core.domain import Owed, Role, Side, TradeId
from core.order_id import OrderPlace, encode
from core.ports import StartRefused
from core.state import BotState, Exiting, LockName
from engine.restore import adopt_epochs
from engine.restore_view import restore_block
from exchange.kraken_reads import CallFailed
from sim.storm_weather import Weather
from store.memory import MemoryStore
from store.restore import epochs_of
from store.sqlite import SqliteStore, backup
from tests.kraken_world import EPOCH
from tests.kraken_world import World as Venue
from tests.test_store import trade
from tests.world import World, entered

D = Decimal
FORMER = 77


def past_id(
    world: World,
    *,
    leg: TradeId = TradeId.B,
    role: Role = Role.ENTRY,
    cycle: int = 1,
    slot: int = 1,
) -> str:
    """Return an order id of the database that was lost."""
    place = OrderPlace(
        tag=world.state.bot_tag, epoch=FORMER, slot=slot, trade_id=leg, role=role, cycle=cycle,
        attempt=9,
    )  # fmt: skip
    return encode(place)


def restored(state: BotState) -> World:
    """Return a world that goes on from a state that was put back."""
    world = World()
    world.state, world.now = state, state.now
    world.step(e.RestoreBegun(time=world.now, since=world.now - 300, epochs=(FORMER,)))
    return world


def tell(world: World, order_id: str, side: Side, *, volume: str = "20") -> list[a.Action]:
    """Tell of an order of the past at 0.1."""
    world.advance(1)
    return world.step(
        e.OrderRestored(
            time=world.now, client_order_id=order_id, txid="OPAST", side=side, price=D("0.1"),
            volume=D(volume), opened_at=world.now - 50,
        )
    )  # fmt: skip


def end(world: World) -> list[a.Action]:
    """Tell that it was all."""
    return world.step(e.RestoreTold(time=world.now))


def placed(actions: list[a.Action]) -> list[a.PlaceOrderAction]:
    """Return what is placed."""
    return [x for x in actions if isinstance(x, a.PlaceOrderAction)]


def test_nothing_is_placed_until_all_is_told() -> None:
    """Entries are locked, an exit stays owed; both go on afterwards."""
    world = restored(entered().state)
    world.accept("1B.entry")
    assert placed(world.fill("1B.entry")) == []
    assert isinstance(world.leg("1B").state, Exiting)
    assert [x.name for x in world.state.risk.locks] == [LockName.RESTORE]
    for _ in range(5):
        actions = world.timer(60)
        assert placed(actions) == []
        assert not [x for x in actions if isinstance(x, a.CancelOrderAction)]  # entries rest on
    actions = end(world)
    assert [x.order.role for x in placed(actions)] == [Role.EXIT]
    assert world.state.restoring is None
    assert world.state.risk.locks == ()
    assert world.state.former_epochs == (FORMER,)


def test_an_entry_its_exit_and_the_next_entry_are_bound_in_order() -> None:
    """The cycle is booked as it was; the leg goes on with the order that is open now."""
    before = entered()
    world = restored(before.state)
    first = world.order("1B.entry")
    world.fill("1B.entry")
    exit_id = past_id(world, role=Role.EXIT)
    tell(world, exit_id, Side.SELL, volume=f"{first.volume:f}")
    assert world.order("1B.exit").client_order_id == exit_id
    actions = world.fill("1B.exit")
    (booked,) = [x for x in actions if isinstance(x, a.BookCycleAction)]
    assert (booked.record.trade_id, booked.record.cycle) == (TradeId.B, 1)
    entry_id = past_id(world, cycle=2)
    tell(world, entry_id, Side.BUY)
    assert world.order("1B.entry").client_order_id == entry_id
    end(world)
    assert world.state.restoring is None
    assert world.leg("1B").entry_attempts == 9
    assert placed(world.timer(5)) == []


def test_an_order_is_told_twice_and_bound_once() -> None:
    """The start may be killed and begin anew."""
    world = restored(entered().state)
    world.close("1B.entry")
    for _ in range(2):
        tell(world, past_id(world), Side.BUY)
    assert world.state.restoring is not None
    assert world.state.restoring.bound == 1
    for _ in range(2):
        tell(world, past_id(world, slot=9), Side.BUY)
    assert len(world.state.restoring.unbound) == 1


@pytest.mark.parametrize(
    ("changes", "side", "volume", "why"),
    [
        ({"slot": 9}, Side.BUY, "20", "there is no slot 9"),
        ({}, Side.SELL, "20", "its side is not the one"),
        ({"leg": TradeId.A}, Side.SELL, "20", "at another order"),
        ({"role": Role.EXIT}, Side.SELL, "20", "no position of cycle 1"),
        ({"role": Role.RECOVERY}, Side.SELL, "20", "no position of cycle 1"),
        ({"cycle": 0}, Side.BUY, "20", "cycle 0 is over"),
    ],
)
def test_what_has_no_place_waits_for_the_operator(
    changes: dict[str, int], side: Side, volume: str, why: str
) -> None:
    """It is listed with the reason; nothing is placed, cancelled or lost meanwhile."""
    world = restored(entered().state)
    world.close("1B.entry")
    order_id = past_id(world, **changes)  # type: ignore[arg-type]  # fields of the place
    tell(world, order_id, side, volume=volume)
    end(world)
    assert world.state.restoring is not None
    (unbound,) = world.state.restoring.unbound
    assert why in unbound.why
    view = restore_block(world.state)
    assert view is not None
    (shown,) = view.unbound
    assert (shown.order, shown.slot_id) == ("OPAST", changes.get("slot", 1))
    assert (shown.side, shown.volume, shown.why) == (side, volume, unbound.why)
    for _ in range(3):
        actions = world.timer(100)
        assert placed(actions) == []
        assert not [x for x in actions if isinstance(x, a.CancelOrderAction) and x.txid == "OPAST"]


def test_an_exit_larger_than_its_position_has_no_place() -> None:
    """Nor a second one of the same position."""
    world = restored(entered().state)
    world.fill("1B.entry")
    volume = world.leg("1B").state.position.volume  # type: ignore[union-attr]  # exiting
    exit_id = past_id(world, role=Role.EXIT)
    tell(world, exit_id, Side.SELL, volume=f"{volume + 1:f}")
    assert isinstance(world.leg("1B").state, Exiting)
    assert isinstance(world.leg("1B").state.exit, Owed)  # type: ignore[union-attr]
    assert world.state.restoring is not None
    assert "holds" in world.state.restoring.unbound[0].why


def unbound_world() -> World:
    """Return a world with an order that has no place."""
    world = restored(entered().state)
    tell(world, past_id(world, slot=9), Side.BUY)
    return world


@pytest.mark.parametrize("kind", [Adopt, Ignore])
def test_the_operator_decides_once_all_is_told(kind: type[Adopt | Ignore]) -> None:
    """Refused before, without confirm, and for an order that does not wait."""
    world = unbound_world()

    def refused(command: Command) -> str:
        reply = world.command(command)
        assert not reply.is_accepted
        return reply.message

    assert "still being read" in refused(kind(confirm=True))
    end(world)
    assert "confirm" in refused(kind())
    assert "these do: OPAST" in refused(kind(order="OTHER", confirm=True))
    assert world.command(kind(order="OPAST", confirm=True)).is_accepted
    assert world.state.restoring is None
    assert "no start waits" in refused(kind(confirm=True))
    assert placed(world.timer(5)) == []  # both legs have their entries
    is_adopted = kind is Adopt
    assert [x.txid for x in world.state.ghosts] == (["OPAST"] if is_adopted else [])
    assert bool(world.state.ignored) is not is_adopted
    cancels = [x for x in world.log if isinstance(x, a.CancelOrderAction) and x.txid == "OPAST"]
    assert bool(cancels) is is_adopted


def test_an_exit_that_is_adopted_gets_no_second_beside_it() -> None:
    """The position's exit stays owed until the adopted one has ended, whatever it executed."""
    world = restored(entered().state)
    world.fill("1B.entry")
    order_id = past_id(world, role=Role.EXIT)
    tell(world, order_id, Side.SELL, volume="999")  # more than the position: it has no place
    end(world)
    before = len(world.log)
    assert world.command(Adopt(confirm=True)).is_accepted
    for _ in range(3):
        world.timer(100)
    new = [x.order.role for x in placed(world.log[before:])]
    assert Role.EXIT not in new
    world.step(
        e.OrderClosed(time=world.now, client_order_id=order_id, reason="cancelled", executed=D(0))
    )
    assert world.state.ghosts == ()
    assert [x.order.role for x in placed(world.timer(100))] == [Role.EXIT]


def test_what_had_no_place_takes_it_when_it_is_free() -> None:
    """An order of the copied state that never arrived stood there."""
    world = restored(entered().state)
    order_id = past_id(world)
    tell(world, order_id, Side.BUY)  # the leg still has the entry of the copied state
    end(world)
    assert world.state.restoring is not None
    world.close("1B.entry")
    assert world.state.restoring is None
    assert world.order("1B.entry").client_order_id == order_id
    assert [x for x in world.log if isinstance(x, a.CancelOrderAction)] == []


def test_an_entry_of_the_next_cycle_proves_that_the_exit_became_a_recovery() -> None:
    """The position goes on as a recovery with its exit; the entry takes the leg."""
    before = entered()
    before.fill("1B.entry")
    before.accept("1B.exit")
    world = restored(before.state)
    exit_id = world.order("1B.exit").client_order_id
    entry_id = past_id(world, cycle=2)
    tell(world, entry_id, Side.BUY)
    end(world)
    assert world.state.restoring is None
    assert world.order("1B.entry").client_order_id == entry_id
    assert world.order("1B.recovery").client_order_id == exit_id


def test_without_a_restore_nothing_of_it_does_anything() -> None:
    """Events that come late are no harm."""
    world = entered()
    before = world.state
    tell(world, past_id(world, slot=9), Side.BUY)
    end(world)
    assert (world.state.slots, world.state.restoring) == (before.slots, None)
    assert world.state.ghosts == ()


# ---- at the venue -------------------------------------------------------------------------------


def put_back(venue: Venue, folder: Path, seconds: float) -> Path:
    """Trade, keep a copy of the database, trade on, so long at least; return the copy."""
    venue.store = SqliteStore(folder / "bot.db", epoch=EPOCH)
    venue.run(900.0)
    backup(folder / "bot.db", folder / "copy.db")
    before = len(list(venue.store.execution_ids()))
    venue.run_on(seconds)
    while len(list(venue.store.execution_ids())) == before:
        venue.run_on(60.0)
    return folder / "copy.db"


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "seconds"), [(1, 60.0), (2, 400.0), (4, 800.0), (8, 1600.0)])
def test_an_older_copy_learns_from_the_venue_what_it_lacks(
    tmp_path: Path, seed: int, seconds: float
) -> None:
    """Every execution booked once, every order owned again, none cancelled; then it goes on."""
    venue = Venue(seed)
    copy = put_back(venue, tmp_path, seconds)
    lost = venue.store
    lost_ids = set(lost.execution_ids())
    venue.store = SqliteStore(copy)
    adopt_epochs(venue.store, ())
    venue.run(40.0)
    assert epochs_of(venue.store)[1:] == (EPOCH,)
    state = venue.runtime.state
    assert state.restoring is None, state.restoring
    assert lost_ids <= set(venue.store.execution_ids())
    assert not state.counters.get("ghosts")
    venue.run(600.0)
    venue.settle()
    assert venue.wrong() == []
    lost_cycles = {(x["slot_id"], x["trade_id"], x["cycle"]) for x in lost.export()["cycles"]}
    cycles = {(x["slot_id"], x["trade_id"], x["cycle"]) for x in venue.store.export()["cycles"]}
    assert lost_cycles <= cycles
    assert_all_have_rows(venue.store)
    lost.close()
    venue.store.close()


def assert_all_have_rows(store: SqliteStore) -> None:
    """Every execution must be one of an order that is written down."""
    history = store.export()
    known = {x["client_order_id"] for x in history["orders"]}
    assert {x["client_order_id"] for x in history["executions"]} <= known


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
def test_a_copy_that_had_heard_nothing_for_long_learns_all(tmp_path: Path, seed: int) -> None:
    """Quotes went on for a quarter of an hour while Kraken told nothing of the account."""
    venue = Venue(seed)
    venue.store = SqliteStore(tmp_path / "bot.db", epoch=EPOCH)
    venue.run(900.0)
    reader = venue.exchange.desk.reader
    names = ("open_orders", "closed_orders", "closed_page", "orders", "trades")

    def fail(*_: object, **__: object) -> None:
        raise CallFailed("no answer")

    for name in names:
        setattr(reader, name, fail)
    venue.run_on(900.0)
    for name in names:
        delattr(reader, name)
    backup(tmp_path / "bot.db", tmp_path / "copy.db")
    venue.run_on(300.0)
    lost = set(venue.store.execution_ids())
    venue.store.close()
    venue.store = SqliteStore(tmp_path / "copy.db")
    adopt_epochs(venue.store, ())
    venue.run(60.0)
    assert venue.runtime.state.restoring is None
    assert lost <= set(venue.store.execution_ids())
    assert_all_have_rows(venue.store)
    venue.settle()
    assert venue.wrong() == []
    venue.store.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 22))
def test_a_start_that_is_killed_while_it_learns_learns_on(tmp_path: Path, seed: int) -> None:
    """Killed within any step of it, again and again, on a line that loses answers."""
    venue = Venue(seed)
    copy = put_back(venue, tmp_path, 900.0)
    lost = set(venue.store.execution_ids())
    venue.store.close()
    venue.store = SqliteStore(copy)
    adopt_epochs(venue.store, ())
    venue.line.weather = Weather(rates={"crash": 0.2, "lost_response": 0.1})
    venue.run(120.0)
    assert venue.crashes > 3
    venue.settle()
    assert venue.runtime.state.restoring is None
    assert lost <= set(venue.store.execution_ids())
    assert venue.wrong() == []
    venue.store.close()


def test_epochs_are_adopted_for_a_run_only() -> None:
    """An empty database has nothing to bind orders to; a run draws a new epoch."""
    store = MemoryStore(epoch=7)
    with pytest.raises(StartRefused, match="holds no run"):
        adopt_epochs(store, (8,))
    trade(store)
    adopt_epochs(store, (8,))
    assert store.identity()[0] not in (7, 8)
    assert set(epochs_of(store)) == {store.identity()[0], 7, 8}
    store.close()
