"""What the regimes would have been on a recorded file: tables on the terminal, and one HTML page.

The daemon's own chain runs over the candles (`sim/regimes.py`) with the settings' defaults, both
timeframes and the evidence gate; nothing trades. The page needs no network and no other file.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from core.ports import ConfigError, MarketError
from engine.clock import monotonic
from engine.progress import ProgressLine
from market.pipeline import primary_interval, secondary_interval
from market.replay import ReplaySource
from sim.arguments import NAMES, assignment, date, number
from sim.regime_stats import series
from sim.regime_tables import frame, tables
from sim.regimes import Study, settings_of, study
from sim.tables import Picture, day, page, text
from tools import regime_plot

DAY_SEC = 86_400.0
DAYS_LEAST = 0.5
OUT = Path("regime_report.html")


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.regime_report",
        description="What the regimes would have been on a file of recorded candles or trades, "
        "with the defaults of all settings and the changes of --set; .env is not read.",
    )
    add = parser.add_argument
    add("file", type=Path, help=".csv, .csv.gz or .parquet, as for REPLAY_FILE")
    add("--out", type=Path, default=OUT, help=f"the page (default {OUT})")
    add("--no-page", action="store_true", help="tables only; matplotlib is not needed then")
    add("--days", type=number(DAYS_LEAST, 10_000), help="so many days only")
    add("--from", dest="start", metavar="DATE", type=date,
        help="begin there (UTC); what is before is the candles' history")  # fmt: skip
    add("--symbol", help="of a file with several")
    meaning = "a setting of the regimes, such as HMM_DEEP_DECAY_ENABLED=true; may be repeated"
    add("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE", help=meaning)
    return parser.parse_args(argv)


class _Refused(Exception):
    """The work cannot be done; the message says why."""


def made(args: argparse.Namespace) -> str:
    """Do the work; return the text. Raises ConfigError, MarketError, OSError, _Refused."""
    if not args.no_page and not regime_plot.is_available():
        raise _Refused(regime_plot.MISSING)
    if not args.no_page and not args.out.absolute().parent.is_dir():
        raise _Refused(f"--out {args.out}: there is no such folder")
    if not args.no_page and args.out.is_dir():
        raise _Refused(f"--out {args.out}: this is a folder; name a file")
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(dict(args.set), Path(folder))
        source = ReplaySource(args.file, symbol=args.symbol, start=args.start, names=NAMES)
        start, end = source.start_time(), source.end_time()
        if args.days is not None:
            end = min(end, start + args.days * DAY_SEC)
        if end - start < DAYS_LEAST * DAY_SEC:
            raise _Refused(f"{args.file} has less than {DAYS_LEAST * 24:g} h from {day(start)} on")
        progress = ProgressLine(sys.stderr, start=start, end=end, enabled=True, counted="trainings")
        began = monotonic()
        seen = study(settings, source, start=start, until=end, on_evaluation=progress.step)
        progress.end()
    own = series(seen)
    found = tables(seen, own, settings.params)
    head = _head(args, source, seen, (start, end), monotonic() - began)
    if not args.no_page:
        plot = regime_plot.svg(own, seen, settings.params)
        title = "Price, regimes, tiers and evidence"
        args.out.write_text(
            page(f"Regimes: {head['market']}", head, [Picture(title, plot), *found])
        )
        head["page"] = str(args.out)
    return text(head, found)


def _head(
    args: argparse.Namespace,
    source: ReplaySource,
    seen: Study,
    span: tuple[float, float],
    seconds: float,
) -> dict[str, str]:
    """Return what the report is about, name and text."""
    start, end = span
    second = secondary_interval(source)
    days = (end - start) / DAY_SEC
    return {
        "market": source.name,
        "from, to (UTC)": f"{day(start)}, {day(end)}: {days:.1f} days",
        "primary model": f"{frame(primary_interval(source))} candles",
        "secondary model": "none" if second is None else f"{frame(second)} candles",
        "evaluations": f"{len(seen.evaluations):,}",
        "settings changed": ", ".join(f"{n}={v}" for n, v in args.set) or "none",
        "took": f"{seconds:.0f} s, {seconds / days:.2f} s a day",
    }


def main(argv: list[str]) -> int:
    """Report on a file; return the exit code."""
    logging.basicConfig(level=logging.ERROR)  # warnings are about trading; failures are counted
    try:
        text = made(arguments(argv))
    except (ConfigError, MarketError, _Refused, OSError) as error:
        print(f"regime_report: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nregime_report: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
