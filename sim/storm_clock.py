"""The clocks of a simulated world: the daemon's, the machine's and the exchange's.

All stand still while code runs. The daemon's is the one that `engine.clock.LiveClock` would be: it
follows the machine's time of day at its start and never goes back; the exchange's is `offset` ahead
of it. The machine's time of day may be wrong, and jump.
"""

from engine.clock import LiveClock

START = 1_700_000_000.0
WALL_ERROR_SEC = 1.5


class Crash(BaseException):
    """The process ends here, without another instruction."""


class Clock(LiveClock):
    """The daemon's time, which only the world moves."""

    def __init__(self) -> None:
        self.at = START
        self.offset = 0.0
        self.wall_error = 0.0  # of the machine's time of day
        self._moved = 0.0  # by how much the daemon has moved its clock on since it runs

    def __call__(self) -> float:
        return self.at

    def now(self) -> float:
        """Return the daemon's time."""
        return self.at

    def ns(self) -> int:
        """Return the machine's time of day in nanoseconds."""
        return int((self.at + self.wall_error) * 1e9)

    def pass_(self, seconds: float) -> None:
        """Let time pass."""
        self.at += seconds

    def there(self) -> float:
        """Return the exchange's time."""
        return self.at + self.offset

    def forward(self, seconds: float) -> None:
        """Move the daemon's clock on; the exchange's time stays."""
        self._move(seconds)
        self._moved += seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass that the daemon's clock does not count: the machine sleeps."""
        self.pass_(seconds)
        self.forward(-seconds)

    def restart(self) -> None:
        """Begin anew at the machine's time of day."""
        self._move(self.wall_error - self._moved)
        self._moved = self.wall_error = 0.0

    def set_right(self) -> None:
        """Set the machine's time of day by hand, as a refused start asks for."""
        self._move(self.offset)

    def _move(self, seconds: float) -> None:
        self.at += seconds
        self.offset -= seconds
