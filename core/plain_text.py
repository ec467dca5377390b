"""Harmless text: what strangers or models have written, as it may be kept, shown and sent."""

import unicodedata

TEXT_MAX = 500
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_text(value: object, most: int = TEXT_MAX) -> str:
    """Return `value` as harmless text: no control or direction marks, at most `most` long."""
    text = str(value)[: 2 * most].encode("utf-8", "replace").decode()
    kept = "".join(
        " " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char
        for char in text
        if char not in _BIDI
    )
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def in_words(name: str) -> str:
    """Return a name of the program's as words: daily_loss is "daily loss"."""
    return str(name).replace("_", " ")


def counted(number: int, noun: str, several: str | None = None) -> str:
    """Return a number of things in words: 1 day, 2,000 days; `several` where it is no mere s."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"
