"""How many bars a second a backtest lives through, and what memory it takes.

Each run is a process of its own. The processor's speed differs by the hour on shared machines, so a
plain Python loop is timed beside it.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARKET = ROOT.parent / "shared" / "market"
FILES = (
    "binance_dogeusdt_1m_20230316_20230501.csv.gz", "kucoin_dogeusdt_1m_20230218_20230321.csv.gz"
)  # fmt: skip
MINUTES = 365 * 1440
REFERENCE_STEPS = 20_000_000
COLUMNS = ("open", "high", "low", "close")
ALL = {"HMM_ENABLED": "true", "REGIME_DIRECTIONAL_ENABLED": "true", "KELLY_ENABLED": "true"}


def without_models(folder: Path) -> str:
    """Measure a year of 1 min candles with three slots."""
    return _measured(folder, MINUTES, {}, "required ≥ 150,000")


def with_models(folder: Path) -> str:
    """Measure 46 days with both models trained daily, tiers that act, and Kelly."""
    return _measured(folder, 46 * 1440, ALL, "required ≥ 3,000; with the accelerator ≥ 25,000")


def _measured(folder: Path, bars: int, more: dict[str, str], required: str) -> str:
    if not MARKET.is_dir():
        return "not measured: there are no recorded candles beside the project"
    path = folder / "year.csv"
    write_year(path, bars)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.backtest", str(path), json.dumps(more)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    told = json.loads(done.stdout)
    return (
        f"{bars / told['run']:,.0f} bars per CPU second ({required}), {told['cycles']} cycles, "
        f"{told['load']:.1f} s to load {bars:,} bars, {told['peak']:.0f} MB at most; "
        f"{REFERENCE_STEPS:,} steps of a plain loop beside it: {told['reference']:.1f} s"
    )


def write_year(path: Path, bars: int) -> None:
    """Write so many minutes: recorded ones of 2023 one after another, each going on in price."""
    recorded = [_read(MARKET / name) for name in FILES]
    price, n = 0.0712, 0
    with path.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("time", *COLUMNS, "volume"))
        while n < bars:
            for candles in recorded:
                scale = price / candles[0][0]
                for first, high, low, close, volume in candles[: bars - n]:
                    prices = (first, high, low, close)
                    rows.writerow((1_672_531_200 + 60 * n, *(f"{x * scale:.7f}" for x in prices),
                                   f"{volume:.2f}"))  # fmt: skip
                    n, price = n + 1, close * scale


def _read(path: Path) -> list[list[float]]:
    with gzip.open(path, "rt") as file:
        return [[float(x[name]) for name in (*COLUMNS, "volume")] for x in csv.DictReader(file)]


def _run(path: Path, more: dict[str, str]) -> dict[str, float]:
    """Live through the file; seconds of the processor, and the peak in MB."""
    import logging  # noqa: PLC0415
    import resource  # noqa: PLC0415

    import config  # noqa: PLC0415
    from engine.clock import cpu_seconds  # noqa: PLC0415
    from market.columns import ColumnSource  # noqa: PLC0415
    from sim.run import live_through  # noqa: PLC0415

    logging.disable(logging.ERROR)
    env = {"MARKET_DATA": "replay", "REPLAY_FILE": str(path), "STATE_DB": str(path) + ".none"}
    settings = config.load(env | more, path.parent / ".env")
    began = cpu_seconds()
    source = ColumnSource(path)
    load = cpu_seconds() - began
    outcome = live_through(settings, source, folder=path.parent)
    outcome.store.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, total = time.process_time(), 0
    for n in range(REFERENCE_STEPS):
        total += n
    return {"load": load, "run": outcome.cpu_sec, "peak": peak,
            "reference": time.process_time() - began,
            "cycles": outcome.state.counters.get("cycles", 0)}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(_run(Path(sys.argv[1]), json.loads(sys.argv[2]))))
