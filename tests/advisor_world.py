"""Models and panels as tests of the advisor need them."""

from ai_advisor import Panelist, RegimeAdvisor, Seat
from core.ports import Answer

FAILED = Answer(error="timeout")
REMOTE, LOCAL = "https://models.example/v1", "http://127.0.0.1:8080/v1"
T = 1_760_000_000.0


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A model that gives answer after answer, the last one for all that follow."""

    def __init__(self, *answers: Answer | str, clock: Clock | None = None) -> None:
        self.answers = [x if isinstance(x, Answer) else Answer(text=x) for x in answers]
        self.asked: list[tuple[str, str]] = []
        self._clock = clock

    def ask(self, system: str, question: str) -> Answer:
        self.asked.append((system, question))
        if self._clock is not None:
            self._clock.now += 2.0
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def seat(name: str, *answers: Answer | str, base_url: str = REMOTE) -> Seat:
    """Return a panelist with a scripted model; without answers its key is missing."""
    own = Panelist(name=name, model=f"{name}-1", base_url=base_url, key_name="KEY")
    return Seat(own, Scripted(*answers) if answers else None)


def asked(one: Seat) -> int:
    """Return how often a scripted model was asked."""
    assert isinstance(one.llm, Scripted)
    return len(one.llm.asked)


def advisor(*seats: Seat, clock: Clock | None = None) -> RegimeAdvisor:
    """Return an advisor over these seats."""
    return RegimeAdvisor(seats, clock or Clock())
