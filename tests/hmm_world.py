"""Candles and models for the tests of the regimes."""

import csv
import gzip
from functools import cache
from typing import NamedTuple

import numpy as np

from core.record import replace
from core.regime import ModelRef
from hmm_regime_detector import Detector, Model, Recipe, TrainingRequest, train
from regime.features import Bools, Floats
from tests.helpers import market_file

MINUTE = 60.0
START = 1_700_000_040.0 // MINUTE * MINUTE


class Rows(NamedTuple):
    """Candles as arrays, as `regime.features.Candles` wants them."""

    time: Floats
    close: Floats
    volume: Floats
    lengths: tuple[int, ...]
    restarts: Bools


def rows_of(
    time: Floats, close: Floats, volume: Floats, *, interval: float = MINUTE, fills: bool = True
) -> Rows:
    """Return rows with their gaps treated as the specification says: filled, ended, restarted."""
    times, closes, volumes = [time[0]], [close[0]], [volume[0]]
    lengths, restarts = [1], [False]
    for at, price, size in zip(time[1:], close[1:], volume[1:], strict=True):
        lost = at - times[-1] - interval
        if fills and 0 < lost <= max(3 * interval, 900.0):
            for n in range(round(lost / interval)):
                times.append(at - lost + n * interval)
                closes.append(closes[-1])
                volumes.append(0.0)
                restarts.append(False)
                lengths[-1] += 1
            lost = 0.0
        if lost > 0:
            lengths.append(0)
        lengths[-1] += 1
        times.append(at)
        closes.append(price)
        volumes.append(size)
        restarts.append(lost > 6 * 3600)
    return Rows(
        np.array(times), np.array(closes), np.array(volumes), tuple(lengths), np.array(restarts)
    )


def walk(
    count: int, seed: int, *, sigma: float = 0.0015, drift: float = 0.0, interval: float = MINUTE
) -> Rows:
    """Return a random walk without gaps; volumes are larger where prices move more."""
    rng = np.random.Generator(np.random.PCG64(seed))
    moves = rng.normal(drift, sigma, count)
    volume = 20_000 * np.exp(rng.normal(0.0, 0.7, count)) * (1 + 200 * np.abs(moves))
    return Rows(
        START + interval * np.arange(count),
        0.1 * np.exp(np.cumsum(moves)),
        volume,
        (count,),
        np.zeros(count, dtype=np.bool_),
    )


def recorded(name: str, first: int, count: int) -> Rows:
    """Return rows of a recorded file, gaps treated; skips the test where the file is absent."""
    lines = []
    with gzip.open(market_file(name), "rt", newline="") as handle:
        for n, row in enumerate(csv.DictReader(handle)):
            if n >= first + count:
                break
            if n >= first:
                lines.append((float(row["time"]), float(row["close"]), float(row["volume"])))
    table = np.array(lines)
    interval = float(np.median(np.diff(table[:, 0])))
    return rows_of(table[:, 0], table[:, 1], table[:, 2], interval=interval)


def request(candles: Rows, **changes: object) -> TrainingRequest:
    """Return a training request at the specification's defaults."""
    changed = {x: changes.pop(x) for x in Recipe.__struct_fields__ if x in changes}
    recipe = replace(Recipe(target=4000, min_candles=500), **changed)
    return replace(TrainingRequest.of(candles, recipe, interval_sec=MINUTE), **changes)


@cache
def trained(count: int = 2000, seed: int = 1) -> Model:
    """Return a model of a random walk; the same for all tests of a process."""
    return train(request(walk(count, seed), starts=1))


def newest_label(detector: Detector) -> int | None:
    """Return what a detector calls the newest candle it has taken."""
    now = detector.newest_close or 0.0
    return detector.estimate(now, candles=4000, freshness_limit_sec=180.0).regime


def hand_made(**changes: object) -> Model:
    """Return a model with round numbers: three states apart in the spread alone."""
    wide = (100.0, 100.0, 100.0)
    made = Model(
        ref=ModelRef(
            id="hand", interval_sec=MINUTE, first=START, until=START + 4000 * MINUTE, candles=4000,
            rows=3850, effective_rows=3850.0, log_likelihood=-1.0, iterations=10,
            is_converged=True, starts=1,
        ),
        mean=(0.0, 0.0, 0.0, 0.0),
        deviation=(1.0, 0.001, 1.0, 1.0),
        startprob=(0.2, 0.5, 0.3),
        means=tuple((0.0, x, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)),
        variances=tuple((x, 1.0, 1.0, 1.0) for x in wide),
        transmat=((0.9, 0.1, 0.0), (0.05, 0.9, 0.05), (0.0, 0.1, 0.9)),
        labels=(0, 1, 2),
    )  # fmt: skip
    return replace(made, **changes)
