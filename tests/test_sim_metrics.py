"""Figures of a backtest against published numbers, hand calculation and their own limits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.metrics import (
    Trials,
    curve,
    cycle_figures,
    expected_best_sharpe,
    probabilistic_sharpe,
    track_record_days,
    wilson,
)

DAILY = 1.5 / math.sqrt(365)
FAT = {"skew": -2.0, "kurtosis": 10.0}


def test_a_sharpe_of_one_and_a_half_a_year_is_so_much_a_day() -> None:
    """The ratio that the following golden numbers stand for."""
    assert pytest.approx(0.0785136, abs=1e-7) == DAILY


@pytest.mark.parametrize(
    ("days", "shape", "expected"),
    [(90, {}, 0.7702), (90, FAT, 0.7532), (365, FAT, 0.9169)],
)
def test_psr_has_the_published_values(days: int, shape: dict[str, float], expected: float) -> None:
    """Fewer days and fat tails make a ratio less certain."""
    assert probabilistic_sharpe(DAILY, days=days, **shape) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("shape", "expected"), [({}, 441.3), (FAT, 514.9)])
def test_track_record_has_the_published_values(shape: dict[str, float], expected: float) -> None:
    """So many days make the ratio significant; PSR then is 95 %, and a worse ratio never is."""
    days = track_record_days(DAILY, **shape)
    assert days == pytest.approx(expected, abs=0.05)
    assert days is not None
    assert probabilistic_sharpe(DAILY, days=round(days), **shape) == pytest.approx(0.95, abs=1e-4)
    assert track_record_days(-DAILY) is None


@pytest.mark.parametrize(
    ("count", "annual", "deflated"), [(10, 1.575, 0.473), (50, 2.276, 0.237), (100, 2.531, 0.171)]
)
def test_the_best_of_many_trials_is_good_by_chance(
    count: int, annual: float, deflated: float
) -> None:
    """After ten trials a Sharpe ratio of 1.5 over a year is a coin flip."""
    best = expected_best_sharpe(Trials(count=count, variance=1 / 365))
    assert best is not None
    assert best * math.sqrt(365) == pytest.approx(annual, abs=5e-4)
    found = probabilistic_sharpe(DAILY, days=365, against=best, **FAT)
    assert found == pytest.approx(deflated, abs=5e-4)


def test_one_trial_deflates_nothing_and_none_is_no_trial() -> None:
    """Without a choice there is no luck of choosing; without a ledger no claim."""
    assert expected_best_sharpe(Trials(count=1, variance=0.1)) == 0.0
    assert expected_best_sharpe(Trials(count=0, variance=0.1)) is None
    assert expected_best_sharpe(Trials(count=5, variance=math.nan)) is None
    equity = 100 * np.cumprod(1 + np.random.default_rng(1).normal(0.001, 0.01, 200))
    found = curve(equity, Trials(count=1, variance=0.1))
    assert found.deflated_sharpe == found.psr
    assert curve(equity).deflated_sharpe is None


def test_wilson_has_the_published_interval() -> None:
    """A level of 90 % for 24 of 30 is .657 to .893; at 95 % it is wider."""
    low, high = wilson(24, 30)
    assert (low, high) == (pytest.approx(0.6269, abs=1e-4), pytest.approx(0.9050, abs=1e-4))
    assert wilson(0, 0) == (None, None)


def test_a_curve_has_the_figures_of_hand_calculation() -> None:
    """Four days: up 10 %, down 20 %, up 25 %, up 10 %."""
    found = curve(np.array([100.0, 110.0, 88.0, 110.0, 121.0]))
    returns = np.array([0.1, -0.2, 0.25, 0.1])
    assert found.days == 4
    assert found.total_return == pytest.approx(0.21)
    assert found.growth_per_day == pytest.approx(math.log(1.21) / 4)
    deviation = math.sqrt(sum((x - 0.0625) ** 2 for x in returns) / 3)
    assert found.volatility == pytest.approx(deviation * math.sqrt(365))
    assert found.sharpe_per_day == pytest.approx(0.0625 / deviation)
    assert found.sharpe == pytest.approx(0.0625 / deviation * math.sqrt(365))
    assert found.sortino == pytest.approx(0.0625 / math.sqrt(0.04 / 4) * math.sqrt(365))
    assert found.drawdown_max == pytest.approx(0.2)
    assert found.drawdown_days == 2
    assert found.ulcer == pytest.approx(math.sqrt(0.04 / 5))
    assert found.cvar_95 == pytest.approx(-0.2)
    assert (found.cagr, found.calmar) == (None, None)


def test_a_drawdown_that_is_not_made_good_lasts_to_the_end() -> None:
    """Its days are counted from the peak before it."""
    found = curve(np.array([100.0, 120.0, 119.0, 120.0, 90.0, 100.0, 95.0]))
    assert (found.drawdown_max, found.drawdown_days) == (pytest.approx(0.25), 3)


@pytest.mark.parametrize(("days", "is_told"), [(89, False), (90, True)])
def test_growth_a_year_is_told_from_ninety_days(days: int, is_told: bool) -> None:
    """A shorter run is not blown up to a year."""
    found = curve(100 * 1.001 ** np.arange(days + 1.0))
    assert (found.cagr is not None) == is_told
    if is_told:
        assert found.cagr == pytest.approx(1.001**365 - 1)


@pytest.mark.parametrize(
    "equity", [[], [100.0], [100.0, 0.0, 5.0], [100.0, -3.0], [100.0, math.nan], [1.0, math.inf]]
)
def test_a_curve_without_returns_has_no_figures(equity: list[float]) -> None:
    """What is not defined is None."""
    found = curve(np.array(equity), Trials(count=10, variance=0.01)).to_dict()
    assert {x for name, x in found.items() if name != "days"} == {None}


def test_a_flat_curve_has_no_ratios() -> None:
    """Nothing gained, nothing risked: zero over zero is none."""
    found = curve(np.full(200, 100.0))
    assert (found.total_return, found.volatility, found.drawdown_max) == (0.0, 0.0, 0.0)
    assert found.drawdown_days == 0
    assert {found.sharpe, found.sortino, found.calmar, found.psr, found.track_days_min} == {None}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-300, 1e300), max_size=120))
def test_no_curve_makes_a_number_that_is_none(values: list[float]) -> None:
    """Whatever the equity, a figure is finite or None."""
    with np.errstate(all="ignore"):
        found = curve(np.array(values), Trials(count=7, variance=0.02)).to_dict()
    assert all(x is None or math.isfinite(x) for x in found.values())


def test_cycles_have_the_figures_of_hand_calculation() -> None:
    """Three won, one lost, one neither."""
    found = cycle_figures(np.array([1.0, 2.0, 3.0, -4.0, 0.0]), np.array([1.0, 2, 3, 4, 5]))
    assert (found.count, found.wins, found.win_rate) == (5, 3, 0.75)
    assert (found.win_rate_low, found.win_rate_high) == wilson(3, 4)
    assert found.profit_factor == pytest.approx(1.5)
    assert found.expectancy == pytest.approx(0.4)
    assert (found.holding_p50_sec, found.holding_p95_sec) == (3.0, pytest.approx(4.8))


def test_cycles_that_say_nothing_have_no_figures() -> None:
    """None at all; none lost; none decided."""
    nothing = cycle_figures(np.array([]), np.array([])).to_dict()
    assert {x for name, x in nothing.items() if name not in ("count", "wins")} == {None}
    assert cycle_figures(np.array([1.0]), np.array([1.0])).profit_factor is None
    assert cycle_figures(np.array([0.0]), np.array([1.0])).win_rate is None
