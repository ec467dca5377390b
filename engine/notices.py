"""What tells the operator, as one part: messages out, commands in, start and stop in words.

Made by `engine/wiring.py` where a channel is configured; the loop knows it as a Notifier only.
A wait for prices or the exchange is watched on the clock of this machine, for bot time may stand
still meanwhile.
"""

from collections.abc import Callable, Sequence

from core.params import Params
from core.ports import ConfigError, MarketError, StartRefused, StoreError, Unavailable
from core.record import Record
from core.redact import redacted
from core.state import BotState
from core.status import Status
from engine.notify import Notifications
from engine.outbox import ChannelHealth
from engine.report import status_text
from engine.status_view import Facts, is_stale
from engine.telegram import Listener, ListenerHealth
from risk import PLACING_STATUSES

PATIENCE_SEC = 60.0  # a wait this long is told
ENDINGS = {
    "stopped": "stopped; resting orders stay at the exchange",
    "ended": "stopped: the market has ended",
}
# Their texts are ours, in plain words; those of others may hold anything.
OWN_ERRORS = (ConfigError, MarketError, StartRefused, StoreError, Unavailable)


class NoticesHealth(Record, frozen=True, kw_only=True):
    """How the channels fare, and the listening; `listener` is None without commands."""

    channels: tuple[ChannelHealth, ...]
    listener: ListenerHealth | None


def obstacle(state: BotState, params: Params, facts: Facts) -> str | None:
    """Return what prices or exchange lack for the bot to trade; None: nothing."""
    if facts.waiting_for is not None:
        return facts.waiting_for
    if state.market_ended:
        return None
    status = state.health.system_status
    if status not in PLACING_STATUSES:
        return f"the exchange, whose status is {status}"
    return "a fresh price" if is_stale(state, params, facts) else None


class Notices:
    """Notifications and, with commands, the listener. For one thread but for `health`."""

    def __init__(
        self,
        notifications: Notifications,
        listener: Listener | None,
        *,
        monotonic: Callable[[], float],
        secrets: Sequence[str],
    ) -> None:
        self.notifications = notifications
        self._listener = listener
        self._monotonic = monotonic
        self._secrets = secrets
        self._is_started = False
        self._since: float | None = None  # when the present wait began
        self._is_told = False  # of the present wait

    def begin(self) -> None:
        """Begin to send."""
        self.notifications.start()

    def listen(self) -> None:
        """Begin to take commands."""
        if self._listener is not None:
            self._listener.start()

    def look(self, obstacle: str | None, status: Callable[[], Status] | None = None) -> None:
        """Take note of what is waited for, None: nothing; called at least every few seconds.

        A wait of PATIENCE_SEC is told once, and its end; the end of the first is the start, for
        which `status` is asked.
        """
        now = self._monotonic()
        if obstacle is not None:
            self._since = now if self._since is None else self._since
            if not self._is_told and now - self._since >= PATIENCE_SEC:
                self._is_told = True
                length = _length(now - self._since)
                told = f"the start has waited {length} for {obstacle}"
                if self._is_started:
                    told = f"no entries for {length}: waiting for {obstacle}"
                self._send("warning", "outage", told)
            return
        if not self._is_started and status is not None:
            self._is_started = True
            now_is = status()
            text = f"started, version {now_is.bot.version}\n{status_text(now_is)}"
            self._send("info", "start", text)
        elif self._is_told and self._since is not None:
            length = _length(now - self._since)
            text = f"the wait is over after {length}: prices and exchange are there again"
            self._send("info", "outage", text)
        self._since, self._is_told = None, False

    def say_stopped(self, outcome: str, status: Status) -> None:
        """Tell of a stop that was asked for, or of the market's end."""
        self._send("info", "stop", f"{ENDINGS.get(outcome, outcome)}\n{status_text(status)}")

    def say_failed(self, error: BaseException) -> None:
        """Tell of an end that was not asked for, also before the start; ours are told in full."""
        why = type(error).__name__
        if isinstance(error, OWN_ERRORS):
            why = str(error)
        text = f"ended by an error: {why}; look at the log. Resting orders stay at the exchange"
        self._send("error", "stop", text)

    def stop(self) -> None:
        """Send what waits, then end; within 2 s."""
        if self._listener is not None:
            self._listener.stop()
        self.notifications.stop()

    def health(self) -> NoticesHealth:
        """Return how everything fares; from any thread."""
        heard = None if self._listener is None else self._listener.health()
        return NoticesHealth(channels=self.notifications.health(), listener=heard)

    def _send(self, level: str, kind: str, text: str) -> None:
        self.notifications.send(level=level, kind=kind, text=redacted(text, self._secrets))


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
