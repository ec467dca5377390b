"""`python -m benchmarks.peers`: one grid over the same candles, here and in other backtesters.

Each engine runs in an environment of its own, made by `--install`, as a process of its own that
prints one line of JSON (`peers_grid.measure`). The table is written to docs/BENCHMARKS.md.
"""

import argparse
import csv
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.peers_engines import BY_NAME, ENGINES, OURS, Engine
from benchmarks.peers_grid import GRID

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "market" / "binance_dogeusdt_1m_20230316_20230501.csv.gz"
DOCUMENT = ROOT / "docs" / "BENCHMARKS.md"
ENVIRONMENTS = Path.home() / ".cache" / "grid-daemon" / "peers"
PATIENCE_SEC = 1_800
MINUTE, DAY_MINUTES = 60, 1_440
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1"
)


class Measured(NamedTuple):
    """One run, or the medians of some; seconds are CPU seconds."""

    version: str
    load_sec: float
    run_sec: float
    rss_mb: float
    bars: int
    fills: int
    cycles: int
    ratios: tuple[float, ...] = ()  # its run over ours, turn by turn, in ascending order


Results = dict[str, Measured | str]  # by the engine's name; a text says why it was not measured


# ---- environments and runs ----------------------------------------------------------------------


def python_of(engine: Engine, environments: Path) -> Path:
    """Return the interpreter that an engine runs with."""
    if not engine.pins:
        return Path(sys.executable)
    return environments / engine.name / "bin" / "python"


def install(engine: Engine, environments: Path) -> None:
    """Make the environment of an engine. Raises CalledProcessError."""
    folder = environments / engine.name
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(python_of(engine, environments))
    subprocess.run([python, "-m", "pip", "install", "--quiet", *engine.pins], check=True)


def missing(engine: Engine, environments: Path) -> str | None:
    """Return how to install an engine that is not, else None."""
    if python_of(engine, environments).exists():
        return None
    return f"not installed; `python -m benchmarks.peers --install {engine.name}`"


def run_once(engine: Engine, python: Path, data: Path) -> Measured | str:
    """Run an engine once in its environment; return what it took, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [str(python), "-m", f"benchmarks.peers_{engine.name}", str(data)],
                cwd=ROOT, env=os.environ | ONE_THREAD | {"TMPDIR": folder}, text=True,
                capture_output=True, timeout=PATIENCE_SEC, check=True,
            )  # fmt: skip
            return Measured(**json.loads(done.stdout.splitlines()[-1]))
        except subprocess.TimeoutExpired:
            return f"not done after {PATIENCE_SEC} s"
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            return f"failed with code {error.returncode}"


def medians(runs: list[Measured], ours: list[Measured]) -> Measured:
    """Return the medians of some runs, and how each compares with ours of the same turn."""

    def middle(name: str) -> float:
        return median(getattr(x, name) for x in runs)

    return runs[0]._replace(
        **{x: middle(x) for x in ("load_sec", "run_sec", "rss_mb")},
        ratios=tuple(sorted(x.run_sec / y.run_sec for x, y in zip(runs, ours, strict=False))),
    )


def measure_all(engines: list[Engine], data: Path, *, environments: Path, repeats: int) -> Results:
    """Run each engine as often as asked, in turns, so that a busy minute hits all alike."""
    results: Results = {}
    runs: dict[str, list[Measured]] = {}
    for _ in range(repeats):
        for engine in engines:
            if engine.name in results:
                continue
            found = missing(engine, environments) or run_once(
                engine, python_of(engine, environments), data
            )
            if isinstance(found, str):
                results[engine.name] = found
                print(f"{engine.name}: {found}", flush=True)
            else:
                runs.setdefault(engine.name, []).append(found)
                print(f"{engine.name}: load {found.load_sec:.2f} s, run {found.run_sec:.4f} s, "
                      f"{found.fills} fills, {found.cycles} cycles", flush=True)  # fmt: skip
    ours = runs.get(OURS.name, [])
    return results | {x: medians(y, ours) for x, y in runs.items() if x not in results}


# ---- data ---------------------------------------------------------------------------------------


def lengthened(path: Path, bars: int, folder: Path) -> Path:
    """Write a market of so many bars: a part of `path`, or `path` repeated.

    Every second time it runs backwards, so that the price never jumps.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="") as file:  # type: ignore[operator]  # two functions
        head, *rows = csv.reader(file)
    first, last = int(rows[0][0]), int(rows[-1][0])
    made, start, is_forward = folder / "candles.csv", first, True
    with made.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        while bars > 0:
            for time, open_, high, low, close, *rest in (rows if is_forward else rows[::-1])[:bars]:
                if is_forward:
                    writer.writerow([start + int(time) - first, open_, high, low, close, *rest])
                else:
                    writer.writerow([start + last - int(time), close, high, low, open_, *rest])
            bars -= len(rows)
            start, is_forward = start + last - first + MINUTE, not is_forward
    return made


# ---- the document -------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Return the figures as a table, in the order of the engines."""
    lines = [
        "| engine | version | load, CPU s | run, CPU s | bars per CPU s | run, ratio to ours "
        "| least – most | peak RSS, MB | fills | cycles |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for engine in ENGINES:
        found = results.get(engine.name)
        if isinstance(found, str):
            lines.append(f"| {engine.label} | | not measured: {found} | | | | | | | |")
        elif found is not None:
            ratios = list(map(_plain, (median(found.ratios), found.ratios[0], found.ratios[-1]))
                          if found.ratios else ("", "", ""))  # fmt: skip
            lines.append(
                f"| {engine.label} | {found.version or 'this tree'} | {found.load_sec:.1f} "
                f"| {_plain(found.run_sec)} | {_round(found.bars / found.run_sec)} | {ratios[0]} "
                f"| {ratios[1]} – {ratios[2]} | {found.rss_mb:.0f} | {found.fills} "
                f"| {found.cycles} |"
            )
    return "\n".join(lines)


def _plain(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _round(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}"


def verdict(results: Results) -> str:
    """Return in words whom ours is slower than in every turn, and whom it is faster than."""
    slower, faster, alike = [], [], []
    for engine in ENGINES:
        found = results.get(engine.name)
        if engine is OURS or not isinstance(found, Measured) or not found.ratios:
            continue
        ratio = median(found.ratios)
        if found.ratios[-1] < 1:
            slower.append(f"{engine.label} ({_times(1 / ratio)})")
        elif found.ratios[0] > 1:
            faster.append(f"{engine.label} ({_times(ratio)})")
        else:
            alike.append(engine.label)
    told = (
        f"**Ours is slower than** {', '.join(slower) or 'none of them'}. "
        f"It is faster than {', '.join(faster) or 'none of them'}."
    )
    return f"{told} Now one, now the other: {', '.join(alike)}." if alike else told


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f} times"


def document(results: Results, *, data: str, repeats: int, day: str, load: str) -> str:
    """Return the whole page."""
    told = "\n".join(f"| {x.label} | {x.does} | {x.leaves_out} |"
                     for x in ENGINES if x.name in results)  # fmt: skip
    return f"""# Benchmarks against other backtesters

Written by `python -m benchmarks.peers` on {day}; `--install NAME` makes an engine's environment,
with the versions of `benchmarks/peers_engines.py`.

Data: {data}.
Machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.
Medians of {repeats} runs, each a process of its own with one thread, in turns, in one session.
Load average meanwhile: {load}; where it is above the number of cores, CPU seconds are inflated,
unevenly, and ratios near 1 say little.

*Load, CPU s* is all CPU time before the run: interpreter, imports, candles, compiling. Peak memory
is that of the whole process. A ratio is that of two runs of the same turn; the median stands first.

The grid: one order on each side at a time, {GRID.size} DOGE; entries {GRID.entry:.1%} from the
close, exits {GRID.profit:.1%} from the entry, an entry {GRID.refresh:.1%} away is placed anew;
maker fee {GRID.maker_fee:.1%}. An order lives from the bar after the one it was made from. Exits
wait as long as it takes, so that most bars fill nothing: what is measured is the cost of a bar, not
of an order, and that suits what skips quiet bars (ours, the lean loop).

{table(results)}

{verdict(results)}

Counts of fills and cycles show how far the engines did the same; why they may differ stands on
the right. What does less per bar is faster, and for trying many parameters it is the right tool;
here what is tested is what trades.

| engine | does | leaves out, or does otherwise |
|---|---|---|
{told}
"""


# ---- the program --------------------------------------------------------------------------------


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    installable = [x.name for x in ENGINES if x.pins]
    add = parser.add_argument
    add("--file", type=Path, default=DATA, help="candles, .csv or .csv.gz")
    add("--bars", type=int, help="so many bars: a part of the file, or the file repeated")
    add("--repeats", type=int, default=3)
    add("--only", nargs="+", choices=list(BY_NAME), metavar="NAME",
        help="these engines beside ours; written only where --out says")  # fmt: skip
    add("--out", type=Path, help="default: docs/BENCHMARKS.md")
    add("--envs", type=Path, default=ENVIRONMENTS, help="where the environments are")
    add("--install", nargs="+", choices=installable, metavar="NAME",
        help=f"make environments: {', '.join(installable)}")  # fmt: skip
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Install, or measure and write."""
    asked = _arguments(given)
    if asked.install:
        for name in asked.install:
            install(BY_NAME[name], asked.envs)
        return 0
    if not asked.file.exists():
        print(f"no candles: {asked.file.name} is not there; name some with --file", file=sys.stderr)
        return 2
    engines = [x for x in ENGINES if asked.only is None or x is OURS or x.name in asked.only]
    with tempfile.TemporaryDirectory() as folder:
        data = asked.file.resolve()
        if asked.bars:
            data = lengthened(data, asked.bars, Path(folder))
        loads = [os.getloadavg()[0]]
        results = measure_all(engines, data, environments=asked.envs, repeats=asked.repeats)
    loads.append(os.getloadavg()[0])
    bars = next((x.bars for x in results.values() if isinstance(x, Measured)), 0)
    told = f"{bars:,} candles of one minute ({bars / DAY_MINUTES:.0f} days) of {asked.file.name}"
    if asked.bars:
        told += ", cut or repeated to that length, every second time backwards"
    day = datetime.now(UTC).date().isoformat()
    load = " at the start, ".join(f"{x:.1f}" for x in loads) + " at the end"
    page = document(results, data=told, repeats=asked.repeats, day=day, load=load)
    out = asked.out or (None if asked.only else DOCUMENT)
    if out is not None:
        out.write_text(page)
    print(f"\n{table(results)}\n\n{verdict(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
