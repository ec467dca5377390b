"""hmmlearn's EM for three states and diagonal Gaussians, written out for numba to compile.

Optional (`requirements-fast.txt`): `regime/fitting.py` takes it where numba is installed. The steps
are those of hmmlearn 0.3.3 with its own priors, so the results are the same but for rounding; the
densities are scaled by each row's largest, so that no row underflows. `em` is plain Python too,
a thousand times slower.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from regime.features import FEATURES, Floats
from regime.model import STATES

WIDE = len(FEATURES)
VARIANCE_PRIOR = 0.01  # hmmlearn's covars_prior: what a state's squared deviations begin with
ROWS_LEAST = 1e-5  # and the least it divides them by
TINY = 2.2250738585072014e-308
_LOOSE = {"contract", "reassoc", "arcp", "nsz"}  # not those that forget what infinity is

Result = tuple[Floats, Floats, Floats, Floats, float, float, float, int]


def em(  # noqa: PLR0917  # compiled code has no keywords
    rows: Floats,
    ends: npt.NDArray[np.int64],
    startprob: Floats,
    means: Floats,
    variances: Floats,
    transmat: Floats,
    iterations: int,
    tolerance: float,
) -> Result:
    """Return startprob, means, variances, transmat, three likelihoods and the iterations made.

    `rows` (N, 4), `ends` where each sequence ends. The likelihoods are those before the last
    iteration but one, before the last (nan where there was none), and of what is returned.
    Baum-Welch as in Rabiner (Proc. IEEE 77, 1989), section V; stops when an iteration adds less
    than `tolerance`.
    """
    startprob, transmat = startprob.copy(), transmat.copy()
    means, variances = means.copy(), variances.copy()
    density = np.empty((len(rows), STATES))
    forward = np.empty((len(rows), STATES))
    scale = np.empty(len(rows))
    before = last = np.nan
    made = 0
    for _ in range(iterations):
        before, last = (
            last,
            expect(rows, ends, startprob, means, variances, transmat, density, forward, scale),
        )
        made += 1
        maximise(rows, ends, startprob, means, variances, transmat, density, forward, scale)
        if last - before < tolerance:
            break
    final = expect(rows, ends, startprob, means, variances, transmat, density, forward, scale)
    return startprob, means, variances, transmat, before, last, final, made


def expect(  # noqa: PLR0917  # compiled code has no keywords
    rows: Floats,
    ends: npt.NDArray[np.int64],
    startprob: Floats,
    means: Floats,
    variances: Floats,
    transmat: Floats,
    density: Floats,
    forward: Floats,
    scale: Floats,
) -> float:
    """Fill `density` (N, 3), `forward` (N, 3) and `scale` (N,); return the log-likelihood."""
    weight = np.empty((STATES, WIDE))
    constant = np.empty(STATES)
    for k in range(STATES):
        constant[k] = -0.5 * WIDE * np.log(2.0 * np.pi)
        for j in range(WIDE):
            variance = max(variances[k, j], TINY)
            weight[k, j] = 0.5 / variance
            constant[k] -= 0.5 * np.log(variance)
    total, product = 0.0, 1.0
    begin = 0
    for end in ends:
        p, q, r = startprob[0], startprob[1], startprob[2]
        for t in range(begin, end):
            for k in range(STATES):
                value = constant[k]
                for j in range(WIDE):
                    away = rows[t, j] - means[k, j]
                    value -= weight[k, j] * away * away
                density[t, k] = value
            top = max(density[t, 0], density[t, 1], density[t, 2])
            total += top
            x, y, z = p, q, r
            if t > begin:
                x = p * transmat[0, 0] + q * transmat[1, 0] + r * transmat[2, 0]
                y = p * transmat[0, 1] + q * transmat[1, 1] + r * transmat[2, 1]
                z = p * transmat[0, 2] + q * transmat[1, 2] + r * transmat[2, 2]
            density[t, 0] = np.exp(density[t, 0] - top)
            density[t, 1] = np.exp(density[t, 1] - top)
            density[t, 2] = np.exp(density[t, 2] - top)
            x, y, z = x * density[t, 0], y * density[t, 1], z * density[t, 2]
            sum_ = x + y + z
            scale[t] = 1.0 / sum_
            p, q, r = x * scale[t], y * scale[t], z * scale[t]
            forward[t, 0], forward[t, 1], forward[t, 2] = p, q, r
            product *= sum_
            if not 1e-200 < product < 1e200:  # a logarithm for each row would cost a third more
                total += np.log(product)
                product = 1.0
        begin = end
    return total + float(np.log(product))


def maximise(  # noqa: PLR0917  # compiled code has no keywords
    rows: Floats,
    ends: npt.NDArray[np.int64],
    startprob: Floats,
    means: Floats,
    variances: Floats,
    transmat: Floats,
    density: Floats,
    forward: Floats,
    scale: Floats,
) -> None:
    """Go backward through what `expect` filled; change the parameters to the most likely ones.

    Leaves the probabilities of the states in `forward`.
    """
    starts, moves = np.zeros(STATES), np.zeros((STATES, STATES))
    begin = 0
    for end in ends:
        x, y, z = 1.0, 1.0, 1.0
        for t in range(end - 1, begin - 1, -1):
            u, v, w = density[t, 0] * x, density[t, 1] * y, density[t, 2] * z
            u, v, w = u * scale[t], v * scale[t], w * scale[t]
            forward[t, 0] *= x
            forward[t, 1] *= y
            forward[t, 2] *= z
            if t == begin:
                break
            for i in range(STATES):
                share = forward[t - 1, i]
                moves[i, 0] += share * u
                moves[i, 1] += share * v
                moves[i, 2] += share * w
            x = transmat[0, 0] * u + transmat[0, 1] * v + transmat[0, 2] * w
            y = transmat[1, 0] * u + transmat[1, 1] * v + transmat[1, 2] * w
            z = transmat[2, 0] * u + transmat[2, 1] * v + transmat[2, 2] * w
        for k in range(STATES):
            starts[k] += forward[begin, k]
        begin = end
    for k in range(STATES):
        count = 0.0
        for t in range(len(rows)):
            count += forward[t, k]
        from_k = 0.0
        for i in range(STATES):
            from_k += moves[k, i] * transmat[k, i]
        startprob[k] = starts[k] / starts.sum()
        for i in range(STATES):
            transmat[k, i] = moves[k, i] * transmat[k, i] / from_k if from_k > 0.0 else 0.0
        for j in range(WIDE):
            sum_, square = 0.0, 0.0
            for t in range(len(rows)):
                part = forward[t, k] * rows[t, j]
                sum_ += part
                square += part * rows[t, j]
            mean = sum_ / count
            means[k, j] = mean
            spread = square - 2.0 * mean * sum_ + mean * mean * count
            variances[k, j] = (VARIANCE_PRIOR + spread) / max(count, ROWS_LEAST)


def compiled() -> Any:
    """Return `em` compiled; raise ImportError where numba is not installed.

    The first call on a machine compiles for some seconds and keeps the result beside this file,
    where that can be written.
    """
    import numba  # noqa: PLC0415

    global expect, maximise  # the compiled one must call compiled ones
    plain = [getattr(x, "py_func", x) for x in (expect, maximise, em)]
    try:
        expect, maximise, made = (numba.njit(cache=True, fastmath=_LOOSE)(x) for x in plain)
    except RuntimeError:  # no place to keep it
        expect, maximise, made = (numba.njit(fastmath=_LOOSE)(x) for x in plain)
    return made
