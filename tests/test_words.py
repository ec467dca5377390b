"""What commands say where something is in the way: what it is, where, and what to do.

As their user runs them: real processes, files and addresses.
"""

from pathlib import Path

import pytest

import config
from core.ports import Unavailable
from engine.live import VENUE, no_answer, venue_of
from engine.wiring import open_store
from exchange.kraken_errors import judge_answer
from exchange.kraken_records import Answer, Purpose
from store.lock import StoreLock
from tests.test_daemon import Running, environment, run_bot

TOKEN = "Zx81-qwerty-ASDFGH-0123456789-token"
SANDBOX = {"MODE": "live", "KRAKEN_API_URL": "http://127.0.0.1:1"}


def ran_at_the_sandbox(folder: Path) -> dict[str, str]:
    """Return the environment of a run on paper whose database has been bound to a sandbox."""
    env = environment(folder, SYNTHETIC_SPEED="max")
    daemon = Running(env)
    daemon.wait("/readyz")
    assert daemon.stop() == 0
    store = open_store(config.load(env, Path("/nonexistent")), must_exist=True)
    live = config.load({**env, **SANDBOX}, Path("/nonexistent"))
    store.keep_fact(VENUE, venue_of(live))
    store.close()
    (folder / "bot.paper.db").unlink()
    return env


@pytest.mark.slow
def test_a_live_database_is_not_used_on_paper(tmp_path: Path) -> None:
    """Every command says whose it is and what to set, not that a file is missing."""
    env = ran_at_the_sandbox(tmp_path)
    for command in ("check", "run", "verify"):
        result = run_bot(env, command)
        assert result.returncode == 4, result.stdout + result.stderr
        assert "belongs to a sandbox at 127.0.0.1, not to paper: set STATE_DB" in result.stderr


@pytest.mark.parametrize("more", [SANDBOX, {"MARKET_DATA": "kraken", **SANDBOX, "MODE": "paper"}])
def test_check_says_who_does_not_answer_and_what_to_do(
    tmp_path: Path, more: dict[str, str]
) -> None:
    """Nothing listens at the address: it is named, and how a sandbox is started."""
    result = run_bot(environment(tmp_path, **more), "check")
    assert result.returncode == 3
    (line,) = result.stdout.splitlines()
    assert line.startswith("FAILED market")
    assert "http://127.0.0.1:1: " in line
    assert "make sandbox starts one" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "is_hinted"),
    [
        (Answer(fault="connection refused", was_sent=False), True),
        (Answer(fault="no answer within 5 s"), True),
        (Answer(status=200, errors=("EService:Unavailable",)), False),
        (Answer(status=502, fault="the body is HTML"), False),
    ],
)
def test_a_sandbox_that_answers_is_not_called_missing(answer: Answer, is_hinted: bool) -> None:
    """How one is started is said only where nothing answered."""
    judgement = judge_answer(answer, Purpose.READ)
    assert judgement is not None
    settings = config.load(SANDBOX, Path("/nonexistent"))
    said = no_answer(settings, Unavailable(f"Time: trouble ({judgement.advice})"))
    assert ("make sandbox" in said) is is_hinted


def test_warnings_are_told_by_a_check_that_fails(tmp_path: Path) -> None:
    """A setting that is spelt wrong may be why: whatever fails, it is named."""
    (tmp_path / "text.db").write_text("no database" * 1000)
    for more in (SANDBOX, {"STATE_DB": str(tmp_path / "text.db")}):
        env = environment(tmp_path, DAILY_LOSS_LIMIT="20") | more
        result = run_bot(env, "check")
        assert result.returncode != 0
        assert "warning DAILY_LOSS_LIMIT: unknown setting" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "check", "verify", "export", "refold"])
def test_a_database_in_use_is_told_with_what_to_do(tmp_path: Path, command: str) -> None:
    """Another file is a way out for a run only: the others are about this one."""
    env = environment(tmp_path)
    path = Path(env["STATE_DB"])
    open_store(config.load(env, Path("/nonexistent")), must_exist=False).close()
    lock = StoreLock(path, "process 42")
    try:
        result = run_bot(env, command)
    finally:
        lock.release()
    assert result.returncode == 5, result.stdout + result.stderr
    assert "is in use by process 42. Stop that daemon first" in result.stderr
    assert ("set STATE_DB" in result.stderr) is (command == "run")
    assert ("bot.py status" in result.stderr) is (command != "run")


def test_check_refuses_a_database_that_cannot_be_created(tmp_path: Path) -> None:
    """What is in the way is named; a folder that is missing only is no obstacle."""
    (tmp_path / "file").write_text("not a folder")
    before = sorted(tmp_path.iterdir())
    env = environment(tmp_path, STATE_DB=str(tmp_path / "file" / "deeper" / "bot.db"))
    result = run_bot(env, "check")
    assert result.returncode == 3, result.stdout + result.stderr
    assert f"cannot be created: {tmp_path / 'file'} is no folder; mend that" in result.stdout
    fine = run_bot({**env, "STATE_DB": str(tmp_path / "new" / "deeper" / "bot.db")}, "check")
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "will be created" in fine.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_address_and_a_bad_key_are_told_with_the_rest(tmp_path: Path) -> None:
    """One look shows everything that is to be mended."""
    env = environment(
        tmp_path, MODE="live", KRAKEN_API_URL="https://elsewhere.example", SLOT_COUNT="x",
        KRAKEN_API_KEY=TOKEN, KRAKEN_API_SECRET=TOKEN, PAPER_PRESET="default",
    )  # fmt: skip
    result = run_bot(env, "check")
    assert result.returncode == 2
    for words in ("SLOT_COUNT='x'", "https://elsewhere.example", "not base64 text"):
        assert words in result.stderr
    assert TOKEN not in result.stdout + result.stderr


def test_the_address_that_is_printed_answers(tmp_path: Path) -> None:
    """Whatever HOST is bound, under its own name."""
    daemon = Running(environment(tmp_path, HOST="127.0.0.2", DASHBOARD_TOKEN=TOKEN))
    try:
        assert daemon.url.startswith("http://127.0.0.2:")
        assert daemon.wait("/readyz").status_code == 200
    finally:
        assert daemon.stop() == 0
