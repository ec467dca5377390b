"""A store for backtests: the history tables in memory, without what only a restart needs."""

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
