"""Reading a SQLite file that another connection writes: safe from any thread, blocks no writer."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.ports import StoreError


class Reader:
    """Read-only connections to the file `path`, as many as ever read at one time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []

    def rows(
        self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return what a query finds. Raises StoreError."""
        try:
            db = self._connection()
            try:
                rows = [dict(row) for row in db.execute(query, values)]
            except sqlite3.Error:
                db.close()
                raise
        except sqlite3.Error as error:
            raise StoreError(f"the history in {self._path} cannot be read: {error}") from None
        self._idle.append(db)
        return rows

    @contextlib.contextmanager
    def one_instant(self) -> Iterator[Callable[[str], sqlite3.Cursor]]:
        """Give a way to query that shows the file as it is at the first query, row by row.

        Raises StoreError.
        """
        try:
            db = self._connection()
            try:
                db.execute("BEGIN")
                yield db.execute
                db.execute("COMMIT")
            except BaseException:
                db.close()
                raise
        except sqlite3.Error as error:
            raise StoreError(f"the history in {self._path} cannot be read: {error}") from None
        self._idle.append(db)

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            db = sqlite3.connect(uri, uri=True, timeout=2.0, check_same_thread=False)
            db.row_factory = sqlite3.Row
            return db
