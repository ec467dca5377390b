"""The regime models in service: closed candles in, estimates out, training beside the loop.

A program, as `engine/wiring.py`. Only the thread that steps calls it. What an estimate says depends
on candles, on the models that were adopted and on times that are journaled, never on how often or
how fast it was asked for: a run that was killed goes on as if it had not been. What follows from an
estimate is decided in `regime_policy.py`.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from config import Settings
from core.actions import RequestTraining
from core.events import ModelTrained, RegimeEstimated, TrainingFailed
from core.market import CandleSource, LabelRow
from core.params import Params
from core.record import Record, replace
from core.regime import Estimate, Evidence, ModelRef
from core.regime_status import PipelineBlock, TrainerBlock
from core.state import BotState
from engine.candle_history import further_places, open_candle_store
from engine.labelled import Labelled
from engine.model_files import ModelFiles
from engine.regime_view import Matrix, RegimeFacts
from engine.trainer import InlineTrainer, Trainer
from grid.regimes import outstanding_trainings
from hmm_regime_detector import (
    Detector,
    Model,
    Recipe,
    TrainingError,
    TrainingRequest,
    transmat_by_label,
)
from market.candles import prepare
from market.pipeline import (
    DAY_SEC,
    CandlePipeline,
    freshness_limit,
    primary_interval,
    secondary_interval,
)
from regime.evidence import Gathered
from regime_policy import policy
from store.candles import SqliteCandles, candles_db

if TYPE_CHECKING:
    from store.candle_replica import CandleReplica

log = logging.getLogger("models")

REPLAY_BARS = 500  # of candles before a model was trained from which its filter is rebuilt
HORIZON_SEC, CYCLES_MIN, CYCLES_MAX = 4 * 3600.0, 30, 500
HOUR_SEC = 3600.0


class FrameSettings(Record, frozen=True, kw_only=True):
    """How one timeframe's model is trained and read."""

    interval_sec: float
    recipe: Recipe
    gain: float = 1.0


class _Pending(Record, frozen=True, kw_only=True):
    """A training under way; `due` None: told as soon as it is done."""

    interval_sec: float
    due: float | None
    future: "Future[Model]"


class Frame:
    """One timeframe: its candles, and the model that reads them."""

    def __init__(
        self, settings: FrameSettings, pipeline: CandlePipeline, files: ModelFiles
    ) -> None:
        self.settings, self.pipeline, self.files = settings, pipeline, files
        self.model: Model | None = None
        self.matrix: Matrix | None = None
        self.trouble = ""  # why the model that should serve does not
        self.seen = 0.0  # the open time of the newest candle read, or left unread without a model
        self.recipe = settings.recipe.text()
        self._detector = self._fresh()

    def _fresh(self) -> Detector:
        own = self.settings
        return Detector(
            self.model,
            interval_sec=own.interval_sec,
            target=own.recipe.target,
            min_candles=own.recipe.min_candles,
            gain=own.gain,
        )

    def serve(self, model: Model | None) -> None:
        """Let `model` read on from the newest candle that was read before."""
        self.model = model
        found = transmat_by_label(model)
        self.matrix = None if found is None else tuple(tuple(row) for row in found)
        self._detector = self._fresh()
        if model is None:
            return
        since = model.ref.until - REPLAY_BARS * self.settings.interval_sec
        rows = self.pipeline.window.rows(since=since, until=self.seen + self.settings.interval_sec)
        for row in zip(rows.time.tolist(), rows.close.tolist(), rows.volume.tolist(), strict=True):
            self._detector.step(*row)

    def newest(self, until: float) -> float:
        """Return the open time of the newest candle closed by `until`, 0 without any."""
        rows = self.pipeline.window.rows(until=until, newest=1)
        return float(rows.time[0]) if rows.time.size else 0.0

    def unread(self, until: float) -> list[tuple[float, float, float]]:
        """Return (open time, close, volume) of candles closed by `until` that are to be read."""
        if self.model is None:
            self.seen = self.newest(until)
            return []
        rows = self.pipeline.window.rows(since=np.nextafter(self.seen, np.inf), until=until)
        return list(zip(rows.time.tolist(), rows.close.tolist(), rows.volume.tolist(), strict=True))

    def read(self, candle: tuple[float, float, float]) -> None:
        """Read one candle."""
        self._detector.step(*candle)
        self.seen = candle[0]

    def knows_later_than(self, at: float) -> bool:
        """Tell whether the model was trained on what closed at `at`, or has read later candles."""
        if self.model is not None and self.model.ref.until >= at:
            return True
        return self._detector.newest_close is not None and self._detector.newest_close > at

    def estimate(self, now: float) -> Estimate:
        """Return what the model makes of the newest candle read."""
        found = self._detector.estimate(
            now,
            candles=min(self.pipeline.window.count, self.settings.recipe.target),
            freshness_limit_sec=freshness_limit(self.settings.interval_sec),
            newest_close=self.pipeline.window.last_close_time,
        )
        if self.model is None and self.trouble:
            return replace(found, why=f"{found.why}; {self.trouble}")
        is_outdated = self.model is not None and self.model.ref.recipe != self.recipe
        return replace(found, is_outdated=True) if is_outdated else found

    def request(self, until: float) -> TrainingRequest:
        """Return a request to train on the newest candles closed by `until`."""
        own = self.settings
        rows = self.pipeline.window.rows(until=until, newest=own.recipe.target)
        return TrainingRequest.of(
            prepare(rows, own.interval_sec),
            own.recipe,
            interval_sec=own.interval_sec,
            previous=self.model,
        )


class RegimeModels:
    """Both timeframes, the worker that trains them, and what has followed their labels."""

    def __init__(
        self,
        frames: tuple[Frame, ...],
        trainer: Trainer | InlineTrainer,
        store: SqliteCandles,
        params: Params,
        *,
        is_real_time: bool,
        feed_sec: float,
        holding_times: Callable[[float, int], list[float]],
    ) -> None:
        """Put the parts together; `frames` are primary and, if there is one, secondary.

        `feed_sec` is how long after its close a candle is known; `holding_times(until,
        limit)` are the seconds that the newest cycles completed by then were open.
        """
        self.frames = frames
        self.trainer, self.store = trainer, store
        self._params = replace(params, regime_manual_override=None)
        self._latency = None if is_real_time else params.model_latency_sec
        self._feed_sec = feed_sec
        self._holding_times = holding_times
        self._pending: dict[float, _Pending] = {}
        self._trained: dict[str, Model] = {}
        self._labels = Labelled(store, frames[0].settings.interval_sec)
        self._evidence: tuple[tuple[Evidence, ...], float] = ((), HORIZON_SEC)
        self._evidence_hour = -1.0
        self._gathered = Gathered()

    # ---- the port -----------------------------------------------------------------------------

    def begin(self, state: BotState, now: float) -> None:
        """Take up where the last run left off: its models, what they have read, their trainings."""
        regimes = state.regimes
        for own in sorted(self.frames, key=lambda x: -x.pipeline.span_sec):  # markets like it so
            own.pipeline.load(now - self._feed_sec)
            if regimes.heard_at is not None:
                own.seen = own.newest(regimes.heard_at - self._feed_sec)
        for training in regimes.trainings:
            frame = self._frame(training.interval_sec)
            if frame is not None and training.model is not None:
                self._serve(frame, training.model)
        for action in outstanding_trainings(state):
            self.train(action)

    def estimate(self, now: float) -> RegimeEstimated:
        """Return what the models make of all candles known at `now`."""
        until = now - self._feed_sec
        for frame in self.frames:
            frame.pipeline.sync(until)
        self._read(now, until)
        found, horizon = self._known_evidence(until)
        estimates = [frame.estimate(now) for frame in self.frames]
        return RegimeEstimated(
            time=now,
            primary=estimates[0],
            secondary=estimates[1] if len(estimates) > 1 else None,
            evidence=found,
            horizon_sec=horizon,
        )

    def train(self, action: RequestTraining) -> None:
        """Begin a training; one that is under way already goes on."""
        frame = self._frame(action.interval_sec)
        if frame is None:
            return
        until = action.until - self._feed_sec
        frame.pipeline.sync(until)
        due = None if self._latency is None else action.until + self._latency
        kept: Future[Model] = Future()
        asked = self.trainer.submit(frame.request(until))
        asked.add_done_callback(lambda x: _keep(x, frame.files, kept))
        self._pending[action.interval_sec] = _Pending(
            interval_sec=action.interval_sec, due=due, future=kept
        )

    def next_time(self) -> float | None:
        """Return when a training's result is to be told."""
        if self._latency is None:
            return 0.0 if any(x.future.done() for x in self._pending.values()) else None
        return min((x.due for x in self._pending.values() if x.due is not None), default=None)

    def take(self, to: float) -> tuple[ModelTrained | TrainingFailed, ...] | None:
        """Return, once, the results due by `to`; None while the worker is not done with one."""
        if self._latency is None:
            due = [x for x in self._pending.values() if x.future.done()]
        else:
            due = [x for x in self._pending.values() if x.due is not None and x.due <= to]
        if not all(x.future.done() for x in due):
            return None
        for each in due:
            del self._pending[each.interval_sec]
        return tuple(self._result(x, to) for x in due)

    def adopt(self, model: ModelRef) -> None:
        """Let a model that was told of, and committed, serve."""
        frame = self._frame(model.interval_sec)
        if frame is not None:
            self._serve(frame, model)
            frame.files.forget_others(model.id)

    def close(self) -> None:
        """End the worker, write what is not written, and release the candles' file."""
        self.trainer.close()
        for frame in self.frames:
            frame.pipeline.close()
        self.store.close()

    @property
    def is_idle(self) -> bool:
        """Tell whether no training is under way."""
        return not self._pending

    def view(self, now: float) -> RegimeFacts:
        """Return what the status page shows of models, candles and the worker."""
        first, second = (*self.frames, None)[:2]
        if first is None:
            raise AssertionError("there is always a primary timeframe")
        for frame in self.frames:  # what is read of newer candles waits for the next estimate
            frame.pipeline.keep_up(now - self._feed_sec)
        own_matrix, second_matrix = self.matrices()
        counters = self.trainer.counters()
        unkept = next((x.files.trouble for x in self.frames if x.files.trouble), "")
        return RegimeFacts(
            transmat=own_matrix,
            transmat_secondary=second_matrix,
            pipeline=_pipeline(first, now),
            pipeline_secondary=_pipeline(second, now),
            trainer=TrainerBlock.from_dict(
                counters.to_dict() | {"last_error": unkept or counters.last_error}
            ),
        )

    def matrices(self) -> tuple[Matrix | None, Matrix | None]:
        """Return the transition matrices of both timeframes, None while untrained."""
        own, second = (*(frame.matrix for frame in self.frames), None)[:2]
        return own, second

    def closes(self, now: float, span_sec: float) -> list[tuple[float, float]]:
        """Return (close time, price) of the candles at hand that closed in the last `span_sec`."""
        self.frames[0].pipeline.keep_up(now - self._feed_sec)
        interval = self.frames[0].settings.interval_sec
        until = now - self._feed_sec
        rows = self.frames[0].pipeline.window.rows(since=until - span_sec - interval, until=until)
        return list(zip((rows.time + interval).tolist(), rows.close.tolist(), strict=True))

    # ---- reading candles ----------------------------------------------------------------------

    def _read(self, now: float, until: float) -> None:
        """Read what is new in the order of its closes, and note what the policy made of it."""
        first = self.frames[0]
        unread = [
            (candle[0] + frame.settings.interval_sec, -number, candle)
            for number, frame in enumerate(self.frames)
            for candle in frame.unread(until)
        ]
        labelled: list[LabelRow] = []
        for close_time, number, candle in sorted(unread):
            frame = self.frames[-number]
            frame.read(candle)
            if frame is first:
                labelled.append((candle[0], candle[1], self._label(close_time)))
        if labelled:
            self._labels.append(labelled, now)

    def _label(self, at: float) -> int | None:
        """Return the label that the policy gave a candle when it closed; None if it is no evidence.

        That needs models that were not trained on it, and have not read later candles either.
        """
        if any(x.knows_later_than(at) for x in self.frames):
            return None
        said = policy(
            self.frames[0].estimate(at),
            self.frames[1].estimate(at) if len(self.frames) > 1 else None,
            self._params,
        )
        return None if said.tag is None else said.label

    def _known_evidence(self, until: float) -> tuple[tuple[Evidence, ...], float]:
        """Return the evidence as of the last full hour that is read, and how far it looks ahead."""
        hour = until // HOUR_SEC * HOUR_SEC
        if hour != self._evidence_hour:
            self._evidence_hour = hour
            times = self._holding_times(hour, CYCLES_MAX)
            is_known = len(times) >= CYCLES_MIN
            horizon = median(times) if is_known else HORIZON_SEC
            at, closes, labels = self._labels.arrays(until=hour)
            horizon = max(horizon, self.frames[0].settings.interval_sec)
            found = self._gathered.evidence(at, closes, labels, horizon_sec=horizon)
            self._evidence = (found, horizon)
        return self._evidence

    # ---- models -------------------------------------------------------------------------------

    def _frame(self, interval_sec: float) -> Frame | None:
        return next((x for x in self.frames if x.settings.interval_sec == interval_sec), None)

    def _serve(self, frame: Frame, ref: ModelRef) -> None:
        model = self._trained.pop(ref.id, None)
        frame.trouble = ""
        if model is None:
            model, frame.trouble = frame.files.load(ref.id)
        if frame.trouble:
            log.warning("%s; it is trained anew", frame.trouble)
        frame.serve(model)

    def _result(self, done: _Pending, to: float) -> ModelTrained | TrainingFailed:
        error = done.future.exception()
        if error is not None:
            reason = str(error)[:300]
            return TrainingFailed(time=to, interval_sec=done.interval_sec, reason=reason)
        model = done.future.result()
        self._trained[model.ref.id] = model
        return ModelTrained(time=to, model=model.ref)


def _keep(trained: "Future[Model]", files: ModelFiles, kept: "Future[Model]") -> None:
    """Pass a model on once it is on disk; on the trainer's thread, for a disk may be slow."""
    if trained.cancelled():
        kept.set_exception(TrainingError("the daemon is stopping"))
        return
    error = trained.exception()
    if error is not None:
        kept.set_exception(error)
        return
    model = trained.result()
    files.trouble = ""
    try:
        files.save(model)
    except OSError as failed:
        files.trouble = f"the model {model.ref.id} cannot be kept: {failed.strerror}"
        log.warning("%s; a restart trains anew", files.trouble)
    kept.set_result(model)


def _pipeline(frame: Frame | None, now: float) -> PipelineBlock | None:
    if frame is None:
        return None
    return PipelineBlock.from_dict(frame.pipeline.health(now).to_dict())


def _policy(params: Params) -> str:
    """Return in short what makes labels of what the models say."""
    said = "primary"
    if params.hmm_multi_timeframe_enabled:
        said = params.hmm_multi_timeframe_source.value
    return (
        f"{said} {params.consensus_1m_weight:g}/{params.consensus_15m_weight:g} dampen "
        f"{params.consensus_dampen_factor:g} from {params.regime_tier1_confidence:g}"
    )


def _recipe(settings: Settings, target: int, least: int) -> Recipe:
    hmm = settings.hmm
    return Recipe(
        target=target,
        min_candles=least,
        starts=hmm.starts,
        seed=settings.seed,
        label_z=hmm.label_z,
        decay_halflife=hmm.deep_decay_halflife if hmm.deep_decay_enabled else None,
    )


def open_models(
    settings: Settings,
    source: CandleSource,
    *,
    market: str,
    is_real_time: bool,
    feed_sec: float,
    holding_times: Callable[[float, int], list[float]],
    trainer: Trainer | InlineTrainer | None = None,
    store: SqliteCandles | None = None,
    replica: "CandleReplica | None" = None,
    is_kept: bool = True,
) -> RegimeModels:
    """Return the models of a run on this market, not yet begun. Raises StoreError.

    `market` names it in the file of candles. Of one that can tell its whole past again only the
    primary ones are written, for the page, and none are read.
    `trainer` None: a worker process of their own; `store` None: the file beside the database;
    `replica`: where candles are copied to, and read from. Unless `is_kept`, none are written.
    """
    params, hmm = settings.params, settings.hmm
    store = store or open_candle_store(candles_db(settings.state_db), market)
    further = further_places(store, settings, replica) if is_real_time else ()
    chosen = [(primary_interval(source), hmm.training_candles, params.hmm_min_train_samples)]
    second = secondary_interval(source)
    if params.hmm_multi_timeframe_enabled and second is not None:
        least = params.hmm_secondary_min_train_samples
        chosen.append((second, hmm.secondary_training_candles, least))
    frames = tuple(
        Frame(
            FrameSettings(
                interval_sec=interval,
                recipe=_recipe(settings, target, least),
                gain=hmm.bias_gain,
            ),
            CandlePipeline(
                source,
                interval=interval,
                target=target,
                minimum=least,
                store=store if is_kept and (is_real_time or interval == chosen[0][0]) else None,
                further=further,
                kept_sec=settings.history_retention_days * DAY_SEC,
                is_read=is_real_time,
            ),
            ModelFiles(settings.state_db, interval),
        )
        for interval, target, least in chosen
    )
    return RegimeModels(
        frames,
        trainer or Trainer(),
        store,
        params,
        is_real_time=is_real_time,
        feed_sec=feed_sec,
        holding_times=holding_times,
    )
