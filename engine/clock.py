"""The only place that asks the machine for the time, and the only one that waits for it.

Simulated time is paced against the wall clock here: it stands still while code runs, a speed only
decides how long to wait between events.
"""

import time


def wall_now() -> float:
    """Return seconds since the epoch, UTC, by the system clock."""
    return time.time()


def monotonic() -> float:
    """Return seconds of a clock that never goes back; only differences mean anything."""
    return time.monotonic()


def cpu_seconds() -> float:
    """Return the CPU seconds this process has used."""
    return time.process_time()


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


class LiveClock:
    """The machine's clock as it was at the start, carried on by one that never goes back.

    A jump of the machine's clock moves it no more; it is moved forward only on purpose, after the
    machine has slept.
    """

    def __init__(self) -> None:
        self._ahead = wall_now() - monotonic()

    def now(self) -> float:
        """Return seconds since the epoch, UTC; never less than before."""
        return monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        """Move on by `seconds`, which must not be negative."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back by {-seconds:g} s")
        self._ahead += seconds


class Pacer:
    """Tells how long to wait so that simulated time runs at `speed` times the wall clock.

    `speed` None means as fast as possible. After a stall it does not try to catch up.
    """

    def __init__(self, speed: float | None) -> None:
        self.speed = speed
        self._wall = monotonic()
        self._simulated: float | None = None

    def wait_sec(self, simulated: float) -> float:
        """Return the wall seconds to wait before the simulated instant may happen; at least 0."""
        if self.speed is None:
            return 0.0
        now = monotonic()
        if self._simulated is None:
            self._wall, self._simulated = now, simulated
            return 0.0
        due = self._wall + (simulated - self._simulated) / self.speed
        if due < now - 1.0:  # stalled: begin anew from here
            self._wall, self._simulated = now, simulated
        return max(0.0, due - now)
