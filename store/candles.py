"""Candles on disk, and what the policy made of each: one SQLite file beside the state's.

Nothing here is the only copy of anything that trading depends on: candles can be fetched again. So
a file that is damaged, or of another version or program, is moved aside, which is said, and a new
one begun. Writers take turns; nobody waits long. Nothing here reads a clock.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from core.market import CandleRow, LabelRow
from core.ports import StoreError

log = logging.getLogger("store")

VERSION = 1
APPLICATION_ID = 0x43414E44  # tells this kind of file from others
LABEL_DAYS = 400
DAY_SEC = 86_400.0
WAIT_SEC = 1.0
WAL_BYTES_KEPT = 8 * 1024 * 1024
_SCHEMA = """
CREATE TABLE candles (
    pair TEXT NOT NULL, interval REAL NOT NULL, time REAL NOT NULL, open REAL NOT NULL,
    high REAL NOT NULL, low REAL NOT NULL, close REAL NOT NULL, volume REAL NOT NULL, trades REAL,
    PRIMARY KEY (pair, interval, time)
) STRICT, WITHOUT ROWID;
CREATE TABLE labels (
    pair TEXT NOT NULL, interval REAL NOT NULL, time REAL NOT NULL, close REAL NOT NULL,
    label INTEGER,
    PRIMARY KEY (pair, interval, time)
) STRICT, WITHOUT ROWID;
"""
# Later than the first version, and beside it: a file of an older program serves a newer one, and
# the other way round.
_ADDED = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS backfilled (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pair TEXT NOT NULL, since REAL NOT NULL,
    until REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS depths (pair TEXT PRIMARY KEY, sec REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS unsent (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pair TEXT NOT NULL, interval REAL NOT NULL,
    time REAL NOT NULL, UNIQUE (pair, interval, time)
) STRICT;
"""
_NAME = """
CREATE TRIGGER IF NOT EXISTS {name} AFTER {what} ON candles BEGIN
    DELETE FROM unsent WHERE pair = NEW.pair AND interval = NEW.interval AND time = NEW.time;
    INSERT INTO unsent (pair, interval, time) VALUES (NEW.pair, NEW.interval, NEW.time);
END;
"""
_FORGET = """
CREATE TRIGGER IF NOT EXISTS name_deleted AFTER DELETE ON candles BEGIN
    DELETE FROM unsent WHERE pair = OLD.pair AND interval = OLD.interval AND time = OLD.time;
END;
"""
_TRIGGERS = {"name_new": "INSERT", "name_changed": "UPDATE"}
# A candle that is told again as it was is no change, and is not sent again.
_UPSERT = """
INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (pair, interval, time) DO UPDATE SET open = excluded.open, high = excluded.high,
    low = excluded.low, close = excluded.close, volume = excluded.volume, trades = excluded.trades
WHERE (open, high, low, close, volume, trades) IS NOT (excluded.open, excluded.high, excluded.low,
    excluded.close, excluded.volume, excluded.trades)
"""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TABLES = {"candles", "labels"}


def candles_db(state_db: Path) -> Path:
    """Return the file of candles beside a database: bot.db has bot.candles.db."""
    return state_db.with_name(state_db.name.removesuffix(".db") + ".candles.db")


class SqliteCandles:
    """The candles and labels of one `pair` in the file `path`, or in memory for ":memory:".

    Other pairs may live in the same file; a market that is not the venue's own is a pair of its
    own. Labels are those of one `policy`: with other settings they would be others. `notice` says
    what was moved aside, if anything. A call waits `wait_sec` at most for another writer. Raises
    StoreError where no file can be made at all.
    """

    def __init__(
        self, path: Path | str, *, pair: str, policy: str = "", wait_sec: float = WAIT_SEC
    ) -> None:
        self._path = Path(path)
        self._pair = pair
        self._labelled = f"{pair} by {policy}"
        self.notice: str | None = None
        self._db: sqlite3.Connection | None = None
        if str(path) != ":memory:":
            self._prepare_file()
        try:
            self._db = _opened(str(path), wait_sec)
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be opened: {error}") from None

    def _prepare_file(self) -> None:
        """Make a private file if there is none; move one aside that is none of ours."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            why = "is a folder" if self._path.is_dir() else _fault(self._path)
            if why is not None:
                self._move_aside(why)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            for file in _files(self._path):
                if file.exists() and file.stat().st_mode & 0o077:
                    file.chmod(0o600)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be used: {error.strerror}") from None

    def _move_aside(self, why: str) -> None:
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.aside-{number}")).exists():
            number += 1
        for file in _files(self._path):
            if file.exists():
                file.rename(aside.with_name(aside.name + file.name[len(self._path.name) :]))
        self.notice = f"{self._path} {why}: moved to {aside.name}, candles are fetched anew"
        log.warning("the file of candles begins anew: %s", self.notice)

    # ---- candles --------------------------------------------------------------------------------

    def read(self, interval: float, since: float, until: float) -> list[CandleRow]:
        """Return candles that opened from `since` on and closed by `until`, oldest first."""
        query = (
            "SELECT time, open, high, low, close, volume, trades FROM candles "
            "WHERE pair = ? AND interval = ? AND time >= ? AND time <= ? ORDER BY time"
        )
        values = (self._pair, interval, since, until - interval)
        with self._told("candles cannot be read") as db:
            return db.execute(query, values).fetchall()

    def write(self, interval: float, rows: Sequence[CandleRow]) -> None:
        """Store candles, all or none; one of a time that is there already takes its place."""
        self._write(_UPSERT, ((self._pair, interval, *row) for row in rows))

    def prune(self, interval: float, before: float) -> None:
        """Delete candles that opened before a time, but as deep as was asked for by `keep`."""
        with self._changing("old candles cannot be deleted") as db:
            query = "SELECT sec FROM depths WHERE pair = ?"
            kept = db.execute(query, (self._pair,)).fetchone()
            if kept is not None:
                query = "SELECT max(time) FROM candles WHERE pair = ? AND interval = ?"
                newest = db.execute(query, (self._pair, interval)).fetchone()[0]
                before = before if newest is None else min(before, newest - kept[0])
            query = "DELETE FROM candles WHERE pair = ? AND interval = ? AND time < ?"
            db.execute(query, (self._pair, interval, before))
            db.execute("DELETE FROM backfilled WHERE pair = ? AND until <= ?", (self._pair, before))
            query = "UPDATE backfilled SET since = ? WHERE pair = ? AND since < ?"
            db.execute(query, (before, self._pair, before))

    # ---- stretches that were read from prints ---------------------------------------------------

    def keep(self, sec: float) -> None:
        """Keep candles for so long at least, from now on."""
        query = (
            "INSERT INTO depths VALUES (?, ?) "
            "ON CONFLICT (pair) DO UPDATE SET sec = max(sec, excluded.sec)"
        )
        self._write(query, [(self._pair, sec)])

    def write_stretch(
        self, since: float, until: float, candles: Mapping[float, Sequence[CandleRow]]
    ) -> None:
        """Store all candles there are of a stretch, by interval, and that it is complete."""
        with self._changing("candles cannot be written") as db:
            for interval, rows in candles.items():
                db.executemany(_UPSERT, ((self._pair, interval, *row) for row in rows))
            query = (
                "DELETE FROM backfilled WHERE pair = ? AND until = ? AND since > ? RETURNING since"
            )
            joined = db.execute(query, (self._pair, since, until - DAY_SEC)).fetchall()
            first = min([since, *(x for (x,) in joined)])
            query = "INSERT INTO backfilled (pair, since, until) VALUES (?, ?, ?)"
            db.execute(query, (self._pair, first, until))

    def stretches(self, after: int = 0) -> list[tuple[int, float, float]]:
        """Return (number, since, until) of complete stretches; a number rises with each change."""
        query = "SELECT id, since, until FROM backfilled WHERE pair = ? AND id > ? ORDER BY id"
        with self._told("candles cannot be read") as db:
            return db.execute(query, (self._pair, after)).fetchall()

    # ---- the replica ----------------------------------------------------------------------------

    def replicate(self, address: str | None) -> None:
        """From now on note each change for the replica at `address`; None: there is none.

        All that is there is noted for one that is new. What is noted is bounded by what is there.
        """
        with self._changing("candles cannot be noted for the replica") as db:
            known = db.execute("SELECT value FROM facts WHERE name = 'replica'").fetchone()
            if known == (None if address is None else (address,)):
                return
            for name in (*_TRIGGERS, "name_deleted"):
                db.execute(f"DROP TRIGGER IF EXISTS {name}")
            db.execute("DELETE FROM unsent")
            db.execute("DELETE FROM facts WHERE name = 'replica'")
            if address is None:
                return
            for name, what in _TRIGGERS.items():
                db.execute(_NAME.format(name=name, what=what))
            db.execute(_FORGET)
            db.execute("INSERT INTO facts VALUES ('replica', ?)", (address,))
            db.execute(
                "INSERT INTO unsent (pair, interval, time) "
                "SELECT pair, interval, time FROM candles ORDER BY time"
            )

    # ---- labels ---------------------------------------------------------------------------------

    def append_labels(self, interval: float, labels: Iterable[LabelRow]) -> None:
        """Store (open time, close, label) of candles, all or none; a time's first label stays.

        None: the policy had none. What a model said at the time is evidence; it is not rewritten.
        """
        query = "INSERT OR IGNORE INTO labels VALUES (?, ?, ?, ?, ?)"
        self._write(query, ((self._labelled, interval, *label) for label in labels))

    def labels(self, interval: float) -> list[LabelRow]:
        """Return (open time, close, label) of all candles that were read, oldest first."""
        query = (
            "SELECT time, close, label FROM labels WHERE pair = ? AND interval = ? ORDER BY time"
        )
        with self._told("labels cannot be read") as db:
            return db.execute(query, (self._labelled, interval)).fetchall()

    def prune_labels(self, now: float, days: int = LABEL_DAYS) -> None:
        """Delete all labels of candles that opened earlier than so many days before `now`."""
        self._write("DELETE FROM labels WHERE time < ?", [(now - days * DAY_SEC,)])

    def close(self) -> None:
        """Release the file; safe to call twice."""
        if self._db is not None:
            self._db.close()
            self._db = None

    # ---- helpers --------------------------------------------------------------------------------

    def _write(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._changing("candles cannot be written") as db:
            db.executemany(query, rows)

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction: all or nothing."""
        with self._told(what) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            raise StoreError(f"{self._path} is not open")
        try:
            yield self._db
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {what}: {error}") from None


def _files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _fault(path: Path) -> str | None:
    """Return what is wrong with a file; None: nothing, or there is none, or it is empty.

    Raises StoreError where that cannot be found out.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as db:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            kind = db.execute("PRAGMA application_id").fetchone()[0]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
            raise StoreError(f"{path} cannot be read: {error}") from None
        return f"is damaged ({error})"
    if verdict != "ok":
        return f"is damaged ({verdict})"
    if tables and (kind != APPLICATION_ID or version != VERSION or not tables >= _TABLES):
        return f"is of another program or version ({version}, here {VERSION})"
    return None


def _opened(path: str, wait_sec: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=wait_sec, check_same_thread=False)
    try:
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            f"journal_size_limit={WAL_BYTES_KEPT}",
        ):
            db.execute(f"PRAGMA {pragma}")
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA}; PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )
        db.executescript(_ADDED)
    except BaseException:
        db.close()
        raise
    return db
