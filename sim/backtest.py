"""What the daemon would have made of recorded data: `python -m sim.backtest DATA...`.

The daemon's own Runtime trades a paper exchange over the data, with your settings, under the
exchange's presets default and pessimistic; sizings are compared on its fills. It writes an offline
page, JSON and CSV for each file.
"""

if __name__ == "__main__":  # what follows takes a while
    from sim.interrupt import end_at_once

    end_at_once("backtest")

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import config
from core.ports import ConfigError, MarketError, StoreError
from core.record import replace
from core.state import BotState
from engine.clock import cpu_seconds, monotonic
from engine.progress import ProgressLine
from engine.version import VERSION, code_version
from market.columns import ColumnSource
from settings.table import BY_NAME
from settings.variable import value_of
from sim import interrupt
from sim.arguments import STUDY, assignment, changes, data_file, date, folder_name, whole
from sim.recording import opened

if TYPE_CHECKING:
    from exchange.matching import MatchingConfig
    from sim.cases import Case, Findings, Full
    from sim.metrics import Trials
    from sim.opinions import Told

ROOT = Path(__file__).parent.parent
OUT = Path("backtest")
NEEDED = ("arch", "scipy", "matplotlib", "optuna")
MISSING = (
    "the comparison and its pictures need packages of research: make backtest DATA=FILE installs "
    "them, or: python -m pip install -r requirements-research.txt"
)
SHUFFLES, SHUFFLES_MAX = 200, 10_000  # placebos
USAGE, FAILED = 2, 4
# A backtest trades on paper, on its file, as fast as it can, and asks nobody.
FIXED = {
    "MODE": "paper", "MARKET_DATA": "replay", "REPLAY_SPEED": "max",
    "AI_REGIME_ADVISOR_ENABLED": "false", "DASHBOARD_HOST": "127.0.0.1",
}  # fmt: skip
OWN = (*FIXED, "REPLAY_FILE", "STATE_DB")
GIVEN = {"REPLAY_FILE": "DATA", "REPLAY_FROM": "--from", "REPLAY_SYMBOL": "--symbol"}


class Question(NamedTuple):
    """A file and what is asked of it; whatever can be refused has been."""

    source: ColumnSource
    settings: config.Settings
    other: config.Settings | None  # of --against
    tried: "Trials"
    told: "Told | None"  # of --opinions
    folder: Path  # of the report


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.backtest",
        description="What the daemon would have made of recorded candles or trades, with the "
        "settings of .env and the environment, and the changes of --set.",
    )
    add = parser.add_argument
    add("files", type=data_file, nargs="+", metavar="DATA", help=".csv, .csv.gz or .parquet")
    add("--out", type=folder_name, default=OUT, help=f"folder for the reports (default {OUT})")
    add("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="a setting, such as SLOT_COUNT=3; may be repeated")  # fmt: skip
    add("--against", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="would a setting have helped? one more run for each preset has this value instead, "
        "and the two are compared; may be repeated: one run with all of them")  # fmt: skip
    add("--env", type=Path, metavar="FILE",
        help="settings to begin with (default .env of the project)")  # fmt: skip
    add("--defaults", action="store_true", help="begin with the defaults: no file, no environment")
    add("--from", dest="start", metavar="DATE", type=date,
        help="begin there (UTC); what is before is the candles' history")  # fmt: skip
    add("--symbol", help="of a file with several")
    add("--shuffles", type=whole(SHUFFLES, SHUFFLES_MAX), default=SHUFFLES,
        help=f"placebos of each sizing, {SHUFFLES} to {SHUFFLES_MAX:,} "
        f"(default {SHUFFLES})")  # fmt: skip
    add("--opinions", type=Path, metavar="DATABASE",
        help="tell the advisor's opinions that a bot's database has of that time; one more run for "
        "each preset follows them")  # fmt: skip
    add("--study", default=str(STUDY), metavar="URL", help="the sweeps whose trials on these data "
        "count for the deflated Sharpe ratio (default data/sweeps.db)")  # fmt: skip
    add("--no-stress", action="store_true", help="leave the stress table out")
    add("--no-skip", action="store_true", help="look at every bar; the result is the same")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace, file: Path, given: Mapping[str, str]) -> config.Settings:
    """Return the daemon's settings for a backtest of `file`. Raises ConfigError."""
    own = {} if args.defaults else config.environment()
    wrong = [f"{name}: {why}" for name in given for why in _refused(name)]
    if args.env is not None and not args.env.is_file():
        wrong.append(f"--env {args.env}: there is no such file")
    if wrong:
        raise ConfigError(wrong)
    for name in ("REPLAY_FROM", "REPLAY_SYMBOL"):
        own.pop(name, None)
    env = {**own, **given, **FIXED, "REPLAY_FILE": str(file), "STATE_DB": str(file) + ".none"}
    return config.load(env, ROOT / ".none" if args.defaults else args.env or ROOT / ".env")


def _refused(name: str) -> Iterator[str]:
    """Yield why a setting cannot be given to a backtest."""
    if name in GIVEN:
        yield f"use {GIVEN[name]}"
    elif name in OWN:
        yield "a backtest has its own; it cannot be set"
    elif name == "PAPER_PRESET":
        yield "a backtest runs under default and under pessimistic; it cannot be set"
    elif name in BY_NAME and BY_NAME[name].is_secret:
        yield "a secret changes nothing in a backtest"
    elif name not in BY_NAME:
        yield "there is no such setting; see docs/CONFIGURATION.md"


def _other(
    args: argparse.Namespace, file: Path, settings: config.Settings
) -> config.Settings | None:
    """Return the settings to be compared with. Raises ConfigError where there is no difference."""
    against = changes("--against", args.against)
    if not against:
        return None
    other = settings_of(args, file, changes("--set", args.set) | against)
    values, others = _values(settings), _values(other)
    is_same = replace(settings, effective=()) == replace(other, effective=())
    alike = [
        f"--against {name}={against[name]}: {values[name] or 'unset'} is already the value: "
        "nothing to compare"
        for name in against
        if is_same or _value(name, values[name]) == _value(name, others[name])
    ]
    if alike:
        raise ConfigError(alike)
    return other


def _values(settings: config.Settings) -> dict[str, str]:
    return {x.name: x.value for x in settings.effective}


def _value(name: str, text: str) -> object:
    return value_of(BY_NAME[name], text, ROOT)


def asked(args: argparse.Namespace, file: Path) -> Question:
    """Return what is asked of a file. Raises ConfigError, MarketError, StoreError."""
    source = opened(file, symbol=args.symbol, start=args.start)
    settings = settings_of(args, file, changes("--set", args.set))
    other = _other(args, file, settings)
    from sim.ledger import attempts, data_id, read_ledger  # noqa: PLC0415 - takes seconds
    from sim.opinions import advised, recorded  # noqa: PLC0415

    if "://" not in args.study and args.study != str(STUDY) and not Path(args.study).is_file():
        raise ConfigError([f"--study {args.study}: there is no such file of sweeps"])
    tried = attempts(read_ledger(args.study, data_id(source)))
    told = None
    if args.opinions is not None:
        settings = advised(settings)
        told = recorded(args.opinions, source.start_time(), source.end_time())
    known = {
        "data": source.fingerprint, "symbol": args.symbol, "settings": _asked(settings),
        "against": other and _asked(other), "shuffles": args.shuffles, "study": args.study,
        "stress": not args.no_stress, "opinions": repr(told),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return Question(source, settings, other, tried, told, args.out / f"{_stem(file)}-{digest[:8]}")


def _asked(settings: config.Settings) -> dict[str, str]:
    return {name: text for name, text in _values(settings).items() if name not in OWN}


def backtest(args: argparse.Namespace, question: Question) -> str:
    """Run everything on one file and write its report; return what the terminal is told.

    Raises MarketError, StoreError.
    """
    from sim import report  # noqa: PLC0415 - heavy, and not needed to refuse

    began, cpu = monotonic(), cpu_seconds()
    found = _run(args, question)
    told, folder = question.told, question.folder
    head = _head(question.settings, question.source, found.cases[0])
    if told is not None:
        head["opinions told again"] = (
            f"{len(told.opinions)}, from {args.opinions.name}; {told.left_out} lie outside the data"
        )
    head["took"] = f"{monotonic() - began:.1f} s, {cpu_seconds() - cpu:.1f} s of processor"
    try:
        report.write(folder, head, found)
    except OSError as error:
        raise _unwritable(args, folder, error) from None
    return report.short(head | {"report": str(folder / report.PAGE)}, found)


def _check_out(args: argparse.Namespace, folder: Path) -> None:
    """Make the folder for the reports, and try it. Raises StoreError."""
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder if folder.exists() else args.out):
            pass
    except OSError as error:
        raise _unwritable(args, folder, error) from None


def _unwritable(args: argparse.Namespace, folder: Path, error: OSError) -> StoreError:
    where = error.filename or folder
    return StoreError(f"--out {args.out}: {where} cannot be written: {error.strerror or error}")


def _run(args: argparse.Namespace, question: Question) -> "Findings":
    """Run presets, opinions followed, stress, Kelly's own sizes and what is held against these."""
    from sim import cases  # noqa: PLC0415

    settings, source, is_skipping = question.settings, question.source, not args.no_skip
    opinions = () if question.told is None else question.told.opinions
    presets = [(name, cases.own_matching(settings, name)) for name in cases.PRESETS]
    runs = presets
    if opinions:
        runs = runs + [(f"{name}{cases.FOLLOWED}", matching) for name, matching in runs]
    worse = [] if args.no_stress else list(cases.stressed(runs[0][1], settings.params))
    full = [(name, settings, x) for name, x in presets if settings.params.kelly_enabled]
    others = list(_others(args, question))
    bar = _Bar(source, len(runs) + len(worse) + len(full) + len(others))
    made, lived = [], []
    for name, matching in (*runs, *worse):
        made.append(
            cases.run_case(
                name, settings, source, matching, shuffles=args.shuffles, is_skipping=is_skipping,
                progress=bar.show, opinions=opinions, is_followed=name.endswith(cases.FOLLOWED),
            )
        )  # fmt: skip
        bar.next()
    for name, chosen, matching in (*full, *others):
        lived.append(
            cases.run_full(
                name, chosen, source, matching, is_skipping=is_skipping, progress=bar.show
            )
        )
        bar.next()
    bar.end()
    as_set, other = lived[: len(full)], lived[len(full) :]
    own: Sequence[Case | Full] = as_set if as_set and _is_of_kelly(args) else made
    return cases.Findings(
        cases=tuple(made[: len(runs)]), stressed=tuple(made[len(runs) :]), full=tuple(as_set),
        tried=question.tried,
        against=tuple(
            cases.Against(_differing(question, args.against), x, y)
            for x, y in zip(own[: len(other)], other, strict=True)
        ),
    )  # fmt: skip


def _others(
    args: argparse.Namespace, question: Question
) -> "Iterator[tuple[str, config.Settings, MatchingConfig]]":
    """Yield the runs that the settings are held against: as they are set, if they are Kelly's."""
    from sim import cases  # noqa: PLC0415

    other = question.other
    if other is None:
        return
    if not _is_of_kelly(args):
        other = cases.with_kelly(other, is_on=False)
    for name in cases.PRESETS:
        yield name, other, cases.own_matching(other, name)


def _is_of_kelly(args: argparse.Namespace) -> bool:
    return any(name.startswith("KELLY_") for name, _ in (*args.set, *args.against))


def _differing(
    question: Question, against: Iterable[tuple[str, str]]
) -> dict[str, tuple[str, str]]:
    """Return what stands on either side, by name; secrets are hidden there."""
    sides = [_values(x) for x in (question.settings, question.other) if x is not None]
    return {name: (sides[0][name], sides[-1][name]) for name, _ in against}


def _head(settings: config.Settings, source: ColumnSource, case: "Case") -> dict[str, str]:
    """Return what the report is about."""
    from sim.report_words import days_words, spacing_words  # noqa: PLC0415

    start, end = source.start_time(), source.end_time()
    length = case.observed.fills.elapsed_days
    changed = [
        f"{x.name}={x.value}"
        for x in settings.effective
        if x.source != "default" and x.name not in OWN
    ]
    return {
        "data": source.name,
        "from, to (UTC)": f"{_day(start)}, {_day(end)}: {length:.1f} days",
        "bars": f"{source.describe()}; content {source.fingerprint}",
        "days that count": days_words(case.observed.coverage, len(case.observed.fills.whole_days)),
        "spacing": spacing_words(case.spacing, source),
        "settings that are not defaults": ", ".join(changed) or "none",
        "seed": str(settings.seed),
        "program": f"{VERSION}, code {code_version()}",
        "what it is not": "a promise: past fills on one market, by rules for fills that are "
        "careful but not the market's own; see docs/BACKTESTING.md",
    }


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").rsplit(".", 1)[0]


class _Bar:
    """One progress line over several runs."""

    def __init__(self, source: ColumnSource, runs: int) -> None:
        self._begin, self._span = source.start_time(), source.end_time() - source.start_time()
        self._runs, self._done = runs, 0
        self._line = ProgressLine(sys.stderr, start=0.0, end=float(runs), enabled=True)

    def show(self, name: str, state: BotState) -> None:
        """Show how far the run `name` has come."""
        share = (state.now - self._begin) / self._span
        text = f"{name}, {state.counters.get('cycles', 0)} cycles"
        self._line.show(self._done + min(1.0, max(0.0, share)), text)

    def next(self) -> None:
        """One run is done."""
        self._done += 1

    def end(self) -> None:
        """Leave the line behind."""
        self._line.end()


def main(argv: list[str]) -> int:
    """Backtest each file; return the exit code."""
    args = arguments(argv)
    logging.basicConfig(level=logging.CRITICAL)  # what the bot would tell stands in the report
    if any(find_spec(x) is None for x in NEEDED):
        print(f"backtest: {MISSING}", file=sys.stderr)
        return USAGE
    done = 0
    try:
        questions = _questions(args)
        while questions:
            print(backtest(args, questions.pop(0)), end="\n\n", flush=True)
            done += 1
    except (ConfigError, MarketError) as error:
        print(f"backtest: {error}", file=sys.stderr)
        return USAGE
    except StoreError as error:
        print(f"backtest: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        kept = f"{done} of {len(args.files)} reports are written" if done else "nothing is written"
        print(f"\nbacktest: interrupted; {kept}", file=sys.stderr)
        return interrupt.INTERRUPTED
    return 0


def _questions(args: argparse.Namespace) -> list[Question]:
    """Return what is asked of each file. Raises ConfigError, MarketError, StoreError."""
    questions = [asked(args, file) for file in args.files]
    folders = [x.folder for x in questions]
    twice = {x.source.path.name for x in questions if folders.count(x.folder) > 1}
    if twice:
        raise ConfigError([f"DATA: {name} is given twice" for name in sorted(twice)])
    for folder in folders:
        _check_out(args, folder)
    warnings = [text for x in questions for text in x.settings.warnings]
    for text in dict.fromkeys(warnings):
        print(f"backtest: warning: {text}", file=sys.stderr)
    return questions


if __name__ == "__main__":
    interrupt.run("backtest", main)
