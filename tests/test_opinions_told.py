"""Recorded opinions in a backtest: told at their times, scored, and followed where one asks."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from core.ports import MarketError
from sim.backtest import main
from sim.opinions import RecordedAdvisor, recorded
from store.sqlite import SqliteStore
from tests.helpers import report_folder
from tests.test_skipping import LIVELY, calm

START = 1_700_000_040.0
HOUR = 3600.0


def database(file: Path, times: list[float], *, tier: int = 1, conviction: int = 80) -> Path:
    """Write a bot's database with an opinion at each time."""
    SqliteStore(file, epoch=3).close()
    with sqlite3.connect(file) as db:
        for n, at in enumerate(times, 1):
            direction = "long_bias" if tier else "symmetric"
            db.execute(
                "INSERT INTO opinions VALUES (?, ?, ?, ?, 'interval', 'a', NULL, ?, ?, ?, 'why', "
                "'what', 30, 'upgrade', 0, 'symmetric', '0.1', NULL, NULL, NULL, NULL)",
                (n, n, at, at - 5.0, tier, direction, conviction),
            )
    return file


def test_those_of_the_time_are_told_once_and_in_order(tmp_path: Path) -> None:
    """What lies outside is counted; an answer is told when it came, not before."""
    file = database(tmp_path / "bot.db", [START - 9, START + 5, START + 60, START + 900])
    told = recorded(file, START, START + 100)
    assert [x.time for x in told.opinions] == [START + 5, START + 60]
    assert told.left_out == 2
    first = told.opinions[0]
    assert (first.asked_at, first.trigger) == (START, "interval")
    assert (first.opinion.recommended_tier, first.opinion.conviction) == (1, 80)
    advisor = RecordedAdvisor(told.opinions)
    assert advisor.next_time() == START + 5
    assert advisor.take(START + 4) == ()
    assert advisor.take(START + 59) == told.opinions[:1]
    assert advisor.take(START + 60) == told.opinions[1:]
    assert (advisor.next_time(), advisor.take(START + 999)) == (None, ())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.db", "no such file"),
        ("text.db", "not a bot's database"),
        ("bot.db", "its 1 opinions came from 2023-11-14 22:12 to 2023-11-14 22:12, and the data"),
        ("empty.db", "there are no opinions in this database"),
    ],
)
def test_a_file_without_opinions_is_refused(tmp_path: Path, name: str, words: str) -> None:
    """With what is wrong, and what belongs there."""
    (tmp_path / "text.db").write_text("nothing of the kind\n" * 99)
    database(tmp_path / "bot.db", [START - 100])
    database(tmp_path / "empty.db", [])
    with pytest.raises(MarketError, match=words):
        recorded(tmp_path / name, START, START + 100)


def test_without_a_regime_there_is_no_opinion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the setting."""
    file = tmp_path / "market.csv"
    calm(file, bars=60, seed=1)
    given = tmp_path / "not even there.db"
    args = [str(file), "--defaults", "--out", str(tmp_path / "out"), "--opinions", str(given)]
    assert main(args) == 2
    assert "HMM_ENABLED=true" in capsys.readouterr().err


@pytest.mark.slow(seconds=40)
def test_telling_changes_nothing_and_following_is_a_run_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opinions are scored; an operator who applies them is compared with one who does not."""
    file = tmp_path / "market.csv"
    calm(file, bars=2_600, seed=9)
    given = database(tmp_path / "bot.db", [START + x * 2 * HOUR for x in range(8, 21)])
    more = {**LIVELY, "HMM_ENABLED": "true", "REGIME_DIRECTIONAL_ENABLED": "true",
            "HMM_TRAINING_CANDLES": "720", "HMM_MIN_TRAIN_SAMPLES": "300"}  # fmt: skip
    sets = [x for name, value in more.items() for x in ("--set", f"{name}={value}")]
    cases: dict[str, dict[str, Any]] = {}
    for folder, own in (("plain", []), ("told", ["--opinions", str(given)])):
        out = tmp_path / folder
        args = [str(file), "--defaults", "--no-stress", *sets, "--out", str(out), *own]
        assert main(args) == 0
        data = json.loads((report_folder(out) / "report.json").read_text())
        cases |= {f"{folder}: {x['name']}": x for x in data["cases"]}
    plain, shadow = cases["plain: default"], cases["told: default"]
    followed = cases["told: default, opinions followed"]
    assert shadow["arms"] == plain["arms"]
    assert shadow["opinions"]["told"] == 13
    assert shadow["opinions"]["score"]["advised"]["all"]["right"] >= 0
    assert 8 <= shadow["counters"]["ai_opinions"] <= 13
    assert "ai_applied" not in shadow["counters"]
    applied, refused = followed["counters"]["ai_applied"], followed["opinions"]["refusals"]
    assert applied >= 5
    assert applied + sum(refused.values()) == followed["counters"]["ai_opinions"]
    assert plain["opinions"] is None
    said = capsys.readouterr().out
    assert "Opinions told again" in said
    assert "too few days: " in said
    assert "13, from bot.db; 0 lie outside the data" in said
