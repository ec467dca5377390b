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
