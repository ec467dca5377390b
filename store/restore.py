"""A database made anew from its copy at the replica: state, history, and a new identity.

The copy's rows up to its newest state are taken; what our orders did later the exchange tells. The
new database has an id and an epoch of its own, so that nothing it does can be taken for what the
lost one did.
"""

import contextlib
import secrets
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from core.ports import Store, StoreError
from core.record import Record
from core.state import STATE_VERSION, BotState
from store import codec
from store.sqlite import create
from store.tables import BY_NAME, RUNS, SNAPSHOTS, Table

RESTORED, SETTLED = "restored", "settled_copies"  # facts of a database
OVERLAP_SEC = 300.0  # what the exchange is asked for begins so long before the state
HOUR_SEC = 3600
DAY_SEC = 86_400
_ROWS_AT_ONCE = 1000
_WITH_SEQ = ("executions", "cycles", "transitions", "opinions", "operator_log", "ledger_entries")
# An opinion's row may be newer than the state: there it still waits for its score.
_UNSCORED = (
    "UPDATE opinions SET scored_at = NULL, price_after = NULL, advised_outcome = NULL, "
    "mechanical_outcome = NULL WHERE scored_at > ?"
)


class Copies(Protocol):
    """Where copies are kept."""

    def read(self, table: Table, *, equal: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield rows in the order of their key, amounts as text. Raises RemoteError."""
        ...

    def newest(self, table: Table, run: str, by: str) -> dict[str, Any] | None:
        """Return the row of a run with the greatest `by`. Raises RemoteError."""
        ...


class Copy(Record, frozen=True, kw_only=True):
    """The newest state of one run, as the replica has it."""

    run: str
    epoch: int
    program: str
    seq: int
    time: float  # of the event that made the state
    written_at: float  # wall time at which it was sent
    schema: int
    state: str
    params: str


class Restored(Record, frozen=True, kw_only=True):
    """What a database is to tell its state: it was put back, and lacks what happened `since`.

    Orders of it may carry these `epochs` beside its own.
    """

    since: float
    epochs: tuple[int, ...]


def copies_of(remote: Copies, *, bot: str, venue: str, pair: str) -> list[Copy]:
    """Return the newest state of each run of the bot, the one that was written last first.

    Raises RemoteError.
    """
    found = []
    for run in remote.read(RUNS, equal={"bot": bot, "venue": venue, "pair": pair}):
        row = remote.newest(SNAPSHOTS, run["run"], "seq")
        if row is not None:
            facts = {x: row[x] for x in ("seq", "time", "written_at", "schema", "state", "params")}
            found.append(Copy(run=run["run"], epoch=run["epoch"], program=run["program"], **facts))
    return sorted(found, key=lambda x: -x.written_at)


def restore(
    remote: Copies,
    path: Path,
    copy: Copy,
    facts: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Make the database at `path` from a copy, complete or not at all; there must be none yet.

    `facts` are kept in it beside what is known of the copy. Raises StoreError where the copy cannot
    be read or the file not written; RemoteError.
    """
    if copy.schema > STATE_VERSION:
        raise StoreError(f"the copy was written by a newer program ({copy.program}): run that one")
    state = codec.decode_state(copy.state, f"the copied state at {copy.seq}")
    codec.decode_params(copy.params, f"the copied parameters at {copy.seq}")
    epoch = copy.epoch
    while epoch in (copy.epoch, state.store_epoch, *state.former_epochs):
        epoch = secrets.randbits(24)
    restored = Restored(
        since=heard_until(state) - OVERLAP_SEC,
        epochs=tuple(dict.fromkeys((copy.epoch, state.store_epoch, *state.former_epochs))),
    )
    more = {
        RESTORED: msgspec.json.encode(restored).decode(),
        "restored_from": copy.run,
        SETTLED: settled({}, [copy]),
    }

    def fill(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        for fact in (dict(facts) | more).items():
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", fact)
        for row in ("state VALUES (1, ?, ?, ?)", "snapshots (seq, state, params, time) VALUES "
                    f"(?, ?, ?, {state.now!r})"):  # fmt: skip
            db.execute(f"INSERT INTO {row}", (copy.seq, copy.state, copy.params))
        for name in (*_WITH_SEQ, "orders", "exit_outcomes"):
            say(f"the copy at Supabase to be read: {name}")
            _insert(db, BY_NAME[name], _kept(remote, BY_NAME[name], copy))
        db.execute("DELETE FROM exit_outcomes WHERE cycle_id NOT IN (SELECT id FROM cycles)")
        db.execute(_UNSCORED, (copy.time,))
        _insert_equity(db, remote.read(BY_NAME["equity"], equal={"run": copy.run}), copy)
        db.execute("COMMIT")

    try:
        create(path, epoch, fill)
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be made from the copy: {error}") from None


def _kept(remote: Copies, table: Table, copy: Copy) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that are part of the copied state."""
    for row in remote.read(table, equal={"run": copy.run}):
        if table.name not in _WITH_SEQ or row["seq"] <= copy.seq:
            yield row


def _insert(db: sqlite3.Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    columns = list(table.columns)
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    db.executemany(
        f"INSERT INTO {table.name} ({names}) VALUES ({marks})",
        (tuple(row[x] for x in columns) for row in rows),
    )


def _insert_equity(db: sqlite3.Connection, points: Iterable[Mapping[str, Any]], copy: Copy) -> None:
    """Put the first point of each hour, numbered by what was journaled before it."""
    steps = list(db.execute("SELECT time, seq FROM ledger_entries GROUP BY seq ORDER BY seq"))
    times, numbers = [x for x, _ in steps], [x for _, x in steps]
    columns = list(BY_NAME["equity"].columns)
    hour = day = last = -1
    for point in points:
        if point["time"] > copy.time or int(point["time"] // HOUR_SEC) == hour:
            continue
        at = bisect_right(times, point["time"])
        seq = max(last + 1, numbers[at - 1] if at else 0)
        if seq > copy.seq:
            return
        is_daily = int(point["time"] // DAY_SEC) != day
        hour, day, last = int(point["time"] // HOUR_SEC), int(point["time"] // DAY_SEC), seq
        db.execute(
            f"INSERT INTO equity (seq, is_daily, {', '.join(columns)}) "
            f"VALUES ({', '.join('?' * (len(columns) + 2))})",
            (seq, is_daily, *(point[x] for x in columns)),
        )


def heard_until(state: BotState) -> float:
    """Return until when all that the exchange knew was heard of: quotes alone may go on longer."""
    return min(state.now, state.balances.reported_at or state.started_at)


def restored_of(facts: Mapping[str, str]) -> Restored | None:
    """Return what a database has not told its state yet of having been put back."""
    text = facts.get(RESTORED)
    return msgspec.json.decode(text, type=Restored) if text else None


def epochs_of(store: Store) -> tuple[int, ...]:
    """Return the epochs that ids of a database's orders may carry, its own first."""
    epoch, facts = store.identity()
    restored, loaded = restored_of(facts), store.load()
    former = () if loaded is None else loaded.state.former_epochs
    return tuple(dict.fromkeys((epoch, *former, *(restored.epochs if restored else ()))))


# ---- does the local database agree with its copies? ---------------------------------------------


def settled(facts: Mapping[str, str], copies: Iterable[Copy]) -> str:
    """Return the fact that these copies have been decided about, beside those of before."""
    known: dict[str, int] = msgspec.json.decode(facts.get(SETTLED, "{}"))
    known |= {x.run: max(x.seq, known.get(x.run, 0)) for x in copies}
    return msgspec.json.encode(known).decode()


def disagreement(path: Path, copies: list[Copy]) -> str | None:
    """Return why the newest copy is not of this database or of its past, or None.

    Nothing is written. Raises StoreError.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5.0)) as db:
            facts = dict(db.execute("SELECT name, value FROM meta"))
            seq = db.execute(
                "SELECT max(coalesce((SELECT max(seq) FROM journal), 0), "
                "coalesce((SELECT seq FROM state), 0))"
            ).fetchone()[0]
            return _disagreement(db, facts, seq, copies)
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from None


def own_run(facts: Mapping[str, str]) -> str:
    """Return under which id the replica keeps this database."""
    return facts.get("replica_run", facts["run"])


def _disagreement(
    db: sqlite3.Connection, facts: Mapping[str, str], seq: int, copies: list[Copy]
) -> str | None:
    known: dict[str, int] = msgspec.json.decode(facts.get(SETTLED, "{}"))
    open_ = [x for x in copies if x.seq > known.get(x.run, -1)]
    if not open_:
        return None
    newest, run = copies[0], own_run(facts)
    if newest.run == run:
        if newest.seq > seq:
            return f"the copy has {newest.seq:,} steps, the database {seq:,}: it is an older one"
        row = db.execute("SELECT time FROM journal WHERE seq = ?", (newest.seq,)).fetchone()
        if row is not None and row[0] != newest.time:
            return f"from some step before {newest.seq:,} on the copy and the database differ"
        return None
    return (
        "the newest copy was written by another database of this bot" if newest in open_ else None
    )


def keep_local(path: Path, copies: list[Copy]) -> None:
    """Decide for the local database: its copy goes on under a new id. Raises StoreError."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as db, db:
            facts = dict(db.execute("SELECT name, value FROM meta"))
            for fact in (
                (SETTLED, settled(facts, copies)), ("replica_run", secrets.token_hex(16)),
            ):  # fmt: skip
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", fact)
            db.execute("DELETE FROM meta WHERE name = 'replica'")  # all rows are sent anew
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be written: {error}") from None


def move_aside(paths: Iterable[Path], mark: str) -> list[Path]:
    """Rename files, where they are there, and what SQLite keeps beside them. Raises StoreError."""
    moved = []
    try:
        for path in paths:
            _checkpoint(path)
            for suffix in ("-wal", "-shm", ""):
                file = path.with_name(path.name + suffix)
                if file.exists():
                    moved.append(file.rename(path.with_name(f"{path.name}.{mark}{suffix}")))
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be moved: {error.strerror}") from None
    return moved


def _checkpoint(path: Path) -> None:
    """Let a database be whole without its log, so that no part of it can be left behind."""
    if path.exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
