"""Where the daemon keeps its books: SQLite on disk, or memory for proofs and backtests."""
