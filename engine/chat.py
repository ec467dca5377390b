"""The words of a chat: what an operator typed as a command, and what is answered. Pure.

`/set_profit_pct slot=1 value=2.0` becomes the same command as the page's button; the bounds and
the refusals are those of `core/commands.py`. Who may type is decided in `engine/telegram.py`.
"""

import shlex

from core.commands import Command, CommandError, parse_words, usage
from core.record import Record

TYPED_MAX = 500
EXAMPLE = "/set_profit_pct slot=1 value=2.0"


class Ask(Record, frozen=True, kw_only=True):
    """A question that changes nothing: help or status."""

    about: str


def is_command(text: str) -> bool:
    """Tell whether a text is meant as a command."""
    return text.startswith("/")


def addressee(text: str) -> str | None:
    """Return the bot's name in `/pause@name`, or None where there is none."""
    first = (text.split(maxsplit=1) or [""])[0]
    _, at, name = first.partition("@")
    return name if at else None


def read(text: str) -> Command | Ask:
    """Return what the typed command `text` asks for. Raises CommandError in plain words."""
    if len(text) > TYPED_MAX:
        raise CommandError("action", f"a command has at most {TYPED_MAX} characters")
    try:
        first, *rest = shlex.split(text)
    except ValueError:  # an open quotation, or nothing at all
        raise CommandError("action", f"the quotes do not match; write it as {EXAMPLE}") from None
    name = first.removeprefix("/").partition("@")[0].lower()
    if name in ("help", "start", "status"):
        return Ask(about="status" if name == "status" else "help")
    words: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CommandError("action", f"{word[:40]!r} is no field=value; write it as {EXAMPLE}")
        if key in words:
            raise CommandError(key, f"{key[:40]} is given twice")
        words[key] = value
    return parse_words(name, words)


def help_text() -> str:
    """Return all commands with their fields."""
    lines = [f"/{name} {fields}".rstrip() for name, fields in usage().items()]
    return "\n".join([
        "/status",
        *lines,
        "What asks for confirm says its effect first; send it again with confirm=true. "
        f"Example: {EXAMPLE}",
    ])  # fmt: skip
