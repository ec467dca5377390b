"""Days without prices are no days: of a recording, of its marks, of what is said of them."""

import math
import random
from pathlib import Path

import numpy as np
import pytest

from market.columns import ColumnSource
from market.replay import ReplaySource
from sim.arms import Fills, Replay
from sim.coverage import coverage
from sim.metrics import OF_DAYS, curve
from sim.observed import Observed, observed
from sim.report_tables import figures
from sim.run import live_through
from sim.verdict import DAYS_MIN
from tests.sizing_world import START, days_from, market
from tests.test_columns import with_holes
from tests.test_skipping import LIVELY, settings_of

DAY = 86_400
FIRST = 19_676  # START's day since 1970


def hours(*spans: tuple[float, float]) -> set[int]:
    """Return the hours of spans of days, counted from START's."""
    return {x for a, b in spans for x in range(round(24 * (FIRST + a)), round(24 * (FIRST + b)))}


@pytest.mark.parametrize(
    ("spans", "days", "lost", "gaps", "longest"),
    [
        ([(0, 3)], [0, 1, 2], [], 0, 0),
        ([(0.5, 2.5)], [1], [], 0, 0),
        ([(0, 1), (11, 13)], [0, 12], range(1, 12), 1, 240),
        ([(0, 1.5), (11.5, 13)], [0, 12], range(1, 12), 1, 240),
        ([(0, 1.25), (1.25 + 1 / 24, 2)], [0, 1], [], 1, 1),
        ([(0, 1.25), (1.25 + 2 / 24, 2)], [0], [1], 1, 2),
        ([(0, 2 - 1 / 24), (2, 4)], [0, 1, 3], [2], 1, 1),
        ([], [], [], 0, 0),
    ],
)
def test_a_day_counts_with_prices_in_nearly_all_its_hours(
    spans: list[tuple[float, float]], days: list[int], lost: list[int], gaps: int, longest: int
) -> None:
    """All but one; and in the hour before, for its first mark would else be an old price."""
    found = coverage(hours(*spans))
    assert sorted(found.days) == [FIRST + x for x in days]
    assert list(found.lost) == [FIRST + x for x in lost]
    assert (found.gaps, found.longest_hours) == (gaps, longest)


@pytest.mark.parametrize("interval", [60, 7_200])
def test_columns_have_the_hours_of_the_rows(tmp_path: Path, interval: int) -> None:
    """Read at once or one by one; what is made up for a gap is no price."""
    path = tmp_path / "market.csv"
    with_holes(path, 900)
    if interval > 3_600:
        rows = [f"{START + n * interval:.0f},1,1,1,1,1" for n in (0, 1, 3)]
        path.write_text("\n".join(["time,open,high,low,close,volume", *rows]))
    found = ColumnSource(path)
    assert found.columns is not None
    assert found.hours == ReplaySource(path).hours
    if interval > 3_600:
        assert found.filled_count == 1
        assert sorted(x - FIRST * 24 for x in found.hours) == [0, 1, 2, 3, 6, 7]


def marked(days: int, gap: range) -> Fills:
    """Return a market of so many days, of which those of `gap` have no prices."""
    fills = market(3, days=days)
    first = int(START // DAY)
    return fills._replace(days=days_from(START, days) - {first + x for x in gap})


def test_growth_over_a_gap_belongs_to_no_day() -> None:
    """It is in the total return and in growth per elapsed day; ratios are as without it."""
    fills = marked(40, range(10, 20))
    equity = np.exp(np.cumsum(np.random.default_rng(1).normal(0.001, 0.01, 41)))
    equity[11:] *= 1.5
    steps = np.diff(np.log(equity))
    kept = np.delete(steps, range(10, 20))
    found = curve(equity, elapsed_days=40.0, whole=fills.spliced(equity))
    alone = curve(np.exp(np.concatenate([[0.0], np.cumsum(kept)])))
    assert found.days == alone.days == 30
    assert found.total_return == pytest.approx(equity[-1] / equity[0] - 1)
    assert found.growth_per_day == pytest.approx(math.log(equity[-1] / equity[0]) / 40)
    for name in ("volatility", "sharpe", "sortino", "cvar_95", "psr", "track_days_min"):
        assert getattr(found, name) == pytest.approx(getattr(alone, name)), name


def test_equity_that_is_used_up_in_a_day_that_does_not_count_stays_used_up() -> None:
    """Nothing is spliced over it."""
    fills = marked(4, range(1, 2))
    assert np.isfinite(fills.spliced(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))).all()
    assert np.isnan(fills.spliced(np.array([1.0, 2.0, -3.0, 4.0, 5.0]))[-1])


def test_shuffles_grow_in_the_days_that_count() -> None:
    """A shuffle of equal sizes is the arm itself, gap or none."""
    for gap in (range(0), range(10, 20), range(5), range(35, 40)):
        fills = marked(40, gap)
        replay = Replay(fills)
        sizes = np.full(replay.count, 1.2)
        whole = fills.spliced(replay.given("K", sizes).equity)
        assert len(whole) == 41 - len(gap)
        wanted = math.log(whole[-1]) / (40 - len(gap))
        assert replay.placebo(sizes, 3, 0) == pytest.approx(wanted, rel=1e-9)


def write_days(path: Path, *spans: tuple[float, float], bar_sec: int = 300) -> None:
    """Write a walk with candles in these spans of days from START."""
    rng, price, lines = random.Random(3), 0.1, ["time,open,high,low,close,volume"]
    for begin, end in spans:
        for n in range(round((end - begin) * DAY / bar_sec)):
            after = price * math.exp(rng.gauss(0, 0.003))
            high, low = max(price, after) * 1.0005, min(price, after) * 0.9995
            at = START + begin * DAY + n * bar_sec
            lines.append(f"{at:.0f},{price:.7f},{high:.7f},{low:.7f},{after:.7f},20000")
            price = float(f"{after:.7f}")
    path.write_text("\n".join(lines) + "\n")


def seen_of(folder: Path, *spans: tuple[float, float]) -> tuple[Observed, ColumnSource]:
    """Run over these spans of days; return what is seen."""
    path = folder / "market.csv"
    write_days(path, *spans)
    source = ColumnSource(path)
    return observed(
        live_through(settings_of(folder, path, **LIVELY), source, folder=folder)
    ), source


def test_a_gap_of_ten_days_makes_no_days(tmp_path: Path) -> None:
    """Two days with prices are two; the time that has passed is twelve and a half."""
    seen, source = seen_of(tmp_path, (0, 1.5), (11.5, 13.02))
    fills = seen.fills
    assert len(fills.whole_days) == 2
    assert fills.elapsed_days == pytest.approx(13.02, abs=0.01)
    assert fills.mark_times[-1] == pytest.approx(source.end_time(), abs=1.0)
    assert figures(seen, seen.days["equity"]).days == 2
    assert (seen.coverage.gaps, seen.coverage.longest_hours) == (1, 240)


def test_the_last_mark_is_the_end_of_the_data(tmp_path: Path) -> None:
    """Not the last whole hour; and all ways of doing nothing begin alike."""
    seen, source = seen_of(tmp_path, (0.4, 0.53))
    fills = seen.fills
    assert fills.mark_times[-1] == pytest.approx(source.end_time(), abs=1.0)
    assert fills.bids[-1] == pytest.approx(float(source.exact_close(-1)), rel=1e-3)
    sold = fills.quote + fills.base * fills.bids[0] * (1 - fills.taker)
    assert [seen.days[x][0] for x in ("usd", "doge", "half")] == pytest.approx([sold] * 3)
    assert seen.days["usd"][-1] == pytest.approx(sold)


def test_ratios_of_few_days_are_not_told(tmp_path: Path) -> None:
    """Nineteen days are too few for a Sharpe ratio, twenty are not; the return is told of any."""
    seen, _ = seen_of(tmp_path, (0.4, 0.41))
    equity = np.exp(np.cumsum(np.random.default_rng(1).normal(0.001, 0.01, 41)))
    for lost, is_told in ((21, False), (20, True)):
        found = figures(seen._replace(fills=marked(40, range(lost))), equity).to_dict()
        assert found["total_return"] == pytest.approx(equity[-1] / equity[0] - 1)
        assert {found[x] is not None for x in OF_DAYS if x != "deflated_sharpe"} == {is_told}
        assert found["days"] == 40 - lost
    assert DAYS_MIN == 20
