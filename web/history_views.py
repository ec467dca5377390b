"""The history routes: charts, lists, one order's or command's life, and tables for spreadsheets.

Read-only, from the store; money is decimal text, times are seconds since the epoch, UTC. Every
query name that a route does not know is refused. Look next at `store/history.py`.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import parse_qs

from core.regime import LABELS
from web.message import Refusal, instant, number

MINUTE = 60.0
INTERVALS = (1, 5, 15, 60, 240, 1440)  # minutes
CANDLES_MAX, EXECUTIONS_MAX, POINTS_MAX, CYCLES_MAX = 1500, 5000, 10_000, 1000
PRICE_PLACES = 10  # decimals of an average price in a table; an average may have 28
_PRICE_STEP = Decimal(1).scaleb(-PRICE_PLACES)
_PRICES = ("entry_price", "exit_price")
CYCLE_ID_MAX = 999_999_999  # a time that is taken for an id is refused
PART_BYTES = 64 * 1024
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_ENTRY_SIDES = {"A": "sell", "B": "buy"}
Query = Mapping[str, Sequence[str]]


class History(Protocol):
    """What the routes read; every method is safe from any thread and may raise StoreError."""

    def candles(
        self, interval: float, limit: int, before: float | None
    ) -> tuple[float, list[dict[str, Any]]]:
        """Return the interval that could be had, seconds, and closed candles, oldest first."""
        ...

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return equity points, oldest first, and whether they were thinned."""
        ...

    def executions(self, since: float | None, limit: int) -> list[dict[str, Any]]:
        """Return the newest executions, oldest first."""
        ...

    def executions_between(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield all executions of a time, in the order of booking."""
        ...

    def cycles(self, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Return completed cycles booked before that of the id `before`, newest first."""
        ...

    def cycles_ended(self, since: float, until: float) -> Iterator[dict[str, Any]]:
        """Yield all cycles that ended in a time, in the order of booking."""
        ...

    def assets(self) -> tuple[str, str]:
        """Return the names of base and quote."""
        ...

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        """Return one order's life with its size chain, or None if there is none."""
        ...

    def command(self, command_id: str) -> dict[str, Any] | None:
        """Return a command, its reply and what has followed, or None if there is none."""
        ...


def asked(query: str, *names: str) -> Query:
    """Return the parts of a query; raises 400 for a name that is not of `names` or comes twice."""
    try:
        parts = parse_qs(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise Refusal(400, "too many fields", field="query") from None
    for name, values in parts.items():
        told = name.encode("utf-8", "replace").decode()[:40]
        if name not in names:
            allowed = ", ".join(names) or "none"
            raise Refusal(400, f"there is no field {told!r}; allowed: {allowed}", field=told)
        if len(values) > 1:
            raise Refusal(400, f"{told} is given twice", field=told)
    return parts


def candles(history: History, query: str) -> dict[str, Any]:
    """Return closed candles of the market, oldest first; see `CandleChart.candles`.

    `interval`, minutes, is the market's own where that is longer than asked for.
    """
    parts = asked(query, "interval", "limit", "before")
    minutes = parts.get("interval", ["1"])[0]
    if minutes not in map(str, INTERVALS):
        allowed = ", ".join(map(str, INTERVALS))
        raise Refusal(400, f"interval must be one of: {allowed} (minutes)", field="interval")
    limit, before = number(parts, "limit", 500, CANDLES_MAX), instant(parts, "before")
    own, found = history.candles(int(minutes) * MINUTE, limit, before)
    return {"interval": int(own / MINUTE) if own % MINUTE == 0 else own / MINUTE, "candles": found}


def equity(history: History, query: str) -> dict[str, Any]:
    """Return the equity curve; see `SqliteHistory.equity_curve`."""
    parts = asked(query, "since", "limit")
    limit = number(parts, "limit", 1000, POINTS_MAX)
    points, is_thinned = history.equity_curve(instant(parts, "since"), limit)
    return {"points": points, "thinned": is_thinned}


def executions(history: History, query: str) -> dict[str, Any]:
    """Return the newest executions since a time, oldest first; `fee_asset` is base or quote."""
    parts = asked(query, "since", "limit")
    limit = number(parts, "limit", 500, EXECUTIONS_MAX)
    found = history.executions(instant(parts, "since"), limit)
    return {"executions": [row | {"is_maker": bool(row["is_maker"])} for row in found]}


def cycles(history: History, query: str) -> dict[str, Any]:
    """Return completed cycles, booked last first; `next` is the `before` of the next page.

    A cycle has: id, slot_id, trade_id (leg A sells first, B buys first), cycle (its number in the
    leg), entry_price, exit_price (averages), volume in base; gross_profit, entry_fee, exit_fee,
    fees (their sum), net_profit in quote; entry_time, exit_time (last executions), from_recovery,
    regime_at_entry (bearish, ranging, bullish or null) and resolution (how it ended).
    """
    parts = asked(query, "limit", "before")
    limit = number(parts, "limit", 100, CYCLES_MAX)
    before = number(parts, "before", 1, CYCLE_ID_MAX) if "before" in parts else None
    found = history.cycles(limit, before)
    told = [
        row
        | {
            "from_recovery": bool(row["from_recovery"]),
            "regime_at_entry": _label(row["regime_at_entry"]),
        }
        for row in found
    ]
    return {"cycles": told, "next": found[-1]["id"] if len(found) == limit else None}


HISTORY_VIEWS: Mapping[str, Callable[[History, str], dict[str, Any]]] = {
    "/api/candles": candles,
    "/api/equity": equity,
    "/api/executions": executions,
    "/api/cycles": cycles,
}


# ---- one of its kind ----------------------------------------------------------------------------


def one(history: History, parent: str, name: str, query: str) -> dict[str, Any]:
    """Return one order's life, or what has become of one command; raises 404."""
    asked(query)
    found = history.order(name) if parent == "/api/orders" else history.command(name)
    if found is None:
        raise Refusal(404, "not found")
    return found


ONE_OF = ("/api/orders", "/api/commands")


# ---- tables -------------------------------------------------------------------------------------


def cycles_csv(history: History, query: str) -> Iterator[bytes]:
    """Return all cycles that ended from `since` on and before `until`, as CSV in parts.

    Average prices are rounded to PRICE_PLACES decimals; volumes, fees and profits are exact.
    """
    since, until = _span(query)
    base, quote = _units(history)
    header = [
        "id", "slot", "leg", "cycle", "entry_side", "entry_time_utc", "exit_time_utc",
        f"entry_price_{quote}", f"exit_price_{quote}", f"volume_{base}", f"gross_profit_{quote}",
        f"entry_fee_{quote}", f"exit_fee_{quote}", f"fees_{quote}", f"net_profit_{quote}",
        "from_recovery", "regime_at_entry", "resolution",
    ]  # fmt: skip
    rows = (
        [
            x["id"], x["slot_id"], _text(x["trade_id"]), x["cycle"], _ENTRY_SIDES[x["trade_id"]],
            _time(x["entry_time"]), _time(x["exit_time"]), *(_price(x[k]) for k in _PRICES),
            x["volume"], x["gross_profit"], x["entry_fee"], x["exit_fee"], x["fees"],
            x["net_profit"], "yes" if x["from_recovery"] else "no",
            _label(x["regime_at_entry"]) or "", _text(x["resolution"]),
        ]
        for x in history.cycles_ended(since, until)
    )  # fmt: skip
    return _parts(header, rows)


def executions_csv(history: History, query: str) -> Iterator[bytes]:
    """Return all executions from `since` on and before `until`, as CSV in parts."""
    since, until = _span(query)
    base, quote = _units(history)
    header = [
        "time_utc", "execution_id", "client_order_id", "exchange_order_id", "slot", "leg", "cycle",
        "role", "side", f"price_{quote}", f"volume_{base}", f"cost_{quote}", f"fee_{quote}",
        "liquidity",
    ]  # fmt: skip
    rows = (
        [
            _time(x["time"]), _text(x["execution_id"]), _text(x["client_order_id"]),
            _text(x["txid"]), x["slot_id"], _text(x["trade_id"]), x["cycle"], _text(x["role"]),
            _text(x["side"]), x["price"], x["volume"], x["cost"], x["fee"],
            "maker" if x["is_maker"] else "taker",
        ]
        for x in history.executions_between(since, until)
    )  # fmt: skip
    return _parts(header, rows)


TABLES: Mapping[str, Callable[[History, str], Iterator[bytes]]] = {
    "/api/export/cycles.csv": cycles_csv,
    "/api/export/executions.csv": executions_csv,
}


def _span(query: str) -> tuple[float, float]:
    parts = asked(query, "since", "until")
    since, until = instant(parts, "since"), instant(parts, "until")
    return 0.0 if since is None else since, 1e18 if until is None else until


def _units(history: History) -> tuple[str, str]:
    base, quote = history.assets()
    return base.lower(), quote.lower()


def _parts(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[bytes]:
    """Yield a table as RFC 4180 has it, in parts of some 64 KiB."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    for row in rows:
        writer.writerow(row)
        if text.tell() >= PART_BYTES:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _text(value: str) -> str:
    """Return a text that no spreadsheet runs as a formula; none of ours is changed by it."""
    return f"'{value}" if value.startswith(_FORMULA) else value


def _price(value: str) -> str:
    exact = Decimal(value)
    return f"{round(exact, PRICE_PLACES) if exact % _PRICE_STEP else exact:f}"


def _time(value: float) -> str:
    """Return an instant as ISO 8601, UTC, to a millisecond."""
    at = datetime.fromtimestamp(value, UTC)
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _label(regime: int | None) -> str | None:
    return None if regime is None else LABELS[regime]
