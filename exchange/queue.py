"""Where we stand in the queue at a price, and how likely a resting order is to fill without prints.

The depth-change formulas are those of hftbacktest's queue models: on a decrease of the displayed
size, π is the probability that what left stood behind us. The position never moves back and never
below zero.
"""

import math
from decimal import Decimal
from enum import StrEnum

from core.domain import ZERO

TOUCH_RATE = 0.0598  # per second: 45 % in ten seconds at the touch
RATE_PER_HALF_SPREAD = 1.3
PROBABILITY_MIN, PROBABILITY_MAX = 0.01, 0.99


class QueueModel(StrEnum):
    """How a decrease of the displayed size moves us."""

    RISK_AVERSE = "risk_averse"  # all of it was behind us
    POWER = "power"  # π = B/(B + F)
    LOG = "log"  # π = ln(1 + B)/(ln(1 + B) + ln(1 + F))


def queue_after_depth_change(
    model: QueueModel, *, ahead: Decimal, before: Decimal, after: Decimal
) -> Decimal:
    """Return the size ahead of us after the display went from `before` to `after`."""
    removed = before - after
    if removed <= 0:
        return min(ahead, after)
    behind = max(ZERO, before - ahead)
    share = _behind_probability(model, ahead=ahead, behind=behind)
    moved = ahead - (1 - share) * removed + min(behind - share * removed, ZERO)
    return max(ZERO, min(moved, after, ahead))


def _behind_probability(model: QueueModel, *, ahead: Decimal, behind: Decimal) -> Decimal:
    if model is QueueModel.RISK_AVERSE:
        return Decimal(1)
    if model is QueueModel.POWER:
        return behind / (behind + ahead) if behind + ahead > 0 else ZERO
    front, back = math.log1p(float(ahead)), math.log1p(float(behind))
    return Decimal(repr(round(back / (front + back), 12))) if front + back > 0 else ZERO


def fill_probability(half_spreads_behind: float, seconds: float) -> float:
    """Return the chance that an order fills within `seconds` where there are books but no prints.

    `half_spreads_behind` is the distance from the touch in half spreads; negative is aggressive.
    Monotone in the price, bounded in [0.01, 0.99].
    """
    rate = TOUCH_RATE * math.exp(-RATE_PER_HALF_SPREAD * half_spreads_behind)
    chance = 1.0 - math.exp(-rate * seconds)
    return min(PROBABILITY_MAX, max(PROBABILITY_MIN, chance))
