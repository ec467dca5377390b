"""A market lived through in memory: the daemon's Runtime, Loop, models and sizer, without a daemon.

What differs from a replay of the daemon are the ports: a store and an exchange in memory, training
in this process, and, unless told otherwise, bars that change nothing are skipped.
"""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import config
from core.domain import ZERO, Instrument
from core.order_id import bot_tag
from core.params import Params
from core.ports import Advisor, Message
from core.record import replace
from core.state import BotState
from engine.candle_history import FEED_SEC
from engine.clock import Pacer, cpu_seconds
from engine.kelly import KellyDesk
from engine.loop import TIMER_SEC, Loop
from engine.models import RegimeModels, open_models
from engine.runtime import Runtime
from engine.trainer import InlineTrainer
from engine.wiring import begin_models, epoch_of, matching_config
from exchange.matching import MatchingConfig
from exchange.skipping import SkippingExchange, Terms
from grid.quiet import idle_until
from grid.watch import HOUR_SEC
from market.columns import ColumnSource
from sim.coverage import Coverage, coverage
from sim.unkept import UnkeptCandles
from store.backtest import BacktestStore


class Outcome(NamedTuple):
    """What is left of a run; `store` is open."""

    state: BotState
    params: Params
    store: BacktestStore
    start_base: Decimal
    start_quote: Decimal
    start_taker: Decimal  # the fee rate at the start
    cpu_sec: float
    coverage: Coverage


def live_through(
    settings: config.Settings,
    source: ColumnSource,
    *,
    folder: Path,
    matching: MatchingConfig | None = None,
    is_skipping: bool = True,
    watch: Callable[[Runtime, RegimeModels | None], None] | None = None,
    on_progress: Callable[[BotState], None] | None = None,
    advisor: Advisor | None = None,
    operator: Callable[[Runtime], None] | None = None,
) -> Outcome:
    """Run from the market's first bar to its last; `folder` is for the files of models.

    `matching` stands in for the exchange that the settings describe; `watch` is given the run
    before it begins; `operator` has a look after each turn of the loop.
    Raises MarketError, StoreError.
    """
    began = cpu_seconds()
    instrument, price = Instrument(), source.first_price()
    base = instrument.volume_down(settings.paper_start_base_usd / price) if price else ZERO
    quote = settings.paper_start_quote
    store = BacktestStore(epoch=epoch_of(settings))
    exchange = SkippingExchange(
        source, instrument, matching or matching_config(settings),
        start_base=base, start_quote=quote,
    )  # fmt: skip
    params = replace(
        settings.params, stale_price_max_age_sec=settings.stale_after(source.price_interval)
    )
    runtime = Runtime(store, exchange, None)
    models = _models(settings, source, store, folder)
    try:
        if watch is not None:
            watch(runtime, models)
        tag = bot_tag(settings.bot_name, instrument.pair)
        venue = exchange.describe()
        runtime.start(venue, params, now=exchange.now(), bot_tag=tag)
        if models is not None:
            begin_models(runtime, models, now=exchange.now())
        if params.kelly_enabled:
            runtime.sizer = KellyDesk(store.recent_cycles)
        loop = Loop(runtime, exchange, pacer=Pacer(None), models=models)
        if is_skipping:
            loop.skip = lambda state, due: _skip(exchange, state, runtime.params, due)
        runtime.advisor = advisor
        loop.on_iteration = lambda _: _after(runtime, on_progress, operator)
        loop.run()
    finally:
        exchange.close()
        if models is not None:
            models.close()
    taker = venue.fees.taker
    cpu_sec = cpu_seconds() - began
    return Outcome(
        runtime.state, params, store, base, quote, taker, cpu_sec, coverage(source.hours)
    )


def _after(
    runtime: Runtime,
    on_progress: Callable[[BotState], None] | None,
    operator: Callable[[Runtime], None] | None,
) -> None:
    if operator is not None:
        operator(runtime)
    if on_progress is not None:
        on_progress(runtime.state)


def _models(
    settings: config.Settings, source: ColumnSource, store: BacktestStore, folder: Path
) -> RegimeModels | None:
    if not settings.params.hmm_enabled:
        return None
    return open_models(
        replace(settings, state_db=folder / "backtest.db"), source, market="backtest",
        is_real_time=False, feed_sec=FEED_SEC, holding_times=store.holding_times,
        trainer=InlineTrainer(), store=UnkeptCandles(":memory:", pair="backtest"), is_kept=False,
    )  # fmt: skip


def _skip(
    exchange: SkippingExchange, state: BotState, params: Params, due: float
) -> Message | None:
    """Have the exchange skip what the reducer would only take note of."""
    quiet, market, asked_at = state.quiet, state.market, state.balances.requested_at
    if quiet is None or market is None or asked_at is None or not exchange.is_idle:
        return None
    if quiet.duty_due <= state.now:
        return None
    terms = Terms(
        before=min(due, idle_until(state, params)), now=state.now, timer_at=state.timer_at,
        timer_sec=TIMER_SEC, hour_at=float((state.hour + 1) * HOUR_SEC), asked_at=asked_at,
        read_sec=params.recon_interval_sec,
        stale_sec=params.stale_price_max_age_sec, spread_pct=params.max_spread_pct,
    )  # fmt: skip
    return exchange.skip(quiet, market, terms)
