"""Balances and flows while somebody else trades with the same account all the time.

The world of `tests/kraken_world.py`: the real parts on a clock that only the test moves.
"""

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise

import pytest

from core.domain import Side
from core.events import BalancesReported, ExternalFlow
from core.record import replace
from core.state import LockName
from engine.books import ExchangeBooks, conserved
from exchange.sandbox_records import OrderRequest, Truth
from tests.kraken_world import PARAMS, World

D = Decimal


class Trading(World):
    """A person buys and sells by turns, each `every` seconds, until `ends`."""

    def __init__(self, every: float) -> None:
        super().__init__(3, has_ledger=True)
        self.every, self.ends, self.burst = every, float("inf"), 1
        self._next, self._side = self.clock.there(), Side.BUY

    def operate(self) -> None:
        """Trade when it is time."""
        super().operate()
        now = self.clock.there()
        if not self._next <= now < self.ends:
            return
        self._next = now + self.every
        self.venue.advance(now)
        for _ in range(self.burst):
            self._trade(now)

    def _trade(self, now: float) -> None:
        quote = self.venue.account.engine.quote()
        if quote is not None:
            away = D("1.01") if self._side is Side.BUY else D("0.99")
            price = self.venue.account.instrument.price_down(quote.last * away)
            request = OrderRequest(side=self._side, volume=D(60), price=price, time_in_force="IOC")
            self.venue.account.place(request, now)
            self._side = Side.SELL if self._side is Side.BUY else Side.BUY

    def rest(self) -> None:
        """Let the person stop, and all be heard of."""
        self.ends = self.clock.there()
        self.run_on(400.0)

    def references(self) -> list[str]:
        """Return the references of all flows told."""
        rows = [x.event for x in self.store.journal(after=0)]
        return [x.reference for x in rows if isinstance(x, ExternalFlow)]

    def told(self, kind: type) -> list[float]:
        """Return when events of a kind were booked."""
        return [x.event.time for x in self.store.journal(after=0) if isinstance(x.event, kind)]


@pytest.mark.slow
@pytest.mark.parametrize("every", [20.0, 45.0])
def test_balances_are_compared_though_a_stranger_trades_all_the_time(every: float) -> None:
    """With a new database too: trading begins within minutes, and every report comes soon."""
    world = Trading(every)
    world.run(1200.0)
    state, reports = world.runtime.state, world.told(BalancesReported)
    assert world.exchange.desk.is_ready
    assert state.balances.start_mark > 0
    assert state.counters["orders"] > 3
    assert reports[0] < world.told(ExternalFlow)[0]
    assert max(later - earlier for earlier, later in pairwise(reports)) < 400
    world.rest()
    assert world.wrong() == []


def test_nothing_is_placed_before_balances_are_compared() -> None:
    """A reading that is put off is none: the desk goes on waiting for it."""
    world = Trading(3.0)
    world.run(45.0)
    assert world.told(BalancesReported) == []
    assert not world.exchange.desk.is_ready
    world.run_on(60.0)
    assert world.told(BalancesReported)
    assert world.exchange.desk.is_ready


@pytest.mark.slow
def test_flows_are_booked_once_over_restarts_however_many_there_were() -> None:
    """More ledger lines than a count would keep are told again after a restart."""
    world = Trading(20.0)
    world.burst = 6
    world.run(1500.0)
    told = len(world.told(ExternalFlow))
    assert told > 250
    for _ in range(3):
        world.clock.pass_(5.0)
        world.run(90.0)
    assert len(world.told(ExternalFlow)) > told + 200
    world.rest()
    assert world.wrong() == []
    assert len(world.runtime.state.flows_told) < len(set(world.references()))


def test_flows_between_the_start_and_the_first_report_are_not_booked_after_a_restart() -> None:
    """What was before the balances that opened the books is part of them."""
    world = Trading(3.0)
    world.run(75.0)
    assert world.told(BalancesReported)
    world.clock.pass_(5.0)
    world.run(60.0)
    world.rest()
    assert world.wrong() == []


@pytest.mark.slow
def test_rounding_of_executions_is_no_difference() -> None:
    """Kraken keeps USD in four decimals: books agree, and the ledger is not asked each time."""
    world = World(3, has_ledger=True)
    calls: Counter[str] = Counter()
    check = world.line.watch

    def watch(method: str, params: Mapping[str, object]) -> None:
        calls[method] += 1
        check(method, params)

    world.line.watch = watch
    world.run(3600.0)
    world.settle()
    own, there = world.runtime.state.balances, world.venue.truth()
    quote = there.balances["ZUSD"]
    assert len(there.trades) > 40
    assert quote == quote.quantize(D("0.0001")) != own.quote
    assert own.drift_since is None
    assert calls["Ledgers"] < calls["Balance"]
    assert world.wrong() == []
    books = books_of(there)
    found = conserved(world.store, world.runtime.state, books)
    assert found.is_ok
    assert f"within the rounding of {len(there.trades)} executions" in found.detail
    off = replace(books, quote=books.quote + D("0.0003") * len(there.trades))
    assert not conserved(world.store, world.runtime.state, off).is_ok
    off = replace(books, base=books.base + D("0.00000001"))
    assert not conserved(world.store, world.runtime.state, off).is_ok


def test_without_the_ledger_what_a_stranger_moves_locks_entries_and_changes_no_books() -> None:
    """The key may not read it: nobody can tell a flow from a loss, so a person has to look."""
    world = World(3, step_pct=0.0, params=replace(PARAMS, recon_interval_sec=30.0))
    world.run(60.0)
    before = world.runtime.state.balances
    world.venue.deposit("ZUSD", D(40))
    world.run_on(120.0)
    own = world.runtime.state.balances
    assert (own.base, own.quote, own.flow_quote) == (before.base, before.quote, 0)
    assert [x.name for x in world.runtime.state.risk.locks] == [LockName.RECONCILIATION]


def books_of(truth: Truth) -> ExchangeBooks:
    """Return the venue's own view, as `verify` reads it."""
    effects = {}
    for x in truth.trades:
        sign = 1 if x.side is Side.BUY else -1
        effects[x.trade_id] = (sign * x.volume, -sign * x.cost - x.fee)
    base, quote = truth.balances["XXDG"], truth.balances["ZUSD"]
    return ExchangeBooks(base=base, quote=quote, effects=effects, untold=frozenset())


def test_what_moves_right_after_the_books_open_is_booked_by_a_run_with_another_clock() -> None:
    """The line is later than the opening by the exchange's clock, whatever ours says meanwhile.

    Seed 119 of the storm: a run whose clock was a second behind took it for older than the books.
    """
    world = World(3, has_ledger=True)
    world.run(0.5)
    while world.runtime.state.balances.reported_at is None:
        world.run_on(0.1)
    world.venue.deposit("ZUSD", D(25))
    world.clock.offset += 1.4
    world.run(400.0)
    told = [x.event for x in world.store.journal(after=0) if isinstance(x.event, ExternalFlow)]
    assert [x.quote for x in told] == [25]
    assert world.runtime.state.balances.flow_quote == 25
