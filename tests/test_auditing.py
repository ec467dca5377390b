"""The books recomputed from the executions (spec: dashboard, section 2, `audit_pnl`)."""

import random
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from core import actions as a
from core import commands as c
from core import events as e
from core.domain import Audit, Difference
from core.ports import Loaded, StoreError
from core.record import replace
from core.state import Exiting, LockName
from engine.books import refold, verify
from engine.runtime import Runtime
from grid.auditing import figures
from store.history import SqliteHistory
from store.memory import MemoryStore
from store.sqlite import SqliteStore
from tests.test_ghosts import fill, found, ghost_id
from tests.test_interleavings import PARAMS, ModelExchange, act
from tests.test_store import trade
from tests.world import GOLDEN_INSTRUMENT, World, of

D = Decimal
PLAIN = Audit(seq=0, executions=2, cycles=1)


class StoredWorld(World):
    """A world whose steps go through a runtime into a store."""

    def __init__(self, store: SqliteStore, least: int = 5) -> None:
        self.runtime = Runtime(store, None, None, code="test")
        super().__init__(PARAMS, instrument=replace(GOLDEN_INSTRUMENT, order_min=D(least)))

    def step(self, event: e.Event) -> list[a.Action]:
        """Step the runtime."""
        actions = list(self.runtime.step(event))
        self.state = self.runtime.state
        self.log.extend(actions)
        return actions

    def loaded(self) -> Loaded:
        """Return the books as they are."""
        return Loaded(seq=self.runtime.seq, state=self.state, params=self.runtime.params)

    def audit(self) -> a.ReplyToOperator:
        """Carry an audit out."""
        return self.command(c.AuditPnl(audit=self.runtime.store.audit(self.loaded())))


def live(world: StoredWorld, steps: int, seed: int = 7) -> None:
    """Let everything happen that a venue, a market and an operator may do, at random."""
    rnd, exchange = random.Random(seed), ModelExchange(world)
    world.enter()
    exchange.collect()
    for n in range(steps):
        both = [
            slot.slot_id
            for slot in world.state.slots
            if all(isinstance(leg.state, Exiting) for leg in slot.legs) and not slot.recovery_orders
        ]
        if both and n % 2:
            world.command(c.PairOff(slot=both[0], confirm=True))
        if n % 200 == 100:
            world.step(e.ExternalFlow(time=world.now, base=D(7), quote=D("1.5"), reference=str(n)))
            found(world, ghost_id(world))
            fill(world, ghost_id(world), f"G{n}", "3")
        act(exchange, rnd.randint(0, 11), rnd.randint(0, 40), rnd.randint(1, 4))


@pytest.mark.slow
def test_a_long_run_agrees_to_the_last_digit() -> None:
    """Recoveries, parts, rests, soft closes, pair-offs, releases, flows and ghosts are all in.

    Where all cycles are wrong, they are counted and a few are listed.
    """
    store = MemoryStore(epoch=2)
    world = StoredWorld(store)
    live(world, 1200)
    audit = store.audit(world.loaded())
    assert (audit.agrees, audit.cycles_wrong) == (True, 0), audit
    assert audit.executions == len(of(world.log, a.RecordExecution)) > 150
    booked = of(world.log, a.BookCycleAction)
    assert {x.resolution for x in booked} == {"exit", "recovery", "partial", "pair_off"}
    assert audit.cycles == len(booked) > 30
    whole = [x for x in booked if x.resolution in ("exit", "recovery")]
    assert 0 < audit.cycles_shared < audit.cycles - len(whole) / 2
    posted = {x.reason for x in of(world.log, a.PostEntries)}
    assert {"residual joins", "released to inventory", "ghost execution", "external flow"} < posted
    assert world.state.counters["cancels:soft_close"] > 0
    said = world.audit()
    assert f"agree with {audit.executions:,} executions and {audit.cycles:,} cycles" in said.message
    assert f"{audit.cycles_shared:,} cycles share executions with others" in said.message
    assert dict(said.changed) == {
        "balances": "0", "ledger": "0", "cycles": "0",
        "executions_read": str(audit.executions), "cycles_read": str(audit.cycles),
        "cycles_taken_as_booked": str(audit.cycles_shared),
    }  # fmt: skip
    assert refold(store, code="test").differences == ()
    store._open_db.execute("UPDATE cycles SET net_profit = net_profit || '1'")
    wrong = store.audit(world.loaded())
    assert (wrong.cycles_wrong, len(wrong.in_cycles)) == (audit.cycles, 10)
    assert dict(figures(wrong))["cycles"].startswith(f"{audit.cycles} differ: slot 1 leg ")


GROSS = "slot 1 leg B cycle 1 gross"
NET = "slot 1 leg B cycle 1 net"
FEES = "slot 1 leg B cycle 1 fees"


@pytest.mark.parametrize(("statement", "balances", "ledger", "cycles"), [
    ("UPDATE executions SET cost = '2.0' WHERE role = 'entry'",
     {"quote": "0.004"}, {"cash": "0.004", "grid_profit": "-0.004"},
     {GROSS: "0.004", NET: "0.004", "profit of slot 1": "0.004"}),
    ("UPDATE executions SET fee = '0.006' WHERE role = 'entry'",
     {"quote": "0.001"}, {"cash": "0.001", "fees": "-0.001"},
     {FEES: "-0.001", NET: "0.001", "profit of slot 1": "0.001"}),
    ("DELETE FROM executions WHERE role = 'exit'",
     {"base": "-20", "quote": "2.01092", "executions": "1"},
     {"cash": "2.01092", "fees": "0.00504"}, {}),
    ("UPDATE cycles SET gross_profit = '0.5'", {}, {}, {GROSS: "0.48004"}),
    ("UPDATE cycles SET fees = '0.02'", {}, {}, {FEES: "0.00996"}),
    ("UPDATE cycles SET net_profit = '-1'", {}, {}, {NET: "-1.00992"}),
    ("UPDATE cycles SET volume = '21'", {}, {"grid_profit": "0.000998"},
     {GROSS: "-0.000998", NET: "-0.000998", "profit of slot 1": "-0.000998"}),
    ("DELETE FROM cycles", {}, {"grid_profit": "-0.01996"},
     {"number of cycles": "1", "profit of slot 1": "0.00992"}),
])  # fmt: skip
def test_a_row_that_was_changed_is_found_with_its_amount(
    tmp_path: Path, statement: str, balances: dict[str, str], ledger: dict[str, str],
    cycles: dict[str, str],
) -> None:  # fmt: skip
    """Amounts are by how much the books have more than the executions say."""
    store = SqliteStore(tmp_path / "bot.db", epoch=7)
    trade(store)
    store.close()
    history = SqliteHistory(tmp_path / "bot.db")
    before = history.audit()
    assert before is not None
    assert before == replace(PLAIN, seq=before.seq)
    with sqlite3.connect(tmp_path / "bot.db") as db:
        db.execute("PRAGMA foreign_keys = OFF")
        assert db.execute(statement).rowcount == 1
    db.close()
    audit = history.audit()
    assert audit is not None
    assert not audit.agrees
    assert [amounts(x) for x in (audit.in_balances, audit.in_ledger, audit.in_cycles)] == [
        {name: D(x) for name, x in wanted.items()} for wanted in (balances, ledger, cycles)
    ]


def amounts(differences: tuple[Difference, ...]) -> dict[str, Decimal]:
    """Return differences by name."""
    return {x.name: x.amount for x in differences}


@pytest.mark.parametrize(("account", "told"), [
    ("cash", "cash"), ("reserved", "cash"), ("fees", "fees"), ("capital", "capital"),
    ("positions", "positions"), ("residuals", "residuals"), ("grid_profit", "grid_profit"),
    ("unbooked", "unbooked"), ("inventory", ""), ("flows", ""),
])  # fmt: skip
def test_an_account_that_was_changed_is_found_with_its_amount(account: str, told: str) -> None:
    """Each by itself, and that debits and credits do not balance any more."""
    store = MemoryStore(epoch=7)
    runtime = trade(store)
    books = runtime.state.accounts
    wrong = replace(books, **{account: getattr(books, account) + D("0.0001")})
    state = replace(runtime.state, accounts=wrong)
    audit = store.audit(Loaded(seq=runtime.seq, state=state, params=runtime.params))
    names = {told, "all accounts together"} - {""}
    assert (audit.in_balances, audit.in_cycles) == ((), ())
    assert amounts(audit.in_ledger) == dict.fromkeys(names, D("0.0001"))
    checks = verify(store, Loaded(seq=runtime.seq, state=state, params=runtime.params), None)
    (check,) = [x for x in checks if x.name.startswith("balances, ledger and cycles")]
    assert not check.is_ok
    assert "all accounts together +0.0001" in check.detail


def test_the_lock_is_cleared_only_where_all_agree() -> None:
    """A cycle that is wrong keeps it though balances agree; so does an exchange that differs."""
    store = MemoryStore(epoch=7)
    world = StoredWorld(store, least=1)
    world.enter()
    for name in ("1B.entry", "1B.exit"):
        world.fill(name)
    own = world.state.balances
    wrong = e.BalancesReported(time=world.now, base=own.base - 5000, quote=own.quote)
    world.step(wrong)
    world.advance(31)
    world.step(replace(wrong, time=world.now))
    right = replace(wrong, time=world.now, base=own.base)
    locked = [LockName.RECONCILIATION]
    assert [x.name for x in world.state.risk.locks] == locked
    assert "the lock stays until all agree" in world.audit().message
    world.step(right)
    for net, is_cleared in (("1.01996", False), ("0.01996", True)):
        store._open_db.execute("UPDATE cycles SET net_profit = ?", (net,))
        said = world.audit()
        assert said.is_accepted
        assert ("the lock stays until all agree" in said.message) is not is_cleared
        assert [x.name for x in world.state.risk.locks] == ([] if is_cleared else locked)
        told = dict(said.changed)["cycles"]
        assert told == ("0" if is_cleared else f"1 differ: {NET} +1.000000000")


def test_books_and_executions_are_read_as_of_one_step(tmp_path: Path) -> None:
    """Steps taken while an audit reads are no difference; it tells of which step it is."""
    path, seen = tmp_path / "bot.db", []
    ready, done = threading.Event(), threading.Event()

    def run() -> None:
        store = SqliteStore(path, epoch=2)
        world = StoredWorld(store, least=1)
        ready.set()
        live(world, 60)
        store.close()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    history = SqliteHistory(path)
    while not done.is_set():
        seen.append(history.audit())
    thread.join()
    assert all(x is not None and x.agrees for x in seen)
    assert len({x.seq for x in seen if x is not None}) > 5


def test_a_row_that_holds_no_amount_is_an_error() -> None:
    """It is never taken for a difference of nothing."""
    store = MemoryStore(epoch=7)
    runtime = trade(store)
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    for column, value in (("cost", "abc"), ("side", "up"), ("fee", "0." + "1" * 200)):
        store._open_db.execute("SAVEPOINT before")
        store._open_db.execute(f"UPDATE executions SET {column} = ?", (value,))
        with pytest.raises(StoreError, match="hold what is no amount"):
            store.audit(current)
        store._open_db.execute("ROLLBACK TO before")
    assert store.audit(current).agrees


def test_an_audit_without_its_store_is_refused() -> None:
    """As one of an old journal is read, which held two sums over the balances."""
    old = '{"action":"audit_pnl","base_difference":"0","quote_difference":"0"}'
    command = msgspec.json.decode(old, type=c.Command)
    assert command == c.AuditPnl()
    assert "needs the store" in World().command(command).message
