"""Expectation and maximisation for a window of standardised rows: hmmlearn is the estimator.

hmmlearn is imported here only, when a model is fitted: it takes 1.5 s and 150 MB, and belongs into
the worker process. Where numba is installed the same steps run compiled (`regime/fast.py`).
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from regime import fast
from regime.features import Floats
from regime.model import STATES

ITERATIONS = 100
TOLERANCE = 0.01  # nats: hmmlearn's own
_PERSISTENCE = 0.9
_MIXING = 0.01


class Parameters(NamedTuple):
    """What EM starts from or ends with: (3,), (3, 4), (3, 4) and (3, 3), states in any order."""

    startprob: Floats
    means: Floats
    variances: Floats
    transmat: Floats


class Fitted(NamedTuple):
    """The end of one run of EM; `log_likelihood` (nats) is that of these parameters."""

    parameters: Parameters
    log_likelihood: float
    iterations: int
    is_converged: bool


class FitError(Exception):
    """No start led to a model; the message says what the estimator said."""


def starting_points(rows: Floats, *, count: int, seed: int) -> list[Parameters]:
    """Return `count` seeded starts: the means at three rows drawn by chance, all else neutral.

    On fifteen windows of DOGE such a start reached the best likelihood of 56 in three of four
    runs, hmmlearn's own (k-means, chance transitions) in less than three of five.
    """
    variances = np.tile(rows.var(axis=0) + 1e-3, (STATES, 1))
    other = (1 - _PERSISTENCE) / (STATES - 1)
    transmat = np.full((STATES, STATES), other) + (_PERSISTENCE - other) * np.eye(STATES)
    starts = []
    for n in range(count):
        generator = np.random.Generator(np.random.PCG64([seed, n]))
        drawn = generator.choice(len(rows), size=STATES, replace=False)
        starts.append(Parameters(np.full(STATES, 1 / STATES), rows[drawn], variances, transmat))
    return starts


def softened(parameters: Parameters) -> Parameters:
    """Return a start made of an earlier result: nothing impossible, for EM never leaves a zero."""
    return Parameters(
        np.full(STATES, 1 / STATES),
        parameters.means,
        np.maximum(parameters.variances, 1e-3),
        parameters.transmat * (1 - _MIXING) + _MIXING / STATES,
    )


def fit(rows: Floats, lengths: Sequence[int], starts: Sequence[Parameters]) -> Fitted:
    """Return the most likely of the models that EM makes of the starts; the first among equals.

    `rows` (N, 4) are standardised and finite, `lengths` their sequences. Raises FitError when no
    start leads to a model.
    """
    best: Fitted | None = None
    problems = []
    for start in starts:
        try:
            found = run_em(rows, lengths, start)
        except (ValueError, ArithmeticError, RuntimeError, np.linalg.LinAlgError) as error:
            problems.append(str(error) or type(error).__name__)
            continue
        if best is None or found.log_likelihood > best.log_likelihood + TOLERANCE:
            best = found
    if best is None:
        raise FitError("; ".join(dict.fromkeys(problems)) or "no starts")
    return best


def run_em(rows: Floats, lengths: Sequence[int], start: Parameters) -> Fitted:
    """Run EM from one start, compiled where numba is; raise ValueError if it ends in no model."""
    if has_fast():
        try:
            return fit_fast(rows, lengths, start)
        except ArithmeticError:  # a row that the parameters rule out: hmmlearn counts in logarithms
            pass
    return fit_hmmlearn(rows, lengths, start)


@cache
def _compiled() -> Any:
    return fast.compiled()


def has_fast() -> bool:
    """Return whether numba is installed."""
    try:
        _compiled()
    except ImportError:
        return False
    return True


def fit_fast(rows: Floats, lengths: Sequence[int], start: Parameters) -> Fitted:
    """Run the compiled EM from one start; raise as `fit_hmmlearn`, ImportError without numba."""
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    standard = np.ascontiguousarray(rows)
    found = _compiled()(standard, ends, *start, ITERATIONS, TOLERANCE)
    return Fitted(
        parameters=repaired(Parameters(*found[:4])),
        log_likelihood=float(found[6]),
        iterations=int(found[7]),
        is_converged=has_converged(found[4:6]),
    )


def fit_hmmlearn(rows: Floats, lengths: Sequence[int], start: Parameters) -> Fitted:
    """Run hmmlearn's EM from one start; raise ValueError when it does not end in a model.

    The fast `scaling` recursion cannot hold rows that are more than some 37 deviations from every
    state; then the slow `log` one runs.
    """
    try:
        return _fitted(rows, lengths, start, "scaling")
    except ValueError as error:
        if "underflow" not in str(error):
            raise
    return _fitted(rows, lengths, start, "log")


def _fitted(rows: Floats, lengths: Sequence[int], start: Parameters, implementation: str) -> Fitted:
    model = _estimator()(
        n_components=STATES,
        covariance_type="diag",
        n_iter=ITERATIONS,
        tol=TOLERANCE,
        implementation=implementation,
        init_params="",
    )
    model.startprob_, model.means_, model.covars_, model.transmat_ = (x.copy() for x in start)
    model.fit(rows, list(lengths))
    parameters = repaired(
        Parameters(model.startprob_, model.means_, model._covars_, model.transmat_)
    )
    model.startprob_, model.transmat_ = parameters.startprob, parameters.transmat
    history = list(model.monitor_.history)
    return Fitted(
        parameters=parameters,
        log_likelihood=float(model.score(rows, list(lengths))),
        iterations=int(model.monitor_.iter),
        is_converged=has_converged(history),
    )


@cache
def _estimator() -> Any:
    """Return hmmlearn's class with its density of diagonal Gaussians feature by feature.

    The same numbers to rounding. hmmlearn adds up over four features for each row and state, which
    is half of its time (0.9 of 1.9 ms a pass over 3,850 rows; so it takes 0.1).
    """
    from hmmlearn.hmm import GaussianHMM  # type: ignore[import-untyped]  # noqa: PLC0415

    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # convergence is reported in the result

    class Estimator(GaussianHMM):  # type: ignore[misc]
        def _compute_log_likelihood(self, rows: Floats) -> Floats:
            variances = np.maximum(self._covars_, np.finfo(float).tiny)
            level = -0.5 * (rows.shape[1] * np.log(2 * np.pi) + np.log(variances).sum(axis=1))
            columns = np.ascontiguousarray(rows.T)
            found = np.empty((len(rows), STATES))
            with np.errstate(over="ignore"):
                for n, mean in enumerate(self.means_):
                    apart = columns - mean[:, None]
                    apart *= apart
                    apart /= variances[n][:, None]
                    found[:, n] = level[n] - 0.5 * apart.sum(axis=0)
            return found

    return Estimator


def has_converged(history: Sequence[float]) -> bool:
    """Return whether the likelihood stood still in the end: not merely that iterations ran out."""
    return len(history) >= 2 and abs(history[-1] - history[-2]) < TOLERANCE


def repaired(parameters: Parameters) -> Parameters:
    """Return the parameters with rows that add up to 1; raise ValueError where that cannot be.

    A state that no row was left in has transitions from nowhere (zeros): it gets equal ones.
    """
    numbers = np.concatenate([np.ravel(x) for x in parameters])
    if not np.isfinite(numbers).all() or (parameters.variances <= 0).any():
        raise ValueError("EM ended in numbers that are not those of a model")
    sums = parameters.transmat.sum(axis=1, keepdims=True)
    transmat = np.where(sums > 0, parameters.transmat / np.where(sums > 0, sums, 1), 1 / STATES)
    return parameters._replace(
        startprob=parameters.startprob / parameters.startprob.sum(), transmat=transmat
    )
