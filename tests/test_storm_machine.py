"""A machine that plays exchange, market, network, people and death against the whole daemon.

Hypothesis chooses what happens next and how long; a failure comes as the shortest course of rules
that shows it. What must hold is the storm's own judge (`sim/storm_oracle.py`): after every rule
nothing may be wrong, and at the end, once all has come to rest, everything must add up.
"""

import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.commands import AuditPnl, Command, Halt, Pause, Resume
from sim.storm_line import befalls
from sim.storm_points import OUTCOMES
from sim.storm_weather import CALM, LAG_MAX_SEC, Weather
from sim.storm_world import World

OPENING_SEC = 40.0
SETTINGS = {
    "SLOT_COUNT": "2", "PAIR_ENTRY_PCT": "0.3", "PAIR_PROFIT_PCT": "1.0", "ORDER_SIZE_USD": "12",
    "HMM_ENABLED": "false",
}  # fmt: skip
COMMANDS: tuple[Command, ...] = (Pause(), Resume(), Halt(), AuditPnl())
FAULTS = OUTCOMES[1:]


class Led(World):
    """A world in which only that happens which a rule asks for."""

    def __init__(self, weather: Weather, *, folder: Path) -> None:
        self.fault, self.death, self.points_left = "", "", 0
        super().__init__(11, weather, folder=folder)

    def _watch_call(self, method: str, params: object) -> None:
        super()._watch_call(method, params)
        is_due = bool(self.fault) and befalls(self.fault, method)
        self.line.weather = Weather(rates={self.fault: 1.0} if is_due else {})
        self.fault = "" if is_due else self.fault

    def _dies(self, name: str) -> str | None:
        if not self.death:
            return None
        self.points_left -= 1
        is_step = name.startswith("after step")
        if self.points_left > 0 or (self.death == "torn_write" and not is_step):
            return None
        death, self.death = self.death, ""
        return death


class BotAndExchange(RuleBasedStateMachine):
    """One account, one bot, and everything that can happen to either."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="machine-")
        self.world: Led | None = None

    @property
    def venue(self) -> object:
        assert self.world is not None
        self.world.venue.advance(self.world.clock.there())
        return self.world.venue

    @initialize(is_lagging=st.booleans(), has_ledger=st.booleans(), rows=st.sampled_from((2, 50)))
    def begin(self, *, is_lagging: bool, has_ledger: bool, rows: int) -> None:
        """Start the daemon, and let it open its books."""
        weather = Weather(
            env=SETTINGS, lags={"": LAG_MAX_SEC} if is_lagging else {}, has_ledger=has_ledger,
            page_rows=rows, poll_sec=10.0, price_sec=5.0, candle_sec=10.0,
        )  # fmt: skip
        self.world = Led(weather, folder=Path(self._folder.name))
        self.world.run_on(OPENING_SEC)
        self.world.venue.is_still = True

    @rule(seconds=st.sampled_from((1.0, 5.0, 15.0, 60.0)))
    def pass_time(self, seconds: float) -> None:
        """Let the daemon work for a while."""
        self.world.run_on(seconds)

    @rule(tenths=st.integers(-12, 12), volume=st.sampled_from((7, 40, 100_000)))
    def trade(self, tenths: int, volume: int) -> None:
        """Let the market trade from where it is to some tenths of a percent away, and stay."""
        last = self.venue.account.engine.quote().last
        to = last * (1 + Decimal(tenths) / 1000)
        self.world.events._print(min(last, to), max(last, to), Decimal(volume))
        self.world.run_on(6.0)

    @rule(fault=st.sampled_from(FAULTS))
    def lose_next(self, fault: str) -> None:
        """Let the next call that it can befall go wrong."""
        self.world.fault = fault

    @rule(how=st.sampled_from(("crash", "torn_write", "power_cut")), points=st.integers(1, 12))
    def die(self, how: str, points: int) -> None:
        """Let the process die some points of input or output from now."""
        self.world.death, self.world.points_left = how, points

    @rule()
    def restart(self) -> None:
        """Stop it as an operator does, and start it again."""
        self.world.stop()
        self.world.run_on(5.0)

    @rule(command=st.sampled_from(COMMANDS))
    def operate(self, command: Command) -> None:
        """Send a command, and resume later."""
        if self.world.is_up:
            self.world.events.command(command)
            self.world.run_on(2.0)

    @rule()
    def meddle(self) -> None:
        """Cancel or amend one of the daemon's orders at the exchange."""
        self.world.events._meddle()

    @rule(is_expired=st.booleans())
    def end_order(self, *, is_expired: bool) -> None:
        """Let the exchange end one of them."""
        how = ("expired", "Order expired") if is_expired else ("canceled", "Liquidity")
        self.world.events._end_order(*how)

    @rule()
    def trade_by_hand(self) -> None:
        """Let somebody else trade on the account."""
        self.world.events._trade()

    @rule()
    def move_funds(self) -> None:
        """Deposit or withdraw."""
        self.world.events._move()

    @rule(seconds=st.sampled_from((10.0, 300.0)))
    def sleep(self, seconds: float) -> None:
        """Let the machine sleep."""
        self.world.clock.sleep(seconds)

    @rule(status=st.sampled_from(("maintenance", "cancel_only", "post_only", "limit_only")))
    def close_market(self, status: str) -> None:
        """Let the exchange take fewer orders, or none, for a while."""
        self.venue.set_status(status)
        self.world.run_on(20.0)
        self.world.venue.set_status("online")

    @rule(seconds=st.sampled_from((3.0, 45.0)))
    def fill_disk(self, seconds: float) -> None:
        """Let the disk be full for a while."""
        self.world.disk.full_until = self.world.clock() + seconds
        self.world.run_on(10.0)

    @invariant()
    def nothing_is_wrong(self) -> None:
        """The judge has nothing to say so far."""
        if self.world is not None:
            assert self.world.oracle.wrongs == []

    def teardown(self) -> None:
        """Let all come to rest, and judge."""
        try:
            if self.world is not None:
                self.world.fault = self.world.death = ""
                self.world.venue.is_still = False
                self.world.settle(60.0, 180.0)
                assert self.world.oracle.judge() == []
        finally:
            if self.world is not None:
                self.world.close()
            self._folder.cleanup()


def _run(examples: int, steps: int) -> None:
    machine = BotAndExchange.TestCase
    machine.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    machine().runTest()


def test_a_calm_world_is_led_by_rules_alone(tmp_path: Path) -> None:
    """Without a rule nothing dies and nothing fails; there are orders to be wrong about."""
    world = Led(CALM, folder=tmp_path)
    try:
        world.run_on(OPENING_SEC)
        assert world.is_up
        assert world.venue.truth().orders
        assert world.counts == {"starts": 1}
    finally:
        world.close()


@pytest.mark.slow(seconds=40)
def test_bot_and_exchange_hold_whatever_happens() -> None:
    """Short courses of everything."""
    _run(40, 15)


@pytest.mark.long
def test_bot_and_exchange_hold_for_longer() -> None:
    """More of them, and longer ones."""
    _run(1_000, 40)
