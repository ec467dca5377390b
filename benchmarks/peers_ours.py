"""The grid in this project: the daemon's runtime, loop, reducer and paper exchange, in memory."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import config
from benchmarks.peers_grid import GRID, Counts, measure
from market.columns import ColumnSource
from sim.run import live_through

PERCENT = 100


def settings_of(path: Path, folder: Path) -> config.Settings:
    """Return the settings of the grid of the comparison; all else is as it is by default."""
    fee = str(GRID.maker_fee * PERCENT)
    first = ColumnSource(path).first_price()
    usd = str(round(GRID.size * float(first or 0), 2))
    start = str(GRID.start_usd)
    return config.load(
        {
            "MARKET_DATA": "replay", "REPLAY_FILE": str(path), "STATE_DB": str(folder / "bot.db"),
            "SLOT_COUNT": "1", "PAIR_ENTRY_PCT": str(GRID.entry * PERCENT),
            "PAIR_PROFIT_PCT": str(GRID.profit * PERCENT),
            "PAIR_REFRESH_PCT": str(GRID.refresh * PERCENT), "MAX_RECOVERY_SLOTS": "0",
            "ORDER_SIZE_USD": usd, "MAX_ORDER_USD": usd, "PAPER_START_QUOTE": start,
            "PAPER_START_BASE_USD": start, "PAPER_MAKER_FEE_PCT": fee, "PAPER_TAKER_FEE_PCT": fee,
        },
        folder / ".env",
    )  # fmt: skip


def prepare(path: Path) -> Callable[[], Counts]:
    """Load the candles and the settings."""
    folder = Path(tempfile.mkdtemp())
    settings = settings_of(path, folder)
    source = ColumnSource(path)

    def run() -> Counts:
        outcome = live_through(settings, source, folder=folder)
        counted = outcome.state.counters
        return Counts(source.columns.closes_at.size, counted["fills"], counted["cycles"])

    return run


if __name__ == "__main__":
    measure(None, prepare)
