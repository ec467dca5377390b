"""The compiled EM and hmmlearn's: the same models."""

import numpy as np
import pytest

from engine.clock import cpu_seconds
from hmm_regime_detector import features
from regime import fast, fitting
from regime.features import Floats
from regime.fitting import (
    ITERATIONS,
    TOLERANCE,
    Fitted,
    Parameters,
    fit_fast,
    fit_hmmlearn,
    starting_points,
)
from tests.hmm_world import Rows, recorded, walk

MISSING = "numba is not installed: pip install -r requirements-fast.txt"
BINANCE = "binance_dogeusdt_1m_20210402_20210615.csv.gz"


def standard(candles: Rows) -> Floats:
    """Return standardised rows."""
    matrix, mask = features(candles)
    rows = matrix[mask]
    result: Floats = np.ascontiguousarray((rows - rows.mean(axis=0)) / rows.std(axis=0))
    return result


def same(one: Fitted, other: Fitted) -> None:
    """Hold two results together: likelihood to 1e-6, parameters to 1e-4 (far less is usual)."""
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-6)
    assert one.iterations == other.iterations
    assert one.is_converged == other.is_converged
    orders = [np.argsort(x.parameters.means[:, 1]) for x in (one, other)]
    for name in ("startprob", "means", "variances", "transmat"):
        parts = [getattr(x.parameters, name)[n] for x, n in zip((one, other), orders, strict=True)]
        if name == "transmat":
            parts = [x[:, n] for x, n in zip(parts, orders, strict=True)]
        np.testing.assert_allclose(*parts, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_written_out_em_is_hmmlearns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, on few rows and iterations, one of three sequences a single row."""
    monkeypatch.setattr(fitting, "ITERATIONS", 6)
    rows, lengths = standard(walk(400, 1)), [120, 1, 129]
    plain = [getattr(x, "py_func", x) for x in (fast.em, fast.expect, fast.maximise)]
    monkeypatch.setattr(fast, "expect", plain[1])
    monkeypatch.setattr(fast, "maximise", plain[2])
    start = starting_points(rows, count=1, seed=2)[0]
    found = plain[0](rows, np.cumsum(lengths), *start, 6, TOLERANCE)
    same(
        Fitted(Parameters(*found[:4]), found[6], found[7], False),
        fit_hmmlearn(rows, lengths, start),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lengths", [[3850], [1000, 50, 2800], [120] * 32 + [10]])
def test_compiled_em_is_hmmlearns(lengths: list[int], seed: int) -> None:
    """On recorded candles, in one sequence and in many, to the last iteration."""
    pytest.importorskip("numba", reason=MISSING)
    rows = standard(recorded(BINANCE, 40_000, 4000))
    start = starting_points(rows, count=1, seed=seed)[0]
    same(fit_fast(rows, lengths, start), fit_hmmlearn(rows, lengths, start))


def test_compiled_em_bears_rows_far_out() -> None:
    """Where hmmlearn has to count in logarithms."""
    pytest.importorskip("numba", reason=MISSING)
    candles = walk(3000, 15)
    candles.close[2000:] *= 1.5
    rows = standard(candles)
    start = starting_points(rows, count=1, seed=0)[0]
    same(fit_fast(rows, [len(rows)], start), fit_hmmlearn(rows, [len(rows)], start))


@pytest.mark.slow
def test_compiled_em_is_five_times_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """4000 candles, 100 iterations each, CPU seconds, best of five."""
    pytest.importorskip("numba", reason=MISSING)
    monkeypatch.setattr(fitting, "TOLERANCE", -1e9)
    rows = standard(walk(4000, 1))
    start = starting_points(rows, count=1, seed=0)[0]
    best = {}
    for run in (fit_fast, fit_hmmlearn):
        spent = []
        for _ in range(5):
            began = cpu_seconds()
            assert run(rows, [len(rows)], start).iterations == ITERATIONS
            spent.append(cpu_seconds() - began)
        best[run] = min(spent)
    assert best[fit_hmmlearn] > 5 * best[fit_fast]
