"""What the regimes would have been: the daemon's own chain over a market, without trading.

The Runtime, the Loop and the RegimeModels of the daemon run in simulated time over a market's
candles, with a store in memory and an exchange that has neither prices nor orders. So what is seen
here is what the daemon would say and hold; nothing of its rules stands here a second time.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import config
from core import actions as a
from core import events as e
from core.commands import Pause
from core.domain import ZERO, FeeRates, Instrument
from core.market import CandleSource
from core.ports import Commit, ConfigError, Loaded, Message, Venue
from core.record import replace
from core.regime import Evidence, ModelRef
from core.state import BotState
from core.tiers import Policy, Tiers
from engine.candle_history import FEED_SEC
from engine.clock import Pacer
from engine.loop import Loop
from engine.models import RegimeModels, open_models
from engine.runtime import Runtime
from engine.trainer import InlineTrainer
from engine.wiring import begin_models
from hmm_regime_detector import Model, transmat_by_label
from regime_policy import hold
from settings.table import BY_NAME, VARIABLES
from settings.variable import value_of
from sim.unkept import UnkeptCandles
from store.memory import MemoryStore

SECTIONS = ("Regime models", "Regime tiers")
BID, ASK = Decimal("0.1"), Decimal("0.1001")  # of the one quote; nothing depends on them
# What has nothing to do with regimes is done as rarely as it may be.
IDLE = {"MARKET_DATA": "synthetic", "SLOT_COUNT": "1", "RECON_INTERVAL_SEC": "86400",
        "IMBALANCE_ALERT_MIN": "10000"}  # fmt: skip
NAMES = tuple(v.name for v in VARIABLES if v.section in SECTIONS)


class Evaluation(NamedTuple):
    """What was said and held at one evaluation; labels are those of `core.regime`."""

    time: float
    price: float  # the close of the newest primary candle, nan without any
    primary: int | None  # None: untrained, stale, or not there
    secondary: int | None
    policy: Policy
    tiers: Tiers  # by the settings
    ungated: Tiers  # the same without the evidence gate
    evidence: tuple[Evidence, ...]
    horizon_sec: float


class Trained(NamedTuple):
    """One training: when its model began to serve, what it is, how long it took."""

    time: float
    ref: ModelRef
    transmat: list[list[float]]  # between labels
    labels: tuple[int, ...]  # of the states
    wall_sec: float


class Study(NamedTuple):
    """All that was seen."""

    evaluations: list[Evaluation]
    trainings: list[Trained]
    failures: list[str]  # trainings that gave no model


def settings_of(changes: Mapping[str, str], folder: Path) -> config.Settings:
    """Return the daemon's settings with the models on; `changes` are those of regimes, by name.

    Files go to `folder`. Raises ConfigError, also for other names.
    """
    foreign = [f"{x}: only settings of regimes can be set here" for x in changes if x not in NAMES]
    if foreign:
        raise ConfigError(foreign)
    if value_of(BY_NAME["HMM_ENABLED"], changes.get("HMM_ENABLED", "true"), folder) is False:
        raise ConfigError(["HMM_ENABLED=false: without models there is nothing to look at"])
    fixed = {**IDLE, "STATE_DB": str(folder / "study.db")}
    return config.load({"HMM_ENABLED": "true", **changes, **fixed}, folder / ".env")


def study(
    settings: config.Settings,
    source: CandleSource,
    *,
    start: float,
    until: float,
    on_evaluation: Callable[[BotState], None] = lambda _: None,
) -> Study:
    """Run the daemon's models over `source` from `start` to `until`, seconds; return what was seen.

    What `source` tells of the time before `start` is history, as on a daemon's first start.
    Training is done in this process; its result comes after the settings' simulated latency.
    """
    store = _Forgetful()
    exchange = Nowhere(start, until)
    trainer = InlineTrainer()
    models = open_models(
        settings, source, market="study", is_real_time=False, feed_sec=FEED_SEC,
        holding_times=store.holding_times, trainer=trainer,
        store=UnkeptCandles(":memory:", pair="study"),
    )  # fmt: skip
    try:
        runtime = Runtime(store, exchange, None)
        watch = _Watch(runtime, models, trainer, on_evaluation)
        runtime.on_step = watch.step
        runtime.start(exchange.describe(), settings.params, now=start, bot_tag=0)
        runtime.step(e.CommandReceived(time=start, command_id="study", command=Pause()))
        begin_models(runtime, models, now=start)
        Loop(runtime, exchange, pacer=Pacer(None), models=models).run()
    finally:
        models.close()
        store.close()
    return watch.seen


class _Forgetful(MemoryStore):
    """A store without cycles that keeps nothing: a study is never taken up again."""

    def commit(self, commit: Commit) -> None:
        """Forget it."""

    def snapshot(self, loaded: Loaded) -> None:
        """Forget it."""


class _Watch:
    """Notes what each step has led to; changes nothing."""

    def __init__(
        self,
        runtime: Runtime,
        models: RegimeModels,
        trainer: InlineTrainer,
        on_evaluation: Callable[[BotState], None],
    ) -> None:
        self.seen = Study([], [], [])
        self._runtime, self._models, self._trainer = runtime, models, trainer
        self._on_evaluation = on_evaluation
        self._ungated = Tiers()
        self._wall_sec: dict[float, float] = {}

    def step(self, event: e.Event, actions: tuple[a.Action, ...]) -> None:
        """Take note of a step that is done."""
        state = self._runtime.state
        for action in actions:
            if isinstance(action, a.RequestTraining):
                self._wall_sec[action.interval_sec] = self._trainer.counters().last_sec or 0.0
        match event:
            case e.Started():
                self._ungated = state.regimes.tiers
            case e.RegimeEstimated():
                self._evaluated(state)
                self._on_evaluation(state)
            case e.ModelTrained():
                self.seen.trainings.append(self._trained(state.now, event.model))
            case e.TrainingFailed():
                self.seen.failures.append(event.reason)
            case _:
                pass

    def _evaluated(self, state: BotState) -> None:
        regimes, params = state.regimes, self._runtime.params
        free = replace(params, regime_evidence_gate=False)
        self._ungated = hold(self._ungated, regimes.policy, regimes.evidence, free, state.now)
        newest = self._models.frames[0].pipeline.window.rows(newest=1)
        primary, secondary = regimes.primary, regimes.secondary
        self.seen.evaluations.append(
            Evaluation(
                time=state.now,
                price=float(newest.close[0]) if newest.close.size else float("nan"),
                primary=None if primary is None else primary.regime,
                secondary=None if secondary is None else secondary.regime,
                policy=regimes.policy,
                tiers=regimes.tiers,
                ungated=self._ungated,
                evidence=regimes.evidence,
                horizon_sec=regimes.horizon_sec,
            )
        )

    def _trained(self, now: float, ref: ModelRef) -> Trained:
        model: Model | None = next(
            (x.model for x in self._models.frames if x.settings.interval_sec == ref.interval_sec),
            None,
        )
        return Trained(
            time=now,
            ref=ref,
            transmat=transmat_by_label(model) or [],
            labels=model.labels if model is not None else (),
            wall_sec=self._wall_sec.get(ref.interval_sec, 0.0),
        )


class Nowhere:
    """An exchange with an empty account that quotes one price at its start, and lasts until a time.

    A reducer that has seen a market and owns nothing keeps all its clocks and wants no order.
    """

    reads_first = True

    def __init__(self, start: float, until: float) -> None:
        self._now, self._until = start, until
        self._is_silent = False

    def describe(self) -> Venue:
        """Return an empty account."""
        fees = FeeRates(maker=ZERO, taker=ZERO)
        return Venue(instrument=Instrument(), fees=fees, base=ZERO, quote=ZERO)

    def obstacle(self, action: a.PlaceOrderAction, status: str) -> str | None:  # noqa: ARG002  # its port
        """Return why no order leaves."""
        return "there is no exchange"

    def place(self, action: a.PlaceOrderAction) -> None:
        """Send nothing."""

    def cancel(self, action: a.CancelOrderAction) -> None:
        """Send nothing."""

    def reconcile(self, action: a.RequestReconcile) -> None:
        """Read nothing."""

    def listing(self) -> None:
        """Return None: nothing is listed."""

    def now(self) -> float:
        """Return the instant that is reached."""
        return self._now

    def horizon(self) -> float | None:
        """Return None: the time is simulated."""
        return None

    def next_time(self) -> float | None:
        """Return the start, then the end."""
        if not self._is_silent:
            return self._now
        return self._until if self._now < self._until else None

    def advance(self, to: float) -> tuple[Message, ...]:
        """Go on; nothing happens after the start."""
        self._now = max(self._now, to)
        if self._is_silent:
            return ()
        self._is_silent = True
        balances = e.BalancesReported(time=self._now, base=ZERO, quote=ZERO)
        price = e.PriceTick(time=self._now, bid=BID, ask=ASK, last=BID)
        return (Message(seq=1, event=balances), Message(seq=2, event=price))

    def acknowledge(self, seq: int) -> None:
        """Forget nothing."""

    def catch_up(self, told: int, until: float) -> None:
        """Live nothing again."""

    def pending(self, after: int) -> tuple[Message, ...]:  # noqa: ARG002  # its port
        """Return nothing."""
        return ()
