"""The tools that look at the regimes: random walks, the study, the null test, the report."""

import argparse
import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from math import sqrt
from pathlib import Path

import msgspec
import numpy as np
import pytest

from core.ports import ConfigError
from core.record import replace
from core.regime import BEARISH, BULLISH, RANGING
from core.tiers import Tiers
from engine.trainer import ENVIRONMENT, ROOT, InlineTrainer
from hmm_regime_detector import TrainingError, train
from settings.table import VARIABLES
from sim import regime_stats as stats
from sim.regimes import Study, settings_of, study
from sim.walks import (
    DAILY_VOLATILITY,
    DAY_SEC,
    DRIFT_SHARPE,
    START,
    Walk,
    WalkSource,
    random_walk,
)
from tests.helpers import write_candles
from tests.hmm_world import request, walk
from tools import regime_null, regime_report

MINUTE = 60.0
QUICK = {"HMM_STARTS": "1"}
HEAD = "time,open,high,low,close,volume\n"
REPORTED = (
    "Share of time per regime", "Dwell times", "Transition matrix of the 1 min models",
    "Label stability", "Evidence over time", "Forward returns", "Time per tier", "Trainings",
)  # fmt: skip


@cache
def seen(days: float = 1.6, seed: int = 3, **changes: str) -> Study:
    """Return a study of a walk with planted drifts, the same for all tests of a process."""
    return study_of(random_walk(seed, days, is_planted=True), days, **changes)


def study_of(made: Walk, days: float, *, after: float = 0.0, **changes: str) -> Study:
    """Return a study of a walk that begins `after` so many days of it."""
    settings = settings_of({**QUICK, **changes}, Path.cwd())
    begin = START + after * DAY_SEC
    return study(settings, WalkSource(made), start=begin, until=START + days * DAY_SEC)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever is written without a name land where nobody minds."""
    monkeypatch.chdir(tmp_path)


# ---- walks --------------------------------------------------------------------------------------


def test_a_walk_follows_from_its_seed() -> None:
    """Equal seeds are equal to the bit; others are not."""
    one, two, three = (random_walk(n, 2, is_planted=True) for n in (7, 7, 8))
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(one.rows, two.rows, strict=True)
    )
    assert np.array_equal(one.planted, two.planted)
    assert not np.array_equal(one.rows.close, three.rows.close)


def test_planted_drift_is_all_that_tells_planted_from_driftless() -> None:
    """Minute by minute the returns differ by ±3 daily deviations a day, or not at all."""
    plain, planted = (random_walk(5, 9, is_planted=x) for x in (False, True))
    difference = np.diff(np.log(planted.rows.close)) - np.diff(np.log(plain.rows.close))
    drift = DRIFT_SHARPE * DAILY_VOLATILITY / 1440
    assert set(planted.planted.tolist()) == {BEARISH, RANGING, BULLISH}
    assert difference == pytest.approx((planted.planted[1:].astype(float) - 1) * drift, abs=1e-12)
    assert set(plain.planted.tolist()) == {RANGING}
    assert np.array_equal(plain.rows.volume, planted.rows.volume)


def test_walks_are_what_the_report_says_of_them() -> None:
    """Volatility of 5 % a day, fat tails, no drift, bars that can be, over many seeds."""
    walks = [random_walk(n, 30, is_planted=False).rows for n in range(20)]
    returns = np.array([np.diff(np.log(x.close)) for x in walks])
    daily = sqrt(float((returns**2).mean()) * 1440)
    assert daily == pytest.approx(DAILY_VOLATILITY, rel=0.15)
    sums = returns.sum(axis=1)
    assert abs(sums.mean()) < 3 * sums.std() / sqrt(len(sums))
    assert (returns**4).mean() / (returns**2).mean() ** 2 > 8
    for x in walks:
        assert (x.high >= np.maximum(x.open, x.close)).all()
        assert (x.low <= np.minimum(x.open, x.close)).all()
        assert (x.low > 0).all()


# ---- the study ----------------------------------------------------------------------------------


def test_a_study_is_the_daemons_own_course_of_things() -> None:
    """Asked each minute while there is too little, then every five; trained once, then daily."""
    found = seen()
    times = [x.time for x in found.evaluations]
    told = [x.time for x in found.trainings]
    assert {b - a for a, b in pairwise(times) if b not in told} == {60.0, 300.0}
    assert set(told) <= set(times), "a new model is asked at once"
    assert found.evaluations[0].primary is None
    primary = [x for x in found.trainings if x.ref.interval_sec == MINUTE]
    first = primary[0]
    assert first.ref.candles in range(500, 506)
    assert first.time - 30.0 in times
    assert [x.ref.candles for x in primary] == sorted(x.ref.candles for x in primary)
    assert found.failures == []


def test_a_study_knows_the_history_before_its_start() -> None:
    """A daemon that starts on a market with history trains at once."""
    found = study_of(random_walk(3, 1.2, is_planted=False), 1.2, after=1.0)
    assert found.trainings[0].time == START + DAY_SEC + 30.0
    assert found.trainings[0].ref.candles == 1439  # the last has closed this very instant


def test_both_gates_come_from_one_pass() -> None:
    """What is told as held without the gate is what a daemon without it holds."""
    gated, free = seen(), seen(REGIME_EVIDENCE_GATE="false")
    assert [x.ungated for x in gated.evaluations] == [x.tiers for x in free.evaluations]
    assert any(x.ungated.tier for x in gated.evaluations)
    assert [x.policy for x in gated.evaluations] == [x.policy for x in free.evaluations]


def test_a_study_takes_settings_of_regimes_only() -> None:
    """Anything else is refused by name, and so are values that cannot be."""
    with pytest.raises(ConfigError, match="MODE: only settings of regimes"):
        settings_of({"MODE": "live"}, Path())
    with pytest.raises(ConfigError, match="HMM_STARTS"):
        settings_of({"HMM_STARTS": "0"}, Path())


def test_the_inline_trainer_makes_the_workers_models() -> None:
    """The same model as `train`; what cannot be trained is an error in the future, and counted."""
    trainer = InlineTrainer()
    asked = request(walk(700, 1), starts=1)
    assert trainer.submit(asked).result() == train(asked)
    with pytest.raises(TrainingError, match="too few candles"):
        trainer.submit(request(walk(700, 1), min_candles=5000)).result()
    counts = trainer.counters()
    assert (counts.submitted, counts.trained, counts.failed) == (2, 1, 1)
    assert "too few candles" in counts.last_error
    odd = replace(asked, recipe=replace(asked.recipe, label_z="two"))  # of no foreseen kind
    with pytest.raises(TrainingError, match="ValueError: Unknown format"):
        trainer.submit(odd).result()
    assert trainer.counters().failed == 2
    trainer.close()


# ---- what it amounts to -------------------------------------------------------------------------


def hand_made(labels: list[int], prices: list[float] | None = None) -> stats.Series:
    """Return a series of evaluations every 300 s with these labels, of all sources."""
    count = len(labels)
    own = np.array(labels, dtype=np.int8)
    return stats.Series(
        time=START + 300.0 * np.arange(count),
        weight=np.full(count, 1 / count),
        price=np.array(prices or [0.1] * count),
        labels=dict.fromkeys(stats.SOURCES, own),
        tier=own,
        ungated=own,
    )


def test_shares_and_dwell_times_by_hand() -> None:
    """Spells at the ends are cut and do not count; nor do those without a label."""
    own = hand_made([1, 1, 0, 0, 0, 1, 2, -1, 2, 2, 2, 1, 1, 0])
    assert stats.shares(own, own.labels["primary"], (0, 1, 2, -1)) == pytest.approx(
        [4 / 14, 5 / 14, 4 / 14, 1 / 14]
    )
    bearish, ranging, bullish = stats.dwells(own, "primary")
    assert (bearish.spells, bearish.seconds) == (1, (900.0, 900.0, 900.0))
    assert (ranging.spells, ranging.seconds) == (2, (375.0, 450.0, 525.0))
    assert (bullish.spells, bullish.seconds) == (2, (450.0, 600.0, 750.0))


def test_forward_returns_keep_their_own_sign() -> None:
    """Prices that fall after bearish evaluations have a negative mean and a negative t."""
    rng = np.random.Generator(np.random.PCG64(1))
    labels = np.repeat(rng.integers(0, 3, 200), 12)
    steps = 0.001 * (labels - 1) + rng.normal(0, 0.001, len(labels))
    own = hand_made(labels.tolist(), np.exp(np.append(0, np.cumsum(steps))[:-1]).tolist())
    falls, stays, rises = (stats.forward(own, "primary", x, 900.0) for x in range(3))
    assert falls.mean is not None
    assert stays.t is not None
    assert rises.mean is not None
    assert falls.t is not None
    assert rises.t is not None
    assert falls.mean < -0.001 < 0.001 < rises.mean
    assert falls.t < -5 < 5 < rises.t
    assert abs(stays.t) < 3
    assert stats.forward(hand_made([0, 1] * 90), "primary", 0, 900.0).t is None


def test_what_is_held_is_counted_against_what_was_planted() -> None:
    """Right, wrong and idle are shares of the time they are about."""
    bull, bear, none = Tiers(tier=1, direction=BULLISH), Tiers(tier=2, direction=BEARISH), Tiers()
    held = regime_null._held(
        [bull, bull, bear, none, bear, none, none, bull], [2, 2, 2, 2, 0, 0, 1, 1]
    )
    assert (held.tier1, held.tier2) == (5 / 8, 2 / 8)
    assert (held.right, held.wrong, held.idle) == (3 / 6, 1 / 6, 1 / 2)


# ---- the null test ------------------------------------------------------------------------------


def job(kind: str = "planted", seed: int = 4) -> regime_null.Job:
    """Return a short job."""
    return regime_null.Job(kind=kind, seed=seed, days=0.3, warm_up=0.7, changes=QUICK)


@pytest.mark.slow
def test_a_seed_has_one_outcome() -> None:
    """The same to the last digit, whatever was made before it."""
    first, other, again = (
        replace(regime_null.outcome(job(seed=n)), seconds=0.0) for n in (4, 5, 4)
    )
    assert first == again
    assert first != other
    assert first.evaluations in range(86, 90)
    assert first.trainings >= 1


def test_the_report_of_the_null_test_says_what_is_required() -> None:
    """Means, errors, worst seeds, and whether both marks are met."""
    held = regime_null.Held(tier1=0.02, tier2=0.01, right=0.6, wrong=0.1, idle=0.2)
    one = regime_null.Outcome(
        kind="driftless", seed=1, evaluations=9, planted=0.0, gated=held,
        ungated=replace(held, tier1=0.5), t_bearish=None, t_bullish=1.0, trainings=8, converged=8,
        failures=0, seconds=2.0,
    )  # fmt: skip
    far = replace(one, seed=2, gated=replace(held, tier1=0.2))
    planted = replace(one, kind="planted", planted=0.7)
    args = argparse.Namespace(seeds=2, first_seed=1, days=60.0, warm_up=21.0, set=[])
    text = regime_null.report([one, far, planted], args)
    assert "NOT met (11.00 %); 1 of 2 seeds are above 5%" in text
    assert "tier 1 or 2, with the gate           11.00    9.00   11.00   20.00  2" in text
    assert "reached (60.0 %)" in text
    assert "(70 % of the time)" in text
    alone = regime_null.report([one], args)
    assert "met (2.00 %)" in alone
    assert "tier 1 or 2, with the gate            2.00       –    2.00    2.00  1" in alone


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seeds", "0"], "'0' must be a whole number, 1 to 100000"),
        (["--first-seed", "-1"], "--first-seed"),
        (["--days", "soon"], "'soon' must be from 0.25 to 1000"),
        (["--jobs", "1.5"], "'1.5' must be a whole number"),
        (["--kind", "wild"], "invalid choice"),
        (["--set", "HMM_STARTS"], "must be NAME=VALUE"),
        (["--set", "HMM_STARTS=0"], "HMM_STARTS='0'"),
        (["--set", "MODE=live"], "MODE: only settings of regimes"),
        (["left"], "unrecognized arguments: left"),
        (["--json", "nowhere/x.json"], "--json nowhere/x.json: there is no such folder"),
        (["--json", "/"], "--json /: this is a folder; name a file"),
        (["--set", "HMM_ENABLED=false"], "without models there is nothing to look at"),
    ],
)
def test_the_null_test_refuses_in_words(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun with arguments that cannot be; the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        regime_null.main(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    """Run a tool as an operator does."""
    return subprocess.run(
        (sys.executable, "-m", *argv), cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True,
        check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_null_test_does_not_depend_on_its_processes(tmp_path: Path) -> None:
    """One process or three: the same outcomes, in the same order."""
    told = []
    for jobs in ("1", "3"):
        file = tmp_path / f"{jobs}.json"
        done = run(
            "tools.regime_null", "--seeds", "2", "--first-seed", "4", "--days", "0.3", "--warm-up",
            "0.7", "--jobs", jobs, "--set", "HMM_STARTS=1", "--json", str(file),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Walks without drift" in done.stdout
        assert "HMM_STARTS=1" in done.stdout
        told.append([{**x, "seconds": 0} for x in json.loads(file.read_text())])
    assert told[0] == told[1]
    assert [(x["kind"], x["seed"]) for x in told[0]] == [
        ("driftless", 4), ("driftless", 5), ("planted", 4), ("planted", 5),
    ]  # fmt: skip
    own = msgspec.to_builtins(replace(regime_null.outcome(job(seed=5)), seconds=0))
    assert msgspec.json.decode(msgspec.json.encode(own)) == told[0][3]


# ---- the report ---------------------------------------------------------------------------------


EMPTY_TAGS = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Notes what a page is made of; its tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        self.seen.append(tag)
        if tag not in EMPTY_TAGS:
            self.open.append(tag)
        names = ("href", "src", "xlink:href", "action", "data")
        self.addresses += [value or "" for name, value in attrs if name in names]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag and close it."""
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY_TAGS:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that is open."""
        assert self.open, f"{tag} is closed but not open"
        assert self.open.pop() == tag


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    """Return a file of 1.7 days of 1 min candles."""
    path = tmp_path / "walk.csv"
    write_candles(path, bars=2450, seed=1)
    return path


@pytest.mark.slow
def test_the_report_has_its_tables_and_an_offline_page(
    candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All sections in text and page; one file with a plot, and nothing to load."""
    pytest.importorskip("matplotlib", reason=regime_report.regime_plot.MISSING)
    out = tmp_path / "page.html"
    argv = [str(candles), "--out", str(out), "--set", "HMM_STARTS=1"]
    assert regime_report.main(argv) == 0
    text, page = capsys.readouterr().out, out.read_text()
    for title in REPORTED:
        assert f"\n{title}\n" in text
        assert f"<h2>{title}</h2>" in page
    assert "HMM_STARTS=1" in text
    assert "1 min candles" in text
    read = Page(page)
    assert read.open == []
    assert "svg" in read.seen
    assert {"script", "link", "iframe"}.isdisjoint(read.seen)
    assert read.addresses
    assert all(x.startswith(("#", "data:image/png;base64,")) for x in read.addresses)
    for word in ("http:", "https:", "url(h", "@import", "//cdn"):
        assert word not in page
    for word in ("price, USD (log)", "tier with", "evidence, t", "bearish", "bullish", "consensus"):
        assert word in page


def test_the_report_begins_where_it_is_told(
    candles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is before the date is history: the first model is there at once. No page is made."""
    argv = [str(candles), "--from", "2023-11-15T22:00", "--days", "0.5", "--no-page"]
    assert regime_report.main([*argv, "--set", "HMM_STARTS=1"]) == 0
    text = capsys.readouterr().out
    assert "2023-11-15 22:00, 2023-11-16 10:00: 0.5 days" in text
    assert re.search(r"^evaluations +145$", text, re.MULTILINE)  # one more when it was trained
    assert list(Path.cwd().glob("*.html")) == []


def test_the_report_says_what_to_install(
    candles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without matplotlib it says so before any work, and how to do without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert regime_report.main([str(candles)]) == 2
    said = capsys.readouterr().err
    assert "pip install -r requirements-research.txt" in said
    assert "--no-page" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist or is not a file"),
        ("", "is empty"),
        ("a,b\n1,2\n", "columns are a, b"),
        (HEAD + "1700000040,1,1,1,1,1\n", "holds 1 rows"),
        (HEAD + "1700000040,1,1,1,1,1\n1700000100,1,1,1,1,x\n", "line 3: volume 'x'"),
    ],
)
def test_the_report_refuses_files_in_words(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file and what is wrong; the exit code is 2."""
    path = tmp_path / "file.csv"
    if content is not None:
        path.write_text(content)
    assert regime_report.main([str(path), "--no-page"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "file.csv" in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--days", "0"], "'0' must be from 0.5 to 10000"),
        (["--from", "yesterday"], "argument --from: 'yesterday' must be"),
        (["--set", "HMM"], "must be NAME=VALUE"),
    ],
)
def test_the_report_refuses_arguments_in_words(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As argparse does, with what is allowed."""
    with pytest.raises(SystemExit) as ended:
        regime_report.main(["file.csv", *argv])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_report_refuses_what_only_the_file_can_tell(
    candles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start outside the file, too short a rest, a folder that is not there, a foreign setting."""
    for argv, said in (
        (["--from", "2031-01-01"], "has no start at 2031-01-01"),
        (["--from", "2023-11-16 12:00"], "has less than 12 h from 2023-11-16 12:00 on"),
        (["--out", "nowhere/page.html"], "there is no such folder"),
        (["--out", "/"], "this is a folder; name a file"),
        (["--set", "HMM_ENABLED=false"], "without models there is nothing to look at"),
        (["--set", "MODE=live"], "MODE: only settings of regimes"),
    ):
        page = [] if "--out" in argv else ["--no-page"]
        assert regime_report.main([str(candles), *argv, *page]) == 2
        assert said in capsys.readouterr().err


def test_the_report_says_why_nothing_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prices that never move: no model, and the reason stands in the text."""
    path = tmp_path / "file.csv"
    rows = (f"{START + 60 * n:.0f},0.1,0.1,0.1,0.1,1\n" for n in range(900))
    path.write_text(HEAD + "".join(rows))
    assert regime_report.main([str(path), "--no-page"]) == 0
    said = capsys.readouterr().out
    assert "trainings that gave no model: " in said
    assert "(the last: the prices of the window do not move)" in said


@pytest.mark.slow
@pytest.mark.market
def test_the_report_of_five_minute_candles_says_so() -> None:
    """A file of 5 min candles has 5 min as primary and 15 min as secondary."""
    file = ROOT.parent / "shared" / "market" / "kraken_xdgusd_5m.csv.gz"
    if not file.exists():
        pytest.skip("recorded market data is not beside the project")
    done = run("tools.regime_report", str(file), "--days", "6", "--no-page")
    assert done.returncode == 0, done.stderr
    assert "primary model     5 min candles" in done.stdout
    assert "secondary model   15 min candles" in done.stdout
    assert "Transition matrix of the 5 min models" in done.stdout


# ---- the document -------------------------------------------------------------------------------


def test_the_document_names_what_there_is() -> None:
    """Every field of the status and every setting in the roll-out exists."""
    text = (ROOT / "docs" / "HMM_DEEP_TRAINING_SPEC.md").read_text()
    status = json.loads((ROOT / "tests" / "golden" / "status_regimes.json").read_text())
    blocks = "hmm_regime|hmm_data_pipeline|regime_directional"
    named = set(re.findall(rf"`?\b((?:{blocks})(?:\.[a-z_0-9]+)+)", text))
    assert len(named) > 20
    for path in named:
        value = status
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    known = {x.name for x in VARIABLES}
    for name in re.findall(r"\b((?:HMM|REGIME|MODEL)_[A-Z_]+)\b", text):
        assert name in known or name == "HMM_DEEP_TRAINING_SPEC", name
