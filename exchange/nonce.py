"""Nonces that only rise: over threads, over restarts, over clocks that are set back.

Kraken refuses a nonce that is not above every one it has seen of the key. What must survive a
crash is a ceiling: the owner commits it to disk ahead of time, nonces stay below it, and the next
run begins at it. Nothing here reads a clock or a disk of its own.
"""

import threading
from collections.abc import Callable

SPAN_NS = 60 * 10**9  # how far ahead of the clock a ceiling is asked for
SPARE = 10**6  # how many nonces it leaves at least where the last one is ahead of the clock
_END = 2**64  # nonces are unsigned 64-bit integers


class NonceExhausted(Exception):
    """No nonce can be given until a higher ceiling has been committed."""


class Nonces:
    """Gives each nonce once; may be called from any thread.

    `clock_ns` tells the time in nanoseconds since 1970; `ceiling` is what the last run committed
    (0: there was none) and counts as used up to, not including, itself. Raises ValueError for a
    ceiling that is no unsigned 64-bit integer.
    """

    def __init__(self, clock_ns: Callable[[], int], ceiling: int) -> None:
        if not 0 <= ceiling <= _END:
            raise ValueError(f"a nonce ceiling is from 0 to 2**64, not {ceiling}")
        self._clock_ns = clock_ns
        self._ceiling = ceiling
        self._last = max(ceiling - 1, 0)
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return a nonce above every earlier one, the time in nanoseconds where that is above.

        Raises NonceExhausted, and uses nothing up, when it would not be below the ceiling.
        """
        with self._lock:
            nonce = max(self._clock_ns(), self._last + 1)
            if nonce >= self._ceiling:
                raise NonceExhausted(
                    "the nonces that were committed to disk are used up; "
                    "the next can be given once a higher ceiling is committed"
                )
            self._last = nonce
            return nonce

    def wanted(self) -> int | None:
        """Return the ceiling to commit now, None while half of what it gives or more is left.

        Never farther ahead of the clock than the span, however often a run begins at a ceiling.
        """
        with self._lock:
            now = self._clock_ns()
            ceiling = min(max(now + SPAN_NS, self._last + SPARE), _END)
            has_time = 2 * (self._ceiling - now) >= SPAN_NS
            has_spare = 2 * (self._ceiling - self._last) >= SPARE
            if ceiling <= self._ceiling or (has_time and has_spare):
                return None
            return ceiling

    def extend(self, ceiling: int) -> None:
        """Allow nonces below `ceiling`, which is on disk already; a lower one changes nothing.

        Raises ValueError for a ceiling that is no unsigned 64-bit integer.
        """
        if not 0 <= ceiling <= _END:
            raise ValueError(f"a nonce ceiling is from 0 to 2**64, not {ceiling}")
        with self._lock:
            self._ceiling = max(self._ceiling, ceiling)

    def settle(self) -> int:
        """Give no nonce any more; return the ceiling to commit for the next run.

        It is the first nonce that was not given: a run that ends well leaves none unused.
        """
        with self._lock:
            self._ceiling = self._last + 1
            return self._ceiling

    def raise_to(self, nonce: int) -> None:
        """Give only nonces above `nonce`, which the exchange has seen of this key.

        Raises ValueError where there is none above it: the key cannot be used any more.
        """
        if not 0 <= nonce < _END - 1:
            raise ValueError(
                f"the exchange has seen nonce {nonce}; allowed is 0 to 2**64 − 2, because one must "
                "be left above it: make a new API key"
            )
        with self._lock:
            self._last = max(self._last, nonce)
