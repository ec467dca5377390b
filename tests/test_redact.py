"""Known secrets are masked in whatever is logged."""

import json
import logging
from collections.abc import Iterator

import pytest

from core.redact import MASK, redacted
from engine import log

SECRET = "kQH5HW/8p1uGOVjbgWA7+amGO8lsSUX=="
KEY = 'odd"key\\with\nü'


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        f"key={SECRET}!",
        f"{SECRET}{SECRET}",
        "in a form: kQH5HW%2F8p1uGOVjbgWA7%2BamGO8lsSUX%3D%3D",
        "in a path: kQH5HW/8p1uGOVjbgWA7%2BamGO8lsSUX%3D%3D",
        f"shown {KEY!r}",
        json.dumps({"key": KEY}),
        json.dumps({"key": KEY}, ensure_ascii=False),
    ],
)
def test_every_spelling_is_masked(text: str) -> None:
    """Plain, escaped and percent-coded forms of a secret all go."""
    shown = redacted(text, [SECRET, KEY])
    assert MASK in shown
    assert "GOVjbg" not in shown
    assert "with" not in shown


def test_longer_secret_goes_whole() -> None:
    """A secret that begins with another one leaves no rest."""
    assert redacted("abcdefgh", ["abcd", "abcdefgh"]) == MASK


def test_empty_and_tiny_secrets_are_not_looked_for() -> None:
    """A setting that is empty, or a letter, does not turn the log into stars."""
    assert redacted("abc", ["", "a", "abc"]) == "abc"


@pytest.mark.parametrize("style", ["text", "json"])
def test_log_lines_show_no_secret(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Message, arguments, exceptions, their causes and misfits are all masked."""
    log.configure("debug", style, secrets=(SECRET, KEY))
    logger = logging.getLogger("any")
    logger.warning("plain %s", SECRET)
    logger.warning("mapped %(key)s", {"key": KEY})
    logger.warning("misfit %d", SECRET)
    logger.warning(f"misfit {SECRET} %s %s", "one")
    try:
        try:
            raise KeyError(KEY)
        except KeyError as error:
            raise ValueError(f"refused {SECRET}") from error
    except ValueError:
        logger.exception("broke", stack_info=True)
    lines = capsys.readouterr().err
    assert lines.count(MASK) >= 5
    assert "ValueError" in lines
    assert "misfit" in lines
    assert "GOVjbg" not in lines
    assert "odd" not in lines
