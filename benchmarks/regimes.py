"""Benchmarks of the regime models: training beside a live loop, fitting, and one candle's cost."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import config
from core import events as e
from core.commands import RetrainHmm
from engine.candle_history import FEED_SEC
from engine.clock import Pacer
from engine.loop import Loop
from engine.models import open_models
from engine.runtime import Runtime
from engine.wiring import begin, open_parts
from hmm_regime_detector import Detector, Model, Recipe, TrainingRequest, train
from market.candles import Prepared, prepare, rows_of
from regime.fitting import Parameters, fit_hmmlearn, has_fast, run_em, starting_points

SETTLE_SEC, CALM_SEC, BUSY_SEC = 10.0, 30.0, 60.0
SPEED = 30.0  # faster than a live market: more events to look at
FEATURES = 4


class Late(Pacer):
    """Tells by how many seconds an event is late; of prices, which come when they are due."""

    def __init__(self, speed: float) -> None:
        super().__init__(speed)
        self.late: list[float] = []

    def note(self, simulated: float) -> None:
        """Note how late an event of this simulated time has been processed."""
        if self._simulated is not None and self.speed is not None:
            due = self._wall + (simulated - self._simulated) / self.speed
            self.late.append(time.monotonic() - due)


def loop_gaps(folder: Path) -> str:
    """Measure how late a loop with 30 slots is while both models are trained again and again."""
    env = {
        "STATE_DB": str(folder / "bot.db"), "SLOT_COUNT": "30", "SLOT_STAGGER_PCT": "0.1",
        "ORDER_SIZE_USD": "20", "PAPER_START_QUOTE": "5000", "PAPER_START_BASE_USD": "5000",
    }  # fmt: skip
    settings = config.load(env, folder / ".env")
    parts = open_parts(settings)
    runtime = Runtime(parts.store, parts.exchange, None)
    models = open_models(
        settings, parts.source, market="bench", is_real_time=True, feed_sec=FEED_SEC,
        holding_times=parts.store.holding_times,
    )  # fmt: skip
    pacer = Late(SPEED)
    loop = Loop(runtime, parts.exchange, models=models, pacer=pacer)
    venue = parts.exchange.describe()
    runtime.start(venue, settings.params, now=parts.exchange.now(), bot_tag=1)
    begin(parts, runtime, models)
    trained, marks = 0, [0, 0]  # how many events were before the calm, and before the trainings
    began = time.monotonic()

    def look(event: e.Event, _: object) -> None:
        nonlocal trained
        trained += isinstance(event, e.ModelTrained)
        if isinstance(event, e.PriceTick):
            pacer.note(event.time)
        took = time.monotonic() - began
        if not marks[0] and took > SETTLE_SEC:
            marks[0] = len(pacer.late)
        if marks[0] and not marks[1] and took > SETTLE_SEC + CALM_SEC:
            marks[1] = len(pacer.late)
        if marks[1] and models.is_idle:
            loop.inbox.put(f"r{len(pacer.late)}", RetrainHmm())
        if took > SETTLE_SEC + CALM_SEC + BUSY_SEC:
            loop.stop()

    runtime.on_step = look
    loop.run()
    before, during = pacer.late[marks[0] : marks[1]], pacer.late[marks[1] :]
    models.close()
    parts.close()
    return (
        f"{lateness(before)} without, {lateness(during)} over "
        f"{trained - 2} trainings (required p99 ≤ 50 ms, none over 250 ms)"
    )


def lateness(late: list[float]) -> str:
    """Return the 99th percentile and the worst of some events in words."""
    ordered = sorted(late)
    p99 = ordered[int(len(ordered) * 0.99)] if ordered else 0.0
    return f"p99 {p99 * 1000:.0f} ms, worst {ordered[-1] * 1000:.0f} ms of {len(ordered):,} events"


def walk(bars: int, seed: int) -> Prepared:
    """Return a random walk as prepared 1 min candles: 0.15 % a bar, volume log-normal."""
    rng = random.Random(seed)
    price, rows = 0.1, []
    for n in range(bars):
        end = price * (1 + rng.gauss(0.0, 0.0015))
        volume = 20_000 * np.exp(rng.gauss(0.0, 1.0))
        rows.append((n * 60.0, price, max(price, end), min(price, end), end, volume, 10.0))
        price = end
    return prepare(rows_of(rows), 60.0)


def request(bars: int, seed: int = 1) -> TrainingRequest:
    """Return a request to train on a walk."""
    return TrainingRequest.of(
        walk(bars, seed), Recipe(target=bars, min_candles=500, seed=seed), interval_sec=60.0
    )


def training(_: Path) -> str:
    """Measure a training as the worker does it, and one EM beside plain hmmlearn's."""
    asked = request(4000)
    train(asked)  # imports and compiles
    began = time.perf_counter()
    model = train(asked)
    whole = time.perf_counter() - began
    rows = np.random.default_rng(1).standard_normal((4000, FEATURES))
    (start,) = starting_points(rows, count=1, seed=1)
    own, plain = _timed(run_em, rows, start), _timed(fit_hmmlearn, rows, start)
    how = "compiled" if has_fast() else "hmmlearn itself"
    return (
        f"{whole * 1000:.0f} ms for {model.ref.starts} starts of 4,000 candles; one EM of up to "
        f"100 iterations {own * 1000:.0f} ms ({how}), hmmlearn {plain * 1000:.0f} ms, ratio "
        f"{plain / own:.1f}"
    )


def _timed(fit: Callable[..., object], rows: np.ndarray, start: Parameters) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        fit(rows, [len(rows)], start)
        times.append(time.perf_counter() - began)
    return min(times)


def one_candle(_: Path) -> str:
    """Measure a closed candle, features and filter, in a trained detector."""
    model: Model = train(request(1000))
    detector = Detector(model, interval_sec=60.0, target=1000, min_candles=500)
    candles = walk(20_000, 2)
    listed = list(zip(candles.time.tolist(), candles.close.tolist(), candles.volume.tolist(),
                      strict=True))  # fmt: skip
    began = time.perf_counter()
    for candle in listed:
        detector.step(*candle)
    took = (time.perf_counter() - began) / len(listed)
    return f"{took * 1e6:.1f} µs (required ≤ 10)"
