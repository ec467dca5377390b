"""Checked readings of single JSON values of Kraken's answers: numbers, times, ids, rows.

Every function returns what it promises or raises WireError naming the field; none trusts a length,
an exponent or a type. Whole answers are read in `exchange/kraken_wire.py` (account) and
`exchange/kraken_public.py` (market).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from core.domain import Side
from exchange.kraken_records import WireError

TEXT_MAX = 64
# Far beyond any balance or price, and far from where arithmetic of a few such numbers gives out.
DIGITS_MAX, DECIMALS_MAX, SIZE_MAX = 40, 30, 18
TIME_MAX = 1e11
_PLAIN = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")  # as nearly all are told
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"[0-9]{1,20}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def _told(value: object) -> str:
    """Return a short, printable name of what was found instead."""
    if isinstance(value, int) and abs(value) >= 10**SIZE_MAX:
        return "a huge number"
    text = ascii(value) if isinstance(value, str | int | float | Decimal) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."


def as_mapping(value: object, field: str) -> Mapping[str, Any]:
    """Return `value` if it is an object of JSON. Raises WireError."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError(f"{field}: an object is expected, not {_told(value)}")
    return value


def as_rows(value: object, field: str) -> Sequence[Any]:
    """Return `value` if it is a list of JSON. Raises WireError."""
    if not isinstance(value, list):
        raise WireError(f"{field}: a list is expected, not {_told(value)}")
    return value


def part(parent: Mapping[str, Any], key: str, field: str) -> Any:
    """Return the member `key`. Raises WireError where it is missing."""
    if key not in parent:
        raise WireError(f"{field}: {key} is missing")
    return parent[key]


def as_number(value: object, field: str) -> Decimal:
    """Return a finite number of moderate size, told as number or as text. Raises WireError."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise WireError(f"{field}: a number is expected, not {_told(value)}")
    if isinstance(value, int) and abs(value) >= 10**SIZE_MAX:
        raise WireError(f"{field}: a number of this size is not plausible")
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise WireError(f"{field}: a number is expected, not {_told(value)}")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise WireError(f"{field}: a number is expected, not {_told(value)}") from None
    if not number.is_finite():
        raise WireError(f"{field}: a finite number is expected, not {_told(value)}")
    _, digits, exponent = number.as_tuple()
    is_plausible = (
        isinstance(exponent, int)
        and len(digits) <= DIGITS_MAX
        and -DECIMALS_MAX <= exponent <= SIZE_MAX
        and (not number or number.adjusted() < SIZE_MAX)
    )
    if not is_plausible:
        raise WireError(f"{field}: a number of this size is not plausible")
    return number


def as_amount(value: object, field: str) -> Decimal:
    """Return a number that is not negative. Raises WireError."""
    number = as_number(value, field)
    if number < 0:
        raise WireError(f"{field}: {number} is negative")
    return number.copy_abs()


def as_positive(value: object, field: str) -> Decimal:
    """Return a number above zero. Raises WireError."""
    number = as_number(value, field)
    if number <= 0:
        raise WireError(f"{field}: {number} is not above zero")
    return number


def as_count(value: object, field: str) -> int:
    """Return a whole number from 0 below 2^64, told as number or digits. Raises WireError."""
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise WireError(f"{field}: a whole number from 0 is expected, not {_told(value)}")
    return value


def as_flag(value: object, field: str) -> bool:
    """Return a truth value. Raises WireError."""
    if not isinstance(value, bool):
        raise WireError(f"{field}: true or false is expected, not {_told(value)}")
    return value


def as_time(value: object, field: str) -> float:
    """Return seconds since the epoch. Raises WireError."""
    moment = float(as_number(value, field))
    if not 0 <= moment < TIME_MAX:
        raise WireError(f"{field}: {_told(value)} is no time")
    return moment


def as_text(value: object, field: str) -> str:
    """Return printable ASCII text of 1 to 64 characters. Raises WireError."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= TEXT_MAX
        or not value.isascii()
        or not value.isprintable()
    ):
        raise WireError(f"{field}: text of 1 to {TEXT_MAX} characters is expected")
    return value


def as_id(value: object, field: str) -> str:
    """Return an id of letters, digits, dashes and underscores, at most 64. Raises WireError."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise WireError(f"{field}: an id is expected, not {_told(value)}")
    return value


def as_ids(value: object, field: str) -> tuple[str, ...]:
    """Return a list of ids, an absent one as empty. Raises WireError."""
    return () if value is None else tuple(as_id(item, field) for item in as_rows(value, field))


def as_note(value: object, field: str) -> str | None:
    """Return free text cut to 200 printable characters, None for none. Raises WireError."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise WireError(f"{field}: text is expected, not {_told(value)}")
    return "".join(x if x.isprintable() else "?" for x in value[:200]) or None


def as_side(value: object, field: str) -> Side:
    """Return the side that `buy` or `sell` names. Raises WireError."""
    if value not in ("buy", "sell"):
        raise WireError(f"{field}: buy or sell is expected, not {_told(value)}")
    return Side(str(value))


def as_client_id(value: object, field: str) -> str | None:
    """Return a client order id, None for none; a 128-bit value as lower-case UUID text.

    The exchange keeps such ids by value, so that one id may come back with or without dashes and
    in either case; anything else is returned as told. Raises WireError.
    """
    if value is None or value == "":
        return None
    text = as_text(value, field)
    bare = text.lower()
    if not _UUID.fullmatch(bare):
        return text
    bare = bare.replace("-", "")
    return "-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:]))


def as_row(value: object, least: int, field: str) -> Sequence[Any]:
    """Return a list of at least `least` columns. Raises WireError."""
    row = as_rows(value, field)
    if len(row) < least:
        raise WireError(f"{field}: {least} columns are expected, not {len(row)}")
    return row


def of_pair(parent: Mapping[str, Any], names: Collection[str], field: str) -> Any:
    """Return the only member beside `last`, if it is called by one of the pair's `names`.

    Raises WireError if there is none, more than one, or another pair's.
    """
    keys = [key for key in parent if key != "last"]
    if len(keys) != 1:
        raise WireError(f"{field}: one pair is expected, not {len(keys)}")
    if keys[0] not in names:
        raise WireError(f"{field}: the answer is about {_told(keys[0])}, not about our pair")
    return parent[keys[0]]


def among_pairs(parent: Mapping[str, Any], names: Collection[str], field: str) -> Any:
    """Return the one member that is called by one of the pair's `names`. Raises WireError."""
    keys = [key for key in parent if key in names]
    if len(keys) != 1:
        raise WireError(f"{field}: our pair is named {len(keys)} times, not once")
    return parent[keys[0]]


def as_book_side(value: object, field: str) -> tuple[tuple[Decimal, Decimal], ...]:
    """Return levels (price, volume), all above zero, at least one. Raises WireError."""
    levels = tuple(
        (as_positive(row[0], f"{field} price"), as_positive(row[1], f"{field} volume"))
        for row in (as_row(item, 2, field) for item in as_rows(value, field))
    )
    if not levels:
        raise WireError(f"{field}: there is no level")
    return levels
