"""The pictures of a backtest report as SVG: equity, underwater, months, sizes and regimes.

Drawn by matplotlib, which is imported here only; nothing in the text looks like an address.
"""

import io
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from core.regime import LABELS
from sim.cases import Case
from sim.metrics import Floats
from sim.report_tables import holding
from sim.tables import Picture

WIDTH = 13.0  # inches
# Okabe and Ito's colours, which can be told apart without red and green.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999999")
REGIMES = {"bearish": "#d55e00", "ranging": "#c8c8c8", "bullish": "#0072b2"}
POINTS = 2_000  # more cannot be seen
MONTHS = 12  # of more, Kelly's bars could not be told apart, nor all names of months


def pictures(case: Case) -> list[Picture]:
    """Return the pictures of a case; none of a run without two marks."""
    if len(case.observed.fills.mark_times) < 2:
        return []
    drawn = [
        ("Equity over time", 4.2, _equity),
        ("Underwater: below the highest so far", 2.4, _underwater),
        ("Growth by month", 2.6, _months),
        ("Size of each entry, and the regime", 3.4, _sizes),
        ("Cycles: time open and profit", 3.2, _cycles),
    ]
    return [Picture(f"{title}, {case.name}", _svg(height, case, draw))
            for title, height, draw in drawn]  # fmt: skip


def _svg(height: float, case: Case, draw: Callable[[Any, Case], None]) -> str:
    from matplotlib import rc_context  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": draw.__name__, "font.size": 9,
                     "font.family": "sans-serif"}  # fmt: skip
    with rc_context(settings):
        figure: Any = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        draw(axes, case)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        out = io.StringIO()
        bare = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", metadata=bare)
    text = out.getvalue()
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])


def _times(times: Floats) -> npt.NDArray[np.object_]:
    return np.array([datetime.fromtimestamp(x, UTC) for x in times])


def _curves(case: Case) -> list[tuple[str, Floats, str, str]]:
    """Return name, daily equity, colour and dashes of what is drawn."""
    found = case.comparison
    named = [
        (found.fixed.name, found.fixed.equity),
        (found.equity_part.name, found.equity_part.equity),
    ]
    named += [(x.arm.name, x.arm.equity) for x in found.tested]
    made = [(name, y, COLOURS[n], "-") for n, (name, y) in enumerate(named)]
    made.append(("holding the start", holding(case), "#000000", "--"))
    made.append(("all in USD", case.observed.days["usd"], "#999999", ":"))
    return made


def _equity(axes: Any, case: Case) -> None:
    times = _times(case.observed.fills.mark_times)
    for name, y, colour, dashes in _curves(case):
        axes.plot(times, y, color=colour, linestyle=dashes, linewidth=1.2, label=name)
    axes.set_ylabel("USD at liquidation")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,.0f}")
    _above(axes)


def _above(axes: Any) -> None:
    """Put the legend above what is drawn, where it covers nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, ncols=3)


def _underwater(axes: Any, case: Case) -> None:
    times = _times(case.observed.fills.mark_times)
    for name, y, colour, dashes in _curves(case):
        fall = 100.0 * (y / np.maximum.accumulate(y) - 1.0)
        axes.plot(times, fall, color=colour, linestyle=dashes, linewidth=1.0, label=name)
    axes.set_ylabel("% below the peak")
    _above(axes)


def _months(axes: Any, case: Case) -> None:
    times = case.observed.fills.mark_times
    months = np.array([datetime.fromtimestamp(x - 1, UTC).strftime("%Y-%m") for x in times[1:]])
    names = sorted(set(months.tolist()))
    shown = [x for x in _curves(case) if x[0] in ("fixed", "holding the start")]
    if len(names) <= MONTHS:
        shown += [x for x in _curves(case) if x[0].startswith("Kelly")]
    width = 0.8 / len(shown)
    for n, (name, y, colour, _) in enumerate(shown):
        growth = np.diff(np.log(y))
        bars = [100.0 * float(growth[months == month].sum()) for month in names]
        at = np.arange(len(names)) + (n - (len(shown) - 1) / 2) * width
        axes.bar(at, bars, width=width, color=colour, label=name)
    told = np.arange(0, len(names), math.ceil(len(names) / MONTHS))
    axes.set_xticks(told, [names[n] for n in told])
    axes.axhline(0.0, color="#444", linewidth=0.6)
    axes.set_ylabel("log growth, %")
    _above(axes)


def _sizes(axes: Any, case: Case) -> None:
    """Draw each sizing's multipliers over time, on bands of the regime."""
    fills = case.observed.fills
    entered = np.array([x.entry_time for x in fills.cycles] + [x.entry_time for x in fills.held])
    told = _bands(axes, case)
    if entered.size:
        times, order = _times(entered), np.argsort(entered)
        for n, x in enumerate(case.comparison.tested):
            axes.step(times[order], x.arm.multipliers[order], where="post", color=COLOURS[n + 2],
                      linewidth=1.2, label=x.arm.name)  # fmt: skip
    for label in sorted(told):
        axes.fill_between([], [], color=REGIMES[LABELS[label]], alpha=0.25, linewidth=0,
                          label=f"band: {LABELS[label]}")  # fmt: skip
    if entered.size or told:
        _above(axes)
    axes.set_ylabel("× base size")


def _bands(axes: Any, case: Case) -> set[int]:
    """Draw when the models said what; return the labels that there were."""
    watch = case.regimes
    told: set[int] = set()
    begin: float | None = None
    last: int | None = None
    step = max(1, len(watch.times) // POINTS)
    for at, label in [*zip(watch.times[::step], watch.labels[::step], strict=True), (None, None)]:
        if at is not None and label == last:
            continue
        if last is not None and begin is not None:
            told.add(last)
            end = watch.times[-1] if at is None else at
            axes.axvspan(*_times(np.array([begin, end])), color=REGIMES[LABELS[last]], alpha=0.25,
                         linewidth=0)  # fmt: skip
        begin, last = at, label
    return told


def _cycles(axes: Any, case: Case) -> None:
    """Draw each cycle by the time it was open and what it made, by the regime of its entry."""
    cycles = case.observed.fills.cycles
    names = {0: "bearish", 1: "ranging", 2: "bullish", None: "unknown"}
    for tag, name in names.items():
        own = [x for x in cycles if x.regime_at_entry == tag]
        if own:
            # fmt: off
            hours = [max((x.exit_time - x.entry_time) / 3600.0, 1e-3) for x in own]
            made = [x.net_profit for x in own]
            axes.scatter(hours, made, s=9, alpha=0.6, linewidth=0,
                         color=REGIMES.get(name, "#009e73"), label=f"{name} at entry: {len(own)}")
            # fmt: on
    if cycles:
        axes.set_xscale("log")
        _above(axes)
    axes.axhline(0.0, color="#444", linewidth=0.6)
    axes.set_xlabel("hours open")
    axes.set_ylabel("net profit, USD")
