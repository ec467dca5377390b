"""The trainer and its worker process: killed, hanging, talking garbage, refusing."""

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from core.record import replace
from engine import trainer as trainer_module
from engine.clock import monotonic, sleep
from engine.trainer import Trainer
from hmm_regime_detector import TrainingError, train
from regime.pipe import MARK, PipeError, Refused, decode_answer, read_frame, write_frame
from regime.worker import NICENESS, answer
from tests.hmm_world import request, walk

ROOT = Path(__file__).parent.parent
SMALL = request(walk(700, 1), starts=1)
WAIT = 60.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Trainer]:
    """Yield one trainer for the tests that leave its worker alone."""
    made = Trainer()
    yield made
    made.close()


def worker_of(trainer: Trainer) -> psutil.Process:
    """Return the trainer's worker process."""
    for _ in range(500):
        worker = trainer._worker
        if worker is not None:
            return psutil.Process(worker._process.pid)
        sleep(0.02)
    raise AssertionError("no worker")


def script(text: str) -> tuple[str, ...]:
    """Return the command of a worker that does what the text says."""
    head = "import sys, time, os; i, o = sys.stdin.buffer, sys.stdout.buffer\n"
    return (sys.executable, "-S", "-c", head + text)


READ = "i.read(4); i.read(int.from_bytes(i.read(4), 'big'))\n"


def test_worker_trains_what_the_function_trains(shared: Trainer) -> None:
    """The model that comes through the pipe is the same, bit for bit; so is the next."""
    first = shared.submit(SMALL).result(WAIT)
    assert first == train(SMALL)
    assert shared.submit(SMALL).result(WAIT) == first
    counters = shared.counters()
    assert (counters.started, counters.died, counters.is_running) == (1, 0, False)
    assert counters.trained == counters.submitted
    assert counters.last_sec is not None


def test_worker_runs_with_one_thread_at_low_priority_and_without_our_environment(
    shared: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees neither keys nor tokens, and gives way to the loop."""
    shared.submit(SMALL).result(WAIT)
    process = worker_of(shared)
    assert process.nice() >= NICENESS
    environment = process.environ()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "HOME" not in environment
    assert "PATH" not in environment
    assert process.num_threads() <= 2


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (request(walk(300, 2)), "too few candles: 300 of 500"),
        (request(walk(100, 2), min_candles=100), "too few candles: 100 of 190"),
        (
            request(walk(700, 2)._replace(close=np.full(700, 0.1))),
            "the prices of the window do not move",
        ),
        (
            request(walk(700, 2)._replace(close=np.full(700, math.nan))),
            "700 of 700 candles hold times, prices or volumes that are not usable numbers",
        ),
        (
            request(walk(700, 2)._replace(volume=np.full(700, -1.0))),
            "700 of 700 candles hold",
        ),
        (replace(SMALL, close=SMALL.close[:-8]), "columns of"),
        (replace(SMALL, close=SMALL.close[:-3]), "cannot be read"),
    ],
)
def test_worker_refuses_in_plain_words(
    shared: Trainer, changed: msgspec.Struct, words: str
) -> None:
    """What cannot be trained on is told, not retried, and the worker goes on."""
    started = shared.counters().started
    with pytest.raises(TrainingError, match=words):
        shared.submit(changed).result(WAIT)  # type: ignore[arg-type]
    assert shared.counters().last_error
    assert shared.submit(SMALL).result(WAIT)
    assert shared.counters().started == max(1, started)


def test_worker_survives_what_libraries_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody expected is an answer like any other."""

    def broken(_: object) -> None:
        raise RuntimeError("LAPACK says no")

    monkeypatch.setattr("regime.worker.train", broken)
    assert answer(msgspec.msgpack.encode(SMALL)) == Refused("RuntimeError: LAPACK says no")
    found = answer(b"\x00")
    assert isinstance(found, Refused)
    assert found.reason.startswith("PipeError: a request that cannot be read")


def test_worker_that_is_killed_is_started_anew_and_the_request_answered() -> None:
    """Killed in the middle of a training: counted, and the future still gets its model."""
    trainer = Trainer()
    try:
        future = trainer.submit(SMALL)  # importing hmmlearn alone takes longer than this
        process = worker_of(trainer)
        process.send_signal(signal.SIGKILL)
        assert future.result(WAIT) == train(SMALL)
        counters = trainer.counters()
        assert (counters.died, counters.started, counters.failed) == (1, 2, 0)
    finally:
        trainer.close()


def test_worker_that_dies_each_time_is_given_up_after_three_attempts() -> None:
    """The reason holds how it ended and its last words."""
    trainer = Trainer(command=script("sys.stderr.write('no room\\n'); sys.exit(3)"))
    try:
        with pytest.raises(TrainingError, match=r"died \(exit code 3: no room\) \(3 attempts\)"):
            trainer.submit(SMALL).result(WAIT)
        counters = trainer.counters()
        assert (counters.died, counters.started, counters.failed) == (3, 3, 1)
        assert "no room" in counters.last_error
    finally:
        trainer.close()


def test_worker_that_cannot_be_started_is_an_error() -> None:
    """A missing program is told, without a hang."""
    trainer = Trainer(command=("/nonexistent/python",))
    try:
        with pytest.raises(TrainingError, match="cannot be started: No such file"):
            trainer.submit(SMALL).result(WAIT)
    finally:
        trainer.close()


def test_the_unexpected_costs_one_request_not_the_trainer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a machine that starts no more threads: told, counted, and gone on from."""
    trainer = Trainer()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Timer", lambda *_: 1 / 0)
            with pytest.raises(TrainingError, match="ZeroDivisionError"):
                trainer.submit(SMALL).result(WAIT)
        assert trainer.submit(SMALL).result(WAIT)
        counters = trainer.counters()
        assert (counters.failed, counters.trained, counters.is_running) == (1, 1, False)
    finally:
        trainer.close()


@pytest.mark.parametrize(
    "text",
    [
        "o.write(b'hello, world of models'); o.flush(); time.sleep(60)",
        READ + f"o.write({MARK!r} + b'\\xff\\xff\\xff\\xff'); o.flush(); time.sleep(60)",
        READ + f"o.write({MARK!r} + b'\\0\\0\\0\\3abc'); o.flush(); time.sleep(60)",
        READ + f"o.write({MARK!r} + b'\\0\\0\\0\\x10abc'); o.flush()",
    ],
)
def test_garbage_on_the_pipe_is_an_error_not_a_hang(text: str) -> None:
    """Text, an absurd length, a body that is no answer, half a body."""
    trainer = Trainer(command=script(text))
    try:
        began = monotonic()
        with pytest.raises(TrainingError, match="cannot be read"):
            trainer.submit(SMALL).result(WAIT)
        assert monotonic() - began < 30
        assert trainer.counters().garbled == 3
    finally:
        trainer.close()


@pytest.mark.parametrize("text", ["time.sleep(600)", READ + "time.sleep(600)"])
def test_worker_that_hangs_is_killed(text: str) -> None:
    """Whether it does not read or does not answer; counted, not tried again."""
    trainer = Trainer(command=script(text), timeout_sec=0.5)
    try:
        with pytest.raises(TrainingError, match=r"no answer in 0\.5 s"):
            trainer.submit(request(walk(4000, 3))).result(WAIT)
        counters = trainer.counters()
        assert (counters.hung, counters.started) == (1, 1)
    finally:
        trainer.close()


@pytest.mark.slow
def test_newer_request_of_an_interval_replaces_the_one_that_waits() -> None:
    """One runs, one of each interval waits; what is pushed out is cancelled and counted."""
    trainer = Trainer()
    try:
        running = trainer.submit(SMALL)
        worker_of(trainer)
        older = trainer.submit(SMALL)
        other = trainer.submit(replace(SMALL, interval_sec=900.0))
        newer = trainer.submit(replace(SMALL, recipe=replace(SMALL.recipe, seed=2)))
        with pytest.raises(CancelledError):
            older.result(WAIT)
        assert running.result(WAIT).ref.interval_sec == 60.0
        assert other.result(WAIT).ref.interval_sec == 900.0
        assert newer.result(WAIT)
        counters = trainer.counters()
        assert (counters.replaced, counters.trained, counters.submitted) == (1, 3, 4)
    finally:
        trainer.close()


def test_request_that_its_owner_cancels_is_left_out() -> None:
    """The next one is worked on, and nothing seems to run afterwards."""
    trainer = Trainer()
    try:
        first = trainer.submit(request(walk(300, 2)))
        unwanted = trainer.submit(replace(SMALL, interval_sec=300.0))
        unwanted.cancel()
        last = trainer.submit(request(walk(300, 2), interval_sec=900.0))
        for future in (first, last):
            with pytest.raises(TrainingError, match="too few"):
                future.result(WAIT)
        assert unwanted.cancelled()
        counters = trainer.counters()
        assert (counters.failed, counters.is_running, counters.waiting) == (2, False, 0)
    finally:
        trainer.close()


@pytest.mark.slow
def test_idle_worker_ends_and_the_next_request_starts_another() -> None:
    """Its memory is free while nothing is trained."""
    trainer = Trainer(idle_sec=0.3)
    try:
        for n in (1, 2):
            with pytest.raises(TrainingError, match="too few"):
                trainer.submit(request(walk(300, 2))).result(WAIT)
            for _ in range(500):
                if trainer.counters().idle_ends == n:
                    break
                sleep(0.02)
            assert trainer._worker is None
            assert trainer.counters().started == n
    finally:
        trainer.close()


@pytest.mark.parametrize("is_busy", [True, False])
def test_close_ends_everything_at_once(is_busy: bool) -> None:
    """A training under way, one that waits, and the process itself."""
    trainer = Trainer(command=script("time.sleep(600)"))
    futures = [trainer.submit(replace(SMALL, interval_sec=x)) for x in (60.0, 900.0)[: 2 * is_busy]]
    process = worker_of(trainer) if is_busy else None
    began = monotonic()
    trainer.close()
    assert monotonic() - began < 30
    if process is not None:
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        with pytest.raises(TrainingError, match="stopping"):
            futures[0].result(1.0)
        assert futures[1].cancelled()
    with pytest.raises(TrainingError, match="stopping"):
        trainer.submit(SMALL).result(1.0)


def test_worker_ends_when_its_parent_is_gone() -> None:
    """The end of the input is the end; nothing is left behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "regime.worker"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    write_frame(process.stdin, msgspec.msgpack.encode(request(walk(300, 2))))
    found = read_frame(process.stdout)
    assert found is not None
    assert decode_answer(found) == Refused("too few candles: 300 of 500")
    process.stdin.close()
    assert read_frame(process.stdout) is None
    assert process.wait(10) == 0
    process.stdout.close()


def test_frames_are_frames() -> None:
    """Empty bodies pass; a pipe that ends inside one is an error."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as sink:
        write_frame(sink, b"")
        write_frame(sink, b"abc")
        sink.write(MARK + b"\0\0")
        sink.close()
        assert [read_frame(source), read_frame(source)] == [b"", b"abc"]
        with pytest.raises(PipeError):
            read_frame(source)
    assert trainer_module.ATTEMPTS == 3
