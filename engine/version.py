"""Which program this is: its version, and the rules by which it decides."""

import functools
import hashlib
from pathlib import Path

VERSION = "0.1.0"
_ROOT = Path(__file__).parent.parent
RULES = ("state_machine.py", "leg.py", "grid_strategy.py", "regime_policy.py", "kelly_sizer.py",
          "risk.py", "accounting.py", "core/*.py", "grid/*.py")  # fmt: skip
# What else decides how a backtest ends.
SIMULATION = ("hmm_regime_detector.py", "kelly_*.py", "config.py", "regime/*.py", "settings/*.py",
              "engine/*.py", "exchange/*.py", "market/*.py", "store/*.py", "sim/run.py",
              "sim/score.py", "sim/unkept.py")  # fmt: skip

# What else decides how a seed of the fault storm ends.
STORM = ("sim/storm_beside.py", "sim/storm_clock.py", "sim/storm_disk.py", "sim/storm_events.py",
         "sim/storm_line.py", "sim/storm_models.json", "sim/storm_oracle.py", "sim/storm_run.py",
         "sim/storm_weather.py", "sim/storm_world.py")  # fmt: skip


@functools.cache
def code_version() -> str:
    """Return version and digest of all decision code, as in "0.1.0+1f2e3d4c".

    Two programs of one code version fold a journal to the same state; it stands in `Started`.
    """
    return f"{VERSION}+{_digest(RULES)}"


@functools.cache
def simulation_version() -> str:
    """Return the same of all code that a backtest runs through: equal ones end alike."""
    return f"{VERSION}+{_digest((*RULES, *SIMULATION))}"


@functools.cache
def storm_version() -> str:
    """Return the same of all code that a seed of the fault storm runs through, its own included."""
    return f"{VERSION}+{_digest((*RULES, *SIMULATION, *STORM))}"


def _digest(patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in _ROOT.glob(pattern)}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]
