"""Composition of the replica: its client, its thread, and what deletes rows that have arrived.

A program. What the thread does is in `store/replica.py`; the way back in `engine/restore.py`.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import config
from core.state import BotState
from engine.books import Check
from engine.clock import monotonic, wall_now
from engine.restore import copy_venue
from engine.version import VERSION
from settings.variable import path_is
from store.restore import copies_of, disagreement, own_run
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from store.replica import Replica
    from store.supabase import Supabase


def open_remote(settings: config.Settings) -> "Supabase | None":
    """Return the door to the replica, if one is set; nothing is asked yet."""
    url, key = settings.supabase_url, settings.supabase_key
    if url is None or key is None:
        return None
    from store.supabase import Supabase  # noqa: PLC0415 - slow to import, and not needed without

    return Supabase(url, key)


def open_replica(
    settings: config.Settings, remote: "Supabase", store: SqliteStore, market: str
) -> "Replica":
    """Return the replica behind a door, checked, not yet started.

    One that has not answered before is not asked again: its thread does, beside the trading. Raises
    ConfigError, StoreError; it is closed then.
    """
    from store.replica import Replica  # noqa: PLC0415 - slow to import, and not needed without

    epoch, facts = store.identity()
    run = {
        "run": own_run(facts),
        "bot": settings.bot_name,
        "venue": copy_venue(settings, market),
        "pair": settings.pair,
        "epoch": epoch,
        "program": VERSION,
        "restored_from": facts.get("restored_from"),
    }
    replica = Replica(
        remote,
        settings.state_db,
        address=settings.supabase_url or "",
        run=run,
        rng=Random(settings.seed + 2),
        monotonic=monotonic,
        wall=wall_now,
    )
    try:
        if remote.is_complete:
            replica.check()
    except BaseException:
        replica.stop()
        raise
    return replica


def replica_checks(settings: config.Settings, market: str) -> list[Check]:
    """Return the line of `check` on the replica; none where none is set. Nothing is written.

    `market` is the market's name.
    """
    remote = open_remote(settings)
    if remote is None:
        return []
    from store.supabase import RemoteError  # noqa: PLC0415 - slow to import

    detail = settings.supabase_url or ""
    try:
        problem = remote.problem()
        if problem is None:
            problem, told = _copy_check(settings, remote, market)
            detail += told
    except RemoteError as error:
        problem = f"{error}; a run would go on, and its rows wait"
    return [Check(name="replica", is_ok=problem is None, detail=problem or detail)]


def _copy_check(
    settings: config.Settings, remote: "Supabase", market: str
) -> tuple[str | None, str]:
    """Return why a start would ask whose word counts, if so, and what it would put back.

    Raises RemoteError.
    """
    venue = copy_venue(settings, market)
    copies = copies_of(remote, bot=settings.bot_name, venue=venue, pair=settings.pair)
    if not copies:
        return None, ""
    if path_is(settings.state_db, "there"):
        return disagreement(settings.state_db, copies), ""
    return None, f"; a start makes the database anew from the copy (step {copies[0].seq:,})"


def forgetting(store: SqliteStore, replica: "Replica") -> Callable[[BotState], None]:
    """Return what deletes, after a commit, the outbox rows that the replica has by now."""
    batches, is_done = -1, False

    def look(_state: BotState) -> None:
        nonlocal batches, is_done
        if replica.batches != batches or not is_done:
            batches = replica.batches
            is_done = store.forget_sent(replica.acknowledged())

    return look
