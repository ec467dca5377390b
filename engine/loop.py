"""The loop: market, exchange answers, commands, timers, in this order.

One discrete-event queue: the exchange tells its next instant, the state its next due time. Time
stands still while code runs; the pacer only sleeps. HTTP commands enter at the present instant.
Where the exchange has a horizon (its market is a live one), nothing later than that is touched: the
loop waits until the horizon has moved on.
"""

import math
import queue
import threading
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from itertools import accumulate
from typing import Literal

from core import actions as a
from core import events as e
from core.commands import Command
from core.ports import Message, Models, SimulatedExchange
from core.record import Record, replace
from core.state import BotState
from engine.clock import Pacer, monotonic
from engine.runtime import Runtime
from grid.advice import acting_due

INBOX_SIZE = 256
TIMER_SEC = 1.0  # timers are at least this far apart, so simulated time always moves on
WAKE_SEC = 0.25  # the longest the loop sleeps without looking at its inbox and flags


_Result = e.ModelTrained | e.TrainingFailed | e.OpinionGiven | e.CouncilHeld


class _Turn(Enum):
    """Whose instant comes next."""

    EXCHANGE = 0
    ANSWERS = 1  # of models and advisor
    TIMER = 2


class Full(Exception):
    """The inbox is full; ask again."""


class Request(Record, frozen=True, kw_only=True):
    """A command on its way to the loop, with the place for its answer."""

    command_id: str
    command: Command
    expect_version: int | None
    answer: "Future[a.ReplyToOperator]"


class Inbox:
    """The bounded queue of commands; any thread may put, the loop takes."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Request] = queue.Queue(INBOX_SIZE)
        self.woken = threading.Event()

    def put(
        self, command_id: str, command: Command, expect_version: int | None = None
    ) -> "Future[a.ReplyToOperator]":
        """Queue a command; return its future answer. Raises Full when the queue is full."""
        request = Request(
            command_id=command_id,
            command=command,
            expect_version=expect_version,
            answer=Future(),
        )
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            raise Full from None
        self.woken.set()
        return request.answer

    def take(self) -> Request | None:
        """Return the next command, or None."""
        if self._queue.empty() and not self.woken.is_set():
            return None  # what is put now is seen at the next look
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self.woken.clear()
            return None


class StepTimes:
    """How long the loop took for what was due at one instant, and for each command.

    Written by the loop, read by any thread: a reader may miss the newest.
    """

    BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

    def __init__(self) -> None:
        self.total_sec = 0.0
        self._counts = [0] * (len(self.BOUNDS) + 1)

    def note(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self.BOUNDS, seconds)] += 1
        self.total_sec += seconds

    def buckets(self) -> list[tuple[float, int]]:
        """Return how many took at most so many seconds, by bounds up to infinity."""
        return list(zip((*self.BOUNDS, math.inf), accumulate(self._counts), strict=True))


class Loop:
    """Runs a Runtime against an exchange until stopped or the market has ended."""

    def __init__(
        self,
        runtime: Runtime,
        exchange: SimulatedExchange,
        *,
        pacer: Pacer,
        models: Models | None = None,
        prepare: Callable[[Command], Command] = lambda command: command,
    ) -> None:
        self.runtime = runtime
        self.exchange = exchange
        self.models = models
        self.inbox = Inbox()
        self.stopping = threading.Event()
        self.iterations = 0
        self.times = StepTimes()
        self.on_iteration: Callable[[bool], None] | None = None
        # Goes over quotes that change nothing before an instant, where an exchange can do that.
        self.skip: Callable[[BotState, float], Message | None] | None = None
        self.pacer = pacer
        self._prepare = prepare

    def stop(self) -> None:
        """Ask the loop to end after the present step; safe from a signal handler."""
        self.stopping.set()
        self.inbox.woken.set()

    def run(self) -> Literal["stopped", "ended"]:
        """Run; return why it ended."""
        self._take_up()
        while not self.stopping.is_set():
            had_command = self._commands()
            horizon = self.exchange.horizon()  # asked first: what is due by then is then known
            if self._has_skipped():
                continue
            at, turn = self._next(has_end=horizon is None)
            if at is None and horizon is None:
                return "ended"
            if at is None or (horizon is not None and at > horizon):
                self._wait_a_little()
                continue
            if not self._sleep_until(at):
                continue
            results = self._results(at) if turn is _Turn.ANSWERS else ()
            if results is None:  # a training is not done yet: simulated time waits for it
                self._wait_a_little()
                continue
            began = monotonic()
            for message in self.exchange.advance(at):
                self._deliver(message.seq, message.event)
            now = max(at, self.exchange.now(), self.runtime.state.now)
            for result in results:
                self.runtime.step(replace(result, time=now))
            if turn is _Turn.EXCHANGE:
                self.exchange.acknowledge(self.runtime.durable_cursor)
            elif turn is _Turn.TIMER:
                self.runtime.step(e.TimerTick(time=max(at, self.exchange.now())))
            self.iterations += 1
            self.times.note(monotonic() - began)
            if self.on_iteration is not None:
                self.on_iteration(had_command)
        return "stopped"

    def _has_skipped(self) -> bool:
        """Go over quotes that change nothing, if there are some and the exchange knows how."""
        state = self.runtime.state
        if self.skip is None or state.quiet is None:
            return False
        message = self.skip(state, min(self._answers_due(), default=math.inf))
        if message is None:
            return False
        self._deliver(message.seq, message.event)
        self.iterations += 1
        if self.on_iteration is not None:
            self.on_iteration(False)
        return True

    def _answers_due(self) -> list[float]:
        """Return when models and advisor have something to tell."""
        asked = (self.models, self.runtime.advisor)
        return [t for x in asked if x is not None and (t := x.next_time()) is not None]

    def _take_up(self) -> None:
        """Go on where the last run left off: what was not heard of, then compare balances."""
        for message in self.exchange.pending(self.runtime.state.exchange_cursor):
            self._deliver(message.seq, message.event)
        if self.exchange.reads_first:
            return
        venue = self.exchange.describe()
        now = max(self.exchange.now(), self.runtime.state.now)
        self.runtime.step(e.BalancesReported(time=now, base=venue.base, quote=venue.quote))

    def _next(self, *, has_end: bool) -> tuple[float | None, _Turn]:
        """Return the next instant and whose it is; ties are the exchange's, then the answers'.

        None: there is nothing to come. Where markets end, that is once the exchange says so.
        """
        at, turn = self.exchange.next_time(), _Turn.EXCHANGE
        if at is None and has_end:
            return None, turn
        state = self.runtime.state
        answers = self._answers_due()
        answers_at = max(state.now, min(answers)) if answers else None
        timer_at = timer_due(state)
        if timer_at is not None:
            timer_at = max(timer_at, state.now, state.timer_at + TIMER_SEC)
        for other, whose in ((answers_at, _Turn.ANSWERS), (timer_at, _Turn.TIMER)):
            if other is not None and (at is None or other < at):
                at, turn = other, whose
        return at, turn

    def _results(self, at: float) -> "tuple[_Result, ...] | None":
        found: tuple[_Result, ...] | None = () if self.models is None else self.models.take(at)
        advisor = self.runtime.advisor
        return found if found is None or advisor is None else (*found, *advisor.take(at))

    def _deliver(self, seq: int, event: e.Event) -> None:
        self.runtime.step(replace(event, message=seq))

    def _wait_a_little(self) -> None:
        """Wait for what is to come; a command that comes in ends the wait."""
        if not self.inbox.woken.wait(WAKE_SEC) and self.on_iteration is not None:
            self.on_iteration(False)

    def _sleep_until(self, at: float) -> bool:
        """Wait for the pace; False when something else has to be looked at first."""
        wait = self.pacer.wait_sec(at)
        if wait <= 0:
            return True
        self.inbox.woken.wait(min(wait, WAKE_SEC))
        return self.pacer.wait_sec(at) <= 0 and not self.inbox.woken.is_set()

    def _commands(self) -> bool:
        had_command = False
        while (request := self.inbox.take()) is not None:
            had_command, began = True, monotonic()
            request.answer.set_result(self._carry_out(request))
            self.times.note(monotonic() - began)
        if had_command and self.on_iteration is not None:
            self.on_iteration(True)
        return had_command

    def _carry_out(self, request: Request) -> a.ReplyToOperator:
        runtime = self.runtime
        if request.expect_version not in (None, runtime.state_seq):
            return a.ReplyToOperator(
                command_id=request.command_id,
                is_accepted=False,
                message=f"expect_version {request.expect_version}: the state has moved on to "
                f"{runtime.state_seq}",
            )
        now = max(self.exchange.now(), runtime.state.now)
        command = self._prepare(request.command)
        actions = runtime.step(
            e.CommandReceived(time=now, command_id=request.command_id, command=command)
        )
        return next(x for x in actions if isinstance(x, a.ReplyToOperator))


def timer_due(state: BotState) -> float | None:
    """Return when a TimerTick is due; without bounds, for an entry pass or an override's end."""
    if state.quiet is not None:
        return state.quiet.next_due
    return min((x for x in (state.pass_due, acting_due(state)) if x is not None), default=None)
