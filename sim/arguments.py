"""What a program's arguments may be, in words: for argparse's `type`."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from core.ports import ConfigError
from settings.table import BY_NAME
from settings.variable import value_of

STUDY = Path(__file__).resolve().parent.parent / "data" / "sweeps.db"
ENDINGS = (".csv", ".csv.gz", ".parquet")
NAMES = ("--symbol", "--from")  # of a market, on a command line


def data_file(text: str) -> Path:
    """Return the name of a file of recorded candles or trades."""
    if not text.lower().endswith(ENDINGS):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be the name of a file that ends in {', '.join(ENDINGS)}"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode(errors="backslashreplace").decode()
        raise argparse.ArgumentTypeError(
            f"'{shown}' is no UTF-8 text; give the file another name"
        ) from None
    return Path(text)


def folder_name(text: str) -> Path:
    """Return the name of a folder."""
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a folder; it is empty")
    return Path(text)


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


def changes(option: str, given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the settings that a repeated option gives. Raises ConfigError for a name twice."""
    found: dict[str, str] = {}
    problems = []
    for name, value in given:
        if name in found:
            problems.append(f"{name}: {option} gives it twice, {found[name]} and {value}; keep one")
        found[name] = value
    if problems:
        raise ConfigError(problems)
    return found


def date(text: str) -> float:
    """Return an instant, as REPLAY_FROM takes it, in seconds since the epoch."""
    try:
        return float(value_of(BY_NAME["REPLAY_FROM"], text, Path()))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None
