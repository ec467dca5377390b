"""What serves the reducer: upkeep, risk watch, entries, operator commands, invariants. All pure."""
