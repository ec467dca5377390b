"""What a sweep found, in plain words with units, and the ledger's columns.

A winner is the best of many, so its score is too good; what of it luck would explain stands beside
it (the deflated Sharpe ratio, `sim/metrics.py`), and how it did on data the search never saw.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from optuna.trial import FrozenTrial

from settings.table import BY_NAME
from sim.ledger import Row, assigned, attempts, tried
from sim.metrics import expected_best_sharpe, probabilistic_sharpe
from sim.score import Score
from sim.trials import Trials

CONFIDENT = 0.95
LEDGER_COLUMNS = (
    "study", "trial", "part", "state", "ended", "data", "window", "code", "settings", "parameters",
    *Score.__struct_fields__, "note",
)  # fmt: skip
TABLE: tuple[tuple[str, str, float, str], ...] = (
    ("growth a day, %", "growth", 100, "+.4f"),
    ("holding, %", "hold", 100, "+.4f"),
    ("above holding, % a day", "excess", 100, "+.4f"),
    ("Sharpe ratio of that, a day", "sharpe", 1, "+.3f"),
    ("largest drawdown, %", "drawdown", 100, ".2f"),
    ("cycles", "cycles", 1, ".0f"),
    ("fees, USD", "fees", 1, ".2f"),
    ("whole UTC days", "days", 1, ".0f"),
)


def ledger_line(row: Row) -> list[object]:
    """Return the cells of a row, in the order of LEDGER_COLUMNS."""
    own = row.identity
    ended = None if row.ended is None else datetime.fromtimestamp(row.ended, UTC)
    score = ("",) * len(Score.__struct_fields__)
    if row.score is not None:
        score = tuple(getattr(row.score, name) for name in Score.__struct_fields__)
    return [
        row.study, row.trial, row.part, row.state,
        "" if ended is None else ended.isoformat(timespec="seconds"),
        own.data, own.window, own.code, assigned(own.settings), assigned(row.parameters),
        *score, row.note,
    ]  # fmt: skip


def report(trials: Trials, best: FrozenTrial, *, made: int, wall_sec: float) -> str:
    """Return the report on a search that is over, whose winner has been run on what was held out.

    `made` trials were this process's, in `wall_sec`.
    """
    rows = trials.ledger()
    own = [x for x in rows if x.study == trials.name and x.part == "searched"]
    counts = {word: sum(x.state == word and x.trial != "defaults" for x in own)
              for word in ("tried", "refused", "given back")}  # fmt: skip
    searched = next(x.score for x in own if x.trial == str(best.number))
    after = trials.held_out(best.number) or {}
    if searched is None:
        raise ValueError("the winner has no score")
    defaults = after["defaults searched"]
    lines = [
        f"{counts['tried']} trials were tried, {counts['refused']} refused by the settings' "
        f"checks, {counts['given back']} given back and made anew; {made} of them here, in "
        f"{wall_sec:.0f} s",
        "",
        *_table(searched, defaults, after),
        "",
        f"The winner is trial {best.number}:",
        *(f"  {name}={text} (default {BY_NAME[name].default or 'unset'})"
          for name, text in tried(best).items()),
        "",
        *_luck(searched, rows),
    ]  # fmt: skip
    if "winner held out" in after:
        looks = len({(x.study, x.trial) for x in rows
                     if x.part == "held out" and x.trial != "defaults"})  # fmt: skip
        lines += ["", *_held_out(after["winner held out"], after["defaults held out"], looks)]
    else:
        lines += ["", "Nothing was held out: how the winner does on other data is not known."]
    return "\n".join(lines)


def _table(searched: Score, defaults: Score, after: dict[str, Score]) -> Iterator[str]:
    columns = [("winner", searched), ("defaults", defaults)]
    held_out = [(x, after[f"{x} held out"]) for x in ("winner", "defaults")
                if f"{x} held out" in after]  # fmt: skip
    yield f"{'':30}{'searched':>22}{'held out' if held_out else '':>24}".rstrip()
    yield f"{'':30}" + "".join(f"{name:>12}" for name, _ in (*columns, *held_out))
    for title, field, factor, form in TABLE:
        cells = [f"{factor * getattr(x, field):{form}}" for _, x in (*columns, *held_out)]
        yield f"{title:30}" + "".join(f"{cell:>12}" for cell in cells)


def _luck(winner: Score, rows: list[Row]) -> list[str]:
    """Return what the winner is worth given how many were tried on these data."""
    found, studies = attempts(rows), len({x.study for x in rows})
    luck = expected_best_sharpe(found) or 0.0
    chance = probabilistic_sharpe(
        winner.sharpe, days=winner.days, skew=winner.skewness, kurtosis=winner.kurtosis,
        against=luck,
    ) or 0.0  # fmt: skip
    verdict = (
        "more than luck explains, as far as these days tell"
        if chance >= CONFIDENT
        else f"below {CONFIDENT:.2f}: not distinguishable from luck"
    )
    first = [] if winner.excess > 0 else ["No trial earned more than holding the start balances."]
    return [
        *first,
        f"A winner of {found.count:,} different trials on these data, in {studies} "
        f"{'study' if studies == 1 else 'studies'}. Sharpe ratios are of the daily growth above "
        "holding.",
        f"Were none of them better than holding, the best would still show about {luck:+.3f} a day "
        f"by luck (their Sharpe ratios have a deviation of {found.variance**0.5:.3f}); the winner "
        f"shows {winner.sharpe:+.3f} over {winner.days} days.",
        f"Deflated Sharpe ratio, the probability that its true one is above that of luck: "
        f"{chance:.3f}; {verdict}.",
    ]


def _held_out(winner: Score, defaults: Score, looks: int) -> list[str]:
    against = "more" if winner.excess > defaults.excess else "no more"
    lines = [
        f"On the {winner.days} days that the search never saw the winner grew "
        f"{100 * winner.excess:+.4f} % a day above holding, the defaults "
        f"{100 * defaults.excess:+.4f} %: {against} than the defaults, and "
        f"{'more' if winner.excess > 0 else 'no more'} than holding.",
    ]
    if looks > 1:
        lines.append(
            f"{looks} winners have been run on parts held out of these data: each look makes them "
            "less of a test."
        )
    return lines
