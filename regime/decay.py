"""Deep decay: newer candles count for more, by drawing their blocks more often.

Part of the preparation of a training window; the model never learns that rows were drawn twice.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from regime.features import Floats

BLOCK = 120


class Sample(NamedTuple):
    """Rows to train on: `rows` (N, 4), the `lengths` of their sequences, and what they are worth.

    `effective_rows` is Kish's (Σm)²/Σm² over how often each of the window's rows was drawn
    (Kish, Survey Sampling, 1965): less than the window's rows where some were drawn more often.
    """

    rows: Floats
    lengths: tuple[int, ...]
    effective_rows: float


def blocks_of(lengths: tuple[int, ...], block: int = BLOCK) -> list[tuple[int, int]]:
    """Return (first, end) of blocks of up to `block` rows, in order, none across sequences.

    Sequences are cut from their newest row backwards: only a sequence's oldest block is short.
    """
    result = []
    begin = 0
    for length in lengths:
        end = begin + length
        cuts = [*range(end, begin, -block), begin]
        result += [(first, last) for last, first in pairwise(cuts)][::-1]
        begin = end
    return result


def resample(
    rows: Floats, ages: Floats, lengths: tuple[int, ...], *, halflife: float, seed: int
) -> Sample:
    """Return about as many rows as given, blocks drawn in proportion to 2^(−age/halflife).

    `ages` (N,) are candles before the newest. Systematic resampling (Kitagawa, J. Comput. Graph.
    Stat. 5, 1996): a block is drawn as often as its mean weight says, rounded up or down by one
    seeded offset. Blocks stay in order of time and become sequences of their own.
    """
    weights = np.exp2(-ages / halflife)
    blocks = blocks_of(lengths)
    mean_weights = np.array([weights[first:end].mean() for first, end in blocks])
    sizes = np.array([end - first for first, end in blocks])
    expected = mean_weights * (len(rows) / float(mean_weights @ sizes))
    offset = np.random.Generator(np.random.PCG64(seed)).random()
    edges = np.floor(np.cumsum(expected) + offset)
    copies = np.diff(edges, prepend=np.floor(offset)).astype(np.int64)
    drawn = [span for span, n in zip(blocks, copies.tolist(), strict=True) for _ in range(n)]
    total, squares = float(copies @ sizes), float(copies**2 @ sizes)
    return Sample(
        rows=np.concatenate([rows[first:end] for first, end in drawn]),
        lengths=tuple(end - first for first, end in drawn),
        effective_rows=total * total / squares,
    )
