"""`/metrics`: the published status and what the server knows of itself, as Prometheus reads it.

Names begin with `grid_` and end in their unit; money is in the quote currency and called usd, as in
the configuration. Shares are 0 to 1. What is absent in the status has no sample. A label is never
an id, an account or free text. Look next at `core/status.py`.
"""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from core.advice_told import BANDS
from core.domain import OrderStatus
from core.market import UNREACHABLE
from core.record import Record
from core.regime import LABELS
from core.state import LockName, Mode, RiskLevel
from core.status import OrderBlock, Published, Status
from web.message import Answer

CONDITIONS = ("ok", "attention", "stopped", "alarm")
PHASES = ("S0", "S1a", "S1b", "S2")
EXCHANGE_STATUSES = (
    "online", "post_only", "limit_only", "cancel_only", "maintenance", "reconciling", UNREACHABLE,
    "other",
)  # fmt: skip

_Value = str | float | None
_Values = Mapping[str, _Value]


class StepTimes(Protocol):
    """How long the loop's steps took."""

    total_sec: float

    def buckets(self) -> list[tuple[float, int]]:
        """Return how many took at most so many seconds, by bounds up to infinity."""
        ...


class ServerFacts(Record, frozen=True, kw_only=True):
    """What the server and the process know beside the status; counts are since the start."""

    is_alive: bool
    is_ready: bool
    step_age_sec: float | None
    publisher_errors: int
    streams: int
    streams_refused: int
    connections_refused: int
    step_times: StepTimes | None = None
    state_db: Path | None = None


class Metrics:
    """Answers scrapes from what is published at that moment."""

    def __init__(
        self, published: Callable[[], Published | None], facts: Callable[[], ServerFacts]
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(published, facts))
        ProcessCollector(registry=self._registry)

    def answer(self) -> Answer:
        """Return all metrics; before the first status those of the process and the server."""
        body = generate_latest(self._registry)
        return Answer(status=200, body=body, content_type=CONTENT_TYPE_LATEST)


class _Families(Collector):
    def __init__(
        self, published: Callable[[], Published | None], facts: Callable[[], ServerFacts]
    ) -> None:
        self._published = published
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        """Tell nothing in advance: names depend on the status."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from _server(self._facts())
        published = self._published()
        if published is None:
            return
        status = msgspec.json.decode(published.body, type=Status)
        for block in (_bot, _equity, _market, _orders, _risk, _exchange, _books, _models):
            yield from block(status)


# ---- the blocks ---------------------------------------------------------------------------------


def _server(facts: ServerFacts) -> Iterator[Metric]:
    yield _gauge("grid_up", "1 while the loop makes steps", facts.is_alive)
    yield _gauge("grid_ready", "1 when started, with a fresh price, not halted", facts.is_ready)
    yield _gauge("grid_step_age_seconds", "Since the last step of the loop", facts.step_age_sec)
    yield _counter("grid_status_errors", "Statuses not published", facts.publisher_errors)
    yield _gauge("grid_streams", "Open event streams", facts.streams)
    yield _counter("grid_streams_refused", "Event streams turned away", facts.streams_refused)
    yield _counter("grid_connections_refused", "Connections turned away", facts.connections_refused)
    if (times := facts.step_times) is not None:
        counts = times.buckets()
        buckets = [("+Inf" if x == math.inf else str(x), count) for x, count in counts]
        text = "What was due at one instant, or one command"
        yield HistogramMetricFamily("grid_step_seconds", text, buckets, times.total_sec)
    if facts.state_db is not None:
        yield from _disk(facts.state_db)


def _disk(state_db: Path) -> Iterator[Metric]:
    try:
        files = (state_db, state_db.with_name(f"{state_db.name}-wal"))
        size = sum(file.stat().st_size for file in files if file.exists())
        free = shutil.disk_usage(state_db.parent).free
    except OSError:  # not made yet, or gone
        return
    yield _gauge("grid_database_bytes", "Of STATE_DB with its log", size)
    yield _gauge("grid_disk_free_bytes", "Where STATE_DB is", free)


def _bot(status: Status) -> Iterator[Metric]:
    bot, market = status.bot, status.market
    told = {
        "version": bot.version, "exchange_mode": bot.exchange_mode, "pair": market.pair,
        "base": market.base, "quote": market.quote,
    }  # fmt: skip
    yield InfoMetricFamily("grid_build", "What runs, and on what market", value=told)
    yield _states("grid_mode", "What the operator wants", "mode", bot.mode, tuple(Mode))
    yield _states("grid_condition", "How the bot is", "condition", bot.condition, CONDITIONS)
    yield _gauge(
        "grid_status_timestamp_seconds", "When the status was made, Unix time", bot.published_wall
    )
    yield _gauge("grid_started_timestamp_seconds", "When the daemon began", bot.started_wall)


def _equity(status: Status) -> Iterator[Metric]:
    equity = status.equity
    yield _gauge("grid_equity_usd", "Cash and inventory at the bid", equity.equity)
    yield _gauge("grid_cash_usd", "Quote currency", equity.cash)
    yield _gauge("grid_inventory_usd", "Base currency at the bid", equity.inventory)
    yield _gauge("grid_inventory_base", "Base currency, in its own units", equity.base)
    fall = "From the peak of equity; with RISK_BASIS=strategy of equity over holding"
    yield _gauge("grid_drawdown_ratio", fall, _share(equity.drawdown_pct))
    change = equity.change
    if change is not None:
        yield _gauges(
            "grid_equity_change_usd",
            "The change of equity since the first mark, in parts; unexplained must be 0",
            "part",
            {
                "grid_profit": change.grid_profit,
                "inventory_pnl": change.inventory_pnl,
                "fees": change.fees,
                "flows": change.flows,
                "unexplained": change.unexplained,
            },
        )
    if (held := equity.holding) is not None:
        ahead = {"start": held.start, "usd": held.usd, "doge": held.doge, "half": held.half}
        yield _gauges(
            "grid_ahead_of_holding_usd",
            "Equity less what holding would be worth: the start's balances, all of one, half-half",
            "held",
            {name: comparison.ahead for name, comparison in ahead.items()},
        )


def _market(status: Status) -> Iterator[Metric]:
    market = status.market
    sides = {"bid": market.bid, "ask": market.ask}
    yield _gauges("grid_price_usd", "The last accepted quote", "side", sides)
    age = None if market.time is None else max(0.0, status.bot.now - market.time)
    yield _gauge("grid_market_data_age_seconds", "Age of that quote, in bot time", age)
    yield _gauge("grid_market_stale", "1 when it is too old to act on", market.is_stale)


def _orders(status: Status) -> Iterator[Metric]:
    room, economics = status.capacity_fill_health, status.equity.economics
    yield _gauge("grid_open_orders", "Resting orders", room.open_orders)
    yield _gauge("grid_open_orders_limit", "Orders that the exchange lets rest", room.limit)
    yield _gauge("grid_open_orders_safe_cap", "Orders that we let rest", room.safe_cap)
    yield _gauge("grid_open_orders_headroom", "Orders that still fit", room.headroom)
    yield _states("grid_capacity_band", "How full that is", "band", room.band, BANDS)
    yield _counter("grid_orders", "Orders placed", room.orders)
    yield _counter("grid_fills", "Executions", room.fills)
    yield _counter("grid_partial_fills", "Executions that left a rest", room.partial_fills)
    yield _counter("grid_orphans", "Exits that became recoveries", room.orphans)
    yield _counters("grid_orders_rejected", "Orders refused", "reason", room.rejected)
    yield _counters(
        "grid_entry_vetoes",
        "Entries not made",
        "reason",
        {veto.reason: veto.count for veto in status.entry_vetoes},
    )
    yield _gauges(
        "grid_fill_seconds",
        "From placing to filling, of recent orders",
        "quantile",
        {"0.5": room.fill_sec_median, "0.95": room.fill_sec_p95},
    )
    ended = {"win": economics.wins, "loss": economics.losses}
    ended["even"] = economics.cycles - sum(ended.values())
    yield _counters("grid_cycles", "Completed cycles", "outcome", ended)
    phases = dict.fromkeys(PHASES, 0) | Counter(slot.phase for slot in status.slots)
    yield _gauges("grid_slots", "Slots by their phase", "phase", phases)
    recoveries = sum(len(slot.recoveries) for slot in status.slots)
    yield _gauge("grid_recoveries", "Orphaned exits that go on resting", recoveries)


def _risk(status: Status) -> Iterator[Metric]:
    risk = status.risk
    yield _states("grid_risk_level", "By drawdown", "level", risk.level, tuple(RiskLevel))
    held = {lock.name for lock in risk.locks}
    locks: dict[str, _Value] = {name: float(name in held) for name in LockName}
    yield _gauges("grid_lock", "1 while the lock stops entries", "lock", locks)
    yield _gauge("grid_daily_loss_usd", "Lost today (UTC); negative: a gain", risk.daily_loss)
    yield _gauge("grid_daily_loss_limit_usd", "Where entries stop", risk.daily_loss_limit)
    yield _gauge("grid_violations", "Invariants that do not hold", len(risk.violations))


def _exchange(status: Status) -> Iterator[Metric]:
    exchange, account = status.exchange, status.exchange.account
    said = exchange.status if exchange.status in EXCHANGE_STATUSES else "other"
    yield _states("grid_exchange_status", "As it says", "status", said, EXCHANGE_STATUSES)
    yield _gauge("grid_exchange_errors", "Failed calls in a row", exchange.consecutive_errors)
    yield _gauge("grid_clock_offset_seconds", "The exchange's clock", exchange.clock_offset_sec)
    yield _gauge("grid_ghost_orders", "Of ours, owned by nothing", exchange.ghosts)
    if account is not None:
        yield _gauge("grid_orders_in_doubt", "Without a definite answer", account.in_doubt)
        age = max((status.bot.now - x.placed_at for x in _uncertain(status)), default=0.0)
        yield _gauge("grid_order_in_doubt_seconds", "Since the oldest of them was placed", age)
        yield _gauge("grid_foreign_orders", "Open and not ours", account.foreign_orders)
        used = {"rest": account.rest_used_pct, "engine": account.engine_used_pct}
        yield _gauges(
            "grid_rate_budget_used_ratio",
            "Of the calls that we allow ourselves",
            "budget",
            {name: _share(pct) for name, pct in used.items()},
        )


def _uncertain(status: Status) -> Iterator[OrderBlock]:
    for slot in status.slots:
        orders = [x.order for x in slot.legs] + [x.order for x in slot.recoveries]
        yield from (x for x in orders if x is not None and x.status == OrderStatus.UNCERTAIN)


def _books(status: Status) -> Iterator[Metric]:
    ledger, kept = status.ledger, status.persistence
    drift = {"base": ledger.drift_base, "quote": ledger.drift_quote}
    yield _gauges("grid_ledger_drift", "The exchange's balance less ours", "asset", drift)
    yield _gauge("grid_ledger_balanced", "1 when debits equal credits", ledger.is_balanced)
    yield _gauge("grid_journal_seq", "The newest step on disk", kept.journal_seq)
    if (replica := kept.replica) is not None:
        yield _gauge("grid_replica_queue_rows", "Rows that wait for the copy", replica.queue)
        yield _gauge("grid_replica_lag_seconds", "Age of the oldest of them", replica.lag_sec)
        yield _counter("grid_replica_rows_sent", "Since the start", replica.sent)
        yield _counter("grid_replica_rows_dropped", "Since the start", replica.dropped)


def _models(status: Status) -> Iterator[Metric]:
    regime, kelly = status.regime_directional, status.kelly
    if isinstance(regime.regime, str):
        yield _states("grid_regime", "The policy regime", "regime", regime.regime, LABELS)
    tiers = {
        "confidence": regime.tier_by_confidence,
        "mechanical": regime.tier_mechanical,
        "effective": regime.tier_effective,
    }
    yield _gauges("grid_regime_tier", "0 to 2", "kind", _set(tiers))
    words = {"grid_regime_confidence": regime.confidence, "grid_regime_bias": regime.bias}
    for name, value in _set(words).items():
        yield _gauge(name, "Of the policy regime", value)
    for value in _set({"now": kelly.multiplier_now}).values():
        yield _gauge("grid_kelly_multiplier", "Of the size of an entry made now", value)


# ---- families -----------------------------------------------------------------------------------


def _set(values: Mapping[str, float | msgspec.UnsetType]) -> dict[str, _Value]:
    """Return those that the status holds: a block that is off has none."""
    return {name: x for name, x in values.items() if not isinstance(x, msgspec.UnsetType)}


def _share(pct: str) -> float:
    return float(pct) / 100


def _gauge(name: str, text: str, value: _Value) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric((), float(value))
    return family


def _gauges(name: str, text: str, label: str, values: _Values) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        if value is not None:
            family.add_metric((key,), float(value))
    return family


def _states(name: str, text: str, label: str, state: str, states: Iterable[str]) -> Metric:
    """Return 1 for the state that is, 0 for the others, so that an alarm sees both."""
    values = {**dict.fromkeys(states, 0.0), state: 1.0}
    return _gauges(name, f"{text}: 1 for what is, 0 for the others", label, values)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family
