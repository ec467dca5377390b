"""The local truth: one SQLite file in WAL mode with one writer, the thread that steps.

A commit is one transaction: journal row, state row (unless quiet), and the rows its actions call
for (`store/rows.py`). Sync is set before the transaction, because it cannot change inside one.
Times are bot times, taken from events and states; nothing here reads a clock.
"""

import contextlib
import math
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from core import events as e
from core.domain import Audit
from core.params import Params
from core.ports import Commit, JournalRow, Loaded, StoreError
from core.record import plain
from core.state import STATE_VERSION
from store import codec, outbox, rows
from store.lock import StoreLock
from store.schema import MIGRATIONS, SCHEMA_VERSION

SNAPSHOTS_KEPT = 48
DAY_SEC = 86_400
PRUNE_ROWS = 20_000
HISTORY_TABLES = ("events", "ledger_entries", "transitions", "operator_log", "opinions")
WAL_BYTES_KEPT = 64 * 1024 * 1024
_HEADER = b"SQLite format 3\0"
_TWICE = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)
_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and start again",
    sqlite3.SQLITE_BUSY: "another program holds the database; close it and start again",
    sqlite3.SQLITE_IOERR: "the disk fails; look at the system log before starting again",
    sqlite3.SQLITE_READONLY: "the file or its folder cannot be written; look at its permissions",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; look at its permissions",
}


class SqliteStore:
    """A store in the file `path`, or in memory for ":memory:" (no lock, no other difference).

    A new store draws its 24-bit epoch unless `epoch` gives it; an existing one keeps its own.
    `owner` is what a second opener is told; `replica` the address of what is given a copy: with ""
    the outbox is emptied, with another than before it begins with every row, with None it is left
    as it is. Raises StoreInUse, or StoreError for a file that is damaged, foreign, of a newer
    program, or absent when it `must_exist`; such a file is untouched.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        epoch: int | None = None,
        owner: str = "",
        retention_days: int = 30,
        history_days: int = 400,
        must_exist: bool = False,
        replica: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._lock: StoreLock | None = None
        self._db: sqlite3.Connection | None = None
        self._retention_sec = retention_days * DAY_SEC
        self._history_sec = history_days * DAY_SEC
        is_memory = str(path) == ":memory:"
        try:
            if not is_memory:
                self._lock = _locked(self._path, owner or f"process {os.getpid()}", must_exist)
                if not self._path.exists():
                    create(self._path, epoch)
                check_file(self._path)
                _make_private(self._path)
            self._db = _connect(str(path))
            _migrate(self._db, epoch)
            self._seq, self._params = self._position()
            self._outbox = _outbox(self._db, replica)
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"{path} cannot be opened: {_reason(error)}") from None
        except BaseException:
            self.close()
            raise
        self._is_full = True

    def _position(self) -> tuple[int, str]:
        """Return the last journal number (0: none) and the parameters of the state row as text."""
        last = self._one(
            "SELECT max(coalesce((SELECT max(seq) FROM journal), 0), "
            "coalesce((SELECT seq FROM state), 0))"
        )
        params = self._one("SELECT params FROM state")
        return (last[0] if last else 0), (params[0] if params else codec.encode(Params()))

    # ---- the Store protocol -------------------------------------------------------------------

    def load(self) -> Loaded | None:
        """Return the current state row, or None for a new store. Raises StoreError."""
        row = self._one("SELECT seq, state, params FROM state WHERE id = 1")
        if row is None and self._seq:
            raise StoreError(
                f"{self._path} has a journal up to {self._seq} but no state: restore a backup"
            )
        return None if row is None else codec.decode_loaded(*row)

    def journal(self, after: int) -> Iterator[JournalRow]:
        """Yield the journal rows with seq > `after`, in order. Raises StoreError."""
        query = "SELECT seq, event, actions FROM journal WHERE seq > ? ORDER BY seq"
        for seq, event, actions in self._rows(query, (after,)):
            yield JournalRow(
                seq=seq,
                event=codec.decode_event(event, f"journal row {seq}"),
                actions=codec.decode_actions(actions, f"the actions of journal row {seq}"),
            )

    def commit(self, commit: Commit) -> None:
        """Store event, actions and (unless quiet) state in one transaction. Raises StoreError.

        Numbers follow one another without a hole; only a store without history takes any first one.
        """
        if self._seq and commit.seq != self._seq + 1:
            raise StoreError(f"step {commit.seq} cannot follow step {self._seq}")
        if not math.isfinite(commit.event.time):
            raise StoreError(f"step {commit.seq} has no time: {commit.event.time}")
        params = self._params
        if isinstance(commit.event, e.Started):
            params = codec.encode(commit.event.params)
        with self._transaction(f"step {commit.seq}", is_full=commit.is_critical) as db:
            named = _write(db, commit, params)
            if self._outbox is not None:
                self._outbox.put(db, commit, named)
        self._seq, self._params = commit.seq, params

    def snapshot(self, loaded: Loaded) -> None:
        """Keep a copy of the state; prune snapshots and the journal behind the oldest kept."""
        time = loaded.state.now
        with self._transaction(f"the snapshot at {loaded.seq}", is_full=True) as db:
            db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (loaded.seq, time, codec.encode(loaded.state), codec.encode(loaded.params)),
            )
            _prune(db, time - self._retention_sec)
            _prune_history(db, time - self._history_sec)

    def snapshots(self) -> Iterator[Loaded]:
        """Yield the kept snapshots, oldest first."""
        for row in self._rows("SELECT seq, state, params FROM snapshots ORDER BY seq"):
            yield codec.decode_loaded(*row)

    def identity(self) -> tuple[int, Mapping[str, str]]:
        """Return the 24-bit epoch of this store and its other fixed facts."""
        facts = dict(self._rows("SELECT name, value FROM meta"))
        return int(facts["epoch"]), facts

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a fact about this store for good, in place of an older one. Raises StoreError."""
        with self._transaction(f"the fact {name}", is_full=True) as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def keep_facts(self, facts: Mapping[str, str]) -> None:
        """Keep several facts, all or none. Raises StoreError."""
        with self._transaction(f"the facts {', '.join(facts)}", is_full=True) as db:
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", facts.items())

    def forget_sent(self, acknowledged: Mapping[str, int]) -> bool:
        """Delete outbox rows that the replica has, up to a number; False: not all of them yet."""
        with self._transaction("the end of what was replicated", is_full=False) as db:
            return outbox.forget(db, acknowledged)

    def audit(self, loaded: Loaded) -> Audit:
        """Return how these books differ from what all executions say. Raises StoreError."""
        return rows.audit(loaded, self._rows)

    def holding_times(self, until: float, limit: int) -> list[float]:
        """Return for how many seconds the newest cycles closed by `until` were open."""
        query = (
            "SELECT holding_sec FROM exit_outcomes JOIN cycles ON cycles.id = cycle_id "
            "WHERE exit_time <= ? ORDER BY cycles.id DESC LIMIT ?"
        )
        return [x for (x,) in self._rows(query, (until, limit))]

    def recent_cycles(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest `limit` cycles of each regime at entry, and of all; oldest first.

        Each is a mapping of its columns, amounts as text.
        """
        found = self._rows(rows.RECENT_CYCLES, (limit,) * 4)
        return [dict(zip(rows.CYCLE_COLUMNS, row, strict=True)) for row in found]

    def execution_ids(self, after: int = 0) -> Iterator[str]:
        """Yield the exchange's ids of all executions booked after a step."""
        query = "SELECT execution_id FROM executions WHERE seq > ?"
        for (execution_id,) in self._rows(query, (after,)):
            yield execution_id

    def export(self) -> Mapping[str, Any]:
        """Return history in canonical form: executions, orders, cycles, ledger, equity, …

        Rows in a stable order, amounts as plain decimals, bot times only; equity once a day.
        """
        history = {
            name: [dict(zip(columns, row, strict=True)) for row in self._rows(query)]
            for name, columns, query in rows.EXPORTS
        }
        for order in history["orders"]:
            order["chain"] = _plain_chain(order["chain"])
        return history

    def is_held(self) -> bool:
        """Tell whether no other process can have taken the store's lock."""
        return self._lock is None or self._lock.is_held()

    def close(self) -> None:
        """Release the store; safe to call twice."""
        if self._db is not None:
            self._db.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # ---- helpers ------------------------------------------------------------------------------

    @property
    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self._path} is not open")
        return self._db

    @contextlib.contextmanager
    def _transaction(self, what: str, *, is_full: bool) -> Iterator[sqlite3.Connection]:
        """Begin, and commit or roll back all. Any error is a StoreError that names `what`."""
        db = self._open_db
        try:
            if is_full is not self._is_full:
                db.execute(f"PRAGMA synchronous={'FULL' if is_full else 'NORMAL'}")
                self._is_full = is_full
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in _TWICE:
                raise StoreError(f"{what} would be booked twice: {error}") from None
            raise StoreError(f"{what} cannot be written: {_reason(error)}") from None
        except OverflowError as error:
            raise StoreError(f"{what} cannot be written: {error}") from None

    def _one(self, query: str) -> tuple[Any, ...] | None:
        for row in self._rows(query):
            return row
        return None

    def _rows(self, query: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._open_db.execute(query, tuple(values))
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {_reason(error)}") from None


def check_file(path: Path, *, check: str = "quick_check") -> None:
    """Refuse a file that is no intact database of ours, without touching it. Raises StoreError."""
    advice = (
        f"restore a backup (python bot.py backup makes them) after moving it away together with "
        f"{path.name}-wal and {path.name}-shm; it is untouched"
    )
    try:
        with path.open("rb") as handle:
            head = handle.read(len(_HEADER))
        if not head:
            raise StoreError(f"{path} is empty, it was cut off or never a database: {advice}")
        if head != _HEADER:
            raise StoreError(f"{path} is not a SQLite database: {advice}")
        with contextlib.closing(_read_only(path)) as db:
            verdict = db.execute(f"PRAGMA {check}(1)").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except sqlite3.Error as error:
        raise StoreError(f"{path} is damaged ({error}): {advice}") from None
    if verdict != "ok":
        raise StoreError(f"{path} is damaged ({verdict}): {advice}")
    if tables and not {"meta", "journal", "state"} <= tables:
        raise StoreError(f"{path} is another program's database; set STATE_DB to another file")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION}: run the "
            "newer program, or restore a backup made before the upgrade. The file is untouched."
        )


def backup(source: Path, target: Path, companions: Mapping[Path, Path] | None = None) -> None:
    """Copy a database that may be in use to `target`, checked and synced. Raises StoreError.

    The copy is of one instant, however long it takes and whatever is written meanwhile.
    `companions` (file to new file) are databases that belong to it: they are copied while nothing
    can be committed here, so that the copies fit together as files after a crash do.
    """
    pairs = {source: target, **(companions or {})}
    for old, new in pairs.items():
        if not old.exists():
            raise StoreError(f"{old} does not exist")
        if new.exists():
            raise StoreError(f"{new} exists; name a new file")
    parts = {new: new.with_name(new.name + ".part") for new in pairs.values()}
    try:
        check_file(source)
        with (
            contextlib.closing(sqlite3.connect(source, isolation_level=None, timeout=5.0)) as gate,
            contextlib.closing(_read_only(source)) as db,
        ):
            gate.execute("BEGIN IMMEDIATE")  # the daemon waits this moment with its next commit
            db.execute("BEGIN")
            db.execute("SELECT 1 FROM meta").fetchall()  # from here on `db` sees this instant
            for old, new in (companions or {}).items():
                with contextlib.closing(_read_only(old)) as companion:
                    _copy(companion, parts[new])
            gate.execute("ROLLBACK")
            _copy(db, parts[target])
        check_file(parts[target], check="integrity_check")
        for new in (companions or {}).values():
            with contextlib.closing(_read_only(parts[new])) as copy:
                verdict = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise StoreError(f"{new} would be damaged ({verdict})")
        for new, part in parts.items():
            _sync(part)
            part.rename(new)
        _sync(target.parent)
    except (sqlite3.Error, OSError, StoreError) as error:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise StoreError(f"no backup of {source}: {_reason(error)}") from None


def _copy(db: sqlite3.Connection, part: Path) -> None:
    """Copy what `db` sees to the file `part`, readable by its owner alone."""
    os.close(os.open(part, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
    with contextlib.closing(sqlite3.connect(part)) as copy:
        db.backup(copy, pages=-1)  # in parts it would begin anew at every commit of the daemon
        copy.execute("PRAGMA journal_mode=DELETE")


def _locked(path: Path, owner: str, must_exist: bool) -> StoreLock:
    if must_exist and not path.exists():
        raise StoreError(f"{path} does not exist: start the daemon first (make run)")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be created: {error.strerror}") from None
    return StoreLock(path, owner)


def create(
    path: Path, epoch: int | None, fill: Callable[[sqlite3.Connection], None] = lambda _: None
) -> None:
    """Make a complete new database appear at `path`, or none at all: no half one after a crash.

    `fill` writes what it is to hold from the beginning. Raises StoreError, and what `fill` raises.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists():
        raise StoreError(
            f"{path} is gone but {log.name} is still there and may hold the last steps: put the "
            "database back beside it, or move it away to start anew"
        )
    part = path.with_name(path.name + ".new")
    try:
        for left in (part, path.with_name(path.name + ".new-journal")):
            left.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as db:
            _migrate(db, epoch)
            fill(db)
        part.rename(path)
        _sync(path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be created: {error.strerror}") from None


def _connect(path: str) -> sqlite3.Connection:
    # A backup may hold the gate for a while; the step waits for it.
    db = sqlite3.connect(path, isolation_level=None, timeout=30.0, check_same_thread=False)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"journal_size_limit={WAL_BYTES_KEPT}",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)


def _migrate(db: sqlite3.Connection, epoch: int | None) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for number, name, sql in MIGRATIONS:
        if number > version:
            try:
                db.executescript(f"BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {number}; COMMIT;")
            except sqlite3.Error as error:
                raise StoreError(f"migration {number} ({name}) failed: {_reason(error)}") from None
    chosen = secrets.randbits(24) if epoch is None else epoch
    for fact in (("epoch", str(chosen)), ("run", secrets.token_hex(16))):
        db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", fact)


def _make_private(path: Path) -> None:
    """Take the file and its companions from everybody else (a restored copy may be open to all)."""
    try:
        for suffix in ("", "-wal", "-shm", ".lock"):
            file = path.with_name(path.name + suffix)
            if file.exists() and file.stat().st_mode & 0o077:
                file.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be made private: {error.strerror}") from None


def _outbox(db: sqlite3.Connection, replica: str | None) -> outbox.Outbox | None:
    """Return the outbox for a replica; one that is new, or missed rows, is to be given all."""
    known = db.execute("SELECT value FROM meta WHERE name = 'replica'").fetchone()
    if replica is None:
        return None if known is None else outbox.Outbox()
    is_known = known is not None and known[0] == replica and not outbox.dropped(db)
    if not is_known and (known is not None or replica):
        db.execute("BEGIN IMMEDIATE")
        outbox.empty(db)
        db.execute("DELETE FROM meta WHERE name = 'replica'")
        if replica:
            db.execute("INSERT INTO meta VALUES ('replica', ?)", (replica,))
            outbox.fill(db)
        db.execute("COMMIT")
    return outbox.Outbox() if replica else None


def _write(db: sqlite3.Connection, commit: Commit, params: str) -> list[outbox.Named]:
    """Write journal, state and history; return the names of the history rows."""
    db.execute(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
        (
            commit.seq,
            commit.event.time,
            STATE_VERSION,
            codec.encode(commit.event),
            codec.encode(commit.actions) if commit.actions else None,
        ),
    )
    if not commit.is_quiet:
        db.execute(
            "INSERT INTO state VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "seq = excluded.seq, state = excluded.state, params = excluded.params",
            (commit.seq, codec.encode(commit.state), params),
        )
        return rows.write(db, commit)
    return []


def _prune(db: sqlite3.Connection, horizon: float) -> None:
    """Delete old snapshots, and a bounded number of journal rows no proof can begin from."""
    db.execute(
        """
        DELETE FROM snapshots WHERE seq NOT IN (
            SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?
        ) AND seq NOT IN (
            SELECT max(seq) FROM snapshots WHERE time >= ? GROUP BY CAST(time / ? AS INTEGER)
        )
        """,
        (SNAPSHOTS_KEPT, horizon, DAY_SEC),
    )
    db.execute(
        """
        DELETE FROM journal WHERE time < ? AND seq <= min(
            (SELECT min(seq) FROM snapshots), (SELECT min(seq) FROM journal) + ?
        )
        """,
        (horizon, PRUNE_ROWS - 1),
    )


def _prune_history(db: sqlite3.Connection, horizon: float) -> None:
    """Delete what tells the story beside the books; an hourly equity point is its clock."""
    row = db.execute("SELECT max(seq) FROM equity WHERE time < ?", (horizon,)).fetchone()
    if row[0] is None:
        return
    for table in HISTORY_TABLES:
        db.execute(f"DELETE FROM {table} WHERE seq <= ?", row)
    db.execute("DELETE FROM equity WHERE seq <= ? AND NOT is_daily", row)


def _plain_chain(text: str) -> list[dict[str, str]]:
    steps: list[dict[str, str]] = msgspec.json.decode(text)
    return [{**step, "amount_usd": plain(Decimal(step["amount_usd"]))} for step in steps]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    """Return what went wrong in plain words."""
    code = getattr(error, "sqlite_errorcode", None)
    words = _REASONS.get(code & 0xFF) if isinstance(code, int) else None
    return f"{words} ({error})" if words else str(error)
