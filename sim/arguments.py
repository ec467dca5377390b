"""What a program's arguments may be, in words: for argparse's `type`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from settings.table import BY_NAME
from settings.variable import value_of


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} must be from {low:g} to {high:g}")
        return value

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {low} to {high}")
        return int(text)

    return read


def assignment(text: str) -> tuple[str, str]:
    """Return name and value of NAME=VALUE."""
    name, sign, value = text.partition("=")
    if not sign or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    return name, value


def date(text: str) -> float:
    """Return an instant, as REPLAY_FROM takes it, in seconds since the epoch."""
    try:
        return float(value_of(BY_NAME["REPLAY_FROM"], text, Path()))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
