"""The tables of a backtest report: presets side by side, every number with its unit.

What is computed stands in `sim/metrics.py`, `sim/arms.py` and `sim/verdict.py`.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from core.advice import Tally
from core.regime import LABELS
from sim.arms import Arm, Cycle
from sim.cases import Case, Full
from sim.metrics import (
    Curve,
    Floats,
    Trials,
    curve,
    cycle_figures,
    expected_best_sharpe,
)
from sim.observed import COARSE, Diagnostics, Observed
from sim.tables import NONE, Table, span
from sim.verdict import ALIKE, DAYS_MIN, Interval, bootstrap

NO_DIFFERENCE = "no difference"
ORDERS = (
    "orders placed", "filled", "in several executions", "refused", "of them: would have crossed",
    "executions", "as maker, %", "limited by the market's volume, %", "from order to fill, median",
    "95 % within",
)  # fmt: skip
TERCILES = ("calm third of days", "middle third", "wild third")


def number(value: float | None, digits: int = 2, *, scale: float = 1.0, sign: bool = False) -> str:
    """Return a number as a cell; None is a dash."""
    if value is None:
        return NONE
    return f"{value * scale:{'+' if sign else ''},.{digits}f}"


def arms(case: Case) -> list[Arm]:
    """Return all sizings of a case in the order of the report."""
    found = case.comparison
    tested = [arm for x in found.tested for arm in (x.arm, x.matched)]
    return [found.fixed, found.equity_part, *tested]


def verdicts(case: Case) -> Table:
    """Return what is to be thought of each Kelly sizing."""
    rows = []
    for x, tested in zip(case.verdicts, case.comparison.tested, strict=False):
        found = x.interval
        rows.append((
            tested.arm.name, x.word,
            number(None if found is None else found.mean, 4, scale=100, sign=True),
            NONE if found is None else f"{100 * found.low:+.4f} to {100 * found.high:+.4f}",
            number(x.detectable, 4, scale=100), number(x.p_better, 3), str(x.days),
        ))  # fmt: skip
    return Table(
        f"Verdict, {case.name}",
        "Log growth in % a day above fixed sizes of the same mean notional, on the same fills; "
        "BETTER needs an interval above 0 and fewer than 5 % of shuffled sizes doing as well. It "
        "is no promise."
        if case.verdicts
        else "None is given: the bars are too coarse for these distances.",
        ("sizing", "verdict", "difference", "95 % interval", "seen from", "shuffles as well",
         "days"),
        rows,
        is_told_empty=True,
        sentences=tuple(x.sentence for x in case.verdicts),
    )  # fmt: skip


def performance(case: Case) -> Table:
    """Return all sizings and ways of doing nothing side by side."""
    seen = case.observed
    rows = [_row(x.name, figures(seen, x.equity)) for x in arms(case)]
    rows[0] = _row("fixed", figures(seen, case.comparison.fixed.equity), seen.deepest["equity"])
    held = figures(seen, holding(case))
    rows.append(_row("holding the start", held, seen.deepest["hold"]))
    for name, title in (("usd", "all in USD"), ("doge", "all in coin"), ("half", "half and half")):
        rows.append(_row(title, figures(seen, seen.days[name]), seen.deepest[name]))
    return Table(
        f"Equity, {case.name}",
        "Marks at liquidation: bid less taker fee; all begin with the same worth. Return and "
        "drawdown in %; ratios a year of 365 days, of whole UTC days with prices: "
        f"{_enough(len(seen.fills.whole_days))}. Drawdown at daily marks, and at hourly ones "
        "where those are known: sizings are marked once a day. PSR: probability that the true "
        "Sharpe ratio is above 0, if nothing else was tried.",
        ("sizing", "return %", "% a day", "CAGR %", "volatility %", "Sharpe", "Sortino",
         "drawdown %", "at hours %", "days down", "ulcer %", "CVaR 95 %", "Calmar", "PSR"),
        rows,
    )  # fmt: skip


def _enough(days: int) -> str:
    """Return how many days there are, and whether ratios are told of them."""
    return f"{days:,}" + (f", none of fewer than {DAYS_MIN}" if days < DAYS_MIN else "")


def holding(case: Case) -> Floats:
    """Return what holding the start would be worth at the marks, at liquidation."""
    marks = case.observed.fills
    return marks.quote + marks.base * marks.bids * (1.0 - marks.taker)


def figures(seen: Observed, equity: Floats, tried: Trials | None = None) -> Curve:
    """Return the figures of equity at the marks of a run; ratios of 20 days or more only."""
    marks = seen.fills
    found = curve(equity, tried, elapsed_days=marks.elapsed_days, whole=marks.spliced(equity))
    return found if found.days >= DAYS_MIN else found.without_days()


def _row(name: str, x: Curve, deepest: float | None = None) -> tuple[str, ...]:
    return (
        name, number(x.total_return, 2, scale=100, sign=True),
        number(x.growth_per_day, 4, scale=100, sign=True), number(x.cagr, 1, scale=100, sign=True),
        number(x.volatility, 1, scale=100), number(x.sharpe), number(x.sortino),
        number(x.drawdown_max, 2, scale=100), number(deepest, 2, scale=100),
        NONE if x.drawdown_days is None else str(x.drawdown_days), number(x.ulcer, 2, scale=100),
        number(x.cvar_95, 2, scale=100, sign=True), number(x.calmar), number(x.psr, 3),
    )  # fmt: skip


def sizes(case: Case) -> Table:
    """Return what the sizings asked of the account."""
    rows = []
    for x in arms(case):
        done = x.cycles
        rows.append((
            x.name, number(x.mean_notional), number(x.exposure, 1, scale=100),
            number(x.long_mean, 1, scale=100), number(x.long_max, 1, scale=100),
            number(x.turnover, 3), number(x.fees), str(done.count),
            NONE if done.win_rate is None or done.win_rate_low is None
            or done.win_rate_high is None
            else f"{100 * done.win_rate:.1f} ({100 * done.win_rate_low:.1f} to "
            f"{100 * done.win_rate_high:.1f})",
            number(done.profit_factor), number(done.expectancy, 4, sign=True),
            number(x.at_bounds, 0, scale=100), str(x.cut),
        ))  # fmt: skip
    return Table(
        f"Sizes and cycles, {case.name}",
        "Mean order in USD; open notional and value of the coin in % of equity; turnover a day in "
        "equities; fees in USD; wins in % with Wilson's 95 % interval; profit a cycle in USD; "
        "sizes that floor, ceiling or a cap decided, in %; entries that cash did not suffice for.",
        ("sizing", "order", "open %", "coin %", "most %", "turnover", "fees", "cycles", "wins %",
         "won ÷ lost", "a cycle", "at bounds %", "cut"),
        rows,
    )  # fmt: skip


def losers(case: Case) -> Table:
    """Return what was still open at the end, which no figure of closed cycles shows."""
    fills = case.observed.fills
    bid = float(fills.bids[-1]) if len(fills.bids) else float("nan")
    rows = []
    for x in sorted(fills.held, key=lambda x: x.entry_time):
        sign = 1.0 if x.leg == "B" else -1.0
        marked = sign * (bid - x.entry_price) * x.volume - x.entry_fee
        rows.append((
            f"slot {x.slot_id} {x.leg}", _day(x.entry_time), number(x.entry_price, 6),
            number(x.volume, 1), number(marked, 2, sign=True),
            span(float(fills.mark_times[-1]) - x.entry_time),
        ))  # fmt: skip
    return Table(
        f"Open at the end, {case.name}",
        f"Marked at the bid of {bid:.7f}, in USD, less the entry's fee; closed cycles are nearly "
        "always wins, because what loses stays open.",
        ("position", "entered (UTC)", "at", "volume", "marked", "open for"),
        rows,
    )  # fmt: skip


def entries_by_regime(case: Case) -> Table:
    """Return outcomes by the regime at entry."""
    rows = []
    for tag, label in ((None, "unknown"), *enumerate(LABELS)):
        own = [x for x in case.observed.fills.cycles if x.regime_at_entry == tag]
        held = sum(x.regime_at_entry == tag for x in case.observed.fills.held)
        if not own and not held:
            continue
        found = cycle_figures(
            np.array([x.net_profit for x in own]),
            np.array([x.exit_time - x.entry_time for x in own]),
        )
        low, high = found.win_rate_low, found.win_rate_high
        rows.append((
            label, str(found.count), number(found.win_rate, 1, scale=100),
            NONE if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}",
            number(found.expectancy, 4, sign=True),
            NONE if found.holding_p50_sec is None else span(found.holding_p50_sec),
            NONE if found.holding_p95_sec is None else span(found.holding_p95_sec), str(held),
        ))  # fmt: skip
    return Table(
        f"Cycles by regime at entry, {case.name}",
        "Wins in % of cycles that won or lost, with Wilson's 95 % interval; profit a cycle in USD.",
        ("regime", "cycles", "wins %", "interval", "a cycle", "held p50", "held p95", "open"),
        rows,
    )


def worst_cells(case: Case) -> Table:
    """Return the growth by month and by third of volatility: where it fails, it is seen."""
    marks, equity, held = case.observed.fills, case.comparison.fixed.equity, holding(case)
    whole = np.zeros(max(0, len(marks.mark_times) - 1), dtype=bool)
    whole[marks.whole_days] = True
    rows = [
        (name, str(int((chosen & whole).sum())), _sum(equity, chosen),
         _worst(equity, chosen & whole), _sum(held, chosen))
        for name, chosen in _cells(marks.mark_times, marks.bids, whole)
    ]  # fmt: skip
    return Table(
        f"By month and volatility, {case.name}",
        "Fixed sizes: log growth in % in all, the worst day, and the growth of holding the start. "
        "Days are whole ones with prices; a month's growth has the others too, a third's has not.",
        ("part", "days", "growth %", "worst day %", "holding %"),
        rows,
    )


def _cells(times: Floats, bids: Floats, whole: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if len(times) < 2:
        return
    months = np.array([datetime.fromtimestamp(x - 1, UTC).strftime("%Y-%m") for x in times[1:]])
    for month in sorted(set(months)):
        yield month, months == month
    if whole.sum() < len(TERCILES):
        return
    move = np.abs(np.diff(np.log(bids)))
    low, high = np.quantile(move[whole], [1 / 3, 2 / 3])
    cells = (move <= low, (move > low) & (move <= high), move > high)
    yield from ((name, x & whole) for name, x in zip(TERCILES, cells, strict=True))


def _sum(equity: Floats, chosen: np.ndarray) -> str:
    """Return the log growth in chosen spans between marks, in %."""
    return number(float(np.diff(np.log(equity))[chosen].sum()), 2, scale=100, sign=True)


def _worst(equity: Floats, chosen: np.ndarray) -> str:
    growth = np.diff(np.log(equity))[chosen]
    return number(float(growth.min()) if growth.size else None, 2, scale=100, sign=True)


def diagnostics(cases: Sequence[Case]) -> Table:
    """Return how orders fared, a column for each case."""
    columns = [_orders(x.observed.diagnostics) for x in cases]
    return Table(
        "How orders fared",
        "Where executions are limited by the market's volume, larger sizes would not fill as "
        "these did.",
        ("", *(x.name for x in cases)),
        list(zip(ORDERS, *columns, strict=True)),
    )


def _orders(x: Diagnostics) -> tuple[str, ...]:
    """Return the cells that go with ORDERS."""
    return (
        f"{x.placed:,}", f"{x.filled:,}", f"{x.partly:,}", f"{x.rejected:,}", f"{x.crossing:,}",
        f"{x.executions:,}", number(x.maker_share, 1, scale=100),
        number(x.limited_share, 1, scale=100), _span(x.wait_p50_sec), _span(x.wait_p95_sec),
    )  # fmt: skip


def stress(cases: Sequence[Case]) -> Table:
    """Return what worse conditions do to fixed sizes and to the verdicts."""
    rows = []
    first = [x.word for x in cases[0].verdicts]
    for case in cases:
        seen, fixed = case.observed, case.comparison.fixed
        found = figures(seen, fixed.equity)
        words = [x.word for x in case.verdicts]
        rows.append((
            case.name, number(found.total_return, 2, scale=100, sign=True),
            number(seen.deepest["equity"], 2, scale=100), str(fixed.cycles.count),
            number(fixed.fees),
            ", ".join(words) or COARSE,
            "fragile" if words != first
            else "nothing changed in the fills" if case is not cases[0]
            and _filled(case) == _filled(cases[0]) else "",
        ))  # fmt: skip
    return Table(
        "Under stress",
        "Fixed sizes in % and USD, drawdown at hourly marks, and the verdicts on the Kelly sizings "
        "in the order above; one that changes is fragile. Where nothing changed in the fills a row "
        "shows no robustness: of fees it tells what they cost, of other conditions nothing.",
        ("conditions", "return %", "drawdown %", "cycles", "fees", "verdicts", ""),
        rows,
    )


def _filled(case: Case) -> list[tuple[object, ...]]:
    """Return what was filled, and when, whatever it cost."""
    fills = case.observed.fills
    done = [(*_same(x), x.entry_price, x.exit_price, x.volume) for x in fills.cycles]
    return done + [(x.slot_id, x.leg, x.entry_time, x.entry_price, x.volume) for x in fills.held]


def above_holding(case: Case, arm: Arm, tried: Trials) -> Curve:
    """Return the figures of the arm's equity measured in that of holding the start."""
    return figures(case.observed, arm.equity / holding(case), tried if tried.count else None)


def evidence(case: Case, tried: Trials) -> Table:
    """Return what the Sharpe ratios above holding are worth, searching counted."""
    rows = []
    for arm in arms(case):
        found = above_holding(case, arm, tried)
        if found.sharpe_per_day is not None:
            rows.append((
                arm.name, number(found.growth_per_day, 4, scale=100, sign=True),
                number(found.sharpe_per_day, 3, sign=True), number(found.psr, 3),
                number(found.deflated_sharpe, 3), number(found.track_days_min, 0),
            ))  # fmt: skip
    best = expected_best_sharpe(tried) if tried.count else None
    told = (
        "No sweep of these data is known, so nothing is deflated; what was tried by hand counts too"
        if best is None
        else f"Deflated by {tried.count:,} different trials that sweeps have made on these data: "
        f"were all without skill, the best would still show {best:+.3f} a day by luck"
    )
    return Table(
        f"Above holding, {case.name}",
        "Daily growth of the equity measured in that of holding the start: Sharpe ratio a day, the "
        "probability that the true one is above 0 (PSR), and above that of luck (deflated); days "
        f"that such a ratio needs for 95 %. {told}.",
        ("sizing", "% a day", "Sharpe a day", "PSR", "deflated", "days needed"),
        rows,
    )  # fmt: skip


def liquidated(found: Observed) -> Floats:
    """Return the equity at the marks as it was, its coin sold as taker."""
    coin = found.days["base"] * found.fills.bids
    return found.days["equity"] - coin * found.fills.taker


def liquidated_figures(found: Observed) -> Curve:
    """Return the figures of that."""
    return figures(found, liquidated(found))


def through_exchange(cases: Sequence[Case], full: Sequence[Full]) -> Table:
    """Return what Kelly's sizes did as orders, beside the run with fixed sizes."""
    rows = []
    fixed = {x.name: x for x in cases}
    for run in full:
        base = fixed[run.name]
        own, other = liquidated(run.observed), liquidated(base.observed)
        cycles = {_same(x) for x in base.observed.fills.cycles}
        alike = sum(_same(x) in cycles for x in run.observed.fills.cycles)
        count = len(run.observed.fills.cycles)
        rows.append((
            run.name, run.mode, str(len(cycles)), str(count),
            number(alike / count if count else None, 1, scale=100),
            number(figures(base.observed, other).total_return, 2, scale=100, sign=True),
            number(figures(run.observed, own).total_return, 2, scale=100, sign=True),
            _against(run.observed, base.observed),
        ))  # fmt: skip
    return Table(
        "Kelly through the exchange",
        "KELLY_ENABLED as it is set: its sizes as orders, filled as they were filled, beside fixed "
        "sizes. Cycles that begin and end at the same instants are the same ones; where they are "
        "fewer than 95 %, sizes have changed what was filled. The difference is log growth in % a "
        "day with its 95 % interval; of more or less exposure it says nothing, the verdict does.",
        ("run", "mode", "cycles, fixed", "Kelly", "the same %", "return %, fixed", "Kelly",
         "difference"),
        rows,
    )  # fmt: skip


def _same(x: Cycle) -> tuple[object, ...]:
    return x.slot_id, x.leg, x.entry_time, x.exit_time


def opinions(cases: Sequence[Case]) -> Table:
    """Return how recorded opinions did, and what following them did to the equity."""
    rows = []
    plain = {x.name: x for x in cases if x.advised is not None and not x.advised.is_followed}
    for case in cases:
        told = case.advised
        if told is None:
            continue
        score, counts = told.score, case.observed.counters
        base = plain.get(case.name.partition(",")[0])
        rows.append((
            case.name, str(told.told), str(score.count), _tally(score.advised.all),
            _tally(score.mechanical.all), f"{score.differed}: {score.better}, {score.worse}",
            str(counts.get("ai_applied", 0)) if told.is_followed else NONE,
            "; ".join(f"{n} × {why}" for why, n in told.refusals.items()) or NONE,
            NONE
            if base is None or not told.is_followed
            else _against(case.observed, base.observed),
        ))  # fmt: skip
    return Table(
        "Opinions told again",
        "Scored an hour later: right, wrong, inside a round trip of fees. Where hours did not "
        "overlap and the two voices differed: the advisor better, worse. Following: each override "
        "that the rails allow is applied at once; log growth in % a day above not following, with "
        "its 95 % interval. An interval around 0 cannot tell; one beside it was not held against "
        "chance by shuffles.",
        ("run", "opinions", "scored", "advisor", "mechanical", "differed", "applied",
         "not applied", "following"),
        rows,
    )  # fmt: skip


def _tally(x: Tally) -> str:
    return f"{x.right}, {x.wrong}, {x.inside}"


def daily_growth(run: Observed) -> Floats:
    """Return the log growth of equity at liquidation in each whole UTC day with prices."""
    grown: Floats = np.diff(np.log(run.fills.spliced(liquidated(run))))
    return grown


def apart(run: Floats, base: Floats) -> Interval | str:
    """Return by how much a run grew more a day than another one, or why that is not known."""
    if len(run) != len(base) or len(run) < DAYS_MIN:
        return f"too few days: {len(run)}, {DAYS_MIN} are needed"
    difference = run - base
    if not np.isfinite(difference).all():
        return "equity was used up"
    return NO_DIFFERENCE if np.ptp(difference) <= ALIKE else bootstrap(difference)


def apart_words(found: Interval | str) -> str:
    """Return that in words, in % a day."""
    if isinstance(found, str):
        return found
    return f"{100 * found.mean:+.4f} ({100 * found.low:+.4f} to {100 * found.high:+.4f})"


def _against(run: Observed, base: Observed) -> str:
    return apart_words(apart(daily_growth(run), daily_growth(base)))


def _span(seconds: float | None) -> str:
    return NONE if seconds is None else span(seconds)


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")
