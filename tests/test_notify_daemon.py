"""Messages of a running daemon: start, stop, commands of the chat, channels that hang."""

import os
import signal
import time
from pathlib import Path

import pytest

import bot
import config
from tests.notify_world import (
    BOT_TOKEN,
    CHAT,
    SECRETS,
    World,
    nothing_secret_is_logged,
    paths,
    serve,
)
from tests.test_daemon import Running, environment

__all__ = ["nothing_secret_is_logged", "serve"]


def notified(world: World, folder: Path, **changes: str) -> dict[str, str]:
    """Return an environment with both channels at the server."""
    return environment(
        folder, NOTIFY_WEBHOOK_URL=world.hook, TELEGRAM_BOT_TOKEN=BOT_TOKEN,
        TELEGRAM_CHAT_ID=str(CHAT), TELEGRAM_API_URL=world.url, LOG_LEVEL="DEBUG", **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_the_daemon_tells_of_its_start_and_stop_and_obeys(world: World, tmp_path: Path) -> None:
    """Start and stop at both channels; /pause changes the mode; no secret in status, log, files."""
    daemon = Running(notified(world, tmp_path))
    try:
        daemon.wait("/readyz")
        started = world.wait(lambda: world.texts("start"))[0]
        assert started.startswith("started, version ")
        assert "SIMULATED MARKET, DOGE/USD: running, ok" in started
        world.wait(lambda: any(x["timeout"] for x in world.polls))
        number = world.type("/pause")
        assert "accepted: paused" in world.wait_text("paused: no new entries")
        assert daemon.get("/api/status").json()["bot"]["mode"] == "paused"
        world.type("/set_profit_pct value=0.01")
        world.wait_text("refused: ")
        world.type("/halt")
        assert world.wait(lambda: world.texts("halt")) == ["halted: nothing new but owed exits"]
        assert world.wait(lambda: daemon.get("/api/status").json()["bot"]["mode"] == "halted")
        world.type("/status")
        assert "against the starting balances" in world.wait_text("DOGE/USD: halted")
        body = daemon.get("/api/status").text + daemon.get(f"/api/commands/telegram-{number}").text
        assert '"command_id":"telegram-' in body
    finally:
        assert daemon.stop(signal.SIGTERM) == 0
    assert world.texts("stop")[0].startswith("stopped; resting orders stay at the exchange\n")
    assert [x for x in world.texts() if x.startswith("grid: stopped; resting orders stay")]
    assert not [x for x in world.texts() if "cycle × " in x or "report for" in x]
    assert daemon.process.stderr is not None
    shown = body + daemon.process.stderr.read()
    assert "command pause id=telegram-" in shown
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in SECRETS:
        assert secret not in shown
        assert secret.encode() not in stored
    assert world.hook not in shown


def test_the_daemon_stops_in_time_while_the_channels_hang(world: World, tmp_path: Path) -> None:
    """SIGTERM is obeyed within 5 s, and a restart does not repeat what was typed before."""
    world.behaviours.extend(["hang"] * 100)
    daemon = Running(notified(world, tmp_path))
    daemon.wait("/readyz")
    world.wait(lambda: paths(world))
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 30  # one call alone may take 10 s, and a hundred hang


@pytest.mark.parametrize(
    ("changes", "channels", "has_listener"),
    [
        ({}, None, False),
        ({"NOTIFY_WEBHOOK_URL": "https://hooks.example/x"}, ["webhook"], False),
        ({"TELEGRAM_BOT_TOKEN": BOT_TOKEN, "TELEGRAM_CHAT_ID": "5"}, ["telegram"], True),
        (
            {
                "TELEGRAM_BOT_TOKEN": BOT_TOKEN, "TELEGRAM_CHAT_ID": "5",
                "TELEGRAM_COMMANDS": "false", "NOTIFY_WEBHOOK_URL": "https://hooks.example/x",
            },
            ["telegram", "webhook"],
            False,
        ),
    ],
)  # fmt: skip
def test_what_is_set_is_what_there_is(
    tmp_path: Path, changes: dict[str, str], channels: list[str] | None, has_listener: bool
) -> None:
    """Without a setting there are no threads; health names each channel and the listening."""
    daemon = bot.Daemon(config.load(environment(tmp_path, **changes), Path("/nonexistent")))
    daemon.dashboard.stop()
    if channels is None:
        assert daemon.notices is None
        return
    assert daemon.notices is not None
    health = daemon.notices.health()
    assert [x.name for x in health.channels] == channels
    assert (health.listener is not None) is has_listener
    daemon.notices.stop()


def test_a_daemon_that_cannot_start_says_so(world: World, tmp_path: Path) -> None:
    """A damaged database: the exit code is as ever, and the operator hears of it."""
    (tmp_path / "bot.db").write_bytes(b"garbage" * 1000)
    daemon = Running(notified(world, tmp_path))
    assert daemon.process.wait(10) == 4
    (text,) = world.texts("stop")
    assert "ended by an error: " in text
    assert "restore a backup" in text
    assert os.path.basename(tmp_path) in text  # noqa: PTH119 - a part of the message
