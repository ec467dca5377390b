"""The sandbox's SQLite file: all rows, the engine, the keys' nonces and the cursor.

One writer, one transaction per commit, before anything is answered. Any reader may open it at any
time; `read_truth` does, also after the server was killed.
"""

import fcntl
import os
import sqlite3
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from core.ports import StoreError
from core.record import plain
from exchange.own_file import open_file
from exchange.sandbox_books import Books
from exchange.sandbox_records import KeyUse, LedgerRow, OrderRow, TradeRow, Truth, VenueCursor
from exchange.venue import EngineState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS parts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS orders (
    txid TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, client_order_id TEXT, status TEXT
    NOT NULL, executed TEXT NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS trades (
    trade_id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, txid TEXT NOT NULL, record TEXT
    NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS ledger (
    ledger_id TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, asset TEXT NOT NULL, record TEXT
    NOT NULL
) STRICT;
"""
_encode = msgspec.json.Encoder().encode


class SandboxFile:
    """One file, or ":memory:". Raises StoreError when it fails or was made with other settings."""

    def __init__(self, path: Path | str, facts: Mapping[str, str]) -> None:
        self._path = str(path)
        self._guard = _lock(self._path)
        self._log = -1
        try:
            self._db = open_file(self._path, _SCHEMA, "the sandbox's")
        except BaseException:
            self._unlock()
            raise
        try:
            self._check_facts(facts)
        except BaseException:
            self.close()
            raise

    def load(self) -> tuple[EngineState, VenueCursor, Books, dict[str, KeyUse]] | None:
        """Return everything as of the last commit; None for a new file."""
        parts = dict(self._rows("SELECT name, value FROM parts"))
        if "engine" not in parts or "cursor" not in parts:
            return None
        try:
            engine = msgspec.json.decode(parts["engine"], type=EngineState)
            cursor = msgspec.json.decode(parts["cursor"], type=VenueCursor)
            uses = {
                key: msgspec.json.decode(text, type=KeyUse)
                for key, text in self._rows("SELECT key, record FROM keys")
            }
            orders, trades, ledger = _read_rows(self._db)
        except msgspec.MsgspecError as error:
            raise self._failure(error) from None
        return engine, cursor, Books(orders, trades, ledger), uses

    def commit(
        self,
        cursor: VenueCursor,
        books: Books,
        *,
        engine: EngineState | None,
        keys: Mapping[str, KeyUse],
        is_full: bool,
    ) -> None:
        """Write what has changed in one transaction; `is_full`: it survives a power cut."""
        self._run("BEGIN IMMEDIATE")
        for row in books.changed_orders.values():
            self._run(
                "REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?)",
                (
                    row.txid,
                    row.number,
                    row.client_id,
                    row.last.status,
                    plain(row.last.executed),
                    _text(row),
                ),
            )
        for trade in books.new_trades:
            values = (trade.trade_id, trade.number, trade.txid, _text(trade))
            self._run("INSERT INTO trades VALUES (?, ?, ?, ?)", values)
        for entry in books.new_ledger:
            values = (entry.ledger_id, entry.number, entry.asset, _text(entry))
            self._run("INSERT INTO ledger VALUES (?, ?, ?, ?)", values)
        for key, use in keys.items():
            self._run("REPLACE INTO keys VALUES (?, ?)", (key, _text(use)))
        if engine is not None:
            self._run("REPLACE INTO parts VALUES ('engine', ?)", (_text(engine),))
        self._run("REPLACE INTO parts VALUES ('cursor', ?)", (_text(cursor),))
        self._run("COMMIT")
        books.forget_changes()
        if is_full:
            self._sync()

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._db.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._unlock()

    def _unlock(self) -> None:
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1

    def _sync(self) -> None:
        log = f"{self._path}-wal"
        if self._log < 0 and Path(log).exists():
            self._log = os.open(log, os.O_RDONLY)
        if self._log >= 0:
            os.fsync(self._log)

    def _run(self, sql: str, values: Sequence[Any] = ()) -> None:
        try:
            self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _rows(self, sql: str) -> list[Any]:
        try:
            return self._db.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(f"the sandbox's file {self._path} failed: {error}")

    def _check_facts(self, facts: Mapping[str, str]) -> None:
        known = dict(self._rows("SELECT name, value FROM facts"))
        if not known:
            self._run("BEGIN IMMEDIATE")
            for fact in facts.items():
                self._run("INSERT INTO facts VALUES (?, ?)", fact)
            self._run("COMMIT")
            return
        differences = [
            f"{name} was {known.get(name, 'unset')}, is now {facts.get(name, 'unset')}"
            for name in sorted(known.keys() | facts.keys())
            if known.get(name) != facts.get(name)
        ]
        if differences:
            raise StoreError(
                f"the sandbox's file {self._path} was made with other settings: "
                f"{'; '.join(differences)}. Use them again, or another file"
            )


def read_truth(path: Path | str) -> Truth:
    """Return everything in a sandbox's file as of its last commit. Raises StoreError."""
    if not Path(path).is_file():
        raise StoreError(f"{path} does not exist: no sandbox wrote it")
    try:
        db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            orders, trades, ledger = _read_rows(db)
        finally:
            db.close()
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    balances: dict[str, Decimal] = {entry.asset: entry.balance for entry in ledger}
    return Truth(
        orders=tuple(orders), trades=tuple(trades), ledger=tuple(ledger), balances=balances
    )


def _read_rows(
    db: sqlite3.Connection,
) -> tuple[list[OrderRow], list[TradeRow], list[LedgerRow]]:
    def rows(table: str, kind: Any) -> list[Any]:
        found = db.execute(f"SELECT record FROM {table} ORDER BY number")
        return [msgspec.json.decode(text, type=kind) for (text,) in found]

    return rows("orders", OrderRow), rows("trades", TradeRow), rows("ledger", LedgerRow)


def _text(record: msgspec.Struct) -> str:
    return _encode(record).decode()


def _lock(path: str) -> int:
    """Return a descriptor that holds the file for this process alone; -1 for none in memory.

    To be closed after the database: closing it gives up SQLite's own locks too.
    """
    if path == ":memory:":
        return -1
    try:
        guard = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"the sandbox's file {path} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(guard)
        raise StoreError(f"the sandbox's file {path} is used by another sandbox") from None
    return guard
