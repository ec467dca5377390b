"""Ctrl-C at programs that take seconds to begin: 130 and words, whenever and however often."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import write_candles
from tests.test_daemon import ROOT


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("program", ["backtest", "sweep"])
@pytest.mark.parametrize("waits", [(0.3,), (0.3, 0.02), (4.0,), (4.0, 0.02, 0.02)])
def test_ctrl_c_ends_with_130_and_words(
    tmp_path: Path, program: str, waits: tuple[float, ...]
) -> None:
    """While it is imported, while it runs, and twice."""
    file = tmp_path / "market.csv"
    write_candles(file, bars=30_000, seed=3)
    where = {"backtest": ["--defaults", "--out", str(tmp_path / "out")],
             "sweep": ["--study", str(tmp_path / "sweep.db")]}  # fmt: skip
    command = [sys.executable, "-m", f"sim.{program}", str(file), *where[program]]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for seconds in waits:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert "before this one" not in said
