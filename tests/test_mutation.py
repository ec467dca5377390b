"""The report of `make mutation`: what is drawn, what is counted, what is no verdict."""

import pytest

from tools.mutation import ROOT, drawn, line, mutated_modules


def test_the_modules_that_are_mutated_exist() -> None:
    """All seven of the money's."""
    modules = mutated_modules()
    assert len(modules) == 7
    assert all((ROOT / x).is_file() for x in modules)


def test_a_sample_is_the_same_for_a_seed_and_never_larger_than_all() -> None:
    """Without repetition."""
    names = [f"mutant {n}" for n in range(50)]
    first = drawn(names, 10, 1)
    assert len(set(first)) == 10
    assert first == drawn(names, 10, 1) != drawn(names, 10, 2)
    assert set(drawn(names, 60, 1)) == set(names)


def test_a_timeout_kills_and_what_no_test_reaches_survives() -> None:
    """The share is of those that were judged."""
    told = line("leg.py", ["killed", "killed", "timeout", "survived", "no tests"], 900)
    assert told.split() == ["leg.py", "900", "5", "3", "2", "60.0", "%"]
    with pytest.raises(ValueError, match="not all mutants were judged"):
        line("leg.py", ["killed", "not checked"], 900)
