"""Composition of a run with orders at Kraken, or at a sandbox that speaks its protocol. A program.

The database is opened first, so that nonces are reserved on disk before the first private call;
then the account is read and checked, and only then the exchange is put together.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from urllib.parse import urlsplit

import config
from accounting import orders
from core.domain import Side
from core.events import Event
from core.order_id import bot_tag, decode
from core.ports import ConfigError, StartRefused, StoreError, Unavailable
from core.record import Record
from engine.books import Check, ExchangeBooks
from engine.clock import LiveClock, monotonic, sleep, wall_now
from engine.start_check import DELISTED, OPTIONAL, account_checks, start_checks
from exchange.kraken import KrakenClient, is_venue
from exchange.kraken_budget import Budget, Priority
from exchange.kraken_desk import Desk, DeskConfig
from exchange.kraken_exchange import KrakenExchange
from exchange.kraken_reads import OVERLAP_SEC, CallFailed, Reader
from exchange.kraken_start import Start, read_start
from exchange.nonce import Nonces
from market.public import KrakenFeed
from store.history import SqliteHistory
from store.memory import MemoryStore
from store.sqlite import SqliteStore

log = logging.getLogger("live")

CEILING, VENUE = "nonce_ceiling", "venue"
RETRY_SEC, STATUS_SEC = 5.0, 30.0
# A run that has begun goes on although these fail: entries are vetoed while they do, or it waits.
ENTRY_CHECKS = ("profit target", "order size", "balances")
PASSING_CHECKS = ("pair", "pair status")
START_CALLS = 3.0  # points of what a start reads: fees, balances, open orders
PROOF_CALLS = 5.0  # and of what `verify` reads besides: executions and orders


class Account(Record, frozen=True, kw_only=True):
    """A database and the client whose nonces it guards."""

    store: SqliteStore
    client: KrakenClient
    nonces: Nonces
    clock: LiveClock

    def reserve(self, ceiling: int) -> None:
        """Commit a ceiling for nonces."""
        self.store.keep_fact(CEILING, str(ceiling))

    def keep_nonces_ahead(self) -> None:
        """Commit a higher ceiling where half of the present one is used up."""
        ceiling = self.nonces.wanted()
        if ceiling is not None:
            self.reserve(ceiling)
            self.nonces.extend(ceiling)

    def close(self) -> None:
        """Cut off calls and release the file."""
        self.client.close()
        self.store.close()


def mode_word(settings: config.Settings) -> str:
    """Return LIVE where orders cost real money, else SANDBOX."""
    return "LIVE" if is_venue(settings.kraken_api_url) else "SANDBOX"


def open_account(
    settings: config.Settings, clock: LiveClock | None = None, *, must_exist: bool = False
) -> Account:
    """Open database and client; the first nonces are reserved.

    Raises ConfigError, StoreError, StoreInUse.
    """
    _client(settings, Nonces(lambda: 0, 0)).close()  # refused before a file is made
    return _account(_open_store(settings, must_exist=must_exist), settings, clock=clock)


def open_trial_account(settings: config.Settings) -> Account:
    """Open the account of a run that is never begun; where there is no database none is made."""
    if settings.state_db.exists():
        return open_account(settings, must_exist=True)
    return _account(MemoryStore(), settings, is_trial=True)


def _open_store(settings: config.Settings, *, must_exist: bool) -> SqliteStore:
    since = datetime.fromtimestamp(wall_now(), UTC).isoformat(timespec="seconds")
    return SqliteStore(
        settings.state_db,
        epoch=int.from_bytes(os.urandom(3)),
        owner=f"process {os.getpid()}, started {since}",
        retention_days=settings.journal_retention_days,
        history_days=settings.history_retention_days,
        must_exist=must_exist,
    )


def _account(
    store: SqliteStore,
    settings: config.Settings,
    *,
    clock: LiveClock | None = None,
    is_trial: bool = False,
) -> Account:
    try:
        if not is_trial:
            refuse_other_venue(store, settings)
        facts = store.identity()[1]
        nonces = Nonces(lambda: int(wall_now() * 1e9), int(facts.get(CEILING, "0")))
        account = Account(
            store=store,
            client=_client(settings, nonces),
            nonces=nonces,
            clock=clock or LiveClock(),
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
            "file for each"
        )


def bind(store: SqliteStore, settings: config.Settings) -> None:
    """Bind a database that may begin to trade to its venue, for good."""
    if store.identity()[1].get(VENUE) is None:
        store.keep_fact(VENUE, venue_of(settings))


def read_account(account: Account, settings: config.Settings) -> Start:
    """Read all that a start must know of key and account. Raises StartRefused, Unavailable."""
    account.keep_nonces_ahead()
    epoch, facts = account.store.identity()
    tag = bot_tag(settings.bot_name, settings.pair)
    start = read_start(
        account.client,
        "XDGUSD",
        tag=tag,
        epoch=epoch if VENUE in facts else None,
        clock=account.clock.now,
    )
    if start.key.nonce is not None:
        account.nonces.raise_to(start.key.nonce)
        account.keep_nonces_ahead()
    return start


def await_account(
    account: Account,
    settings: config.Settings,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> Start | None:
    """Read the account, again and again while Kraken does not answer; None: stopped first.

    Raises StartRefused, also where a check fails that a start must pass.
    """
    while True:
        try:
            start = read_account(account, settings)
        except Unavailable as error:
            say(f"Kraken to tell of the account ({error})")
            if stopping.wait(max(RETRY_SEC, error.pause_sec)):
                return None
            continue
        wrong = [x for x in checks(start, settings) if not x.is_ok]
        if account.store.load() is not None:  # what is owed must go on being followed
            for x in wrong:
                if x.name in ENTRY_CHECKS:
                    log.warning("check failed: %s: %s; no entries until it holds", x.name, x.detail)
            wrong = [x for x in wrong if x.name not in ENTRY_CHECKS]
            waiting = [x for x in wrong if x.name in PASSING_CHECKS and x.detail != DELISTED]
            if waiting and len(waiting) == len(wrong):
                say("; ".join(f"{x.name}: {x.detail}" for x in waiting))
                if stopping.wait(STATUS_SEC):
                    return None
                continue
        if wrong:
            lines = "".join(f"\n  {x.name}: {x.detail}" for x in wrong)
            raise StartRefused(f"these checks fail (python bot.py check shows all):{lines}")
        bind(account.store, settings)
        return start


def checks(start: Start, settings: config.Settings) -> list[Check]:
    """Return every check of a start with real orders."""
    return [
        *start_checks(settings.params, start.venue, start.price),
        *account_checks(start.account, now=wall_now()),
    ]


def assemble(
    account: Account, settings: config.Settings, start: Start, feed: KrakenFeed
) -> KrakenExchange:
    """Put the exchange together; nothing is sent before it is started."""
    epoch, _ = account.store.identity()
    history = SqliteHistory(settings.state_db)
    budget = _budget(account, settings)
    made: list[KrakenExchange] = []
    stopped = threading.Event()

    def post(event: Event) -> None:
        made[0].post(event)

    def booked(ids: Collection[str]) -> set[str]:
        try:
            return history.booked(ids)
        except StoreError as error:  # a reader that has to wait is no reason to end
            raise CallFailed(str(error)) from None

    def abort() -> None:
        stopped.set()
        account.client.close()

    def pause(seconds: float) -> bool:
        return stopped.wait(seconds)

    desk = Desk(
        account.client,
        budget,
        start.pair,
        tag=bot_tag(settings.bot_name, settings.pair),
        epoch=epoch,
        config=DeskConfig(
            poll_sec=settings.poll_sec, has_ledger=bool(OPTIONAL & start.account.permissions)
        ),
        clock=account.clock.now,
        pause=pause,
        post=post,
        booked=booked,
    )
    desk.reader.offset_sec = start.account.clock_offset_sec
    desk.offset_error_sec = start.account.clock_error_sec
    exchange = KrakenExchange(
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


def _budget(account: Account, settings: config.Settings) -> Budget:
    """Return a budget that counts what the run before and this start may have used."""
    now, budget = account.clock.now(), Budget(settings.kraken_tier)
    budget.take_over(now, quiet_sec=now - _last_alive(account.store), calls=START_CALLS)
    return budget


def _last_alive(store: SqliteStore) -> float:
    """Return when the run before committed last; minus infinity for a new store."""
    loaded = store.load()
    if loaded is None:
        return -math.inf
    times = (row.event.time for row in store.journal(after=loaded.seq))
    return max((loaded.state.now, *times))


def live_books(settings: config.Settings, store: SqliteStore) -> ExchangeBooks:
    """Read the exchange's own view of balances and of this bot's executions, for `verify`.

    Raises StoreError, StartRefused, Unavailable.
    """
    account = _account(store, settings)
    try:
        budget = _budget(account, settings)
        # Balances and executions must be of one instant: all waiting comes before both.
        sleep(budget.wait(PROOF_CALLS, 0.0, Priority.RESOLVE, account.clock.now()))
        start = read_account(account, settings)
        reader = Reader(
            account.client,
            budget,
            clock=account.clock.now,
            pause=sleep,
            halt=lambda _: None,
        )
        return _books(settings, account, start, reader)
    except CallFailed as error:
        raise Unavailable(str(error)) from None
    finally:
        account.client.close()


def _books(
    settings: config.Settings, account: Account, start: Start, reader: Reader
) -> ExchangeBooks:
    loaded = account.store.load()
    if loaded is None:
        raise StoreError("the database holds no run yet: start the daemon first")
    state, history = loaded.state, SqliteHistory(settings.state_db)
    since = state.started_at + start.account.clock_offset_sec - OVERLAP_SEC
    trades = reader.trades(since, Priority.RESOLVE)
    ours, alive = history.txids(), tuple(orders(state))
    live = {x.txid for x in alive if x.txid}
    strange = sorted({x.txid for x in trades} - ours)
    for view in reader.orders(strange, Priority.RESOLVE):
        if any(view.client_order_id == x.client_order_id for x in alive):
            live.add(view.txid)  # stopped before it was heard that the order is there
        place = decode(view.client_order_id or "")
        if place is not None and (place.tag, place.epoch) == (state.bot_tag, state.store_epoch):
            ours.add(view.txid)
    mine = [x for x in trades if x.txid in ours]
    effects = {}
    for x in mine:
        sign = 1 if x.side is Side.BUY else -1
        effects[x.execution_id] = (sign * x.volume, -sign * x.cost - x.fee)
    booked = history.booked(effects)
    return ExchangeBooks(
        base=start.venue.base,
        quote=start.venue.quote,
        effects=effects,
        untold=frozenset(x.execution_id for x in mine if x.txid in live) - booked,
    )
