"""Every point of input and output of one scenario, each with a crash, each with every outcome.

A scripted life is lived once to count its calls. Then each call is given each outcome it can have
(good, lost before or after, late, refused, ...), and the process dies at each point between that
call and the next: before it is sent, after its answer, before and after each commit. All ends well
each time, by the judge of the storm (`storm_oracle.py`).
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.commands import Command, Pause, Resume
from core.record import Record
from sim.storm_line import befalls
from sim.storm_run import SHARED_MEMORY, quiet, verdict
from sim.storm_weather import REQUESTS, Weather
from sim.storm_world import World

SEED, SECONDS = 3, 80.0
# By the clock of the exchange, from the beginning: everything but what the market does.
SCRIPT: tuple[tuple[float, Command | str], ...] = (
    (35.0, Pause()), (42.0, Resume()), (60.0, "restart"),
)  # fmt: skip
OUTCOMES = ("", *(x for x in REQUESTS if x not in ("slow", "shuffled", "page_shift", "lockout")))
GOOD = "good"
HOWS = ("crash", "torn_write", "power_cut")
_CASE = re.compile(
    rf"([0-9]{{1,6}}):({'|'.join((GOOD, *OUTCOMES[1:]))})(?::([0-9]{{1,6}}):({'|'.join(HOWS)}))?"
)
SCENE = Weather(
    poll_sec=15.0, price_sec=5.0, candle_sec=2.0, step_pct=0.3, has_ledger=True,
    env={"SLOT_COUNT": "1", "PAIR_ENTRY_PCT": "0.3", "PAIR_PROFIT_PCT": "1.0",
         "ORDER_SIZE_USD": "12", "HMM_ENABLED": "false", "KELLY_ENABLED": "false",
         "PAUSE_POLICY": "withdraw"},
)  # fmt: skip


class Case(Record, frozen=True, kw_only=True):
    """What befalls the scene: call number `call` (from 1) has `outcome`, "" is a good one.

    The process dies `how` at point number `point` (from 0) after that call's beginning; None: not.
    """

    call: int
    outcome: str = ""
    point: int | None = None
    how: str = "crash"

    def __str__(self) -> str:
        end = "" if self.point is None else f":{self.point}:{self.how}"
        return f"{self.call}:{self.outcome or GOOD}{end}"


def case_of(text: str) -> Case:
    """Return the case that a text names, as in 17:lost_response:3:crash. Raises ValueError."""
    found = _CASE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no case: CALL:OUTCOME or CALL:OUTCOME:POINT:HOW; OUTCOME is {GOOD} or "
            f"one of {', '.join(OUTCOMES[1:])}; HOW is one of {', '.join(HOWS)}"
        )
    call, outcome, point, how = found.groups()
    outcome = "" if outcome == GOOD else outcome
    if point is None:
        return Case(call=int(call), outcome=outcome)
    return Case(call=int(call), outcome=outcome, point=int(point), how=how)


class Lived(Record, frozen=True, kw_only=True):
    """What became of a case: methods of the scene's calls, points after its own, and wrongs."""

    case: Case
    calls: tuple[str, ...]
    points: tuple[str, ...]
    wrongs: tuple[str, ...]


class Scripted(World):
    """The scene, in which one case happens."""

    def __init__(self, case: Case, *, folder: Path) -> None:
        self.calls: list[str] = []
        self.points: list[str] = []
        self._case, self._script = case, list(SCRIPT)
        super().__init__(SEED, SCENE, folder=folder)
        self._began = self.clock.there()

    def next_time(self) -> float:
        """Return when the world, or the script, has something."""
        due = super().next_time()
        if not self._script:
            return due
        return min(due, self._began + self._script[0][0] - self.clock.offset)

    def pass_(self) -> None:
        """Let happen what is due by the script, and around the daemon."""
        while self._script and self.clock.there() >= self._began + self._script[0][0]:
            _, act = self._script.pop(0)
            if isinstance(act, str):
                self.loop.stop()
            else:
                self.events.command(act)
        super().pass_()

    def _watch_call(self, method: str, params: Mapping[str, object]) -> None:
        super()._watch_call(method, params)
        if self.clock.there() < self._began + SECONDS:
            self.calls.append(method)
        is_it = self.line.count == self._case.call and self._case.outcome
        self.line.weather = Weather(rates={self._case.outcome: 1.0} if is_it else {})

    def _dies(self, name: str) -> str | None:
        if self.line.count != self._case.call:
            return None
        self.points.append(name)
        return self._case.how if len(self.points) - 1 == self._case.point else None


def live_through(case: Case) -> Lived:
    """Live through the scene with one case, let all come to rest, and judge."""
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with quiet(), tempfile.TemporaryDirectory(prefix="points-", dir=folder) as name:
        world = Scripted(case, folder=Path(name))
        wrongs = verdict(world, SECONDS, calm_sec=60.0, still_sec=150.0)
    return Lived(
        case=case, calls=tuple(world.calls), points=tuple(world.points), wrongs=tuple(wrongs)
    )


def outcomes(method: str) -> list[str]:
    """Return what can come of a call of that method."""
    return [x for x in OUTCOMES if not x or befalls(x, method)]


def deaths(lived: Lived) -> Iterator[Case]:
    """Yield the case with a death at each point after its call.

    After a good call the disk loses something as well: the last write, or what was not synced.
    """
    for place, name in enumerate(lived.points):
        if lived.case.outcome and place == 0:
            continue  # the call has not been sent yet: nothing comes of it
        is_written = not lived.case.outcome and name.startswith("after step")
        for how in HOWS if is_written else HOWS[:1]:
            yield Case(call=lived.case.call, outcome=lived.case.outcome, point=place, how=how)


def cases() -> list[Case]:
    """Return each call of the scene with each outcome it can have."""
    scene = live_through(Case(call=0))
    return [Case(call=n, outcome=x) for n, method in enumerate(scene.calls, 1)
            for x in outcomes(method)]  # fmt: skip


def around(case: Case) -> list[Lived]:
    """Return what becomes of one outcome of one call, alone and with each death after it."""
    alone = live_through(case)
    return [alone, *map(live_through, deaths(alone))]
