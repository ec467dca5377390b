"""Fee tiers, rate counters and seeded chance: the venue's arithmetic around an order.

The fee schedule is the venue's of July 2026; live rates are always read, never taken from here.
"""

import hashlib
import math
from decimal import Decimal

from core.domain import ZERO, FeeRates
from core.record import Record

# 30-day volume in USD from which the tier holds, maker and taker in percent.
_TIERS = (
    (0, "0.40", "0.80"),
    (2_500, "0.30", "0.60"),
    (10_000, "0.22", "0.38"),
    (25_000, "0.20", "0.35"),
    (50_000, "0.15", "0.30"),
    (100_000, "0.12", "0.25"),
    (250_000, "0.10", "0.22"),
    (500_000, "0.08", "0.20"),
    (1_000_000, "0.06", "0.18"),
    (2_500_000, "0.04", "0.16"),
    (5_000_000, "0.02", "0.14"),
    (10_000_000, "0.00", "0.10"),
)
FEE_TIERS = tuple(
    (Decimal(volume), FeeRates(maker=Decimal(maker) / 100, taker=Decimal(taker) / 100))
    for volume, maker, taker in _TIERS
)
VOLUME_DAYS = 30
# Engine counter per pair: maximum and decay per second.
ENGINE_LIMITS = {"starter": (60.0, 1.0), "intermediate": (125.0, 2.34), "pro": (180.0, 3.75)}
# REST counter per key: maximum and decay per second; orders and cancels cost nothing there.
REST_LIMITS = {"starter": (15.0, 0.33), "intermediate": (20.0, 0.5), "pro": (20.0, 1.0)}
READ_BALANCES_COST, READ_ORDERS_COST = 1.0, 3.0  # open orders 1, closed orders 2
_CANCEL_COSTS = ((5, 8), (10, 6), (15, 5), (45, 4), (90, 2), (300, 1))


def fee_tier(volume_30d: Decimal) -> FeeRates:
    """Return the rates of the tier that a 30-day volume in USD has reached."""
    rates = FEE_TIERS[0][1]
    for least, tier in FEE_TIERS:
        if volume_30d >= least:
            rates = tier
    return rates


def cancel_cost(age_sec: float) -> float:
    """Return what cancelling an order of that age adds to the engine counter."""
    for limit, cost in _CANCEL_COSTS:
        if age_sec < limit:
            return float(cost)
    return 0.0


class RateCounter(Record, frozen=True, kw_only=True, gc=False):
    """A counter that decays with time; `value` is that of the time `at`."""

    value: float = 0.0
    at: float = 0.0

    def now(self, time: float, decay: float) -> float:
        """Return the decayed value at `time`."""
        return max(0.0, self.value - max(0.0, time - self.at) * decay)

    def wait(self, cost: float, time: float, *, most: float, decay: float) -> float:
        """Return how many seconds after `time` there is room for `cost`; 0 if there is now."""
        return max(0.0, self.now(time, decay) + cost - most) / decay

    def add(self, cost: float, time: float, decay: float) -> "RateCounter":
        """Return the counter after `cost` more at `time`."""
        return RateCounter(value=self.now(time, decay) + cost, at=max(time, self.at))


def chance(seed: int, key: str) -> float:
    """Return a number in [0, 1) that depends on seed and key alone.

    Keyed, not drawn from a sequence: what happens to one order never shifts the luck of another,
    so that a restart leaves every later draw as it was.
    """
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def latency(median_sec: float, spread: float, seed: int, key: str) -> float:
    """Return a log-normal latency in seconds around `median_sec`, to the microsecond."""
    radius = math.sqrt(-2 * math.log(1 - chance(seed, key + "/r")))
    normal = radius * math.cos(2 * math.pi * chance(seed, key + "/a"))
    return round(median_sec * math.exp(spread * normal), 6)


def with_volume(
    daily: tuple[tuple[int, Decimal], ...], day: int, cost: Decimal
) -> tuple[tuple[int, Decimal], ...]:
    """Return the daily volumes with `cost` more on `day`, older than 30 days forgotten."""
    kept = tuple((d, v) for d, v in daily if day - VOLUME_DAYS < d < day)
    today = sum((v for d, v in daily if d == day), ZERO)
    return (*kept, (day, today + cost))
