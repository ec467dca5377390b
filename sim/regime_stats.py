"""What a study of the regimes amounts to: shares of time, dwell times, returns, trainings.

Arithmetic on what `sim/regimes.py` has seen, at the times at which the daemon evaluates; nothing
here prints. Shares are of time: each evaluation counts until the next one.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.regime import BEARISH, BULLISH, LABELS
from core.tiers import Tiers
from regime.evidence import UNLABELLED, evidence
from sim.regimes import Study, Trained

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int8]

SOURCES = ("primary", "secondary", "consensus")
HORIZONS = ((900.0, "15 min"), (3_600.0, "1 h"), (14_400.0, "4 h"), (86_400.0, "24 h"))
QUARTILES = (25, 50, 75)


class Series(NamedTuple):
    """A study as arrays, a row an evaluation; labels −1 where there is none."""

    time: Floats
    weight: Floats  # seconds until the next evaluation, as a share of all
    price: Floats
    labels: dict[str, Ints]  # by source
    tier: Ints  # signed: negative in a bearish direction
    ungated: Ints


class Dwell(NamedTuple):
    """How long a label lasted: `seconds` (25 %, 50 %, 75 % of the spells), None without any."""

    spells: int
    seconds: tuple[float, float, float] | None


class Forward(NamedTuple):
    """What followed a label: mean log return and its HAC t-value, None below 200 evaluations."""

    rows: int
    mean: float | None
    t: float | None


class Fit(NamedTuple):
    """How the models of one timeframe were trained."""

    trainings: int
    converged: float  # share
    iterations: tuple[float, float]  # median, largest
    candles: tuple[int, int]  # least, most
    starts: int  # most
    seconds: tuple[float, float]  # mean, largest
    changed: tuple[float, ...] | None  # share of the last day's rows: mean, 25, 50, 75, 90, 100 %


def series(seen: Study) -> Series:
    """Return what was seen as arrays. Raises ValueError for fewer than two evaluations."""
    found = seen.evaluations
    if len(found) < 2:
        raise ValueError(f"{len(found)} evaluations are too few")
    time = np.array([x.time for x in found])
    steps = np.diff(time)
    weight = np.append(steps, np.median(steps))
    return Series(
        time=time,
        weight=weight / weight.sum(),
        price=np.array([x.price for x in found]),
        labels={
            "primary": _labels(x.primary for x in found),
            "secondary": _labels(x.secondary for x in found),
            "consensus": _labels(x.policy.tag for x in found),
        },
        tier=_signed(x.tiers for x in found),
        ungated=_signed(x.ungated for x in found),
    )


def _labels(labels: Iterable[int | None]) -> Ints:
    return np.array([UNLABELLED if x is None else x for x in labels], dtype=np.int8)


def _signed(tiers: Iterable[Tiers]) -> Ints:
    return np.array([-x.tier if x.direction == BEARISH else x.tier for x in tiers], dtype=np.int8)


def shares(own: Series, values: Ints, of: Iterable[int]) -> list[float]:
    """Return the share of time at which `values` (N,) is each of `of`."""
    return [float(own.weight[values == x].sum()) for x in of]


def dwells(own: Series, source: str) -> list[Dwell]:
    """Return how long each label lasted, but for the first and the last spell, which are cut."""
    labels = own.labels[source]
    edges = np.flatnonzero(np.diff(labels)) + 1
    lengths: list[list[float]] = [[] for _ in LABELS]
    for first, end in pairwise(edges.tolist()):
        if labels[first] != UNLABELLED:
            lengths[labels[first]].append(float(own.time[end] - own.time[first]))
    return [Dwell(len(x), _quartiles(x)) for x in lengths]


def _quartiles(values: list[float]) -> tuple[float, float, float] | None:
    if not values:
        return None
    low, middle, high = np.percentile(values, QUARTILES)
    return float(low), float(middle), float(high)


def forward(own: Series, source: str, label: int, horizon_sec: float) -> Forward:
    """Return what followed a label, as `regime.evidence` computes it, with the return's own sign.

    Labels count at evaluations only; models may have been trained on their candles' past, never on
    what followed.
    """
    known = np.isfinite(own.price)
    chosen = np.where(own.labels[source] == label, BULLISH, UNLABELLED)
    found = evidence(own.time[known], own.price[known], chosen[known], horizon_sec=horizon_sec)
    bullish = next(x for x in found if x.label == BULLISH)
    return Forward(bullish.rows, bullish.mean, bullish.t)


def fit(trainings: list[Trained]) -> Fit:
    """Return how the models of one timeframe, at least one, were trained."""
    refs = [x.ref for x in trainings]
    changed = [x.changed_share for x in refs if x.changed_share is not None]
    spread = np.percentile(changed, (25, 50, 75, 90, 100)).tolist() if changed else []
    iterations = [x.iterations for x in refs]
    seconds = [x.wall_sec for x in trainings]
    return Fit(
        trainings=len(refs),
        converged=sum(x.is_converged for x in refs) / len(refs),
        iterations=(float(np.median(iterations)), float(max(iterations))),
        candles=(min(x.candles for x in refs), max(x.candles for x in refs)),
        starts=max(x.starts for x in refs),
        seconds=(float(np.mean(seconds)), max(seconds)),
        changed=(float(np.mean(changed)), *spread) if changed else None,
    )


def transitions(trainings: list[Trained]) -> tuple[list[list[float]], list[list[float] | None]]:
    """Return the newest model's transitions between labels, and the mean of all models'.

    A row of the mean is of those models that have states of its label; None: there is none.
    """
    rows: list[list[float] | None] = []
    for label in range(len(LABELS)):
        own = [x.transmat[label] for x in trainings if label in x.labels]
        rows.append(np.mean(own, axis=0).tolist() if own else None)
    return trainings[-1].transmat, rows


def by_interval(seen: Study) -> dict[float, list[Trained]]:
    """Return the trainings of each timeframe, the shortest interval first."""
    intervals = sorted({x.ref.interval_sec for x in seen.trainings})
    return {n: [x for x in seen.trainings if x.ref.interval_sec == n] for n in intervals}


def changes(values: Ints) -> int:
    """Return how often a series changes."""
    return int(np.count_nonzero(np.diff(values)))


def holds(seen: Study) -> dict[str, int]:
    """Return at how many evaluations a tier was held below that by confidence, by reason."""
    found: dict[str, int] = {}
    for x in seen.evaluations:
        if x.tiers.held_by:
            found[x.tiers.held_by] = found.get(x.tiers.held_by, 0) + 1
    return dict(sorted(found.items(), key=lambda x: -x[1]))
