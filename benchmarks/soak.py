"""The soak: `python -m benchmarks.soak`.

Real processes for 24 minutes: the daemon with `MODE=live`, a sandbox whose market is 60 times as
lively (a day of it), a PostgreSQL, and lines between them that are spoilt all the time. What runs
is in `soak_world.py`, what is measured in `soak_watch.py`; docs/STORM.md tells what it shows.
"""

if __name__ == "__main__":
    from sim.interrupt import end_at_once

    end_at_once("soak")

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.soak_watch import EVERY_SEC, Grown, Watch, draw, grown, too_large
from benchmarks.soak_world import CONDUCT_SEC, World, plan
from engine.progress import ProgressLine
from sim import interrupt
from sim.arguments import folder_name, number, whole
from tests.postgrest_shim import why_not

HOLDS, FAILED, USAGE = 0, 1, 2
MINUTES, SPEED = 24.0, 60.0
WARM_SEC, CALM_SEC = 120.0, 60.0  # shorter where the whole run is
TRADED = ("database_mb", "log_mb", "journal_rows")  # grow with what is traded
SAMPLES_MIN = 24  # of a short run


class Outcome(NamedTuple):
    """All that a soak has to tell; it holds where nothing is wrong."""

    minutes: float
    speed: float
    seed: int
    took_sec: float
    counts: dict[str, int]
    events: dict[str, int]
    faults: dict[str, dict[str, int]]  # by line
    flood: dict[str, int]
    lives: int
    samples: int
    online_pct: float  # samples in which the exchange was open to the daemon
    growth: list[Grown]
    wrongs: list[str]


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Run daemon, sandbox and PostgreSQL over spoilt lines for a while, measure "
        "what grows, and hold the books to the exchange's own file.",
    )
    add = parser.add_argument
    add("--minutes", type=number(0.75, 1440), default=MINUTES, help="of the wall (default 24)")
    add("--speed", type=number(1, 600), default=SPEED, help="how many times as lively the market "
        "is (default 60)")  # fmt: skip
    add("--seed", type=whole(0, 2**31 - 1), default=1, help="of market, faults and events (1)")
    add("--out", type=folder_name, metavar="FOLDER", help="where report, samples and all files go; "
        "made, and empty (default: a temporary one)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.out is not None and args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out}: is not empty")
    return args


def phases(seconds: float) -> tuple[float, float]:
    """Return how long a run warms up, and how long it goes on without faults, in seconds."""
    return min(WARM_SEC, seconds / 4), min(CALM_SEC, seconds / 8)


def soak(folder: Path, *, minutes: float, speed: float, seed: int) -> Outcome:
    """Run one soak; its files stay in `folder`."""
    began, seconds = time.monotonic(), minutes * 60
    warm, calm = phases(seconds)
    with ExitStack() as ends:
        world = World(folder, ends, seed=seed, speed=speed)
        world.start()
        every_sec = min(EVERY_SEC, seconds / SAMPLES_MIN)
        with Watch(world.daemon, folder / "samples.csv", every_sec) as watch:
            wrongs = _conduct(world, watch, warm=warm, end=seconds - calm, seed=seed)
            _wait(world, watch, seconds, wrongs)
            wrongs += [] if wrongs else world.settle()
            growth = grown(watch.samples, warm, watch.now())
        wrongs += too_large(growth)
        wrongs += [f"it halted: {x}" for x in watch.halts]
        if world.daemon.is_running:
            wrongs += world.end()
        counts = world.counts()
        draw(watch.samples, folder / "soak.svg")
        open_ = [x.exchange == "online" for x in watch.samples]
        return Outcome(
            minutes=minutes, speed=speed, seed=seed, took_sec=time.monotonic() - began,
            counts=counts, events=_sorted(world.befallen),
            faults={name: _sorted(line.drawn) for name, line in world.lines.items()},
            flood=_sorted(world.answered), lives=world.daemon.starts, samples=len(open_),
            online_pct=100.0 * sum(open_) / max(1, len(open_)), growth=growth, wrongs=wrongs,
        )  # fmt: skip


def _conduct(world: World, watch: Watch, *, warm: float, end: float, seed: int) -> list[str]:
    """Warm up, let the plan happen until `end`; return what is wrong."""
    line = ProgressLine(sys.stderr, start=0.0, end=end, enabled=True)
    wrongs: list[str] = []
    events = [(warm, ""), *plan(Random(f"{seed}/plan"), warm, end), (end, "")]
    for at, event in events:
        while watch.now() < at and not wrongs:
            line.show(watch.now(), f"{event or 'calm'} comes; {sum(world.befallen.values())} did")
            time.sleep(CONDUCT_SEC)
            wrongs += world.ended()
        if event and not wrongs:
            world.befall(event)
        elif not event:
            world.spoil() if at == warm else world.heal()
    line.end()
    return wrongs


def _wait(world: World, watch: Watch, until: float, wrongs: list[str]) -> None:
    """Let the market go on without faults."""
    while watch.now() < until and not wrongs:
        time.sleep(CONDUCT_SEC)
        wrongs += world.ended()


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {name or "none": counter[name] for name in sorted(counter)}


def report(told: Outcome) -> str:
    """Return the outcome as text."""
    hours, warm = told.minutes * told.speed / 60, phases(told.minutes * 60)[0]
    measured = hours - warm * told.speed / 3600
    lines = [
        f"{told.minutes:g} minutes of the wall and of the daemon's clock, {hours:.1f} hours of the "
        f"market ({told.speed:g} times as lively); seed {told.seed}; {told.took_sec:.0f} s in all",
        _row("traded", told.counts),
        _row("befell the processes", told.events) + f"; lives of the daemon: {told.lives}",
        *(_row(f"befell requests to the {name}", told.faults[name]) for name in told.faults),
        _row("floods were answered", told.flood),
        f"the exchange was open to the daemon in {told.online_pct:.0f} % of {told.samples} samples",
        f"{'':<14}{'after warm-up':>14}{'at the end':>14}{'allowed':>12}{'per market hour':>17}",
    ]
    for x in told.growth:
        most = "-" if x.most is None else f"{x.most:.1f}"
        rate = f"{(x.after - x.before) / measured:.3g}" if x.name in TRADED else ""
        lines.append(f"{x.name:<14}{x.before:>14.1f}{x.after:>14.1f}{most:>12}{rate:>17}")
    lines += [f"WRONG {x}" for x in told.wrongs]
    return "\n".join([*lines, f"wrong: {len(told.wrongs)}"])


def _row(title: str, counts: Mapping[str, int]) -> str:
    return f"{title}: " + ", ".join(f"{n:,} {name}" for name, n in counts.items())


def main(argv: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    args = arguments(argv)
    reason = why_not()
    if reason is not None:
        print(f"soak: {reason}", file=sys.stderr)
        return USAGE
    folder: Path = args.out or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    told = soak(folder, minutes=args.minutes, speed=args.speed, seed=args.seed)
    as_json: dict[str, Any] = told._asdict() | {"growth": [x._asdict() for x in told.growth]}
    (folder / "soak.json").write_text(json.dumps(as_json, indent=1))
    text = report(told)
    (folder / "soak.txt").write_text(text + "\n")
    print(f"{text}\nall files are in {folder}")
    return FAILED if told.wrongs else HOLDS


if __name__ == "__main__":
    interrupt.run("soak", main)
