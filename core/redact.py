"""Take secrets out of text before anybody sees it. Pure; what is secret is told by the caller."""

import json
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"
LENGTH_MIN = 4  # of shorter ones every other line would be full


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return `text` with every one of `secrets` masked, also as JSON, repr or a URL spell it.

    Secrets of fewer than 4 characters, empty ones among them, are not looked for.
    """
    spellings = {x for secret in secrets if len(secret) >= LENGTH_MIN for x in _spellings(secret)}
    # The longest first: a secret that holds another must not leave its other half behind.
    for spelling in sorted(spellings, key=lambda x: (-len(x), x)):
        text = text.replace(spelling, MASK)
    return text


def _spellings(secret: str) -> set[str]:
    shown = {secret, repr(secret)[1:-1]}
    as_json = {json.dumps(x, ensure_ascii=y)[1:-1] for x in shown for y in (True, False)}
    return shown | as_json | {quote(secret, safe=x, errors="replace") for x in ("", "/")}
