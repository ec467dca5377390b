"""Writes the complete schema of the replica from its migrations.

`python -m tools.supabase_schema` writes `docs/supabase_v1_schema.sql`; every migration is safe to
run again, so the whole is, too.
"""

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
TARGET = DOCS / "supabase_v1_schema.sql"
HEAD = """\
-- The complete schema of the replica, for a new Supabase project: run it once in the SQL editor.
-- Generated from docs/migrations by: python -m tools.supabase_schema
"""


def migrations() -> list[Path]:
    """Return the migrations in the order they are run in."""
    return sorted((DOCS / "migrations").glob("[0-9][0-9][0-9]_*.sql"))


def schema() -> str:
    """Return the text of all migrations, one after another."""
    return "\n".join([HEAD, *(path.read_text(encoding="utf-8") for path in migrations())])


if __name__ == "__main__":
    TARGET.write_text(schema(), encoding="utf-8")
