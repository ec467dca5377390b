"""The daemon as its user runs it: start, page, commands, signals, exit codes, restart."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.helpers import write_candles

ROOT = Path(__file__).parent.parent


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return an environment for a daemon in `folder`."""
    base = {"PATH": os.environ["PATH"], "PORT": "0", "STATE_DB": str(folder / "bot.db")}
    return {**base, **changes}


class Running:
    """A daemon process and its page."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "bot.py"], cwd=ROOT, env=env, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.url = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().startswith("page"):
                self.url = line.split()[-1]
                break

    def get(self, path: str) -> requests.Response:
        """Ask the page."""
        return requests.get(self.url + path, timeout=5)

    def act(self, **body: Any) -> requests.Response:
        """Send a command."""
        return requests.post(
            self.url + "/api/action", json=body, headers={"Origin": self.url}, timeout=5
        )

    def wait(self, path: str, code: int = 200) -> requests.Response:
        """Wait until a path answers with a code."""
        deadline = time.monotonic() + 10
        while True:
            answer = self.get(path)
            if answer.status_code == code or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """Yield a running daemon on the synthetic market."""
    made = Running(environment(tmp_path, SYNTHETIC_SPEED="600"))
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_daemon_trades_and_obeys(daemon: Running, tmp_path: Path) -> None:
    """It becomes ready, trades, pauses, survives SIGTERM with its intent, and goes on."""
    assert daemon.wait("/readyz").status_code == 200
    assert daemon.get("/healthz").status_code == 200
    deadline = time.monotonic() + 10
    orders = 0
    while not orders and time.monotonic() < deadline:
        status = daemon.get("/api/status").json()
        orders = status["capacity_fill_health"]["open_orders"]
    assert orders > 0
    assert daemon.act(action="pause").status_code == 200
    assert daemon.act(action="pause").status_code == 409
    assert daemon.act(action="set_profit_pct", value=0.1).status_code == 409
    assert daemon.act(action="set_profit_pct", value="moon").status_code == 400
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5
    again = Running(environment(tmp_path, SYNTHETIC_SPEED="600"))
    try:
        assert again.wait("/readyz").status_code == 200
        assert again.get("/api/status").json()["bot"]["mode"] == "paused"
    finally:
        assert again.stop(signal.SIGINT) == 0
    env = environment(tmp_path)
    verify = subprocess.run(
        [sys.executable, "bot.py", "verify"], cwd=ROOT, env=env, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert verify.returncode == 0, verify.stdout + verify.stderr
    assert verify.stdout.count("ok ") >= 6


def test_second_instance_is_refused_with_code_5(daemon: Running, tmp_path: Path) -> None:
    """The message says who holds the database."""
    daemon.wait("/readyz")
    second = subprocess.run(
        [sys.executable, "bot.py"], cwd=ROOT, env=environment(tmp_path), text=True,
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 5
    assert f"process {daemon.process.pid}" in second.stderr


def run_bot(env: dict[str, str], *args: str) -> "subprocess.CompletedProcess[str]":
    """Run a sub-command to its end."""
    return subprocess.run(
        [sys.executable, "bot.py", *args], cwd=ROOT, env=env, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_bad_configuration_exits_2_with_every_problem(tmp_path: Path) -> None:
    """Nothing is opened before the configuration is right."""
    result = run_bot(environment(tmp_path, SLOT_COUNT="x", PAIR_PROFIT_PCT="0.1"))
    assert result.returncode == 2
    assert "SLOT_COUNT" in result.stderr
    assert not (tmp_path / "bot.db").exists()


def test_bad_replay_file_exits_2_naming_the_line(tmp_path: Path) -> None:
    """A text where a price should be is named with its line."""
    path = tmp_path / "bad.csv"
    path.write_text(
        "time,open,high,low,close,volume\n0,1,1,1,1,1\n60,1,1,1,1,1\n120,oops,1,1,1,1\n"
    )
    result = run_bot(environment(tmp_path, MARKET_DATA="replay", REPLAY_FILE=str(path)))
    assert result.returncode == 2
    assert "line 4" in result.stderr
    assert "oops" in result.stderr


def test_corrupt_database_exits_4_and_is_untouched(tmp_path: Path) -> None:
    """The operator is told what to do."""
    path = tmp_path / "bot.db"
    path.write_bytes(b"garbage" * 1000)
    result = run_bot(environment(tmp_path))
    assert result.returncode == 4
    assert "restore a backup" in result.stderr
    assert path.read_bytes() == b"garbage" * 1000


def test_check_says_ok_on_a_fresh_machine(tmp_path: Path) -> None:
    """`check` prints its table and places no order."""
    result = run_bot(environment(tmp_path), "check")
    assert result.returncode == 0, result.stderr
    assert "the least workable is 5.00 USD" in result.stdout
    assert "FAILED" not in result.stdout


def test_sub_commands_without_a_run_say_so(tmp_path: Path) -> None:
    """verify, export and status explain what is missing."""
    for name in ("verify", "export", "refold"):
        result = run_bot(environment(tmp_path), name)
        assert result.returncode == 4
        assert "start the daemon first" in result.stderr
    status = run_bot(environment(tmp_path, PORT="1"), "status")
    assert status.returncode == 1
    assert "Is it running?" in status.stderr


def test_commands_are_idempotent_by_id_even_across_a_restart(
    daemon: Running, tmp_path: Path
) -> None:
    """The same id gives the first answer again, and the command is carried out once."""
    daemon.wait("/readyz")
    first = daemon.act(action="add_slot", id="once")
    assert first.status_code == 200
    assert daemon.act(action="add_slot", id="once").json()["message"] == first.json()["message"]
    daemon.stop()
    again = Running(environment(tmp_path))
    try:
        again.wait("/readyz")
        assert again.act(action="add_slot", id="once").json()["message"] == first.json()["message"]
        assert len(again.get("/api/status").json()["slots"]) == 4
        assert json.loads(again.get("/api/commands/once").text)
    finally:
        again.stop()


def test_a_replay_that_has_ended_ends_again_at_once_and_unchanged(tmp_path: Path) -> None:
    """Started on a finished run, the bot says its summary and leaves; history is the same."""
    write_candles(tmp_path / "candles.csv", bars=600, seed=5)
    env = environment(
        tmp_path, MARKET_DATA="replay", REPLAY_FILE=str(tmp_path / "candles.csv"),
        REPLAY_SPEED="max",
    )  # fmt: skip
    exports = []
    for _ in range(2):
        result = run_bot(env)
        assert result.returncode == 0, result.stderr
        assert "against half and half" in result.stdout
        exports.append(run_bot(env, "export", "--canonical").stdout)
    assert exports[0] == exports[1] != ""
    assert run_bot(env, "verify").returncode == 0
