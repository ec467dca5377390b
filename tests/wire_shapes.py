"""Shapes of JSON answers: keys and types, so that ours can be compared with recorded ones."""

from typing import Any


def shape(value: Any) -> Any:
    """Reduce a JSON value to its keys and types; a number written as text is a type of its own.

    A list whose items are all alike becomes a list of that one shape, any other keeps the shape
    of each place. Integers and floats are told apart, true and false from both.
    """
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        found = [shape(item) for item in value]
        is_alike = all(item == found[0] for item in found)
        return found[:1] if is_alike else found
    if isinstance(value, str):
        return "number text" if _is_number(value) else "text"
    return "null" if value is None else type(value).__name__


def _is_number(text: str) -> bool:
    whole, _, fraction = text.removeprefix("-").partition(".")
    return (whole + fraction).isascii() and (whole + fraction).isdecimal()
