"""Telegram: a channel for messages, and a listener that takes commands from one chat.

Commands go the way of the page's: `engine/chat.py` reads them, the daemon carries them out once per
update. The token is part of every address, so no address is shown. No socket is opened here: calls
go over the `Line` of `engine/notify.py`.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

import msgspec

from core.commands import Command, CommandError
from core.record import Record, replace
from engine.chat import Ask, addressee, help_text, is_command, read
from engine.notify import CALL_SEC, Line, judged, titled
from engine.outbox import PAUSE_SEC_MAX, Message, Outcome

log = logging.getLogger("telegram")

POLL_SEC = 25  # how long the server holds a question for updates open
UPDATES_MAX = 100
UPDATES_BYTES_MAX = 8 * 1024 * 1024
BACKOFF_SEC_MAX = 60.0
REFUSED_SEC = 300.0  # between attempts with a token that is refused
FOREIGN_SEC = 1.0  # rest after updates from elsewhere, so that they cannot keep us busy
TELL_SEC = 3600.0  # between log lines on updates from elsewhere
_STOP_SEC = 0.1
_T = TypeVar("_T")

Submit = Callable[[str, Command], str]
Known = Callable[[str], str | None]


class _Parameters(Record, frozen=True, kw_only=True):
    retry_after: float | None = None


class _Envelope(Record, frozen=True, kw_only=True):
    ok: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    parameters: _Parameters = _Parameters()


class _Bot(Record, frozen=True, kw_only=True):
    username: str


class _Chat(Record, frozen=True, kw_only=True):
    id: int
    type: str = ""


class _Text(Record, frozen=True, kw_only=True):
    chat: _Chat
    text: str | None = None
    forward_origin: Any = None
    forward_date: Any = None


class _Number(Record, frozen=True, kw_only=True):
    update_id: int


class _Update(_Number, frozen=True, kw_only=True):
    message: _Text | None = None


class ListenerHealth(Record, frozen=True, kw_only=True):
    """How the listening fares: counts of commands, of updates ignored, of failed calls.

    `last_heard_at` is when the server last answered, wall time; `last_error` has no address.
    """

    commands: int = 0
    ignored: int = 0
    errors: int = 0
    last_error: str | None = None
    last_error_at: float | None = None
    last_heard_at: float | None = None


class Telegram:
    """The channel: plain text to one chat, and the calls of the Bot API."""

    name = "telegram"

    def __init__(self, base_url: str, token: str, chat_id: int, bot_name: str) -> None:
        self.chat_id = chat_id
        self._address = f"{base_url.rstrip('/')}/bot{token}/"
        self._bot_name = bot_name

    def __repr__(self) -> str:
        """Return the chat only: the address holds the token."""
        return f"Telegram(chat_id={self.chat_id})"

    def deliver(self, message: Message, line: Line, limit_sec: float) -> Outcome:
        """Make one attempt; delivered is what the server says is so."""
        body = {
            "chat_id": self.chat_id,
            "text": titled(message, self._bot_name),
            "link_preview_options": {"is_disabled": True},
        }
        return self.call("sendMessage", body, line, limit_sec=limit_sec)[0]

    def call(
        self,
        method: str,
        body: Mapping[str, Any],
        line: Line,
        *,
        limit_sec: float = CALL_SEC,
        answer_max: int = 64 * 1024,
    ) -> tuple[Outcome, bytes]:
        """Call a method of the API; return what came of it and the raw JSON of its result."""
        answer = line.post(self._address + method, body, limit_sec=limit_sec, answer_max=answer_max)
        envelope = _decoded(answer.body, _Envelope) or _Envelope()
        outcome = judged(answer, pause_sec=envelope.parameters.retry_after)
        if answer.status in (401, 404):
            words = f"answered {answer.status}: TELEGRAM_BOT_TOKEN is not accepted"
            outcome = Outcome(problem=words, is_final=True)
        elif answer.status in (400, 403):
            words = f"answered {answer.status}: is TELEGRAM_CHAT_ID right, and its chat begun?"
            outcome = Outcome(problem=words, is_final=True)
        elif answer.status == 409:
            words = "answered 409: another program listens for this bot, or a webhook is set"
            outcome = Outcome(problem=words)
        elif outcome.problem is None and not envelope.ok:
            outcome = Outcome(problem="the answer cannot be read")
        return outcome, bytes(envelope.result)


def _decoded(body: bytes, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


class Listener:
    """Takes commands from the one chat, on a thread of its own.

    `submit` carries out a command under an id and returns the answer in words; `known` returns the
    answer an id got in an earlier run, or None; `status` is the answer to /status; `reply` queues
    an answer. What waits at the server at the start is not carried out.
    """

    def __init__(
        self,
        telegram: Telegram,
        line: Line,
        *,
        submit: Submit,
        known: Known,
        status: Callable[[], str],
        reply: Callable[[str], None],
        rng: Random,
        monotonic: Callable[[], float],
        wall_now: Callable[[], float],
    ) -> None:
        self._telegram = telegram
        self._line = line
        self._submit = submit
        self._known = known
        self._status = status
        self._reply = reply
        self._rng = rng
        self._monotonic = monotonic
        self._wall_now = wall_now
        self._name: str | None = None
        self._offset: int | None = None
        self._limit = UPDATES_MAX
        self._is_caught_up = False
        self._skipped = 0
        self._failures = 0
        self._told_at = float("-inf")
        self._health = ListenerHealth()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telegram", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further command; the call under way is broken off."""
        self._stopping.set()
        self._line.close()
        if self._thread.is_alive():
            self._thread.join(_STOP_SEC)

    def health(self) -> ListenerHealth:
        """Return how the listening fares; from any thread."""
        return self._health

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                pause = self._turn()
            except Exception as error:  # noqa: BLE001 - worker top; a log of it might hold an address
                pause = self._failed(Outcome(problem=f"an error inside ({type(error).__name__})"))
            self._stopping.wait(pause)

    def _turn(self) -> float:
        """Make one call; return the seconds to rest after it."""
        if self._name is None:
            return self._greet()
        updates, pause = self._updates(POLL_SEC if self._is_caught_up else 0)
        if updates is None:
            return pause
        if not self._is_caught_up:
            return self._skip(updates)
        before = self._health.ignored
        for update in updates:
            if self._stopping.is_set():
                break  # not confirmed: the next start tells that it was not carried out
            self._take(update)
        return FOREIGN_SEC if self._health.ignored > before else 0.0

    def _greet(self) -> float:
        outcome, result = self._telegram.call("getMe", {}, self._line)
        if outcome.problem is not None:
            return self._failed(outcome)
        bot = _decoded(result, _Bot)
        if bot is None:
            return self._failed(Outcome(problem="the answer cannot be read"))
        self._heard()
        self._name = bot.username
        return 0.0

    def _updates(self, wait_sec: int) -> tuple[list[msgspec.Raw] | None, float]:
        """Return the updates after the last one taken; None and a pause when that failed."""
        body: dict[str, Any] = {
            "timeout": wait_sec, "limit": self._limit, "allowed_updates": ["message"],
        }  # fmt: skip
        if self._offset is not None:
            body["offset"] = self._offset
        outcome, result = self._telegram.call(
            "getUpdates",
            body,
            self._line,
            limit_sec=wait_sec + CALL_SEC,
            answer_max=UPDATES_BYTES_MAX,
        )
        updates = None if outcome.problem else _decoded(result, list[msgspec.Raw])
        if updates is None:
            self._limit = 1  # one that is too long or unreadable must not hold back the others
            return None, self._failed(replace(outcome, problem=outcome.problem or "unreadable"))
        self._heard()
        self._limit = UPDATES_MAX
        return updates, 0.0

    def _number(self, update: msgspec.Raw) -> int | None:
        """Return the number of an update not seen before, and move on behind it; else None."""
        known = _decoded(bytes(update), _Number)
        if known is None or (self._offset is not None and known.update_id < self._offset):
            self._ignore(None)
            return None
        self._offset = known.update_id + 1
        return known.update_id

    # ---- at the start ---------------------------------------------------------------------------

    def _skip(self, updates: list[msgspec.Raw]) -> float:
        """Pass by what was sent before the start, and say so."""
        before = self._offset
        for raw in updates:
            number = self._number(raw)
            update = _decoded(bytes(raw), _Update)
            message = None if update is None else update.message
            if number is None or message is None or message.chat.id != self._telegram.chat_id:
                continue
            if not _asks_for_change((message.text or "").strip()):
                continue
            answer = self._known(f"telegram-{number}")
            if answer is None:
                self._skipped += 1
            else:
                self._reply(f"before the restart: {answer}")
        if not updates:
            self._is_caught_up = True
            if self._skipped:
                self._reply(
                    "the daemon was restarted; commands sent before it listened again are not "
                    f"applied ({self._skipped}); send them again if still wanted"
                )
            log.info("listening skipped=%d", self._skipped)
        return 0.0 if self._offset != before or not updates else FOREIGN_SEC

    # ---- commands -------------------------------------------------------------------------------

    def _take(self, raw: msgspec.Raw) -> None:
        number = self._number(raw)
        if number is None:
            return
        update = _decoded(bytes(raw), _Update)
        message = None if update is None else update.message
        if message is None:
            self._ignore(None)
            return
        if message.chat.id != self._telegram.chat_id:
            self._ignore(message.chat.id)
            return
        text = (message.text or "").strip()
        other = addressee(text)
        if other is not None and other.lower() != (self._name or "").lower():
            return
        if message.forward_origin is not None or message.forward_date is not None:
            self._reply("refused: a forwarded message is no command")
        elif is_command(text):
            self._obey(number, text)
        elif message.chat.type == "private":
            self._reply("a command begins with /; /help lists them")

    def _obey(self, number: int, text: str) -> None:
        try:
            asked = read(text)
        except CommandError as error:
            self._reply(f"refused: {error}")
            return
        if isinstance(asked, Ask):
            self._reply(help_text() if asked.about == "help" else self._status())
            return
        self._health = replace(self._health, commands=self._health.commands + 1)
        command_id = f"telegram-{number}"
        log.info("command %s id=%s", asked.__struct_config__.tag, command_id)
        try:
            answer = self._submit(command_id, asked)
        except Exception:  # boundary: who asked must hear that it went wrong
            log.exception("command failed id=%s", command_id)
            answer = "an error inside; it may not have been carried out: look at /status"
        self._reply(answer)

    # ---- counting -------------------------------------------------------------------------------

    def _ignore(self, chat_id: int | None) -> None:
        self._health = replace(self._health, ignored=self._health.ignored + 1)
        now = self._monotonic()
        if chat_id is not None and now - self._told_at >= TELL_SEC:
            self._told_at = now
            log.warning("a message from chat %d is ignored: not TELEGRAM_CHAT_ID", chat_id)

    def _heard(self) -> None:
        self._failures = 0
        self._health = replace(self._health, last_heard_at=self._wall_now())

    def _failed(self, outcome: Outcome) -> float:
        """Count a failure; return how long to rest."""
        if self._stopping.is_set():
            return 0.0
        health = self._health
        if outcome.problem != health.last_error or not self._failures:
            log.warning("not listening: %s", outcome.problem)
        self._failures += 1
        self._health = replace(
            health,
            errors=health.errors + 1,
            last_error=outcome.problem,
            last_error_at=self._wall_now(),
        )
        if outcome.is_final:
            return REFUSED_SEC
        rest = min(2.0 ** min(self._failures - 1, 10), BACKOFF_SEC_MAX)
        asked = min(outcome.pause_sec or 0.0, PAUSE_SEC_MAX)
        return max(rest * (0.5 + self._rng.random()), asked)


def _asks_for_change(text: str) -> bool:
    """Tell whether a text is a command, readable or not, and no mere question."""
    if not is_command(text):
        return False
    try:
        return not isinstance(read(text), Ask)
    except CommandError:
        return True
