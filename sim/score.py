"""How a backtest went against holding: the numbers that a sweep compares.

Equity is marked at liquidation: the bid less the taker fee on all base, for the grid and for the
starting balances held alike. The fee is that of the start, whatever the volume since: else holding
would not be the same for all, and trading much would look like a gain. A day is a whole UTC day
with prices (`sim/coverage.py`), from the first mark after one midnight to that after the next; all
else is lived through and not counted.
"""

import math
import tempfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import NamedTuple

from scipy import stats

import config
from core import actions as a
from core.domain import ONE
from core.plain_text import counted
from core.ports import MarketError
from core.record import Record
from core.state import BotState
from engine.models import RegimeModels
from engine.runtime import Runtime
from market.columns import ColumnSource
from sim.run import live_through

DAY_SEC, HOUR_SEC = 86_400, 3_600
DAYS_MIN = 2  # the least that have a deviation


class Score(Record, frozen=True, kw_only=True):
    """One backtest; growth is the mean log growth a day, the Sharpe ratio that of the excess."""

    days: int  # whole ones with prices
    growth: float
    hold: float  # growth of the starting balances held
    excess: float  # growth less hold: what a sweep makes large
    sharpe: float  # of the daily excess, not annualised; 0 where it never varies
    skewness: float  # of the daily excess; 0 and 3 where it never varies
    kurtosis: float  # not in excess of 3
    drawdown: float  # the largest 1 − equity/peak, at hourly marks
    cycles: int
    fees: float  # USD


class _Mark(NamedTuple):
    """Equity and what holding would be worth, at liquidation, at the first look of an hour."""

    time: float
    equity: float
    hold: float
    is_daily: bool
    taker: Decimal  # the fee rate it is marked with


def settings_for(source: ColumnSource, changes: Mapping[str, str], folder: Path) -> config.Settings:
    """Return the daemon's settings for a backtest; the environment is not read.

    Raises ConfigError.
    """
    fixed = {"MARKET_DATA": "replay", "REPLAY_FILE": str(source.path),
             "STATE_DB": str(folder / "sweep.db")}  # fmt: skip
    return config.load({**changes, **fixed}, folder / ".env")


def backtest(source: ColumnSource, changes: Mapping[str, str]) -> Score:
    """Return how the daemon does over `source` with its defaults and `changes`.

    Raises ConfigError for settings that the daemon refuses, MarketError and StoreError.
    """
    marks: list[_Mark] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = settings_for(source, changes, folder)

        def watch(runtime: Runtime, _models: RegimeModels | None) -> None:
            runtime.on_step = lambda _, actions: _note(marks, runtime.state, actions)

        outcome = live_through(settings, source, folder=folder, watch=watch)
        outcome.store.close()
    state = outcome.state
    return score(
        marks, outcome.coverage.days,
        cycles=state.counters.get("cycles", 0), fees=float(state.accounts.fees),
    )  # fmt: skip


def _note(marks: list[_Mark], state: BotState, actions: tuple[a.Action, ...]) -> None:
    for action in actions:
        if isinstance(action, a.RecordEquity):
            taker = marks[0].taker if marks else state.fees.taker
            own, bid = state.balances, action.mark * (ONE - taker)
            marks.append(
                _Mark(
                    time=action.time,
                    equity=float(own.quote + own.base * bid),
                    hold=float(own.start_quote + own.start_base * bid),
                    is_daily=action.is_daily,
                    taker=taker,
                )
            )


def score(marks: list[_Mark], priced_days: AbstractSet[int], *, cycles: int, fees: float) -> Score:
    """Return the score of a run's marks, oldest first, by the days since 1970 that have prices.

    Raises MarketError for too few days.
    """
    midnights = [x for x in marks if x.is_daily and x.time % DAY_SEC < HOUR_SEC]
    days = [
        (before, after) for before, after in pairwise(midnights)
        if after.time // DAY_SEC - before.time // DAY_SEC == 1
        and before.time // DAY_SEC in priced_days
    ]  # fmt: skip
    if len(days) < DAYS_MIN:
        raise MarketError(
            f"{counted(len(days), 'whole UTC day')} with prices; at least {DAYS_MIN} are needed"
        )
    own = [math.log(after.equity / before.equity) for before, after in days]
    held = [math.log(after.hold / before.hold) for before, after in days]
    excess = [x - y for x, y in zip(own, held, strict=True)]
    skewness, kurtosis = _shape(excess)
    deviation = stdev(excess)
    return Score(
        days=len(excess),
        growth=fmean(own),
        hold=fmean(held),
        excess=fmean(excess),
        sharpe=fmean(excess) / deviation if deviation > 0 else 0.0,
        skewness=skewness,
        kurtosis=kurtosis,
        drawdown=_drawdown([x.equity for x in marks]),
        cycles=cycles,
        fees=fees,
    )


def _shape(values: list[float]) -> tuple[float, float]:
    """Return skewness and kurtosis, those of a normal distribution where nothing varies."""
    if pstdev(values) == 0:
        return 0.0, 3.0
    return float(stats.skew(values)), float(stats.kurtosis(values, fisher=False))


def _drawdown(values: list[float]) -> float:
    peak = deepest = 0.0
    for value in values:
        peak = max(peak, value)
        deepest = max(deepest, 1 - value / peak)
    return deepest
