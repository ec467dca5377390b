"""The disk is lost: the daemon goes on from its copy, at the sandbox and on paper."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack import Daemon, Sandbox, come_to_rest, wait_until, write_lively_market, wrong
from tests.postgrest_shim import SERVICE_KEY, Shim
from tests.test_daemon import ROOT, Running, environment, run_bot
from tests.test_live import FUNDS, booked, verified

pytestmark = pytest.mark.slow


@pytest.fixture
def live(tmp_path: Path, shim: Shim) -> Iterator[tuple[Daemon, Sandbox]]:
    """Yield a daemon with a replica and its sandbox, which runs."""
    write_lively_market(tmp_path / "market.csv", seed=5)
    market = ("--market", f"replay:{tmp_path / 'market.csv'}", "--speed", "240")
    sandbox = Sandbox(tmp_path, *market, *FUNDS)
    sandbox.start()
    (tmp_path / "disk").mkdir()
    keys = {"SUPABASE_URL": shim.url, "SUPABASE_KEY": SERVICE_KEY}
    daemon = Daemon(tmp_path / "disk", sandbox, **keys)
    yield daemon, sandbox
    daemon.kill()
    sandbox.kill()


def copied(shim: Shim) -> int:
    """Return how many states the replica has."""
    return int(shim.sql("select count(*) from snapshots"))


def trade_on(daemon: Daemon, executions: int) -> None:
    """Wait until there are so many more executions, exits among them."""
    wanted = booked(daemon, "executions") + executions
    query = "SELECT 1 FROM executions WHERE role <> 'entry'"

    def is_enough() -> bool:
        return booked(daemon, "executions") >= wanted and bool(daemon.rows(query))

    assert wait_until(is_enough, 120, 0.2), daemon.said()


def lose_disk(daemon: Daemon) -> Path:
    """Kill the daemon and take its disk away; return where it is now."""
    daemon.kill()
    lost = daemon.file.parent.with_name("lost")
    daemon.file.parent.rename(lost)
    daemon.file.parent.mkdir()
    return lost


@pytest.mark.slow(seconds=120)
def test_a_lost_disk_at_the_exchange_loses_nothing(
    live: tuple[Daemon, Sandbox], shim: Shim
) -> None:
    """The copy is older by many executions: the exchange is asked, and all is booked once."""
    daemon, sandbox = live
    daemon.start()
    assert wait_until(lambda: booked(daemon, "executions") >= 2, 60, 0.2)
    assert wait_until(lambda: copied(shim) > 0, 60, 0.2)
    shim.down = True
    trade_on(daemon, 5)
    lost = lose_disk(daemon)
    shim.down = False
    daemon.start()
    assert daemon.wait_ready(90), daemon.said()
    come_to_rest(daemon, sandbox)
    status = daemon.status()
    assert status is not None
    assert status["persistence"]["restore"] is None
    daemon.stop()
    assert wrong(daemon, sandbox) == []
    verified(daemon)
    here = {tuple(x) for x in daemon.rows("SELECT slot_id, trade_id, cycle FROM cycles")}
    with sqlite3.connect(lost / "bot.db") as db:
        there = set(db.execute("SELECT slot_id, trade_id, cycle FROM cycles"))
    assert there <= here
    _old_disk_is_refused(daemon, lost)


def _old_disk_is_refused(daemon: Daemon, lost: Path) -> None:
    """The lost disk is found again: its state is older than the newest copy."""
    shutil.rmtree(daemon.file.parent)
    lost.rename(daemon.file.parent)
    refused = daemon.run()
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "another database of this bot" in refused.stderr
    assert "--state local" in refused.stderr
    assert "Traceback" not in refused.stderr


def paper(folder: Path, shim: Shim, **changes: str) -> dict[str, str]:
    """Return the environment of a daemon on paper with a replica."""
    grid = {"PAIR_ENTRY_PCT": "0.1", "PAIR_PROFIT_PCT": "1.0", "LOG_LEVEL": "WARNING"}
    keys = {"SUPABASE_URL": shim.url, "SUPABASE_KEY": SERVICE_KEY, "SYNTHETIC_SPEED": "6000"}
    return environment(folder, **keys | grid | changes)


def until_copied(daemon: Running, disk: Path, table: str, count: int) -> None:
    """Wait until so many rows of a table are booked, and the replica has been reached."""
    daemon.wait("/readyz")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        block = daemon.get("/api/status").json()["persistence"]["replica"]
        with sqlite3.connect(disk / "bot.db") as db:
            rows = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        if rows >= count and block["is_checked"]:
            return
        time.sleep(0.2)
    raise AssertionError(f"{count} {table} did not come")


@pytest.mark.slow(seconds=35)
def test_a_lost_disk_on_paper_goes_on_with_what_was_copied(tmp_path: Path, shim: Shim) -> None:
    """Cycles, mode and balances are those of the copy; its orders are laid anew; books hold."""
    disk = tmp_path / "disk"
    env = paper(disk, shim)
    daemon = Running(env)
    until_copied(daemon, disk, "cycles", 3)
    assert daemon.act(action="set_order_size", value="7").status_code == 200
    deadline = time.monotonic() + 90
    copied = "select count(*) from snapshots where state like '%order_size_usd%'"
    while shim.sql(copied) == "0":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert daemon.stop() == 0
    before = run_bot(env, "export")
    assert before.returncode == 0, before.stderr
    shutil.rmtree(disk)
    env = paper(disk, shim, SYNTHETIC_SPEED="60")
    again = Running(env)
    try:
        assert again.wait("/readyz").status_code == 200
        status = again.get("/api/status").json()
        assert status["persistence"]["restore"] is None
        assert "7" in str(status["overrides"])
        deadline = time.monotonic() + 60
        while not again.get("/api/status").json()["capacity_fill_health"]["open_orders"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        assert again.stop() == 0
    after = run_bot(env, "export")
    assert after.returncode == 0, after.stderr
    same = ("executions", "cycles")
    assert _prefix(before.stdout, after.stdout, same)
    verify = run_bot(env, "verify")
    assert verify.returncode == 0, verify.stdout + verify.stderr
    third = Running(env)  # and a restart is an ordinary one
    assert third.wait("/readyz").status_code == 200
    assert third.stop() == 0


def _prefix(before: str, after: str, names: tuple[str, ...]) -> bool:
    """Tell whether what was exported before begins what is exported now."""
    old, new = json.loads(before), json.loads(after)
    return all(new[x][: len(old[x])] == old[x] and old[x] for x in names)


def test_an_empty_disk_waits_for_a_copy_that_does_not_answer(tmp_path: Path, shim: Shim) -> None:
    """Nothing is begun meanwhile; --state local does not wait."""
    shim.down = True
    env = paper(tmp_path, shim, LOG_LEVEL="INFO", SYNTHETIC_SPEED="1")
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen([sys.executable, "bot.py"], cwd=ROOT, env=env, stderr=said)
        is_told = wait_until(lambda: "the copy at Supabase" in (tmp_path / "said").read_text(), 30)
        assert not (tmp_path / "bot.db").exists()
        process.terminate()
        assert process.wait(15) == 0
    assert is_told
    assert not (tmp_path / "bot.db").exists()
    choice = Running(env, "--state", "local")
    assert choice.wait("/readyz").status_code == 200
    assert (tmp_path / "bot.db").exists()
    assert choice.stop() == 0


@pytest.mark.slow(seconds=35)
@pytest.mark.parametrize("choice", ["local", "remote"])
def test_an_older_database_asks_whose_word_counts(tmp_path: Path, shim: Shim, choice: str) -> None:
    """Refused with both ways named; each of them leads to a run whose books hold."""
    disk = tmp_path / "disk"
    env = paper(disk, shim)
    daemon = Running(env)
    until_copied(daemon, disk, "executions", 1)
    assert daemon.stop() == 0
    shutil.copytree(disk, tmp_path / "older")
    daemon = Running(env)
    until_copied(daemon, disk, "cycles", 2)
    assert daemon.stop() == 0
    newer = steps(disk)
    shutil.rmtree(disk)
    (tmp_path / "older").rename(disk)
    refused = run_bot(env)
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert "it is an older one" in refused.stderr
    run = Running(env | {"SYNTHETIC_SPEED": "1"}, "--state", choice)
    assert run.wait("/readyz").status_code == 200
    assert run.stop() == 0
    assert (steps(disk) >= newer) is (choice == "remote")
    assert bool(list(disk.glob("bot.db.before-*"))) is (choice == "remote")
    verify = run_bot(env, "verify")
    assert verify.returncode == 0, verify.stdout + verify.stderr
    again = Running(env)  # it is not asked twice
    assert again.wait("/readyz").status_code == 200
    assert again.stop() == 0


def steps(disk: Path) -> int:
    """Return the step of the newest state of a database."""
    with sqlite3.connect(disk / "bot.db") as db:
        found: int = db.execute("SELECT seq FROM state").fetchone()[0]
    return found


def test_choices_without_a_copy_are_refused(tmp_path: Path) -> None:
    """Said in words; nothing is begun."""
    env = environment(tmp_path)
    for words, text in (
        (("--state", "local"), "SUPABASE_URL is not set"),
        (("--adopt-epoch",), "with MODE=live only"),
        (("--state", "both"), "invalid choice"),
    ):
        refused = run_bot(env, *words)
        assert refused.returncode == 2, refused.stderr
        assert text in refused.stderr
    assert not (tmp_path / "bot.db").exists()
