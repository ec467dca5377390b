"""Trains models in a worker process, so that neither the loop nor its memory feels it.

One process (`regime/worker.py`) at low priority with one computing thread; it is started for a
request, kept while requests come, ended when idle, and started anew when it dies. The loop only
submits and looks at futures.
"""

import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from core.record import Record
from engine.clock import monotonic
from hmm_regime_detector import Model, TrainingError, TrainingRequest, train
from regime.pipe import PipeError, Refused, decode_answer, read_frame, write_frame

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "regime.worker")
# Nothing of the daemon's own environment: it holds keys. One thread: more make hmmlearn slower.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LANG": "C.UTF-8",
}
TIMEOUT_SEC = 300.0
IDLE_SEC = 60.0
ATTEMPTS = 3
CLOSE_SEC = 0.8
_SHOWN_MAX = 200


class TrainerCounters(Record, frozen=True, kw_only=True):
    """What the trainer has done since it was made."""

    is_running: bool = False  # a request is being worked on
    waiting: int = 0
    submitted: int = 0
    trained: int = 0
    failed: int = 0
    replaced: int = 0  # waiting requests that a newer one of the same interval pushed out
    started: int = 0  # worker processes
    died: int = 0  # of them, with a request in hand
    hung: int = 0  # killed for answering nothing in time
    garbled: int = 0  # killed for answering nonsense
    idle_ends: int = 0
    last_sec: float | None = None  # the last model, from submission's turn to its answer
    last_error: str = ""


class _Job(NamedTuple):
    request: TrainingRequest
    future: Future[Model]


class _Lost(Exception):
    """The worker ended, or was ended, with a request in hand."""

    def __init__(self, why: str, *, may_retry: bool = True) -> None:
        super().__init__(why)
        self.may_retry = may_retry


class Trainer:
    """Takes training requests, gives futures; one request is worked on at a time."""

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        timeout_sec: float = TIMEOUT_SEC,
        idle_sec: float = IDLE_SEC,
    ) -> None:
        self._command = tuple(command)
        self._timeout_sec = timeout_sec
        self._idle_sec = idle_sec
        self._change = threading.Condition()
        self._waiting: dict[float, _Job] = {}
        self._counts: dict[str, int] = dict.fromkeys(TrainerCounters.__struct_fields__, 0)
        self._is_running = self._is_closed = False
        self._last_sec: float | None = None
        self._last_error = ""
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None

    def submit(self, request: TrainingRequest) -> Future[Model]:
        """Return the future model of a request.

        It raises TrainingError when there is none: the worker's reason, a worker that was lost in
        each attempt, or the daemon's stop. A request that still waits when a newer one of its
        interval comes is cancelled.
        """
        future: Future[Model] = Future()
        with self._change:
            if self._is_closed:
                future.set_exception(TrainingError("the daemon is stopping"))
                return future
            self._counts["submitted"] += 1
            older = self._waiting.pop(request.interval_sec, None)
            if older is not None:
                self._counts["replaced"] += 1
                older.future.cancel()
            self._waiting[request.interval_sec] = _Job(request, future)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
                self._thread.start()
            self._change.notify_all()
        return future

    def counters(self) -> TrainerCounters:
        """Return what has been done so far."""
        with self._change:
            return TrainerCounters.from_dict({
                **self._counts,
                "is_running": self._is_running,
                "waiting": len(self._waiting),
                "last_sec": self._last_sec,
                "last_error": self._last_error,
            })  # fmt: skip

    def close(self) -> None:
        """End the worker and all requests; returns within a second."""
        with self._change:
            self._is_closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
            worker, thread = self._worker, self._thread
            self._change.notify_all()
        for job in waiting:
            job.future.cancel()
        if worker is not None:
            worker.kill()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SEC)

    # ---- the trainer's own thread -----------------------------------------------------------

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            with self._change:
                self._is_running = True
            began = monotonic()
            try:
                model = self._model(job.request)
            except TrainingError as error:
                self._refuse(job, error)
            except Exception as error:  # noqa: BLE001 - boundary: the thread outlives any request
                self._drop()
                self._refuse(job, TrainingError(f"{type(error).__name__}: {error}"))
            else:
                with self._change:
                    self._counts["trained"] += 1
                    self._last_sec, self._is_running = monotonic() - began, False
                job.future.set_result(model)
        self._drop()

    def _refuse(self, job: _Job, error: TrainingError) -> None:
        with self._change:
            self._counts["failed"] += 1
            self._last_error, self._is_running = str(error), False
        job.future.set_exception(error)

    def _next(self) -> _Job | None:
        """Wait for a request; return the oldest, or None when all is over."""
        with self._change:
            while not self._waiting and not self._is_closed:
                is_idle = not self._change.wait(self._idle_sec if self._worker else None)
                if is_idle and not self._waiting and self._worker is not None:
                    self._counts["idle_ends"] += 1
                    self._drop()  # a process that waits for input is gone at once
            if self._is_closed:
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def _model(self, request: TrainingRequest) -> Model:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(request)
            except _Lost as lost:
                self._drop()
                if self._is_closed:
                    raise TrainingError("the daemon is stopping") from None
                if attempt == ATTEMPTS or not lost.may_retry:
                    times = f" ({attempt} attempts)" if attempt > 1 else ""
                    raise TrainingError(f"{lost}{times}") from None
        raise AssertionError("unreachable")

    def _attempt(self, request: TrainingRequest) -> Model:
        worker = self._ready()
        timer = threading.Timer(self._timeout_sec, worker.give_up)
        timer.daemon = True
        timer.start()
        try:
            found = decode_answer(worker.ask(msgspec.msgpack.encode(request)))
        except (OSError, ValueError, PipeError) as error:
            raise self._lost(worker, error) from None
        finally:
            timer.cancel()
        if isinstance(found, Refused):
            raise TrainingError(found.reason)
        return found.model

    def _lost(self, worker: "_Worker", error: Exception) -> _Lost:
        """Count what became of a worker; return it in words."""
        worker.kill()
        with self._change:
            if worker.has_hung:
                self._counts["hung"] += 1
                return _Lost(
                    f"the worker gave no answer in {self._timeout_sec:g} s", may_retry=False
                )
            if isinstance(error, PipeError):
                self._counts["garbled"] += 1
                return _Lost(f"the worker's answer cannot be read: {error}")
            self._counts["died"] += 1
        return _Lost(f"the worker died ({worker.last_words()})")

    def _ready(self) -> "_Worker":
        """Return the worker, started if there is none."""
        worker = self._worker
        if worker is not None and worker.is_alive():
            return worker
        self._drop()
        try:
            worker = _Worker(self._command)  # takes long: not under the lock
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise _Lost(f"the worker cannot be started: {reason}") from None
        with self._change:
            self._worker = worker
            self._counts["started"] += 1
            if self._is_closed:
                raise _Lost("the daemon is stopping")
        return worker

    def _drop(self) -> None:
        """Let go of the worker; it is gone afterwards."""
        with self._change:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


class InlineTrainer:
    """Trains when it is asked, in the process that asks: where nothing waits for the loop.

    The same models as the worker makes. Start such a process with the variables of `ENVIRONMENT`.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {"submitted": 0, "trained": 0, "failed": 0}
        self._last_sec: float | None = None
        self._last_error = ""

    def submit(self, request: TrainingRequest) -> Future[Model]:
        """Return the future model of a request, which is done; it raises TrainingError if none."""
        future: Future[Model] = Future()
        self._counts["submitted"] += 1
        began = monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of a model is in its record
                model = train(request)
        except Exception as error:  # noqa: BLE001  # worker top, as in regime/worker.py
            known = isinstance(error, TrainingError)
            failed = error if known else TrainingError(f"{type(error).__name__}: {error}")
            self._counts["failed"] += 1
            self._last_error = str(failed)
            future.set_exception(failed)
        else:
            self._counts["trained"] += 1
            self._last_sec = monotonic() - began
            future.set_result(model)
        return future

    def counters(self) -> TrainerCounters:
        """Return what has been done so far."""
        return TrainerCounters.from_dict({
            **self._counts,
            "last_sec": self._last_sec,
            "last_error": self._last_error,
        })  # fmt: skip

    def close(self) -> None:
        """End nothing: there is no worker."""


class _Worker:
    """One worker process and its pipes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        self.has_hung = False
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # the terminal's Ctrl-C is the daemon's business
            )
        except OSError:
            self._errors.close()
            raise

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def ask(self, body: bytes) -> bytes:
        """Send a request, wait for its answer; raise OSError or PipeError when there is none."""
        if self._process.stdin is None or self._process.stdout is None:
            raise BrokenPipeError
        write_frame(self._process.stdin, body)
        found = read_frame(self._process.stdout)
        if found is None:
            raise BrokenPipeError
        return found

    def give_up(self) -> None:
        """End a worker that takes too long."""
        self.has_hung = True
        self.kill()

    def kill(self) -> None:
        """End the process at once; whoever waits for its answer sees the end of the pipe."""
        with suppress(OSError):
            self._process.kill()

    def last_words(self) -> str:
        """Return how the process ended, and the last line it left."""
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode("utf-8", "replace").split("\n")
        last = next((x.strip() for x in reversed(lines) if x.strip()), "")
        return f"{how}: {last[:_SHOWN_MAX]}" if last else how

    def close(self) -> None:
        """End the process and close its pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError, ValueError):  # unwritten rests have no reader any more
                    pipe.close()
        self._process.wait()
        self._errors.close()
