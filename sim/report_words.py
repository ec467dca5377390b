"""What a backtest report says in sentences: the head, the headline, and the words it uses.

Numbers are computed in `sim/observed.py` and `sim/report_tables.py`, conclusions drawn in
`sim/verdict.py`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby

from core.plain_text import counted, in_words
from market.columns import ColumnSource
from risk import VETO_WORDS, VetoReason
from sim.cases import Case, Findings
from sim.coverage import Coverage
from sim.metrics import Floats
from sim.observed import COARSE, Spacing
from sim.report_tables import figures, holding
from sim.tables import span
from sim.verdict import DAYS_MIN, SAME

DAY_SEC = 86_400
RANGES = 5  # of lost days that are told


def headline(found: Findings) -> list[str]:
    """Return what came out in plain sentences: the presets, the days, the verdict."""
    told = [_result(x) for x in found.cases]
    days = len(found.cases[0].observed.fills.whole_days)
    if days < DAYS_MIN:
        told.append(
            f"{counted(days, 'whole UTC day')} with prices: volatility, ratios and intervals need "
            f"{DAYS_MIN}, so they are dashes."
        )
    told += [x for case in found.cases if (x := idle_words(case)) is not None]
    return [*told, *_conclusion(found)]


def _result(case: Case) -> str:
    """Return what fixed sizes made, beside holding and USD."""
    own, held = (_return(case, x) for x in (case.comparison.fixed.equity, holding(case)))
    if own is None or held is None:
        return f"No return can be told under {case.name}: there are fewer than two marks."
    fills = case.observed.fills
    elapsed = span(fills.elapsed_days * DAY_SEC).replace(" d", " days")
    days = counted(len(fills.whole_days), "whole day")
    return (
        f"Under {case.name}, fixed sizes made {_percent(own)} in {elapsed} ({days} with prices): "
        f"{_beside(own, held)} holding the start ({_percent(held)}) and {_beside(own, 0.0)} USD "
        "(0 %)."
    )


def _return(case: Case, equity: Floats) -> float | None:
    return figures(case.observed, equity).total_return


def _percent(share: float) -> str:
    return f"{100 * share:+.2f} %"


def _beside(own: float, other: float) -> str:
    if _percent(own) == _percent(other):
        return "as much as"
    return "more than" if own > other else "less than"


def _conclusion(found: Findings) -> Iterator[str]:
    """Yield what is to be thought of Kelly's sizes."""
    cases = found.cases
    if not cases[0].verdicts:
        yield (
            f"No verdict on Kelly's sizes: the bars are too coarse for these distances ({COARSE})."
        )
        return
    distinct = [(case, x, arm.arm.name) for case in cases
                for x, arm in zip(case.verdicts, case.comparison.tested, strict=True)
                if x.word != SAME]  # fmt: skip
    for case, x, name in distinct:
        yield f"{name}, under {case.name}: {x.word} than fixed sizes as large; no promise."
    if len(distinct) == sum(len(x.verdicts) for x in cases):
        return
    of = "Kelly's sizes" if not distinct else "the other sizes of Kelly"
    reasons = {x.reason for case in cases for x in case.verdicts if x.interval is None}
    why = f" ({next(iter(reasons))})" if len(reasons) == 1 and not distinct else ""
    yield f"Cannot tell whether {of} would have been better or worse than fixed ones as large{why}."


def idle_words(case: Case) -> str | None:
    """Return why no order was filled, or no cycle completed; None where one was."""
    seen, counters = case.observed, case.observed.counters
    if seen.fills.cycles:
        return None
    if seen.diagnostics.executions:
        entries = counted(len(seen.fills.held), "position")
        return f"No cycle was completed under {case.name}: {entries} open, no exit was reached."
    told = [f"{counted(seen.diagnostics.placed, 'order')} placed, the price reached none"] if (
        seen.diagnostics.placed
    ) else ["no order was placed"]  # fmt: skip
    told += [f"{n:,} refused ({in_words(x)})" for x, n in _named(counters, "rejected:")]
    vetoes = [VETO_WORDS.get(x, in_words(x)) for x, _ in _named(counters, "veto:")
              if x != VetoReason.THROTTLE]  # fmt: skip
    if vetoes:
        told.append(f"what kept entries back: {', '.join(vetoes)}")
    locks = [in_words(x) for x, _ in _named(counters, "lock:")]
    if locks:
        told.append(f"locks that were set: {', '.join(locks)}")
    return f"No order was filled under {case.name}: {'; '.join(told)}."


def _named(counters: dict[str, int], prefix: str) -> list[tuple[str, int]]:
    """Return what was counted under names with this prefix, the most frequent first."""
    found = [(x.removeprefix(prefix), n) for x, n in counters.items() if x.startswith(prefix)]
    return sorted(found, key=lambda x: -x[1])


# ---- the head -----------------------------------------------------------------------------------


def days_words(found: Coverage, count: int) -> str:
    """Return how many whole days count, and what gaps take away."""
    text = f"{counted(count, 'whole UTC day')} with prices in 23 hours or more"
    if not found.gaps:
        return text
    text += (
        f"; {counted(found.gaps, 'stretch', 'stretches')} of an hour or more without, the longest "
        f"{counted(found.longest_hours, 'hour')}"
    )
    if not found.lost:
        return f"{text}: no day is lost"
    ranges = [[x for _, x in group]
              for _, group in groupby(enumerate(found.lost), lambda x: x[1] - x[0])]  # fmt: skip
    named = [_day(x[0]) if len(x) == 1 else f"{_day(x[0])} to {_day(x[-1])}" for x in ranges]
    more = f" and {counted(len(named) - RANGES, 'more stretch', 'more stretches')}" * (
        len(named) > RANGES
    )
    told = f"{', '.join(named[:RANGES])}{more}"
    return f"{text}; {counted(len(found.lost), 'day')} they take away: {told}"


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_SEC, UTC).strftime("%Y-%m-%d")


def spacing_words(found: Spacing | None, source: ColumnSource) -> str:
    """Return how the distances stand against the bars."""
    if found is None:
        return f"not known: {_unknown(source)}"
    text = (
        f"exit {found.to_exit:.1f}, entry {found.to_entry:.1f} deviations of a bar "
        f"({found.deviation_pct:.3f} % in {found.bar_sec / 60:g} min)"
    )
    if found.word == COARSE:
        text += f": {COARSE}; below 1.5 a bar hides what happened, no verdict is given"
    elif found.word:
        text += ": warning, below 3 some cycles may not be as they were"
    if found.to_exit_without is None:
        return text
    named = ", ".join(f"{_minute(x.time)} {x.move_pct:+.1f} %" for x in found.heavy)
    return (
        f"{text}. Most of that is {counted(len(found.heavy), 'bar')}, closed (UTC): {named}; "
        f"without {'it' if len(found.heavy) == 1 else 'them'} the exit is "
        f"{found.to_exit_without:.1f} deviations. Look whether the data are right there"
    )


def _unknown(source: ColumnSource) -> str:
    if source.columns is None:
        return "the file does not have candles in regular rows"
    if source.total() < 3:
        return f"{counted(source.total(), 'bar')} {'is' if source.total() == 1 else 'are'} too few"
    return "all bars end at the same price"


def _minute(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


WORDS = (
    ("sizing", "how large each order is. All sizings see the same fills; only sizes differ"),
    ("fixed", "every order as large as ORDER_SIZE_USD says; 10 % of equity: a tenth of what the "
     "account is worth"),
    ("Kelly aggregate", "Kelly's multiplier from the outcomes of all cycles, in mode tilt"),
    ("Kelly by regime", "from cycles that began in the same regime; tilt multiplies the base size, "
     "bankroll takes a share of equity"),
    ("fixed, as large as …", "fixed sizes with the mean order of that sizing: what a verdict "
     "compares with"),
    ("regime", "bearish, ranging or bullish, as the models said at the time"),
    ("default, pessimistic", "two sets of rules for how orders fill; the second is harder in all"),
    ("95 % interval", "covers the true difference in 95 of 100 recordings like this one"),
    ("seen from", "a true difference smaller than this would mostly not be seen in these data"),
    ("shuffles as well", "the share of random orders of the same sizes that did as well; 0.05 or "
     "more is chance"),
    ("days", "whole UTC days with prices in 23 hours or more; others are in the return only"),
    ("half and half", "half of the start in USD and half in coin, made equal again at each UTC "
     "midnight, without fees for that"),
    ("% a day", "mean log growth for each day that has passed"),
    ("CAGR", "the growth a year that this would be; told from 90 days on"),
    ("volatility", "standard deviation of daily returns, a year"),
    ("Sharpe, Sortino", "mean daily return ÷ its deviation, or ÷ that of losses alone, a year"),
    ("drawdown", "the deepest fall from a peak; at hours: at hourly marks, else daily ones"),
    ("days down", "how long the deepest fall lasted, from its peak to recovery or the end"),
    ("ulcer", "the root of the mean squared drawdown: how deep and how long in one number"),
    ("CVaR 95 %", "the mean return of the worst 5 % of days"),
    ("Calmar", "CAGR ÷ drawdown"),
    ("PSR", "the probability that the true Sharpe ratio is above 0, if nothing else was tried; "
     "deflated: above what the best of so many trials shows by luck"),
    ("days needed", "so many days a Sharpe ratio like this needs for a PSR of 95 %"),
    ("open %", "notional of open positions in % of equity, mean over time"),
    ("coin %, most %", "value of the coin in % of equity: mean and largest at the marks"),
    ("turnover", "what was bought and sold a day, in equities"),
    ("won ÷ lost", "profit of all winning cycles ÷ loss of all losing ones"),
    ("at bounds %", "share of Kelly's sizes that its floor, ceiling or a cap decided"),
    ("cut", "entries for which the sizing's account had not cash enough"),
    ("deviations of a bar", "distances measured in the standard deviation of one bar's log return"),
    (COARSE, "an exit is nearer than 1.5 of these: the bars hide in which order things happened, "
     "and the figures may be far off"),
    ("fragile", "a verdict that changes under stress"),
)  # fmt: skip
