"""The regime models in service: from a market's candles to estimates, trained in a real worker."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import config
from core import events as e
from core.commands import RetrainHmm
from engine.clock import Pacer
from engine.loop import Loop
from engine.model_files import ModelFiles, copy_models
from engine.models import RegimeModels
from engine.runtime import Runtime
from engine.wiring import Parts, begin, open_models, open_parts, take_up
from store.rows import EXPORTS
from tests.helpers import write_candles

BARS = 1500
SETTINGS = {
    "MARKET_DATA": "replay",
    "REPLAY_SPEED": "max",
    "PORT": "0",
    "PAIR_ENTRY_PCT": "0.3",
    "PAIR_PROFIT_PCT": "1.2",
    "HMM_ENABLED": "true",
    "HMM_TRAINING_CANDLES": "720",
    "HMM_MIN_TRAIN_SAMPLES": "400",
    "HMM_SECONDARY_TRAINING_CANDLES": "720",
    "HMM_RETRAIN_INTERVAL_SEC": "36000",
}


class Crash(Exception):
    """The process is gone."""


class Run:
    """The parts of a daemon without its page, on files that outlive it."""

    models: RegimeModels

    def __init__(self, folder: Path, **more: str) -> None:
        folder.mkdir(exist_ok=True)
        env = SETTINGS | {"STATE_DB": str(folder / "bot.db")} | more
        self.settings = config.load(env, folder / ".env")
        self.parts: Parts = open_parts(self.settings)
        self.runtime = Runtime(self.parts.store, self.parts.exchange, None)
        self.runtime.restore()
        take_up(self.parts, self.runtime.state, self.settings)
        models = open_models(self.settings, self.parts)
        if models is not None:
            self.models = models
        exchange = self.parts.exchange
        self.loop = Loop(self.runtime, exchange, models=models, pacer=Pacer(None))
        now = max(exchange.now(), self.runtime.state.now)
        self.runtime.start(exchange.describe(), self.settings.params, now=now, bot_tag=1)
        begin(self.parts, self.runtime, models)

    def go_on(self, on_step: Callable[[e.Event], None] | None = None) -> str:
        """Run to the end of the market, or until `on_step` raises or stops it."""
        if on_step is not None:
            self.runtime.on_step = lambda event, _: on_step(event)
        return self.loop.run()

    def close(self) -> None:
        """Release the files as the end of the process would: nothing is written any more."""
        if self.settings.params.hmm_enabled:
            self.models.close()
        self.parts.close()


@contextmanager
def running(folder: Path, **more: str) -> Iterator[Run]:
    """Yield a run; its files are released whatever happens."""
    made = Run(folder, **more)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a market of one minute candles."""
    path = tmp_path_factory.mktemp("market") / "candles.csv"
    write_candles(path, bars=BARS, seed=5)
    return path


def told(run: Run) -> tuple[object, ...]:
    """Return what a run has come to: all history, and the journal's word of the models."""
    rows = run.parts.store.export()
    heard = [
        row.event
        for row in run.parts.store.journal(after=0)
        if isinstance(row.event, e.RegimeEstimated | e.ModelTrained | e.TrainingFailed)
    ]
    return rows, heard, run.runtime.state.regimes


@pytest.mark.slow
def test_a_run_trains_reads_and_tags(tmp_path: Path, file: Path) -> None:
    """Untrained until there are enough candles, then trained, and entries carry the tag."""
    with running(tmp_path / "a", REPLAY_FILE=str(file)) as run:
        assert run.go_on() == "ended"
        rows, heard, regimes = told(run)
        trained = [x for x in heard if isinstance(x, e.ModelTrained)]
        estimates = [x for x in heard if isinstance(x, e.RegimeEstimated)]
        first = estimates[0].primary
        assert (first.is_trained, first.regime) == (False, None)
        assert first.why == "untrained: 0 of 400 candles"
        asked_at = next(x.time for x in estimates if x.primary.depth.candles >= 400)
        assert trained[0].time == asked_at + 30.0
        assert 400 <= trained[0].model.candles < 410
        assert {x.model.interval_sec for x in trained} == {60.0}
        ages = [b.time - a.time for a, b in itertools.pairwise(trained)]
        assert max(ages) >= 36_000
        assert all(0 <= x.primary.depth.candles <= 720 for x in estimates)
        assert estimates[-1].primary.regime in (0, 1, 2)
        assert estimates[-1].secondary is not None
        assert estimates[-1].secondary.why.startswith("untrained: 9")
        tags = {x["regime_at_entry"] for x in rows["cycles"]}
        assert tags > {None}
        assert tags <= {None, 0, 1, 2}
        outcomes = run.parts.store.holding_times(run.runtime.state.now, 500)
        assert len(outcomes) == len(rows["cycles"])
        labelled = [x for x in run.models.store.labels(60.0) if x[2] is not None]
        assert len(labelled) > BARS - trained[0].model.candles - 50  # all but the first minutes
        assert regimes.heard_at is not None


@pytest.mark.slow(seconds=35)
# 60: the models are asked on full hours
@pytest.mark.parametrize("latency", [pytest.param("30", marks=pytest.mark.long), "60"])
def test_a_run_that_crashes_goes_on_to_the_same_end(
    tmp_path: Path, file: Path, latency: str
) -> None:
    """Whatever instant: the same estimates, models, tags, orders and cycles."""
    more = {"REPLAY_FILE": str(file), "MODEL_LATENCY_SEC": latency}
    with running(tmp_path / "calm", **more) as run:
        assert run.go_on() == "ended"
        calm = told(run)
    rng, folder = random.Random(7), tmp_path / "crashed"
    kinds = (e.RegimeEstimated, e.ModelTrained, e.TimerTick, e.FillEvent)
    for kind in (*kinds, None):
        left = 1 if kind is e.ModelTrained else rng.randint(3, 40)

        def crash(event: e.Event, kind: type | None = kind) -> None:
            nonlocal left
            left -= kind is not None and isinstance(event, kind)
            if not left:
                raise Crash

        with running(folder, **more) as run, suppress(Crash):
            assert run.go_on(crash) == "ended"
            found = told(run)
    assert found[1] == calm[1]
    assert found[2] == calm[2]
    for name, _, _ in EXPORTS:
        assert found[0][name] == calm[0][name], name


def trades(run: Run) -> dict[str, list[dict[str, object]]]:
    """Return what a run has traded, without what the models have to say of it."""
    rows = run.parts.store.export()
    shown = {name: [dict(x) for x in rows[name]] for name in ("executions", "orders", "cycles")}
    for row in shown["cycles"]:
        del row["regime_at_entry"]
    return shown


@pytest.mark.slow
def test_in_shadow_every_order_is_as_without_models(tmp_path: Path, file: Path) -> None:
    """Asking, hearing and training move no order by a millisecond."""
    with running(tmp_path / "off", REPLAY_FILE=str(file), HMM_ENABLED="false") as run:
        assert run.go_on() == "ended"
        calm = trades(run)
        assert run.runtime.state.regimes.heard_at is None
    with running(tmp_path / "on", REPLAY_FILE=str(file)) as run:
        assert run.go_on() == "ended"
        found = trades(run)
        assert run.runtime.state.regimes.trainings
    assert len(calm["orders"]) > 100
    for name, rows in calm.items():
        assert found[name] == rows, name


@pytest.mark.slow
def test_changed_settings_train_anew(tmp_path: Path, file: Path) -> None:
    """The old model serves until the new one comes, which is soon and says why."""
    more = {"REPLAY_FILE": str(file)}

    def trained(run: Run) -> str:
        def look(event: e.Event) -> None:
            if isinstance(event, e.ModelTrained):
                run.loop.stop()

        assert run.go_on(look) == "stopped"
        return str(run.runtime.state.regimes.trainings[0].reason)

    with running(tmp_path / "s", **more) as run:
        assert trained(run) == "there is no model"
        at = run.runtime.state.now
    with running(tmp_path / "s", **more, HMM_LABEL_Z="3", HMM_DEEP_DECAY_ENABLED="true") as run:
        assert trained(run) == "the settings have changed"
        assert run.runtime.state.now - at < 700
        model = run.runtime.state.regimes.trainings[0].model
        assert model is not None
        assert "z 3, decay 1440" in model.recipe


@pytest.mark.slow
def test_a_damaged_model_is_trained_anew_and_said(tmp_path: Path, file: Path) -> None:
    """A file that cannot be used costs a training, and the status says why there is no regime."""
    folder = tmp_path / "b"

    def until_trained(run: Run) -> Callable[[e.Event], None]:
        def look(event: e.Event) -> None:
            if isinstance(event, e.ModelTrained):
                run.loop.stop()

        return look

    with running(folder, REPLAY_FILE=str(file)) as run:
        assert run.go_on(until_trained(run)) == "stopped"
        (path,) = folder.glob("bot.hmm-60-*.model")
        before = run.runtime.state.regimes.trainings[0].model
        assert before is not None
    path.write_bytes(path.read_bytes().replace(b"60", b"61", 1))
    with running(folder, REPLAY_FILE=str(file)) as run:
        primary = run.runtime.state.regimes.primary  # known at once, not at the next evaluation
        assert primary is not None
        assert not primary.is_trained
        assert "cannot be used" in primary.why
        seen: list[e.RegimeEstimated] = []

        def look(event: e.Event) -> None:
            if isinstance(event, e.RegimeEstimated):
                seen.append(event)
            if isinstance(event, e.ModelTrained):
                run.loop.stop()

        assert run.go_on(look) == "stopped"
        after = run.runtime.state.regimes.trainings[0].model
        assert after == before  # on the same candles: the very same model
        assert len(list(folder.glob("bot.hmm-60-*.model"))) == 1


@pytest.mark.slow
def test_a_worker_that_dies_leaves_the_old_model_serving(tmp_path: Path, file: Path) -> None:
    """Counted, told, tried again; entries go on being tagged."""
    with running(tmp_path / "c", REPLAY_FILE=str(file)) as run:
        run.models.trainer._command = ("false",)
        failed: list[e.TrainingFailed] = []

        def look(event: e.Event) -> None:
            if isinstance(event, e.TrainingFailed):
                failed.append(event)
                if len(failed) == 2:
                    run.models.trainer._command = type(run.models.trainer)()._command

        assert run.go_on(look) == "ended"
        assert len(failed) == 2
        assert "the worker died (exit code 1)" in failed[0].reason
        assert run.models.trainer.counters().died >= 2
        training = run.runtime.state.regimes.trainings[0]
        assert (training.failures, training.error) == (0, "")
        assert training.model is not None


@pytest.mark.slow
def test_the_operator_can_ask_for_a_training(tmp_path: Path, file: Path) -> None:
    """The command is answered at once; the old model serves until the new one comes."""
    with running(tmp_path / "d", REPLAY_FILE=str(file)) as run:
        answers = []

        def look(event: e.Event) -> None:
            is_trained = isinstance(event, e.ModelTrained)
            if is_trained and not answers:
                answers.append(run.loop.inbox.put("1", RetrainHmm()))
            elif is_trained:
                run.loop.stop()

        assert run.go_on(look) == "stopped"
        reply = answers[0].result(1)
        assert reply.is_accepted, reply.message
        assert reply.message.startswith("training 1 min (4")


def test_models_of_databases_with_like_names_are_kept_apart(tmp_path: Path) -> None:
    """Dots and brackets in a name are part of it; one run forgets no model of another."""
    files = [ModelFiles(tmp_path / name, 60.0) for name in ("bot.live", "bot.paper", "bot[1].db")]
    for n, own in enumerate(files):
        own.path(f"m{n}").write_bytes(b"x")
    for n, own in enumerate(files):
        own.path("old").write_bytes(b"x")
        own.forget_others(f"m{n}")
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "bot.live.hmm-60-m0.model", "bot.paper.hmm-60-m1.model", "bot[1].hmm-60-m2.model",
    ]  # fmt: skip
    made = copy_models(tmp_path / "bot[1].db", tmp_path / "copy.db")
    assert [x.name for x in made] == ["copy.hmm-60-m2.model"]
    model, why = files[0].load("m0")
    assert (model, why.startswith("the model file bot.live.hmm-60-m0.model cannot be used")) == (
        None, True,
    )  # fmt: skip


def test_an_old_model_that_cannot_be_deleted_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that has become read-only, or what else lies there: it is said, and left."""
    own = ModelFiles(tmp_path / "bot.db", 60.0)
    own.path("old").mkdir()
    own.path("m1").write_bytes(b"x")
    own.forget_others("m1")
    assert "the old model bot.hmm-60-old.model cannot be deleted" in caplog.text
    assert own.path("m1").exists()


def test_candles_without_a_place_are_kept_in_memory(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trading does not depend on them: the run goes on, and the log says what is lost."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "bot.candles.db").symlink_to(tmp_path / "nowhere" / "x.db")
    with running(tmp_path / "a", REPLAY_FILE=str(file)) as run:
        stop = e.RegimeEstimated
        run.go_on(lambda event: run.loop.stop() if isinstance(event, stop) else None)
        assert run.runtime.state.regimes.heard_at is not None
    assert "candles and evidence are kept until the stop only" in caplog.text


@pytest.mark.slow
def test_no_label_comes_from_what_was_known_later(tmp_path: Path, file: Path) -> None:
    """Candles that come late, after longer ones were read, are no evidence."""
    with running(tmp_path / "a", REPLAY_FILE=str(file)) as run:
        assert run.go_on() == "ended"
        first = run.models.frames[0]
        at = first.newest(run.runtime.state.now) + 60.0
        assert first.model is not None
        assert first.model.ref.until < at - 60.0
        assert not first.knows_later_than(at)
        assert first.knows_later_than(at - 60.0)
        assert first.knows_later_than(first.model.ref.until)
