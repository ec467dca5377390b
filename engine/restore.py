"""The start on an empty disk, and whose word counts: the database's or its copy's. A program.

With a replica set, a run begins only once it is known what that has: a database that is lost is
made anew from its newest copy, and one that its copy disagrees with stops the start and asks.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

import config
from core.events import RestoreBegun
from core.ports import ConfigError, StartRefused
from core.record import Record
from engine.clock import monotonic, wall_now
from engine.live import VENUE, venue_of
from engine.runtime import Runtime
from settings.variable import path_is
from store import codec, restore
from store.lock import StoreLock
from store.replica import replica_db
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from store.supabase import Supabase

log = logging.getLogger("restore")

StateChoice = Literal["local", "remote"]
RETRY_SEC = 5.0
ASK_SEC = 10.0
LOOK_SEC = 0.2
PAPER_START = "paper_start"  # fact: what a paper exchange that begins anew begins with


class Choice(Record, frozen=True, kw_only=True):
    """What the operator says on the command line about whose word counts."""

    state: StateChoice | None = None
    adopt_epoch: bool = False


AS_IT_IS = Choice()


class _Stopped(Exception):
    """The daemon is to end while a copy is read."""


class PaperStart(Record, frozen=True, kw_only=True):
    """What a paper exchange begins with whose file was lost: the balances of the state at `seq`."""

    base: str
    quote: str
    seq: int


def copy_venue(settings: config.Settings, market: str) -> str:
    """Return in plain words where a run trades: a copy is put back at the same place only."""
    venue = venue_of(settings)
    return venue if settings.mode == "live" else f"{venue}, {market}"


def settle_state(
    settings: config.Settings,
    remote: "Supabase | None",
    market: str,
    choice: StateChoice | None,
    *,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> bool:
    """Have the database that the run is to go on with; False: stopped while waiting for the copy.

    A database that is there does not wait long for a copy that does not answer. Raises ConfigError,
    StartRefused, StoreError, StoreInUse.
    """
    if remote is None:
        if choice is not None:
            raise ConfigError([f"--state {choice}: there is no copy: SUPABASE_URL is not set"])
        return True
    is_there = path_is(settings.state_db, "there")
    if not is_there and choice == "local":
        _ask(settings, remote, market, stopping)  # whether it can be written
        return not stopping.is_set()
    while True:
        copies = _ask(settings, remote, market, stopping)
        if stopping.is_set():
            return False
        if isinstance(copies, list):
            try:
                trouble = _settle(
                    settings, remote, copies, choice, is_there=is_there, say=say, stopping=stopping
                )
            except _Stopped:
                return False
            if trouble is None:
                return True
        else:
            trouble = copies
        if is_there and choice != "remote":
            log.warning("whether the copy agrees is not known: %s", trouble)
            return True
        say(f"the copy at Supabase, which may hold a run to go on with ({trouble})")
        if stopping.wait(RETRY_SEC):
            return False


def _ask(
    settings: config.Settings, remote: "Supabase", market: str, stopping: threading.Event
) -> list[restore.Copy] | str:
    """Return the copies there are, or why they are not told; after ASK_SEC at most.

    Raises ConfigError.
    """
    from store.supabase import RemoteError  # noqa: PLC0415 - slow to import

    found: list[list[restore.Copy] | str | ConfigError] = []

    def ask() -> None:
        try:
            problem = remote.problem()
            if problem is not None:
                found.append(ConfigError([problem]))
                return
            venue = copy_venue(settings, market)
            found.append(
                restore.copies_of(remote, bot=settings.bot_name, venue=venue, pair=settings.pair)
            )
        except RemoteError as error:
            found.append(str(error))

    asking = threading.Thread(target=ask, name="copies", daemon=True)
    asking.start()
    until = monotonic() + ASK_SEC  # a line that trickles may not hold up the start
    while asking.is_alive() and monotonic() < until and not stopping.is_set():
        asking.join(LOOK_SEC)
    told = found[0] if found else f"no answer within {ASK_SEC:.0f} s"
    if isinstance(told, ConfigError):
        raise told
    return told


def _settle(
    settings: config.Settings,
    remote: restore.Copies,
    copies: list[restore.Copy],
    choice: StateChoice | None,
    *,
    is_there: bool,
    say: Callable[[str], None],
    stopping: threading.Event,
) -> str | None:
    """Restore, go on, or refuse; return what keeps the copy from being read, if anything does.

    Raises StartRefused, StoreError, StoreInUse.
    """
    path = settings.state_db
    if not copies:
        return None
    why = restore.disagreement(path, copies) if is_there else None
    if is_there and why is None:
        return None
    newest = copies[0]
    told = f"the newest copy is of {_utc(newest.time)}, written {_utc(newest.written_at)}"
    if why is not None and choice is None:
        raise StartRefused(
            f"{path} and its copy at Supabase disagree: {why}; {told}. Is another daemon of this "
            "bot running? Stop it first. Then start once with --state local to go on with the "
            "database, or with --state remote to go on with the copy (the database is kept aside)"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = StoreLock(path, f"process {os.getpid()}, deciding about the copy")
    try:
        if choice == "local":
            restore.keep_local(path, copies)
            log.warning("%s: going on with the database; its copy goes on under a new id", why)
            return None
        return _put_back(settings, remote, newest, say, stopping)
    finally:
        lock.release()


def _put_back(
    settings: config.Settings,
    remote: restore.Copies,
    copy: restore.Copy,
    say: Callable[[str], None],
    stopping: threading.Event,
) -> str | None:
    from store.supabase import RemoteError  # noqa: PLC0415 - slow to import

    path, facts = settings.state_db, {VENUE: venue_of(settings)}
    state = codec.decode_state(copy.state, f"the copied state at {copy.seq}")
    files = [path, replica_db(path)]
    if settings.mode != "live":
        start = PaperStart(
            base=str(state.balances.base), quote=str(state.balances.quote), seq=copy.seq
        )
        facts[PAPER_START] = msgspec.json.encode(start).decode()
        files.append(settings.paper_db())
    made = path.with_name(path.name + ".restored")

    def said(text: str) -> None:
        if stopping.is_set():
            raise _Stopped
        say(text)

    try:
        made.unlink(missing_ok=True)
        restore.restore(remote, made, copy, facts, said)
    except RemoteError as error:  # nothing has changed yet: it is tried again
        return str(error)
    mark = datetime.fromtimestamp(wall_now(), UTC).strftime("before-%Y%m%dT%H%M%SZ")
    for file in restore.move_aside(files, mark):
        log.warning("kept aside: %s", file)
    made.rename(path)
    log.warning(
        "restored from the copy at Supabase: the state of %s (step %s)",
        _utc(state.now),
        copy.seq,
    )
    if settings.mode == "live":
        log.warning("what our orders did since is asked of the exchange")
    else:
        log.warning("the paper exchange begins anew with the balances of then and without orders")
    return None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# ---- in the run ---------------------------------------------------------------------------------


def adopt_epochs(store: SqliteStore, others: Collection[int]) -> None:
    """Let orders of other databases of this bot be bound to the state; a new epoch is drawn.

    Raises StartRefused where there is no run they could belong to.
    """
    loaded = store.load()
    if loaded is None or not loaded.state.balances.start_mark:
        raise StartRefused(
            "--adopt-epoch: the database holds no run that these orders could be bound to. Put a "
            "backup back, restore from the copy at Supabase, or cancel the orders at Kraken"
        )
    epoch, known = store.identity()[0], restore.epochs_of(store)
    while epoch in known or epoch in others:
        epoch = secrets.randbits(24)
    since = restore.heard_until(loaded.state) - restore.OVERLAP_SEC
    restored = restore.Restored(since=since, epochs=(*known, *others))
    fact = msgspec.json.encode(restored).decode()
    store.keep_facts({restore.RESTORED: fact, "epoch": str(epoch)})
    log.warning("open orders of other databases of this bot are bound to this one: %s", [*others])


def paper_start(store: SqliteStore) -> PaperStart | None:
    """Return what the paper exchange of a restored run begins with, None for any other."""
    text = store.identity()[1].get(PAPER_START)
    return msgspec.json.decode(text, type=PaperStart) if text else None


def tell_restored(store: SqliteStore, runtime: Runtime) -> None:
    """Let a state that was put back know; once, whenever the daemon is killed."""
    restored = restore.restored_of(store.identity()[1])
    if restored is None:
        return
    begun = RestoreBegun(time=runtime.state.now, since=restored.since, epochs=restored.epochs)
    runtime.step(begun)
    store.keep_fact(restore.RESTORED, "")
