"""The daemon as its user runs it: start, page, commands, signals, exit codes, restart."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from core.actions import ReplyToOperator
from core.commands import AddSlot, Halt
from dashboard import Busy, IdReused
from engine import counter
from engine.loop import Inbox
from tests.helpers import write_candles

ROOT = Path(__file__).parent.parent


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return an environment for a daemon in `folder`, without the regime models that take time."""
    base = {"PATH": os.environ["PATH"], "PORT": "0", "STATE_DB": str(folder / "bot.db")}
    return {**base, "HMM_ENABLED": "false", **changes}


class Running:
    """A daemon process and its page."""

    def __init__(self, env: dict[str, str], *args: str, log: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "bot.py", *args], cwd=ROOT, env=env, stdout=subprocess.PIPE,
            stderr=log.open("a") if log else subprocess.PIPE, text=True,
        )  # fmt: skip
        self.url = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip().startswith("page"):
                self.url = line.split()[-1]
                break

    def get(self, path: str) -> requests.Response:
        """Ask the page."""
        return requests.get(self.url + path, timeout=30)

    def act(self, **body: Any) -> requests.Response:
        """Send a command."""
        return requests.post(
            self.url + "/api/action", json=body, headers={"Origin": self.url}, timeout=5
        )

    def wait(self, path: str, code: int = 200) -> requests.Response:
        """Wait until a path answers with a code."""
        deadline = time.monotonic() + 60
        while True:
            answer = self.get(path)
            if answer.status_code == code or time.monotonic() > deadline:
                return answer
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


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
    deadline = time.monotonic() + 60
    orders = 0
    while not orders and time.monotonic() < deadline:
        status = daemon.get("/api/status").json()
        orders = status["capacity_fill_health"]["open_orders"]
    assert orders > 0
    deadline = time.monotonic() + 60
    while not daemon.get("/api/candles?limit=2").json()["candles"]:  # without models, too
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert daemon.act(action="halt").status_code == 200
    assert daemon.wait("/readyz", 503).json() == {"ready": False, "reason": "halted"}
    assert daemon.get("/healthz").status_code == 200
    assert daemon.act(action="resume").status_code == 200
    assert daemon.wait("/readyz").status_code == 200
    assert daemon.act(action="pause").status_code == 200
    assert daemon.act(action="pause").status_code == 409
    assert daemon.act(action="set_profit_pct", value=0.1).status_code == 409
    assert daemon.act(action="set_profit_pct", value="moon").status_code == 400
    assert daemon.stop() == 0
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


def test_a_port_in_use_exits_2_and_says_what_to_do(tmp_path: Path) -> None:
    """Another program on the port: one message, no traceback, nothing opened."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        result = run_bot(environment(tmp_path, PORT=port))
    assert result.returncode == 2, result.stderr
    assert f"PORT={port}: another program uses it" in result.stderr
    assert "set PORT to another number, or stop that program" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "bot.db").exists()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
def test_a_host_that_cannot_be_bound_exits_2_and_says_what_to_do(tmp_path: Path, host: str) -> None:
    """An address that is not of this machine, a name nobody knows, a name that is none."""
    token = "Zx81-qwerty-ASDFGH-0123456789-token"
    result = run_bot(environment(tmp_path, HOST=host, DASHBOARD_TOKEN=token))
    assert result.returncode == 2, result.stderr
    assert f"HOST={host}: no address of this machine" in result.stderr
    assert "set HOST to 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_replay_file_exits_2_naming_the_line(tmp_path: Path) -> None:
    """A text where a price should be is named with its line."""
    path = tmp_path / "bad.csv"
    path.write_text(
        "time,open,high,low,close,volume\n1700000040,1,1,1,1,1\n1700000100,1,1,1,1,1\n"
        "1700000160,oops,1,1,1,1\n"
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


def test_check_and_run_tell_the_warnings_of_the_configuration(tmp_path: Path) -> None:
    """A limit under a wrong name is ignored; both say so, with the right name."""
    env = environment(tmp_path, DAILY_LOSS_LIMIT="20")
    expected = "DAILY_LOSS_LIMIT: unknown setting, ignored; did you mean DAILY_LOSS_LIMIT_USD?"
    result = run_bot(env, "check")
    assert result.returncode == 0
    assert f"warning {expected}" in result.stdout
    running = Running(env)
    running.wait("/readyz")
    running.stop()
    assert running.process.stderr is not None
    assert expected in running.process.stderr.read()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "row", "reason"),
    [
        (
            {"ORDER_SIZE_USD": "3"},
            "order size: 3 USD; the least workable is 5.00 USD",
            "No entry can be placed: the order would be below the exchange's minimum",
        ),
        (
            {"PAPER_PRESET": "pessimistic", "PAIR_PROFIT_PCT": "0.95"},
            "profit target: 0.95 %; break-even plus margin is 0.984 % at 0.44 % maker",
            "",
        ),
    ],
)
def test_what_check_calls_failed_is_a_warning_of_run(
    tmp_path: Path, changes: dict[str, str], row: str, reason: str
) -> None:
    """Settings with which no entry pays, or none can be placed, are told at the start."""
    env = environment(tmp_path, SYNTHETIC_SPEED="600", **changes)
    checked = run_bot(env, "check")
    assert checked.returncode == 3
    (failed,) = [x for x in checked.stdout.splitlines() if x.startswith("FAILED")]
    assert failed.split() == ["FAILED", *row.replace(":", "", 1).split()]
    running = Running(env)
    running.wait("/readyz")
    deadline, reasons, bot = time.monotonic() + 60, "", {}
    while not bot or (reason not in reasons and time.monotonic() < deadline):
        bot = running.get("/api/status").json()["bot"]
        reasons = "; ".join(bot["reasons"])
    assert reason in reasons
    assert not reason or bot["condition"] == "attention"
    assert running.stop() == 0
    assert running.process.stderr is not None
    assert f"check failed: {row}" in running.process.stderr.read()


def test_the_env_file_beside_the_program_counts_wherever_it_is_started(tmp_path: Path) -> None:
    """Started from another directory: the same settings, the same database, none left there."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("PAIR_PROFT_PCT=9\n")
    ignored = shutil.ignore_patterns(".*", "tests", "data", "__pycache__")
    shutil.copytree(ROOT, home, ignore=ignored)
    (home / ".env").write_text("ORDER_SIZE_USD=41\nSTATE_DB=mine/bot.db\n")
    result = subprocess.run(
        [sys.executable, str(home / "bot.py"), "check"], cwd=elsewhere, text=True,
        env={"PATH": os.environ["PATH"]}, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "41 USD" in result.stdout
    assert str(home / "mine" / "bot.db") in result.stdout
    assert [path.name for path in elsewhere.iterdir()] == [".env"]


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


def test_an_id_that_was_used_for_another_command_is_refused(
    daemon: Running, tmp_path: Path
) -> None:
    """A halt under the id of a pause is 409 and not done; the pause again is the first answer."""
    daemon.wait("/readyz")
    pause, audit = {"action": "pause", "id": "one"}, {"action": "audit_pnl", "id": "two"}
    first = daemon.act(**pause), daemon.act(**audit)
    assert [answer.status_code for answer in first] == [200, 200]
    assert first[1].json()["changed"]["ledger"] == "0"
    for is_restarted in (False, True):
        if is_restarted:
            daemon.stop()
            daemon = Running(environment(tmp_path))
            daemon.wait("/readyz")
        try:
            for _ in range(2):
                for id_, body in (("one", {"action": "halt"}), ("two", {"action": "resume"})):
                    other = daemon.act(**body, id=id_)
                    assert other.status_code == 409, other.text
                    assert "id was used for another command" in other.json()["error"]
                    assert other.json()["field"] == "id"
                for body, answer in zip((pause, audit), first, strict=True):
                    same = daemon.act(**body)
                    assert (same.status_code, same.json()) == (200, answer.json())
            assert daemon.get("/api/commands/one").json()["command"] == '{"action":"pause"}'
            assert daemon.get("/api/status").json()["bot"]["mode"] == "paused"
        finally:
            if is_restarted:
                assert daemon.stop() == 0


@pytest.mark.slow
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


def replayed(folder: Path, name: str = "bot.db") -> dict[str, str]:
    """Run a short replay to its end; return its environment."""
    if not (folder / "c.csv").exists():
        write_candles(folder / "c.csv", bars=600, seed=4)
    env = environment(
        folder, MARKET_DATA="replay", REPLAY_FILE=str(folder / "c.csv"), REPLAY_SPEED="max",
        PAIR_ENTRY_PCT="0.3", PAIR_PROFIT_PCT="1.2", STATE_DB=str(folder / name),
    )  # fmt: skip
    assert run_bot(env).returncode == 0
    return env


@pytest.mark.slow
def test_backup_is_a_pair_that_can_be_started_and_verified(tmp_path: Path) -> None:
    """Database and paper exchange are copied together; the copies are a run of their own."""
    env = replayed(tmp_path)
    assert run_bot(env, "backup", str(tmp_path / "copy.db")).returncode == 0
    assert (tmp_path / "copy.paper.db").exists()
    again = run_bot(env, "backup", str(tmp_path / "copy.db"))
    assert again.returncode == 4
    assert "copy.db exists; name a new file" in again.stderr
    copy = {**env, "STATE_DB": str(tmp_path / "copy.db")}
    assert run_bot(copy, "verify").returncode == 0
    assert run_bot(copy).returncode == 0
    assert run_bot(copy, "verify").returncode == 0


@pytest.mark.slow
def test_by_default_a_trained_regime_is_seen_within_a_minute(tmp_path: Path) -> None:
    """The synthetic market's history trains both models; a restart serves them at once."""
    env = environment(tmp_path, HMM_ENABLED="")

    def regime(running: Running, seconds: float) -> dict[str, Any]:
        deadline, block = time.monotonic() + seconds, {}
        while time.monotonic() < deadline:
            block = running.get("/api/status").json().get("hmm_regime", {})
            if block.get("is_trained") and block["secondary"]["is_trained"]:
                return dict(block)
            time.sleep(0.2)
        pytest.fail(f"no model: {block}")

    first = Running(env)
    try:
        block = regime(first, 60)
        assert block["training_depth"]["quality_tier"] == "full"
        assert block["trainer"]["trained"] == 2
        assert sum(block["probabilities"].values()) == pytest.approx(1, abs=0.001)
    finally:
        first.stop()
    again = Running(env)
    try:
        served = regime(again, 30)
        assert served["model"]["id"] == block["model"]["id"]
        assert served["trainer"]["trained"] == 0
    finally:
        again.stop()
    copy = str(tmp_path / "copy.db")
    said = run_bot(env, "backup", copy).stdout
    assert said.count("a trained model") == 2
    assert "copy.candles.db" in said
    assert run_bot({**env, "STATE_DB": copy}, "verify").returncode == 0


@pytest.mark.slow
def test_backup_of_a_running_daemon_is_of_one_instant(daemon: Running, tmp_path: Path) -> None:
    """Whatever the daemon is doing, the pair of copies proves its books."""
    env = environment(tmp_path)
    time.sleep(2)
    for n in range(3):
        assert run_bot(env, "backup", str(tmp_path / f"{n}.db")).returncode == 0
    for n in range(3):
        done = run_bot({**env, "STATE_DB": str(tmp_path / f"{n}.db")}, "verify")
        assert done.returncode == 0, done.stdout + done.stderr
    assert daemon.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("case", ["foreign", "emptied", "older", "alone", "database older"])
def test_files_that_do_not_belong_together_are_refused(case: str, tmp_path: Path) -> None:
    """A paper file of another run, another time or without content stops the start with code 4."""
    env = replayed(tmp_path)
    database, paper = tmp_path / "bot.db", tmp_path / "bot.paper.db"
    if case == "foreign":
        replayed(tmp_path, "other.db")
        shutil.copy(tmp_path / "other.paper.db", paper)
        words = "belongs to another database"
    elif case == "emptied":
        paper.write_bytes(b"")
        words = "bot.paper.db"
    elif case == "older":
        with sqlite3.connect(paper) as db:
            db.execute("DELETE FROM executions WHERE rowid = (SELECT max(rowid) FROM executions)")
        words = "it is an older copy"
    elif case == "alone":
        database.unlink()
        words = "bot.paper.db"
    else:
        with sqlite3.connect(database) as db:
            seq = db.execute("SELECT min(seq) FROM snapshots WHERE seq > 50").fetchone()[0]
            db.execute("DELETE FROM executions")
            db.execute(
                "UPDATE state SET (seq, state, params) = "
                "(SELECT seq, state, params FROM snapshots WHERE seq = ?)", (seq,),
            )  # fmt: skip
            db.execute("DELETE FROM journal WHERE seq > ?", (seq,))
        words = "it is an older copy"
    for command in ("run", "check"):
        refused = run_bot(env, command)
        if "older" in case and command == "check":
            continue  # only a start compares what both know
        assert refused.returncode == 4, refused.stdout
        assert words in refused.stderr


def test_check_leaves_no_trace(tmp_path: Path) -> None:
    """Nothing is created, so that nothing is fixed by looking."""
    env = environment(tmp_path)
    done = run_bot(env, "check")
    assert done.returncode == 0
    assert "will be created" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_stores_of_one_stem_have_exchanges_of_their_own(tmp_path: Path) -> None:
    """run and run.2 do not share an exchange."""
    for name in ("run", "run.2"):
        env = replayed(tmp_path, name)
        assert run_bot(env, "verify").returncode == 0
        assert (tmp_path / f"{name}.paper.db").exists()


@pytest.mark.slow
def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """A run goes on only with the recording it was begun with."""
    env = replayed(tmp_path)
    write_candles(tmp_path / "c.csv", bars=1500, seed=5)
    refused = run_bot(env)
    assert refused.returncode == 4
    assert "content of the market's file was" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("host", "words"), [
    ("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:"),
])  # fmt: skip
def test_the_address_of_the_page_can_be_opened(host: str, words: str, tmp_path: Path) -> None:
    """Whatever HOST is, the banner's address works and `status` finds the daemon."""
    token = "z9x8c7v6b5n4m3a2s1d0f9g8h7j6k5l4"
    made = Running(environment(tmp_path, HOST=host, DASHBOARD_TOKEN=token))
    try:
        assert made.url.startswith(words)
        assert made.wait("/readyz").status_code == 200
        port = made.url.rsplit(":", 1)[1]
        env = environment(tmp_path, HOST=host, PORT=port, DASHBOARD_TOKEN=token)
        assert run_bot(env, "status").returncode == 0
        wrong = run_bot({**env, "DASHBOARD_TOKEN": token[::-1]}, "status")
        assert wrong.returncode == 1
        assert "answers 401: DASHBOARD_TOKEN is not the daemon's" in wrong.stderr
    finally:
        assert made.stop() == 0


def test_a_command_whose_answer_is_late_is_queued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again under its id it waits for the same answer; another one under it is refused."""
    monkeypatch.setattr(counter, "ANSWER_SEC", 0.05)
    made = counter.Counter()
    inbox = Inbox()
    made.loop = SimpleNamespace(inbox=inbox)  # type: ignore[assignment]  # a loop that is busy
    for _ in range(2):
        with pytest.raises(Busy):
            made.submit("one", AddSlot(), None)
    with pytest.raises(IdReused):
        made.submit("one", Halt(), None)
    request = inbox.take()
    assert request is not None
    assert inbox.take() is None
    request.answer.set_result(
        ReplyToOperator(command_id="one", is_accepted=True, message="slot 4 added")
    )
    assert made.submit("one", AddSlot(), None).message == "slot 4 added"


@pytest.mark.slow
def test_backup_of_a_damaged_paper_exchange_is_refused(tmp_path: Path) -> None:
    """No copy is called checked that was not, and none is left."""
    env = replayed(tmp_path)
    paper = tmp_path / "bot.paper.db"
    content = bytearray(paper.read_bytes())
    content[8192:12288] = os.urandom(4096)
    paper.write_bytes(content)
    refused = run_bot(env, "backup", str(tmp_path / "copy.db"))
    assert refused.returncode == 4
    assert "no backup of" in refused.stderr
    assert not list(tmp_path.glob("copy*"))
