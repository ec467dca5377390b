"""The local truth: one SQLite file in WAL mode with one writer, the thread that steps.

A commit is one transaction: journal row, state row (unless quiet), and the rows its actions call
for (`store/rows.py`). Sync is set before the transaction, because it cannot change inside one.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from core import events as e
from core.params import Params
from core.ports import Commit, JournalRow, Loaded, StoreError
from core.state import STATE_VERSION
from store import codec, rows
from store.lock import StoreLock
from store.schema import MIGRATIONS, SCHEMA_VERSION

SNAPSHOTS_KEPT = 48
DAY_SEC = 86_400
PRUNE_ROWS = 20_000
_HEADER = b"SQLite format 3\0"


class SqliteStore:
    """A store in the file `path`, or in memory for ":memory:" (no lock, no other difference)."""

    def __init__(
        self,
        path: Path | str,
        *,
        epoch: int | None = None,
        owner: str = "",
        retention_days: int = 30,
        must_exist: bool = False,
    ) -> None:
        self._path = Path(path)
        self._lock: StoreLock | None = None
        self._retention_sec = retention_days * DAY_SEC
        self._params: str = codec.encode(Params())
        is_memory = str(path) == ":memory:"
        if not is_memory:
            self._prepare_file(must_exist)
            self._lock = StoreLock(self._path, owner or f"process {os.getpid()}")
        try:
            if not is_memory:
                check_file(self._path)
            self._db = self._connect(str(path))
            self._migrate(epoch)
        except BaseException:
            self._release()
            raise
        self._is_full = True
        self._last_prune = 0

    # ---- opening ------------------------------------------------------------------------------

    def _prepare_file(self, must_exist: bool) -> None:
        if must_exist and not self._path.exists():
            raise StoreError(f"{self._path} does not exist: start the daemon first (make run)")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._path.exists():
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StoreError(f"{self._path} cannot be created: {error.strerror}") from None

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        mask = os.umask(0o077)
        try:
            db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA foreign_keys=ON")
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from None
        finally:
            os.umask(mask)
        return db

    def _migrate(self, epoch: int | None) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} has schema {version}, this program knows {SCHEMA_VERSION}: run the "
                "newer program, or restore a backup made before the upgrade. The file is untouched."
            )
        for number, _, sql in MIGRATIONS:
            if number > version:
                try:
                    self._db.executescript(
                        f"BEGIN IMMEDIATE; {sql}; PRAGMA user_version = {number}; COMMIT;"
                    )
                except sqlite3.Error as error:
                    raise StoreError(
                        f"migration {number} of {self._path} failed: {error}"
                    ) from None
        if self._db.execute("SELECT 1 FROM meta WHERE name = 'epoch'").fetchone() is None:
            chosen = secrets.randbits(24) if epoch is None else epoch
            self._db.execute("INSERT INTO meta VALUES ('epoch', ?)", (str(chosen),))

    # ---- the Store protocol -------------------------------------------------------------------

    def load(self) -> Loaded | None:
        """Return the current state row, or None for a new store. Raises StoreError."""
        row = self._one("SELECT seq, state, params FROM state WHERE id = 1")
        return None if row is None else self._loaded(row)

    def _loaded(self, row: tuple[Any, ...]) -> Loaded:
        seq, state, params = row
        self._params = params
        return Loaded(
            seq=seq,
            state=codec.decode_state(state, f"the state at {seq}"),
            params=codec.decode_params(params, f"the parameters at {seq}"),
        )

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
        """Store event, actions and (unless quiet) state in one transaction. Raises StoreError."""
        db = self._db
        try:
            if commit.is_critical is not self._is_full:
                db.execute(f"PRAGMA synchronous={'FULL' if commit.is_critical else 'NORMAL'}")
                self._is_full = commit.is_critical
            db.execute("BEGIN IMMEDIATE")
            try:
                self._write(commit)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError as error:
            raise StoreError(f"step {commit.seq} would be booked twice: {error}") from None
        except sqlite3.Error as error:
            raise StoreError(f"step {commit.seq} cannot be written: {error}") from None

    def _write(self, commit: Commit) -> None:
        event, actions = commit.event, commit.actions
        self._db.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
            (
                commit.seq,
                event.time,
                STATE_VERSION,
                codec.encode(event),
                codec.encode(actions) if actions else None,
            ),
        )
        if isinstance(event, e.Started):
            self._params = codec.encode(event.params)
        if not commit.is_quiet:
            self._db.execute(
                "INSERT INTO state VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "seq = excluded.seq, state = excluded.state, params = excluded.params",
                (commit.seq, codec.encode(commit.state), self._params),
            )
            rows.write(self._db, commit)

    def snapshot(self, loaded: Loaded) -> None:
        """Keep a copy of the state; prune snapshots and the journal behind the oldest kept."""
        time = loaded.state.now
        try:
            self._db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)",
                (loaded.seq, time, codec.encode(loaded.state), codec.encode(loaded.params)),
            )
            self._prune(time)
        except sqlite3.Error as error:
            raise StoreError(f"the snapshot at {loaded.seq} cannot be written: {error}") from None

    def _prune(self, now: float) -> None:
        horizon = now - self._retention_sec
        self._db.execute(
            """
            DELETE FROM snapshots WHERE seq NOT IN (
                SELECT seq FROM snapshots ORDER BY seq DESC LIMIT ?
            ) AND seq NOT IN (
                SELECT max(seq) FROM snapshots WHERE time >= ? GROUP BY CAST(time / ? AS INTEGER)
            )
            """,
            (SNAPSHOTS_KEPT, horizon, DAY_SEC),
        )
        oldest = self._db.execute("SELECT min(seq) FROM snapshots").fetchone()[0]
        last = self._db.execute(
            "SELECT max(seq) FROM (SELECT seq FROM journal WHERE seq <= ? AND time < ? "
            "ORDER BY seq LIMIT ?)",
            (oldest, horizon, PRUNE_ROWS),
        ).fetchone()[0]
        if last is not None:
            self._db.execute("DELETE FROM journal WHERE seq <= ?", (last,))

    def snapshots(self) -> Iterator[Loaded]:
        """Yield the kept snapshots, oldest first."""
        for row in self._rows("SELECT seq, state, params FROM snapshots ORDER BY seq"):
            yield self._loaded(row)

    def identity(self) -> tuple[int, Mapping[str, str]]:
        """Return the 24-bit epoch of this store and its other fixed facts."""
        facts = dict(self._rows("SELECT name, value FROM meta"))
        return int(facts["epoch"]), facts

    def audit(self) -> Mapping[str, Decimal]:
        """Return sums over all executions: base and quote change, fees, and their count."""
        base = quote = fees = Decimal(0)
        count = 0
        for side, volume, cost, fee in self._rows("SELECT side, volume, cost, fee FROM executions"):
            way = 1 if side == "buy" else -1
            base += way * Decimal(volume)
            quote -= way * Decimal(cost) + Decimal(fee)
            fees += Decimal(fee)
            count += 1
        return {"base": base, "quote": quote, "fees": fees, "count": Decimal(count)}

    def export(self) -> Mapping[str, Any]:
        """Return history in canonical form: executions, orders, cycles, ledger, equity, …"""
        return {
            name: [dict(zip(columns, row, strict=True)) for row in self._rows(query)]
            for name, columns, query in rows.EXPORTS
        }

    def close(self) -> None:
        """Release the store; safe to call twice."""
        self._release()

    # ---- helpers ------------------------------------------------------------------------------

    def _one(self, query: str) -> tuple[Any, ...] | None:
        for row in self._rows(query):
            return row
        return None

    def _rows(self, query: str, values: Iterable[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._db.execute(query, tuple(values))
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read: {error}") from None

    def _release(self) -> None:
        db = getattr(self, "_db", None)
        if db is not None:
            db.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def check_file(path: Path) -> None:
    """Refuse a file that is no intact SQLite database, without touching it. Raises StoreError."""
    advice = "restore a backup (python bot.py backup makes them) or move the file away; untouched"
    with path.open("rb") as handle:
        head = handle.read(len(_HEADER))
    if not head:
        return
    if head != _HEADER:
        raise StoreError(f"{path} is not a SQLite database: {advice}")
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
        try:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} is damaged ({error}): {advice}") from None
    if verdict != "ok":
        raise StoreError(f"{path} is damaged ({verdict}): {advice}")


def backup(source: Path, target: Path) -> None:
    """Copy a database that may be in use to `target`, checked and synced. Raises StoreError."""
    if not source.exists():
        raise StoreError(f"{source} does not exist")
    if target.exists():
        raise StoreError(f"{target} exists; name a new file")
    part = target.with_name(target.name + ".part")
    try:
        with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as db:
            os.close(os.open(part, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600))
            copy = sqlite3.connect(part)
            db.backup(copy, pages=2000)
            copy.execute("PRAGMA journal_mode=DELETE")
            copy.close()
        check_file(part)
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.rename(target)
    except (sqlite3.Error, OSError) as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"no backup of {source}: {error}") from None
