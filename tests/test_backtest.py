"""The backtest as its user runs it: a report, honest words, the daemon's own result."""

import csv
import gzip
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.columns import ColumnSource
from sim.backtest import _questions, arguments, main
from sim.ledger import data_id
from sim.metrics import curve
from tests.helpers import report_folder, write_candles
from tests.test_daemon import ROOT, Running, environment, run_bot
from tests.test_skipping import LIVELY, calm
from tests.test_sweep import QUICK, market, swept

BUSY = [x for name, value in LIVELY.items() for x in ("--set", f"{name}={value}")]


@pytest.fixture(name="made", scope="module")
def backtested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backtest a small lively market once; return the report's folder."""
    folder = tmp_path_factory.mktemp("backtest")
    file = folder / "market.csv"
    write_candles(file, bars=2_500, seed=11)
    assert main([str(file), "--defaults", *BUSY, "--out", str(folder / "out")]) == 0
    return report_folder(folder / "out")


def run(file: Path, *args: str) -> dict[str, Any]:
    """Backtest `file`, in this process, with the defaults and `args`; return the JSON report."""
    out = file.parent / "out"
    assert main([str(file), "--defaults", "--no-stress", *args, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads((report_folder(out) / "report.json").read_text())
    return found


@pytest.mark.slow
def test_the_report_is_one_page_that_loads_nothing(made: Path) -> None:
    """Both presets, pictures, tables; no address in it."""
    text = (made / "report.html").read_text()
    assert "http" not in text
    assert "<script" not in text
    assert text.count("<svg") == 10
    for words in ("Verdict, default", "Verdict, pessimistic", "Under stress", "How orders fared",
                  "Open at the end, default", "By month and volatility, pessimistic",
                  "holding the start"):  # fmt: skip
        assert words in text, words


@pytest.mark.slow
def test_the_figures_follow_from_the_days_that_are_written(made: Path) -> None:
    """JSON and CSV say the same; the balances make up the equity."""
    data = json.loads((made / "report.json").read_text())
    assert [x["name"] for x in data["cases"]][:2] == ["default", "pessimistic"]
    rows = list(csv.DictReader((made / "days.csv").open()))
    for case in data["cases"][:2]:
        for arm in case["arms"]:
            own = [float(x["equity_usd"]) for x in rows
                   if (x["case"], x["arm"]) == (case["name"], arm["name"])]  # fmt: skip
            found = curve(np.array(own)).to_dict()
            assert found["days"] == len(own) - 1 == 3
            assert arm["figures"]["days"] == 1  # the first and the last are not whole
            assert found["total_return"] == pytest.approx(arm["figures"]["total_return"], abs=1e-9)
    cycles = list(csv.DictReader((made / "cycles.csv").open()))
    default = [x for x in cycles if x["case"] == "default"]
    assert len(default) == data["cases"][0]["arms"][0]["cycles"]["count"] > 5
    assert len(default) == data["cases"][0]["counters"]["cycles"]
    prices = [x[name] for x in cycles for name in ("entry_price", "exit_price")]
    assert {len(x.partition(".")[2]) for x in prices} == {7}
    first, second = (x["arms"][0]["cycles"]["count"] for x in data["cases"][:2])
    assert second <= first


@pytest.mark.slow
def test_a_verdict_is_given_for_each_sizing(made: Path) -> None:
    """Two days cannot tell, and the report says so."""
    data = json.loads((made / "report.json").read_text())
    words = {x["word"] for case in data["cases"] for x in case["verdicts"]}
    assert words == {"NOT DISTINGUISHABLE"}
    assert len(data["cases"][0]["verdicts"]) == 3
    assert "a promise" in (made / "report.html").read_text()


@pytest.mark.slow
def test_bars_too_coarse_for_the_distances_get_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exit within one and a half deviations of a bar: figures yes, verdict no."""
    file = tmp_path / "market.csv"
    write_candles(file, bars=600, seed=3)
    near = [x for text in ("PAIR_PROFIT_PCT=0.4", "PAIR_ENTRY_PCT=0.3", "PAPER_MAKER_FEE_PCT=0.1",
                           "PAPER_TAKER_FEE_PCT=0.2") for x in ("--set", text)]  # fmt: skip
    case = run(file, *near)["cases"][0]
    said = capsys.readouterr().out
    assert case["spacing"]["to_exit"] < 1.5
    assert case["verdicts"] == []
    assert case["arms"]
    assert "needs finer data" in said
    assert "NOT DISTINGUISHABLE" not in said


@pytest.mark.slow
def test_equal_runs_are_equal(tmp_path: Path) -> None:
    """Twice, and once looking at every bar: the same digest."""
    file = tmp_path / "market.csv"
    calm(file, bars=900, seed=5)
    more: tuple[tuple[str, ...], ...] = ((), (), ("--no-skip",))
    assert len({run(file, *BUSY, *x)["cases"][0]["canonical_sha256"] for x in more}) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["/nowhere.csv"], "/nowhere.csv does not exist"),
        (["FILE", "--set", "SLOT_COUNT=0"], "SLOT_COUNT='0'"),
        (["FILE", "--set", "MODE=live"], "MODE: a backtest has its own"),
        (["FILE", "--set", "NO_SUCH=1"], "NO_SUCH: there is no such setting"),
        (["FILE", "--shuffles", "3"], "must be a whole number, 200 to 10000"),
        (["FILE", "--from", "2031-01-01"], "has no start"),
        (["FILE", "--set", "REPLAY_FROM=2024-01-01"], "REPLAY_FROM: use --from"),
        (["FILE", "--set", "REPLAY_SYMBOL=A"], "REPLAY_SYMBOL: use --symbol"),
        (["FILE", "--set", "REPLAY_FILE=a.csv"], "REPLAY_FILE: use DATA"),
        (["FILE", "--set", "STATE_DB=a.db"], "STATE_DB: a backtest has its own"),
        (["FILE", "--set", "PAPER_PRESET=default"], "under default and under pessimistic"),
        (["FILE", "--set", "SLOT_COUNT=2", "--set", "SLOT_COUNT=3"], "it twice, 2 and 3; keep one"),
        (["FILE", "--against", "MODE=live"], "MODE: a backtest has its own"),
        (["FILE", "--against", "NO_SUCH=1"], "NO_SUCH: there is no such setting"),
        (["FILE", "--against", "SLOT_COUNT=0"], "SLOT_COUNT='0'"),
        (["FILE", "--against", "PAIR_PROFIT_PCT=2"], "2.0 is already the value: nothing to comp"),
        (["FILE", "--set", "SLOT_COUNT=4", "--against", "SLOT_COUNT=4"], "4 is already the value"),
        (["FILE", "--against", "HMM_ENABLED=false"], "unset is already the value"),
        (["FILE", "--symbol", "A"], "no column symbol; leave --symbol unset"),
        (["FILE", "--from", "2031-01-01"], "; --from may be from"),
        ([""], "'' must be the name of a file that ends in .csv"),
        (["data.txt"], "'data.txt' must be the name of a file that ends in .csv"),
        (["bad\udcff.csv"], "'bad\\udcff.csv' is no UTF-8 text"),
        (["FILE", "--out", ""], "must be the name of a folder; it is empty"),
        (["FILE", "/nowhere.csv"], "/nowhere.csv"),
        (["EMPTY"], "has no volume in any bar"),
        (["FILE", "FILE"], "market.csv is given twice"),
        (["FILE", "--study", "/nowhere.db"], "--study /nowhere.db: there is no such file"),
        (["FILE", "--env", "/nowhere.env"], "--env /nowhere.env: there is no such file"),
        ([], "required: DATA"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    """Exit code 2, what is wrong, nothing written."""
    file, out = tmp_path / "market.csv", tmp_path / "out"
    calm(file, bars=60, seed=1)
    empty = tmp_path / "empty.csv"
    lines = file.read_text().splitlines()
    empty.write_text("\n".join([lines[0], *(_without_volume(x) for x in lines[1:])]))
    given = [{"FILE": str(file), "EMPTY": str(empty)}.get(x, x) for x in args]
    try:
        code: object = main([*given, "--defaults", "--out", str(out)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_setting_that_nobody_knows_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the daemon does: what was meant was not tried."""
    calm(tmp_path / "market.csv", bars=60, seed=1)
    monkeypatch.setenv("SLOT_CUONT", "5")
    args = [str(tmp_path / "market.csv"), "--out", str(tmp_path / "out")]
    _questions(arguments(args))
    assert "warning: SLOT_CUONT: unknown setting, ignored" in capsys.readouterr().err


def _without_volume(line: str) -> str:
    cells = line.split(",")
    return ",".join([*cells[:5], "0", *cells[6:]])


@pytest.mark.parametrize("where", ["file", "file/in"])
def test_a_folder_that_cannot_be_written_is_told_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """With its name and the option, and nothing was computed."""
    file = tmp_path / "market.csv"
    calm(file, bars=60, seed=1)
    (tmp_path / "file").touch()
    out = tmp_path / where
    assert main([str(file), "--defaults", "--out", str(out)]) == 4
    said = capsys.readouterr()
    assert f"--out {out}: " in said.err
    assert "cannot be written" in said.err
    assert said.out == ""


def test_a_study_that_is_locked_is_told_soon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after a minute, and not only in the words of the database."""
    monkeypatch.setattr("sim.ledger.PATIENCE_SEC", 0.05)
    file, study = tmp_path / "market.csv", tmp_path / "study.db"
    calm(file, bars=60, seed=1)
    with closing(sqlite3.connect(study, isolation_level=None)) as db:
        db.execute("CREATE TABLE x (y)")
        db.execute("BEGIN EXCLUSIVE")
        assert main([str(file), "--defaults", "--study", str(study)]) == 4
    assert f"{study}: another process has had it locked" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """As a shell starts it: a verdict is printed; two at once leave the report of one of them."""
    file = tmp_path / "market.csv"
    calm(file, bars=300, seed=2)
    command = [sys.executable, "-m", "sim.backtest", str(file), "--defaults",
               "--out", str(tmp_path / "out")]  # fmt: skip
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
            for _ in range(2)]  # fmt: skip
    for process in both:
        said, problems = process.communicate(timeout=200)
        assert process.returncode == 0, problems
        assert "NOT DISTINGUISHABLE" in said
        assert str(report_folder(tmp_path / "out")) in said
    folder = report_folder(tmp_path / "out")
    assert len(list(folder.iterdir())) == 4
    took = json.loads((folder / "report.json").read_text())["head"]["took"]
    assert took in (folder / "report.html").read_text()


@pytest.mark.slow(seconds=40)
@pytest.mark.parametrize("more", [{}, {"HMM_ENABLED": "true", "KELLY_ENABLED": "true",
                                       "HMM_TRAINING_CANDLES": "720"}])  # fmt: skip
def test_a_daemon_on_the_same_data_gives_the_same_books(
    tmp_path: Path, more: dict[str, str]
) -> None:
    """Its replay, exported, is what the backtest has: live parity to the byte."""
    file = tmp_path / "market.csv"
    calm(file, bars=2_400, seed=8)
    own = {**LIVELY, "SLOT_COUNT": "2", **more}
    env = environment(tmp_path, MARKET_DATA="replay", REPLAY_FILE=str(file), REPLAY_SPEED="max",
                      OMP_NUM_THREADS="1", LOG_LEVEL="WARNING", **own)  # fmt: skip
    bot = Running(env)
    assert bot.process.wait(300) == 0
    exported = run_bot(env, "export", "--canonical")
    assert exported.returncode == 0, exported.stderr
    sets = [x for name, value in own.items() for x in ("--set", f"{name}={value}")]
    found = run(file, *sets)
    case = found["full" if "KELLY_ENABLED" in more else "cases"][0]
    assert case["counters"]["fills"] > 4
    assert case["canonical_sha256"] in exported.stderr
    assert [x["name"] for x in found["full"]] == (["default", "pessimistic"] if more else [])


@pytest.mark.slow
def test_fixed_sizes_are_fixed_whatever_kelly_is(tmp_path: Path) -> None:
    """With KELLY_ENABLED the compared runs are the same; Kelly's own is beside them."""
    file = tmp_path / "market.csv"
    write_candles(file, bars=2_500, seed=11)
    kelly = ("KELLY_ENABLED=true", "KELLY_MIN_SAMPLES=3", "KELLY_FLOOR_MULT=0.1",
             "KELLY_NEGATIVE_EDGE_MULT=0.1")  # fmt: skip
    on = run(file, *BUSY, *(x for name in kelly for x in ("--set", name)))
    off = run(file, *BUSY, *(x for name in kelly[1:] for x in ("--set", name)))
    assert [x["arms"] for x in on["cases"]] == [x["arms"] for x in off["cases"]]
    assert off["full"] == []
    assert on["full"][0]["canonical_sha256"] != on["cases"][0]["canonical_sha256"]
    assert on["full"][0]["counters"]["cycles"] > 3


@pytest.mark.slow(seconds=25)
def test_a_setting_is_held_against_another_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other run is what a backtest with that value makes; too few days are told."""
    file = tmp_path / "market.csv"
    write_candles(file, bars=1_000, seed=11)
    found = run(file, *BUSY, "--against", "SLOT_COUNT=2")
    said = capsys.readouterr().out
    assert (
        "Against SLOT_COUNT=2, default"
        in (report_folder(tmp_path / "out") / "report.html").read_text()
    )
    other = run(file, *BUSY, "--set", "SLOT_COUNT=2")
    assert [x["name"] for x in found["against"]] == ["default", "pessimistic"]
    for n, x in enumerate(found["against"]):
        assert x["settings"] == {"SLOT_COUNT": {"as_set": "3", "against": "2"}}
        runs = x["runs"]
        assert runs["as_set"]["canonical_sha256"] == found["cases"][n]["canonical_sha256"]
        assert runs["against"]["canonical_sha256"] == other["cases"][n]["canonical_sha256"]
        assert (x["word"], x["reason"][:12]) == ("NOT DISTINGUISHABLE", "too few days")
        assert runs["as_set"]["fees"] > 0
    assert "Against SLOT_COUNT=2, pessimistic" in said
    alike = run(file, *BUSY, "--against", "IMBALANCE_ALERT_MIN=90")["against"]
    assert [(x["growth"], x["reason"]) for x in alike] == [("no difference", "the same trades")] * 2


@pytest.mark.slow(seconds=20)
def test_kellys_own_settings_are_compared_as_orders(tmp_path: Path) -> None:
    """Named on either side, both runs are as they are set; else both have fixed sizes."""
    file = tmp_path / "market.csv"
    write_candles(file, bars=1_000, seed=11)
    kelly = [x for name in ("KELLY_MIN_SAMPLES=3", "KELLY_FLOOR_MULT=0.1",
             "KELLY_NEGATIVE_EDGE_MULT=0.1") for x in ("--set", name)]  # fmt: skip
    on = run(file, *BUSY, *kelly, "--set", "KELLY_ENABLED=true", "--against", "KELLY_ENABLED=false")
    off = run(file, *BUSY, *kelly, "--against", "KELLY_ENABLED=true")
    for n in (0, 1):
        fixed, sized = (on[x][n]["canonical_sha256"] for x in ("cases", "full"))
        assert fixed != sized
        for found, own, other in ((on, sized, fixed), (off, fixed, sized)):
            runs = found["against"][n]["runs"]
            assert runs["as_set"]["canonical_sha256"] == own
            assert runs["against"]["canonical_sha256"] == other


@pytest.mark.slow(seconds=20)
def test_each_question_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """The same one writes the same again; prices in it are those of the venue's grid."""
    file = tmp_path / "market.csv"
    calm(file, bars=300, seed=2)
    for args in ((), ("--no-skip",), ("--set", "SLOT_COUNT=2"), ("--from", "2023-11-14 23:00"),
                 ("--against", "SLOT_COUNT=2")):  # fmt: skip
        run(file, *args)
    folders = list((tmp_path / "out").iterdir())
    assert len(folders) == 4
    assert {len(list(x.iterdir())) for x in folders} == {4}
    assert all(x.name.startswith("market-") for x in folders)


@pytest.mark.slow(seconds=30)
def test_what_sweeps_have_tried_on_the_data_is_held_against_them(tmp_path: Path) -> None:
    """Deflated by their number; by nothing where no sweep is known, or only of other data."""
    file, study = market(tmp_path), str(tmp_path / "sweeps.db")
    assert swept(tmp_path, study, "--trials", "3", *QUICK) == 0
    for more, count in ((("--study", study), 3), ((), 0)):
        found = run(file, *more)
        assert found["trials"]["count"] == count
        for arm in found["cases"][0]["arms"]:
            figures = arm["above_holding"]
            assert (figures["deflated_sharpe"] is not None) == (
                count > 0 and figures["sharpe_per_day"] is not None
            )
            if figures["deflated_sharpe"] is not None:
                assert figures["deflated_sharpe"] <= figures["psr"]
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert data_id(ColumnSource(packed)) == data_id(ColumnSource(file))
    other = tmp_path / "other.csv"
    calm(other, bars=900, seed=2)
    assert run(other, "--study", study)["trials"]["count"] == 0


def test_a_database_that_is_no_study_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written into it."""
    file, text = tmp_path / "market.csv", tmp_path / "text.db"
    calm(file, bars=60, seed=1)
    text.write_text("nothing of the kind\n" * 99)
    args = [str(file), "--defaults", "--study", str(text), "--out", str(tmp_path / "out")]
    assert main(args) == 4
    assert "text.db" in capsys.readouterr().err
    assert text.read_text() == "nothing of the kind\n" * 99
