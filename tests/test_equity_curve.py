"""The equity curve over any span: thinned evenly, with no drawdown lost; flows are no drawdown."""

import itertools
import random
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from core.params import Params, RiskBasis
from core.record import replace
from store import codec
from store.history import SqliteHistory
from store.sqlite import SqliteStore

T = 1_700_000_000.0
Row = tuple[float, float, float]  # equity, hold, usd
HOUR = 3600.0


def history(
    tmp_path: Path, rows: list[Row], basis: RiskBasis = RiskBasis.STRATEGY
) -> SqliteHistory:
    """Return a history with an equity point each hour."""
    path = tmp_path / "bot.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as db:
        db.executemany(
            "INSERT INTO equity VALUES (?, ?, ?, ?, ?, '0', '0', '0', '0', '0.1', 0)",
            (
                (n + 1, T + n * HOUR, str(Decimal(repr(e))), repr(h), repr(u))
                for n, (e, h, u) in enumerate(rows)
            ),
        )
        params = codec.encode(replace(Params(), risk_basis=basis))
        db.execute("INSERT INTO state VALUES (1, 1, '{}', ?)", (params,))
    db.close()
    return SqliteHistory(path)


def walk(count: int, seed: int = 1) -> list[Row]:
    """Return equity and hold as random walks around 1000."""
    rng, made, equity, hold = random.Random(seed), [], 1000.0, 1000.0
    for _ in range(count):
        equity, hold = round(equity * rng.gauss(1, 0.01), 4), round(hold * rng.gauss(1, 0.01), 4)
        made.append((equity, hold, 1000.0))
    return made


def falls(rows: list[Row], basis: RiskBasis) -> list[float]:
    """Return the drawdown in percent at each point, computed point by point."""
    made, peak = [], 1.0
    for equity, hold, _ in rows:
        index = equity / (hold if basis is RiskBasis.STRATEGY else rows[0][2])
        peak = max(peak, index)
        made.append(100 * (1 - index / peak))
    return made


@pytest.mark.parametrize("basis", list(RiskBasis))
@pytest.mark.parametrize(("count", "limit"), [(300, 7), (300, 299), (300, 300), (1, 1), (50, 1)])
def test_a_thinned_curve_hides_no_drawdown(
    tmp_path: Path, basis: RiskBasis, count: int, limit: int
) -> None:
    """Each point tells the deepest fall of the stretch it ends; the newest is always there."""
    rows = walk(count)
    points, is_thinned = history(tmp_path, rows, basis).equity_curve(None, limit)
    assert is_thinned is (count > limit)
    assert len(points) == min(count, limit)
    assert points[-1]["time"] == T + (count - 1) * HOUR
    wanted, own, first = falls(rows, basis), [round((x["time"] - T) / HOUR) for x in points], 0
    for n, point in zip(own, points, strict=True):
        assert point["drawdown_pct"] == pytest.approx(max(wanted[first : n + 1]), abs=1e-3)
        assert Decimal(point["equity"]) == Decimal(repr(rows[n][0]))
        first = n + 1
    if limit == 7:
        gaps = [b - a for a, b in itertools.pairwise(own)]
        assert max(gaps) - min(gaps) <= 1


def test_since_keeps_the_peak_of_before(tmp_path: Path) -> None:
    """The span begins where it was asked for; the fall is from the highest of the whole run."""
    rows = [(1000.0, 1000.0, 1000.0), (1200.0, 1000.0, 1000.0), (900.0, 1000.0, 1000.0)]
    found = history(tmp_path, rows)
    (point,), is_thinned = found.equity_curve(T + 2 * HOUR, 5)
    assert (point["drawdown_pct"], is_thinned) == (25.0, False)
    assert found.equity_curve(T + 3 * HOUR, 5) == ([], False)
    assert [x["drawdown_pct"] for x in found.equity_curve(None, 5)[0]] == [0.0, 0.0, 25.0]


@pytest.mark.parametrize("basis", list(RiskBasis))
def test_deposits_and_withdrawals_are_no_drawdown(tmp_path: Path, basis: RiskBasis) -> None:
    """Half is taken out: equity and hold step, the index does not; nor hides a deposit a fall."""
    rows = [
        (1000.0, 1000.0, 1000.0), (500.0, 500.0, 500.0), (400.0, 500.0, 500.0),
        (10_400.0, 10_500.0, 10_500.0),
    ]  # fmt: skip
    points, _ = history(tmp_path, rows, basis).equity_curve(None, 10)
    assert [x["drawdown_pct"] for x in points] == [0.0, 0.0, 10.0, 10.0]
    assert [x["equity"] for x in points] == ["1000.0", "500.0", "400.0", "10400.0"]


def test_a_run_without_points_has_no_curve(tmp_path: Path) -> None:
    """Nothing is told before the first hour."""
    assert history(tmp_path, []).equity_curve(None, 5) == ([], False)
