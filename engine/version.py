"""Which program this is: its version, and the rules by which it decides."""

import functools
import hashlib
from pathlib import Path

VERSION = "0.1.0"
_ROOT = Path(__file__).parent.parent
RULES = ("state_machine.py", "leg.py", "grid_strategy.py", "regime_policy.py", "kelly_sizer.py",
          "risk.py", "accounting.py", "core/*.py", "grid/*.py")  # fmt: skip


@functools.cache
def code_version() -> str:
    """Return version and digest of all decision code, as in "0.1.0+1f2e3d4c".

    Two programs of one code version fold a journal to the same state; it stands in `Started`.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in RULES for path in _ROOT.glob(pattern)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{VERSION}+{digest.hexdigest()[:8]}"
