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
from store.restore import own_run
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from store.replica import Replica


def open_replica(settings: config.Settings, store: SqliteStore, market: str) -> "Replica | None":
    """Return the replica, if one is set: checked, not yet started.

    One that does not answer stops nothing. Raises ConfigError, StoreError; it is closed then.
    """
    url, key = settings.supabase_url, settings.supabase_key
    if url is None or key is None:
        return None
    from store.replica import Replica  # noqa: PLC0415 - slow to import, and not needed without
    from store.supabase import Supabase  # noqa: PLC0415

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
        Supabase(url, key),
        settings.state_db,
        address=url,
        run=run,
        rng=Random(settings.seed + 2),
        monotonic=monotonic,
        wall=wall_now,
    )
    try:
        replica.check()
    except BaseException:
        replica.stop()
        raise
    return replica


def replica_checks(settings: config.Settings) -> list[Check]:
    """Return the line of `check` on the replica; none where none is set. Nothing is written."""
    url, key = settings.supabase_url, settings.supabase_key
    if url is None or key is None:
        return []
    from store.supabase import RemoteError, Supabase  # noqa: PLC0415 - slow to import

    try:
        problem = Supabase(url, key).problem()
    except RemoteError as error:
        problem = f"{error}; a run would go on, and its rows wait"
    return [Check(name="replica", is_ok=problem is None, detail=problem or url)]


def forgetting(store: SqliteStore, replica: "Replica") -> Callable[[BotState], None]:
    """Return what deletes, after a commit, the outbox rows that the replica has by now."""
    batches = -1

    def look(_state: BotState) -> None:
        nonlocal batches
        if replica.batches != batches:
            batches = replica.batches
            store.forget_sent(replica.acknowledged())

    return look
