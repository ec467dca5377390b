"""Memory that is freed goes back to the system, so that a process that runs for months stays small.

glibc raises its own thresholds as large blocks come and go, and then keeps them all: the heap of a
daemon grows for weeks without anything in it. With fixed ones it does not.
"""

import ctypes

# <malloc.h> of glibc: which setting, and its value in bytes.
_TRIM, _MMAP = (-1, 131_072), (-3, 65_536)


def keep_small() -> None:
    """Fix the thresholds; without effect where the C library has none."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for setting, value in (_TRIM, _MMAP):
        mallopt(setting, value)
