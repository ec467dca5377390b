"""Read-only history for the dashboard: its own connections, safe from any thread.

Nothing here writes, and no read that fails returns nothing: it raises StoreError.
"""

import json
from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.domain import Audit, Instrument
from core.params import RiskBasis
from core.record import plain
from store import codec
from store.chart import CandleChart
from store.progress import answered, followed
from store.reader import Reader
from store.rows import RECENT_CYCLES, audit

FILLS_READ = 500  # the newest, however many there are
PAGE_ROWS = 1000  # of a table that is read as a whole, at a time
_PCT_STEP = Decimal("0.001")
_OPINION = (
    "id, time AS at, panelist, error, recommended_tier, recommended_direction, conviction, "
    "agreement, mechanical_tier, mechanical_direction, advised_outcome, mechanical_outcome"
)
_CYCLE = (
    "id, slot_id, trade_id, cycle, entry_price, exit_price, volume, gross_profit, entry_fee, "
    "exit_fee, fees, net_profit, entry_time, exit_time, from_recovery, regime_at_entry, resolution"
)
_EXECUTION = (
    "executed_at AS time, execution_id, client_order_id, slot_id, trade_id, role, side, price, "
    "volume, cost, fee, fee_asset, is_maker"
)
# `usd`, the value of doing nothing in quote, rises by each flow at its value when it came, and by
# nothing else: what it has risen are the flows so far.
_EQUITY = """
WITH start AS (SELECT CAST(usd AS REAL) AS usd FROM equity ORDER BY seq LIMIT 1),
net AS (
    SELECT seq, time, start.usd AS start, equity - (equity.usd - start.usd) AS equity,
        CASE :is_account WHEN 1 THEN start.usd ELSE hold - (equity.usd - start.usd) END AS basis
    FROM equity, start
),
indexed AS (SELECT seq, time, iif(basis > 0, equity / basis, 1.0) AS value FROM net),
fallen AS (
    SELECT seq, time, 1 - value / max(1.0, max(value) OVER (ORDER BY seq)) AS fall FROM indexed
),
told AS (
    SELECT max(seq) AS seq, max(fall) AS fall FROM fallen WHERE time >= :since
    GROUP BY iif(:per_sec > 0, min(CAST((time - :first) * :per_sec AS INTEGER), :last), seq)
)
SELECT time, equity, hold, usd, doge, half, grid_profit, fees, mark,
    round(100 * max(0.0, fall), 4) AS drawdown_pct
FROM told JOIN equity USING (seq) ORDER BY seq
"""


class SqliteHistory:
    """Reads the store's file while the daemon writes it, and the candles of `chart`, if given."""

    def __init__(self, path: Path, chart: CandleChart | None = None) -> None:
        self._path = path
        self._chart = chart
        self._reader = Reader(path)
        self._rows = self._reader.rows

    def candles(
        self, interval: float, limit: int, before: float | None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return candles of the run's market; see `CandleChart.candles`."""
        return (
            (interval, []) if self._chart is None else self._chart.candles(interval, limit, before)
        )

    def recent_events(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest operator-visible events, newest first: time, kind, level, text."""
        query = "SELECT time, kind, level, text FROM events ORDER BY seq DESC, line DESC LIMIT ?"
        return self._rows(query, (limit,))

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return equity points from `since` on, oldest first, and whether they were thinned.

        More than `limit` are thinned evenly in time: each stands for a stretch that ends with it,
        the newest for the last one. Deposits and withdrawals are part of `equity` and `hold`, at
        the mark, as accounting tells them, and step both. `drawdown_pct` is without them: the fall
        of the risk index (`risk.risk_index`, RISK_BASIS as it is now) from its highest since the
        start of the run; flows of base count with their value when they came. A thinned point
        tells the deepest of its stretch. Resets of the risk peak are not followed.
        """
        at = -1e18 if since is None else since
        query = (
            "SELECT count(*) AS count, min(time) AS first, max(time) AS last FROM equity "
            "WHERE time >= ?"
        )
        found = self._rows(query, (at,))[0]
        is_thinned = found["count"] > limit
        span = found["last"] - found["first"] if is_thinned else 0.0
        values = {
            "is_account": self.kelly_params().get("risk_basis") == RiskBasis.ACCOUNT,
            "since": at,
            "first": found["first"],
            "per_sec": limit / span if span else 0.0,
            "last": limit - 1,
        }
        return self._rows(_EQUITY, values), is_thinned

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

    def cycles(self, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Return completed cycles booked before that of the id `before`, newest first."""
        query = f"SELECT {_CYCLE} FROM cycles WHERE id < ? ORDER BY id DESC LIMIT ?"
        return self._rows(query, (2**62 if before is None else before, limit))

    def cycles_ended(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield cycles that ended from `since` on and before `until`, in the order of booking.

        They are read a page at a time: what is booked meanwhile may come too.
        """
        query = (
            f"SELECT {_CYCLE} FROM cycles WHERE id > ? AND exit_time >= ? AND exit_time < ? "
            "ORDER BY id LIMIT ?"
        )
        return self._paged(query, since, until)

    def executions(self, since: float | None, limit: int) -> list[dict[str, Any]]:
        """Return the newest executions of those from `since` on, oldest first."""
        query = (
            f"SELECT {_EXECUTION} FROM executions WHERE executed_at >= ? "
            "ORDER BY executed_at DESC, rowid DESC LIMIT ?"
        )
        return self._rows(query, (-1e18 if since is None else since, limit))[::-1]

    def executions_between(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield executions from `since` on and before `until`, in the order of booking."""
        query = (
            f"SELECT rowid AS id, cycle, txid, {_EXECUTION} FROM executions "
            "WHERE rowid > ? AND time >= ? AND time < ? ORDER BY rowid LIMIT ?"
        )
        return self._paged(query, since, until)

    def _paged(self, query: str, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield what a query finds after an id, between two times, page by page."""
        after = 0
        while page := self._rows(query, (after, since, until, PAGE_ROWS)):
            yield from page
            after = page[-1]["id"]

    def assets(self) -> tuple[str, str]:
        """Return the names of base and quote."""
        found = self._rows("SELECT json_extract(state, '$.instrument') AS text FROM state")
        own = Instrument.from_dict(json.loads(found[0]["text"])) if found else Instrument()
        return own.base, own.quote

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
        """Return one order's life with its size chain and executions, or None.

        `entry` is what an exit closes: id and size chain of the last entry order of its cycle.
        """
        found = self._rows("SELECT * FROM orders WHERE client_order_id = ?", (client_order_id,))
        if not found:
            return None
        order = found[0]
        order["chain"] = json.loads(order["chain"])
        executions = self._rows(
            "SELECT execution_id, price, volume, cost, fee, is_maker, executed_at FROM executions "
            "WHERE client_order_id = ? ORDER BY executed_at",
            (client_order_id,),
        )
        order["entry"] = None if order["role"] == "entry" else self._entry_of(order)
        order["executions"] = [x | {"is_maker": bool(x["is_maker"])} for x in executions]
        return order

    def _entry_of(self, exit_: dict[str, Any]) -> dict[str, Any] | None:
        query = (
            "SELECT client_order_id, chain FROM orders WHERE slot_id = ? AND trade_id = ? "
            "AND cycle = ? AND role = 'entry' ORDER BY placed_at DESC LIMIT 1"
        )
        found = self._rows(query, tuple(exit_[x] for x in ("slot_id", "trade_id", "cycle")))
        return {**found[0], "chain": json.loads(found[0]["chain"])} if found else None

    def audit(self) -> Audit | None:
        """Return how the books differ from what all executions say, None before there are any.

        Both are of one instant: of the step that changed the state last.
        """
        with self._reader.one_instant() as read:
            row = read("SELECT seq, state, params FROM state").fetchone()
            return None if row is None else audit(codec.decode_loaded(*row), read)

    def reply(self, command_id: str) -> dict[str, Any] | None:
        """Return a command and what was answered, or None if it is unknown.

        `changed` and `field` are as they were answered; empty once the journal row is pruned.
        """
        found = self._rows(
            "SELECT seq, time, command_id, command, is_accepted, message FROM operator_log "
            "WHERE command_id = ? ORDER BY seq DESC LIMIT 1",
            (command_id,),
        )
        return found[0] | answered(self._rows, found[0]["seq"]) if found else None

    def command(self, command_id: str) -> dict[str, Any] | None:
        """Return a command, what was answered and what has followed, or None if it is unknown."""
        reply = self.reply(command_id)
        return None if reply is None else followed(self._rows, reply)


def _change_pct(before: str | None, after: str | None) -> str | None:
    """Return the change between two prices in percent of the first, to a thousandth."""
    if before is None or after is None or not Decimal(before):
        return None
    change = (Decimal(after) / Decimal(before) - 1) * 100
    return plain(change.quantize(_PCT_STEP) + 0)  # + 0: nothing is "-0.000"
