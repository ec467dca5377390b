"""A finished run in numbers: marks, cycles, open positions, and how its orders fared.

Floats: what comes after is statistics; the books were exact. Look next at `sim/arms.py`.
"""

import math
from bisect import bisect_right
from collections import Counter
from decimal import Decimal
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
import numpy.typing as npt

from accounting import benchmarks, equity
from core.events import RegimeEstimated
from engine.positions import Marked, marked_positions
from engine.runtime import Runtime
from market.columns import ColumnSource
from sim.arms import Cycle, Fills, Held
from sim.coverage import Coverage
from sim.metrics import Floats
from sim.run import Outcome

SPACING_WARN, SPACING_LEAST = 3.0, 1.5  # of an entry to its exit, in deviations of one bar
COARSE = "needs finer data"
HEAVY_EACH, HEAVY_ALL = 0.1, 0.5  # of the variance: of one heavy bar, and of all together
DONE_NOTHING = ("usd", "doge", "half")  # as the store names them


class Move(NamedTuple):
    """What one bar moved the price by."""

    time: float  # of its end, UTC seconds
    move_pct: float  # in % of the price before


class Spacing(NamedTuple):
    """How far orders are apart, against what one bar moves."""

    bar_sec: float
    deviation_pct: float  # of one bar's log return
    to_exit: float  # distance from an entry to its exit, in these
    to_entry: float  # from the market to an entry
    heavy: tuple[Move, ...] = ()  # a handful of bars that make most of the variance
    to_exit_without: float | None = None  # with these left out

    @property
    def word(self) -> str:
        """Return "" where the bars are fine enough, "warning", or "needs finer data"."""
        if self.to_exit < SPACING_LEAST:
            return COARSE
        return "warning" if self.to_exit < SPACING_WARN else ""


class Diagnostics(NamedTuple):
    """How orders fared; times in seconds, shares 0 to 1, None where there was nothing."""

    placed: int
    filled: int
    partly: int  # orders with more than one execution
    rejected: int
    crossing: int  # of them for want of post-only
    executions: int
    maker_share: float | None
    limited_share: float | None  # executions that left a rest: the volume did not suffice
    wait_p50_sec: float | None  # from an order's placement to its end by execution
    wait_p95_sec: float | None


class Observed(NamedTuple):
    """What a report needs of a run."""

    fills: Fills
    days: dict[str, Floats]  # at `fills.mark_times`: equity and base, and doing nothing
    deepest: dict[str, float]  # drawdown at hourly marks: of the run and the ways of doing nothing
    diagnostics: Diagnostics
    counters: dict[str, int]
    paid: float  # fees in all, USD
    coverage: Coverage


class RegimeWatch:
    """Notes what the models said at each evaluation."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.labels: list[int | None] = []

    def begin(self, runtime: Runtime) -> None:
        """Watch the steps of a run."""

        def note(event: object, _actions: object) -> None:
            if isinstance(event, RegimeEstimated):
                regimes = runtime.state.regimes
                self.times.append(event.time)
                self.labels.append(regimes.policy.label if regimes.policy.tag is not None else None)

        runtime.on_step = note


def observed(outcome: Outcome, regimes: RegimeWatch | None = None) -> Observed:
    """Return the run in numbers; `regimes` are what the models said, as it was sized by."""
    history = outcome.store.export()
    sized = _Placements(history["orders"], RegimeWatch() if regimes is None else regimes)
    hours = _hours(outcome)
    times, bids = hours["time"], hours["mark"]
    # The start, the end of each UTC day, and the end of the data.
    is_mark = np.zeros(times.size, dtype=bool)
    if times.size:
        is_mark[[0, -1]] = True
        is_mark[1:] |= np.diff(times // 86_400.0) > 0
    fills = Fills(
        cycles=[_cycle(x, sized) for x in history["cycles"]],
        held=[_held(x, sized) for x in marked_positions(outcome.state)],
        mark_times=times[is_mark],
        bids=bids[is_mark],
        base=float(outcome.start_base),
        quote=float(outcome.start_quote),
        taker=float(outcome.start_taker),
        slots=max(1, len(outcome.state.slots)),
        days=outcome.coverage.days,
        least_usd=float(outcome.state.instrument.cost_min),
    )
    days = {name: hours[name][is_mark] for name in ("equity", "base", *DONE_NOTHING)}
    coin = bids * fills.taker
    run = hours["equity"] - hours["base"] * coin
    deepest = {"equity": _deepest(run), "hold": _deepest(hours["hold"] - fills.base * coin)}
    deepest |= {name: _deepest(hours[name]) for name in DONE_NOTHING}
    return Observed(
        fills=fills,
        days=days,
        deepest=deepest,
        diagnostics=_diagnostics(history["orders"], history["executions"]),
        counters=dict(outcome.state.counters),
        paid=float(outcome.state.accounts.fees),
        coverage=outcome.coverage,
    )


def _hours(outcome: Outcome) -> dict[str, Floats]:
    """Return what is owned, and what doing nothing would be worth: once an hour, and at the end.

    All in USD, all in coin, and half and half begin with what the start would have been sold for.
    """
    found, state = outcome.store.equity_points(), outcome.state
    value, others = equity(state), benchmarks(state)
    if value is None or others is None or state.market is None or not found["time"].size:
        return found
    if state.now > found["time"][-1]:
        end: dict[str, SupportsFloat] = {
            "time": state.now, "equity": value, "hold": others.hold, "usd": others.usd,
            "doge": others.doge, "half": others.half, "mark": state.market.bid,
            "base": state.balances.base,
        }  # fmt: skip
        found = {name: np.append(x, float(end[name])) for name, x in found.items()}
    fee = float(outcome.start_base * outcome.start_taker) * found["mark"][0]
    for name in DONE_NOTHING:
        found[name] = found[name] * (1.0 - fee / found[name][0])
    return found


def _deepest(equity: Floats) -> float:
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity))) if equity.size else 0.0


def spacing(source: ColumnSource, outcome: Outcome) -> Spacing | None:
    """Return how far apart orders are in bars' deviations; None of trades, or without a move."""
    if source.columns is None:
        return None
    ends = source.columns.closes_at
    is_next = np.diff(ends) < 1.5 * source.interval  # what a gap moved by is no bar's move
    times, moves = ends[1:][is_next], np.diff(np.log(source.columns.close))[is_next]
    deviation = float(np.std(moves)) * 100.0 if moves.size > 1 else 0.0
    if deviation <= 0.0:
        return None
    to_exit = float(outcome.params.profit_pct) / deviation
    heavy = _heavy(moves)
    rest = float(np.std(np.delete(moves, heavy))) * 100.0
    return Spacing(
        bar_sec=source.interval,
        deviation_pct=deviation,
        to_exit=to_exit,
        to_entry=float(outcome.params.entry_pct) / deviation,
        heavy=tuple(Move(float(times[n]), 100.0 * math.expm1(moves[n])) for n in heavy),
        to_exit_without=to_exit * deviation / rest if len(heavy) and rest > 0.0 else None,
    )


def _heavy(moves: Floats) -> npt.NDArray[np.intp]:
    """Return which bars make most of the moves' variance; none where that takes many."""
    squares = (moves - moves.mean()) ** 2
    share = squares / squares.sum()
    found = np.flatnonzero(share >= HEAVY_EACH)
    is_few = found.size <= moves.size // 100
    return found if is_few and share[found].sum() > HEAVY_ALL else found[:0]


class _Placements:
    """When entries were placed, and what the models had said by then."""

    def __init__(self, orders: list[dict[str, Any]], regimes: RegimeWatch) -> None:
        self._times: dict[tuple[int, str], list[float]] = {}
        for x in sorted(orders, key=lambda x: float(x["placed_at"])):
            if x["role"] == "entry":
                self._times.setdefault((x["slot_id"], x["trade_id"]), []).append(x["placed_at"])
        self._regimes = regimes

    def of(self, slot_id: int, leg: str, entry_time: float) -> tuple[float, int | None]:
        """Return when the entry of that time was placed, and the label then."""
        times = self._times[slot_id, leg]
        at = times[max(0, bisect_right(times, entry_time) - 1)]
        n = bisect_right(self._regimes.times, at) - 1
        return at, self._regimes.labels[n] if n >= 0 else None


def _cycle(x: dict[str, Any], sized: _Placements) -> Cycle:
    placed_at, regime = sized.of(x["slot_id"], x["trade_id"], x["entry_time"])
    return Cycle(
        slot_id=x["slot_id"], leg=x["trade_id"], entry_time=x["entry_time"],
        exit_time=x["exit_time"], entry_price=float(x["entry_price"]),
        exit_price=float(x["exit_price"]), volume=float(x["volume"]),
        entry_fee=float(x["entry_fee"]), exit_fee=float(x["exit_fee"]),
        net_profit=float(x["net_profit"]), regime_at_entry=x["regime_at_entry"],
        placed_at=placed_at, regime_placed=regime,
    )  # fmt: skip


def _held(x: Marked, sized: _Placements) -> Held:
    position = x.position
    placed_at, regime = sized.of(x.slot_id, x.trade_id.value, position.filled_at)
    share = float(position.open_volume / position.volume)
    return Held(
        slot_id=x.slot_id, leg=x.trade_id.value, entry_time=position.filled_at,
        entry_price=float(position.open_cost / position.open_volume),
        volume=float(position.open_volume), entry_fee=float(position.fees) * share,
        regime_at_entry=position.regime_at_entry, placed_at=placed_at, regime_placed=regime,
    )  # fmt: skip


def _diagnostics(orders: list[dict[str, Any]], executions: list[dict[str, Any]]) -> Diagnostics:
    parts = Counter(x["client_order_id"] for x in executions)
    volumes: dict[str, Decimal] = {}
    limited = 0
    wanted = {x["client_order_id"]: Decimal(x["volume"]) for x in orders}
    for x in executions:
        name = x["client_order_id"]
        volumes[name] = volumes.get(name, Decimal(0)) + Decimal(x["volume"])
        limited += volumes[name] < wanted.get(name, volumes[name])
    waits = [x["closed_at"] - x["placed_at"] for x in orders if x["status"] == "filled"]
    rejected = [x for x in orders if x["status"] == "rejected"]
    count = len(executions)
    return Diagnostics(
        placed=len(orders),
        filled=len(waits),
        partly=sum(n > 1 for n in parts.values()),
        rejected=len(rejected),
        crossing=sum("post_only" in (x["detail"] or "") for x in rejected),
        executions=count,
        maker_share=sum(x["is_maker"] for x in executions) / count if count else None,
        limited_share=limited / count if count else None,
        wait_p50_sec=float(np.percentile(waits, 50)) if waits else None,
        wait_p95_sec=float(np.percentile(waits, 95)) if waits else None,
    )
