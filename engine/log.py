"""Logging: one line per event, as text or JSON, to standard error. Secrets never get here."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_PATH_MIN = 8  # a shorter path of an address is no secret, and may be anywhere in a text


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


class _Masking(logging.Formatter):
    """Another formatter's lines with every secret masked, whatever brought it there."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        found = {text for secret in secrets for text in (secret, _request_path(secret))}
        found |= {json.dumps(text)[1:-1] for text in found}
        self._masked = sorted(found - {""}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        for secret in self._masked:
            text = text.replace(secret, "***")
        return text


def _request_path(secret: str) -> str:
    """Return what an HTTP client shows of an address that is a secret; empty for others."""
    if "://" not in secret:
        return ""
    parts = urlsplit(secret)
    shown = parts.path + (f"?{parts.query}" if parts.query else "")
    return shown if len(shown) >= _PATH_MIN else ""


def configure(level: str, style: str, secrets: Sequence[str] = ()) -> None:
    """Send log lines of at least `level` to standard error; `style` is text or json.

    The values in `secrets` are masked in every line. The HTTP library's own lines below ERROR are
    left out: they show addresses, and those of a bot hold its token.
    """
    handler = logging.StreamHandler(sys.stderr)
    inner = _JsonFormatter() if style == "json" else logging.Formatter(_TEXT)
    handler.setFormatter(_Masking(inner, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("urllib3").setLevel(logging.ERROR)
