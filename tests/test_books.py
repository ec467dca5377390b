"""Proofs over stores: what folding shows, and what it must not claim of another program's work."""

from decimal import Decimal

import pytest

from core import events as e
from core.domain import FeeRates, RejectReason
from core.params import Params
from core.ports import Loaded, Venue
from core.record import replace
from engine.books import ExchangeBooks, conserved, refold, verify
from engine.runtime import Runtime
from engine.status_view import build_status
from store.memory import MemoryStore
from store.sqlite import SqliteStore
from tests.test_status import sample_facts, sample_state
from tests.test_store import trade
from tests.world import GOLDEN_FEES, GOLDEN_INSTRUMENT, GOLDEN_PARAMS, START

D = Decimal


def started_again(store: SqliteStore, fees: FeeRates = GOLDEN_FEES) -> Runtime:
    """Return a runtime of this program that goes on with a store."""
    runtime = Runtime(store, None, None)
    assert runtime.restore()
    own = runtime.state.balances
    venue = Venue(instrument=GOLDEN_INSTRUMENT, fees=fees, base=own.base, quote=own.quote)
    runtime.start(venue, GOLDEN_PARAMS, now=runtime.state.now, bot_tag=1)
    for n in range(1, 4):
        runtime.step(e.TimerTick(time=runtime.state.now + n))
    return runtime


def test_a_journal_of_this_program_is_proved_from_its_first_event() -> None:
    """Across a restart every row is folded, and every snapshot passed is compared."""
    store = MemoryStore(epoch=7)
    trade(store)
    runtime = started_again(store)
    folded = refold(store)
    assert (folded.count, folded.foreign, folded.differences) == (runtime.seq, 0, ())
    assert folded.state == runtime.state


def test_books_that_are_not_open_yet_are_no_difference() -> None:
    """Between the first event and the first balances there is nothing that could agree."""
    runtime = Runtime(MemoryStore(epoch=7), None, None)
    venue = Venue(instrument=GOLDEN_INSTRUMENT, fees=GOLDEN_FEES, base=D(5000), quote=D(500))
    runtime.start(venue, GOLDEN_PARAMS, now=START, bot_tag=1)
    there = ExchangeBooks(base=D(5000), quote=D(500), effects={}, untold=frozenset())
    check = conserved(runtime.store, runtime.state, there)
    assert check.is_ok
    assert check.detail.endswith("our own books are not open yet")
    lost = replace(there, effects={"t": (D(1), D(-1))})
    assert not conserved(runtime.store, runtime.state, lost).is_ok
    runtime.step(e.BalancesReported(time=START + 1, base=D(4000), quote=D(500)))
    assert not conserved(runtime.store, runtime.state, there).is_ok


def test_an_upgrade_starts_and_only_own_segments_are_judged() -> None:
    """What an older program journaled is reported with its version, never called proved."""
    store = MemoryStore(epoch=7)
    old = trade(store, "0.0.9+old")
    price = e.PriceTick(time=old.state.now, bid=D("0.0999"), ask=D("0.1001"), last=D("0.1"))
    old.step(replace(price, bid=D("0.09999"), ask=D("0.10003")))
    before = old.seq
    runtime = started_again(store)
    assert runtime.state.slots[0].totals.cycles == 1
    folded = refold(store)
    assert folded.foreign == before
    assert folded.count == runtime.seq - before
    assert folded.programs == ("0.0.9+old",)
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    checks = verify(store, current, None)
    assert all(check.is_ok for check in checks)
    assert f"{before:,} more were written by 0.0.9+old and are not judged" in checks[0].detail


def test_a_journal_of_another_program_alone_is_not_called_folded() -> None:
    """Nothing is judged before the new program has started; the detail says so."""
    store = MemoryStore(epoch=7)
    old = trade(store, "0.0.9+old")
    folded = refold(store)
    assert (folded.state, folded.count, folded.foreign) == (None, 0, old.seq)


def test_a_journal_without_its_beginning_is_proved_from_the_oldest_snapshot() -> None:
    """What was pruned is gone; all that is kept is folded."""
    store = MemoryStore(epoch=7, retention_days=0)
    runtime = trade(store)
    for n in range(1, 200):
        runtime.step(e.TimerTick(time=runtime.state.now + 1_000 + n))
    first = next(iter(store.journal(after=0))).seq
    assert first > 1
    folded = refold(store)
    assert (folded.count, folded.foreign) == (runtime.seq - next(iter(store.snapshots())).seq, 0)
    assert folded.state == runtime.state


def test_a_snapshot_that_differs_from_its_journal_is_found() -> None:
    """A state that was changed behind the journal's back does not pass."""
    store = MemoryStore(epoch=7)
    runtime = trade(store)
    runtime.state = replace(runtime.state, next_slot_id=99)
    runtime.snapshot()
    runtime.step(e.TimerTick(time=runtime.state.now + 1))
    assert any("snapshot" in text for text in refold(store).differences)


def test_history_older_than_its_retention_goes_and_the_account_stays() -> None:
    """Events, ledger lines and hourly points go by age; executions, cycles, orders never."""
    store = MemoryStore(epoch=7, history_days=31)
    runtime = trade(store)
    for _ in range(24 * 40):
        runtime.step(e.TimerTick(time=runtime.state.now + 3_600))
    kept = store.export()
    horizon = runtime.state.now - 31 * 86_400
    assert len(kept["executions"]) == 2
    assert len(kept["cycles"]) == 1
    assert len(kept["orders"]) >= 2
    assert [row for row in kept["ledger_entries"] if row["time"] < horizon - 3_600] == []
    assert len(kept["equity"]) >= 39  # one a day, all of them
    hours = store._rows("SELECT count(*) FROM equity WHERE NOT is_daily")
    assert next(hours)[0] <= 31 * 24 + 1
    current = Loaded(seq=runtime.seq, state=runtime.state, params=runtime.params)
    assert all(check.is_ok for check in verify(store, current, None))


def test_a_step_without_quiet_bounds_is_stored_whole() -> None:
    """While an implausible price waits for a second one, order news reach state and orders rows."""
    store = MemoryStore(epoch=7)
    runtime = Runtime(store, None, None)
    venue = Venue(instrument=GOLDEN_INSTRUMENT, fees=GOLDEN_FEES, base=D(10_000), quote=D(1_000))
    runtime.start(venue, GOLDEN_PARAMS, now=START, bot_tag=1)
    runtime.step(e.BalancesReported(time=START, base=venue.base, quote=venue.quote))
    runtime.step(e.PriceTick(time=START, bid=D("0.09999"), ask=D("0.10001"), last=D("0.1")))
    for n in (1, 2):
        runtime.step(e.TimerTick(time=START + n))
    a, b = (leg.state.order.client_order_id for leg in runtime.state.slots[0].legs)
    runtime.step(e.PriceTick(time=START + 2, bid=D("0.12"), ask=D("0.12001"), last=D("0.12")))
    assert runtime.state.quiet is None
    runtime.step(e.OrderAccepted(time=START + 2, client_order_id=a, txid="TA"))
    duplicate = RejectReason.DUPLICATE_ID
    runtime.step(e.OrderRejected(time=START + 2, client_order_id=b, reason=duplicate))
    loaded = store.load()
    assert loaded is not None
    assert loaded.state == runtime.state
    rows = {x["client_order_id"]: x for x in store.export()["orders"]}
    assert (rows[a]["status"], rows[a]["txid"]) == ("open", "TA")
    assert (rows[b]["status"], rows[b]["closed_at"]) == ("uncertain", None)
    runtime.step(e.OrderFound(time=START + 3, client_order_id=b, txid="TB", executed=D(0)))
    rows = {x["client_order_id"]: x for x in store.export()["orders"]}
    assert (rows[b]["status"], rows[b]["txid"]) == ("open", "TB")


@pytest.mark.parametrize(("off", "agrees"), [("0.0004", True), ("0.0005", False)])
def test_status_books_agree_but_for_rounding(off: str, agrees: bool) -> None:
    """Two units for each execution are no difference; a report before a fill says nothing."""
    state = sample_state()
    own = replace(state.balances, reported_base=state.balances.base)
    own = replace(own, reported_quote=own.quote + D(off))
    instrument = replace(state.instrument, quote_unit=D("0.0001"))
    state = replace(state, balances=own, instrument=instrument, counters={"fills": 2})
    ledger = build_status(state, Params(), sample_facts()).ledger
    assert (ledger.agrees, ledger.drift_quote) == (agrees, off)
    executed = replace(own, last_execution_at=(own.reported_at or 0.0) + 1.0)
    later = build_status(replace(state, balances=executed), Params(), sample_facts()).ledger
    assert later.agrees is None
