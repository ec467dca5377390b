"""The structural shape of JSON answers, for comparing ours with Kraken's.

A shape says which keys there are and what kind of value each holds: a number told as text and a
number are different kinds. Ids as keys and the length of lists do not matter.
"""

import json
import re
from decimal import Decimal
from typing import Any

ID = "<id>"
_ID_KEY = re.compile(r"[A-Z0-9]{6}-[A-Z0-9]{5}-[A-Z0-9]{6}")
_NUMERAL = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def shape(value: object) -> Any:
    """Return the shape of a JSON value, itself of dictionaries, lists and texts.

    Texts are `numeral` or `text`; objects keep their keys, those keyed by transaction ids have the
    one key `<id>`; a list of scalars of several kinds is a row, told column by column; every other
    list is told as the kinds of its items.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float() | Decimal():
            return "number"
        case str():
            return "numeral" if _NUMERAL.fullmatch(value) else "text"
        case dict() if value and all(_ID_KEY.fullmatch(str(key)) for key in value):
            return {ID: _kinds([shape(item) for item in value.values()])}
        case dict():
            return {str(key): shape(value[key]) for key in sorted(value)}
        case list() | tuple():
            shapes = [shape(item) for item in value]
            if all(isinstance(x, str) for x in shapes) and len(set(shapes)) > 1:
                return {"row": shapes}
            return {"list of": _kinds(shapes)}
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _kinds(shapes: list[Any]) -> list[Any]:
    """Return each of `shapes` once, in an order of their own."""
    once = {json.dumps(x, sort_keys=True) for x in shapes}
    return [json.loads(x) for x in sorted(once)]
