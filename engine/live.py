"""Composition of a run with orders at Kraken, or at a sandbox that speaks its protocol. A program.

The database is opened first, so that nonces are reserved on disk before the first private call;
then the account is read and checked, and only then the exchange is put together.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import config
from accounting import orders
from core.events import Event
from core.hosts import host_of, is_here
from core.order_id import bot_tag
from core.ports import ConfigError, StartRefused, StoreError, Unavailable
from core.record import Record
from engine.books import Check
from engine.clock import LiveClock, monotonic, wall_now
from engine.start_check import DELISTED, OPTIONAL, account_checks, start_checks
from exchange.kraken import KrakenClient, check_key, check_url, is_venue
from exchange.kraken_budget import Budget, Priority
from exchange.kraken_desk import Desk, DeskConfig
from exchange.kraken_exchange import KrakenExchange
from exchange.kraken_reads import CallFailed
from exchange.kraken_start import Start, read_start
from exchange.nonce import SPAN_NS, Nonces
from market.public import KrakenFeed
from settings.variable import path_is
from store.history import SqliteHistory
from store.memory import MemoryStore
from store.restore import epochs_of
from store.sqlite import SqliteStore

log = logging.getLogger("live")

E = TypeVar("E", bound=KrakenExchange)
CEILING, VENUE = "nonce_ceiling", "venue"
RETRY_SEC, STATUS_SEC = 5.0, 30.0
# A run that has begun goes on although these fail: entries are vetoed while they do, or it waits.
ENTRY_CHECKS = ("profit target", "order size", "balances")
PASSING_CHECKS = ("pair", "pair status")
NO_LINE = "check the network of this machine"  # what is advised where nothing has answered
START_CALLS = 4.0  # points of what every start reads: key, fees, balances, open orders
OLD_SEC = 60.0  # an order placed longer ago is known wherever it may be asked for


class Account(Record, frozen=True, kw_only=True):
    """A database and the client whose nonces it guards."""

    store: SqliteStore
    client: KrakenClient
    nonces: Nonces
    clock: LiveClock
    budget: Budget

    def reserve(self, ceiling: int) -> None:
        """Commit a ceiling for nonces."""
        self.store.keep_fact(CEILING, str(ceiling))

    def keep_nonces_ahead(self) -> None:
        """Commit a higher ceiling where half of the present one is used up."""
        ceiling = self.nonces.wanted()
        if ceiling is not None:
            self.reserve(ceiling)
            self.nonces.extend(ceiling)

    def leave(self) -> None:
        """Cut off calls; the next run's nonces begin where this one's end."""
        self.client.close()
        try:
            self.reserve(self.nonces.settle())
        except StoreError as error:
            log.warning("nonces that were not used stay reserved: %s", error)

    def close(self) -> None:
        """Cut off calls and release the file."""
        self.leave()
        self.store.close()


def mode_word(settings: config.Settings) -> str:
    """Return LIVE where orders cost real money, else SANDBOX."""
    return "LIVE" if is_venue(settings.kraken_api_url) else "SANDBOX"


def no_answer(settings: config.Settings, trouble: Unavailable | str) -> str:
    """Return who does not answer, why, and what to do."""
    url = settings.kraken_api_url
    is_local = is_here(host_of(url))
    is_silent = NO_LINE in str(trouble)
    hint = ""
    if is_local and is_silent:
        hint = "; where no sandbox runs there, make sandbox starts one"
    return f"{url}: {trouble}{hint}"


def venue_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the client of the exchange would refuse; a further check of `config.load`."""
    is_live = values.get("mode") == "live"
    url, allow = values.get("kraken_api_url"), values.get("kraken_api_url_allow")
    is_asked = is_live or values.get("market_data") == "kraken"
    if is_asked and url is not None and allow is not None:
        try:
            check_url(url, allow)
        except ValueError as error:
            yield f"KRAKEN_API_URL={url}: {error}"
    key, secret = values.get("kraken_api_key"), values.get("kraken_api_secret")
    if is_live and key and secret:
        try:
            check_key(key, secret)
        except ValueError as error:
            yield f"KRAKEN_API_KEY, KRAKEN_API_SECRET: {error}"


def open_account(
    settings: config.Settings,
    clock: LiveClock | None = None,
    *,
    must_exist: bool = False,
    is_run: bool = False,
) -> Account:
    """Open database and client; the first nonces are reserved.

    Raises ConfigError, StoreError, StoreInUse.
    """
    _client(settings, Nonces(lambda: 0, 0)).close()  # refused before a file is made
    store = _open_store(settings, must_exist=must_exist, is_run=is_run)
    return account_of(store, settings, clock=clock)


def open_trial_account(settings: config.Settings) -> Account:
    """Open the account of a run that is never begun; where there is no database none is made."""
    if path_is(settings.state_db, "there"):
        return open_account(settings, must_exist=True)
    return account_of(MemoryStore(), settings, is_trial=True)


def replica_address(settings: config.Settings) -> str:
    """Return where a run keeps a copy of its books, "" for nowhere."""
    return settings.supabase_url or ""


def _open_store(settings: config.Settings, *, must_exist: bool, is_run: bool) -> SqliteStore:
    since = datetime.fromtimestamp(wall_now(), UTC).isoformat(timespec="seconds")
    return SqliteStore(
        settings.state_db,
        epoch=int.from_bytes(os.urandom(3)),
        owner=f"process {os.getpid()}, started {since}",
        retention_days=settings.journal_retention_days,
        history_days=settings.history_retention_days,
        must_exist=must_exist,
        replica=replica_address(settings) if is_run else None,
    )


def account_of(
    store: SqliteStore,
    settings: config.Settings,
    *,
    clock: LiveClock | None = None,
    is_trial: bool = False,
) -> Account:
    """Return the account of an open database, its first nonces reserved; `store` is closed if not.

    Raises ConfigError, StoreError.
    """
    try:
        if not is_trial:
            refuse_other_venue(store, settings)
        facts = store.identity()[1]
        ceiling = int(facts.get(CEILING, "0"))
        nonces = Nonces(lambda: int(wall_now() * 1e9), ceiling)
        clock, budget = clock or LiveClock(), Budget(settings.kraken_tier)
        now = clock.now()
        budget.take_over(now, quiet_sec=max(0.0, now - last_alive(store, ceiling, now)))
        account = Account(
            store=store,
            client=_client(settings, nonces),
            nonces=nonces,
            clock=clock,
            budget=budget,
        )
        account.keep_nonces_ahead()
    except BaseException:
        store.close()
        raise
    return account


def _client(settings: config.Settings, nonces: Nonces) -> KrakenClient:
    try:
        return KrakenClient(
            url=settings.kraken_api_url,
            key=settings.kraken_api_key or "",
            secret=settings.kraken_api_secret or "",
            nonces=nonces,
            clock=monotonic,
            allow=settings.kraken_api_url_allow,
        )
    except ValueError as error:
        raise ConfigError([f"KRAKEN_API_KEY, KRAKEN_API_SECRET, KRAKEN_API_URL: {error}"]) from None


def venue_of(settings: config.Settings) -> str:
    """Return in plain words whose orders a run places: a database belongs to one for good."""
    if settings.mode != "live":
        return "paper"
    if is_venue(settings.kraken_api_url):
        return "Kraken"
    return f"a sandbox at {urlsplit(settings.kraken_api_url).hostname}"


def refuse_other_venue(store: SqliteStore, settings: config.Settings) -> None:
    """Raise StoreError where the database belongs to another venue than the run would trade at."""
    known, wanted = store.identity()[1].get(VENUE), venue_of(settings)
    if known is None and store.load() is not None:
        known = "paper"  # from before databases were bound
    if known not in (None, wanted):
        raise StoreError(
            f"{settings.state_db} belongs to {known}, not to {wanted}: set STATE_DB to another "
            "file for each, or MODE and KRAKEN_API_URL to what they were"
        )


def bind(store: SqliteStore, settings: config.Settings) -> None:
    """Bind a database that may begin to trade to its venue, for good."""
    if store.identity()[1].get(VENUE) is None:
        store.keep_fact(VENUE, venue_of(settings))


def read_account(account: Account, settings: config.Settings) -> Start:
    """Read all that a start must know of key and account. Raises StartRefused, Unavailable."""
    account.keep_nonces_ahead()
    placed = _placed(account, settings)
    account.budget.spend(START_CALLS + len(placed), account.clock.now())
    is_bound = VENUE in account.store.identity()[1]
    tag = bot_tag(settings.bot_name, settings.pair)
    start = read_start(
        account.client,
        "XDGUSD",
        tag=tag,
        epochs=epochs_of(account.store) if is_bound else (),
        placed=placed,
        clock=account.clock.now,
    )
    if start.key.nonce is not None:
        account.nonces.raise_to(start.key.nonce)
        account.keep_nonces_ahead()
    return start


def _placed(account: Account, settings: config.Settings) -> list[str]:
    """Return two orders of this database that its account must know: executed last, and open."""
    loaded, old = account.store.load(), account.clock.now() - OLD_SEC
    if loaded is None:
        return []
    live = [x for x in orders(loaded.state) if x.txid and x.placed_at < old]
    executed = SqliteHistory(settings.state_db).last_executed(before=old)
    newest = max(live, key=lambda x: x.placed_at, default=None)
    return [x for x in (executed, newest and newest.txid) if x]


def await_account(
    account: Account,
    settings: config.Settings,
    stopping: threading.Event,
    say: Callable[[str], None],
    adopt: Callable[[SqliteStore, Collection[int]], None] | None = None,
) -> Start | None:
    """Read the account, again and again while Kraken does not answer; None: stopped first.

    `adopt` is told once what epochs other open orders of this bot have. Raises StartRefused, also
    where a check fails that a start must pass.
    """
    while True:
        try:
            start = read_account(account, settings)
        except Unavailable as error:
            words = f"Kraken to tell of the account ({no_answer(settings, error)})"
            room = account.budget.wait(START_CALLS, 0.0, Priority.EXECUTIONS, account.clock.now())
            pause = max(RETRY_SEC, error.pause_sec, room)
            if _pause(pause, account.clock, words, stopping, say):
                return None
            continue
        if adopt is not None:
            adopt(account.store, dict.fromkeys(start.account.other_epochs))
            adopt = None
            continue
        wrong = [x for x in checks(start, settings, now=account.clock.now()) if not x.is_ok]
        if account.store.load() is not None:  # what is owed must go on being followed
            for x in wrong:
                if x.name in ENTRY_CHECKS:
                    log.warning("check failed: %s: %s; no entries until it holds", x.name, x.detail)
            wrong = [x for x in wrong if x.name not in ENTRY_CHECKS]
            waiting = [x for x in wrong if x.name in PASSING_CHECKS and x.detail != DELISTED]
            if waiting and len(waiting) == len(wrong):
                words = "; ".join(f"{x.name}: {x.detail}" for x in waiting)
                if _pause(STATUS_SEC, account.clock, words, stopping, say):
                    return None
                continue
        if wrong:
            lines = "".join(f"\n  {x.name}: {x.detail}" for x in wrong)
            raise StartRefused(f"these checks fail (python bot.py check shows all):{lines}")
        bind(account.store, settings)
        return start


def _pause(
    seconds: float,
    clock: LiveClock,
    words: str,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> bool:
    """Wait, saying every few seconds what for: a pause may last minutes; True: stopped first."""
    until = clock.now() + seconds
    while (left := until - clock.now()) > 0:
        say(words)
        if stopping.wait(min(left, RETRY_SEC)):
            return True
    return False


def checks(start: Start, settings: config.Settings, *, now: float | None = None) -> list[Check]:
    """Return every check of a start with real orders; `now` where time is not the machine's."""
    return [
        *start_checks(settings.params, start.venue, start.price),
        *account_checks(start.account, now=wall_now() if now is None else now),
    ]


def assemble(
    account: Account,
    settings: config.Settings,
    start: Start,
    feed: KrakenFeed,
    exchange_class: type[E],
    *,
    desk_class: type[Desk] = Desk,
    wait: Callable[[float], object] | None = None,
) -> E:
    """Put the exchange together; nothing is sent before it is started.

    `exchange_class` and `desk_class` are others in a simulation, which also gives a `wait`.
    """
    epoch, _ = account.store.identity()
    made: list[E] = []
    stopped = threading.Event()

    def post(event: Event) -> None:
        made[0].post(event)

    def abort() -> None:
        stopped.set()
        account.leave()

    def pause(seconds: float) -> bool:
        return stopped.wait(seconds)

    desk = desk_class(
        account.client,
        account.budget,
        start.pair,
        tag=bot_tag(settings.bot_name, settings.pair),
        epoch=epoch,
        config=DeskConfig(
            poll_sec=settings.poll_sec, has_ledger=bool(OPTIONAL & start.account.permissions)
        ),
        clock=account.clock.now,
        pause=wait or pause,
        post=post,
        booked=_booked(SqliteHistory(settings.state_db)),
    )
    desk.reader.offset_sec = start.account.clock_offset_sec
    desk.offset_error_sec = start.account.clock_error_sec
    exchange = exchange_class(
        desk,
        start.venue,
        account.nonces,
        feed,
        clock=account.clock.now,
        forward=account.clock.forward,
        reserve=account.reserve,
        abort=abort,
    )
    made.append(exchange)
    return exchange


def _booked(history: SqliteHistory) -> Callable[[Collection[str]], set[str]]:
    """Return what tells which executions are in the database. It raises CallFailed."""

    def booked(ids: Collection[str]) -> set[str]:
        try:
            return history.booked(ids)
        except StoreError as error:  # a reader that has to wait is no reason to end
            raise CallFailed(str(error)) from None

    return booked


def last_alive(store: SqliteStore, ceiling: int, now: float) -> float:
    """Return until when the run before may have called; minus infinity for a new store.

    Its last event tells too little: reads without news leave none. But a run that ended well has
    left its last nonce as `ceiling`, and any other has kept it ahead by half a span at least.
    """
    loaded = store.load()
    if loaded is None:
        return -math.inf
    called = ceiling / 1e9
    if called > now:
        called -= SPAN_NS / 2 / 1e9
    times = (row.event.time for row in store.journal(after=loaded.seq))
    return max((loaded.state.now, called, *times))
