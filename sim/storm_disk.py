"""A disk that fails under a real SQLite store: full, locked, torn, or without what was not synced.

The files are real and so are the errors: a full disk is a limit on the database's pages, a locked
one is held by another connection. A process that dies leaves the files as they are at that time;
after a power cut what the write-ahead log got since its last sync is there in part. Its frames
are known from the header of the shared index, where SQLite keeps the number of those that count.
"""

import os
import random
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from store.sqlite import SqliteStore

LOG_HEADER, FRAME_HEADER = 32, 24
LOCK_WAIT_SEC = 30.0  # as long as the store waits for another program


class _Log:
    """The write-ahead log beside a database, as it counts at this instant."""

    def __init__(self, path: Path) -> None:
        self._index = path.with_name(path.name + "-shm")
        self._handle: int | None = None

    def position(self) -> tuple[bytes, int]:
        """Return the log's salt, which changes when it begins anew, and its number of frames."""
        head = self._head()
        return head[32:40], struct.unpack("=I", head[16:20])[0]

    def copied(self) -> int:
        """Return how many frames have been copied into the database."""
        copied: int = struct.unpack("=I", self._head()[96:100])[0]
        return copied

    def _head(self) -> bytes:
        if self._handle is None:
            try:
                self._handle = os.open(self._index, os.O_RDONLY)
            except FileNotFoundError:  # nothing has been read or written yet
                return bytes(100)
        return os.pread(self._handle, 100, 0)

    def close(self) -> None:
        """Let the file go: the next life of the process has another."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Disk:
    """What one database lies on. `wait` lets the world's time pass, `now` tells it."""

    def __init__(
        self,
        path: Path,
        rng: random.Random,
        *,
        now: Callable[[], float],
        wait: Callable[[float], None],
    ) -> None:
        self.path = path
        self.point: Callable[[str], None] = lambda _: None
        self.full_until = self.locked_until = 0.0
        self.syncs = 0
        self._now, self._wait, self._rng = now, wait, rng
        self._log_file = path.with_name(path.name + "-wal")
        self._log = _Log(path)
        self._synced = (b"", 0)
        self._before = (b"", 0)  # where the log stood before the last commit
        self._lock: sqlite3.Connection | None = None
        self._is_full = False

    # ---- under a store ------------------------------------------------------------------------

    def prepare(self, db: sqlite3.Connection, what: str) -> None:
        """Let what the disk has in store for a commit happen; the store meets the rest."""
        self.point(f"before {what}")
        self._before = self._log.position()
        now = self._now()
        if self._lock is not None and now < self.locked_until:
            wait = min(self.locked_until - now, LOCK_WAIT_SEC)
            self._wait(wait)
        if self._lock is not None and self._now() >= self.locked_until:
            self.unlock()
        is_full = self._now() < self.full_until
        if is_full is not self._is_full:
            pages = db.execute("PRAGMA page_count").fetchone()[0] if is_full else 2**32 - 2
            db.execute(f"PRAGMA max_page_count = {pages}")
            self._is_full = is_full

    def written(self, *, is_full: bool, what: str) -> None:
        """Take note of a commit; `is_full`: it was synced."""
        salt, count = self._log.position()
        self.syncs += is_full
        if not is_full:  # what has been copied into the database was synced before
            kept = self._synced[1] if salt == self._synced[0] else 0
            count = max(kept, self._log.copied())
        self._synced = (salt, count)
        self.point(f"after {what}")

    def opened(self) -> None:
        """Take note that a store has been opened: whatever is there now has been synced."""
        self._is_full = False
        self._synced = self._log.position()

    # ---- what happens to it -------------------------------------------------------------------

    def lock(self, until: float) -> None:
        """Let another program hold the database for writing."""
        self.unlock()
        db = sqlite3.connect(self.path, isolation_level=None, timeout=0.0)
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            db.close()
            return
        self._lock, self.locked_until = db, until

    def unlock(self) -> None:
        """End it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def close(self, store: SqliteStore) -> None:
        """Let the process of `store` end well."""
        self.unlock()
        self._log.close()
        store.close()

    def die(self, store: SqliteStore | None, how: str) -> None:
        """Let the process of `store` end by a crash, torn_write or power_cut: close it, unwritten.

        Closing would write the log into the database, which a process that dies does not.
        """
        self.unlock()
        files = {x: x.read_bytes() for x in (self.path, self._log_file) if x.exists()}
        if how != "crash" and self._log_file in files:
            files[self._log_file] = self._cut(files[self._log_file], how)
        self._log.close()
        if store is not None:
            store.close()
        for file, content in files.items():  # new ones: nobody who still reads has these open
            file.unlink(missing_ok=True)
            file.write_bytes(content)
        self.path.with_name(self.path.name + "-shm").unlink(missing_ok=True)

    def _cut(self, log: bytes, how: str) -> bytes:
        """Return the log without the frames that have not reached the disk."""
        salt, count = self._log.position()
        kept_salt, kept = self._before if how == "torn_write" else self._synced
        if salt != kept_salt:
            if how == "torn_write":
                return log  # it began anew meanwhile: nothing of it is torn
            kept = 0
        if kept >= count:
            return log
        frame = FRAME_HEADER + struct.unpack(">I", log[8:12])[0]
        rng, cut = self._rng, bytearray(log)
        if how == "torn_write":  # frames are written in order; the last is there in part
            end = LOG_HEADER + (kept + rng.randrange(count - kept)) * frame
            end += rng.randrange(frame)
            return bytes(cut[:end])
        for n in range(kept, count):  # pages reach the disk in any order
            start = LOG_HEADER + n * frame
            if rng.random() < 0.5:
                size = rng.choice((frame, rng.randrange(1, frame)))
                cut[start : start + size] = bytes(size)
        return bytes(cut)


class FaultyStore(SqliteStore):
    """The store, on such a disk."""

    def __init__(self, disk: Disk, *, epoch: int, replica: str | None = None) -> None:
        self._disk = disk
        super().__init__(disk.path, epoch=epoch, replica=replica)
        self._open_db.execute("PRAGMA busy_timeout = 0")  # the wait passes on the world's clock
        disk.opened()

    @contextmanager
    def _transaction(self, what: str, *, is_full: bool) -> Iterator[sqlite3.Connection]:
        self._disk.prepare(self._open_db, what)
        with super()._transaction(what, is_full=is_full) as db:
            yield db
        self._disk.written(is_full=is_full, what=what)
