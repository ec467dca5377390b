"""Asks for second opinions beside the loop: one daemon thread, one question waiting at most.

The loop puts a question down and goes on; what comes back waits in a slot of one each for opinion
and council, and the loop is woken. Whatever hangs, hangs here: the thread is left behind at a stop.
What models write is neither logged nor acted on.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ai_advisor import INTERNAL, Panelist, Question, RegimeAdvisor, Waiting
from core.actions import RequestOpinion
from core.advice import Council, Opinion
from core.advisor_status import ProviderBlock, WorkerBlock
from core.events import CouncilHeld, OpinionGiven
from core.params import Params
from core.record import replace
from core.state import BotState
from engine.advisor_context import ContextFacts, context_of
from engine.clock import monotonic
from engine.llm import HttpLlm, open_seats

log = logging.getLogger("advisor")

Facts = Callable[[BotState], ContextFacts]
Answered = OpinionGiven | CouncilHeld


def _question(action: RequestOpinion, state: BotState, params: Params, facts: Facts) -> Question:
    """Return the question of an action; facts are taken now, the rest is made when it is asked."""
    known = facts(state)
    return Question(
        context=lambda: context_of(state, params, known),
        asked_at=state.now,
        trigger=None if action.is_council else action.trigger,
        is_council=action.is_council,
    )


class AdvisorDesk:
    """The advisor of a run. A `core.ports.Advisor`, whose answers come when they come.

    `facts` is called by the thread that steps, `woken` by the one that asks; neither may raise.
    """

    def __init__(
        self,
        advisor: RegimeAdvisor,
        *,
        facts: Facts,
        woken: Callable[[], None],
        debounce_sec: float,
        monotonic: Callable[[], float] = monotonic,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._advisor = advisor
        self._facts = facts
        self._woken = woken
        self._monotonic = monotonic
        self._close = close
        self._change = threading.Condition()
        self._waiting = Waiting(debounce_sec)
        self._opinion: OpinionGiven | None = None
        self._council: CouncilHeld | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._last_errors: dict[str, str | None] = {}

    # ---- the port -----------------------------------------------------------------------------

    def ask(self, action: RequestOpinion, state: BotState, params: Params) -> None:
        """Ask about `state`; a question that still waits is replaced. Takes microseconds."""
        question = _question(action, state, params, self._facts)
        with self._change:
            if self._is_closed:
                return
            self._waiting.put(question)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="advisor", daemon=True)
                with suppress(RuntimeError):  # no thread to be had: the next question tries again
                    thread.start()
                    self._thread = thread
            self._change.notify_all()

    def next_time(self) -> float | None:
        """Return 0 when there is something to take, else None."""
        return 0.0 if self._opinion is not None or self._council is not None else None

    def take(self, to: float) -> tuple[Answered, ...]:
        """Return, once, what has come."""
        with self._change:
            found = (self._opinion, self._council)
            self._opinion = self._council = None
        return tuple(_at(x, to) for x in found if x is not None)

    # ---- beside it ----------------------------------------------------------------------------

    def providers(self) -> tuple[ProviderBlock, ...]:
        """Return how each model of the panel fares; from any thread."""
        return self._advisor.providers()

    def worker(self) -> WorkerBlock:
        """Return what the thread does; from any thread."""
        with self._change:
            return self._waiting.block()

    def stop(self) -> None:
        """Let go of the thread and of what it waits for; returns at once."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()
        self._close()

    # ---- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while (question := self._next()) is not None:
            try:
                if question.trigger is not None:
                    self._put(_opinion_of(self._advisor, question))
                if question.is_council and not self._is_closed:
                    self._put(_council_of(self._advisor, question))
                self._tell()
            finally:
                with self._change:
                    self._waiting.done()

    def _next(self) -> Question | None:
        """Wait for a question that may be asked; None when all is over."""
        with self._change:
            while not self._is_closed:
                now, asks_others = self._monotonic(), self._advisor.asks_others()
                question = self._waiting.take(now, asks_others=asks_others)
                if question is not None:
                    return question
                self._change.wait(self._waiting.wait_sec(now, asks_others=asks_others))
        return None

    def _put(self, answer: Answered) -> None:
        with self._change:
            if self._is_closed:
                return
            if isinstance(answer, OpinionGiven):
                self._opinion = answer
            else:
                self._council = answer
        self._woken()

    def _tell(self) -> None:
        """Log how providers fare where that has changed."""
        for block in self._advisor.providers():
            error = block.last_error if block.failures_in_row else None
            if error != self._last_errors.get(block.name):
                self._last_errors[block.name] = error
                if error is None:
                    log.info("advisor answers again panelist=%s", block.name)
                else:
                    log.warning("advisor does not answer panelist=%s: %s", block.name, error)


class InlineAdvisor:
    """Asks when it is asked, and tells `latency_sec` of simulated time later: for backtests.

    A `core.ports.Advisor`; with models of this machine that answer the same to the same it is
    deterministic. A question that may not go to other machines yet waits for the next one.
    """

    def __init__(
        self,
        advisor: RegimeAdvisor,
        *,
        facts: Facts,
        latency_sec: float,
        debounce_sec: float,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._advisor = advisor
        self._facts = facts
        self._latency_sec = latency_sec
        self._monotonic = monotonic
        self._waiting = Waiting(debounce_sec)
        self._told: list[tuple[float, Answered]] = []

    def ask(self, action: RequestOpinion, state: BotState, params: Params) -> None:
        """Ask about `state`, now."""
        self._waiting.put(_question(action, state, params, self._facts))
        asks_others = self._advisor.asks_others()
        question = self._waiting.take(self._monotonic(), asks_others=asks_others)
        if question is None:
            return
        due = state.now + self._latency_sec
        if question.trigger is not None:
            self._told.append((due, _opinion_of(self._advisor, question)))
        if question.is_council:
            self._told.append((due, _council_of(self._advisor, question)))
        self._waiting.done()

    def next_time(self) -> float | None:
        """Return when the next answer is to be told."""
        return self._told[0][0] if self._told else None

    def take(self, to: float) -> tuple[Answered, ...]:
        """Return, once, what is to be told by `to`, in the order it was asked for."""
        due = [x for at, x in self._told if at <= to]
        self._told = [x for x in self._told if x[0] > to]
        return tuple(_at(x, to) for x in due)

    def providers(self) -> tuple[ProviderBlock, ...]:
        """Return how each model of the panel fares."""
        return self._advisor.providers()

    def worker(self) -> WorkerBlock:
        """Return what has been asked."""
        return self._waiting.block()

    def stop(self) -> None:
        """Ask no more; there is nothing under way."""
        self._told = []


def _opinion_of(advisor: RegimeAdvisor, question: Question) -> OpinionGiven:
    try:
        opinion = advisor.get_regime_opinion(question.context())
    except Exception as error:  # noqa: BLE001 - worker top; its text might hold what a model wrote
        log.warning("no opinion: an error inside (%s)", type(error).__name__)
        opinion = Opinion(error=INTERNAL)
    return OpinionGiven(
        time=question.asked_at,
        asked_at=question.asked_at,
        trigger=question.trigger or "",
        opinion=opinion,
    )


def _council_of(advisor: RegimeAdvisor, question: Question) -> CouncilHeld:
    try:
        council = advisor.get_council_recommendation(question.context())
    except Exception as error:  # noqa: BLE001 - worker top; its text might hold what a model wrote
        log.warning("no council: an error inside (%s)", type(error).__name__)
        council = Council(action=None, why="an error inside")
    return CouncilHeld(time=question.asked_at, asked_at=question.asked_at, council=council)


def _at(answer: Answered, time: float) -> Answered:
    return replace(answer, time=time)


def open_desk(
    *,
    keys: Mapping[str, str],
    facts: Facts,
    woken: Callable[[], None],
    debounce_sec: float,
    panelists: Sequence[Panelist],
) -> AdvisorDesk:
    """Return the desk of a run with the panel behind it; `keys` are by the names of settings.

    NVIDIA_API_KEY, GROQ_API_KEY and AI_API_KEY.
    """
    seats = open_seats(panelists, keys, monotonic)

    def close() -> None:
        for seat in seats:
            if isinstance(seat.llm, HttpLlm):
                seat.llm.close()

    return AdvisorDesk(
        RegimeAdvisor(seats, monotonic),
        facts=facts,
        woken=woken,
        debounce_sec=debounce_sec,
        close=close,
    )
