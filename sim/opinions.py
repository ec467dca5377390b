"""Recorded opinions told again: what the advisor said, scored anew, and what following it does.

An opinion is an event at the time at which it came; nobody is asked. The advisor acts on nothing:
whoever follows it is an operator, here one who applies each override that may be applied, at once.
"""

import re
import sqlite3
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from config import Settings
from core.actions import RequestOpinion
from core.advice import Opinion
from core.advisor_status import ProviderBlock, WorkerBlock
from core.commands import AiRegimeOverride
from core.events import CommandReceived, OpinionGiven
from core.params import Params
from core.ports import MarketError
from core.record import replace
from core.state import BotState
from engine.runtime import Runtime
from grid.advice import offered
from grid.regimes import is_on
from sim.tables import day

_QUERY = (
    "SELECT time, asked_at, cause, panelist, error, recommended_tier, recommended_direction, "
    "conviction, rationale, watch_for, suggested_ttl_minutes FROM opinions ORDER BY id"
)


class Told(NamedTuple):
    """The opinions of a database that lie within a market's time, oldest first."""

    opinions: tuple[OpinionGiven, ...]
    left_out: int  # before its beginning or after its end


def recorded(file: Path, start: float, end: float) -> Told:
    """Return the opinions in a bot's database that came from `start` to `end`.

    Raises MarketError where the file is none, or has none of that time.
    """
    if not file.is_file():
        raise MarketError(f"--opinions {file}: there is no such file; give a bot's database")
    try:
        with closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True)) as db:
            rows = db.execute(_QUERY).fetchall()
    except sqlite3.Error as error:
        raise MarketError(f"--opinions {file}: not a bot's database: {error}") from None
    found = [_event(row) for row in rows]
    if not found:
        raise MarketError(f"--opinions {file}: there are no opinions in this database")
    inside = tuple(x for x in found if start <= x.time <= end)
    if not inside:
        times = [x.time for x in found]
        raise MarketError(
            f"--opinions {file}: its {len(found)} opinions came from {day(min(times))} to "
            f"{day(max(times))}, and the data go from {day(start)} to {day(end)} UTC; opinions "
            "belong to the market that they were given on"
        )
    return Told(inside, len(found) - len(inside))


def advised(settings: Settings) -> Settings:
    """Return the settings with the advisor on. Raises MarketError where there is no regime."""
    if not is_on(settings.params):
        raise MarketError(
            "--opinions: an opinion is one on the regime, and there is none: "
            "--set HMM_ENABLED=true; to see what following it does, also "
            "--set REGIME_DIRECTIONAL_ENABLED=true"
        )
    advice = replace(settings.params.advice, enabled=True)
    return replace(settings, params=replace(settings.params, advice=advice))


def _event(row: tuple) -> OpinionGiven:  # type: ignore[type-arg]  # as SQLite gives it
    time, asked_at, cause, panelist, error, tier, direction, conviction, why, watch, ttl = row
    return OpinionGiven(
        time=time, asked_at=asked_at, trigger=cause,
        opinion=Opinion(
            recommended_tier=tier, recommended_direction=direction, conviction=conviction,
            rationale=why, watch_for=watch, suggested_ttl_minutes=ttl, panelist=panelist,
            error=error or "",
        ),
    )  # fmt: skip


class RecordedAdvisor:
    """The port of an advisor whose answers are known; questions go nowhere."""

    def __init__(self, opinions: Sequence[OpinionGiven]) -> None:
        self._left = deque(opinions)

    def ask(self, action: RequestOpinion, state: BotState, params: Params) -> None:
        """Ask nobody."""

    def next_time(self) -> float | None:
        """Return when the next recorded opinion came."""
        return self._left[0].time if self._left else None

    def take(self, to: float) -> tuple[OpinionGiven, ...]:
        """Return, once, what came by `to`."""
        due = []
        while self._left and self._left[0].time <= to:
            due.append(self._left.popleft())
        return tuple(due)

    def providers(self) -> tuple[ProviderBlock, ...]:
        """There are none."""
        return ()

    def worker(self) -> WorkerBlock:
        """Nothing is asked."""
        return WorkerBlock(is_asking=False, waiting=0, asked=0, replaced=0)

    def stop(self) -> None:
        """There is nothing to stop."""


class Follower:
    """An operator who applies each new opinion's override at once, where the rails allow it."""

    def __init__(self) -> None:
        self.refusals: dict[str, int] = {}  # why, and how often; the first rail that refused
        self._seen = 0

    def look(self, runtime: Runtime) -> None:
        """Apply what the newest opinion offers, once."""
        state = runtime.state
        if state.advice.opinions == self._seen:
            return
        self._seen = state.advice.opinions
        made, why = offered(state, runtime.params)
        if made is None or why is not None:
            rail = re.sub(r"\d[\d.]*", "…", re.split(r"[;(]", why or "")[0]).strip()
            self.refusals[rail] = self.refusals.get(rail, 0) + 1
            return
        name = f"follow-{self._seen}"
        runtime.step(CommandReceived(time=state.now, command_id=name, command=AiRegimeOverride()))
