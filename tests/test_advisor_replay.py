"""The advisor over long replays: a coin is right half of the time, and changes nothing.

What is expected of the score is computed here from the rows of the database, with other code.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ai_advisor import Panelist, RegimeAdvisor, Seat
from core.ports import Answer
from engine.advisor import InlineAdvisor
from engine.advisor_context import ContextFacts
from engine.advisor_view import AdvisorFacts, advisor_block
from tests.helpers import market_file, write_candles
from tests.test_models import Run, running

HOUR = 3600.0
LOCAL = Panelist(
    name="coin", model="coin", base_url="http://127.0.0.1:1/v1", key_name="KEY", needs_key=False
)


class Coin:
    """A model that throws a coin for long or short, seeded."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)

    def ask(self, system: str, question: str) -> Answer:
        """Return an opinion, whatever the question."""
        said = {
            "recommended_tier": 1, "recommended_direction": self._rng.choice(
                ["long_bias", "short_bias"]
            ),
            "conviction": 60, "rationale": "a coin",
        }  # fmt: skip
        return Answer(text=json.dumps(said))


@contextmanager
def thrown(folder: Path, file: Path, *, seed: int | None = 1, **more: str) -> Iterator[Run]:
    """Yield a run to the end of the file, with a coin for an advisor; seed None: without."""
    env = {
        "REPLAY_FILE": str(file), "HMM_ENABLED": "false", "REGIME_MANUAL_OVERRIDE": "BULLISH",
        "AI_REGIME_ADVISOR_ENABLED": str(seed is not None).lower(),
        "PAPER_MAKER_FEE_PCT": "0.4", "PAPER_TAKER_FEE_PCT": "0.8",
    }  # fmt: skip
    with running(folder, **{**env, **more}) as run:
        if seed is not None:
            advisor = RegimeAdvisor((Seat(LOCAL, Coin(seed)),), monotonic=lambda: 0.0)
            run.runtime.advisor = InlineAdvisor(
                advisor, facts=lambda _: ContextFacts(), latency_sec=5.0, debounce_sec=0.0
            )
        assert run.go_on() == "ended"
        yield run


def outcomes(run: Run) -> list[dict[str, Any]]:
    """Return the stored opinions."""
    with sqlite3.connect(run.settings.state_db) as db:
        db.row_factory = sqlite3.Row
        return [dict(x) for x in db.execute("SELECT * FROM opinions ORDER BY id")]


def outcome(direction: str, change: Decimal, least: Decimal) -> str:
    """Return what a direction was worth, by the table of the document."""
    moved = "up" if change > least else "down" if change < -least else ""
    right = {"long_bias": "up", "short_bias": "down", "symmetric": ""}[direction]
    if moved == right:
        return "right"
    return "wrong" if moved else "inside"


def check_score(run: Run) -> dict[str, Any]:
    """Compare score and stored outcomes with what prices say; return the advisor's tally."""
    fee = run.runtime.state.fees.maker
    least = ((1 + fee) / (1 - fee) - 1) * 100
    rows = [x for x in outcomes(run) if x["scored_at"] is not None]
    tallies: dict[str, Counter[str]] = {"advised": Counter(), "mechanical": Counter()}
    windows = {"advised": 0, "mechanical": 0}
    for voice, said in (("advised", "recommended_direction"), ("mechanical",) * 2):
        column = said if voice == "advised" else "mechanical_direction"
        window_at = None
        for row in rows:
            assert 0 <= row["scored_at"] - row["time"] - HOUR <= 120
            change = (Decimal(row["price_after"]) / Decimal(row["price"]) - 1) * 100
            found = outcome(row[column], change, least)
            assert row[f"{voice}_outcome"] == found
            tallies[voice][found] += 1
            if found != "inside" and (window_at is None or row["time"] - window_at >= HOUR):
                windows[voice], window_at = windows[voice] + 1, row["time"]
    shown = advisor_block(run.runtime.state, run.settings.params, AdvisorFacts()).score
    assert shown.count == len(rows)
    for voice, tally in tallies.items():
        own = getattr(shown, voice)
        assert {x: getattr(own, x) for x in ("right", "wrong", "inside")} == {
            x: tally[x] for x in ("right", "wrong", "inside")
        }
        assert own.windows == windows[voice]
    return dict(shown.advised.to_dict())


def walk(folder: Path, bars: int, seed: int) -> Path:
    """Return a file of a random walk."""
    path = folder / "walk.csv"
    write_candles(path, bars=bars, seed=seed)
    return path


@pytest.mark.slow
def test_a_coin_is_right_half_of_the_time(tmp_path: Path) -> None:
    """Two days of a walk that moves: the interval covers one half, and is wide."""
    with thrown(tmp_path / "a", walk(tmp_path, 2880, 7)) as run:
        own = check_score(run)
    assert own["right"] + own["wrong"] > 200
    assert own["low"] < 0.5 < own["high"]
    assert own["high"] - own["low"] > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("directional", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_an_advisor_that_nobody_follows_changes_nothing(tmp_path: Path, directional: str) -> None:
    """Orders, executions, cycles and the ledger are those of a run without it, to the byte."""
    file = walk(tmp_path, 1440, 3)
    seen = []
    for name, seed in (("with", 5), ("without", None)):
        more = {"REGIME_DIRECTIONAL_ENABLED": directional}
        with thrown(tmp_path / name, file, seed=seed, **more) as run:
            seen.append(run.parts.store.export())
            asked = len(outcomes(run))
            assert (asked > 200) == (seed is not None)
    assert seen[0] == seen[1]
    assert seen[0]["cycles"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_coin_over_the_recorded_market(tmp_path: Path, seed: int) -> None:
    """Seventy-four days of 1 min candles with their own jumps: near one half, covered."""
    file = market_file("binance_dogeusdt_1m_20210402_20210615.csv.gz")
    with thrown(tmp_path / "a", file, seed=seed, SLOT_COUNT="1") as run:
        own = check_score(run)
    print(f"coin {seed}: {own}")  # noqa: T201 - a long test says what it saw
    assert own["right"] + own["wrong"] > 5000
    assert own["low"] < 0.5 < own["high"]
    assert abs(own["hit_rate"] - 0.5) < 0.03
