"""What tells the operator, as one part: messages out, commands in, start and stop in words.

Made by `engine/wiring.py` where a channel is configured; the loop knows it as a Notifier only.
"""

from core.ports import MarketError, StoreError
from core.record import Record
from core.status import Status
from engine.notify import Notifications
from engine.outbox import ChannelHealth
from engine.report import status_text
from engine.telegram import Listener, ListenerHealth

ENDINGS = {
    "stopped": "stopped; resting orders stay at the exchange",
    "ended": "stopped: the market has ended",
}


class NoticesHealth(Record, frozen=True, kw_only=True):
    """How the channels fare, and the listening; `listener` is None without commands."""

    channels: tuple[ChannelHealth, ...]
    listener: ListenerHealth | None


class Notices:
    """Notifications and, with commands, the listener: one start, one stop."""

    def __init__(self, notifications: Notifications, listener: Listener | None) -> None:
        self.notifications = notifications
        self._listener = listener

    def start(self, status: Status) -> None:
        """Tell of the start, begin to send and to listen."""
        text = f"started, version {status.bot.version}\n{status_text(status)}"
        self.notifications.send(level="info", kind="start", text=text)
        self.notifications.start()
        if self._listener is not None:
            self._listener.start()

    def say_stopped(self, outcome: str, status: Status) -> None:
        """Tell of a stop that was asked for, or of the market's end."""
        text = f"{ENDINGS.get(outcome, outcome)}\n{status_text(status)}"
        self.notifications.send(level="info", kind="stop", text=text)

    def say_failed(self, error: BaseException) -> None:
        """Tell of an end that was not asked for, also before the start; ours are told in full."""
        is_ours = isinstance(error, StoreError | MarketError)
        why = str(error) if is_ours else type(error).__name__
        text = f"ended by an error: {why}; look at the log. Resting orders stay at the exchange"
        self.notifications.send(level="error", kind="stop", text=text)
        self.notifications.start()

    def stop(self) -> None:
        """Send what waits, then end; within 2 s."""
        if self._listener is not None:
            self._listener.stop()
        self.notifications.stop()

    def health(self) -> NoticesHealth:
        """Return how everything fares; from any thread."""
        heard = None if self._listener is None else self._listener.health()
        return NoticesHealth(channels=self.notifications.health(), listener=heard)
