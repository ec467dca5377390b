"""Market data made by tests, and where the recorded market data stands."""

import math
import random
from pathlib import Path

import pytest

MARKET = Path(__file__).parent.parent.parent / "shared" / "market"


def market_file(name: str) -> Path:
    """Return a recorded file, or skip the test where the recordings are absent."""
    path = MARKET / name
    if not path.exists():
        pytest.skip(f"recorded market data is not beside the project: {name}")
    return path


def report_folder(out: Path) -> Path:
    """Return the folder of the report that was written last."""
    return max(out.iterdir(), key=lambda x: x.stat().st_mtime_ns)


def write_candles(path: Path, *, bars: int, seed: int, interval: int = 60) -> None:
    """Write a random walk as candles: 0.3 % a bar, so that a small grid trades often."""
    rng = random.Random(seed)
    price = 0.1
    lines = ["time,open,high,low,close,volume,trades"]
    for n in range(bars):
        end = price * math.exp(rng.gauss(0.0, 0.003))
        high = max(price, end) * (1 + abs(rng.gauss(0.0, 0.001)))
        low = min(price, end) * (1 - abs(rng.gauss(0.0, 0.001)))
        volume = 20_000 * math.exp(rng.gauss(0.0, 1.0))
        lines.append(
            f"{1_700_000_000 // interval * interval + n * interval},{price:.7f},{high:.7f},"
            f"{low:.7f},{end:.7f},{volume:.2f},10"
        )
        price = float(f"{end:.7f}")
    path.write_text("\n".join(lines) + "\n")
