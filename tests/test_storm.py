"""The fault storm itself: its disk forgets what it should, a seed is itself, results add up."""

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import leg
from core.record import replace
from sim.faults import failures, known, main
from sim.storm_disk import Disk, FaultyStore
from sim.storm_mutants import mutants
from sim.storm_points import Case, around, case_of, cases, deaths, live_through
from sim.storm_run import Result, run_seed, summed
from sim.storm_shrink import Case as PastCase
from sim.storm_shrink import corpus, keep, shrink
from sim.storm_weather import CALM, KINDS, Weather, draw

ROOT = Path(__file__).parent.parent
SHORT = replace(draw(0), hours=0.05)


class Notebook:
    """Writes numbered facts into a store on a disk that fails, and counts those still there."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = Disk(path, self.rng, now=lambda: 0.0, wait=lambda _: None)
        self.store = FaultyStore(self.disk, epoch=5)
        self.count = self.synced = 0

    def write(self) -> None:
        """Write a few, some of them synced."""
        for _ in range(self.rng.randint(1, 30)):
            is_full = self.rng.random() < 0.3
            text = "y" * self.rng.randint(1, 9_000)
            with self.store._transaction("step 1", is_full=is_full) as db:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"k{self.count}", text))
            self.count += 1
            self.synced = self.count if is_full else self.synced

    def die(self, how: str) -> int:
        """Let the process die, open the file again, and return how many are lost."""
        self.disk.die(self.store, how)
        self.store = FaultyStore(self.disk, epoch=5)
        names = {x for (x,) in self.store._rows("SELECT name FROM meta WHERE name LIKE 'k%'")}
        assert names == {f"k{n}" for n in range(len(names))}, "not the first ones"
        assert len(names) >= self.synced or how == "torn_write"
        lost, self.count = self.count - len(names), len(names)
        self.synced = self.count
        return lost


@pytest.mark.parametrize(("how", "most"), [("crash", 0), ("torn_write", 1), ("power_cut", 30)])
def test_a_disk_loses_what_it_should(tmp_path: Path, how: str, most: int) -> None:
    """A dead process loses nothing; a torn write the last commit; a power cut what is unsynced."""
    book, lost = Notebook(tmp_path / "x.db", 3), []
    for _ in range(12):
        book.write()
        lost.append(book.die(how))
    assert max(lost) <= most
    assert (sum(lost) > 0) is (how != "crash")
    book.store.close()


def test_a_seed_of_calm_weather_has_no_faults_and_trades() -> None:
    """Nothing is wrong, and there is something to be wrong about."""
    result = run_seed(1, replace(CALM, hours=0.1))
    assert result.wrongs == ()
    assert result.faults == {}
    assert result.executions > 0
    assert result.lives == {"starts": 3}  # once more for each calm after it


@pytest.mark.slow(seconds=12)
def test_the_same_seed_is_the_same_in_another_process() -> None:
    """To the last event, whatever the order of sets there."""
    weather = msgspec.json.encode(SHORT).decode()
    program = (
        "import msgspec, sys; from sim.storm_run import run_seed; "
        "from sim.storm_weather import Weather; "
        "print(run_seed(7, msgspec.json.decode(sys.argv[1], type=Weather)).trace)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", program, weather], cwd=ROOT, capture_output=True, text=True,
            check=True, timeout=100, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert traces == {run_seed(7, SHORT).trace}


def test_every_kind_is_drawn_by_some_seed_and_left_out_by_another() -> None:
    """Swarm: what is always on hides what only happens without it."""
    drawn = [set(draw(seed).rates) for seed in range(40)]
    assert set.union(*drawn) == set(KINDS)
    assert set.intersection(*drawn) == set()


def test_weather_survives_its_file_form() -> None:
    """A seed can be kept with the weather that it had."""
    assert msgspec.json.decode(msgspec.json.encode(draw(3)), type=Weather) == draw(3)


def test_a_failure_names_the_command_that_repeats_it() -> None:
    """Seed, what is wrong, and how to see it again."""
    bad = Result(seed=17, hours=1.0, code="x", wrongs=("12.0 s: a nonce has fallen",))
    assert failures([bad]) == [
        "seed 17: 1 violations; repeat: python -m sim.faults --seed 17 --no-days",
        "  12.0 s: a nonce has fallen",
    ]


@pytest.mark.slow(seconds=25)
def test_results_add_up_over_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file holds is not run again; all is reported together."""
    out = tmp_path / "storm.jsonl"
    args = ["--no-days", "--jobs", "2", "--out", str(out)]
    assert main(["--seeds", "2", *args]) == 0
    first = known(out)
    assert main(["--seeds", "3", *args]) == 0
    assert sorted(x.seed for x in known(out)) == [0, 1, 2]
    assert all(len(x.faults) > 10 and x.orders > 10 and x.executions > 10 for x in known(out))
    assert [x for x in known(out) if x.seed < 2] == first
    text = capsys.readouterr().out
    assert "3 seeds, " in text
    assert text.count("violations: 0") == 2


@pytest.mark.long
def test_everything_there_is_happens_in_some_seed_and_nothing_is_wrong() -> None:
    """Sixteen hours, each with a weather of its own."""
    results = [run_seed(seed, draw(seed)) for seed in range(16)]
    assert {x.seed: x.wrongs for x in results if x.wrongs} == {}
    assert set(summed(x.faults for x in results)) == set(KINDS)
    crashes = sum(x.lives.get("crash", 0) for x in results)
    assert min(crashes, sum(x.orders for x in results), sum(x.cycles for x in results)) > 16


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--seeds", "0"), "must be a whole number, 1 to 1000000"),
        (("--out", "/nowhere/x"), "must be a file in a folder that is there"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    """With exit code 2 and what is allowed."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is run."""
    (tmp_path / "x").write_text("hello")
    assert main(["--out", str(tmp_path / "x")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_failing_seed_is_made_small() -> None:
    """Only what it takes is left: here one kind of fault, for a tenth of an hour at least."""

    def run(seed: int, weather: Weather) -> Result:
        is_bad = weather.hours > 0.1 and weather.rate("late") > 0
        return Result(seed=seed, hours=weather.hours, code="x", wrongs=("bad",) if is_bad else ())

    weather = replace(draw(1), rates={"late": 0.1, "crash": 0.1, "slow": 0.1, "drift": 1.0})
    small = shrink(1, weather, run=run)
    assert small.rates == {"late": 0.1}
    assert 0.1 < small.hours <= 0.2
    assert (small.lags, small.env["SLOT_COUNT"]) == ({}, "1")
    with pytest.raises(ValueError, match="seed 1 does not fail"):
        shrink(1, replace(weather, rates={}), run=run)


def test_past_failures_are_kept_in_a_file(tmp_path: Path) -> None:
    """Each once, with its weather and what it found."""
    path = tmp_path / "corpus.json"
    path.write_text("[]")
    case = PastCase(seed=3, weather=draw(3), found="an exit that somebody made larger")
    keep(case, path)
    keep(case, path)
    assert corpus(path) == (case,)


def test_a_mutant_is_in_place_only_while_it_lasts() -> None:
    """What it puts in the place of functions is taken back."""
    before = leg.finish_entry
    mutant = next(x for x in mutants() if x.name == "entry taken for whole")
    with mutant.in_place():
        assert leg.finish_entry is not before
    assert leg.finish_entry is before
    assert len({x.name for x in mutants()}) == len(mutants()) >= 26


@pytest.mark.parametrize(
    "text", ["17:good", "17:lost_response", "17:lost_response:3:crash", "2:good:0:power_cut"]
)
def test_a_case_is_repeated_by_its_name(text: str) -> None:
    """What is told of a violation is what repeats it."""
    assert str(case_of(text)) == text


@pytest.mark.parametrize("text", ["", "17", "x:good", "17:rain", "17:good:1", "17:good:1:fire"])
def test_a_case_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 2 and what is wrong."""
    assert main(["--case", text]) == 2
    assert "is no case: CALL:OUTCOME or CALL:OUTCOME:POINT:HOW" in capsys.readouterr().err


@pytest.mark.slow(seconds=10)
def test_a_call_is_given_every_outcome_and_the_process_every_death() -> None:
    """The scene places, cancels and starts again; a death is at each point up to the next call."""
    scene = live_through(Case(call=0))
    assert scene.wrongs == ()
    assert {"AddOrder", "CancelOrder", "QueryOrders", "TradesHistory"} <= set(scene.calls)
    assert scene.calls.count("GetApiKeyInfo") == 2
    first = scene.calls.index("AddOrder") + 1
    found = {x.outcome for x in cases() if x.call == first}
    assert {"", "lost_response", "stalled", "post_only_reject", "odd_result"} <= found
    good = live_through(Case(call=first))
    hows = [x.how for x in deaths(good)]
    assert good.points[:2] == ("before AddOrder", "after AddOrder")
    assert hows.count("crash") == len(good.points)
    assert hows.count("torn_write") == hows.count("power_cut") > 0


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize(
    ("method", "outcome"),
    [("AddOrder", ""), ("AddOrder", "stalled"), ("CancelOrder", "lost_response")],
)
def test_whatever_the_outcome_and_wherever_it_dies_all_ends_well(method: str, outcome: str) -> None:
    """`python -m sim.faults --points 1` does this for all of them."""
    calls = live_through(Case(call=0)).calls
    lived = around(Case(call=calls.index(method) + 1, outcome=outcome))
    assert len(lived) > 3
    assert {str(x.case): x.wrongs for x in lived if x.wrongs} == {}
