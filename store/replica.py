"""The replica: one thread that gives the outbox's rows to a remote store, in order, once each.

Each table goes on by itself: one that fails waits and is tried again, the others do not wait for
it. The state is sent once everything before it is there, so what the replica holds is never ahead
of its books. What is acknowledged is kept in a file of its own beside the database, which this
thread only reads; the thread that steps deletes what is acknowledged.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import msgspec

from core.ports import ConfigError, StoreError
from core.record import Record
from core.state import STATE_VERSION
from core.status import ReplicaBlock
from store.outbox import dropped
from store.supabase import RemoteError
from store.tables import SNAPSHOTS, TABLES, Table

log = logging.getLogger("replica")

BATCH_ROWS = 500
POLL_SEC = 2.0
SNAPSHOT_SEC = 60.0
PAUSE_SEC, PAUSE_SEC_MAX = 2.0, 300.0
STOP_SEC, CUT_SEC = 5.0, 0.5
CHECK_SEC = 15.0
DAY_SEC = 86_400
_ALL = ""  # the name troubles of the whole line are kept under
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS acknowledged (
    name TEXT PRIMARY KEY, id INTEGER NOT NULL, attempts INTEGER NOT NULL, last_error TEXT NOT NULL
) STRICT;
"""


class Remote(Protocol):
    """What a replica is kept in."""

    def check(self, run: Mapping[str, Any]) -> None:
        """Make sure that it can take our rows. Raises ConfigError, RemoteError."""
        ...

    def upsert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows by their keys, all or none. Raises RemoteError."""
        ...


def replica_db(state_db: Path) -> Path:
    """Return the file beside a database that says what is acknowledged: bot.replica.db."""
    return state_db.with_name(state_db.name.removesuffix(".db") + ".replica.db")


class Progress(Record, frozen=True, kw_only=True):
    """How far one table has come; `attempts` failed in a row."""

    id: int = 0
    attempts: int = 0
    last_error: str = ""


class Acknowledged:
    """What the replica at `address` has of the database `run`, on disk beside it.

    A file that is damaged, or of another replica, begins anew: what is waiting is sent again, which
    changes nothing there. So does one that is ahead of the outbox, which an older copy of the
    database has: `last_id` is the newest number the outbox has given.
    """

    def __init__(self, path: Path, *, address: str, run: str, last_id: int) -> None:
        self._db = _opened(path)
        facts = {"address": address, "run": run}
        is_ours = dict(self._db.execute("SELECT name, value FROM facts")) == facts
        newest = self._db.execute("SELECT coalesce(max(id), 0) FROM acknowledged").fetchone()[0]
        if not is_ours or newest > last_id:
            with self._db:
                self._db.execute("DELETE FROM acknowledged")
                self._db.execute("DELETE FROM facts")
                self._db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())

    def read(self) -> dict[str, Progress]:
        """Return the progress of each table that has made any."""
        query = "SELECT name, id, attempts, last_error FROM acknowledged"
        return {
            name: Progress(id=number, attempts=attempts, last_error=error)
            for name, number, attempts, error in self._db.execute(query)
        }

    def keep(self, name: str, progress: Progress) -> None:
        """Write down how far a table has come."""
        values = (name, progress.id, progress.attempts, progress.last_error)
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO acknowledged VALUES (?, ?, ?, ?)", values)

    def close(self) -> None:
        """Release the file."""
        self._db.close()


def _opened(path: Path) -> sqlite3.Connection:
    """Return the file's connection; one that cannot be read is begun anew."""
    for is_last in (False, True):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
        try:
            # What a power cut takes back is sent again: not worth a wait for the disk.
            db.execute("PRAGMA synchronous=OFF")
            db.executescript(_SCHEMA)
            db.execute("SELECT id, attempts, last_error FROM acknowledged").fetchall()
        except sqlite3.DatabaseError as error:
            db.close()
            if is_last:
                raise
            log.warning("%s cannot be read and begins anew: %s", path, error)
            for suffix in ("", "-journal", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        else:
            return db
    raise AssertionError("the second attempt returns or raises")


class Look(NamedTuple):
    """What waited at one instant: rows up to `last_id`, and the state as it was then.

    The state, which waits for its minute nearly always, is not counted in `queue`.
    """

    last_id: int
    queue: int
    oldest_at: float | None
    dropped: int
    snapshot_id: int | None
    snapshot: dict[str, Any] | None


class Batch(NamedTuple):
    """Rows of one table, and the number up to which the outbox is done with them."""

    last_id: int
    names: int
    vanished: int  # rows that were pruned before they could be sent
    rows: list[dict[str, Any]]


class Waiting:
    """Reads the outbox of a database that another thread writes."""

    def __init__(self, path: Path, run: str) -> None:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(
            uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
        )
        self._log = path.with_name(path.name + "-wal")
        self._run = run

    def last_id(self) -> int:
        """Return the newest number that the outbox has given."""
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"
        found = self._db.execute(query).fetchone()
        return 0 if found is None else int(found[0])

    def look(self, progress: Mapping[str, Progress]) -> Look:
        """Return what waits, all of one instant."""
        self._db.execute("BEGIN")
        try:
            queue, oldest = 0, None
            for table in TABLES:
                rows = "FROM outbox WHERE name = ? AND id > ?"
                values = (table.name, progress.get(table.name, Progress()).id)
                queue += self._db.execute(f"SELECT count(*) {rows}", values).fetchone()[0]
                # The first of the line, not the least of all times: that would read every row.
                first = self._db.execute(f"SELECT time {rows} ORDER BY id LIMIT 1", values)
                oldest = min((x for x in (oldest, *(first.fetchone() or ())) if x is not None),
                             default=None)  # fmt: skip
            query = "SELECT id FROM outbox WHERE name = ? AND id > ?"
            values = (SNAPSHOTS.name, progress.get(SNAPSHOTS.name, Progress()).id)
            found = self._db.execute(query, values).fetchone()
            return Look(
                last_id=self.last_id(),
                queue=queue,
                oldest_at=oldest,
                dropped=dropped(self._db),
                snapshot_id=None if found is None else found[0],
                snapshot=None if found is None else self._snapshot(),
            )
        finally:
            self._db.execute("ROLLBACK")

    def _snapshot(self) -> dict[str, Any] | None:
        query = (
            "SELECT seq, state, params, journal.time FROM state LEFT JOIN journal USING (seq) "
            "WHERE id = 1"
        )
        found = self._db.execute(query).fetchone()
        if found is None:
            return None
        seq, state, params, time = found
        if time is None:  # put back, and nothing has happened since
            time = float(msgspec.json.decode(state)["now"])
        return {
            "run": self._run, "day": int(time // DAY_SEC), "seq": seq, "time": time,
            "schema": STATE_VERSION, "state": state, "params": params,
        }  # fmt: skip  # `written_at` is added when it is sent

    def make_durable(self) -> None:
        """Have all that was read survive a power cut: a copy must not know more than the disk."""
        with contextlib.suppress(FileNotFoundError):  # all of it is in the database itself
            handle = os.open(self._log, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def batch(self, table: Table, after: int, until: int, rows_max: int) -> Batch | None:
        """Return the next rows of a table, numbers above `after` up to `until`; None: none wait."""
        self._db.execute("BEGIN")
        try:
            query = (
                "SELECT max(id), count(*) FROM (SELECT id FROM outbox "
                "WHERE name = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?)"
            )
            values = (table.name, after, until, rows_max)
            last_id, count = self._db.execute(query, values).fetchone()
            if last_id is None:
                return None
            if table.source is None:
                query = "SELECT row FROM outbox WHERE name = ? AND id > ? AND id <= ? ORDER BY id"
                found = self._db.execute(query, (table.name, after, last_id)).fetchall()
                rows = [{"run": self._run} | msgspec.json.decode(text) for (text,) in found]
                return Batch(last_id, count, 0, rows)
            columns = ", ".join(f"t.{name}" for name in table.columns)
            query = (
                f"SELECT o.id, {columns} FROM outbox o JOIN {table.name} t ON t.{table.source} = "
                "o.key WHERE o.name = ? AND o.id > ? AND o.id <= ? ORDER BY o.id, t.rowid"
            )
            found = self._db.execute(query, (table.name, after, last_id)).fetchall()
            rows = [table.row(self._run, values) for _, *values in found]
            return Batch(last_id, count, count - len({x[0] for x in found}), rows)
        finally:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Release the file."""
        self._db.close()


class Replica:
    """Keeps a remote copy of a database up to date, from a thread of its own.

    `run` is the row that describes this database there. `monotonic` is a clock in seconds, `wall`
    that of the machine. Raises
    StoreError where its file cannot be opened.
    """

    def __init__(
        self,
        remote: Remote,
        state_db: Path,
        *,
        address: str,
        run: Mapping[str, Any],
        rng: Random,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._remote, self._run = remote, run
        self._rng, self._monotonic, self._wall = rng, monotonic, wall
        file, name = replica_db(state_db), run["run"]
        try:
            self._waiting = Waiting(state_db, name)
            last_id = self._waiting.last_id()
            self._acknowledged = Acknowledged(file, address=address, run=name, last_id=last_id)
            self._progress = self._acknowledged.read()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{file} cannot be opened: {error}") from None
        self.batches = 0  # acknowledged since the start; another number: there is more to delete
        self._resume_at: dict[str, float] = {}
        self._size = dict.fromkeys((x.name for x in TABLES), BATCH_ROWS)
        self._is_checked = False
        self._snapshot_due = float("-inf")
        self._sent = self._vanished = 0
        self._look: Look | None = None
        self._stopping, self._cut = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="replica", daemon=True)

    # ---- what other threads call ----------------------------------------------------------------

    def check(self, within_sec: float = CHECK_SEC) -> None:
        """Ask, before the start, whether the replica can take our rows. Raises ConfigError.

        One that does not answer `within_sec` stops nothing: it is asked again, by the thread.
        """
        refused: list[ConfigError] = []

        def ask() -> None:
            try:
                self._check()
            except RemoteError as error:
                self._fail(_ALL, str(error))
            except ConfigError as error:
                refused.append(error)

        asking = threading.Thread(target=ask, name="replica-check", daemon=True)
        asking.start()
        asking.join(within_sec)  # a line that trickles may not hold up the start
        if refused:
            raise refused[0]

    def start(self) -> None:
        """Begin to send."""
        with contextlib.suppress(sqlite3.Error):  # the thread will say
            self._look = self._waiting.look(self._progress)
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, the state too, for STOP_SEC at most; the next run sends the rest.

        Safe to call twice.
        """
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)
            self._cut.set()
            self._thread.join(CUT_SEC)
            log.info("replication ends: %s rows wait", self._look.queue if self._look else "some")
        if not self._thread.is_alive():  # else it is cut off with the process
            self._waiting.close()
            self._acknowledged.close()

    def acknowledged(self) -> dict[str, int]:
        """Return the number up to which each table of the outbox is done with."""
        return {name: x.id for name, x in self._progress.copy().items() if x.id}

    def view(self, now: float) -> ReplicaBlock:
        """Return how the replica fares; `now` is the state's time."""
        look, progress = self._look, self._progress.copy()
        failing = {name: x for name, x in progress.items() if x.attempts}
        worst = max(failing.values(), key=lambda x: x.attempts, default=Progress())
        oldest = None if look is None else look.oldest_at
        return ReplicaBlock(
            is_checked=self._is_checked,
            queue=0 if look is None else look.queue,
            lag_sec=0.0 if oldest is None else round(max(0.0, now - oldest), 1),
            sent=self._sent,
            dropped=(0 if look is None else look.dropped) + self._vanished,
            attempts=worst.attempts,
            last_error=worst.last_error,
            failing=tuple(sorted(name for name in failing if name != _ALL)),
        )

    # ---- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._try_to_send()
            self._stopping.wait(POLL_SEC)
        self._resume_at.clear()  # the last pass waits for nothing
        self._snapshot_due = float("-inf")
        self._try_to_send()

    def _try_to_send(self) -> None:
        try:
            self.send_once()
        except Exception as error:  # the worker's top: trading must not know of it
            log.exception("replication failed")
            self._fail(_ALL, f"{type(error).__name__}: {error}")

    def send_once(self) -> None:
        """Send all that waits now and may be tried; each failure is kept and waits its pause."""
        self._look = look = self._waiting.look(self._progress)
        if not self._may_try(_ALL):
            return
        try:
            if not self._is_checked:
                self._check()
            is_complete = all([self._drain(table, look.last_id) for table in TABLES])
            is_due = self._monotonic() >= self._snapshot_due and self._may_try(SNAPSHOTS.name)
            if is_complete and is_due and look.snapshot_id is not None:
                self._send_state(look.snapshot_id, look.snapshot)
        except ConfigError as error:
            self._fail(_ALL, "; ".join(error.problems))
            return
        except RemoteError as error:
            self._fail(_ALL, str(error))
            return
        self._settle(_ALL)
        if look.queue:  # what was sent does not wait any more
            self._look = self._waiting.look(self._progress)

    def _check(self) -> None:
        self._remote.check(self._run)
        self._is_checked = True

    def _drain(self, table: Table, until: int) -> bool:
        """Send what waits of a table; False: not all. Raises RemoteError for the whole line."""
        name = table.name
        while not self._cut.is_set() and self._may_try(name):
            after = self._progress.get(name, Progress()).id
            batch = self._waiting.batch(table, after, until, self._size[name])
            if batch is None:
                return True
            try:
                if batch.rows:
                    self._remote.upsert(table, batch.rows)
            except RemoteError as error:
                if error.is_line:
                    raise
                self._size[name] = max(1, batch.names // 2)  # to find the row that is refused
                one = f" (row {batch.rows[0]})" if batch.names == 1 else ""
                self._fail(name, f"{error}{one[:300]}")
                return False
            if batch.vanished:
                log.warning("rows were pruned before they were sent: %s %s", batch.vanished, name)
            self._vanished += batch.vanished
            self._sent += len(batch.rows)
            self._size[name] = min(BATCH_ROWS, self._size[name] * 2)
            self._settle(name, batch.last_id)
        return False

    def _send_state(self, number: int, row: Mapping[str, Any] | None) -> None:
        try:
            if row is not None:
                self._waiting.make_durable()
                self._remote.upsert(SNAPSHOTS, [{**row, "written_at": self._wall()}])
        except RemoteError as error:
            if error.is_line:
                raise
            self._fail(SNAPSHOTS.name, str(error))
            return
        self._sent += 1
        self._snapshot_due = self._monotonic() + SNAPSHOT_SEC
        self._settle(SNAPSHOTS.name, number)

    # ---- progress -------------------------------------------------------------------------------

    def _may_try(self, name: str) -> bool:
        return self._monotonic() >= self._resume_at.get(name, float("-inf"))

    def _settle(self, name: str, number: int | None = None) -> None:
        old = self._progress.get(name, Progress())
        new = Progress(id=old.id if number is None else number)
        if old.attempts:
            log.info("replication goes on: %s", name or "all tables")
        if new != old:
            self._keep(name, new)
            self.batches += 1

    def _fail(self, name: str, text: str) -> None:
        old = self._progress.get(name, Progress())
        new = Progress(id=old.id, attempts=old.attempts + 1, last_error=text)
        pause = min(PAUSE_SEC * 2.0 ** min(new.attempts - 1, 20), PAUSE_SEC_MAX)
        self._resume_at[name] = self._monotonic() + pause * (0.5 + self._rng.random())
        if text != old.last_error:
            log.warning("replication waits: %s", text)
        self._keep(name, new)

    def _keep(self, name: str, progress: Progress) -> None:
        """Remember progress; where the disk refuses it is sent again after the next start."""
        self._progress = self._progress | {name: progress}
        with contextlib.suppress(sqlite3.Error):
            self._acknowledged.keep(name, progress)
