"""Who may ask: the token, sessions, the lock-out of addresses that guess, commands sent twice.

Tables are bounded and die with the process: after a restart everybody logs in again.
"""

import errno
import hashlib
import hmac
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from core.commands import Command
from core.hosts import is_here
from core.record import Record
from core.secret_text import SECRET_ALLOWED, SECRET_RECIPE, is_secret
from web.message import Refusal, retry_after

log = logging.getLogger("dashboard")

SESSION_SEC = 12 * 3600.0
FAILURES_MAX = 5
FAILURE_SEC = 60.0
REMEMBER_SEC = 600.0
REPLY_SEC = 5.0
_TABLE_MAX = 256


class IdReused(Exception):
    """The id of a command was used for another command before; nothing was done."""


class Reply(Record, frozen=True, kw_only=True):
    """The answer to a command: an HTTP status, a sentence, and what changed.

    `field` is the one at fault where the status is 400.
    """

    status: int
    message: str
    command_id: str
    field: str = ""
    changed: dict[str, Any] = msgspec.field(default_factory=dict)


def access_problems(host: str, token: str | None) -> list[str]:
    """Return why the dashboard may not be bound to `host` with `token`; empty if it may."""
    if token is None:
        if is_here(host):
            return []
        return [f"DASHBOARD_TOKEN must be set to bind the dashboard to {host}, beyond loopback"]
    if not is_secret(token):
        must = f"must have {SECRET_ALLOWED} and not be a placeholder"
        return [f"DASHBOARD_TOKEN {must}; make one: {SECRET_RECIPE}"]
    return []


def binding_problem(host: str, port: int, error: OSError | UnicodeError) -> str:
    """Return what to do where the server cannot be bound to `host` and `port`."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return (
            f"PORT={port}: another program uses it on {host} (this bot already, perhaps: python "
            "bot.py status); set PORT to another number, or stop that program"
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"PORT={port}: this user may not open it on {host}; set PORT to 1024 or more"
    is_unknown = isinstance(error, socket.gaierror | UnicodeError)
    if is_unknown or number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return f"HOST={host}: no address of this machine; set HOST to 127.0.0.1 or to one it has"
    return f"HOST={host}, PORT={port}: cannot be opened: {error}; set HOST or PORT differently"


class Gate:
    """Token, sessions and the lock-out of addresses that guess."""

    def __init__(self, token: str | None, monotonic: Callable[[], float]) -> None:
        self.is_open = token is None
        self._digest = _digest(token or secrets.token_urlsafe(32))
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sessions: dict[bytes, float] = {}
        self._failures: dict[str, list[float]] = {}

    def token_is_right(self, presented: str, address: str) -> bool:
        """Compare in constant time; raises 429 while the address is locked out."""
        now = self._monotonic()
        with self._lock:
            recent = [at for at in self._failures.get(address, ()) if now - at < FAILURE_SEC]
            if len(recent) >= FAILURES_MAX:
                raise Refusal(429, "too many failures; wait a minute", headers=retry_after(60))
            is_right = hmac.compare_digest(_digest(presented), self._digest)
            if not is_right:
                self._failures[address] = [*recent, now]
                _shrink(self._failures)
        if not is_right and len(recent) + 1 == FAILURES_MAX:
            log.warning("%d wrong tokens from %s: refused for a minute", FAILURES_MAX, address)
        return is_right

    def open_session(self) -> str:
        """Return the id of a new session."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(session)] = self._monotonic() + SESSION_SEC
            _shrink(self._sessions)
        return session

    def session_holds(self, session: str) -> bool:
        """Tell whether the session exists and was used in the last 12 h; keeps it alive."""
        key, now = _digest(session), self._monotonic()
        with self._lock:
            until = self._sessions.pop(key, None)
            if until is None or until < now:
                return False
            self._sessions[key] = now + SESSION_SEC
            return True

    def close_session(self, session: str) -> None:
        """Forget the session."""
        with self._lock:
            self._sessions.pop(_digest(session), None)


class Memory:
    """Makes commands idempotent: the same id within ten minutes gets the first reply."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Command, Future[Reply]]] = {}

    def once(self, command_id: str, command: Command, submit: Callable[[], Reply]) -> Reply:
        """Return the reply of `submit`, called once for `command_id`; raises what it raises.

        Raises IdReused for a command that is not the one first sent under the id.
        """
        now = self._monotonic()
        with self._lock:
            kept = self._kept.get(command_id)
            is_first = kept is None or now - kept[0] > REMEMBER_SEC
            if kept is None or is_first:
                kept = (now, command, Future())
                self._kept.pop(command_id, None)
                self._kept[command_id] = kept
                _shrink(self._kept)
        if kept[1] != command:
            raise IdReused
        if is_first:
            try:
                kept[2].set_result(submit())
            except BaseException as error:
                kept[2].set_exception(error)
                with self._lock:  # not done, so it may be asked for again
                    self._kept.pop(command_id, None)
                raise
        return kept[2].result(timeout=REPLY_SEC)


def _shrink(table: dict[Any, Any]) -> None:
    while len(table) > _TABLE_MAX:
        table.pop(next(iter(table)))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
