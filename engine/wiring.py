"""Composition: from settings to the parts of a run. A program, as `bot.py` and `engine/cli.py`."""

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec

import config
from accounting import orders
from core.actions import RequestReconcile
from core.commands import Command
from core.domain import ZERO, Instrument
from core.events import RestoreTold
from core.ports import ConfigError, StoreError
from core.record import Record, replace
from core.state import BotState
from core.status import AccountBlock, Published, ReplicaBlock, Status
from dashboard import Busy, IdReused, Submit
from engine.books import ExchangeBooks
from engine.candle_history import (
    CandleKeeper,
    Source,
    feed_sec,
    market_of,
    open_candle_replica,
    open_history,
    public_market,
    public_name,
)
from engine.clock import LiveClock, monotonic, wall_now
from engine.kelly import KellyDesk, begin_sizer
from engine.live import (
    assemble,
    await_account,
    bind,
    mode_word,
    no_answer,
    open_account,
    refuse_other_venue,
    replica_address,
)
from engine.live_books import live_books
from engine.loop import Loop
from engine.notices import Notices
from engine.notify import Channel, Line, Notifications, Webhook
from engine.regime_view import RegimeFacts
from engine.replication import forgetting, open_remote, open_replica
from engine.report import ReportClock, status_text
from engine.restore import (
    AS_IT_IS,
    Choice,
    PaperStart,
    adopt_epochs,
    paper_start,
    settle_state,
    tell_restored,
)
from engine.runtime import Runtime
from engine.second_opinion import open_advisor
from engine.telegram import Listener, Telegram
from exchange.kraken_exchange import KrakenExchange
from exchange.matching import MatchingConfig, preset
from exchange.paper import PaperExchange, read_books
from exchange.queue import QueueModel
from grid.regimes import is_estimate_outstanding
from market.public import KrakenFeed
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from settings.variable import path_is
from store.history import SqliteHistory
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from engine.models import RegimeModels
    from store.candle_replica import CandleReplica
    from store.replica import Replica
    from store.supabase import Supabase

PUBLIC_POLL_SEC = 5.0  # with real orders prices are asked for at least so often
CANDLE_INTERVALS = (60.0, 900.0)  # that Kraken is asked for: the primary alone without models
WAIT_SEC = 0.2  # between two looks at whether the market has answered


class Parts(Record, frozen=True, kw_only=True):
    """What a run is made of."""

    store: SqliteStore
    exchange: PaperExchange | KrakenExchange
    source: Source
    history: SqliteHistory
    replica: "Replica | None" = None
    candle_replica: "CandleReplica | None" = None
    candles: CandleKeeper | None = None  # where no models keep them

    def account(self) -> AccountBlock | None:
        """Return what the status shows of a real exchange's account; None on paper."""
        return self.exchange.view() if isinstance(self.exchange, KrakenExchange) else None

    def replication(self, now: float) -> ReplicaBlock | None:
        """Return what the status shows of the replica; None where there is none."""
        if self.replica is None:
            return None
        candles = None if self.candle_replica is None else self.candle_replica.view()
        return replace(self.replica.view(now), candles=candles)

    def close(self) -> None:
        """Release every file, and leave the market."""
        if self.candles is not None:
            self.candles.close()
        if self.candle_replica is not None:
            self.candle_replica.stop()
        if self.replica is not None:
            self.replica.stop()
        if isinstance(self.source, KrakenFeed):
            self.source.close()
        self.exchange.close()
        self.store.close()


def exchange_mode(settings: config.Settings) -> str:
    """Return in plain words what kind of exchange this is."""
    if settings.mode == "live":
        return mode_word(settings)
    return "SIMULATED MARKET" if settings.market_data == "synthetic" else "PAPER"


def open_source(settings: config.Settings, clock: LiveClock | None = None) -> Source:
    """Return the market; a live one has not been looked at yet. Raises MarketError, ConfigError.

    `clock` is that of a run with real orders: the exchange's is compared with it.
    """
    if settings.market_data == "kraken":
        return _open_feed(settings, clock)
    if settings.market_data == "replay" and settings.replay_file is not None:
        return ReplaySource(
            settings.replay_file, symbol=settings.replay_symbol, start=settings.replay_from
        )
    return SyntheticSource(settings.seed, instrument=Instrument())


def _open_feed(settings: config.Settings, clock: LiveClock | None) -> KrakenFeed:
    is_live = settings.mode == "live"
    return KrakenFeed(
        public_market(settings),
        name=public_name(settings),
        poll_sec=min(settings.poll_sec, PUBLIC_POLL_SEC) if is_live else settings.poll_sec,
        wall=wall_now if clock is None else clock.now,
        monotonic=monotonic,
        candle_intervals=CANDLE_INTERVALS if settings.params.hmm_enabled else CANDLE_INTERVALS[:1],
    )


def await_first_look(
    source: Source,
    settings: config.Settings,
    stopping: threading.Event,
    say: Callable[[str], None],
) -> bool:
    """Wait until a live market has answered, saying what is waited for; False: stopped first.

    Raises StartRefused.
    """
    if not isinstance(source, KrakenFeed):
        return True
    source.start()
    while not source.is_open():
        trouble = source.trouble
        say("Kraken to answer" if trouble is None else no_answer(settings, trouble))
        if stopping.wait(WAIT_SEC):
            source.close()
            return False
    return True


def await_prints(source: Source, stopping: threading.Event, say: Callable[[str], None]) -> bool:
    """Wait until a live market is known up to now; False: stopped first."""
    if not isinstance(source, KrakenFeed):
        return True
    while not source.is_caught_up():
        why = "" if source.trouble is None else f" ({source.trouble})"
        say(f"what was printed since the last run{why}")
        if stopping.wait(WAIT_SEC):
            source.close()
            return False
    return True


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


def epoch_of(settings: config.Settings) -> int:
    """Return a simulation's epoch: its order ids follow from its seed, equal runs are equal."""
    return int.from_bytes(hashlib.sha256(f"epoch {settings.seed}".encode()).digest()[:3])


def open_store(
    settings: config.Settings, *, must_exist: bool = False, is_run: bool = False
) -> SqliteStore:
    """Open the database for writing; only a run begins or ends a replica of it.

    Raises StoreError, StoreInUse.
    """
    since = datetime.fromtimestamp(wall_now(), UTC).isoformat(timespec="seconds")
    return SqliteStore(
        settings.state_db,
        epoch=epoch_of(settings),
        owner=f"process {os.getpid()}, started {since}",
        retention_days=settings.journal_retention_days,
        history_days=settings.history_retention_days,
        must_exist=must_exist,
        replica=replica_address(settings) if is_run else None,
    )


def open_run(
    settings: config.Settings,
    source: Source,
    clock: LiveClock,
    stopping: threading.Event,
    say: Callable[[str], None],
    *,
    choice: Choice = AS_IT_IS,
) -> Parts | None:
    """Open everything a run needs; None: stopped while an account or a copy was waited for.

    Raises ConfigError, MarketError, StoreError, StoreInUse, StartRefused, Unavailable.
    """
    remote = open_remote(settings)
    if not settle_state(settings, remote, source.name, choice.state, stopping=stopping, say=say):
        return None
    if settings.mode != "live" or not isinstance(source, KrakenFeed):
        if choice.adopt_epoch:
            raise ConfigError(["--adopt-epoch: with MODE=live only"])
        parts = open_parts(settings, source, is_run=True)
        return with_replica(with_candles(parts, settings), settings, remote)
    account = open_account(settings, clock, is_run=True)
    try:
        adopt = adopt_epochs if choice.adopt_epoch else None
        start = await_account(account, settings, stopping, say, adopt)
        if start is None:
            account.close()
            return None
        exchange = assemble(account, settings, start, source, KrakenExchange)
        source.resume(exchange.now(), ())
    except BaseException:
        account.close()
        raise
    history = open_history(settings, source, account.store)
    parts = Parts(store=account.store, exchange=exchange, source=source, history=history)
    return with_replica(with_candles(parts, settings), settings, remote)


def with_candles(parts: Parts, settings: config.Settings) -> Parts:
    """Return the parts with what keeps the market's candles, where no models do."""
    if settings.params.hmm_enabled:
        return parts
    market = market_of(settings, parts.source, parts.store)
    return replace(parts, candles=CandleKeeper(settings, parts.source, market))


def with_replica(parts: Parts, settings: config.Settings, remote: "Supabase | None") -> Parts:
    """Return the parts with their replica, if one is set: checked, not yet started.

    Raises ConfigError, StoreError; all is closed then.
    """
    if remote is None:
        return parts
    try:
        replica = open_replica(settings, remote, parts.store, parts.source.name)
        return replace(parts, replica=replica, candle_replica=open_candle_replica(settings))
    except BaseException:
        parts.close()
        raise


def attach(
    parts: Parts,
    runtime: Runtime,
    loop: Loop,
    settings: config.Settings,
    models: "RegimeModels | None" = None,
) -> None:
    """Let a live exchange see what is committed, and wake the loop; delete what was replicated.

    The advisor, if there is one, is at hand from now on.
    """
    runtime.advisor = open_advisor(settings, parts.history, models, loop.inbox.woken.set)
    watches: list[Callable[[BotState], None]] = []
    if isinstance(parts.exchange, KrakenExchange):
        watches.append(parts.exchange.watch)
        parts.exchange.woken = loop.inbox.woken.set
    if parts.replica is not None:
        watches.append(forgetting(parts.store, parts.replica))
    if watches:

        def on_commit(state: BotState) -> None:
            for watch in watches:
                watch(state)

        runtime.on_commit = on_commit


def open_models(settings: config.Settings, parts: Parts) -> "RegimeModels | None":
    """Return the regime models, not yet begun; None where they are off. Raises StoreError."""
    if not settings.params.hmm_enabled:
        return None
    from engine import models  # noqa: PLC0415 - numpy is not needed without

    return models.open_models(
        settings,
        parts.source,
        market=market_of(settings, parts.source, parts.store),
        is_real_time=isinstance(parts.source, KrakenFeed),
        feed_sec=feed_sec(parts.source),
        holding_times=parts.store.holding_times,
        replica=parts.candle_replica,
    )


def regimes_view(parts: Parts, models: "RegimeModels | None", now: float) -> RegimeFacts:
    """Return what the status shows of models, candles and trainings; candles are kept up with."""
    if models is not None:
        return models.view(now)
    if parts.candles is not None:
        parts.candles.keep_up(now)
    return RegimeFacts()


def begin(parts: Parts, runtime: Runtime, models: "RegimeModels | None") -> None:
    """Let a live exchange begin to read what it holds; models and sizer go on where they were."""
    tell_restored(parts.store, runtime)
    if isinstance(parts.exchange, KrakenExchange):
        parts.exchange.start(runtime.state)
    elif runtime.state.restoring is not None:  # on paper nothing has happened since
        runtime.step(RestoreTold(time=runtime.state.now))
    if parts.replica is not None:
        parts.replica.start()
    if parts.candle_replica is not None:
        parts.candle_replica.start()
    if models is not None:
        begin_models(runtime, models, now=max(parts.exchange.now(), runtime.state.now))
    if runtime.params.kelly_enabled:
        begin_sizer(runtime, KellyDesk(parts.store.recent_cycles))


def begin_models(runtime: Runtime, models: "RegimeModels", *, now: float) -> None:
    """Let models go on where they were, and answer what they were asked last."""
    models.begin(runtime.state, now)
    runtime.models = models
    is_lost = any(x.trouble for x in models.frames)  # a model does not serve as the state says
    if is_lost or is_estimate_outstanding(runtime.state):
        runtime.step(models.estimate(now))


def open_parts(
    settings: config.Settings, source: Source | None = None, *, is_run: bool = False
) -> Parts:
    """Open everything a run needs, with `source` as its market if that is open already.

    Raises MarketError, StoreError, StoreInUse; Unavailable, StartRefused of a live market.
    """
    source = source or _looked_at(open_source(settings))
    _refuse_widow(settings)
    store = open_store(settings, is_run=is_run)
    try:
        refuse_other_venue(store, settings)
        paper = settings.paper_db()
        loaded, begins = store.load(), paper_start(store)
        is_begun = loaded is not None and (begins is None or loaded.seq != begins.seq)
        if is_begun and not paper.exists():
            raise StoreError(
                f"{paper} is missing: the paper exchange of {settings.state_db}. Restore it, or "
                "set STATE_DB to a new file (with a copy at Supabase: and start with --state local)"
            )
        run = store.identity()[1]["run"]
        made = 0 if begins is None or paper.exists() else _made(settings, store)
        exchange = _open_exchange(
            settings, source, paper, run, must_exist=is_begun, begins=begins, made=made
        )
        bind(store, settings)
    except BaseException:
        store.close()
        raise
    history = open_history(settings, source, store)
    return Parts(store=store, exchange=exchange, source=source, history=history)


def open_trial(settings: config.Settings) -> PaperExchange:
    """Open the exchange of a run that is never begun, in memory: nothing is left on disk.

    Raises MarketError, and StoreError where a run would find its files unusable; Unavailable,
    StartRefused of a live market.
    """
    _refuse_widow(settings)
    source = _looked_at(open_source(settings))
    return _open_exchange(settings, source, ":memory:", "", must_exist=False)


def _looked_at(source: Source) -> Source:
    if isinstance(source, KrakenFeed):
        source.look()
    return source


def _refuse_widow(settings: config.Settings) -> None:
    paper = settings.paper_db()
    if path_is(paper, "there") and not path_is(settings.state_db, "there"):
        raise StoreError(
            f"{paper} is there but its database {settings.state_db} is not: put that back beside "
            "it, or move the file away to start anew"
        )


def take_up(parts: Parts, state: BotState, settings: config.Settings) -> None:
    """Bring the exchange to where the bot last heard of it; refuse an older copy of its file.

    Raises StoreError when the file lacks executions or orders that the bot knows of.
    """
    if not isinstance(parts.exchange, PaperExchange):
        return
    parts.exchange.catch_up(state.exchange_cursor, state.now)
    parts.exchange.pending(state.exchange_cursor)  # refuses an older database before it is used
    if not state.started_at:
        return
    begins = paper_start(parts.store)
    after = 0 if begins is None else begins.seq
    booked = set(parts.store.execution_ids(after)) - parts.exchange.books().effects.keys()
    unknown = [x for x in orders(state) if x.txid and not parts.exchange.knows(x.client_order_id)]
    if begins is not None and unknown:  # lost with the file that was there before
        ids = tuple(x.client_order_id for x in unknown)
        parts.exchange.reconcile(RequestReconcile(reason="restored", client_order_ids=ids))
        unknown = []
    if booked or unknown:
        raise StoreError(
            f"{settings.paper_db()} lacks {len(booked)} executions and {len(unknown)} orders that "
            f"{settings.state_db} knows: it is an older copy. Restore both files from one backup"
        )


def _open_exchange(
    settings: config.Settings,
    source: Source,
    path: Path | str,
    run: str,
    *,
    must_exist: bool,
    begins: PaperStart | None = None,
    made: int = 0,
) -> PaperExchange:
    is_live = isinstance(source, KrakenFeed)
    instrument = source.instrument() if isinstance(source, KrakenFeed) else Instrument()
    price = source.first_price()
    start_usd, base_usd = settings.paper_start_quote, settings.paper_start_base_usd
    base = instrument.volume_down(base_usd / price) if price else ZERO
    terms = f"{start_usd} USD, and DOGE worth {base_usd} USD" if is_live else ""
    if begins is not None:
        base, start_usd = Decimal(begins.base), Decimal(begins.quote)
        terms = f"{start_usd} USD and {base} DOGE, as restored" if is_live else ""
    return PaperExchange(
        path,
        source,
        instrument,
        matching_config(settings),
        start_base=base,
        start_quote=start_usd,
        run=run,
        must_exist=must_exist,
        terms=terms,
        made=made,
    )


def _made(settings: config.Settings, store: SqliteStore) -> int:
    """Return the highest number in ids of orders and executions on paper that are booked."""
    ids = (*SqliteHistory(settings.state_db).txids(), *store.execution_ids())
    return max((int(x[-9:]) for x in ids if x[-9:].isdecimal()), default=0)


def exchange_books(settings: config.Settings, store: SqliteStore, state: BotState) -> ExchangeBooks:
    """Return the exchange's own books, beside the newest `state` of the bot.

    Raises StoreError; of a live exchange also StartRefused, Unavailable.
    """
    if settings.mode == "live":
        return live_books(settings, store, state)
    refuse_other_venue(store, settings)
    books = read_books(settings.paper_db(), told=state.exchange_cursor)
    begins = paper_start(store)
    return ExchangeBooks(
        base=books.base,
        quote=books.quote,
        effects=books.effects,
        untold=books.untold,
        since_seq=0 if begins is None else begins.seq,
    )


# ---- notifications ------------------------------------------------------------------------------

_ASKED_TIMES = 3


def open_notices(
    settings: config.Settings,
    *,
    published: Callable[[], Published | None],
    history: Callable[[], SqliteHistory | None],
    submit: Submit,
) -> Notices | None:
    """Return what tells the operator, not yet started; None where no channel is set."""

    def status() -> Status | None:
        newest = published()
        return None if newest is None else msgspec.json.decode(newest.body, type=Status)

    def shown() -> str:
        newest = status()
        return "there is no status yet" if newest is None else status_text(newest)

    telegram = _telegram(settings)
    channels: list[Channel] = [] if telegram is None else [telegram]
    if settings.notify_webhook_url is not None:
        channels.append(Webhook(settings.notify_webhook_url, settings.bot_name))
    if not channels:
        return None
    rng = Random(settings.seed)
    notifications = Notifications(
        channels,
        is_fast=settings.speed is None or settings.speed > 1,
        rng=rng,
        monotonic=monotonic,
        wall_now=wall_now,
        report=ReportClock(status, history).due,
    )
    if telegram is None or not settings.telegram_commands:
        return Notices(notifications, None, monotonic=monotonic, secrets=settings.secrets())
    listener = Listener(
        telegram,
        Line(monotonic),
        submit=lambda command_id, command: _carried_out(submit, command_id, command),
        known=lambda command_id: _known(history(), command_id),
        status=shown,
        reply=lambda text: notifications.answer(telegram.name, text),
        rng=Random(settings.seed + 1),
        monotonic=monotonic,
        wall_now=wall_now,
    )
    return Notices(notifications, listener, monotonic=monotonic, secrets=settings.secrets())


def _telegram(settings: config.Settings) -> Telegram | None:
    token, chat_id = settings.telegram_bot_token, settings.telegram_chat_id
    if token is None or chat_id is None:
        return None
    return Telegram(settings.telegram_api_url, token, int(chat_id), settings.bot_name)


def _carried_out(submit: Submit, command_id: str, command: Command) -> str:
    """Return in words what became of a command; one whose answer is late is asked after again."""
    for _ in range(_ASKED_TIMES):
        try:
            reply = submit(command_id, command, None)
        except Busy:
            continue
        except IdReused:
            return "refused: this message was read as another command before; send it again"
        return f"{'accepted' if reply.status == 200 else 'refused'}: {reply.message}"
    return "no answer yet: it may still be carried out; look at /status"


def _known(history: SqliteHistory | None, command_id: str) -> str | None:
    known = None if history is None else history.reply(command_id)
    if known is None:
        return None
    return f"{'accepted' if known['is_accepted'] else 'refused'}: {known['message']}"
