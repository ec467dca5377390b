"""Which UTC days a recording has prices for: the others are no observations of anything.

Over a stretch without prices nothing can fall or fill, so its days would look like days of safety.
What it moved by belongs to no day either. Look next at `Fills.whole_days` in `sim/arms.py`.
"""

from collections import Counter
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import NamedTuple

DAY_HOURS = 24
HOURS_LEAST = 23  # of a day's 24, that must have prices


class Coverage(NamedTuple):
    """What a recording has prices for; days are UTC, counted from 1970 on."""

    days: frozenset[int]  # those that count
    lost: tuple[int, ...]  # whole ones between first and last price that do not
    gaps: int  # stretches of one clock hour or more without a price
    longest_hours: int


def coverage(hours: AbstractSet[int]) -> Coverage:
    """Return what the `hours` with prices, counted from 1970 on, make of the days.

    A day counts where 23 of its hours have prices, and the hour before it: else its first mark
    would be an old price, and what happened since would fall into it.
    """
    if not hours:
        return Coverage(frozenset(), (), 0, 0)
    first, last = min(hours), max(hours)
    seen = Counter(x // DAY_HOURS for x in hours)
    days = frozenset(
        day for day, count in seen.items()
        if count >= HOURS_LEAST and (day * DAY_HOURS <= first or day * DAY_HOURS - 1 in hours)
    )  # fmt: skip
    whole = range(-(-first // DAY_HOURS), (last + 1) // DAY_HOURS)
    known = sorted(hours)
    steps = [after - before - 1 for before, after in pairwise(known)]
    return Coverage(
        days=days,
        lost=tuple(x for x in whole if x not in days),
        gaps=sum(x > 0 for x in steps),
        longest_hours=max(steps, default=0),
    )
