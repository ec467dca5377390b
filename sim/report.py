"""The report of a backtest: text for the terminal, one offline page, JSON and CSV."""

import csv
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from core.domain import Instrument
from core.record import plain
from sim import against, report_plot, report_tables
from sim.cases import Case, Findings, Full
from sim.metrics import Trials
from sim.observed import COARSE
from sim.report_words import WORDS, headline
from sim.tables import Picture, Table, page, text

PAGE, DATA, DAYS, CYCLES = "report.html", "report.json", "days.csv", "cycles.csv"


def tables(found: Findings) -> list[Table]:
    """Return all tables: what was asked and the verdicts first, then presets side by side."""
    cases = found.cases
    made = [against.table(x) for x in found.against]
    made += [report_tables.verdicts(x) for x in cases]
    made += [report_tables.performance(x) for x in cases]
    made.append(report_tables.through_exchange(cases, found.full))
    made += [report_tables.sizes(x) for x in cases]
    if found.stressed:
        made.append(report_tables.stress([cases[0], *found.stressed]))
    made.append(report_tables.opinions(cases))
    made += [report_tables.evidence(x, found.tried) for x in cases]
    made += [report_tables.worst_cells(x) for x in cases]
    made += [report_tables.entries_by_regime(x) for x in cases]
    made += [report_tables.losers(x) for x in cases]
    made.append(report_tables.diagnostics(cases))
    return _told(made, cases[0])


def short(head: Mapping[str, str], found: Findings) -> str:
    """Return what a terminal is told; the rest stands on the page."""
    cases = found.cases
    made = [against.table(x) for x in found.against]
    made += [report_tables.verdicts(x) for x in cases]
    made += [report_tables.performance(x) for x in cases]
    made.append(report_tables.through_exchange(cases, found.full))
    if found.stressed:
        made.append(report_tables.stress([cases[0], *found.stressed]))
    made.append(report_tables.opinions(cases))
    return text(head, _told(made, cases[0]), lead(found))


def lead(found: Findings) -> list[str]:
    """Return what came out in plain sentences, what was asked first."""
    return [*map(against.sentence, found.against), *headline(found)]


def _told(made: list[Table], case: Case) -> list[Table]:
    """Return the tables that say something, marked where the data are too coarse for them."""
    return [x._replace(title=_marked(x.title, case)) for x in made if x.rows or x.is_told_empty]


def _marked(title: str, case: Case) -> str:
    is_coarse = case.spacing is not None and case.spacing.word == COARSE
    return f"{title} ({COARSE})" if is_coarse else title


def write(folder: Path, head: Mapping[str, str], found: Findings) -> None:
    """Write page, JSON and CSV into `folder`, which is made. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    cases, made = found.cases, tables(found)
    first = len(found.against) + len(cases)
    parts: list[Table | Picture] = [*made[:first]]
    for case in cases:
        drawn = report_plot.pictures(case)
        parts += [x._replace(title=_marked(x.title, cases[0])) for x in drawn]
    parts += made[first:]
    data = {
        "headline": lead(found),
        "head": dict(head),
        "trials": found.tried.to_dict(),
        "cases": [_case(x, found.tried) for x in (*cases, *found.stressed)],
        "full": [_full(x) for x in found.full],
        "against": [against.to_dict(x) for x in found.against],
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as name:  # all four, or none
        new = Path(name)
        (new / PAGE).write_text(
            page(f"Backtest: {head['data']}", head, parts, lead=lead(found), words=WORDS),
            encoding="utf-8",
        )
        (new / DATA).write_text(
            json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        _write_days(new / DAYS, cases)
        _write_cycles(new / CYCLES, cases)
        with _alone(folder):  # another run may ask the same
            for file in (DAYS, CYCLES, DATA, PAGE):
                (new / file).replace(folder / file)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes of this program waiting that would write there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _full(run: Full) -> dict[str, Any]:
    """Return a run through the exchange as JSON values."""
    return {
        "name": run.name,
        "mode": run.mode,
        "canonical_sha256": run.digest,
        "figures": report_tables.figures(
            run.observed, report_tables.liquidated(run.observed)
        ).to_dict(),
        "diagnostics": run.observed.diagnostics._asdict(),
        "counters": run.observed.counters,
        "cpu_sec": round(run.cpu_sec, 3),
    }


def _case(case: Case, tried: Trials) -> dict[str, Any]:
    """Return a case as JSON values."""
    return {
        "name": case.name,
        "matching": case.matching.to_dict(),
        "canonical_sha256": case.digest,
        "spacing": None if case.spacing is None else case.spacing._asdict(),
        "arms": [
            {
                "name": arm.name,
                "figures": report_tables.figures(case.observed, arm.equity).to_dict(),
                "above_holding": report_tables.above_holding(case, arm, tried).to_dict(),
                "cycles": arm.cycles.to_dict(),
                **{
                    name: getattr(arm, name)
                    for name in ("mean_notional", "exposure", "long_mean", "long_max", "turnover",
                                 "fees", "at_bounds", "cut")
                },
            }
            for arm in report_tables.arms(case)
        ],
        "verdicts": [x.to_dict() for x in case.verdicts],
        "opinions": None
        if case.advised is None
        else case.advised._asdict() | {"score": case.advised.score.to_dict()},
        "diagnostics": case.observed.diagnostics._asdict(),
        "drawdown_max_hourly": case.observed.deepest,
        "counters": case.observed.counters,
        "cpu_sec": round(case.cpu_sec, 3),
    }  # fmt: skip


def _write_days(file: Path, cases: Sequence[Case]) -> None:
    """Write the daily equity of every arm, at liquidation."""
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(("case", "arm", "time_utc", "equity_usd", "bid"))
        for case in cases:
            fills = case.observed.fills
            curves = [(x.name, x.equity) for x in report_tables.arms(case)]
            for name, equity in [*curves, ("holding the start", report_tables.holding(case))]:
                for at, value, bid in zip(fills.mark_times, equity, fills.bids, strict=True):
                    rows.writerow((case.name, name, _time(at), f"{value:.8f}", f"{bid:.8f}"))


def _write_cycles(file: Path, cases: Sequence[Case]) -> None:
    """Write every cycle with the multipliers that each sizing would have given it."""
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        tested = [x.arm.name for x in cases[0].comparison.tested]
        rows.writerow((
            "case", "slot", "leg", "entry_time_utc", "exit_time_utc", "entry_price", "exit_price",
            "volume", "entry_fee", "exit_fee", "net_profit", "regime_at_entry",
            *(f"multiplier: {x}" for x in tested),
        ))  # fmt: skip
        for case in cases:
            given = np.array([x.arm.multipliers for x in case.comparison.tested])
            for n, x in enumerate(case.observed.fills.cycles):
                rows.writerow((
                    case.name, x.slot_id, x.leg, _time(x.entry_time), _time(x.exit_time),
                    _price(x.entry_price), _price(x.exit_price), x.volume,
                    x.entry_fee, x.exit_fee, x.net_profit,
                    "" if x.regime_at_entry is None else x.regime_at_entry,
                    *(f"{m:.6f}" for m in given[:, n]),
                ))  # fmt: skip


def _price(value: float) -> str:
    """Return a price on the tick grid: one of several executions is a mean, and rounded."""
    return plain(Decimal(value).quantize(Instrument().tick_size))


def _time(value: float) -> str:
    at = datetime.fromtimestamp(value, UTC)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
