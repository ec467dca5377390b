"""What the operator is told of starts that wait, outages and ends, over a real webhook."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import bot
import config
from core import events as e
from core.ports import ConfigError, StartRefused, StoreInUse, Unavailable
from engine import live, notices, outbox
from engine.clock import LiveClock
from engine.notices import Notices, obstacle
from engine.notify import Notifications, Webhook
from engine.status_view import Facts, build_status
from tests.notify_world import World, served
from tests.test_daemon import environment
from tests.world import START
from tests.world import World as Grid

SECRET = "zz-the-private-key-zz"


class Told:
    """Notices on a clock that the test moves, and what arrived."""

    def __init__(self, world: World) -> None:
        self.now = 0.0
        self.world = world
        notifications = Notifications(
            [Webhook(world.hook, "grid")], is_fast=False, rng=Random(1),
            monotonic=time.monotonic, wall_now=time.time,
        )  # fmt: skip
        self.notices = Notices(notifications, None, monotonic=lambda: self.now, secrets=(SECRET,))
        self.grid = Grid()

    def look(self, what: str | None, after: float = 0.0) -> None:
        """Let time pass, then tell what the bot waits for."""
        self.now += after
        facts = Facts(
            version="1", exchange_mode="PAPER", market_name="m", speed=1.0, started_wall=START,
            now_wall=START,
        )  # fmt: skip
        self.notices.look(what, lambda: build_status(self.grid.state, self.grid.params, facts))

    def end(self) -> list[str]:
        """Stop; return the first line of everything that arrived, oldest first."""
        self.notices.begin()
        count = self.notices.health().channels[0].waiting
        self.world.wait(lambda: len(self.world.texts()) == count)
        self.notices.stop()
        return [x.splitlines()[0] for x in self.world.texts()]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """Yield notices whose messages follow each other without pauses."""
    monkeypatch.setattr(outbox, "SPACING_SEC", 0.0)
    with served() as world:
        yield Told(world)


def test_a_start_that_waits_is_told_once_then_that_it_goes_on(told: Told) -> None:
    """Before 60 s nothing; then what it waits for; changes of it are no news; then the start."""
    told.look("Kraken to answer")
    told.look("Kraken to answer", 59)
    told.look("Kraken: the connection failed", 1)
    told.look("Kraken: the connection failed", 600)
    told.look("the first price", 1)
    told.look(None, 1)
    told.look(None, 1)
    assert told.end() == [
        "the start has waited 1 min for Kraken: the connection failed",
        "started, version 1",
    ]


def test_an_outage_is_told_once_and_its_end_with_its_length(told: Told) -> None:
    """A short one is not told at all; reasons that follow each other are one outage."""
    told.look(None)
    told.look("a fresh price", 5)
    told.look(None, 59)
    told.look("the exchange, whose status is unreachable", 1)
    told.look("the exchange, whose status is reconciling", 60)
    told.look("the exchange, whose status is reconciling", 600)
    told.look(None, 60)
    told.look(None, 60)
    first, *others = told.end()
    assert first.startswith("started, version")
    assert others == [
        "no entries for 1 min: waiting for the exchange, whose status is reconciling",
        "the wait is over after 12 min: prices and exchange are there again",
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError(["PORT=x: bad", f"HOST={SECRET}"]), "PORT=x: bad\nHOST=***"),
        (
            StartRefused("these checks fail:\n  API key: it may WITHDRAW"),
            "API key: it may WITHDRAW",
        ),
        (StoreInUse("bot.db is in use by process 5"), "in use by process 5"),
        (Unavailable("Time: no answer in time"), "Time: no answer in time"),
        (ZeroDivisionError(SECRET), "ended by an error: ZeroDivisionError; look at the log"),
    ],
)
def test_our_own_errors_are_told_in_full_and_others_by_name(
    told: Told, error: Exception, words: str
) -> None:
    """What the program words itself says what to do; no text holds a secret."""
    told.notices.say_failed(error)
    told.end()
    (text,) = told.world.texts("stop")
    assert words in text
    assert SECRET not in text
    assert text.endswith("Resting orders stay at the exchange")


def test_what_keeps_it_from_trading_is_said_in_words() -> None:
    """No price, an exchange that takes no orders, an old price; not the end of the market."""
    grid = Grid(price=None)

    def now(wall: float = START, waiting: str | None = None) -> str | None:
        facts = Facts(
            version="1", exchange_mode="LIVE", market_name="m", speed=1.0, started_wall=START,
            now_wall=wall, waiting_for=waiting, is_real_time=True,
        )  # fmt: skip
        return obstacle(grid.state, grid.params, facts)

    assert now(waiting="the first price") == "the first price"
    grid.price("0.1")
    assert now() is None
    assert now(wall=START + 2e9) == "a fresh price"
    for status, expected in (("reconciling", True), ("post_only", False)):
        grid.step(e.HealthChanged(time=grid.now, system_status=status))
        assert (status in (now() or "")) is expected
    grid.step(e.MarketEnded(time=grid.now))
    assert now(wall=START + 2e9) is None


def test_a_daemon_whose_exchange_does_not_answer_says_so(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start hangs in the first look at the market: the operator hears of it meanwhile."""
    monkeypatch.setattr(notices, "PATIENCE_SEC", 0.3)
    env = environment(
        tmp_path, MARKET_DATA="kraken", KRAKEN_API_URL="http://127.0.0.1:1",
        NOTIFY_WEBHOOK_URL=told.world.hook,
    )  # fmt: skip
    daemon = bot.Daemon(config.load(env, Path("/nonexistent")))
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        text = told.world.wait_text("the start has waited")
    finally:
        daemon.stopping.set()
        thread.join(10)
    assert "127.0.0.1:1" in text
    assert told.world.texts() == [text]


def test_a_long_pause_of_a_start_is_said_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lockout lasts 15 min; whoever watches the process hears of it every few seconds."""
    monkeypatch.setattr(live, "RETRY_SEC", 0.01)
    stopping, said = threading.Event(), list[str]()
    assert not live._pause(0.1, LiveClock(), "a lockout", stopping, said.append)
    assert 3 <= len(said) <= 11
    stopping.set()
    assert live._pause(900.0, LiveClock(), "a lockout", stopping, said.append)
