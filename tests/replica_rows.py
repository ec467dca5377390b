"""The rows of a database and those of its replica, side by side."""

import sqlite3
from pathlib import Path

from store.tables import TABLES
from tests.postgrest_shim import Shim


def local(path: Path, query: str) -> list[str]:
    """Return rows of the database as text."""
    with sqlite3.connect(path) as db:
        return ["|".join(map(text, row)) for row in db.execute(query)]


def text(value: object) -> str:
    """Return a value as PostgreSQL writes it."""
    return "" if value is None else str(value).removesuffix(".0" * isinstance(value, float))


def differences(path: Path, shim: Shim) -> list[str]:
    """Return the tables that are not the same here and there, every column to the digit."""
    found = []
    for table in TABLES:
        if table.source is None:
            continue
        here = local(path, f"SELECT {', '.join(table.columns)} FROM {table.name}")
        flags = {x: f"{x}::integer" for x, kind in table.columns.items() if kind == "boolean"}
        columns = ", ".join(flags.get(x, x) for x in table.columns)
        there = shim.sql(f"select {columns} from {table.name}").splitlines()
        if sorted(here) != sorted(there):
            found.append(f"{table.name}: {sorted(set(here) ^ set(there))[:4]}")
    return found
