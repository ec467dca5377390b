"""The daemon with a model server beside it: opinions, an override, a kill, a server in trouble."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import write_candles
from tests.llm_server import HOSTILE, SILENT, LlmServer, advice, chat, status
from tests.test_daemon import ROOT, Running, environment

pytestmark = pytest.mark.slow

KEY = "sk-local-0123456789abcdef"
HIGH = {"recommended_tier": 2, "recommended_direction": "long_bias"}


class Model:
    """What the server answers, changed as a test goes on."""

    def __init__(self) -> None:
        self.manner = chat(advice(**HIGH))

    def __call__(self, line: socket.socket, stop: threading.Event) -> bool:
        return self.manner(line, stop)


def env_of(folder: Path, server: LlmServer, **more: str) -> dict[str, str]:
    """Return a daemon's environment: tier 2 by the operator's word, asked every half second."""
    file = folder / "candles.csv"
    if not file.exists():
        write_candles(file, bars=3000, seed=3)
    return environment(
        folder, MARKET_DATA="replay", REPLAY_FILE=str(file), REPLAY_SPEED="60", LOG_LEVEL="WARNING",
        REGIME_MANUAL_OVERRIDE="BULLISH", REGIME_DIRECTIONAL_ENABLED="true",
        AI_REGIME_ADVISOR_ENABLED="true", AI_BASE_URL=server.base_url, AI_MODEL="local",
        AI_API_KEY=KEY, AI_REGIME_INTERVAL_SEC="30", AI_REGIME_DEBOUNCE_SEC="30", **more,
    )  # fmt: skip


def until(daemon: Running, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first block of which it is so; the tier in effect stands in it too."""
    deadline = time.monotonic() + 30
    while True:
        shown = daemon.get("/api/status").json()
        own = shown["ai_regime_advisor"] | {"in_effect": shown["regime_directional"]}
        if "opinion" in own and is_so(own):
            return dict(own)
        assert time.monotonic() < deadline, own
        time.sleep(0.05)


def stands(mechanical: int, effective: int) -> Callable[[dict[str, Any]], bool]:
    """Return a condition on both tiers."""
    return lambda x: (
        (x["in_effect"]["tier_mechanical"], x["in_effect"]["tier_effective"])
        == (mechanical, effective)
    )


def test_an_override_from_apply_to_expiry_with_a_kill_between(tmp_path: Path) -> None:
    """Agrees, disagrees, refused, applied, killed, still there, reverted, applied, expired."""
    model = Model()
    with LlmServer(model) as server:
        env = env_of(tmp_path, server)
        daemon = Running(env)
        daemon.wait("/readyz")
        until(daemon, lambda x: x["state"] == "agrees" and x["mechanical"]["tier"] == 2)
        model.manner = chat(advice(rationale=HOSTILE, watch_for=HOSTILE))
        shown = until(daemon, lambda x: x["state"] == "disagrees")
        assert shown["opinion"]["agreement"] == "ai_downgrade"
        assert shown["opinion"]["rationale"].startswith("<img src=x onerror=alert(1)>")
        assert not {"\x1b", "\u202e"} & set(shown["opinion"]["rationale"])
        for ttl in (-1, 1e9, 3601, "NaN", True, None):
            answer = daemon.act(action="ai_regime_override", ttl_sec=ttl)
            assert answer.status_code == (200 if ttl is None else 400), (ttl, answer.text)
            assert ttl is None or answer.json()["field"] == "ttl_sec"
        assert answer.json()["message"] == "override applied: tier 1 long_bias for 1800 s"
        assert daemon.act(action="ai_regime_override").status_code == 409
        before = until(daemon, stands(2, 1))["override"]
        daemon.stop(signal.SIGKILL)

        daemon = Running(env)
        daemon.wait("/readyz")
        after = until(daemon, lambda x: x["override"]["active"])["override"]
        assert after["expires_at"] == before["expires_at"]
        assert daemon.act(action="ai_regime_revert").json()["message"] == "reverted to mechanical"
        until(daemon, stands(2, 2))
        assert daemon.act(action="ai_regime_revert").status_code == 409
        assert daemon.act(action="ai_regime_override", ttl_sec=60).status_code == 200
        done = until(daemon, lambda x: x["counters"]["expired"] == 1)
        assert not done["override"]["active"]
        assert done["history"][0]["agreement"] == "ai_downgrade"
        assert daemon.act(action="ai_regime_dismiss").status_code == 200
        assert daemon.get("/api/status").json()["bot"]["mode"] == "running"
        assert daemon.stop() == 0
        assert {x.headers["authorization"] for x in server.seen} == {f"Bearer {KEY}"}
    log = daemon.process.stderr.read() if daemon.process.stderr is not None else ""
    files = b"".join(x.read_bytes() for x in tmp_path.glob("bot*"))
    assert KEY not in log
    assert KEY.encode() not in files
    checked = subprocess.run(
        [sys.executable, "bot.py", "verify"], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_a_shop_that_is_shut_leaves_the_mechanical_tier_alone(tmp_path: Path) -> None:
    """500, then silence: the status says why, nothing can be applied, the daemon stops at once."""
    model = Model()
    model.manner = status(500)
    with LlmServer(model) as server:
        daemon = Running(env_of(tmp_path, server))
        daemon.wait("/readyz")
        shown = until(daemon, lambda x: x["state"] == "unavailable")
        assert shown["opinion"]["error"] == "http_500"
        answer = daemon.act(action="ai_regime_override")
        assert (answer.status_code, "http_500" in answer.text) == (409, True)
        resting = until(daemon, lambda x: x["providers"][-1]["state"] == "resting")
        assert resting["providers"][-1]["rests_sec"] > 3000
        assert [x["state"] for x in resting["providers"][:3]] == ["no_key"] * 3
        council = daemon.act(action="ai_council")
        assert council.status_code == 200
        shown = until(daemon, lambda x: x["council"]["votes"] != [])
        assert shown["council"]["action"] is None
        daemon.stop()

        model.manner = SILENT
        daemon = Running(env_of(tmp_path, server))
        daemon.wait("/readyz")
        until(daemon, lambda x: x["worker"]["is_asking"] and x["worker"]["replaced"] > 2)
        assert until(daemon, stands(2, 2))["worker"]["waiting"] <= 1
        assert daemon.stop() == 0
