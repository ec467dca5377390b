"""The advisor's desk: questions go down at once, answers come as events, whatever hangs."""

import threading
import time
from typing import Any

import pytest

from ai_advisor import RegimeAdvisor, Seat, panel
from core.actions import RequestOpinion
from core.advice import Council, Opinion
from core.events import CouncilHeld, OpinionGiven
from core.params import Params
from core.ports import Answer
from core.state import BotState
from engine.advisor import AdvisorDesk, InlineAdvisor, open_desk
from engine.advisor_context import ContextFacts
from engine.clock import monotonic
from tests.advisor_world import FAILED, LOCAL, Clock, T, advisor, asked, seat
from tests.llm_server import GOOD, HOSTILE, SILENT, LlmServer, chat


class Gate:
    """A model that answers when it is let, and tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def ask(self, system: str, question: str) -> Answer:
        self.asked.append(question)
        self.entered.release()
        self.open.acquire(timeout=30)
        is_council = "vote" in question
        return Answer(text='{"action": "pause"}' if is_council else GOOD)


def facts(_state: BotState) -> ContextFacts:
    return ContextFacts(fills_last_hour=3)


def desk_of(*seats: Seat, debounce_sec: float = 0.0) -> tuple[AdvisorDesk, threading.Semaphore]:
    """Return a desk over these seats, and what it wakes."""
    woken = threading.Semaphore(0)
    own = RegimeAdvisor(seats, monotonic)
    desk = AdvisorDesk(own, facts=facts, woken=woken.release, debounce_sec=debounce_sec)
    return desk, woken


def at(now: float) -> BotState:
    return BotState(now=T + now)


OPINION, COUNCIL = RequestOpinion(trigger="interval"), RequestOpinion(trigger="", is_council=True)


def test_desk_answers_with_events_and_wakes_the_loop() -> None:
    """The event carries when it was told, what asked for it, and the time at which it is heard."""
    desk, woken = desk_of(seat("a", GOOD, base_url=LOCAL))
    assert desk.next_time() is None
    desk.ask(OPINION, at(5), Params())
    assert woken.acquire(timeout=30)
    assert desk.next_time() == 0.0
    (event,) = desk.take(T + 9)
    assert isinstance(event, OpinionGiven)
    assert (event.time, event.asked_at, event.trigger) == (T + 9, T + 5, "interval")
    assert (event.opinion.panelist, event.opinion.conviction) == ("a", 72)
    assert desk.next_time() is None
    assert desk.take(T + 10) == ()
    desk.ask(COUNCIL, at(6), Params())
    assert woken.acquire(timeout=30)
    (event,) = desk.take(T + 9)
    assert isinstance(event, CouncilHeld)
    assert (event.asked_at, event.council.action) == (T + 6, None)
    desk.stop()


def test_desk_keeps_one_question_and_the_newest_wins() -> None:
    """While a model thinks any number of questions costs nothing; the council is not lost."""
    gate = Gate()
    own = Seat(seat("a", GOOD, base_url=LOCAL).panelist, gate)
    desk, woken = desk_of(own)
    desk.ask(OPINION, at(0), Params())
    assert gate.entered.acquire(timeout=30)
    assert desk.worker().is_asking
    spent = []
    for number in range(1, 40):
        began = time.perf_counter()
        desk.ask(COUNCIL if number == 20 else OPINION, at(number), Params())
        spent.append(time.perf_counter() - began)
        assert desk.worker().waiting == 1
    assert sorted(spent)[len(spent) // 2] < 0.001
    assert desk.worker().replaced == 38
    for _ in range(3):
        gate.open.release()
        assert woken.acquire(timeout=30)
    opinion, council = desk.take(T + 50)
    assert isinstance(opinion, OpinionGiven)
    assert isinstance(council, CouncilHeld)
    assert opinion.asked_at == council.asked_at == T + 39
    assert len(gate.asked) == 3
    assert desk.worker().asked == 3
    desk.stop()


def test_a_hanging_provider_delays_nothing() -> None:
    """Neither a question nor a stop, over real HTTP."""
    with LlmServer(SILENT) as server:
        woken = threading.Semaphore(0)
        desk = open_desk(
            keys={}, facts=facts, woken=woken.release, debounce_sec=60.0,
            panelists=panel(base_url=server.base_url, model="m"),
        )  # fmt: skip
        desk.ask(OPINION, at(0), Params())
        while not server.seen:
            time.sleep(0.005)
        for number in range(100):
            desk.ask(OPINION, at(number), Params())
            assert desk.next_time() is None
            assert desk.take(T) == ()
            assert desk.worker().waiting == 1
        assert desk.worker().replaced == 99
        desk.stop()
        desk.stop()
        desk.ask(OPINION, at(101), Params())
        assert desk.take(T) == ()


def test_desk_over_real_http_without_keys() -> None:
    """The others have no key; the free choice of this machine answers, and is not limited."""
    with LlmServer(chat(f"<think>hm</think>{GOOD}")) as server:
        woken = threading.Semaphore(0)
        desk = open_desk(
            keys={"NVIDIA_API_KEY": " \n"}, facts=facts, woken=woken.release, debounce_sec=60.0,
            panelists=panel(base_url=server.base_url, model="m"),
        )  # fmt: skip
        for number in range(3):
            desk.ask(OPINION, at(number), Params())
            assert woken.acquire(timeout=30)
            (event,) = desk.take(T + number)
            assert isinstance(event, OpinionGiven)
            assert event.opinion.panelist == "own model"
        desk.stop()
    assert [x.state for x in desk.providers()] == ["no_key", "no_key", "no_key", "ok"]
    assert len(server.seen) == 3
    assert '"fills_last_hour":3' in server.bodies[0]["messages"][1]["content"]


def test_desk_without_any_provider_says_so() -> None:
    """No keys, no free choice: an opinion in error, and no waiting."""
    woken = threading.Semaphore(0)
    desk = open_desk(
        keys={}, facts=facts, woken=woken.release, debounce_sec=60.0, panelists=panel()
    )
    for action in (OPINION, COUNCIL):
        desk.ask(action, at(0), Params())
        assert woken.acquire(timeout=30)
    opinion, council = desk.take(T)
    assert isinstance(opinion, OpinionGiven)
    assert opinion.opinion == Opinion(error="no_providers")
    assert isinstance(council, CouncilHeld)
    assert council.council.why == "0 of 3 votes needed for a quorum"
    desk.stop()


def test_desk_limits_questions_to_other_machines() -> None:
    """In real time, however fast simulated time runs; the newest is asked when it may be."""
    remote, clock, woken = seat("a", GOOD), Clock(), threading.Semaphore(0)
    own = RegimeAdvisor((remote,), clock)
    desk = AdvisorDesk(own, facts=facts, woken=woken.release, debounce_sec=60.0, monotonic=clock)
    desk.ask(OPINION, at(0), Params())
    assert woken.acquire(timeout=30)
    for number in range(1, 200):
        desk.ask(OPINION, at(number * 300.0), Params())
    assert not woken.acquire(timeout=0.02)
    assert (desk.worker().waiting, asked(remote)) == (1, 1)
    clock.now += 60.0
    desk.ask(OPINION, at(60_000.0), Params())
    assert woken.acquire(timeout=30)
    assert asked(remote) == 2
    (event,) = desk.take(T)
    assert isinstance(event, OpinionGiven)
    assert event.asked_at == T + 60_000.0
    desk.stop()


def test_desk_asks_by_itself_once_it_may() -> None:
    """Nobody has to ask again."""
    desk, woken = desk_of(seat("a", GOOD), debounce_sec=0.15)
    desk.ask(OPINION, at(0), Params())
    assert woken.acquire(timeout=30)
    desk.ask(OPINION, at(1), Params())
    assert woken.acquire(timeout=30)
    assert desk.worker().asked == 2
    desk.stop()


class Broken:
    """A model that breaks its promise never to raise."""

    def ask(self, system: str, question: str) -> Answer:
        raise ZeroDivisionError(HOSTILE)


def test_an_error_inside_is_an_opinion_in_error(caplog: pytest.LogCaptureFixture) -> None:
    """The thread lives on, and no text of it is told."""
    broken = Seat(seat("a", GOOD, base_url=LOCAL).panelist, Broken())
    desk, woken = desk_of(broken)
    for _ in range(2):
        for action in (OPINION, COUNCIL):
            desk.ask(action, at(0), Params())
            assert woken.acquire(timeout=30)
        opinion, council = desk.take(T)
        assert isinstance(opinion, OpinionGiven)
        assert opinion.opinion == Opinion(error="internal")
        assert isinstance(council, CouncilHeld)
        assert council.council == Council(action=None, why="an error inside")
    assert "script" not in caplog.text
    desk.stop()


def test_inline_advisor_tells_after_its_latency() -> None:
    """In simulated time, in order, and the same each time."""

    def run() -> list[Any]:
        own = advisor(seat("a", GOOD, FAILED, GOOD, base_url=LOCAL))
        inline = InlineAdvisor(own, facts=facts, latency_sec=20.0, debounce_sec=60.0)
        told: list[Any] = [inline.next_time()]
        for action, now in ((OPINION, 0), (OPINION, 5), (COUNCIL, 10)):
            inline.ask(action, at(now), Params())
        told += [inline.next_time(), inline.take(T + 19.9), inline.take(T + 26), inline.next_time()]
        return [*told, inline.take(T + 30), inline.next_time(), inline.worker()]

    none, first, nothing, early, second, late, over, worker = run()
    assert (none, first, nothing, second, over) == (None, T + 20, (), T + 30, None)
    assert [(x.asked_at, x.time, x.opinion.error) for x in early] == [
        (T, T + 26, ""), (T + 5, T + 26, "timeout"),
    ]  # fmt: skip
    assert [type(x) for x in late] == [CouncilHeld]
    assert (worker.asked, worker.waiting, worker.replaced) == (3, 0, 0)
    assert run() == run()


def test_inline_advisor_does_not_flood_other_machines() -> None:
    """A year in a minute is one question."""
    clock, remote = Clock(), seat("a", GOOD)
    inline = InlineAdvisor(
        advisor(remote), facts=facts, latency_sec=0.0, debounce_sec=60.0, monotonic=clock
    )
    for number in range(100):
        inline.ask(OPINION, at(number * 300.0), Params())
    assert asked(remote) == 1
    clock.now += 60.0
    inline.ask(OPINION, at(40_000.0), Params())
    assert asked(remote) == 2
