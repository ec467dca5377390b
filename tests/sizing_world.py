"""Streams of cycles with known odds, for tests of the comparison of sizings."""

from collections.abc import Mapping
from decimal import Decimal

import numpy as np

from core.params import Params
from core.record import replace
from sim.arms import DAY_SEC, Cycle, Fills, Held
from tests.world import GOLDEN_PARAMS

START = 1_700_006_400.0  # a midnight, UTC
WIN, LOSS = 0.005, 0.015  # of notional
NOTIONAL = 1_000.0
PARAMS: Params = replace(
    GOLDEN_PARAMS, max_order_usd=Decimal(1_000_000), regime_eval_interval_sec=300.0
)


def stream(
    seed: int,
    *,
    cycles: int,
    days: int,
    odds: Mapping[int, float],
    spell_days: float = 3.0,
    quote: float = 20_000.0,
) -> Fills:
    """Return cycles that win or lose independently, with the odds of the regime at entry.

    Regimes are equally frequent and last for `spell_days` in the mean. Legs alternate over four
    slots; a cycle lasts for up to six hours; the price stands still.
    """
    rng = np.random.default_rng(seed)
    length = days * DAY_SEC
    entries = START + np.sort(rng.uniform(0.0, length - DAY_SEC / 4, cycles))
    changes = np.flatnonzero(rng.random(days * 24) < 1.0 / (24 * spell_days))
    spells = rng.permutation(np.resize(np.array(list(odds)), len(changes) + 1))
    tags = spells[np.searchsorted(changes, (entries - START) / 3600.0)]
    found = []
    for n, (entry, tag) in enumerate(zip(entries.tolist(), tags.tolist(), strict=True)):
        r = WIN if rng.random() < odds[tag] else -LOSS
        leg = "AB"[n % 2]
        gain = 1.0 + r if leg == "B" else 1.0 - r
        found.append(
            Cycle(
                slot_id=n % 4, leg=leg, entry_time=entry,
                exit_time=entry + float(rng.uniform(600.0, DAY_SEC / 4)), entry_price=1.0,
                exit_price=gain, volume=NOTIONAL, entry_fee=0.0, exit_fee=0.0,
                net_profit=r * NOTIONAL, regime_at_entry=tag, placed_at=entry, regime_placed=tag,
            )
        )  # fmt: skip
    marks = START + DAY_SEC * np.arange(days + 1.0)
    return Fills(
        cycles=found, held=(), mark_times=marks, bids=np.ones(days + 1), base=20_000.0,
        quote=quote, taker=0.0, slots=4, days=days_from(START, days),
    )  # fmt: skip


def market(seed: int, *, cycles: int = 120, held: int = 4, days: int = 40) -> Fills:
    """Return cycles and open positions at wandering prices, with fees."""
    rng = np.random.default_rng(seed)
    marks = START + DAY_SEC * np.arange(days + 1.0)
    bids = 0.1 * np.exp(np.cumsum(rng.normal(0.0, 0.02, days + 1)))
    done, kept = [], []
    for n in range(cycles + held):
        entry = START + float(rng.uniform(0.0, (days - 3) * DAY_SEC))
        price = float(np.interp(entry, marks, bids))
        volume, leg = float(rng.uniform(200.0, 400.0)), "AB"[int(rng.integers(2))]
        tag = [0, 1, 2, None][int(rng.integers(4))]
        fee = 0.0025 * price * volume
        if n >= cycles:
            kept.append(Held(n % 4, leg, entry, price, volume, fee, tag, entry, tag))
            continue
        sign = 1.0 if leg == "B" else -1.0
        exit_price = price * float(np.exp(sign * rng.normal(0.015, 0.02)))
        exit_fee = 0.0025 * exit_price * volume
        gain = (exit_price - price) * volume * sign
        done.append(
            Cycle(
                slot_id=n % 4, leg=leg, entry_time=entry,
                exit_time=entry + float(rng.uniform(600.0, 2.5 * DAY_SEC)), entry_price=price,
                exit_price=exit_price, volume=volume, entry_fee=fee, exit_fee=exit_fee,
                net_profit=gain - fee - exit_fee, regime_at_entry=tag, placed_at=entry,
                regime_placed=tag,
            )
        )  # fmt: skip
    return Fills(
        cycles=done, held=kept, mark_times=marks, bids=bids, base=50_000.0, quote=5_000.0,
        taker=0.004, slots=4, days=days_from(START, days),
    )  # fmt: skip


def days_from(start: float, count: int) -> frozenset[int]:
    """Return so many UTC days since 1970, from the midnight `start` on."""
    first = int(start // DAY_SEC)
    return frozenset(range(first, first + count))
