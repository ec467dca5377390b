"""Search settings of the daemon on recorded data: `python -m sim.sweep DATA`.

Every trial is a backtest of the daemon itself. The last part of the data is kept from the search;
the winner and the defaults are run on it once the search is over, and the report says what luck
alone would have found. Nothing here decides how a backtest goes: see `sim/score.py`, and
`sim/trials.py` for the study.
"""

if __name__ == "__main__":  # what follows takes seconds
    from sim.interrupt import end_at_once

    end_at_once("sweep")

import argparse
import csv
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import msgspec

from core.ports import ConfigError, MarketError, StoreError, StoreInUse
from core.record import Record
from engine.clock import monotonic
from engine.progress import ProgressLine
from engine.version import simulation_version
from market.columns import ColumnSource
from sim import interrupt as ctrl_c
from sim.arguments import STUDY, assignment, changes, data_file, date, number, whole
from sim.recording import opened
from sim.score import DAY_SEC, DAYS_MIN, Score, backtest, settings_for
from sim.space import Space, check_set, read_space

try:
    import optuna

    from sim.ledger import Identity, data_id, parsed, tried
    from sim.sweep_report import LEDGER_COLUMNS, ledger_line, report
    from sim.trials import DONE, Trials
except ModuleNotFoundError as error:
    if error.name not in ("optuna", "sqlalchemy", "psycopg"):
        raise
    raise SystemExit(
        f"{error.name} is not installed; run: make sweep DATA=FILE, or "
        ".venv/bin/python -m pip install -r requirements-research.txt"
    ) from None

SEED_MAX = 2**32 - 1
SEARCHED_DAYS_MIN = 3
OK, NO_RESULT, USAGE, STORE, IN_USE = 0, 1, 2, 4, 5


class Plan(Record, frozen=True, kw_only=True):
    """What is to be done."""

    data: Path
    symbol: str | None
    start: float | None
    cut: float | None  # the search ends there; None: nothing is held out
    count: int
    settings: dict[str, str]
    space: Space
    identity: Identity


class Interrupt:
    """Ctrl-C: breaks off a backtest at once, anything else once it is done; a second breaks all."""

    def __init__(self) -> None:
        self.is_wanted = self._is_inside = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        """Take note of the signal."""
        if self._is_inside or self.is_wanted:
            self.is_wanted = True
            raise KeyboardInterrupt
        self.is_wanted = True

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let the signal break off what is done meanwhile."""
        self._is_inside = True
        try:
            yield
        finally:
            self._is_inside = False


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.sweep",
        description="Search settings of the daemon by backtests on recorded data. Everything else "
        "is at its default or by --set; .env is not read. docs/BACKTESTING.md says more.",
    )
    add = parser.add_argument
    add(
        "data", type=data_file, metavar="DATA", help=".csv, .csv.gz or .parquet, as for REPLAY_FILE"
    )
    add("--space", type=Path, metavar="FILE", help="TOML: settings with bounds (default built in)")
    add("--trials", type=whole(1, 1_000_000), default=100,
        help="of the whole study, by all processes together (default 100)")  # fmt: skip
    add("--study", default=str(STUDY), metavar="URL", help="postgresql://USER@HOST/DATABASE, which "
        "any number of processes may share, or a file (default data/sweeps.db)")  # fmt: skip
    add("--name", help="of the study (default: the data's file name)")
    add("--seed", type=whole(0, SEED_MAX), default=1, help="of the search (default 1)")
    add("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="of all trials, such as PAPER_PRESET=pessimistic; may be repeated")  # fmt: skip
    add("--from", dest="start", type=date, metavar="DATE", help="begin there (UTC); what is "
        "before is history for the models")  # fmt: skip
    add("--symbol", help="of a file with several")
    add("--holdout", type=number(0, 0.9), default=0.25, metavar="SHARE",
        help="of the time, at the end, that the search never sees (default 0.25)")  # fmt: skip
    add("--ledger", type=Path, metavar="FILE.csv", help="write all that was ever tried on these "
        "data, by any study there")  # fmt: skip
    args = parser.parse_args(argv)
    if args.ledger is not None and (
        args.ledger.is_dir() or not args.ledger.absolute().parent.is_dir()
    ):
        parser.error(f"--ledger {args.ledger}: must be a file in a folder that is there")
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    """Return what the arguments ask for. Raises ConfigError and MarketError."""
    space, settings = read_space(args.space), changes("--set", args.set)
    check_set(settings, space)
    _check_folder(args.study)
    source = opened(args.data, symbol=args.symbol, start=args.start)
    with tempfile.TemporaryDirectory() as folder:
        settings_for(source, settings, Path(folder))
    start, end = source.start_time(), source.end_time()
    cut = None if not args.holdout else (end - args.holdout * (end - start)) // DAY_SEC * DAY_SEC
    _check_days("searched", start, end if cut is None else cut, SEARCHED_DAYS_MIN)
    window = f"{_words(start)} to {_words(end)}"
    if cut is not None:
        _check_days("held-out", cut, end, DAYS_MIN)
        window = f"{_words(start)} to {_words(cut)}, held out to {_words(end)}"
    return Plan(
        data=args.data, symbol=args.symbol, start=args.start, cut=cut, count=args.trials,
        settings=settings, space=space,
        identity=Identity(
            data=data_id(source), window=window,
            code=simulation_version(), settings=settings, seed=args.seed,
            space=msgspec.json.decode(msgspec.json.encode(space)),  # as it will be read
        ),
    )  # fmt: skip


def _check_folder(study: str) -> None:
    """Raise ConfigError where a study's file would have no folder; make that of the default."""
    address = parsed(study)
    if study == str(STUDY):
        STUDY.parent.mkdir(exist_ok=True)
    elif address.get_backend_name() == "sqlite" and not (
        Path(str(address.database)).absolute().parent.is_dir()
    ):
        raise ConfigError([f"--study {study}: must be a file in a folder that is there"])


def _check_days(what: str, start: float, end: float, least: int) -> None:
    days = max(0, int(end // DAY_SEC + start // -DAY_SEC))
    if days < least:
        raise ConfigError([
            f"the {what} part has {days} whole UTC days, {_words(start)} to {_words(end)}; at "
            f"least {least} are needed: take more data or another --holdout"
        ])  # fmt: skip


def _words(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


class Ended(NamedTuple):
    """How the search of this process ended."""

    made: int  # trials that were finished here
    wall_sec: float
    is_interrupted: bool


def search(plan: Plan, trials: Trials, interrupt: Interrupt) -> Ended:
    """Make trials until the study has all. Raises MarketError and StoreError."""
    source = ColumnSource(plan.data, symbol=plan.symbol, start=plan.start, until=plan.cut)
    before, made, began = trials.count(DONE), 0, monotonic()
    progress = ProgressLine(sys.stderr, start=before, end=plan.count, enabled=True)

    def attempt(changes: Mapping[str, str]) -> Score:
        nonlocal made
        with interrupt.allowed():
            found = backtest(source, {**plan.settings, **changes})
        made += 1
        return found

    def shown(done: int) -> None:
        best = trials.best()
        text = "none was taken" if best is None else f"best {_a_day(best.value)} above holding"
        progress.show(done, f"{done} of {plan.count} trials, {text}")

    try:
        trials.run(plan.count, attempt, on_done=shown, is_stopped=lambda: interrupt.is_wanted)
    except KeyboardInterrupt:
        interrupt.is_wanted = True
    progress.end()
    return Ended(made, monotonic() - began, interrupt.is_wanted)


def _a_day(growth: float | None) -> str:
    return f"{100 * (growth or 0.0):+.4f} % a day"


def afterwards(plan: Plan, trials: Trials, winner: int, changes: Mapping[str, str]) -> None:
    """Run the winner and the defaults on what was held out, once for each winner."""
    if trials.held_out(winner) is not None:
        return
    searched = ColumnSource(plan.data, symbol=plan.symbol, start=plan.start, until=plan.cut)
    scores = {"defaults searched": backtest(searched, plan.settings)}
    if plan.cut is not None:
        held_out = ColumnSource(plan.data, symbol=plan.symbol, start=plan.cut)
        scores["winner held out"] = backtest(held_out, {**plan.settings, **changes})
        scores["defaults held out"] = backtest(held_out, plan.settings)
    trials.keep_held_out(winner, scores)


def write_ledger(path: Path, trials: Trials) -> int:
    """Write the ledger as CSV; return its number of rows. Raises OSError."""
    rows = trials.ledger()
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(LEDGER_COLUMNS)
        writer.writerows(ledger_line(row) for row in rows)
    return len(rows)


def main(argv: list[str]) -> int:
    """Search, and print what came out; return the exit code."""
    logging.basicConfig(level=logging.CRITICAL)  # what is below is about trading
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    args = arguments(argv)
    return _explained(lambda: _sweep(args))


def _explained(program: Callable[[], int]) -> int:
    """Run a program; what it may raise is told in words, and an exit code."""
    try:
        return program()
    except ConfigError as error:
        print("\n".join(f"sweep: {x}" for x in error.problems), file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nsweep: interrupted; what is done is kept", file=sys.stderr)
        return ctrl_c.INTERRUPTED
    except (MarketError, StoreError, OSError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        codes = ((StoreInUse, IN_USE), (StoreError, STORE), (MarketError, USAGE))
        return next((code for kind, code in codes if isinstance(error, kind)), NO_RESULT)


def _sweep(args: argparse.Namespace) -> int:
    plan = plan_of(args)
    name = args.name or args.data.name.split(".")[0]
    trials = Trials(args.study, name, plan.identity, plan.space)
    try:
        print(f"study {name} at {trials.shown}, {plan.identity.window}", flush=True)
        interrupt = Interrupt()
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            ended = search(plan, trials, interrupt)
        finally:
            signal.signal(signal.SIGINT, before)
        best = trials.best()
        if ended.is_interrupted:
            print(f"interrupted: {trials.count(DONE)} of {plan.count} trials are done and kept; "
                  "the same command goes on")  # fmt: skip
        elif best is None:
            print("no result: every trial was refused by the settings' checks; see --ledger")
        else:
            afterwards(plan, trials, best.number, tried(best))
            print(report(trials, best, made=ended.made, wall_sec=ended.wall_sec))
        if args.ledger is not None:
            print(f"\n{write_ledger(args.ledger, trials):,} rows written to {args.ledger}")
    finally:
        trials.close()
    if ended.is_interrupted:
        return ctrl_c.INTERRUPTED
    return OK if best is not None else NO_RESULT


if __name__ == "__main__":
    ctrl_c.run("sweep", main)
