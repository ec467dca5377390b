"""The base of every value that is stored, sent or compared.

Records are frozen, keyword-only and slotted (`docs/decisions/001-msgspec-records.md` says why they
are msgspec structs). Nothing here may know what a record means.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Self

import msgspec

REGIME_IDS = {"BEARISH": 0, "RANGING": 1, "BULLISH": 2}
RegimeTag = Annotated[int, msgspec.Meta(ge=0, le=2)] | None


def parse_regime(value: object) -> int | None:
    """Return the regime id 0, 1 or 2 that `value` means, or None for everything else.

    Accepts None, the integers 0, 1, 2 and the legacy texts BEARISH, RANGING, BULLISH in any case.
    """
    if isinstance(value, str):
        return REGIME_IDS.get(value.strip().upper())
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1, 2):
        return value
    return None


def plain(value: Decimal) -> str:
    """Return `value` as plain decimal text without exponent, as stored and sent."""
    return format(value, "f")


def exact(value: Decimal) -> str:
    """Return `value` as plain text without superfluous zeros, for reading."""
    text = plain(value)
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def rounded(value: Decimal, decimals: int) -> str:
    """Return `value` rounded half even, as `exact` writes it."""
    return exact(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN))


def _normalised(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {
            key: parse_regime(item) if key == "regime_at_entry" else _normalised(item)
            for key, item in data.items()
        }
    if isinstance(data, list | tuple):
        return [_normalised(item) for item in data]
    return data


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen value with a lossless dictionary form (decimals as text, tuples as lists)."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain dictionaries, lists, texts and numbers."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record that `data` describes.

        Missing fields take their defaults, which are the conservative values; unknown fields are
        ignored. Raises msgspec.ValidationError naming the field when a value cannot be read.
        """
        return msgspec.convert(_normalised(data), cls, str_keys=True)


replace = msgspec.structs.replace
