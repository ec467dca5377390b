"""A trained model as a value: its parameters, its file form, its transitions by label.

States are ordered by their mean spread, lowest first. Nothing here estimates anything.
"""

import hashlib
import math
from itertools import chain

import msgspec
import numpy as np

from core.record import Record
from core.regime import BEARISH, BULLISH, LABELS, RANGING, ModelRef
from regime.features import FEATURES, Floats

STATES = 3
VERSION = 1  # of this record and of the features it was trained on
_MAGIC = b"REGIME-MODEL\n"
_DIGEST = 32

Numbers = tuple[float, ...]
Table = tuple[Numbers, ...]


class ModelError(Exception):
    """A stored model cannot be used; the message says why in plain words. Train anew."""


class Model(Record, frozen=True, kw_only=True):
    """One timeframe's hidden Markov model with what it takes to use it.

    `mean` and `deviation` (4,) standardise the features; `means` and `variances` (3, 4) are of the
    standardised features; `startprob` (3,), `transmat` (3, 3) from row to column. `labels` (3,)
    gives each state's label.
    """

    version: int = VERSION
    ref: ModelRef
    mean: Numbers
    deviation: Numbers
    startprob: Numbers
    means: Table
    variances: Table
    transmat: Table
    labels: tuple[int, ...]


def encode(model: Model) -> bytes:
    """Return the model as bytes with version and checksum, for a file or a table."""
    body = msgspec.msgpack.encode(model)
    return _MAGIC + bytes([model.version]) + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Model:
    """Return the model that `encode` made into `data`; raise ModelError for anything else."""
    head = len(_MAGIC)
    if data[:head] != _MAGIC:
        raise ModelError("this is not a regime model")
    if len(data) <= head + 1 + _DIGEST:
        raise ModelError("the model is cut short")
    if data[head] != VERSION:
        raise ModelError(f"the model has version {data[head]}, this program reads {VERSION}")
    digest, body = data[head + 1 : head + 1 + _DIGEST], data[head + 1 + _DIGEST :]
    if hashlib.sha256(body).digest() != digest:
        raise ModelError("the model is corrupted: its checksum does not agree")
    try:
        model = msgspec.msgpack.decode(body, type=Model)
    except msgspec.DecodeError as error:
        raise ModelError(f"the model is corrupted: {error}") from None
    check(model)
    return model


def check(model: Model) -> None:
    """Raise ModelError unless shapes, signs and sums are those of a model."""
    wide = len(FEATURES)
    shapes = (
        len(model.mean) == len(model.deviation) == wide,
        len(model.startprob) == len(model.labels) == len(model.transmat) == STATES,
        len(model.means) == len(model.variances) == STATES,
        all(len(x) == wide for x in chain(model.means, model.variances)),
        all(len(x) == STATES for x in model.transmat),
        all(x in (BEARISH, RANGING, BULLISH) for x in model.labels),
    )
    if model.version != VERSION or not all(shapes):
        raise ModelError("the model is corrupted: its parts have the wrong shape")
    numbers = chain(model.mean, model.startprob, *model.means, *model.transmat)
    positive = chain(model.deviation, *model.variances)
    sums = [sum(x) for x in (model.startprob, *model.transmat)]
    if (
        not all(math.isfinite(x) for x in numbers)
        or not all(math.isfinite(x) and x > 0 for x in positive)
        or any(abs(x - 1) > 1e-6 for x in sums)
        or any(x < 0 for x in chain(model.startprob, *model.transmat))
    ):
        raise ModelError("the model is corrupted: its numbers are not those of a model")


def identity(model: Model) -> str:
    """Return an id made of the model's parameters and its window: equal models, equal ids."""
    ref = model.ref
    content = msgspec.msgpack.encode((
        ref.interval_sec, ref.first, ref.until, model.mean, model.deviation, model.means,
        model.variances, model.transmat, model.labels,
    ))  # fmt: skip
    return f"{ref.interval_sec:g}s-{ref.until:.0f}-{hashlib.sha256(content).hexdigest()[:12]}"


def stationary(transmat: Table | Floats) -> Floats:
    """Return the shares (n,) of time in each state in the long run; they add up to 1.

    Solves π = π·A. A hair of uniform mixing (1e-9) makes it unique where states do not
    communicate.
    """
    matrix = np.asarray(transmat, dtype=np.float64)
    count = len(matrix)
    mixed = matrix * (1 - 1e-9) + 1e-9 / count
    equations = np.vstack((mixed.T - np.eye(count), np.ones(count)))
    shares = np.linalg.lstsq(equations, np.append(np.zeros(count), 1.0), rcond=None)[0]
    shares = np.clip(shares, 0.0, None)
    result: Floats = shares / shares.sum()
    return result


def transmat_by_label(model: Model | None) -> list[list[float]] | None:
    """Return the transitions between labels, rows and columns bearish, ranging, bullish.

    Several states of one label are joined with their shares of time in the long run as weights.
    No model: None. A label that no state has is never entered: its column is 0, and its row (left
    to nowhere in particular) holds the labels' shares of time, so that every row adds up to 1.
    """
    if model is None:
        return None
    shares = stationary(model.transmat)
    matrix = np.asarray(model.transmat)
    member = np.zeros((STATES, len(LABELS)))
    member[range(STATES), model.labels] = 1.0
    flows = member.T @ (shares[:, None] * matrix) @ member
    by_label = shares @ member
    result: list[list[float]] = []
    for label in range(len(LABELS)):
        row = flows[label] / by_label[label] if by_label[label] > 0 else by_label
        result.append([float(x) for x in row / row.sum()])
    return result
