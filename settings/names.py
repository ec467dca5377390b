"""Names that are near one of ours: what a person may have meant.

In `.env` every unknown name is an error, so a guess may be wide. The environment is full of other
programs' names, so there a name must be near indeed before it is spoken of.
"""

import difflib
import functools
from collections.abc import Iterable

_UNITS = ("PCT", "USD", "BPS")
_LENGTH_MIN = 7
_CUTOFF = 0.85  # HOST_NAME is nearer to BOT_NAME than 0.8


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for the known name most like `name`, or nothing."""
    near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def meant_by(name: str, known: frozenset[str]) -> str | None:
    """Return the known name that `name`, found in the environment, was surely meant to be, or None.

    That is one spelt a little differently, or one whose beginning or end was left out, such as
    DAILY_LOSS_LIMIT and PROFIT_PCT. Short names (HOST, PORT, MODE) are near too many others.
    """
    text = name.upper().replace("_", "").replace("-", "")
    if len(text) < _LENGTH_MIN:
        return None
    forms, whole = _forms(known)
    if text in forms:
        return forms[text]
    near = difflib.get_close_matches(text, sorted(whole), n=1, cutoff=_CUTOFF)
    return whole[near[0]] if near else None


@functools.cache
def _forms(known: frozenset[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return known names by their parts, and by the whole, run together without underscores.

    Parts are beginnings and ends of two words at least; the shortest name that has them counts.
    """
    by_part: dict[str, str] = {}
    for name in sorted(known, key=lambda x: (-len(x), x)):
        words = name.split("_")
        starts = range(1, len(words) - 1) if words[-1] in _UNITS else ()
        for part in (*(words[: n + 1] for n in range(1, len(words))), *(words[n:] for n in starts)):
            by_part["".join(part)] = name
    return by_part, {name.replace("_", ""): name for name in known if "_" in name}
