"""Opening an exchange's own SQLite file: private, write-ahead, with its schema."""

import os
import sqlite3

from core.ports import StoreError


def open_file(path: str, schema: str, owner: str) -> sqlite3.Connection:
    """Return a connection to `path`, made if it is not there, readable by its user only.

    `owner` says whose file it is, for the message. Raises StoreError.
    """
    mask = os.umask(0o077)
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(schema)
        except BaseException:
            db.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(f"{owner} file {path} cannot be used: {error}") from None
    finally:
        os.umask(mask)
    return db
