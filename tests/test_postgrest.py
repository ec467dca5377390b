"""The replica's schema and door against a real PostgreSQL."""

import pytest

from core.ports import ConfigError
from store.supabase import RemoteError, Supabase
from store.tables import BY_NAME, RUNS
from tests.postgrest_shim import PUBLIC_KEY, SERVICE_KEY, Postgres, Shim, door
from tools.supabase_schema import migrations, schema

pytestmark = pytest.mark.slow

RUN = {
    "run": "r1", "bot": "grid", "venue": "paper", "pair": "DOGE/USD", "epoch": 7, "program": "0",
}  # fmt: skip
POINT = dict.fromkeys(BY_NAME["equity"].columns, "1.10") | {"run": "r1", "time": 60.0}
OLD = """
alter table exit_outcomes alter column regime_at_entry type text;
delete from replica_schema where version > 1;
insert into exit_outcomes (run, cycle_id, resolution, holding_sec, entry_price, exit_price,
    net_profit, regime_at_entry) values
    ('r1', 1, 'filled', 1, 1, 1, 1, 'BULLISH'), ('r1', 2, 'filled', 1, 1, 1, 1, ' 2'),
    ('r1', 3, 'filled', 1, 1, 1, 1, null), ('r1', 4, 'filled', 1, 1, 1, 1, '0'),
    ('r1', 5, 'filled', 1, 1, 1, 1, '7'), ('r1', 6, 'filled', 1, 1, 1, 1, '');
"""
TAGS = "select string_agg(coalesce(regime_at_entry::text, '-'), ' ' order by cycle_id)"


def refusal(shim: Shim, key: str = SERVICE_KEY) -> str:
    """Return why a start is refused."""
    with pytest.raises(ConfigError) as caught:
        Supabase(shim.url, key).check(RUN)
    return "\n".join(caught.value.problems)


# ---- the schema ---------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_program(shim: Shim) -> None:
    """Same columns, types and keys; row-level security everywhere, and no policy."""
    for table in BY_NAME.values():
        assert shim.columns(table.name) == table.all_columns
        key = shim.sql(
            "select string_agg(attname, ',' order by array_position(conkey, attnum)) from "
            f"pg_constraint join pg_attribute on attrelid = conrelid and attnum = any (conkey) "
            f"where conrelid = 'public.{table.name}'::regclass and contype = 'p'"
        )
        assert tuple(key.split(",")) == table.key
    count = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
    assert shim.sql(f"{count} and relkind = 'r' and not relrowsecurity") == "0"
    assert shim.sql("select count(*) from pg_policies") == "0"


def test_the_schema_runs_twice(shim: Shim) -> None:
    """Every migration is safe to run again, and changes nothing."""
    Supabase(shim.url, SERVICE_KEY).check(RUN)
    before = shim.sql("select * from replica_schema"), shim.sql("select * from runs")
    shim.sql(schema())
    assert (shim.sql("select * from replica_schema"), shim.sql("select * from runs")) == before


def test_the_regime_tag_becomes_a_number_once(shim: Shim) -> None:
    """Tags of the exit's moment are nulled, numbers too; a second run touches nothing."""
    shim.sql(OLD)
    migration = migrations()[1].read_text()
    shim.sql(migration)
    assert shim.columns("exit_outcomes")["regime_at_entry"] == "integer"
    assert shim.sql(f"{TAGS} from exit_outcomes") == "- - - - - -"
    shim.sql("update exit_outcomes set regime_at_entry = 9 where cycle_id = 1")
    before = shim.sql("select xmin, * from exit_outcomes order by cycle_id")
    shim.sql(migration)
    assert shim.sql("select xmin, * from exit_outcomes order by cycle_id") == before


# ---- the start ----------------------------------------------------------------------------------


def test_a_complete_project_is_taken(shim: Shim) -> None:
    """The check leaves the run's row and can be repeated."""
    for _ in range(2):
        Supabase(shim.url, SERVICE_KEY).check(RUN)
    assert shim.sql("select run, epoch from runs") == "r1|7"


def test_a_project_without_tables_is_refused(postgres: Postgres) -> None:
    """The text names the file to run."""
    with door(postgres, "") as shim:
        assert "run docs/supabase_v1_schema.sql there" in refusal(shim)


def test_an_older_schema_is_refused(shim: Shim) -> None:
    """The text names the migration to run."""
    shim.sql(OLD)
    text = refusal(shim)
    assert text.endswith(
        "has version 1, 4 is needed: run docs/migrations/002_regime_tag.sql, then "
        "docs/migrations/003_candles.sql, then docs/migrations/004_opinions.sql"
    )


def test_a_schema_without_opinions_is_refused_until_it_has_them(postgres: Postgres) -> None:
    """That of version 3 names its one migration; with it, run twice, the start is taken."""
    files = [path.read_text() for path in migrations()]
    with door(postgres, "\n".join(files[:3])) as shim:
        text = refusal(shim)
        assert text.endswith("has version 3, 4 is needed: run docs/migrations/004_opinions.sql")
        for _ in range(2):
            shim.sql(files[3])
        Supabase(shim.url, SERVICE_KEY).check(RUN)


def test_a_missing_column_or_table_is_refused(shim: Shim) -> None:
    """Never stripped: the text names what is missing and what to run."""
    shim.sql("alter table executions drop column fee_asset")
    text = refusal(shim)
    assert "column executions.fee_asset does not exist (42703)" in text
    assert "supabase_v1_schema.sql" in text
    shim.sql("drop table orders")
    assert "Could not find the table 'public.orders'" in refusal(shim)


def test_a_key_without_rights_is_refused(shim: Shim) -> None:
    """The public key sees nothing, one that may only read says so, a wrong one too."""
    assert "use the service key" in refusal(shim, PUBLIC_KEY)
    shim.sql("revoke insert, update on runs from service_role")
    assert "permission denied for table runs (42501)" in refusal(shim)
    shim.sql("revoke all on replica_schema from service_role")
    assert "permission denied for table replica_schema (42501)" in refusal(shim)
    assert "Invalid API key" in refusal(shim, "sb_another_0123456789abcdefghijklmnop")


def test_a_project_that_does_not_answer_is_no_refusal(shim: Shim) -> None:
    """Trading does not wait for it."""
    shim.down = True
    with pytest.raises(RemoteError) as caught:
        Supabase(shim.url, SERVICE_KEY).check(RUN)
    assert caught.value.is_line


# ---- reads and writes ---------------------------------------------------------------------------


def test_reads_page_and_keep_amounts_exact(shim: Shim) -> None:
    """More rows than one answer holds come back all, in order, digit by digit."""
    remote, table = Supabase(shim.url, SERVICE_KEY), BY_NAME["equity"]
    rows = [POINT | {"time": 60.0 * n, "fees": f"0.{n:024d}"} for n in range(2500)]
    for first in range(0, 2500, 500):
        remote.upsert(table, rows[first : first + 500])
    assert list(remote.read(table, equal={"run": "r1"})) == rows
    assert list(remote.read(table, equal={"run": "r2"})) == []


def test_a_write_takes_the_place_of_the_same_key(shim: Shim) -> None:
    """Upserts are idempotent."""
    remote, table = Supabase(shim.url, SERVICE_KEY), BY_NAME["equity"]
    for fees in ("1", "2", "2"):
        remote.upsert(table, [POINT | {"fees": fees}])
    assert [row["fees"] for row in remote.read(table, equal={"run": "r1"})] == ["2"]


def test_unknown_columns_and_odd_answers_are_errors(shim: Shim) -> None:
    """Nothing is stripped; a page of a proxy is no acknowledgement; NaN is never sent."""
    remote, table = Supabase(shim.url, SERVICE_KEY), BY_NAME["equity"]
    with pytest.raises(RemoteError, match="Could not find the 'odd' column of 'equity'"):
        remote.upsert(table, [POINT | {"odd": 1}])
    shim.page = {"equity"}
    with pytest.raises(RemoteError, match="none of Supabase's"):
        remote.upsert(table, [POINT])
    shim.page = set()
    with pytest.raises(RemoteError, match="equity cannot be written"):
        remote.upsert(table, [POINT | {"time": float("nan")}])
    with pytest.raises(RemoteError, match="invalid input syntax for type numeric"):
        remote.upsert(table, [POINT | {"fees": "many"}])
    assert shim.sql("select count(*) from equity") == "0"


def test_the_key_stands_in_no_error(shim: Shim) -> None:
    """Errors are shown and logged."""
    remote = Supabase(shim.url, SERVICE_KEY)
    for shim.down in (False, True):
        with pytest.raises(RemoteError) as caught:
            remote.upsert(RUNS, [RUN | {"odd": 1}])
        assert SERVICE_KEY not in str(caught.value)
