"""From closed candles to a model: window, features, scaler, EM, labels.

Everything that a model depends on is in the request, so that the same request gives the same model
on any machine of one kind.
"""

from typing import NamedTuple, Self

import numpy as np

from core.record import Record, replace
from core.regime import ModelRef
from regime import decay
from regime.features import (
    SPREAD,
    WARM_UP,
    Bools,
    Candles,
    Floats,
    count_unusable,
    features,
    kept_lengths,
)
from regime.filter import Filter, LabelView, best_label
from regime.fitting import FitError, Fitted, Parameters, fit, softened, starting_points
from regime.labels import labels_of, nearest, standard_error
from regime.model import STATES, Model, Numbers, identity

ROWS_MIN = 40  # after the warm-up: ten for each feature
DAY_SEC = 86_400.0
RUN_IN = 300  # candles after which a filter hardly knows where it began
_LEVEL = 1e-12  # a feature that varies by less is constant, but for rounding


class TrainingError(Exception):
    """The request cannot lead to a model; the message says why, with counts."""


class Recipe(Record, frozen=True, kw_only=True):
    """How a model is trained; `target` and `min_candles` count candles before the warm-up."""

    target: int  # candles at most, the newest
    min_candles: int
    starts: int = 3
    seed: int = 1
    label_z: float = 2.0  # standard errors
    decay_halflife: float | None = None  # candles; None: every candle counts the same

    def text(self) -> str:
        """Return it in short: what tells whether the settings have changed."""
        decay = "off" if self.decay_halflife is None else f"{self.decay_halflife:g}"
        return (
            f"{self.target} of {self.min_candles}, starts {self.starts}, seed {self.seed}, "
            f"z {self.label_z:g}, decay {decay}"
        )


class TrainingRequest(Record, frozen=True, kw_only=True):
    """A window of closed candles and how to train on it.

    `time`, `close`, `volume` are float64 arrays (T,), `restarts` a bool array (T,), all as bytes
    in the machine's order; `lengths` the rows of each sequence (see `features.Candles`).
    """

    interval_sec: float
    time: bytes
    close: bytes
    volume: bytes
    restarts: bytes
    lengths: tuple[int, ...]
    recipe: Recipe
    previous: Model | None = None

    @classmethod
    def of(
        cls,
        candles: Candles,
        recipe: Recipe,
        *,
        interval_sec: float,
        previous: Model | None = None,
    ) -> Self:
        """Return a request for the newest of these candles, as many as the recipe takes."""
        window = newest(candles, recipe.target)
        return cls(
            interval_sec=interval_sec,
            time=window.time.tobytes(),
            close=window.close.tobytes(),
            volume=window.volume.tobytes(),
            restarts=window.restarts.tobytes(),
            lengths=window.lengths,
            recipe=recipe,
            previous=previous,
        )


class Window(NamedTuple):
    """Candles as arrays; see `features.Candles`."""

    time: Floats
    close: Floats
    volume: Floats
    lengths: tuple[int, ...]
    restarts: Bools


def newest(candles: Candles, count: int) -> Window:
    """Return the newest `count` candles, all if there are fewer."""
    total = len(candles.close)
    drop = max(0, total - count)
    lengths = []
    end = 0
    for length in candles.lengths:
        end += length
        if end > drop:
            lengths.append(min(length, end - drop))
    return Window(
        np.ascontiguousarray(candles.time[drop:], dtype=np.float64),
        np.ascontiguousarray(candles.close[drop:], dtype=np.float64),
        np.ascontiguousarray(candles.volume[drop:], dtype=np.float64),
        tuple(lengths),
        np.ascontiguousarray(candles.restarts[drop:], dtype=np.bool_),
    )


def train(request: TrainingRequest) -> Model:
    """Return the model that the request's window makes, its quality in `Model.ref`.

    Raises TrainingError: too few candles, prices that are not numbers or never move, an estimator
    that fails from every start. A model that EM left before it converged is returned, and
    `ref.is_converged` says so.
    """
    window = _window(request)
    raw, mask = features(window)
    rows = raw[mask]
    if len(rows) < ROWS_MIN:
        raise TrainingError(f"too few candles: {len(rows)} of {ROWS_MIN} after the warm-up")
    if np.ptp(window.close[mask]) == 0.0:
        raise TrainingError("the prices of the window do not move")
    mean = rows.mean(axis=0)
    deviation = rows.std(axis=0)
    deviation = np.where(deviation > _LEVEL, deviation, 1.0)
    standard = (rows - mean) / deviation
    sample = _sample(request, standard, window.time[mask], kept_lengths(mask, window.lengths))
    starts = starting_points(sample.rows, count=request.recipe.starts, seed=request.recipe.seed)
    if request.previous is not None:
        starts.insert(0, softened(_rescaled(request.previous, mean, deviation)))
    try:
        fitted = fit(sample.rows, sample.lengths, starts)
    except FitError as error:
        raise TrainingError(
            f"the estimator failed from all {len(starts)} starts: {error}"
        ) from None
    fitted = _in_order(fitted)
    p = fitted.parameters
    model = Model(
        ref=ModelRef(
            id="",
            interval_sec=request.interval_sec,
            first=float(window.time[0]),
            until=float(window.time[-1]) + request.interval_sec,
            candles=len(window.time),
            rows=len(rows),
            effective_rows=sample.effective_rows,
            log_likelihood=fitted.log_likelihood,
            iterations=fitted.iterations,
            is_converged=fitted.is_converged,
            starts=len(starts),
            recipe=request.recipe.text(),
        ),
        mean=_numbers(mean),
        deviation=_numbers(deviation),
        startprob=_numbers(p.startprob),
        means=tuple(_numbers(x) for x in p.means),
        variances=tuple(_numbers(x) for x in p.variances),
        transmat=tuple(_numbers(x) for x in p.transmat),
        labels=_labels(request, p, rows[:, SPREAD], mean, deviation),
    )
    changed = _changed(request.previous, model, window, raw, mask)
    ref = replace(model.ref, id=identity(model), changed_share=changed)
    return replace(model, ref=ref)


def _window(request: TrainingRequest) -> Window:
    try:
        window = Window(
            np.frombuffer(request.time, dtype=np.float64),
            np.frombuffer(request.close, dtype=np.float64),
            np.frombuffer(request.volume, dtype=np.float64),
            request.lengths,
            np.frombuffer(request.restarts, dtype=np.bool_),
        )
    except ValueError as error:
        raise TrainingError(f"the request cannot be read: {error}") from None
    total = len(window.close)
    sizes = {len(window.time), len(window.volume), len(window.restarts), sum(window.lengths), total}
    if len(sizes) > 1:
        raise TrainingError(f"the request cannot be read: columns of {sorted(sizes)} rows")
    if total < max(request.recipe.min_candles, WARM_UP + ROWS_MIN):
        needed = max(request.recipe.min_candles, WARM_UP + ROWS_MIN)
        raise TrainingError(f"too few candles: {total} of {needed}")
    unusable = count_unusable(window.close, window.volume)
    if unusable or not np.isfinite(window.time).all():
        raise TrainingError(
            f"{unusable or 'some'} of {total} candles hold times, prices or volumes that are not "
            "usable numbers"
        )
    return newest(window, request.recipe.target)


def _sample(
    request: TrainingRequest, rows: Floats, time: Floats, lengths: tuple[int, ...]
) -> decay.Sample:
    if request.recipe.decay_halflife is None:
        return decay.Sample(rows, lengths, float(len(rows)))
    ages = (time[-1] - time) / request.interval_sec
    return decay.resample(
        rows, ages, lengths, halflife=request.recipe.decay_halflife, seed=request.recipe.seed
    )


def _rescaled(previous: Model, mean: Floats, deviation: Floats) -> Parameters:
    """Return a model's parameters in the units of another window."""
    factor = np.asarray(previous.deviation) / deviation
    shift = (np.asarray(previous.mean) - mean) / deviation
    return Parameters(
        np.asarray(previous.startprob),
        np.asarray(previous.means) * factor + shift,
        np.asarray(previous.variances) * factor**2,
        np.asarray(previous.transmat),
    )


def _in_order(fitted: Fitted) -> Fitted:
    """Return the states ordered by their mean spread, lowest first."""
    p = fitted.parameters
    order = np.argsort(p.means[:, SPREAD], kind="stable")
    ordered = Parameters(
        p.startprob[order], p.means[order], p.variances[order], p.transmat[order][:, order]
    )
    return fitted._replace(parameters=ordered)


def _labels(
    request: TrainingRequest,
    parameters: Parameters,
    spread: Floats,
    mean: Floats,
    deviation: Floats,
) -> tuple[int, ...]:
    means = parameters.means * deviation + mean
    before: tuple[int | None, ...] = (None,) * STATES
    previous = request.previous
    if previous is not None:
        earlier = np.asarray(previous.means) * previous.deviation + np.asarray(previous.mean)
        before = tuple(previous.labels[n] for n in nearest(means, earlier, deviation))
    return labels_of(
        means[:, SPREAD].tolist(), standard_error(spread), request.recipe.label_z, before
    )


def _numbers(values: Floats) -> Numbers:
    return tuple(float(x) for x in values)


def _changed(
    previous: Model | None, model: Model, window: Window, raw: Floats, mask: Bools
) -> float | None:
    """Return the share of the last day's rows that the previous model labels differently.

    The filters begin RUN_IN rows earlier: by then they have forgotten where they began.
    """
    if previous is None:
        return None
    rows = RUN_IN + int(np.count_nonzero(window.time > window.time[-1] - DAY_SEC))
    window = newest(window, rows)
    raw, mask = raw[-rows:], mask[-rows:]
    recent = window.time[mask] > window.time[-1] - DAY_SEC
    old, new = (
        np.asarray(row_labels(x, raw, mask, window.lengths))[recent] for x in (previous, model)
    )
    return float(np.mean(old != new)) if len(old) else None


def row_labels(model: Model, raw: Floats, mask: Bools, lengths: tuple[int, ...]) -> list[int]:
    """Return the label of each row past the warm-up, from what was known at it.

    `raw` (T, 4) and `mask` (T,) as `features` returns them, `lengths` of the sequences.
    """
    view, forward = LabelView(model), Filter(model)
    breaks = set(np.cumsum(lengths).tolist())
    result = []
    for n, (row, is_kept) in enumerate(zip(raw.tolist(), mask.tolist(), strict=True)):
        if n in breaks:
            forward.begin()
        if is_kept:
            result.append(best_label(view.probabilities(forward.step(row))))
    return result
