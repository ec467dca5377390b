"""The publisher: turns states into bytes, on its own thread, so that the loop never waits for it.

The loop hands over immutable values; the thread builds, serialises, compresses and swaps the
result by reference. A failure here is logged and counted; it never reaches the loop.
"""

import gzip
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from core.params import Params
from core.record import replace
from core.state import BotState, Mode
from core.status import Published, Status
from engine.clock import monotonic
from engine.status_view import EVENTS_MAX, Facts, build_status

log = logging.getLogger("publish")

INTERVAL_SEC = 0.5
STOP_SEC = 2.0
_GZIP_LEVEL = 5

_Rows = Sequence[Mapping[str, Any]]
Build = Callable[[BotState, Params, Facts], Status]


class Publisher:
    """Publishes the newest state at most twice a second, and at once when asked to.

    `on_urgent` is called after what was asked for at once is published; it must not block.
    """

    def __init__(
        self,
        *,
        recent_events: Callable[[int], Sequence[Mapping[str, Any]]] | None = None,
        past_opinions: Callable[[], tuple[_Rows, _Rows]] | None = None,
        build: Build = build_status,
        interval_sec: float = INTERVAL_SEC,
        on_urgent: Callable[[], None] = lambda: None,
    ) -> None:
        self.errors = 0
        self._recent_events, self._past_opinions = recent_events, past_opinions
        self._build = build
        self._interval_sec = interval_sec
        self._on_urgent = on_urgent
        self._offers: deque[tuple[BotState, Params, Facts]] = deque(maxlen=1)
        self._hurry = threading.Event()
        self._woken = threading.Event()
        self._stopping = False
        self._published: Published | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish what is offered."""
        self._thread.start()

    def offer(
        self, state: BotState, params: Params, facts: Facts, *, at_once: bool = False
    ) -> None:
        """Hand over the newest state; an older one not yet published is dropped. Never blocks.

        `at_once` (after a command) skips the wait between two publications.
        """
        self._offers.append((state, params, facts))
        if at_once:
            self._hurry.set()
        self._woken.set()

    def published(self) -> Published | None:
        """Return the newest published status, or None before the first; from any thread."""
        return self._published

    def stop(self) -> None:
        """Publish what was offered last, and end the thread."""
        self._stopping = True
        self._hurry.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            # Cleared before the offer is taken: a newer one that asks to hurry sets it again.
            is_urgent = self._hurry.is_set()
            if is_urgent:
                self._hurry.clear()
            started = monotonic()
            self._publish()
            if is_urgent:
                self._on_urgent()
            if self._stopping and not self._offers:
                return
            self._hurry.wait(max(0.0, self._interval_sec - (monotonic() - started)))

    def _publish(self) -> None:
        if not self._offers:
            return
        state, params, facts = self._offers.pop()
        try:
            if self._recent_events is not None:
                facts = replace(facts, recent_events=tuple(self._recent_events(EVENTS_MAX)))
            if self._past_opinions is not None and params.advice.enabled:
                newest, scored = map(tuple, self._past_opinions())
                own = replace(facts.advisor, history=newest, scored=scored)
                facts = replace(facts, advisor=own)
            self._published = publication(self._build(state, params, facts))
        except Exception:  # worker top: the page may fail, the loop may not
            self.errors += 1
            log.exception("status not published")


def publication(status: Status) -> Published:
    """Return the bytes of `status`, compressed too, with an ETag of the content."""
    body = msgspec.json.encode(status)
    return Published(
        body=body,
        gzip_body=gzip.compress(body, _GZIP_LEVEL, mtime=0),
        etag=f'W/"{hashlib.sha256(body).hexdigest()[:32]}"',
        version=status.version,
        obstacle=_obstacle(status),
    )


def _obstacle(status: Status) -> str | None:
    if status.bot.mode == Mode.HALTED:
        return "halted"
    return "no fresh price" if status.market.is_stale else None
