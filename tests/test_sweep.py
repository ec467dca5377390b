"""A sweep: its space, its count, its ledger, and what is made of a winner."""

import csv
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import optuna
import pytest

from core import events as e
from core.domain import FeeRates
from core.ports import ConfigError, MarketError
from sim import space as space_
from sim.ledger import parsed
from sim.score import DAY_SEC, _Mark, _note, score
from sim.space import DEFAULT, check_set, read_space
from sim.sweep import main
from sim.trials import GRACE_SEC
from tests.helpers import write_candles
from tests.postgrest_shim import Postgres
from tests.world import World

QUICK = ("--holdout", "0", "--set", "RECON_INTERVAL_SEC=86400")
ROOT = Path(__file__).parent.parent
SMALL = """
[PAIR_ENTRY_PCT]
low = 0.2
high = 3.0
log = true
[SLOT_COUNT]
low = 1
high = 4
[PAUSE_POLICY]
choices = ["withdraw", "stay"]
"""


def refusals(tmp_path: Path, text: str) -> str:
    """Return why a space is refused."""
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_space(path)
    return str(caught.value)


def market(folder: Path, *, bars: int = 640, interval: int = 900) -> Path:
    """Write a lively market of a few days, and a small space beside it."""
    (folder / "space.toml").write_text(SMALL)
    path = folder / "market.csv"
    write_candles(path, bars=bars, seed=5, interval=interval)
    return path


def swept(folder: Path, study: str, *more: str) -> int:
    """Run a sweep in this process; return its exit code."""
    data = str(folder / "market.csv")
    return main([data, "--space", str(folder / "space.toml"), "--study", study, *more])


def trials_of(study: str) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the only study there."""
    storage = optuna.storages.RDBStorage(parsed(study).render_as_string(hide_password=False))
    try:
        name = optuna.get_all_study_names(storage)[0]
        return optuna.load_study(study_name=name, storage=storage).get_trials()
    finally:
        storage.engine.dispose()


def done(study: str) -> list[tuple[dict[str, Any], float | None]]:
    """Return what was tried in the order of its making, and what came of it."""
    return [(x.params, x.value) for x in trials_of(study) if x.state.name == "COMPLETE"]


# ---- luck ---------------------------------------------------------------------------------------


def test_a_score_is_of_whole_days_against_holding() -> None:
    """What is before the first midnight does not count, but for the drawdown."""
    values = [(0.5, 200.0, 100.0), (1, 100.0, 100.0), (2, 110.0, 100.0), (3, 121.0, 110.0)]
    marks = [_Mark(DAY_SEC * at, equity, hold, True, Decimal(0)) for at, equity, hold in values]
    found = score(marks, {0, 1, 2}, cycles=3, fees=1.5)
    assert (found.days, found.cycles, found.fees, found.drawdown) == (2, 3, 1.5, 0.5)
    assert found.growth == pytest.approx(0.0953102)
    assert found.excess == pytest.approx(found.growth - 0.0953102 / 2)
    assert found.sharpe == pytest.approx(0.5**0.5)


def test_a_score_leaves_days_without_prices_out() -> None:
    """What the price moved by over them is nobody's day."""
    values = (100.0, 110.0, 121.0, 500.0, 550.0)
    marks = [_Mark(DAY_SEC * n, x, 100.0, True, Decimal(0)) for n, x in enumerate(values)]
    found = score(marks, {0, 1, 3}, cycles=0, fees=0.0)
    assert found.days == 3
    assert found.growth == pytest.approx(0.0953102)
    with pytest.raises(MarketError, match="1 whole UTC day with prices"):
        score(marks, {3}, cycles=0, fees=0.0)


def test_a_fee_that_falls_with_volume_is_no_gain() -> None:
    """All marks are made with the fee of the first; the bid alone moves them."""
    world, marks = World(price=None), list[_Mark]()
    for mid in ("0.1", "0.1", "0.11"):
        world.price(mid)
        _note(marks, world.state, tuple(world.timer()))
        world.step(_cheaper(world))
        world.advance(3600)
    assert [x.equity for x in marks] == [x.hold for x in marks]
    assert [x.hold == marks[0].hold for x in marks] == [True, True, False]
    assert marks[0].hold == pytest.approx(1000 + 999.9 * (1 - 0.004))


def _cheaper(world: World) -> e.FeesUpdated:
    half = FeeRates(maker=world.state.fees.maker / 2, taker=world.state.fees.taker / 2)
    return e.FeesUpdated(time=world.now, fees=half)


# ---- the space ----------------------------------------------------------------------------------


def test_the_space_that_is_built_in_is_the_documents() -> None:
    """It can be read, and the document shows it."""
    assert len(read_space(None)) == DEFAULT.count("[")
    assert DEFAULT in (ROOT / "docs" / "BACKTESTING.md").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ENTRY_PCT]\nlow = 1\nhigh = 2", "ENTRY_PCT: unknown setting; did you mean PAIR_ENTRY"),
        ("[PAIR_ENTRY_PCT]\nlow = 0.01\nhigh = 2", "low '0.01': must be a number from 0.05 to 20"),
        ("[SLOT_COUNT]\nlow = 1\nhigh = 99", "high '99': must be a whole number from 1 to 39"),
        ("[SLOT_COUNT]\nlow = 3\nhigh = 3", "low 3 must be below high 3"),
        ("[SLOT_COUNT]\nlow = 1\nhigh = 4\nstep = 2", "high must be low and a whole number of st"),
        ("[SLOT_COUNT]\nlow = 1", "high is missing"),
        ("[SLOT_COUNT]\nlow = 1\nhigh = 4\nsteps = 2", "steps: unknown here"),
        ("[S1_ORPHAN_AFTER_SEC]\nlow = 60.5\nhigh = 90", "must be whole numbers"),
        ("[SLOT_STAGGER_PCT]\nlow = 0\nhigh = 2\nlog = true", "log = true needs low above 0"),
        ("[PAUSE_POLICY]\nlow = 1\nhigh = 2", "needs choices"),
        ("[PAUSE_POLICY]\nchoices = ['halt']", "'halt': must be one of withdraw, stay"),
        ("[KELLY_ENABLED]\nchoices = [true, true]", "stands there twice"),
        ("[PAPER_TOUCH_PROB]\nlow = 0\nhigh = 1", "is not what a backtest searches for"),
        ("SLOT_COUNT = 3", "must be a table"),
        ("SLOT_COUNT", "cannot be read as TOML"),
        ("", "there is nothing to search"),
    ],
)
def test_a_space_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """With the setting's name and what is allowed."""
    assert words in refusals(tmp_path, text)


def test_what_is_set_for_all_trials_is_checked() -> None:
    """Unknown names, those without a part in a backtest, and those that are searched for."""
    with pytest.raises(ConfigError) as caught:
        check_set(["PROFIT_PCT", "PORT", "SLOT_COUNT", "SEED"], read_space(None))
    told = [x.split(":")[0] for x in caught.value.problems]
    assert told == ["PROFIT_PCT", "PORT", "SLOT_COUNT"]
    assert "PAPER_PRESET" in space_.SET


@pytest.mark.parametrize("address", ["mysql://x/y", "postgresql://host", "sqlite://", "://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """With what is allowed."""
    with pytest.raises(ConfigError, match="must be postgresql://USER@HOST/DATABASE"):
        parsed(address)
    assert parsed("postgres://u@h/d").drivername == "postgresql+psycopg"


# ---- a study ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_is_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study of three trials begins as one of two; the ledger has every one."""
    market(tmp_path, bars=110, interval=3600)
    one, two, ledger = (str(tmp_path / x) for x in ("one.db", "two.db", "ledger.csv"))
    assert swept(tmp_path, one, *QUICK, "--trials", "3", "--ledger", ledger) == 0
    told = capsys.readouterr().out
    assert "A winner of 3 different trials" in told
    assert "Deflated Sharpe ratio" in told
    assert "Nothing was held out" in told
    assert swept(tmp_path, two, *QUICK, "--trials", "2") == 0
    found = done(one)
    assert done(two) == found[:2]
    assert len({str(x) for x, _ in found}) == len({value for _, value in found}) == 3
    with Path(ledger).open() as handle:
        rows = list(csv.DictReader(handle))
    assert [x["trial"] for x in rows] == ["0", "1", "2", "defaults"]
    assert [x["excess"] for x in rows[:3]] == [str(value) for _, value in found]
    assert all("SLOT_COUNT=" in x["parameters"] for x in rows[:3])
    capsys.readouterr()
    assert swept(tmp_path, two, *QUICK, "--seed", "2") == 4
    assert "take another --name: seed there 1, here 2" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_that_the_daemon_refuses_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target below break-even is never run; where all are, there is no winner."""
    market(tmp_path)
    (tmp_path / "space.toml").write_text("[PAIR_PROFIT_PCT]\nlow = 0.05\nhigh = 0.8\n")
    study = str(tmp_path / "x.db")
    assert swept(tmp_path, study, "--trials", "2") == 1
    assert "every trial was refused" in capsys.readouterr().out
    assert "must be above" in trials_of(study)[0].user_attrs["refused"]


def test_too_few_days_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A search needs three whole days, and what is held out two."""
    market(tmp_path, bars=288)
    assert swept(tmp_path, str(tmp_path / "x.db")) == 2
    assert "at least 3 are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--study", "/nowhere/a.db"), "--study /nowhere/a.db: must be a file in a folder that is"),
        (("--study", "sqlite:////nowhere/a.db"), "must be a file in a folder that is there"),
        (("--set", "SEED=2", "--set", "SEED=3"), "SEED: --set gives it twice, 2 and 3; keep one"),
        (("--set", "REPLAY_FROM=2024-01-01"), "REPLAY_FROM: has no part in a backtest"),
        (("--symbol", "A"), "leave --symbol unset"),
        (("--from", "2031-01-01"), "; --from may be from"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    """In words that name what was typed; no folder is made."""
    market(tmp_path)
    assert swept(tmp_path, str(tmp_path / "x.db"), *args) == 2
    assert words in capsys.readouterr().err
    assert not Path("/nowhere").exists()
    assert not (tmp_path / "x.db").exists()


def test_a_study_that_another_process_has_locked_is_told_soon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5; nobody waits for a minute."""
    monkeypatch.setattr("sim.ledger.PATIENCE_SEC", 0.05)
    market(tmp_path)
    study = tmp_path / "x.db"
    with closing(sqlite3.connect(study, isolation_level=None)) as db:
        db.execute("CREATE TABLE x (y)")
        db.execute("BEGIN IMMEDIATE")
        assert swept(tmp_path, str(study)) == 5
    assert "another process has had it locked" in capsys.readouterr().err


# ---- real processes -----------------------------------------------------------------------------


def started(folder: Path, study: str, count: int) -> "subprocess.Popen[str]":
    """Start a sweep as a process of its own."""
    command = [sys.executable, "-m", "sim.sweep", str(folder / "market.csv"), "--study", study,
               "--space", str(folder / "space.toml"), "--trials", str(count)]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(process: "subprocess.Popen[str]") -> str:
    """Return all that a process says until it ends."""
    return process.communicate(timeout=120)[0]


def awaited(claim: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a claim is true."""
    until = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < until
        time.sleep(0.05)


def address(postgres: Postgres) -> str:
    """Return the address of a fresh database."""
    return f"postgresql://postgres@127.0.0.1:{postgres.port}/{postgres.database()}"


def counted(postgres: Postgres, study: str, what: str) -> int:
    """Return how many rows there are."""
    try:
        return int(postgres.sql(study.rsplit("/", 1)[1], f"select count(*) from {what}"))
    except Exception:  # noqa: BLE001 - no tables yet
        return 0


@pytest.mark.slow(seconds=30)
def test_two_processes_make_exactly_the_trials_of_one_study(
    tmp_path: Path, postgres: Postgres
) -> None:
    """Started at the same instant on an empty database: none twice, none too many."""
    market(tmp_path)
    study = address(postgres)
    processes = [started(tmp_path, study, 12) for _ in range(2)]
    texts = [ended(x) for x in processes]
    assert [x.returncode for x in processes] == [0, 0], texts
    made = [int(found) for x in texts for found in re.findall(r"(\d+) of them here", x)]
    assert sum(made) == 12
    assert min(made) > 0
    assert len(trials_of(study)) == 12
    assert len({str(x) for x, _ in done(study)}) == 12
    assert all("that the search never saw" in x for x in texts)


@pytest.mark.slow(seconds=60)
def test_the_trial_of_a_killed_process_is_given_back(tmp_path: Path, postgres: Postgres) -> None:
    """With the values that it had drawn, once it has been silent long enough."""
    market(tmp_path, bars=9000, interval=60)
    study = address(postgres)
    killed = started(tmp_path, study, 3)
    awaited(lambda: counted(postgres, study, "trials where state = 'RUNNING'") > 0)
    awaited(lambda: counted(postgres, study, "trial_heartbeats") > 0)
    os.kill(killed.pid, signal.SIGKILL)
    ended(killed)
    assert counted(postgres, study, "trials where state = 'RUNNING'") == 1
    began = time.monotonic()
    other = started(tmp_path, study, 3)
    text = ended(other)
    assert other.returncode == 0, text
    assert time.monotonic() - began > GRACE_SEC / 2
    found = trials_of(study)
    lost = [x for x in found if x.state.name == "FAIL"]
    assert len(done(study)) == 3
    assert len(lost) == 1
    assert [x for x, _ in done(study)].count(lost[0].params) == 1
    assert "1 given back" in text


@pytest.mark.slow(seconds=30)
def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path) -> None:
    """As if nothing had happened; meanwhile no second process has the file."""
    market(tmp_path, bars=9000, interval=60)
    studies = [str(tmp_path / "broken.db"), str(tmp_path / "whole.db")]
    broken = started(tmp_path, studies[0], 12)
    awaited(lambda: _has_begun(studies[0]))
    awaited(lambda: len(done(studies[0])) >= 1)
    second = started(tmp_path, studies[0], 12)
    assert "is in use by another sweep" in ended(second)
    assert second.returncode == 5
    broken.send_signal(signal.SIGINT)
    text = ended(broken)
    assert broken.returncode == 130, text
    assert "are done and kept" in text
    assert 1 <= len(done(studies[0])) < 12
    for study in studies:
        assert swept(tmp_path, study, "--trials", "12") == 0
    assert _sorted(done(studies[0])) == _sorted(done(studies[1]))


def _has_begun(file: str) -> bool:
    """Tell whether the file has a trial, without opening the study: that would make its tables."""
    if not Path(file).exists():
        return False
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        try:
            return bool(db.execute("SELECT count(*) FROM trials").fetchone()[0])
        except sqlite3.Error:
            return False


def _sorted(found: list[tuple[dict[str, Any], float | None]]) -> list[str]:
    return sorted(str(x) for x in found)
