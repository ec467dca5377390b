"""Read-only history for the dashboard: its own connections, safe from any thread.

Nothing here writes, and no read that fails returns nothing: it raises StoreError.
"""

import json
import sqlite3
import threading
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.ports import StoreError
from core.record import plain
from store.rows import RECENT_CYCLES

FILLS_READ = 500  # the newest, however many there are
_PCT_STEP = Decimal("0.001")
_OPINION = (
    "id, time AS at, panelist, error, recommended_tier, recommended_direction, conviction, "
    "agreement, mechanical_tier, mechanical_direction, advised_outcome, mechanical_outcome"
)


class SqliteHistory:
    """Reads the store's file while the daemon writes it; never blocks the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
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

    def recent_events(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest operator-visible events, newest first: time, kind, level, text."""
        query = "SELECT time, kind, level, text FROM events ORDER BY seq DESC, line DESC LIMIT ?"
        return self._rows(query, (limit,))

    def equity_curve(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest equity points, oldest first."""
        query = (
            "SELECT time, equity, hold, usd, doge, half, grid_profit, fees, mark FROM equity "
            "ORDER BY seq DESC LIMIT ?"
        )
        return self._rows(query, (limit,))[::-1]

    def booked(self, execution_ids: Collection[str]) -> set[str]:
        """Return those of the exchange's execution ids that are booked."""
        found: set[str] = set()
        ids = sorted(execution_ids)
        for first in range(0, len(ids), 500):
            some = ids[first : first + 500]
            marks = ",".join("?" * len(some))
            query = f"SELECT execution_id FROM executions WHERE execution_id IN ({marks})"
            found.update(row["execution_id"] for row in self._rows(query, tuple(some)))
        return found

    def txids(self) -> set[str]:
        """Return the exchange's ids of all our orders."""
        rows = self._rows("SELECT txid FROM orders WHERE txid IS NOT NULL")
        rows += self._rows("SELECT DISTINCT txid FROM executions")
        return {row["txid"] for row in rows}

    def last_executed(self, before: float) -> str | None:
        """Return the exchange's id of the order that executed last before an instant."""
        query = "SELECT txid FROM executions WHERE executed_at < ? ORDER BY executed_at DESC"
        rows = self._rows(f"{query} LIMIT 1", (before,))
        return str(rows[0]["txid"]) if rows else None

    def fills_since(self, at: float) -> int:
        """Return how many of the newest FILLS_READ executions are later than an instant."""
        query = (
            "SELECT count(*) AS count FROM (SELECT executed_at FROM executions "
            "ORDER BY rowid DESC LIMIT ?) WHERE executed_at > ?"
        )
        return int(self._rows(query, (FILLS_READ, at))[0]["count"])

    def cycles(self, limit: int, before: float | None = None) -> list[dict[str, Any]]:
        """Return completed cycles that ended before `before`, newest first."""
        query = "SELECT * FROM cycles WHERE exit_time < ? ORDER BY exit_time DESC, id DESC LIMIT ?"
        return self._rows(query, (before if before is not None else 1e18, limit))

    def kelly_params(self) -> dict[str, Any]:
        """Return the decision parameters in force."""
        found = self._rows("SELECT params FROM state")
        params: dict[str, Any] = json.loads(found[0]["params"]) if found else {}
        return params

    def recent_cycles(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest cycles of each regime at entry, and of all, oldest first."""
        return self._rows(RECENT_CYCLES, (limit,) * 4)

    def sized_cycles(self, since: float) -> list[dict[str, Any]]:
        """Return cycles that ended since then, oldest first, with the chain of their entry.

        Of several entry orders of a cycle the last counts.
        """
        query = (
            "SELECT c.net_profit, c.exit_time, (SELECT o.chain FROM orders AS o WHERE "
            "o.slot_id = c.slot_id AND o.trade_id = c.trade_id AND o.cycle = c.cycle AND "
            "o.role = 'entry' ORDER BY o.placed_at DESC LIMIT 1) AS chain "
            "FROM cycles AS c WHERE c.exit_time >= ? ORDER BY c.id"
        )
        found = self._rows(query, (since,))
        return [row | {"chain": json.loads(row["chain"] or "[]")} for row in found]

    def transitions(self, kind: str, limit: int) -> list[dict[str, Any]]:
        """Return the newest recorded changes of a kind, newest first."""
        query = (
            "SELECT time, name, detail FROM transitions WHERE kind = ? "
            "ORDER BY seq DESC, line DESC LIMIT ?"
        )
        return self._rows(query, (kind, limit))

    def recent_opinions(self, limit: int, *, is_scored: bool = False) -> list[dict[str, Any]]:
        """Return the advisor's newest (scored) opinions, newest first: fields of `PastOpinion`."""
        where = "WHERE scored_at IS NOT NULL" if is_scored else ""
        query = (
            f"SELECT {_OPINION}, price, price_after FROM opinions {where} ORDER BY id DESC LIMIT ?"
        )
        found = self._rows(query, (limit,))
        for row in found:
            row["change_pct"] = _change_pct(row.pop("price"), row.pop("price_after"))
        return found

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        """Return one order's life with its size chain and executions, or None."""
        found = self._rows("SELECT * FROM orders WHERE client_order_id = ?", (client_order_id,))
        if not found:
            return None
        order = found[0]
        order["chain"] = json.loads(order["chain"])
        order["executions"] = self._rows(
            "SELECT execution_id, price, volume, cost, fee, is_maker, executed_at FROM executions "
            "WHERE client_order_id = ? ORDER BY executed_at",
            (client_order_id,),
        )
        return order

    def command(self, command_id: str) -> dict[str, Any] | None:
        """Return what became of a command, or None if it is unknown."""
        found = self._rows(
            "SELECT time, command_id, command, is_accepted, message FROM operator_log "
            "WHERE command_id = ? ORDER BY seq DESC LIMIT 1",
            (command_id,),
        )
        return found[0] if found else None


def _change_pct(before: str | None, after: str | None) -> str | None:
    """Return the change between two prices in percent of the first, to a thousandth."""
    if before is None or after is None or not Decimal(before):
        return None
    change = (Decimal(after) / Decimal(before) - 1) * 100
    return plain(change.quantize(_PCT_STEP) + 0)  # + 0: nothing is "-0.000"
