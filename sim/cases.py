"""The runs that a backtest is made of: presets side by side, and what stress does to a verdict."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from config import Settings
from core.advice import Score
from core.events import OpinionGiven
from core.params import Params
from core.record import replace
from core.state import BotState
from engine.books import canonical_text, digest
from engine.wiring import matching_config
from exchange.matching import MatchingConfig, preset
from market.columns import ColumnSource
from sim.arms import SHUFFLES, Comparison, Fills, compare
from sim.metrics import Trials
from sim.observed import (
    COARSE,
    SPACING_WARN,
    Observed,
    RegimeWatch,
    Spacing,
    observed,
    spacing,
)
from sim.opinions import Follower, RecordedAdvisor
from sim.run import live_through
from sim.verdict import Verdict, judge

PRESETS = ("default", "pessimistic")
FOLLOWED = ", opinions followed"  # ends the name of such a run
Progress = Callable[[str, BotState], None]  # told the name of the run and where it is


class Advised(NamedTuple):
    """What recorded opinions came to."""

    told: int
    score: Score
    refusals: dict[str, int]  # why overrides were not applied, and how often
    is_followed: bool  # by an operator who applies each


class Case(NamedTuple):
    """One run, the sizings on its fills, and what is to be thought of them."""

    name: str
    matching: MatchingConfig
    params: Params
    observed: Observed
    spacing: Spacing | None
    regimes: RegimeWatch
    comparison: Comparison
    verdicts: tuple[Verdict, ...]  # of the tested sizings; none where data are too coarse
    cpu_sec: float
    digest: str  # SHA-256 of the canonical export
    advised: Advised | None = None  # where recorded opinions were told


class Full(NamedTuple):
    """A run as it is set: where Kelly is on, orders had its sizes at the exchange too."""

    name: str
    mode: str
    observed: Observed
    spacing: Spacing | None
    cpu_sec: float
    digest: str


class Against(NamedTuple):
    """Two runs under one preset that differ by some settings."""

    settings: dict[str, tuple[str, str]]  # by name: as it is set, and what it is held against
    own: Case | Full
    other: Full


class Findings(NamedTuple):
    """All that a report is made of."""

    cases: tuple[Case, ...]  # presets side by side
    stressed: tuple[Case, ...]
    full: tuple[Full, ...]  # one for each preset, where Kelly is on
    tried: Trials  # by sweeps, on the same data
    against: tuple[Against, ...] = ()  # one for each preset, where it is asked for


def own_matching(settings: Settings, name: str) -> MatchingConfig:
    """Return the paper exchange of the settings under a preset."""
    return preset(name, matching_config(replace(settings, paper_preset="default")))


def stressed(base: MatchingConfig, params: Params) -> Iterator[tuple[str, MatchingConfig]]:
    """Yield what the default exchange becomes under stress, by name."""
    yield "fees + 25 %", replace(base, fee_factor=base.fee_factor * Decimal("1.25"))
    yield (
        "latency × 3",
        replace(
            base, feed_sec=3 * base.feed_sec, entry_sec=3 * base.entry_sec,
            cancel_sec=3 * base.cancel_sec, response_sec=3 * base.response_sec,
        ),
    )  # fmt: skip
    yield "half the volume", replace(base, participation=base.participation / 2)
    widest = params.profit_pct / Decimal(SPACING_WARN)
    yield f"no fill in bars wider than {widest:.2f} %", replace(base, widest_pct=widest)
    yield "no fill at a touch, two ticks through", replace(base, touch_prob=0.0, through_ticks=2)


def run_case(
    name: str,
    settings: Settings,
    source: ColumnSource,
    matching: MatchingConfig,
    *,
    shuffles: int = SHUFFLES,
    is_skipping: bool = True,
    progress: Progress | None = None,
    opinions: Sequence[OpinionGiven] = (),
    is_followed: bool = False,
) -> Case:
    """Run once, with fixed sizes, and compare sizings on the fills.

    Raises MarketError, StoreError.
    """
    settings = with_kelly(settings, is_on=False)
    watch, follower = RegimeWatch(), Follower()
    with tempfile.TemporaryDirectory() as folder:
        outcome = live_through(
            settings, source, folder=Path(folder), matching=matching, is_skipping=is_skipping,
            watch=lambda runtime, _: watch.begin(runtime),
            on_progress=None if progress is None else lambda state: progress(name, state),
            advisor=RecordedAdvisor(opinions) if opinions else None,
            operator=follower.look if is_followed else None,
        )  # fmt: skip
    try:
        seen, apart = observed(outcome, watch), spacing(source, outcome)
        exported = digest(canonical_text(outcome.store, outcome.state))
    finally:
        outcome.store.close()
    comparison = compare(seen.fills, outcome.params, shuffles=shuffles, seed=settings.seed)
    is_coarse = apart is not None and apart.word == COARSE
    return Case(
        name=name,
        matching=matching,
        params=outcome.params,
        observed=seen,
        spacing=apart,
        regimes=watch,
        comparison=comparison,
        verdicts=() if is_coarse else tuple(_verdicts(comparison, seen.fills, settings.seed)),
        cpu_sec=outcome.cpu_sec,
        digest=exported,
        advised=Advised(
            told=len(opinions), score=outcome.state.advice.score, refusals=follower.refusals,
            is_followed=is_followed,
        )
        if opinions
        else None,
    )  # fmt: skip


def run_full(
    name: str,
    settings: Settings,
    source: ColumnSource,
    matching: MatchingConfig,
    *,
    is_skipping: bool = True,
    progress: Progress | None = None,
) -> Full:
    """Run once as it is set, with Kelly's sizes where it is on. Raises MarketError, StoreError."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = live_through(
            settings, source, folder=Path(folder), matching=matching, is_skipping=is_skipping,
            on_progress=None if progress is None else lambda state: progress(name, state),
        )  # fmt: skip
    try:
        return Full(
            name=name, mode=outcome.params.kelly.mode, observed=observed(outcome),
            spacing=spacing(source, outcome), cpu_sec=outcome.cpu_sec,
            digest=digest(canonical_text(outcome.store, outcome.state)),
        )  # fmt: skip
    finally:
        outcome.store.close()


def with_kelly(settings: Settings, *, is_on: bool) -> Settings:
    """Return the settings with Kelly sizes on or off."""
    return replace(settings, params=replace(settings.params, kelly_enabled=is_on))


def _verdicts(comparison: Comparison, fills: Fills, seed: int) -> Iterator[Verdict]:
    for x in comparison.tested:
        yield judge(
            x.arm.name, tested=fills.spliced(x.arm.equity),
            matched=fills.spliced(x.matched.equity), placebo=x.placebo,
            multipliers=x.arm.multipliers, seed=seed,
        )  # fmt: skip
