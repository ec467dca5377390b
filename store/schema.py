"""The database schema as numbered migrations. Append only; a released migration never changes."""

MIGRATIONS: tuple[tuple[int, str, str], ...] = (
    (
        1,
        "first schema",
        """
        CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
        CREATE TABLE journal (
            seq INTEGER PRIMARY KEY, time REAL NOT NULL, schema INTEGER NOT NULL,
            event TEXT NOT NULL, actions TEXT
        ) STRICT;
        CREATE TABLE state (
            id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, state TEXT NOT NULL,
            params TEXT NOT NULL
        ) STRICT;
        CREATE TABLE snapshots (
            seq INTEGER PRIMARY KEY, time REAL NOT NULL, state TEXT NOT NULL, params TEXT NOT NULL
        ) STRICT;
        CREATE TABLE orders (
            client_order_id TEXT PRIMARY KEY, slot_id INTEGER NOT NULL, trade_id TEXT NOT NULL,
            role TEXT NOT NULL, side TEXT NOT NULL, price TEXT NOT NULL, volume TEXT NOT NULL,
            cycle INTEGER NOT NULL, attempt INTEGER NOT NULL, chain TEXT NOT NULL,
            deadline REAL NOT NULL, placed_at REAL NOT NULL, status TEXT NOT NULL, txid TEXT,
            detail TEXT, closed_at REAL
        ) STRICT;
        CREATE TABLE executions (
            execution_id TEXT PRIMARY KEY, client_order_id TEXT NOT NULL, txid TEXT NOT NULL,
            slot_id INTEGER NOT NULL, trade_id TEXT NOT NULL, role TEXT NOT NULL,
            cycle INTEGER NOT NULL, side TEXT NOT NULL, price TEXT NOT NULL, volume TEXT NOT NULL,
            cost TEXT NOT NULL, fee TEXT NOT NULL, fee_asset TEXT NOT NULL,
            is_maker INTEGER NOT NULL, executed_at REAL NOT NULL, seq INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX executions_by_order ON executions (client_order_id);
        CREATE TABLE cycles (
            id INTEGER PRIMARY KEY, slot_id INTEGER NOT NULL, trade_id TEXT NOT NULL,
            cycle INTEGER NOT NULL, entry_price TEXT NOT NULL, exit_price TEXT NOT NULL,
            volume TEXT NOT NULL, gross_profit TEXT NOT NULL, entry_fee TEXT NOT NULL,
            exit_fee TEXT NOT NULL, fees TEXT NOT NULL, net_profit TEXT NOT NULL,
            entry_time REAL NOT NULL, exit_time REAL NOT NULL, from_recovery INTEGER NOT NULL,
            regime_at_entry INTEGER, resolution TEXT NOT NULL, seq INTEGER NOT NULL,
            UNIQUE (slot_id, trade_id, cycle)
        ) STRICT;
        CREATE TABLE exit_outcomes (
            cycle_id INTEGER PRIMARY KEY REFERENCES cycles (id), resolution TEXT NOT NULL,
            holding_sec REAL NOT NULL, orphaned_at REAL, entry_price TEXT NOT NULL,
            exit_price TEXT NOT NULL, net_profit TEXT NOT NULL, regime_at_entry INTEGER,
            regime_confidence REAL, regime_bias_signal REAL, against_trend INTEGER,
            regime_tier INTEGER
        ) STRICT;
        CREATE TABLE equity (
            seq INTEGER PRIMARY KEY, time REAL NOT NULL, equity TEXT NOT NULL, hold TEXT NOT NULL,
            usd TEXT NOT NULL, doge TEXT NOT NULL, half TEXT NOT NULL, grid_profit TEXT NOT NULL,
            fees TEXT NOT NULL, mark TEXT NOT NULL, is_daily INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE ledger_entries (
            seq INTEGER NOT NULL, posting INTEGER NOT NULL, line INTEGER NOT NULL,
            time REAL NOT NULL, reason TEXT NOT NULL, account TEXT NOT NULL, amount TEXT NOT NULL,
            PRIMARY KEY (seq, posting, line)
        ) STRICT;
        CREATE TABLE transitions (
            seq INTEGER NOT NULL, line INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL,
            name TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (seq, line)
        ) STRICT;
        CREATE TABLE operator_log (
            seq INTEGER PRIMARY KEY, time REAL NOT NULL, command_id TEXT NOT NULL,
            command TEXT NOT NULL, is_accepted INTEGER NOT NULL, message TEXT NOT NULL
        ) STRICT;
        CREATE INDEX operator_log_by_command ON operator_log (command_id);
        CREATE TABLE events (
            seq INTEGER NOT NULL, line INTEGER NOT NULL, time REAL NOT NULL, level TEXT NOT NULL,
            kind TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (seq, line)
        ) STRICT;
        """,
    ),
    (
        2,
        "rows to replicate",
        """
        CREATE TABLE outbox (
            id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, key ANY NOT NULL,
            time REAL NOT NULL, row TEXT, UNIQUE (name, key)
        ) STRICT;
        CREATE INDEX outbox_in_order ON outbox (name, id);
        CREATE TABLE outbox_dropped (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
        """,
    ),
    (
        3,
        "opinions",
        """
        CREATE TABLE opinions (
            id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, time REAL NOT NULL,
            asked_at REAL NOT NULL, cause TEXT NOT NULL, panelist TEXT NOT NULL, error TEXT,
            recommended_tier INTEGER NOT NULL, recommended_direction TEXT NOT NULL,
            conviction INTEGER NOT NULL, rationale TEXT NOT NULL, watch_for TEXT NOT NULL,
            suggested_ttl_minutes INTEGER NOT NULL, agreement TEXT NOT NULL,
            mechanical_tier INTEGER NOT NULL, mechanical_direction TEXT NOT NULL, price TEXT,
            scored_at REAL, price_after TEXT, advised_outcome TEXT, mechanical_outcome TEXT
        ) STRICT;
        CREATE INDEX opinions_in_order ON opinions (seq);
        """,
    ),
    (
        4,
        "executions by time",
        "CREATE INDEX executions_by_time ON executions (executed_at);",
    ),
)
SCHEMA_VERSION = MIGRATIONS[-1][0]
