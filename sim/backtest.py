"""What the daemon would have made of recorded data: `python -m sim.backtest DATA...`.

The daemon's own Runtime trades a paper exchange over the data, with your settings, under the
exchange's presets default and pessimistic; sizings are compared on its fills. It writes an offline
page, JSON and CSV for each file.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import config
from core.ports import ConfigError, MarketError, StoreError
from core.state import BotState
from engine.clock import cpu_seconds, monotonic
from engine.progress import ProgressLine
from engine.version import VERSION, code_version
from market.columns import ColumnSource
from settings.table import BY_NAME
from sim.arguments import assignment, date, whole
from sim.sweep import STUDY

if TYPE_CHECKING:
    from core.events import OpinionGiven
    from sim.cases import Case, Findings
    from sim.metrics import Trials

ROOT = Path(__file__).parent.parent
OUT = Path("backtest")
NEEDED = ("arch", "scipy", "matplotlib", "optuna")
MISSING = (
    "the comparison and its pictures need packages of research: make backtest DATA=FILE installs "
    "them, or: python -m pip install -r requirements-research.txt"
)
SHUFFLES = 200  # placebos, at least
USAGE, FAILED, INTERRUPTED = 2, 4, 130
# A backtest trades on paper, on its file, as fast as it can, and asks nobody.
FIXED = {
    "MODE": "paper", "MARKET_DATA": "replay", "REPLAY_SPEED": "max",
    "AI_REGIME_ADVISOR_ENABLED": "false", "DASHBOARD_HOST": "127.0.0.1",
}  # fmt: skip


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.backtest",
        description="What the daemon would have made of recorded candles or trades, with the "
        "settings of .env and the environment, and the changes of --set.",
    )
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="DATA", help=".csv, .csv.gz or .parquet")
    add("--out", type=Path, default=OUT, help=f"folder for the reports (default {OUT})")
    add("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE",
        help="a setting, such as SLOT_COUNT=3; may be repeated")  # fmt: skip
    add("--env", type=Path, metavar="FILE",
        help="settings to begin with (default .env of the project)")  # fmt: skip
    add("--defaults", action="store_true", help="begin with the defaults: no file, no environment")
    add("--from", dest="start", metavar="DATE", type=date,
        help="begin there (UTC); what is before is the candles' history")  # fmt: skip
    add("--symbol", help="of a file with several")
    add("--shuffles", type=whole(SHUFFLES, 10_000), default=SHUFFLES,
        help=f"placebos of each sizing (default {SHUFFLES})")  # fmt: skip
    add("--opinions", type=Path, metavar="DATABASE",
        help="tell the advisor's opinions that a bot's database has of that time; one more run for "
        "each preset follows them")  # fmt: skip
    add("--study", default=str(STUDY), metavar="URL", help="the sweeps whose trials on these data "
        "count for the deflated Sharpe ratio (default data/sweeps.db)")  # fmt: skip
    add("--no-stress", action="store_true", help="leave the stress table out")
    add("--no-skip", action="store_true", help="look at every bar; the result is the same")
    return parser.parse_args(argv)


def settings_of(args: argparse.Namespace, file: Path) -> config.Settings:
    """Return the daemon's settings for a backtest of `file`. Raises ConfigError."""
    own = {} if args.defaults else config.environment()
    given = dict(args.set)
    wrong = [f"{x}: a backtest has its own; it cannot be set" for x in given if x in FIXED]
    wrong += [f"{x}: there is no such setting; see docs/CONFIGURATION.md"
              for x in given if x not in BY_NAME]  # fmt: skip
    if args.env is not None and not args.env.is_file():
        wrong.append(f"--env {args.env}: there is no such file")
    if wrong:
        raise ConfigError(wrong)
    for name in ("REPLAY_FROM", "REPLAY_SYMBOL"):
        own.pop(name, None)
    env = {**own, **given, **FIXED, "REPLAY_FILE": str(file), "STATE_DB": str(file) + ".none"}
    return config.load(env, ROOT / ".none" if args.defaults else args.env or ROOT / ".env")


def backtest(args: argparse.Namespace, file: Path) -> str:
    """Run everything on one file and write its report; return what the terminal is told.

    Raises ConfigError, MarketError, StoreError, OSError.
    """
    from sim import report  # noqa: PLC0415 - heavy, and not needed to refuse
    from sim.ledger import attempts, data_id, read_ledger  # noqa: PLC0415
    from sim.opinions import advised, recorded  # noqa: PLC0415

    settings = settings_of(args, file)
    source = ColumnSource(file, symbol=args.symbol, start=args.start)
    if "://" not in args.study and args.study != str(STUDY) and not Path(args.study).is_file():
        raise ConfigError([f"--study {args.study}: there is no such file of sweeps"])
    tried = attempts(read_ledger(args.study, data_id(source)))
    told = None
    if args.opinions is not None:
        told = recorded(args.opinions, source.start_time(), source.end_time())
        settings = advised(settings)
    began, cpu = monotonic(), cpu_seconds()
    found = _run(args, settings, source, tried, () if told is None else told.opinions)
    folder = args.out / _stem(file)
    head = _head(settings, source, found.cases[0])
    if told is not None:
        head["opinions told again"] = (
            f"{len(told.opinions)}, from {args.opinions.name}; {told.left_out} lie outside the data"
        )
    head["took"] = f"{monotonic() - began:.1f} s, {cpu_seconds() - cpu:.1f} s of processor"
    report.write(folder, head, found)
    return report.short(head | {"report": str(folder / report.PAGE)}, found)


def _run(
    args: argparse.Namespace,
    settings: config.Settings,
    source: ColumnSource,
    tried: "Trials",
    opinions: "Sequence[OpinionGiven]",
) -> "Findings":
    """Run presets, opinions followed, stress and Kelly's own sizes, as far as each is wanted."""
    from sim import cases  # noqa: PLC0415

    runs = [(name, cases.own_matching(settings, name)) for name in cases.PRESETS]
    full = runs if settings.params.kelly_enabled else []
    if opinions:
        runs = runs + [(f"{name}{cases.FOLLOWED}", matching) for name, matching in runs]
    worse = [] if args.no_stress else list(cases.stressed(runs[0][1], settings.params))
    bar = _Bar(source, len(runs) + len(worse) + len(full))
    made, lived = [], []
    for name, matching in (*runs, *worse):
        made.append(
            cases.run_case(
                name, settings, source, matching, shuffles=args.shuffles,
                is_skipping=not args.no_skip, progress=bar.show, opinions=opinions,
                is_followed=name.endswith(cases.FOLLOWED),
            )
        )  # fmt: skip
        bar.next()
    for name, matching in full:
        lived.append(
            cases.run_full(
                name, settings, source, matching, is_skipping=not args.no_skip, progress=bar.show
            )
        )
        bar.next()
    bar.end()
    count = len(runs)
    return cases.Findings(tuple(made[:count]), tuple(made[count:]), tuple(lived), tried)


def _head(settings: config.Settings, source: ColumnSource, case: "Case") -> dict[str, str]:
    """Return what the report is about."""
    from sim.report_words import days_words, spacing_words  # noqa: PLC0415

    start, end = source.start_time(), source.end_time()
    own = {*FIXED, "REPLAY_FILE", "STATE_DB"}
    changed = [
        f"{x.name}={x.value}"
        for x in settings.effective
        if x.source != "default" and x.name not in own
    ]
    return {
        "data": source.name,
        "from, to (UTC)": f"{_day(start)}, {_day(end)}: {(end - start) / 86_400:.1f} days",
        "bars": f"{source.describe()}; content {source.fingerprint}",
        "days that count": days_words(case.observed.coverage),
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
    stems = [_stem(x) for x in args.files]
    if len(set(stems)) < len(stems):
        print("backtest: two files of one name would have one report: give them one by one, each "
              "with its own --out", file=sys.stderr)  # fmt: skip
        return USAGE
    try:
        for file in args.files:
            print(backtest(args, file), end="\n\n")
    except (ConfigError, MarketError) as error:
        print(f"backtest: {error}", file=sys.stderr)
        return USAGE
    except (StoreError, OSError) as error:
        print(f"backtest: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nbacktest: interrupted; reports of files before this one are written",
              file=sys.stderr)  # fmt: skip
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
