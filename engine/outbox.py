"""What waits to be told over one channel: which messages leave, when, and what is dropped.

Pure: time comes in, nothing is sent here. One table says what is told at once, what is gathered
into a digest and what is not told at all. The threads and the network are in `engine/notify.py`.
"""

from collections import Counter, deque
from enum import StrEnum
from random import Random

from core.record import Record, replace

QUEUE_MAX = 100
SPACING_SEC = 1.0
PER_MINUTE_MAX = 20
DIGEST_SEC = 600.0
DIGEST_LINES = 5
REPEATS_MAX = 5  # of one kind within DIGEST_SEC; more of it goes into the digest
ATTEMPTS_MAX = 8
BACKOFF_SEC = 2.0
BACKOFF_SEC_MAX = 300.0
PAUSE_SEC_MAX = 86_400.0  # the longest pause a server may ask for
TEXT_MAX = 4_000  # of UTF-16 units: what a chat takes in one message, less room for a note


class Route(StrEnum):
    """How a kind of message reaches the operator."""

    IMMEDIATE = "immediate"
    DIGEST = "digest"
    SILENT = "silent"


# Starts, outages, reports, answers and notes about drops are kinds of the shell; the others come
# from the reducer. A kind that is not here: at once when it is a warning or an error, else the
# digest.
ROUTES = {
    "start": Route.IMMEDIATE,
    "stop": Route.IMMEDIATE,
    "halt": Route.IMMEDIATE,
    "outage": Route.IMMEDIATE,
    "reply": Route.IMMEDIATE,
    "report": Route.IMMEDIATE,
    "lock": Route.IMMEDIATE,
    "unlock": Route.IMMEDIATE,
    "uncertain": Route.IMMEDIATE,
    "ghost": Route.IMMEDIATE,
    "restore": Route.IMMEDIATE,
    "owed_exit": Route.IMMEDIATE,
    "rejected": Route.IMMEDIATE,
    "cancelled": Route.IMMEDIATE,
    "amended": Route.IMMEDIATE,
    "released": Route.IMMEDIATE,
    "risk_level": Route.IMMEDIATE,
    "imbalance": Route.IMMEDIATE,
    "flow": Route.IMMEDIATE,
    "fees": Route.IMMEDIATE,
    "override": Route.IMMEDIATE,
    "command": Route.DIGEST,
    "cycle": Route.DIGEST,
    "orphan": Route.DIGEST,
    "pair_off": Route.DIGEST,
    "slot_removed": Route.DIGEST,
    "below_minimum": Route.DIGEST,
    "model": Route.DIGEST,
    "regime_tier": Route.DIGEST,
    "suppression": Route.DIGEST,
    "fill": Route.SILENT,
}
FAST_KINDS = ("start", "stop", "halt", "lock", "reply")  # all that is told of a market in a hurry
_ALWAYS = ("start", "stop", "halt", "reply", "report")  # never gathered, however many
_RANKS = {"info": 0, "warning": 1}


class Message(Record, frozen=True, kw_only=True):
    """Something to tell; `at` is when it was said, wall time."""

    level: str
    kind: str
    text: str
    at: float


class Outcome(Record, frozen=True, kw_only=True):
    """What became of one attempt: `problem` None is a delivery.

    `is_final` means that trying again is of no use; `pause_sec` is what the server asked for.
    """

    problem: str | None = None
    is_final: bool = False
    pause_sec: float | None = None


class ChannelHealth(Record, frozen=True, kw_only=True):
    """How one channel fares.

    `sent`, `failed` (given up) and `dropped` (no room) count messages, `errors` attempts;
    `last_error` is in plain words without addresses; the times are wall times.
    """

    name: str
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    errors: int = 0
    waiting: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
    last_sent_at: float | None = None


def route_of(kind: str, level: str, *, is_fast: bool) -> Route:
    """Return how a message is told; of a market in a hurry (`is_fast`) only the least."""
    if is_fast and kind not in FAST_KINDS:
        return Route.SILENT
    return ROUTES.get(kind, Route.DIGEST if level == "info" else Route.IMMEDIATE)


def shortened(text: str, most: int = TEXT_MAX) -> str:
    """Return `text` cut to `most` UTF-16 units, with an ellipsis where something is missing."""
    units = text.encode("utf-16-le", "replace")
    if len(units) <= 2 * most:
        return units.decode("utf-16-le")
    return units[: 2 * (most - 1)].decode("utf-16-le", "ignore") + "…"


class Outbox:
    """The messages of one channel. Not for several threads at once: its owner locks.

    `now` is always a monotonic instant in seconds, `wall` the wall time.
    """

    def __init__(self, name: str, *, is_fast: bool, rng: Random) -> None:
        self._is_fast = is_fast
        self._rng = rng
        self._queue: deque[Message] = deque()
        self._current: Message | None = None
        self._attempts = 0  # of the current message
        self._failures = 0  # in a row, over messages
        self._resume_at = float("-inf")
        self._sent_at: deque[float] = deque(maxlen=PER_MINUTE_MAX)
        self._recent: dict[str, deque[float]] = {}
        self._digest: Counter[str] = Counter()
        self._lines: deque[str] = deque(maxlen=DIGEST_LINES)
        self._digest_level = "info"
        self._digest_due: float | None = None
        self._untold = 0  # lost since the last note about it
        self._noted = 0  # what the note under way tells of
        self._health = ChannelHealth(name=name)

    def put(self, message: Message, now: float) -> bool:
        """Take a message in; without room the oldest of the least level goes.

        True when it is queued to leave at once, False when it is gathered or not told.
        """
        route = route_of(message.kind, message.level, is_fast=self._is_fast)
        if route is Route.SILENT:
            return False
        if route is Route.DIGEST or self._is_too_often(message.kind, now):
            self._gather(message, now)
            return False
        self._queue.append(message)
        if len(self._queue) > QUEUE_MAX:
            ranks = [_rank(x) for x in self._queue]
            del self._queue[ranks.index(min(ranks))]
            self._lose(dropped=1)
        return True

    def next_at(self) -> float | None:
        """Return the instant from which `take` has something to send; None: nothing waits."""
        if self._current is not None or self._queue or self._has_note():
            ready = float("-inf")
        elif self._digest_due is not None:
            ready = self._digest_due
        else:
            return None
        return max(ready, self._resume_at, self._free_at())

    def take(self, now: float, wall: float) -> Message | None:
        """Return what to send now, if anything; tell with `settle` what became of it."""
        at = self.next_at()
        if at is None or now < at:
            return None
        if self._current is None:
            self._current, self._attempts = self._next(now, wall), 0
        self._sent_at.append(now)
        return self._current

    def settle(self, outcome: Outcome, now: float, wall: float) -> None:
        """Note what became of the message last taken; a failed one is tried again, later."""
        health, message = self._health, self._current
        if outcome.problem is None:
            self._health = replace(health, sent=health.sent + 1, last_sent_at=wall)
            self._current, self._attempts, self._failures = None, 0, 0
            self._noted = 0
            return
        self._health = replace(
            health, errors=health.errors + 1, last_error=outcome.problem, last_error_at=wall
        )
        self._attempts += 1
        self._failures += 1
        wait = min(BACKOFF_SEC * 2.0 ** min(self._failures - 1, 30), BACKOFF_SEC_MAX)
        wait *= 0.5 + self._rng.random()
        if outcome.pause_sec is not None:
            wait = max(wait, min(outcome.pause_sec, PAUSE_SEC_MAX))
        self._resume_at = now + wait
        if message is not None and (outcome.is_final or self._attempts >= ATTEMPTS_MAX):
            self._current = None
            self._lose(failed=1)
            self._untold += max(0, self._noted - 1)  # the note itself is no loss
            self._noted = 0

    def close(self, wall: float) -> Message | None:
        """Return everything that waits as one last message, the newest first; None: nothing.

        Rate and back-off do not hold for it: there is no later.
        """
        waiting = [*([self._current] if self._current else []), *self._queue]
        if self._digest:
            waiting.insert(0, self._digest_message(wall))
        if self._untold:
            waiting.insert(0, self._note(wall))
        self._current = None
        self._queue.clear()
        if not waiting:
            return None
        newest, *others = waiting[::-1]
        text = newest.text
        if others:
            text += "\nbefore that:\n" + "\n".join(x.text for x in others)
        level = max(waiting, key=_level_rank).level
        self._current = replace(newest, text=shortened(text), level=level)
        self._attempts = ATTEMPTS_MAX
        return self._current

    def health(self) -> ChannelHealth:
        """Return how the channel fares."""
        is_busy = self._current is not None
        return replace(self._health, waiting=len(self._queue) + is_busy)

    # ---- parts ----------------------------------------------------------------------------------

    def _is_too_often(self, kind: str, now: float) -> bool:
        if kind in _ALWAYS:
            return False
        times = self._recent.setdefault(kind, deque(maxlen=REPEATS_MAX))
        if len(times) == REPEATS_MAX and now - times[0] < DIGEST_SEC:
            return True
        times.append(now)
        return False

    def _gather(self, message: Message, now: float) -> None:
        self._digest[message.kind] += 1
        self._lines.append(message.text)
        self._digest_level = max(self._digest_level, message.level, key=_level_order)
        if self._digest_due is None:
            self._digest_due = now + DIGEST_SEC

    def _lose(self, *, dropped: int = 0, failed: int = 0) -> None:
        health = self._health
        self._health = replace(
            health, dropped=health.dropped + dropped, failed=health.failed + failed
        )
        self._untold += dropped + failed

    def _free_at(self) -> float:
        """Return when one more message is within the rate."""
        if not self._sent_at:
            return float("-inf")
        free = self._sent_at[-1] + SPACING_SEC
        if len(self._sent_at) == PER_MINUTE_MAX:
            free = max(free, self._sent_at[0] + 60.0)
        return free

    def _has_note(self) -> bool:
        """Tell whether to speak of losses now: not before the channel works again."""
        return self._untold > 0 and not self._failures

    def _next(self, now: float, wall: float) -> Message:
        if self._has_note():
            return self._note(wall)
        if self._digest_due is not None and self._digest_due <= now:
            return self._digest_message(wall)
        return self._queue.popleft()

    def _note(self, wall: float) -> Message:
        count, self._untold, self._noted = self._untold, 0, self._untold
        were = "1 message was" if count == 1 else f"{count} messages were"
        return Message(
            level="warning", kind="dropped", at=wall, text=f"{were} dropped or not delivered"
        )

    def _digest_message(self, wall: float) -> Message:
        counts = ", ".join(f"{kind} × {n}" for kind, n in self._digest.most_common())
        total, shown = self._digest.total(), list(self._lines)
        title = "" if total <= len(shown) else f"; the newest {len(shown)}:"
        text = "\n".join([f"{counts}{title}", *shown])
        level = self._digest_level
        self._digest.clear()
        self._lines.clear()
        self._digest_due, self._digest_level = None, "info"
        return Message(level=level, kind="digest", text=shortened(text), at=wall)


def _level_order(level: str) -> int:
    return _RANKS.get(level, 2)


def _level_rank(message: Message) -> int:
    return _level_order(message.level)


def _rank(message: Message) -> int:
    """Return how late a message is dropped: what an operator waits for goes last."""
    return 3 if message.kind in ("stop", "start", "halt") else _level_order(message.level)
