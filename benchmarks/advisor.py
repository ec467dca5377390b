"""Benchmark of the advisor: does the loop feel a provider that answers, is slow, hangs or floods?

`python -m benchmarks.advisor [SECONDS]` runs one loop with 30 slots on a fast market for so long
with each kind of provider, first without any. The provider is an HTTP server in a process of its
own; the advisor is asked several times a second, far more often than any operator would.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.busy import Busy
from benchmarks.regimes import lateness

PHASE_SEC, SETTLE_SEC = 15.0, 5.0
SPEED = 60.0  # times real time: a question each half second
SLOW_SEC, HANG_SEC = 5.0, 60.0
ANSWERS, SLOW, HANGS, FLOODS = "answers", "slow", "hangs", "floods"
PHASES = (
    (ANSWERS, "answers at once"), (SLOW, f"answers after {SLOW_SEC:g} s"),
    (HANGS, f"hangs {HANG_SEC:g} s"), (FLOODS, "answers with 10 MB"),
)  # fmt: skip
FLOOD = 10_000_000


class _Model(BaseHTTPRequestHandler):
    """Speaks the chat protocol in the manner that its path names."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer a question."""
        self.rfile.read(int(self.headers["Content-Length"]))
        manner = self.path.split("/")[1]
        time.sleep({SLOW: SLOW_SEC, HANGS: HANG_SEC}.get(manner, 0.0))
        said = {
            "recommended_tier": 1, "recommended_direction": "long_bias", "conviction": 60,
            "rationale": "x" * (FLOOD if manner == FLOODS else 200),
        }  # fmt: skip
        message = {"role": "assistant", "content": json.dumps(said)}
        body = json.dumps({"choices": [{"message": message}]}).encode()
        with suppress(OSError):  # asked so long ago that nobody listens
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _serve(told: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    server.daemon_threads = True
    told.send(server.server_address[1])
    server.serve_forever()


def advisor(folder: Path, seconds: float = PHASE_SEC) -> str:
    """Measure the loop's lateness, and what became of the questions, with each kind of provider."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    try:
        lines = [_phase(folder / "none", seconds, "no advisor", {})]
        for manner, words in PHASES:
            env = {
                "AI_REGIME_ADVISOR_ENABLED": "true", "AI_REGIME_INTERVAL_SEC": "30",
                "AI_REGIME_DEBOUNCE_SEC": "30", "AI_MODEL": "local",
                "AI_BASE_URL": f"http://127.0.0.1:{port}/{manner}",
            }  # fmt: skip
            lines.append(_phase(folder / manner, seconds, words, env))
    finally:
        server.terminate()
    return "lateness of a loop (required p99 ≤ 50 ms, none over 250 ms)\n" + "\n".join(lines)


def _phase(folder: Path, seconds: float, words: str, env: dict[str, str]) -> str:
    regime = {"HMM_ENABLED": "false", "REGIME_MANUAL_OVERRIDE": "BULLISH"}
    bench = Busy(folder, {**regime, **env}, SPEED)
    try:
        time.sleep(SETTLE_SEC)
        first, waiting = len(bench.pacer.late), 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            desk = bench.runtime.advisor
            waiting = max(waiting, 0 if desk is None else desk.worker().waiting)
            time.sleep(0.01)
        line = f"  {words:<20} {lateness(bench.pacer.late[first:])}"
        if desk is None:
            return line
        worker, counters = desk.worker(), bench.runtime.state.counters
        return (
            f"{line}; asked {worker.asked}, replaced {worker.replaced}, waiting at most {waiting}, "
            f"opinions {counters.get('ai_opinions', 0)}, errors {counters.get('ai_errors', 0)}"
        )
    finally:
        bench.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(advisor(Path(place), float(sys.argv[1]) if sys.argv[1:] else PHASE_SEC))
