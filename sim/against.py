"""Whether settings would have helped: two runs that differ by these alone, side by side.

Growth is that of equity at liquidation in whole UTC days, paired by day, with the interval of
`sim/verdict.py`. Holding more of the coin looks like skill while it rises. So the difference is
taken once more of growth beyond holding: a day's log growth less that of the balances with which
the day began. A run that does not trade has none of it.
"""

from typing import Any

import numpy as np

from core.record import Record
from sim.cases import Against, Case, Full
from sim.metrics import Floats
from sim.observed import COARSE, Observed
from sim.report_tables import (
    NO_DIFFERENCE,
    apart,
    apart_words,
    daily_growth,
    figures,
    liquidated,
    number,
)
from sim.tables import NONE, Table
from sim.verdict import BETTER, SAME, WORSE, Interval

NOTE = (
    "The same data and preset, once as it is set and once with the other value. Equity at "
    "liquidation; drawdown at hourly marks; coin: its mean share of equity; fees in USD. The "
    "difference is log growth in % a day, as set less the other, in whole UTC days, with its 95 % "
    "interval. Beyond holding: the same, where of each day the growth that its first balances had "
    "by lying still is taken off, for more coin on a rising market is no skill; nor does it count "
    "as such to have held more on the right days. BETTER, of what is set, needs both intervals "
    "above 0, WORSE both below. It says nothing of other data, and of many settings tried one will "
    "look good."
)


class Compared(Record, frozen=True, kw_only=True):
    """The word and what it rests on; an interval, or why there is none."""

    word: str
    reason: str
    days: int
    growth: Interval | str  # daily log growth, as set less the other
    beyond: Interval | str  # of it what holding the day's first balances does not explain


def compared(found: Against) -> Compared:
    """Return what is to be thought of the settings."""
    own, other = found.own.observed, found.other.observed
    days = len(daily_growth(own))
    if found.own.digest == found.other.digest:
        return Compared(
            word=SAME, reason="the same trades", days=days, growth=NO_DIFFERENCE,
            beyond=NO_DIFFERENCE,
        )  # fmt: skip
    if any(x.spacing is not None and x.spacing.word == COARSE for x in (found.own, found.other)):
        return Compared(word=SAME, reason=COARSE, days=days, growth=COARSE, beyond=COARSE)
    growth = apart(daily_growth(own), daily_growth(other))
    beyond = apart(beyond_holding(own), beyond_holding(other))
    word, reason = _word(growth, beyond)
    return Compared(word=word, reason=reason, days=days, growth=growth, beyond=beyond)


def beyond_holding(run: Observed) -> Floats:
    """Return each whole UTC day's log growth less that of the balances with which it began."""
    at, bids = run.fills.whole_days, run.fills.bids
    rise = bids[at + 1] / bids[at] - 1.0
    beyond: Floats = daily_growth(run) - np.log1p(coin_share(run)[at] * rise)
    return beyond


def coin_share(run: Observed) -> Floats:
    """Return the coin's share of equity at the marks, at liquidation."""
    coin: Floats = run.days["base"] * run.fills.bids * (1.0 - run.fills.taker)
    return coin / liquidated(run)


def table(found: Against) -> Table:
    """Return both runs and the word."""
    made = compared(found)
    own, other = (_words(found, n) for n in (0, 1))
    rows = [
        (own, *_cells(found.own), apart_words(made.growth), apart_words(made.beyond), made.word),
        (other, *_cells(found.other), NONE, NONE, NONE),
    ]  # fmt: skip
    return Table(
        f"Against {other}, {found.other.name}", NOTE,
        ("run", "return %", "at hours %", "coin %", "fees", "cycles", "difference",
         "beyond holding", "verdict"),
        rows,
        sentences=(sentence(found),),
    )  # fmt: skip


def sentence(found: Against) -> str:
    """Return what came out, for who asked."""
    made = compared(found)
    own, other = (_words(found, n) for n in (0, 1))
    grew = "" if isinstance(made.growth, str) else f", {apart_words(made.growth)} % a day"
    return f"{own} against {other}, under {found.other.name}: {made.word}{grew}; {made.reason}."


def to_dict(found: Against) -> dict[str, Any]:
    """Return the comparison as JSON values."""
    runs = {"as_set": found.own, "against": found.other}
    return {
        "name": found.other.name,
        "settings": {x: dict(zip(runs, y, strict=True)) for x, y in found.settings.items()},
        **compared(found).to_dict(),
        "runs": {name: _run(run) for name, run in runs.items()},
    }


def _run(run: Case | Full) -> dict[str, Any]:
    seen = run.observed
    return {
        "canonical_sha256": run.digest,
        "figures": figures(seen, liquidated(seen)).to_dict(),
        "drawdown_max_hourly": seen.deepest["equity"],
        "coin_mean": float(coin_share(seen).mean()) if coin_share(seen).size else None,
        "fees": seen.paid,
        "counters": seen.counters,
    }


def _words(found: Against, side: int) -> str:
    return " ".join(f"{name}={x[side] or 'unset'}" for name, x in found.settings.items())


def _cells(run: Case | Full) -> tuple[str, ...]:
    seen = run.observed
    share = coin_share(seen)
    return (
        number(figures(seen, liquidated(seen)).total_return, 2, scale=100, sign=True),
        number(seen.deepest["equity"], 2, scale=100),
        number(float(share.mean()) if share.size else None, 1, scale=100),
        number(seen.paid), str(seen.counters.get("cycles", 0)),
    )  # fmt: skip


def _word(growth: Interval | str, beyond: Interval | str) -> tuple[str, str]:
    """Return the word and what it rests on."""
    if isinstance(growth, str):
        return SAME, growth
    if growth.low <= 0.0 <= growth.high:
        least = f"a true one below {100 * growth.detectable:.4f} would mostly not be seen"
        return SAME, f"the difference may be 0; {least}"
    if isinstance(beyond, str):
        return SAME, f"beyond holding: {beyond}"
    if growth.low > 0.0 and beyond.low > 0.0:
        return BETTER, "both intervals are above 0"
    if growth.high < 0.0 and beyond.high < 0.0:
        return WORSE, "both intervals are below 0"
    return SAME, "what it held of the coin may explain it"
