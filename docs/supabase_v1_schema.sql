-- The complete schema of the replica, for a new Supabase project: run it once in the SQL editor.
-- Generated from docs/migrations by: python -m tools.supabase_schema

-- 001 First schema: the copy of the books that the daemon keeps.
-- Safe to run again. Run it in the SQL editor of the project, as its owner.
-- Times are seconds since 1970 (UTC); amounts are exact; `run` is the database a row came from.
begin;

create table if not exists public.replica_schema (
    version integer primary key, name text not null,
    applied_at timestamptz not null default now()
);
create table if not exists public.runs (
    run text primary key, bot text not null, venue text not null, pair text not null,
    epoch integer not null, program text not null, restored_from text
);
-- One row per day, written anew while the day lasts: the newest is where a fresh machine begins.
create table if not exists public.snapshots (
    run text not null, day integer not null, seq bigint not null, time double precision not null,
    written_at double precision not null, schema integer not null, state text not null,
    params text not null,
    primary key (run, day)
);
create table if not exists public.orders (
    run text not null, client_order_id text not null, slot_id integer not null,
    trade_id text not null, role text not null, side text not null, price numeric not null,
    volume numeric not null, cycle integer not null, attempt integer not null,
    chain text not null, deadline double precision not null, placed_at double precision not null,
    status text not null, txid text, detail text, closed_at double precision,
    primary key (run, client_order_id)
);
create table if not exists public.executions (
    run text not null, execution_id text not null, client_order_id text not null,
    txid text not null, slot_id integer not null, trade_id text not null, role text not null,
    cycle integer not null, side text not null, price numeric not null, volume numeric not null,
    cost numeric not null, fee numeric not null, fee_asset text not null,
    is_maker boolean not null, executed_at double precision not null, seq bigint not null,
    primary key (run, execution_id)
);
create table if not exists public.cycles (
    run text not null, id bigint not null, slot_id integer not null, trade_id text not null,
    cycle integer not null, entry_price numeric not null, exit_price numeric not null,
    volume numeric not null, gross_profit numeric not null, entry_fee numeric not null,
    exit_fee numeric not null, fees numeric not null, net_profit numeric not null,
    entry_time double precision not null, exit_time double precision not null,
    from_recovery boolean not null, regime_at_entry integer, resolution text not null,
    seq bigint not null,
    primary key (run, id), unique (run, slot_id, trade_id, cycle)
);
create table if not exists public.exit_outcomes (
    run text not null, cycle_id bigint not null, resolution text not null,
    holding_sec double precision not null, orphaned_at double precision,
    entry_price numeric not null, exit_price numeric not null, net_profit numeric not null,
    regime_at_entry text, regime_confidence double precision,
    regime_bias_signal double precision, against_trend boolean, regime_tier integer,
    primary key (run, cycle_id)
);
create table if not exists public.transitions (
    run text not null, seq bigint not null, line integer not null, time double precision not null,
    kind text not null, name text not null, detail text not null,
    primary key (run, seq, line)
);
create table if not exists public.operator_log (
    run text not null, seq bigint not null, time double precision not null,
    command_id text not null, command text not null, is_accepted boolean not null,
    message text not null,
    primary key (run, seq)
);
create table if not exists public.ledger_entries (
    run text not null, seq bigint not null, posting integer not null, line integer not null,
    time double precision not null, reason text not null, account text not null,
    amount numeric not null,
    primary key (run, seq, posting, line)
);
create table if not exists public.equity (
    run text not null, time double precision not null, equity numeric not null,
    hold numeric not null, usd numeric not null, doge numeric not null, half numeric not null,
    grid_profit numeric not null, fees numeric not null, mark numeric not null,
    primary key (run, time)
);

-- Nobody reads or writes but the service key: row-level security is on and there is no policy.
do $$
declare name text;
begin
    foreach name in array array[
        'replica_schema', 'runs', 'snapshots', 'orders', 'executions', 'cycles', 'exit_outcomes',
        'transitions', 'operator_log', 'ledger_entries', 'equity'
    ] loop
        execute format('alter table public.%I enable row level security', name);
        if exists (select from pg_roles where rolname = 'service_role') then
            execute format('grant select, insert, update on public.%I to service_role', name);
        end if;
    end loop;
end $$;

insert into public.replica_schema (version, name) values (1, 'first schema')
    on conflict (version) do nothing;
commit;
notify pgrst, 'reload schema';

-- 002 Regime tag: exit_outcomes.regime_at_entry becomes 0, 1, 2 (bearish, ranging, bullish) or null.
-- While the column is no integer, its tags are of programs that took them when the exit was booked:
-- they describe the wrong moment. All are nulled, words and numbers, never reinterpreted.
-- Acts only while the column is not integer yet; safe to run again.
begin;

do $$
begin
    if exists (
        select from information_schema.columns
        where table_schema = 'public' and table_name = 'exit_outcomes'
            and column_name = 'regime_at_entry' and data_type <> 'integer'
    ) then
        alter table public.exit_outcomes alter column regime_at_entry drop not null;
        update public.exit_outcomes set regime_at_entry = null where regime_at_entry is not null;
        alter table public.exit_outcomes alter column regime_at_entry drop default;
        alter table public.exit_outcomes alter column regime_at_entry type integer using null;
    end if;
end $$;

insert into public.replica_schema (version, name) values (2, 'regime tag')
    on conflict (version) do nothing;
commit;
notify pgrst, 'reload schema';

-- 003 Candles: the market's, shared by all runs, written where SUPABASE_CANDLES is set.
-- Safe to run again. `interval` and `time` (of the open, since 1970, UTC) are seconds; `trades` is
-- null where unknown; `pair` names the market as the program does.
begin;

create table if not exists public.candles (
    pair text not null, "interval" double precision not null, "time" double precision not null,
    open double precision not null, high double precision not null, low double precision not null,
    close double precision not null, volume double precision not null, trades double precision,
    primary key (pair, "interval", "time")
);
alter table public.candles enable row level security;
do $$
begin
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select, insert, update on public.candles to service_role;
    end if;
end $$;

insert into public.replica_schema (version, name) values (3, 'candles')
    on conflict (version) do nothing;
commit;
notify pgrst, 'reload schema';

-- 004 Opinions: what the AI advisor recommended, and who was right an hour later.
-- Safe to run again. Outcomes are right, wrong or inside (the price moved by less than a round trip of
-- fees); what comes with the score is null until then, `price` where there was no market.
begin;

create table if not exists public.opinions (
    run text not null, id bigint not null, seq bigint not null, "time" double precision not null,
    asked_at double precision not null, cause text not null, panelist text not null, error text,
    recommended_tier integer not null, recommended_direction text not null,
    conviction integer not null, rationale text not null, watch_for text not null,
    suggested_ttl_minutes integer not null, agreement text not null,
    mechanical_tier integer not null, mechanical_direction text not null, price numeric,
    scored_at double precision, price_after numeric, advised_outcome text, mechanical_outcome text,
    primary key (run, id)
);
alter table public.opinions enable row level security;
do $$
begin
    if exists (select from pg_roles where rolname = 'service_role') then
        grant select, insert, update on public.opinions to service_role;
    end if;
end $$;

insert into public.replica_schema (version, name) values (4, 'opinions')
    on conflict (version) do nothing;
commit;
notify pgrst, 'reload schema';
