"""The tables of a regime report, as plain cells: every number with its unit in title or column.

What is computed stands in `sim/regime_stats.py`; text and page are made in `tools/`.
"""

import numpy as np

from core.params import Params
from core.regime import BEARISH, BULLISH, LABELS, RANGING, Evidence
from regime_policy import evidence_word
from sim import regime_stats as stats
from sim.regimes import Study
from sim.tables import NONE, Table, day, span

EVIDENCE_ROWS = 12
TIERS = ((0, "0 symmetric"), (1, "1 biased"), (2, "2 directional"))


def tables(seen: Study, own: stats.Series, params: Params) -> list[Table]:
    """Return all tables in the order of the report."""
    made = [_shares(own), _dwells(own), *_transitions(seen), _stability(seen)]
    made += [_evidence(seen, params), _forward(own), _tiers(own), _holds(seen, own), _fits(seen)]
    return [x for x in made if x.rows or x.is_told_empty]


def frame(interval_sec: float) -> str:
    """Return the name of a timeframe."""
    return f"{interval_sec / 60:g} min"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _shares(own: stats.Series) -> Table:
    rows = [
        (source, *map(_percent, stats.shares(own, own.labels[source], (0, 1, 2, -1))))
        for source in stats.SOURCES
    ]
    note = "% of time; unknown: untrained, stale or warming up; consensus: what the policy goes by"
    return Table("Share of time per regime", note, ("source", *LABELS, "unknown"), rows)


def _dwells(own: stats.Series) -> Table:
    rows = []
    for source in stats.SOURCES:
        for label, found in zip(LABELS, stats.dwells(own, source), strict=True):
            quartiles = [NONE] * 3 if found.seconds is None else [span(x) for x in found.seconds]
            rows.append((source, label, f"{found.spells:,}", *quartiles))
    note = "how long a label lasts, as seen at the evaluations"
    columns = ("source", "label", "spells", "25 %", "median", "75 %")
    return Table("Dwell times", note, columns, rows)


def _transitions(seen: Study) -> list[Table]:
    made = []
    for interval, trainings in stats.by_interval(seen).items():
        newest, mean = stats.transitions(trainings)
        rows = []
        for label, name in enumerate(LABELS):
            count = sum(label in x.labels for x in trainings)
            average = mean[label]
            cells = [NONE] * 3 if average is None else [_percent(x, 2) for x in average]
            is_there = label in trainings[-1].labels
            latest = [_percent(x, 2) if is_there else NONE for x in newest[label]]
            rows.append((name, *latest, *cells, f"{count} of {len(trainings)}"))
        made.append(
            Table(
                f"Transition matrix of the {frame(interval)} models",
                "% per candle, from row to column; the latest model, and the mean of the models "
                "that know the row's label",
                (
                    "from",
                    *(f"latest: {x}" for x in LABELS),
                    *(f"mean: {x}" for x in LABELS),
                    "models",
                ),
                rows,
            )
        )
    return made


def _stability(seen: Study) -> Table:
    rows = []
    for interval, trainings in stats.by_interval(seen).items():
        changed = stats.fit(trainings).changed
        if changed is not None:
            count = sum(x.ref.changed_share is not None for x in trainings)
            rows.append((frame(interval), str(count), *map(_percent, changed)))
    columns = ("models", "retrains", "mean", "25 %", "median", "75 %", "90 %", "largest")
    note = "% of the rows of the last day whose label a retrain changed, over all retrains"
    return Table("Label stability", note, columns, rows)


def _evidence(seen: Study, params: Params) -> Table:
    found = seen.evaluations
    at = np.unique(np.linspace(0, len(found) - 1, EVIDENCE_ROWS + 1).round().astype(int))[1:]
    rows = []
    for n in at.tolist():
        cells: list[str] = []
        for label in (BEARISH, BULLISH):
            known = next((x for x in found[n].evidence if x.label == label), None)
            cells += _evidence_cells(known)
            cells.append(evidence_word(label, found[n].evidence, params))
        rows.append((day(found[n].time), span(found[n].horizon_sec), *cells))
    heads = [
        f"{name}: {x}"
        for name in (LABELS[BEARISH], LABELS[BULLISH])
        for x in ("rows", "mean bp", "t", "so far")
    ]
    note = (
        "mean log return over the horizon on rows that no serving model was trained on, and its "
        f"HAC t-value in the label's direction; present from {params.regime_evidence_t:g}"
    )
    return Table("Evidence over time", note, ("until (UTC)", "horizon", *heads), rows)


def _evidence_cells(known: Evidence | None) -> list[str]:
    if known is None:
        return ["0", NONE, NONE]
    mean = NONE if known.mean is None else f"{1e4 * known.mean:+.1f}"
    return [f"{known.rows:,}", mean, NONE if known.t is None else f"{known.t:+.2f}"]


def _forward(own: stats.Series) -> Table:
    rows = []
    for source in stats.SOURCES:
        for label, name in enumerate(LABELS):
            cells = []
            for horizon, _ in stats.HORIZONS:
                found = stats.forward(own, source, label, horizon)
                known = found.mean is not None and found.t is not None
                cells.append(f"{1e4 * (found.mean or 0):+.1f} ({found.t:+.1f})" if known else NONE)
            rows.append((source, name, *cells))
    note = (
        "mean log return from the evaluation on, in basis points, and its HAC t-value in brackets "
        f"(the return's own sign); {NONE}: fewer than 200 evaluations"
    )
    columns = ("source", "label", *(name for _, name in stats.HORIZONS))
    return Table("Forward returns", note, columns, rows)


def _tiers(own: stats.Series) -> Table:
    rows = []
    for tier, name in TIERS:
        for sign, direction in ((0, RANGING), (-1, BEARISH), (1, BULLISH)):
            if (tier == 0) is (sign == 0):
                cells = [
                    _percent(stats.shares(own, x, (tier * sign,))[0], 2)
                    for x in (own.ungated, own.tier)
                ]
                rows.append((name, LABELS[direction] if tier else "", *cells))
    rows.append(("changes", "", *(f"{stats.changes(x):,}" for x in (own.ungated, own.tier))))
    columns = ("tier", "direction", "without the gate", "with the gate")
    return Table("Time per tier", "% of time, and changes of tier or direction", columns, rows)


def _holds(seen: Study, own: stats.Series) -> Table:
    total = len(own.time)
    rows = [(why, f"{n:,}", _percent(n / total)) for why, n in stats.holds(seen).items()]
    note = "evaluations at which the tier held was not the one by confidence, by the reason"
    return Table("What holds tiers", note, ("reason", "evaluations", "% of all"), rows)


def _fits(seen: Study) -> Table:
    rows = []
    for interval, trainings in stats.by_interval(seen).items():
        found = stats.fit(trainings)
        rows.append((
            frame(interval),
            str(found.trainings),
            f"{found.candles[0]:,} – {found.candles[1]:,}",
            str(found.starts),
            f"{found.iterations[0]:.0f} / {found.iterations[1]:.0f}",
            _percent(found.converged),
            f"{found.seconds[0]:.2f} / {found.seconds[1]:.2f}",
        ))  # fmt: skip
    note = f"trainings that gave no model: {len(seen.failures)}"
    if seen.failures:
        note += f" (the last: {seen.failures[-1]})"
    columns = (
        "models", "trainings", "candles", "starts", "iterations: median / most", "converged, %",
        "seconds: mean / most",
    )  # fmt: skip
    return Table("Trainings", note, columns, rows, is_told_empty=bool(seen.failures))
