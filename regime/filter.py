"""The filtered posterior of a model, one closed candle at a time.

Plain floats, written out for three states and four features: a step must not cost more than a few
microseconds, and three-by-three arrays cost more to call than to compute.
"""

import math
from math import exp

from core.regime import LABELS
from regime.features import Row
from regime.model import STATES, Model, stationary

Posterior = tuple[float, float, float]


class Filter:
    """Probabilities of the three states given all rows so far (Hamilton 1989, forward recursion).

    Each sequence begins with the states' shares of time in the long run: the start probabilities
    that EM finds are those of the few first rows it saw.
    """

    __slots__ = ("_centre", "_log", "_row", "_start", "_transitions", "_weight", "posterior")

    def __init__(self, model: Model) -> None:
        mean, deviation = model.mean, model.deviation
        self._start: Posterior = _three(stationary(model.transmat).tolist())
        self._transitions = tuple(x for row in model.transmat for x in row)
        self._centre = tuple(
            m + d * x for row in model.means for x, m, d in zip(row, mean, deviation, strict=True)
        )
        self._weight = tuple(
            0.5 / (d * d * x)
            for row in model.variances
            for x, d in zip(row, deviation, strict=True)
        )
        self._log = tuple(-0.5 * sum(map(math.log, row)) for row in model.variances)
        self._row: Row | None = None
        self.posterior: Posterior | None = None

    def begin(self) -> None:
        """Let the next row begin a new sequence."""
        self.posterior = None

    def step(self, row: Row) -> Posterior:
        """Take one row of features (raw, finite); return the probabilities of the states."""
        a, b, c, d = row
        m0, m1, m2, m3, n0, n1, n2, n3, o0, o1, o2, o3 = self._centre
        u0, u1, u2, u3, v0, v1, v2, v3, w0, w1, w2, w3 = self._weight
        x, y, z = self._log
        e, f, g, h = a - m0, b - m1, c - m2, d - m3
        x -= u0 * e * e + u1 * f * f + u2 * g * g + u3 * h * h
        e, f, g, h = a - n0, b - n1, c - n2, d - n3
        y -= v0 * e * e + v1 * f * f + v2 * g * g + v3 * h * h
        e, f, g, h = a - o0, b - o1, c - o2, d - o3
        z -= w0 * e * e + w1 * f * f + w2 * g * g + w3 * h * h
        top = max(x, y, z)
        x, y, z = exp(x - top), exp(y - top), exp(z - top)
        if self.posterior is None:
            p, q, r = self._start
        else:
            i, j, k = self.posterior
            t0, t1, t2, t3, t4, t5, t6, t7, t8 = self._transitions
            p = i * t0 + j * t3 + k * t6
            q = i * t1 + j * t4 + k * t7
            r = i * t2 + j * t5 + k * t8
        p, q, r = p * x, q * y, r * z
        total = p + q + r
        if total < 1e-290:  # the past rules out what the row says: the row decides
            p, q, r = x, y, z
            total = p + q + r
        self.posterior = (p / total, q / total, r / total)
        return self.posterior


class LabelView:
    """Turns probabilities of states into what is said of labels."""

    __slots__ = ("_labels", "_stays")

    def __init__(self, model: Model) -> None:
        self._labels = model.labels
        self._stays = tuple(
            _three([
                sum(model.transmat[state][to] for to in range(STATES) if model.labels[to] == label)
                for state in range(STATES)
            ])
            for label in range(len(LABELS))
        )  # fmt: skip

    def probabilities(self, posterior: Posterior) -> Posterior:
        """Return the probabilities of bearish, ranging, bullish: states of one label add up."""
        sums = [0.0, 0.0, 0.0]
        for label, p in zip(self._labels, posterior, strict=True):
            sums[label] += p
        return _three(sums)

    def leaving(self, posterior: Posterior, label: int) -> float:
        """Return the probability that the next candle's label is another than `label`."""
        stays = sum(p * s for p, s in zip(posterior, self._stays[label], strict=True))
        return min(1.0, max(0.0, 1.0 - stays))


def best_label(probabilities: Posterior) -> int:
    """Return the most probable label; ranging, then bearish, where two are equal."""
    bearish, ranging, bullish = probabilities
    if ranging >= bearish and ranging >= bullish:
        return 1
    return 0 if bearish >= bullish else 2


def confidence(probabilities: Posterior) -> float:
    """Return the best less the second probability, 0 to 1."""
    ordered = sorted(probabilities)
    return ordered[2] - ordered[1]


def bias(probabilities: Posterior, *, gain: float, least: float = 0.15) -> float:
    """Return −1 (bearish) to +1 (bullish): 0 below `least` confidence."""
    if confidence(probabilities) < least:
        return 0.0
    return min(1.0, max(-1.0, (probabilities[2] - probabilities[0]) * gain))


def entropy(probabilities: Posterior) -> float:
    """Return the entropy (Shannon 1948) as a share of the largest possible, 0 to 1."""
    sum_ = -sum(p * math.log(p) for p in probabilities if p > 0.0)
    return min(1.0, max(0.0, sum_ / math.log(len(probabilities))))


def _three(values: list[float]) -> Posterior:
    first, second, third = values
    return first, second, third
