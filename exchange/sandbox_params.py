"""What a request says: its bytes as parameters, each read with its bounds.

Pure and total: whatever was sent gives parameters or a SandboxError in the venue's words.
"""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from core.record import Record
from exchange.sandbox_errors import SandboxError

TEXT_MAX = 4096
FIELDS_MAX = 200
WHOLE_MAX = 2**63 - 1
NUMBER_MAX = Decimal(10**15)
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_TXID = re.compile(r"[A-Z0-9]{6}-[A-Z0-9]{5}-[A-Z0-9]{6}", re.ASCII)
FREE_TEXT_MAX = 18


class Params:
    """The parameters of one request; a form has texts only, a JSON body may have numbers too."""

    def __init__(self, fields: Mapping[str, Any], *, is_form: bool = True) -> None:
        self.fields = fields
        self.is_form = is_form

    def text(self, name: str) -> str | None:
        """Return a text, None where it is missing or empty. Raises SandboxError for no text."""
        value = self.fields.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return ",".join(self._item(name, item) for item in value) or None
        return self._item(name, value)

    def required(self, name: str) -> str:
        """Return a text that must be there."""
        text = self.text(name)
        if text is None:
            raise invalid(name)
        return text

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean: every text but empty, 0 and false in any case is true.

        Years ago the venue took "False" in a form for true; a client of today sends it with every
        order (python-kraken-sdk: validate, reduce_only), and its orders are placed.
        """
        text = self.text(name)
        return default if text is None else text.lower() not in ("false", "0")

    def decimal(self, name: str) -> Decimal | None:
        """Return a plain decimal number, None where it is missing."""
        text = self.text(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            raise invalid(name)
        number = Decimal(text)
        if abs(number) > NUMBER_MAX:
            raise invalid(name)
        return number

    def whole(self, name: str, *, low: int, high: int) -> int | None:
        """Return a whole number within bounds, None where it is missing."""
        text = self.text(name)
        if text is None:
            return None
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise invalid(name)
        return int(text)

    def items(self, name: str, *, most: int) -> tuple[str, ...]:
        """Return the texts of a list, or of a text with commas; none where it is missing."""
        text = self.text(name)
        if text is None:
            return ()
        found = tuple(x.strip() for x in text.split(",") if x.strip())
        if len(found) > most:
            raise invalid(name)
        return found

    def objects(self, name: str, *, low: int, high: int) -> tuple["Params", ...]:
        """Return a list of objects of a JSON body."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise invalid(name)
        if not all(isinstance(item, dict) for item in value):
            raise invalid(name)
        return tuple(Params(item, is_form=self.is_form) for item in value)

    def texts(self) -> dict[str, str]:
        """Return every parameter as text, for the public side."""
        return {name: self.text(name) or "" for name in self.fields}

    @staticmethod
    def _item(name: str, value: Any) -> str:
        if isinstance(value, str) and len(value) <= TEXT_MAX:
            return value
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return plain_number(value)
        raise invalid(name)


class Bound(Record, frozen=True, kw_only=True):
    """One end of a time window: a time, or an id that stands for one."""

    time: float | None = None
    reference: str | None = None


def invalid(name: str) -> SandboxError:
    """Return the refusal of a parameter."""
    return SandboxError(f"EGeneral:Invalid arguments:{name}")


def plain_number(value: float | Decimal) -> str:
    """Return a JSON number as plain decimal text."""
    try:
        return format(Decimal(str(value)), "f")
    except InvalidOperation:
        return str(value)


def read_body(content_type: str, body: bytes) -> Params:
    """Return the parameters of a body, form or JSON by its content type. Raises SandboxError."""
    if "json" in content_type.lower():
        try:
            fields = msgspec.json.decode(body or b"{}")
        except msgspec.DecodeError:
            raise SandboxError("EAPI:Bad request") from None
        if not isinstance(fields, dict) or len(fields) > FIELDS_MAX:
            raise SandboxError("EAPI:Bad request")
        return Params(fields, is_form=False)
    try:
        return read_query(body.decode("ascii"))
    except UnicodeDecodeError:
        raise SandboxError("EAPI:Bad request") from None


def read_query(text: str) -> Params:
    """Return the parameters of a query or a form; the last of a name counts, as for the venue."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise SandboxError("EAPI:Bad request") from None
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name.endswith("[]"):
            fields.setdefault(name[:-2], []).append(value)
        else:
            fields[name] = value
    return Params(fields)


def client_id(params: Params, name: str = "cl_ord_id") -> str | None:
    """Return a client order id by its value: UUID text for a 128-bit form, else as told."""
    text = params.text(name)
    return None if text is None else client_id_value(text)


def client_id_value(text: str) -> str:
    """Return the value of a client order id. Raises SandboxError for a form that is not taken."""
    if _HEX.fullmatch(text):
        return str(uuid.UUID(text))
    if len(text) <= FREE_TEXT_MAX and text.isascii() and text.isprintable():
        return text
    raise invalid("cl_ord_id")


def is_txid(text: str) -> bool:
    """Tell whether a text has the form of an order, trade or ledger id."""
    return _TXID.fullmatch(text) is not None


def bound(params: Params, name: str) -> Bound | None:
    """Return one end of a window: unix seconds or an id."""
    text = params.text(name)
    if text is None:
        return None
    if is_txid(text):
        return Bound(reference=text)
    if not _NUMBER.fullmatch(text):
        raise invalid(name)
    return Bound(time=float(text))


def rfc3339(params: Params, name: str) -> float | None:
    """Return a time given as RFC 3339 with its offset, in seconds since the epoch."""
    text = params.text(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(name) from None
    if moment.tzinfo is None or "T" not in text.upper():
        raise invalid(name)
    return moment.astimezone(UTC).timestamp()
