"""What the fault storm (`sim/faults.py`) has found, case by case."""

from decimal import Decimal

from core.state import Idle
from tests.world import World

D = Decimal


def test_an_exit_that_somebody_made_larger_is_booked_whole() -> None:
    """What it executes beyond the position comes out of the inventory; the books still add up.

    Seed 1: an operator raised the volume of a resting exit at the exchange, and it filled.
    """
    world = World()
    world.enter()
    world.fill("1B.entry")
    world.accept("1B.exit")
    order, base = world.order("1B.exit"), world.state.balances.base
    world.fill("1B.exit", volume=order.volume + 10)
    assert world.state.balances.base == base - order.volume - 10
    leg = world.leg("1B")
    assert isinstance(leg.state, Idle)
    assert leg.totals.written_off_volume == -10
    assert world.slot().totals.cycles == 1
    assert world.state.accounts.positions == 0
    assert world.violations(world.state) == []
