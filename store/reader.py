"""Reading a SQLite file that another connection writes: safe from any thread, blocks no writer."""

import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.ports import StoreError


class Reader:
    """Read-only connections to the file `path`, one a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def rows(
        self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return what a query finds. Raises StoreError."""
        try:
            db: sqlite3.Connection | None = getattr(self._local, "db", None)
            if db is None:
                uri = f"{self._path.absolute().as_uri()}?mode=ro"
                db = sqlite3.connect(uri, uri=True, timeout=2.0)
                db.row_factory = sqlite3.Row
                self._local.db = db
            return [dict(row) for row in db.execute(query, values)]
        except sqlite3.Error as error:
            raise StoreError(f"the history in {self._path} cannot be read: {error}") from None
