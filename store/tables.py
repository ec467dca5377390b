"""What is replicated: the tables of the replica, their columns and natural keys.

The migrations in `docs/migrations` make these tables; a test compares the two. `run`, the database
a row came from, is a column of each and the first of every key; of candles, which are the same for
all, it is not.
"""

from typing import Any, Literal, NamedTuple

Kind = Literal["text", "integer", "bigint", "numeric", "double precision", "boolean"]
REMOTE_VERSION = 4
MIGRATION_FILES = {
    1: "001_first_schema.sql", 2: "002_regime_tag.sql", 3: "003_candles.sql", 4: "004_opinions.sql",
}  # fmt: skip


class Table(NamedTuple):
    """One table of the replica; rows come from the table of the same name in the local database.

    `source` is the local column that the outbox names rows by; one name may stand for several
    rows. None: the outbox holds the row itself. `is_shared`: its rows are of no run in particular.
    """

    name: str
    key: tuple[str, ...]
    columns: dict[str, Kind]
    source: str | None
    is_shared: bool = False

    @property
    def all_columns(self) -> dict[str, Kind]:
        """Return the columns as they are there, `run` too."""
        return self.columns if self.is_shared else {"run": "text", **self.columns}

    def row(self, run: str, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return a row as it is sent, from local values in the order of the columns."""
        pairs = zip(self.columns, values, strict=True)
        return {"run": run} | {name: self._sent(name, value) for name, value in pairs}

    def _sent(self, name: str, value: Any) -> Any:
        if self.columns[name] == "boolean" and value is not None:
            return bool(value)
        # PostgreSQL keeps no NUL in a text; one that slipped in must not hold up all that follows.
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _columns(**kinds: str) -> dict[str, Kind]:
    """Return columns in the order of their names within each kind."""
    words: dict[str, Kind] = {
        "text": "text", "integer": "integer", "bigint": "bigint", "numeric": "numeric",
        "times": "double precision", "boolean": "boolean",
    }  # fmt: skip
    return {name: words[kind] for kind, names in kinds.items() for name in names.split()}


RUNS = Table(
    name="runs", key=("run",), source=None,
    columns=_columns(text="bot venue pair program restored_from", integer="epoch"),
)  # fmt: skip
SNAPSHOTS = Table(
    name="snapshots", key=("run", "day"), source=None,
    columns=_columns(
        text="state params", integer="day schema", bigint="seq", times="time written_at",
    ),
)  # fmt: skip
TABLES = (
    Table(
        name="orders", key=("run", "client_order_id"), source="client_order_id",
        columns=_columns(
            text="client_order_id trade_id role side chain status txid detail",
            integer="slot_id cycle attempt", numeric="price volume",
            times="deadline placed_at closed_at",
        ),
    ),
    Table(
        name="executions", key=("run", "execution_id"), source="execution_id",
        columns=_columns(
            text="execution_id client_order_id txid trade_id role side fee_asset",
            integer="slot_id cycle", bigint="seq", numeric="price volume cost fee",
            times="executed_at", boolean="is_maker",
        ),
    ),
    Table(
        name="cycles", key=("run", "id"), source="id",
        columns=_columns(
            text="trade_id resolution", integer="slot_id cycle regime_at_entry", bigint="id seq",
            numeric="entry_price exit_price volume gross_profit entry_fee exit_fee fees net_profit",
            times="entry_time exit_time", boolean="from_recovery",
        ),
    ),
    Table(
        name="exit_outcomes", key=("run", "cycle_id"), source="cycle_id",
        columns=_columns(
            text="resolution", integer="regime_at_entry regime_tier", bigint="cycle_id",
            numeric="entry_price exit_price net_profit",
            times="holding_sec orphaned_at regime_confidence regime_bias_signal",
            boolean="against_trend",
        ),
    ),
    Table(
        name="transitions", key=("run", "seq", "line"), source="seq",
        columns=_columns(text="kind name detail", integer="line", bigint="seq", times="time"),
    ),
    Table(
        name="opinions", key=("run", "id"), source="id",
        columns=_columns(
            text="cause panelist error recommended_direction rationale watch_for agreement "
            "mechanical_direction advised_outcome mechanical_outcome",
            integer="recommended_tier conviction suggested_ttl_minutes mechanical_tier",
            bigint="id seq", numeric="price price_after", times="time asked_at scored_at",
        ),
    ),
    Table(
        name="operator_log", key=("run", "seq"), source="seq",
        columns=_columns(
            text="command_id command message", bigint="seq", times="time", boolean="is_accepted"
        ),
    ),
    Table(
        name="ledger_entries", key=("run", "seq", "posting", "line"), source="seq",
        columns=_columns(
            text="reason account", integer="posting line", bigint="seq", numeric="amount",
            times="time",
        ),
    ),
    Table(
        name="equity", key=("run", "time"), source=None,
        columns=_columns(
            numeric="equity hold usd doge half grid_profit fees mark", times="time",
        ),
    ),
)  # fmt: skip
CANDLES = Table(
    name="candles", key=("pair", "interval", "time"), source=None, is_shared=True,
    columns=_columns(text="pair", times="interval time open high low close volume trades"),
)  # fmt: skip
BY_NAME = {table.name: table for table in (*TABLES, RUNS, SNAPSHOTS, CANDLES)}
