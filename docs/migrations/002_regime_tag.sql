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
