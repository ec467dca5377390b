"""`make bench`: the budgets that apply so far, measured on this machine.

Prints one line per budget: what, required, measured. Wall-clock figures depend on the machine; the
processor count is printed with them.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from statistics import median

import psutil

from benchmarks import backtest, regimes
from benchmarks.dashboard import dashboard
from benchmarks.replica import replica
from core import actions as a
from core import events as e
from core.domain import FeeRates, Instrument
from core.params import Params
from core.state import BotState
from engine.runtime import Runtime
from state_machine import reduce
from store.sqlite import SqliteStore

ROOT = Path(__file__).parent.parent
D = Decimal
START = 1_700_000_000.0


class _Silent:
    """An exchange that takes requests and says nothing."""

    def describe(self) -> None:
        """Not asked."""

    def obstacle(self, action: a.PlaceOrderAction, status: str) -> None:
        """Nothing keeps an order from leaving."""

    def place(self, action: a.PlaceOrderAction) -> None:
        """Take an order."""

    def cancel(self, action: a.CancelOrderAction) -> None:
        """Take a cancel."""

    def reconcile(self, action: a.RequestReconcile) -> None:
        """Take a question."""

    def listing(self) -> None:
        """Not asked."""


def _started(params: Params) -> e.Started:
    return e.Started(
        time=START, params=params, instrument=Instrument(),
        fees=FeeRates(maker=D("0.004"), taker=D("0.008")), bot_tag=1, store_epoch=2,
        code_version="bench",
    )  # fmt: skip


def _tick(at: float, bid: str) -> e.PriceTick:
    return e.PriceTick(time=at, bid=D(bid), ask=D(bid) + D("0.00005"), last=D(bid))


def _live(runtime: Runtime, slots: int) -> float:
    """Start a runtime with all entries resting; return its time."""
    params = Params(slot_count=slots, max_equity_share=D(1), recon_interval_sec=1e9,
                    stale_price_max_age_sec=1e9, slot_stagger_pct=D("0.1"))  # fmt: skip
    runtime.step(_started(params))
    runtime.step(e.BalancesReported(time=START, base=D(100_000), quote=D(10_000)))
    runtime.step(_tick(START, "0.1"))
    at = START
    for _ in range(slots + 5):
        at += 1
        for action in runtime.step(e.TimerTick(time=at)):
            if isinstance(action, a.PlaceOrderAction):
                order_id = action.order.client_order_id
                runtime.step(e.OrderAccepted(time=at, client_order_id=order_id, txid=order_id))
    return at


def quiet_tick(folder: Path) -> str:
    """Measure `reduce` on a quiet tick with ten slots."""
    runtime = Runtime(SqliteStore(folder / "q.db"), _Silent(), None)  # type: ignore[arg-type]  # a port
    at = _live(runtime, 10)
    state: BotState = runtime.state
    tick = _tick(at + 0.5, "0.10001")
    times = []
    for _ in range(20_000):
        began = time.perf_counter_ns()
        reduce(state, tick, runtime.params)
        times.append(time.perf_counter_ns() - began)
    return f"{median(times) / 1000:.1f} µs (required ≤ 20)"


def live_step(folder: Path) -> str:
    """Measure steps with 30 slots on SQLite, with and without an execution."""
    runtime = Runtime(SqliteStore(folder / "s.db"), _Silent(), None)  # type: ignore[arg-type]  # a port
    at = _live(runtime, 30)
    plain, filled = [], []
    for n in range(400):
        at += 1
        began = time.perf_counter()
        runtime.step(_tick(at, f"{0.1 + 0.0001 * (n % 7):.4f}"))
        runtime.step(e.TimerTick(time=at))
        plain.append(time.perf_counter() - began)
    for n, slot in enumerate(runtime.state.slots):
        order = slot.legs[1].state
        order = getattr(order, "order", None)
        if order is None:
            continue
        fill = e.FillEvent(
            time=at + n, client_order_id=order.client_order_id, txid="t", execution_id=f"b{n}",
            price=order.price, volume=order.remaining, cost=order.price * order.remaining,
            fee=D("0.1"), executed_at=at + n,
        )  # fmt: skip
        began = time.perf_counter()
        runtime.step(fill)
        filled.append(time.perf_counter() - began)
    p99 = sorted(plain)[int(len(plain) * 0.99)] * 1000
    worst = max(filled) * 1000
    return (
        f"price and timer p99 {p99:.1f} ms (required ≤ 20 a step); "
        f"with an execution worst of {len(filled)}: {worst:.1f} ms (required ≤ 40)"
    )


def _environment(folder: Path, **changes: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PORT": "0", "STATE_DB": str(folder / "bot.db"),
            "LOG_LEVEL": "INFO", **changes}  # fmt: skip


def first_order(folder: Path) -> str:
    """Measure from the start of the process to its first order."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "bot.py"], cwd=ROOT, env=_environment(folder), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "order placed" in line:
            break
    took = time.perf_counter() - began
    process.kill()
    return f"{took:.2f} s (required ≤ 5)"


def long_replay(folder: Path, **more: str) -> str:
    """Replay a week of 1 min candles at full speed; report throughput and memory."""
    from tests.helpers import write_candles  # noqa: PLC0415 - only this needs the tests

    bars = 7 * 1440
    write_candles(folder / "week.csv", bars=bars, seed=1)
    env = _environment(folder, MARKET_DATA="replay", REPLAY_FILE=str(folder / "week.csv"),
                       REPLAY_SPEED="max", SLOT_COUNT="30", SLOT_STAGGER_PCT="0.1",
                       LOG_LEVEL="ERROR", **more)  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "bot.py"], cwd=ROOT, env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    watched, sizes, cpu = psutil.Process(process.pid), [], 0.0
    while process.poll() is None:
        try:
            sizes.append(watched.memory_info().rss)
            cpu = watched.cpu_times().user + watched.cpu_times().system
        except psutil.NoSuchProcess:
            break
        time.sleep(0.2)
    fifth, end = sizes[len(sizes) // 5] / 2**20, sizes[-2] / 2**20
    return (
        f"{bars / cpu:,.0f} bars per CPU second; {fifth:.0f} MB at one fifth, {end:.0f} MB at the "
        "end, 30 slots (required ≤ 350 MB, within 5 %)"
    )


def long_replay_regimes(folder: Path) -> str:
    """Do the same with both models trained daily; the worker's memory is its own."""
    return long_replay(folder, HMM_ENABLED="true")


def main() -> None:
    """Print every budget that applies so far."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name, measure in (
        ("reduce, quiet tick, 10 slots", quiet_tick),
        ("live step, 30 slots, SQLite", live_step),
        ("start to first order", first_order),
        ("a week of 1 min candles", long_replay),
        ("the same with regimes", long_replay_regimes),
        ("lateness of a loop with 30 slots while models are trained", regimes.loop_gaps),
        ("a replica", replica),
        ("fifty open pages", dashboard),
        ("backtest of a year of 1 min candles, 3 slots", backtest.without_models),
        ("backtest of 46 days, models, tiers, Kelly", backtest.with_models),
        ("training of a model", regimes.training),
        ("a closed candle, features and filter", regimes.one_candle),
    ):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {measure(Path(folder))}", flush=True)


if __name__ == "__main__":
    main()
