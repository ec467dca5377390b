"""The picture of a regime report: price, regime ribbons, tiers and evidence over time, as SVG.

Drawn by matplotlib, which is imported here only. The text is SVG for a page of HTML: without the
names of namespaces, so that nothing in it looks like an address.
"""

import io
import re
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import numpy as np

from core.params import Params
from core.regime import BEARISH, BULLISH, LABELS
from sim.regime_stats import SOURCES, Floats, Ints, Series
from sim.regimes import Study

MISSING = (
    "the page's plot needs matplotlib: python -m pip install -r requirements-research.txt (or "
    "give --no-page for the tables alone)"
)
# Okabe and Ito's colours, which can be told apart without red and green.
COLOURS = {"bearish": "#d55e00", "ranging": "#c8c8c8", "bullish": "#0072b2", "unknown": "#ffffff"}
WIDTH, HEIGHT = 13.0, 9.0  # inches
POINTS = 2_400  # columns of the ribbons and points of lines: more cannot be seen


def is_available() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def svg(own: Series, seen: Study, params: Params) -> str:
    """Return the picture as an SVG element."""
    from matplotlib import rc_context  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "regimes", "font.size": 9,
                "font.family": "sans-serif", "svg.id": "plot"}  # fmt: skip
    with rc_context(settings):
        figure: Any = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        heights = [3.2, 1.2, 1.1, 1.1, 1.6]
        price, ribbon, free, held, proof = figure.subplots(
            5, 1, sharex=True, gridspec_kw={"height_ratios": heights}
        )
        times = _times(own.time)
        _price(price, own, times)
        _ribbons(ribbon, own, times)
        _tier(free, own.ungated, times, "tier without\nthe gate")
        _tier(held, own.tier, times, "tier with\nthe gate")
        _evidence(proof, seen, times, params)
        proof.set_xlabel("UTC")
        figure.align_ylabels()
        out = io.StringIO()
        bare = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", metadata=bare)
    text = out.getvalue()
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])


def _times(time: Floats) -> list[datetime]:
    return [datetime.fromtimestamp(x, UTC) for x in time.tolist()]


def _thinned(count: int) -> list[int]:
    at = np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))
    return [int(n) for n in at]


def _price(axes: Any, own: Series, times: list[datetime]) -> None:
    at = [n for n in _thinned(len(times)) if np.isfinite(own.price[n])]
    axes.plot([times[n] for n in at], own.price[at], color="#222222", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel("price, USD (log)")
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_formatter("{x:.4g}")
    axes.tick_params(axis="y", which="minor", labelsize=7)


def _ribbons(axes: Any, own: Series, times: list[datetime]) -> None:
    """Draw a row a source; a column shows what lasted longest in it."""
    from matplotlib.colors import ListedColormap  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from matplotlib.dates import date2num  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from matplotlib.patches import Patch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    rows = np.array([_columns(own, own.labels[x]) for x in SOURCES])
    names = ("unknown", *LABELS)
    numbers: Any = date2num
    ends = numbers(times[0]), numbers(times[-1])
    axes.imshow(
        rows, aspect="auto", interpolation="nearest", vmin=-1, vmax=2,
        cmap=ListedColormap([COLOURS[x] for x in names]),
        extent=(*ends, len(SOURCES) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(SOURCES)), SOURCES)
    axes.legend(
        handles=[Patch(facecolor=COLOURS[x], edgecolor="#888888", label=x) for x in names],
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=8,
    )  # fmt: skip
    axes.xaxis_date()


def _columns(own: Series, labels: Ints) -> list[int]:
    """Return for each of equally long stretches of time the label that most of it had."""
    count = min(POINTS, len(labels))
    edges = np.linspace(own.time[0], own.time[-1], count + 1)
    column = np.clip(np.searchsorted(edges, own.time, side="right") - 1, 0, count - 1)
    sums = np.zeros((count, len(LABELS) + 1))
    np.add.at(sums, (column, labels.astype(int) + 1), own.weight)
    best = np.argmax(sums, axis=1) - 1
    for n in range(1, count):  # a stretch without an evaluation is as the one before
        if not sums[n].any():
            best[n] = best[n - 1]
    return [int(x) for x in best]


def _tier(axes: Any, tier: Ints, times: list[datetime], name: str) -> None:
    """Draw signed tiers as steps, drawn where they change only."""
    at = np.unique(np.concatenate(([0], np.flatnonzero(np.diff(tier)) + 1, [len(tier) - 1])))
    when, values = [times[n] for n in at.tolist()], tier[at].astype(float)
    for label, sign in (("bullish", 1), ("bearish", -1)):
        shown = np.where(values * sign > 0, values, 0.0)
        axes.fill_between(when, shown, step="post", color=COLOURS[label], linewidth=0)
    axes.set_ylim(-2.2, 2.2)
    axes.set_yticks([-2, -1, 0, 1, 2], ["2 bear", "1", "0", "1", "2 bull"], fontsize=7)
    axes.set_ylabel(name)
    axes.axhline(0, color="#888888", linewidth=0.5)


def _evidence(axes: Any, seen: Study, times: list[datetime], params: Params) -> None:
    at = _thinned(len(times))
    for label in (BEARISH, BULLISH):
        values = []
        for n in at:
            t = next((x.t for x in seen.evaluations[n].evidence if x.label == label), None)
            values.append(float("nan") if t is None else t)
        name = LABELS[label]
        axes.plot([times[n] for n in at], values, color=COLOURS[name], linewidth=1, label=name)
    axes.axhline(params.regime_evidence_t, color="#222222", linewidth=0.8, linestyle="--")
    axes.axhline(0, color="#888888", linewidth=0.5)
    axes.set_ylabel("evidence, t\n(dashed: needed)")
    axes.legend(loc="lower right", frameon=False, fontsize=8, ncols=2)
