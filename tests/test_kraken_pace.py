"""The desk under its rate limit: what is less urgent comes too, orders in doubt share reads.

The world of `tests/kraken_world.py`: the real parts on a clock that only the test moves.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from core.domain import OrderStatus
from core.events import BalancesReported, OrderRejected
from core.ports import Unavailable
from core.record import replace
from engine.live import last_alive
from exchange.kraken_budget import Budget, Priority
from exchange.kraken_desk import DeskConfig
from exchange.kraken_records import Answer
from exchange.kraken_start import read_start
from exchange.nonce import SPAN_NS
from sim.storm_clock import START
from sim.storm_weather import Weather
from tests.kraken_world import EPOCH, PARAMS, TAG, World

BUSY = replace(
    PARAMS,
    slot_count=6,
    entry_pct=Decimal("0.1"),
    profit_pct=Decimal("1.0"),
    recon_interval_sec=10.0,
)


def busy_world(**weather: Any) -> World:
    """Return a world whose orders are asked for each second, and fill often."""
    return World(3, params=BUSY, config=DeskConfig(poll_sec=1.0), step_pct=0.4, **weather)


def test_balances_are_compared_however_often_orders_are_asked_for() -> None:
    """Polls use up all there is; what has waited long goes before them."""
    world = busy_world()
    world.run(300.0)
    rows = [x.event for x in world.store.journal(after=0)]
    times = [x.time for x in rows if isinstance(x, BalancesReported)]
    assert len(times) > 6
    assert max(later - earlier for earlier, later in pairwise(times)) < 60


def test_an_order_not_shown_yet_keeps_no_poll_from_its_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With reads that lag, a young order is in no read: asking for it would fail all the others."""
    caplog.set_level(logging.INFO)
    world = busy_world(lags={"": 4.0})
    world.run(300.0)
    assert not [x for x in caplog.messages if "QueryOrders" in x]
    world.settle()
    assert world.wrong() == []


class Counting:
    """Counts the calls of a line, and loses every order on its way."""

    def __init__(self, world: World) -> None:
        self.calls: Counter[str] = Counter()
        self._line = world.line
        self._private = world.line.private

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Count a call and carry it."""
        self.calls[method] += 1
        if method == "AddOrder" and self.calls[method] <= 6:
            return Answer(errors=("EWeather:Cloudy",), was_sent=True)
        return self._private(method, params)


def test_orders_in_doubt_are_looked_for_together() -> None:
    """Six whose answer was lost are settled with the reads of one, and all of them as absent."""
    world = World(4, params=replace(BUSY, slot_count=3), config=DeskConfig(poll_sec=300.0))
    counting = Counting(world)
    world.line.private = counting.private  # type: ignore[method-assign]
    world.run(60.0)
    rows = [x.event for x in world.store.journal(after=0)]
    lost = [x for x in rows if isinstance(x, OrderRejected) and x.reason == "never_arrived"]
    assert len(lost) == 6
    assert counting.calls["ClosedOrders"] <= 18  # 36 if each had its own: three looks, two pages
    world.settle()
    assert world.wrong() == []
    statuses = {x.status for x in world.exchange.desk.known.values()}
    assert statuses <= {OrderStatus.OPEN, OrderStatus.CANCELLING}


def test_a_look_that_fails_leaves_no_order_in_doubt_behind() -> None:
    """All that were looked for together are looked for again."""
    world = World(5, params=BUSY, config=DeskConfig(poll_sec=5.0))
    world.line.weather = Weather(rates={"lost_response": 0.3, "html": 0.2, "error_before": 0.2})
    world.run(200.0)
    world.settle()
    assert world.wrong() == []


def test_a_start_assumes_what_the_run_before_may_have_used() -> None:
    """Right after a crash that is the most we ever allow ourselves; it falls as ever."""
    budget = Budget("starter")
    budget.take_over(START, quiet_sec=0.0)
    budget.spend(3.0, START)
    assert budget.wait(1.0, 0.0, Priority.RESOLVE, START) > 0
    assert 13.0 < budget.view(START).rest_used <= 15.0
    rested = Budget("starter")
    rested.take_over(START, quiet_sec=60.0)
    rested.spend(3.0, START)
    assert rested.view(START).rest_used == 3.0
    assert rested.wait(1.0, 0.0, Priority.EXECUTIONS, START) == 0.0


def test_the_run_before_may_have_called_until_half_a_span_before_its_ceiling() -> None:
    """Reads without news leave no event behind; a new database has no run before."""
    world = World(1, step_pct=0.02)
    assert last_alive(world.store, 0, world.clock()) == float("-inf")
    world.run(60.0)
    alive_at = world.clock()
    told = last_alive(world.store, 0, alive_at)
    ceiling = int(world.store.identity()[1]["nonce_ceiling"])
    assert told <= alive_at <= last_alive(world.store, ceiling, alive_at) + 1.0
    assert last_alive(world.store, ceiling, alive_at) <= alive_at + SPAN_NS / 2e9


def test_a_run_that_ended_well_called_last_with_the_nonce_below_its_ceiling() -> None:
    """Its ceiling is no bound ahead of the clock, but what it has used."""
    world = World(1, step_pct=0.02)
    world.run(60.0)
    ended_at = world.clock() + 5.0
    ceiling = int(ended_at * 1e9)
    assert last_alive(world.store, ceiling, ended_at + 1.0) == pytest.approx(ended_at)


def test_a_start_that_is_locked_out_is_not_asked_again_at_once() -> None:
    """The error tells how long to wait: every call would prolong the lockout."""
    world = World(6)

    def locked(method: str, params: Mapping[str, object]) -> Answer:
        return Answer(errors=("EGeneral:Temporary lockout",))

    world.line.private = locked  # type: ignore[method-assign]
    with pytest.raises(Unavailable) as raised:
        read_start(world.line, "XDGUSD", tag=TAG, epochs=(EPOCH,), clock=world.clock)
    assert raised.value.pause_sec >= 900.0
