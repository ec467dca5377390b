"""One environment variable: its kind and bounds, what is allowed in words, and its value from text.

Nothing here reads the environment or a file of settings: see `config.py`, which holds the table.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.hosts import is_here
from core.record import Record
from core.secret_text import SECRET_ALLOWED, SECRET_RECIPE, is_secret

KEY_LENGTH_MIN = 4  # servers of one's own take what one likes
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
TIME_MIN, TIME_MAX = 1_230_768_000.0, 4_102_444_800.0  # 2009 and 2100 begin, UTC
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)


class Variable(Record, frozen=True, kw_only=True):
    """One environment variable; `target` is the field it sets, `params.` a decision."""

    name: str
    kind: str  # decimal, integer, float, seconds, flag, choice, text, time, path, secret, url, …
    default: str
    meaning: str
    section: str
    target: str
    low: str | None = None
    high: str | None = None
    choices: tuple[str, ...] = ()
    word: str | None = None  # the one word that is allowed instead of a number
    word_value: Decimal | None = None

    @property
    def is_secret(self) -> bool:
        """Tell whether the value is masked wherever it is shown, and may come from a file."""
        return self.kind in ("secret", "secret_url", "api_key")

    @property
    def is_simulation(self) -> bool:
        """Tell whether it has no effect where orders are sent."""
        simulated = ("PAPER_", "REPLAY_", "SYNTHETIC_")
        return self.name.startswith(simulated) or self.name in ("SEED", "MODEL_LATENCY_SEC")

    def allowed(self) -> str:
        """Return what is allowed, in plain words."""
        bounds = f" from {self.low} to {self.high}" if self.low is not None else ""
        text = {
            "decimal": "a number" + bounds,
            "float": "a number" + bounds,
            "integer": "a whole number" + bounds,
            "seconds": "seconds" + bounds,
            "flag": "true or false",
            "choice": "one of " + ", ".join(self.choices),
            "list": "distinct names of at most 64 characters, separated by commas",
            "path": "the name of a file",
            "time": "a date, or date and time, as 2024-08-01 or 2024-08-01 12:30 (UTC unless it "
            "says otherwise), or seconds since 1970, from 2009 to 2100",
            "url": "an address https://…, or http://… of this machine",
            "secret_url": "an address https://…, or http://… of this machine",
            "api_key": f"{KEY_LENGTH_MIN} to 1024 visible ASCII characters without white space",
            "secret": SECRET_ALLOWED,
        }.get(self.kind, "text")
        return f"{text}, or {self.word}" if self.word else text


def value_of(variable: Variable, text: str, folder: Path) -> Any:
    """Return the value that `text` means, None for an empty one. Raises ValueError.

    A relative path is relative to `folder`.
    """
    if not text:
        return () if variable.kind == "list" else None
    if variable.word is not None and text.lower() == variable.word:
        return variable.word_value
    match variable.kind:
        case "decimal" | "integer" | "float" | "seconds":
            return _number(variable, text)
        case "flag" | "choice":
            words = {"true": True, "false": False} if variable.kind == "flag" else {}
            known = {c.lower(): c for c in variable.choices} | words
            if text.lower() not in known:
                raise ValueError(f"must be {variable.allowed()}")
            return known[text.lower()]
        case "time":
            return _time(variable, text)
        case "list":
            return _names(variable, text)
        case "secret":
            return _secret(variable, text)
        case "api_key":
            if not re.fullmatch(rf"[!-~]{{{KEY_LENGTH_MIN},1024}}", text) or text.startswith("<"):
                raise ValueError(f"must have {variable.allowed()}, as it was issued")
            return text
        case "url" | "secret_url":
            return _url(variable, text)
        case _:
            return _text(variable, text, folder)


def _number(variable: Variable, text: str) -> Any:
    if len(text) > 40 or not _NUMBER.fullmatch(text):
        raise ValueError(f"must be {variable.allowed()}")
    number = Decimal(text)
    is_inside = Decimal(variable.low or 0) <= number <= Decimal(variable.high or "Infinity")
    if not is_inside or (variable.kind == "integer" and number != number.to_integral_value()):
        raise ValueError(f"must be {variable.allowed()}")
    if variable.kind == "integer":
        return int(number)
    return number if variable.kind == "decimal" else float(number)


def _time(variable: Variable, text: str) -> float:
    """Return seconds since the epoch."""
    problem = ValueError(f"must be {variable.allowed()}")
    try:
        if _TIME.fullmatch(text):
            told = datetime.fromisoformat(text)
            seconds = (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
        elif len(text) <= 40 and _NUMBER.fullmatch(text):
            seconds = float(text)
        else:
            raise problem
    except ValueError:
        raise problem from None
    if not TIME_MIN <= seconds < TIME_MAX:
        raise problem
    return seconds


def _names(variable: Variable, text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(set(parts)) < len(parts) or any(len(x) > 64 or not x.isprintable() for x in parts):
        raise ValueError(f"must be {variable.allowed()}")
    return parts


def _secret(variable: Variable, text: str) -> str:
    if not is_secret(text):
        is_own = variable.name == "DASHBOARD_TOKEN"  # the others are given, not made up
        source = (
            f"make one: {SECRET_RECIPE}" if is_own else "copy it whole from where it was issued"
        )
        raise ValueError(f"must have {variable.allowed()} and not be a placeholder; {source}")
    return text


def _url(variable: Variable, text: str) -> str:
    problem = ValueError(f"must be {variable.allowed()}, without a user name or a fragment")
    if not re.fullmatch(r"[!-~]{1,1024}", text) or "#" in text or "\\" in text:
        raise problem
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise problem from None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_here(host))
    is_named = re.fullmatch(r"[a-z0-9_.:-]{1,253}", host, re.ASCII) is not None
    if not is_safe or not is_named or "@" in parts.netloc or port == 0:
        raise problem
    return text


def _text(variable: Variable, text: str, folder: Path) -> Any:
    if len(text) > 1024 or not text.isprintable() or text.startswith("<"):
        raise ValueError("must be plain text on one line, not a placeholder")
    if variable.kind == "text":
        return text
    path = folder / text
    if Path(text).name in ("", "..") or path_is(path, "dir"):
        raise ValueError(f"must be {variable.allowed()}, not a folder")
    return path


def path_is(path: Path, what: str) -> bool:
    """Tell whether `path` is a "dir", a "file", or "there"; False where that is not found out."""
    looks = {"dir": path.is_dir, "file": path.is_file, "there": path.exists}
    try:
        return looks[what]()
    except (OSError, ValueError):  # a name too long, a folder closed to us
        return False
