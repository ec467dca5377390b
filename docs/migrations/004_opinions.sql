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
