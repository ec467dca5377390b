"""Composition of what candles come from: the public market, its name on disk, the candles' copy.

A program, as `engine/wiring.py`.
"""

import logging
import math
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import config
from core.ports import ConfigError, StoreError
from engine.clock import monotonic, wall_now
from exchange.kraken import KrakenClient, is_venue
from exchange.kraken_market import KrakenMarket
from exchange.nonce import Nonces
from market.public import KrakenFeed
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from store.candles import DAY_SEC, SqliteCandles, candles_db
from store.chart import CandleChart
from store.history import SqliteHistory
from store.sqlite import SqliteStore

if TYPE_CHECKING:
    from market.pipeline import CandleHistory
    from store.candle_replica import CandleReplica

log = logging.getLogger("models")

Source = ReplaySource | SyntheticSource | KrakenFeed
FEED_SEC = 1.0  # after its close a simulated market's candle is known


def public_market(settings: config.Settings) -> KrakenMarket:
    """Return what asks Kraken, or what stands for it, in public. Raises ConfigError."""
    url = settings.kraken_api_url
    try:
        client = KrakenClient(
            url=url,
            key="",
            secret="",
            nonces=Nonces(lambda: int(wall_now() * 1e9), 0),  # none: all calls are public
            clock=monotonic,
            allow=settings.kraken_api_url_allow,
        )
    except ValueError as error:
        raise ConfigError([f"KRAKEN_API_URL={url}: {error}"]) from None
    return KrakenMarket(client, settings.pair)


def public_name(settings: config.Settings) -> str:
    """Return what that market is called."""
    url = settings.kraken_api_url
    return "Kraken's public prices" + ("" if is_venue(url) else f" from {url}")


def candles_of(settings: config.Settings) -> str:
    """Return what its candles are filed under, here and in the replica."""
    return f"{settings.pair}, {public_name(settings)}"


def market_of(settings: config.Settings, source: Source, store: SqliteStore) -> str:
    """Return what a run's candles are filed under: a simulated market is that run's alone."""
    if isinstance(source, KrakenFeed):
        return candles_of(settings)
    return f"{source.name}, run {store.identity()[1]['run']}"


def open_history(settings: config.Settings, source: Source, store: SqliteStore) -> SqliteHistory:
    """Return what reads the books and the run's candles, each from its file."""
    chart = CandleChart(
        candles_db(settings.state_db),
        pair=market_of(settings, source, store),
        interval=source.candle_interval,
    )
    return SqliteHistory(settings.state_db, chart)


def feed_sec(source: Source) -> float:
    """Return how long after its close a market's candle is known; a live one tells by itself."""
    return 0.0 if isinstance(source, KrakenFeed) else FEED_SEC


class CandleKeeper:
    """Keeps the candles of a run without models, for the page; with models their pipeline does."""

    def __init__(self, settings: config.Settings, source: Source, market: str) -> None:
        from market.pipeline import CandlePipeline, primary_interval  # noqa: PLC0415 - numpy

        self._feed_sec = feed_sec(source)
        self._store = open_candle_store(candles_db(settings.state_db), market)
        self._pipeline = CandlePipeline(
            source,
            interval=primary_interval(source),
            target=settings.hmm.training_candles,
            minimum=1,
            store=self._store,
            kept_sec=settings.history_retention_days * DAY_SEC,
            # Its history is an account's for models to learn from, and takes a second to make.
            begin=source.start_time() if isinstance(source, SyntheticSource) else -math.inf,
        )

    def keep_up(self, now: float) -> None:
        """Write the candles that have closed lately; never raises, never waits for a market."""
        self._pipeline.keep_up(now - self._feed_sec)

    def close(self) -> None:
        """Write what is not written yet and release the file."""
        self._pipeline.close()
        self._store.close()


def open_candle_replica(settings: config.Settings) -> "CandleReplica | None":
    """Return the candles' copy, not yet started; None where there is none to be."""
    url, key = settings.supabase_url, settings.supabase_key
    is_on = settings.supabase_candles and settings.params.hmm_enabled
    if url is None or key is None or not is_on or settings.market_data != "kraken":
        return None
    from store.candle_replica import CandleReplica  # noqa: PLC0415 - slow to import
    from store.supabase import Supabase  # noqa: PLC0415

    return CandleReplica(
        Supabase(url, key),
        candles_db(settings.state_db),
        pair=candles_of(settings),
        rng=Random(settings.seed + 3),
        monotonic=monotonic,
    )


def open_candle_store(path: Path, market: str) -> SqliteCandles:
    """Return the file of candles; where it cannot be used, one in memory: trading goes on."""
    try:
        return SqliteCandles(path, pair=market)
    except StoreError as error:
        log.warning("candles and evidence are kept until the stop only: %s", error)
        return SqliteCandles(":memory:", pair=market)


def further_places(
    store: SqliteCandles, settings: config.Settings, replica: "CandleReplica | None"
) -> "tuple[CandleHistory, ...]":
    """Return where candles may come from beside store and market, in the order they are asked."""
    from store.backfilled import Backfilled  # noqa: PLC0415 - not needed without models

    try:
        store.replicate(None if replica is None else settings.supabase_url)
        backfilled = Backfilled(store)
    except StoreError as error:
        log.warning("candles are neither copied nor taken from a backfill: %s", error)
        return () if replica is None else (replica,)
    return (backfilled,) if replica is None else (backfilled, replica)
