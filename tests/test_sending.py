"""Between commit and send: what has changed since the decision keeps an order from leaving."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import config
from core import events as e
from core.domain import Instrument, RejectReason
from core.params import Params
from core.record import replace
from core.state import Idle
from engine.clock import Pacer
from engine.loop import Loop
from engine.runtime import Runtime
from exchange.matching import MatchingConfig
from exchange.paper import PaperExchange
from market.synthetic import SyntheticSource
from store.sqlite import SqliteStore

PARAMS = replace(Params(), slot_count=1, is_simulated=True)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[tuple[Runtime, PaperExchange]]:
    """Yield a runtime on real files whose entries have not been decided yet."""
    settings = config.load({}, Path("/nonexistent"))
    exchange = PaperExchange(
        tmp_path / "bot.paper.db", SyntheticSource(1, instrument=Instrument()), Instrument(),
        MatchingConfig(), start_base=settings.paper_start_base_usd * 10,
        start_quote=settings.paper_start_quote,
    )  # fmt: skip
    runtime = Runtime(SqliteStore(tmp_path / "bot.db", epoch=3), exchange, None)
    runtime.start(exchange.describe(), PARAMS, now=exchange.now(), bot_tag=1)
    loop = Loop(runtime, exchange, pacer=Pacer(None))
    loop.on_iteration = lambda _: loop.stop() if runtime.state.market else None
    loop.run()
    yield runtime, exchange
    exchange.close()
    runtime.store.close()


def refusals(runtime: Runtime) -> list[e.OrderRejected]:
    """Return the refusals in the journal."""
    rows = runtime.store.journal(after=0)
    return [row.event for row in rows if isinstance(row.event, e.OrderRejected)]


def tick(runtime: Runtime, seconds: float = 1.0) -> None:
    """Let the bot look again."""
    runtime.step(e.TimerTick(time=runtime.state.now + seconds))


def test_nothing_is_sent_into_a_worse_status_than_decided(
    run: tuple[Runtime, PaperExchange],
) -> None:
    """The refusal proves nothing was sent, is journaled, and the leg tries again later."""
    runtime, exchange = run
    exchange.engine.set_status("cancel_only")
    tick(runtime)
    assert {x.reason for x in refusals(runtime)} == {RejectReason.NOT_SENT}
    assert "the exchange is in cancel_only, it was online" in refusals(runtime)[0].detail
    legs = runtime.state.slots[0].legs
    assert all(isinstance(leg.state, Idle) and leg.refusals == 1 for leg in legs)
    assert list(exchange.executions()) == []
    assert exchange.books().orders == 0
    exchange.engine.set_status("online")
    tick(runtime, 2.0)
    assert not any(isinstance(leg.state, Idle) for leg in runtime.state.slots[0].legs)


def test_nothing_is_sent_without_time_to_its_deadline(run: tuple[Runtime, PaperExchange]) -> None:
    """An exchange whose clock is nine and a half seconds on gets no order."""
    runtime, exchange = run
    exchange.advance(runtime.state.now + 10.5)
    tick(runtime)
    assert "0.5 s are left to its deadline" in refusals(runtime)[0].detail


def test_nothing_is_sent_when_the_lock_may_be_another_ones(
    run: tuple[Runtime, PaperExchange], tmp_path: Path
) -> None:
    """A lock file that was deleted can be held by a second daemon: no order leaves."""
    runtime, _ = run
    (tmp_path / "bot.db.lock").unlink()
    tick(runtime)
    assert "its lock file is gone" in refusals(runtime)[0].detail
    (tmp_path / "bot.db.lock").touch()  # as a second daemon makes it
    tick(runtime, 2.0)
    assert len(refusals(runtime)) == 4
