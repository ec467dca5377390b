"""A store that ends with the process, for proofs, backtests and tests.

It is the SQLite store on memory instead of a file: the same code, so it cannot drift from it, and
fast enough (no sync); only the lock is missing, because nobody else can reach it.
"""

from store.sqlite import SqliteStore


class MemoryStore(SqliteStore):
    """A store in memory."""

    def __init__(
        self, *, epoch: int = 0, retention_days: int = 30, history_days: int = 400
    ) -> None:
        super().__init__(
            ":memory:",
            epoch=epoch,
            retention_days=retention_days,
            history_days=history_days,
        )
