"""Logging: one line per event, as text or JSON, to standard error, with known secrets masked.

No secret should get here; the mask is for what a library's error text lets slip.
"""

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from core.redact import redacted

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _MaskingFormatter(logging.Formatter):
    """Masks the finished line: message, arguments, exception and stack alike."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = frozenset(secrets)

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = self._inner.format(record)
        except (TypeError, ValueError, KeyError):
            # logging itself would print the arguments, unmasked
            line = f"{record.levelname} {record.name}: arguments do not fit: {record.msg!s}"
        return redacted(line, self._secrets)


def configure(level: str, style: str, *, secrets: Iterable[str] = ()) -> None:
    """Send log lines of at least `level` to standard error; `style` is text or json.

    Each of `secrets` is masked wherever a line would show it (`core.redact.redacted`). The HTTP
    libraries' own lines below ERROR are left out: they show addresses, which may hold a token.
    """
    handler = logging.StreamHandler(sys.stderr)
    shape = _JsonFormatter() if style == "json" else logging.Formatter(_TEXT)
    handler.setFormatter(_MaskingFormatter(shape, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in ("urllib3", "httpx", "httpcore"):
        logging.getLogger(library).setLevel(logging.ERROR)
