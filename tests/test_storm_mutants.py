"""The storm has teeth: it catches deliberate bugs, and nothing where there is none.

The bugs and the weather of each are in `sim/storm_mutants.py`; `python -m sim.faults --mutants 40`
runs all of them on every core.
"""

import sys

import pytest

from core.record import replace
from sim.storm_mutants import catch, mutants
from sim.storm_oracle import Oracle
from sim.storm_run import run_seed
from sim.storm_weather import Weather

QUICK = (  # caught by the first seed
    "pending was not sent",
    "cancel answer trusted",
    "resolved at once by one look",
    "nonce window",
    "flows twice",
)
FORBIDDEN = (
    "record after send",
    pytest.param("blind retry without deadline", marks=pytest.mark.long),
)
# Seen in one seed of many: too long for a test.
RARE = ("one look after the full wait", "resolved at once by two looks")
REST = [x.name for x in mutants() if x.name not in (*QUICK, *RARE)]


def weathers() -> dict[str, Weather]:
    """Return every weather that bugs are caught in, by the first of them; copies are refused."""
    found: dict[str, Weather] = {}
    for one in mutants():
        weather = replace(one.weather, nonce_window=0)
        if weather not in found.values():
            found[one.name] = weather
    return found


def check_caught(name: str, most: int) -> None:
    """Fail if so many seeds do not show the bug."""
    caught = catch(name, most)
    assert caught.seen is not None, f"{most} seeds have not caught: {name}"
    assert "the start is refused" not in caught.seen
    sys.stdout.write(f"{name}: caught by seed {caught.seeds - 1}: {caught.seen}\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_bug_is_caught(name: str) -> None:
    """By the venue's truth, or by what must hold at every call and commit."""
    check_caught(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_a_forbidden_call_does_is_caught_too(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An order without a deadline, or not on disk, is wrong as such; the venue shows the harm."""
    monkeypatch.setattr(Oracle, "_placing", lambda *_: None)
    check_caught(name, 2)


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
def test_every_other_bug_is_caught(name: str) -> None:
    """Within some more seeds."""
    check_caught(name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in weathers() if x not in RARE])
def test_nothing_is_caught_where_there_is_no_bug(name: str) -> None:
    """In the weather of that one and others; else to be caught in it would prove nothing."""
    result = run_seed(0, weathers()[name])
    assert result.wrongs == ()
    assert result.executions > 10


@pytest.mark.long
@pytest.mark.parametrize("name", weathers())
def test_nothing_is_caught_in_more_seeds_where_there_is_no_bug(name: str) -> None:
    """As many as it takes to catch most of the bugs."""
    wrongs = {seed: run_seed(seed, weathers()[name]).wrongs for seed in range(8)}
    assert set(wrongs.values()) == {()}, wrongs


@pytest.mark.slow
def test_nothing_is_wrong_where_every_other_request_is_repeated() -> None:
    """With a nonce window of 0 the copies are refused, whenever they arrive."""
    result = run_seed(3, Weather(rates={"echoed": 0.5}, hours=0.5, poll_sec=10.0, step_pct=0.4))
    assert result.wrongs == ()
    assert result.faults["echoed"] > 100
