"""The loop and the horizon: nothing is touched that lies beyond what is known of the market."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import config
from core import events as e
from core.commands import Pause
from core.domain import Instrument
from core.params import Params
from core.ports import Message
from core.record import replace
from engine.clock import Pacer
from engine.loop import Loop
from engine.runtime import Runtime
from exchange.matching import MatchingConfig
from exchange.paper import PaperExchange
from market.synthetic import SyntheticSource
from store.memory import MemoryStore

PARAMS = replace(Params(), slot_count=1, is_simulated=True)


class Bounded(PaperExchange):
    """A paper exchange whose market is known only up to `known`."""

    known: float = 0.0
    seen = 0.0
    on_look: Callable[[], None] = staticmethod(lambda: None)

    def horizon(self) -> float | None:
        """Return what is known."""
        self.on_look()
        return self.known

    def advance(self, to: float) -> tuple[Message, ...]:
        """Remember how far it was led."""
        self.seen = max(self.seen, to)
        return super().advance(to)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Loop, Bounded]:
    """Return a loop on the synthetic market behind a horizon, not running yet."""
    settings = config.load({}, Path("/nonexistent"))
    exchange = Bounded(
        tmp_path / "x.db", SyntheticSource(1, instrument=Instrument()), Instrument(),
        MatchingConfig(), start_base=settings.paper_start_base_usd * 10,
        start_quote=settings.paper_start_quote,
    )  # fmt: skip
    runtime = Runtime(MemoryStore(epoch=3), exchange, None)
    runtime.start(exchange.describe(), PARAMS, now=exchange.now(), bot_tag=1)
    return Loop(runtime, exchange, pacer=Pacer(None)), exchange


def test_nothing_is_processed_beyond_the_horizon(made: tuple[Loop, Bounded]) -> None:
    """However often it looks, market, answers and timers all stay behind it; then it goes on."""
    loop, exchange = made
    start = exchange.now()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        state, known = loop.runtime.state, exchange.known
        assert not known or (exchange.seen <= known and state.now <= known)
        if looks % 20 == 0:
            exchange.known = start + looks / 10
        loop.inbox.woken.set()  # no time is lost on waiting
        if looks > 4000:
            loop.stop()

    exchange.known, exchange.on_look = start, look
    assert loop.run() == "stopped"
    assert start + 300 < loop.runtime.state.now <= exchange.known
    kinds = {type(row.event) for row in loop.runtime.store.journal(after=0)}
    assert {e.PriceTick, e.TimerTick} <= kinds


def test_a_command_is_answered_while_the_horizon_stands_still(made: tuple[Loop, Bounded]) -> None:
    """It enters at the present instant; nobody has to wait for the market to be heard."""
    loop, exchange = made
    exchange.known = exchange.now()
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        assert loop.inbox.put("one", Pause()).result(5).is_accepted
        assert loop.runtime.state.now <= exchange.known
    finally:
        loop.stop()
        thread.join(5)


def test_the_shell_hears_of_a_loop_that_waits(made: tuple[Loop, Bounded]) -> None:
    """A loop that waits for its market is alive, and its page is kept up to date."""
    loop, exchange = made
    exchange.known = exchange.now() - 1.0
    calls: list[bool] = []

    def called(is_urgent: bool) -> None:
        calls.append(is_urgent)
        loop.stop()

    loop.on_iteration = called
    loop.run()
    assert calls == [False]
    assert loop.iterations == 0
