"""A store for backtests: the history tables in memory, without what only a restart needs."""

import numpy as np
import numpy.typing as npt

from core.ports import Commit, Loaded
from store import rows
from store.memory import MemoryStore


class BacktestStore(MemoryStore):
    """Keeps orders, executions, cycles, ledger, transitions and equity; no journal, no state.

    A backtest is never taken up again, so nothing is folded from here. What it exports is what the
    store of a daemon would.
    """

    def commit(self, commit: Commit) -> None:
        """Write the rows that a step calls for. Raises StoreError."""
        if not commit.is_quiet:
            with self._transaction(f"step {commit.seq}", is_full=True) as db:
                rows.write(db, commit)

    def snapshot(self, loaded: Loaded) -> None:
        """Forget it."""

    def equity_points(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the equity once an hour, and what doing nothing would be worth: by column."""
        names = ("time", "equity", "hold", "usd", "doge", "half", "mark")
        rows_ = self._rows(f"SELECT {', '.join(names)} FROM equity ORDER BY seq")
        points = np.array([[float(x) for x in row] for row in rows_]).reshape(-1, len(names))
        return dict(zip(names, points.T, strict=True))
