"""Composition: from settings to the parts of a run. A program, as `bot.py` and `engine/cli.py`."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import config
from accounting import orders
from core.domain import ZERO, Instrument
from core.market import MarketSource
from core.ports import StoreError
from core.record import Record
from core.state import BotState
from engine.books import ExchangeBooks
from engine.clock import wall_now
from exchange.matching import MatchingConfig, preset
from exchange.paper import PaperExchange, read_books
from exchange.queue import QueueModel
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from store.history import SqliteHistory
from store.sqlite import SqliteStore


class Parts(Record, frozen=True, kw_only=True):
    """What a run is made of."""

    store: SqliteStore
    exchange: PaperExchange
    source: ReplaySource | SyntheticSource
    history: SqliteHistory

    def close(self) -> None:
        """Release every file."""
        self.exchange.close()
        self.store.close()


def exchange_mode(settings: config.Settings) -> str:
    """Return in plain words what kind of exchange this is."""
    return "SIMULATED MARKET" if settings.market_data == "synthetic" else "PAPER"


def open_source(settings: config.Settings) -> ReplaySource | SyntheticSource:
    """Return the market. Raises MarketError."""
    if settings.market_data == "replay" and settings.replay_file is not None:
        return ReplaySource(settings.replay_file, symbol=settings.replay_symbol)
    return SyntheticSource(settings.seed, instrument=Instrument())


def matching_config(settings: config.Settings) -> MatchingConfig:
    """Return how careful the paper exchange is."""
    own = MatchingConfig(
        seed=settings.seed,
        touch_prob=settings.paper_touch_prob,
        queue_model=QueueModel(settings.paper_queue_model),
        spread_bps=settings.paper_spread_bps,
        flat_fees=settings.paper_fees,
        open_order_limit=settings.params.open_order_limit,
        tier=settings.kraken_tier,
    )
    return preset(settings.paper_preset, own)


def open_store(settings: config.Settings, *, must_exist: bool = False) -> SqliteStore:
    """Open the database for writing. Raises StoreError, StoreInUse."""
    since = datetime.fromtimestamp(wall_now(), UTC).isoformat(timespec="seconds")
    # A simulation's order ids follow from its seed, so that equal runs are equal to the byte.
    epoch = int.from_bytes(hashlib.sha256(f"epoch {settings.seed}".encode()).digest()[:3])
    return SqliteStore(
        settings.state_db,
        epoch=epoch,
        owner=f"process {os.getpid()}, started {since}",
        retention_days=settings.journal_retention_days,
        history_days=settings.history_retention_days,
        must_exist=must_exist,
    )


def open_parts(settings: config.Settings) -> Parts:
    """Open everything a run needs. Raises MarketError, StoreError, StoreInUse."""
    source = open_source(settings)
    _refuse_widow(settings)
    store = open_store(settings)
    try:
        paper = settings.paper_db()
        has_run = store.load() is not None
        if has_run and not paper.exists():
            raise StoreError(
                f"{paper} is missing: the paper exchange of {settings.state_db}. Restore it, or "
                "set STATE_DB to a new file"
            )
        run = store.identity()[1]["run"]
        exchange = _open_exchange(settings, source, paper, run, must_exist=has_run)
    except BaseException:
        store.close()
        raise
    history = SqliteHistory(settings.state_db)
    return Parts(store=store, exchange=exchange, source=source, history=history)


def open_trial(settings: config.Settings) -> PaperExchange:
    """Open the exchange of a run that is never begun, in memory: nothing is left on disk.

    Raises MarketError, and StoreError where a run would find its files unusable.
    """
    _refuse_widow(settings)
    return _open_exchange(settings, open_source(settings), ":memory:", "", must_exist=False)


def _refuse_widow(settings: config.Settings) -> None:
    paper = settings.paper_db()
    if paper.exists() and not settings.state_db.exists():
        raise StoreError(
            f"{paper} is there but its database {settings.state_db} is not: put that back beside "
            "it, or move the file away to start anew"
        )


def take_up(parts: Parts, state: BotState, settings: config.Settings) -> None:
    """Bring the exchange to where the bot last heard of it; refuse an older copy of its file.

    Raises StoreError when the file lacks executions or orders that the bot knows of.
    """
    parts.exchange.catch_up(state.exchange_cursor, state.now)
    parts.exchange.pending(state.exchange_cursor)  # refuses an older database before it is used
    if not state.started_at:
        return
    booked = set(parts.store.execution_ids()) - parts.exchange.books().effects.keys()
    unknown = [x for x in orders(state) if x.txid and not parts.exchange.knows(x.client_order_id)]
    if booked or unknown:
        raise StoreError(
            f"{settings.paper_db()} lacks {len(booked)} executions and {len(unknown)} orders that "
            f"{settings.state_db} knows: it is an older copy. Restore both files from one backup"
        )


def _open_exchange(
    settings: config.Settings,
    source: MarketSource,
    path: Path | str,
    run: str,
    *,
    must_exist: bool,
) -> PaperExchange:
    instrument = Instrument()
    price = source.first_price()
    base = instrument.volume_down(settings.paper_start_base_usd / price) if price else ZERO
    return PaperExchange(
        path,
        source,
        instrument,
        matching_config(settings),
        start_base=base,
        start_quote=settings.paper_start_quote,
        run=run,
        must_exist=must_exist,
    )


def exchange_books(settings: config.Settings, *, told: int) -> ExchangeBooks:
    """Return the exchange's own books; the bot knows its messages up to `told`.

    Raises StoreError.
    """
    books = read_books(settings.paper_db(), told=told)
    return ExchangeBooks(
        base=books.base, quote=books.quote, effects=books.effects, untold=books.untold
    )
