"""The six Kelly views: asked by HTTP of a real dashboard over a real database."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.interval import wilson
from core.kelly import BankrollFacts, KellyConfig, KellyResult, KellyState, sizing
from core.params import Params
from core.record import replace
from core.state import BotState
from dashboard import Dashboard
from engine.publish import Published
from engine.status_view import build_status
from grid.kelly import facts_of
from store.history import SqliteHistory
from tests.helpers import write_candles
from tests.test_kelly_sizing import GOOD, KELLY_PARAMS
from tests.test_models import running
from tests.test_status import sample_facts, sample_state
from web.kelly_views import KELLY_VIEWS, health, performance, recommendations

NAMES = (
    "current-recommendations", "performance-metrics", "risk-status", "service-health", "history",
    "config",
)  # fmt: skip


def status_of(state: BotState, params: Params) -> dict[str, Any]:
    """Return the status as it is published."""
    made: dict[str, Any] = json.loads(
        msgspec.json.encode(build_status(state, params, sample_facts()))
    )
    return made


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a run over a replay with Kelly on, its market ended, its files open."""
    folder = tmp_path_factory.mktemp("kelly")
    write_candles(folder / "candles.csv", bars=1300, seed=5)
    with running(
        folder / "a", REPLAY_FILE=str(folder / "candles.csv"), KELLY_ENABLED="true",
        KELLY_MIN_SAMPLES="5", KELLY_MIN_REGIME_SAMPLES="2", HMM_ENABLED="false",
    ) as run:  # fmt: skip
        assert run.go_on() == "ended"
        yield run


class Asked:
    """A dashboard that answers from a run's status and files."""

    def __init__(self, run: Any, params: Params) -> None:
        body = msgspec.json.encode(build_status(run.runtime.state, params, sample_facts()))
        published = Published(body=body, gzip_body=b"", etag="x", version=1)
        self.app = Dashboard(
            "127.0.0.1", 0, token=None, read_only=False, allowed_hosts=(),
            published=lambda: published, readiness=lambda: None, liveness=lambda: True,
            submit=lambda *_: None, history=SqliteHistory(run.settings.state_db),
            monotonic=lambda: 0.0,
        )  # fmt: skip
        self.app.start()

    def get(self, name: str) -> dict[str, Any]:
        """Return one view."""
        url = f"http://127.0.0.1:{self.app.port}/api/kelly/{name}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found


@pytest.fixture(name="asked")
def make_asked(run: Any) -> Iterator[Asked]:
    """Serve the run."""
    made = Asked(run, run.runtime.params)
    yield made
    made.app.stop()


def test_every_view_answers(asked: Asked) -> None:
    """Six views, JSON, no number that is none; others are not found."""
    assert set(KELLY_VIEWS) == set(NAMES)
    for name in NAMES:
        json.dumps(asked.get(name), allow_nan=False)
    for wrong in ("secrets", "config/x", "performance-metrics?window_days=0", "history?limit=x"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked.get(wrong)
        assert refused.value.code in (400, 404)


def test_recommendations_have_sides_and_regimes(asked: Asked, run: Any) -> None:
    """p with its interval by side, what sizes make of it, and when that was."""
    found = asked.get("current-recommendations")
    assert found["as_of"] == run.runtime.state.kelly.heard_at
    pairs = {(x["side"], x["regime"]) for x in found["recommendations"]}
    assert len(pairs) == 8
    total = next(
        x for x in found["recommendations"] if (x["side"], x["regime"]) == ("buy", "aggregate")
    )
    cycles = [x for x in run.parts.store.recent_cycles(500) if x["trade_id"] == "B"]
    assert total["n"] == len(cycles) > 0
    low, high = total["p_interval"]
    assert 0 <= low <= total["p"] <= high <= 1
    assert 0.5 <= total["multiplier"] <= 2.0
    assert total["reason"] == run.runtime.state.kelly.results["aggregate"].reason


class NoCycles:
    """A history without cycles."""

    def __init__(self, params: Params) -> None:
        self._params = params.to_dict()

    def kelly_params(self) -> dict[str, Any]:
        """Return the parameters."""
        return self._params

    def recent_cycles(self, _limit: int) -> list[dict[str, Any]]:
        """Return none."""
        return []


@pytest.mark.parametrize("mode", ["tilt", "bankroll"])
@pytest.mark.parametrize("share", [0.25, 0.0001])
def test_a_recommendation_is_the_size_that_would_be_made(mode: str, share: float) -> None:
    """A regime with too few cycles is sized by all of them, a share of equity with its cap."""
    bankroll = BankrollFacts(
        n_effective=40.0, mean_return=0.01, growth=0.01, f_raw=9.0, f_slot=3.0, p_low=None,
        structural_loss=None, censored=0, censored_share=0.0,
    )  # fmt: skip
    total = replace(GOOD, bankroll=bankroll) if mode == "bankroll" else GOOD
    few = replace(GOOD, n_total=2, sufficient_data=False, reason="insufficient_samples")
    results = {"bullish": few, "aggregate": total}
    state = replace(sample_state(), kelly=KellyState(results=results))
    kelly = replace(KELLY_PARAMS.kelly, mode=mode, max_equity_share=share)
    params = replace(KELLY_PARAMS, kelly=kelly)
    facts = facts_of(state, params)
    assert facts is not None
    base = float(params.order_size_usd)
    made = sizing(results, "bullish", kelly, base_usd=base, bank=facts.bank)
    told = recommendations(status_of(state, params), NoCycles(params))["recommendations"]
    row = next(x for x in told if x["regime"] == "bullish")
    assert row["multiplier"] == pytest.approx(made.multiplier, abs=1e-6)
    assert (row["sized_by"], row["reason"]) == ("aggregate", "insufficient_samples")
    assert (made.multiplier < 0.5) is (mode == "bankroll" and share < 0.25)


def test_performance_is_told_on_the_same_cycles(asked: Asked, run: Any) -> None:
    """What the multipliers have added, against what the same cycles bring at base size."""
    found = asked.get("performance-metrics?window_days=3650")
    rows = run.parts.store.export()["cycles"]
    assert found["cycles"] + found["cycles_without_kelly"] == len(rows) > 5
    net = sum(float(x["net_profit"]) for x in rows)
    assert found["net_usd"] == pytest.approx(net, abs=1e-3)
    difference = found["net_usd"] - found["net_at_base_usd"]
    assert found["difference_usd"] == pytest.approx(difference, abs=1e-3)
    low, high = found["difference_interval_usd"]
    assert low <= found["difference_usd"] <= high
    # Nearly all closed cycles are won: larger sizes look better, and that is no verdict.
    assert sum(float(x["net_profit"]) < 0 for x in rows) < 5
    assert found["verdict"] == "cannot tell"


class Rows:
    """A history of cycles at twice their base size."""

    def __init__(self, *nets: float) -> None:
        chain = [
            {"stage": "layers", "amount_usd": "40", "reason": ""},
            {"stage": "kelly", "amount_usd": "80", "reason": "kelly_aggregate(f=1,m=2)"},
        ]
        self.rows = [{"net_profit": str(x), "exit_time": 0.0, "chain": chain} for x in nets]
        self.since = 0.0

    def sized_cycles(self, since: float) -> list[dict[str, Any]]:
        """Return all of them."""
        self.since = since
        return self.rows


@pytest.mark.parametrize(
    ("nets", "verdict"),
    [
        ([1.0] * 40, "cannot tell"), ([1.0] * 40 + [-1.0] * 4, "cannot tell"),
        ([1.0] * 40 + [-1.0] * 5, "better"), ([-1.0] * 40 + [1.0] * 5, "worse"),
        ([1.0, -1.0] * 20, "not distinguishable"), ([], "cannot tell"),
    ],
)  # fmt: skip
def test_a_verdict_needs_cycles_of_both_kinds(nets: list[float], verdict: str) -> None:
    """Half of each profit is Kelly's; the interval decides."""
    history = Rows(*nets)
    found = performance({"bot": {"now": 1e9}}, history, 10)
    assert (found["verdict"], found["cycles"]) == (verdict, len(nets))
    assert found["difference_usd"] == pytest.approx(sum(nets) / 2)
    assert history.since == 1e9 - 864_000


def test_risk_health_and_configuration(asked: Asked) -> None:
    """Bounds and their use, computed health, and the settings in force."""
    caps = asked.get("risk-status")
    assert (caps["caps"]["floor_mult"], caps["caps"]["ceiling_mult"]) == (0.5, 2.0)
    assert caps["caps"]["max_order_usd"] == "200"
    assert 0 < caps["use"]["share_of_equity"] < 1
    assert asked.get("service-health")["problems"] == [
        "the models are off: the aggregate alone counts"
    ]
    config = asked.get("config")
    assert (config["enabled"], config["min_samples_total"]) == (True, 5)
    assert KellyConfig.from_dict(config).regime_labels == {
        0: "bearish", 1: "ranging", 2: "bullish",
    }  # fmt: skip


def test_history_has_each_change_of_a_verdict(asked: Asked) -> None:
    """Newest first, in words."""
    rows = asked.get("history?limit=50")["history"]
    assert [x["time"] for x in rows] == sorted((x["time"] for x in rows), reverse=True)
    assert {x["name"] for x in rows} >= {"aggregate"}
    assert rows[-1]["detail"].startswith("insufficient_samples after no_data: ")


def test_off_says_so_everywhere() -> None:
    """Without Kelly nothing is recommended, and health is off."""
    told = health(status_of(sample_state(), Params()))
    assert (told["state"], told["problems"]) == ("off", [])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"heard_at": None}, "the sizer has not been heard of yet"),
        ({"due": 1.0}, "the sizer is late"),
    ],
)
def test_health_says_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    """A sizer that was not heard of, or is late."""
    state = sample_state()
    kelly = KellyState(due=state.now + 10, heard_at=state.now - 5, results={"aggregate": GOOD})
    told = health(status_of(replace(state, kelly=replace(kelly, **changes)), KELLY_PARAMS))
    assert told["state"] == "degraded"
    assert problem in told["problems"]


def test_the_interval_of_a_share_is_wilsons() -> None:
    """24 of 30: 0.6269 to 0.9049; nothing of nothing."""
    assert wilson(0.8, 30) == [0.6269, 0.905]
    assert wilson(1.0, 10)[1] == 1.0
    assert wilson(0.5, 0) is None


def test_views_may_be_asked_from_many_threads(asked: Asked) -> None:
    """Each thread reads on a connection of its own."""
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            for name in NAMES:
                asked.get(name)
        except (OSError, AssertionError) as error:
            problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_results_of_any_kind_are_finite() -> None:
    """What is no number is told as 0."""
    odd = KellyResult(f_star=float("inf"), edge=float("nan"))
    assert (odd.to_dict()["f_star"], odd.to_dict()["edge"]) == (0.0, 0.0)


def test_a_database_without_a_state_has_no_parameters(tmp_path: Path, run: Any) -> None:
    """The views read what is in force; a run has them all."""
    params = SqliteHistory(run.settings.state_db).kelly_params()
    assert params["kelly_enabled"] is True
    assert params["kelly"]["kelly_fraction"] == 0.25
