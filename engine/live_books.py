"""The exchange's own books of a run with real orders, read for `verify`.

A program: it reads only; what they must agree with is in `engine/books.py`.
"""

import sys
from decimal import Decimal

import config
from accounting import orders
from core.domain import ZERO, Side
from core.order_id import decode
from core.ports import Unavailable
from core.state import BotState
from engine.books import ExchangeBooks
from engine.clock import sleep, wall_now
from engine.live import account_of, read_account
from exchange.kraken_budget import Priority
from exchange.kraken_reads import OVERLAP_SEC, CallFailed, Reader
from exchange.kraken_records import TradeView
from exchange.kraken_start import Start
from exchange.kraken_wire import balances
from store.history import SqliteHistory
from store.sqlite import SqliteStore

PROOF_CALLS = 10.0  # points of all that is read: a start's calls, executions, orders, balances
LOOKS_MAX = 5
DAY_SEC = 86_400.0
WINDOW_SEC = 2 * DAY_SEC


def live_books(settings: config.Settings, store: SqliteStore, state: BotState) -> ExchangeBooks:
    """Read the exchange's own view of balances and of this bot's executions.

    `state` is the newest, the journal's tail folded. Raises StoreError, StartRefused, Unavailable.
    """
    account = account_of(store, settings)
    try:
        # Balances and executions must be of one instant: all waiting comes before both.
        wait = account.budget.wait(PROOF_CALLS, 0.0, Priority.RESOLVE, account.clock.now())
        if wait > 1:
            sys.stderr.write(f"waiting {wait:.0f} s for room in Kraken's limit of calls\n")
        sleep(wait)
        start = read_account(account, settings)
        reader = Reader(
            account.client,
            account.budget,
            clock=account.clock.now,
            pause=sleep,
            halt=lambda _: None,
        )
        return _steady_books(settings, state, start, reader)
    except CallFailed as error:
        raise Unavailable(str(error)) from None
    finally:
        account.leave()


def _steady_books(
    settings: config.Settings, state: BotState, start: Start, reader: Reader
) -> ExchangeBooks:
    """Read executions between two equal looks at the balances, so that both tell of one instant."""
    money = (start.venue.base, start.venue.quote)
    for _ in range(LOOKS_MAX):
        effects, untold = _executed(settings, state, start, reader)
        before = money
        amounts = reader.parsed(balances, reader.read("Balance", {}, Priority.RESOLVE))
        money = amounts.get(start.pair.base_id, ZERO), amounts.get(start.pair.quote_id, ZERO)
        if money == before:
            return ExchangeBooks(base=money[0], quote=money[1], effects=effects, untold=untold)
    raise Unavailable(f"the balances have changed during each of {LOOKS_MAX} looks")


def _trades(reader: Reader, since: float) -> list[TradeView]:
    """Return the account's executions since an instant, read in windows: no walk is too long."""
    found: dict[str, TradeView] = {}
    start, until = since - OVERLAP_SEC, wall_now() + OVERLAP_SEC
    while start < until:
        some = reader.trades(start, Priority.RESOLVE, end=start + WINDOW_SEC)
        found.update((x.execution_id, x) for x in some)
        start += WINDOW_SEC
        if start < until:
            left = (until - start) / DAY_SEC
            sys.stderr.write(f"{len(found):,} executions read, {left:.0f} days are left\n")
    return list(found.values())


def _executed(
    settings: config.Settings, state: BotState, start: Start, reader: Reader
) -> tuple[dict[str, tuple[Decimal, Decimal]], frozenset[str]]:
    """Return what each execution of ours did to base and quote, and those on their way here."""
    history = SqliteHistory(settings.state_db)
    trades = _trades(reader, state.started_at + start.account.clock_offset_sec)
    ours, alive = history.txids(), {x.client_order_id: x.txid for x in orders(state)}
    strange = sorted({x.txid for x in trades} - ours)
    for view in reader.orders(strange, Priority.RESOLVE):
        place = decode(view.client_order_id or "")
        epochs = (state.store_epoch, *state.former_epochs)
        if place is not None and place.tag == state.bot_tag and place.epoch in epochs:
            ours.add(view.txid)
            if view.client_order_id in alive:  # stopped before it was heard that it is there
                alive[view.client_order_id] = view.txid
    mine = [x for x in trades if x.txid in ours]
    effects = {}
    for x in mine:
        sign = 1 if x.side is Side.BUY else -1
        effects[x.execution_id] = (sign * x.volume, -sign * x.cost - x.fee)
    on_way = {x.execution_id for x in mine if x.txid in alive.values()}
    return effects, frozenset(on_way - history.booked(effects))
