"""HTTP answers and refusals as values, and strict reading of what a client sends.

Nothing here opens a socket or knows a route. Look next at `dashboard.py`.
"""

import gzip
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from email.message import Message
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from core.record import Record, plain, replace

_SECURITY = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "no-store"),
)
_CSP_API = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CSP_PAGE = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_PACK_MIN = 1024
_UNUSABLE = object()


class Answer(Record, frozen=True, kw_only=True):
    """What a route sends back.

    A body that `is_endless` follows without its length, until the connection ends; `parts`, a body
    that is made while it is sent, goes in chunks where it is not.
    """

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    csp: str = _CSP_API
    closes: bool = False
    is_endless: bool = False
    parts: Iterable[bytes] | None = None


class Kept(Protocol):
    """Content that was made, and compressed, before anybody asked."""

    @property
    def body(self) -> bytes: ...
    @property
    def gzip_body(self) -> bytes: ...
    @property
    def etag(self) -> str: ...


class Refusal(Exception):
    """A request that gets a constant error body; `closes` when the connection must not go on."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        closes: bool = False,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.answer = json_answer(
            status,
            {"error": message} if field is None else {"error": message, "field": field},
            headers=headers,
            closes=closes,
        )


def json_answer(
    status: int,
    value: object,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    closes: bool = False,
) -> Answer:
    """Return `value` as a JSON answer, decimals as plain text."""
    body = msgspec.json.encode(_sendable(value))
    return Answer(status=status, body=body, headers=headers, closes=closes)


def _sendable(value: object) -> object:
    """Return `value` with decimals as plain text and texts that can be encoded."""
    match value:
        case Decimal():
            return plain(value)
        case str():
            return value.encode("utf-8", "replace").decode()
        case Mapping():
            return {str(key): _sendable(item) for key, item in value.items()}
        case list() | tuple():
            return [_sendable(item) for item in value]
        case _:
            return value


def encoded(answer: Answer, *, without_body: bool = False) -> bytes:
    """Return head and body of `answer` as the bytes of one send; its `parts` are not among them."""
    phrase = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {phrase}"]
    if answer.status != HTTPStatus.NOT_MODIFIED:
        lines.append(f"Content-Type: {answer.content_type}")
        if answer.parts is not None and not answer.is_endless:
            lines.append("Transfer-Encoding: chunked")
        elif not answer.is_endless:
            lines.append(f"Content-Length: {len(answer.body)}")
    headers = {**dict(_SECURITY), **dict(answer.headers)}
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Security-Policy: {answer.csp}")
    if answer.closes:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head if without_body else head + answer.body


def takes_gzip(accepted: str) -> bool:
    """Tell whether the Accept-Encoding header `accepted` allows gzip."""
    parts = (part.strip().lower().replace(" ", "") for part in accepted.split(","))
    return any(
        part == "gzip" or re.fullmatch(r"gzip;q=(1|0?\.\d*[1-9])\d*", part) for part in parts
    )


def packed(answer: Answer, accepted: str) -> Answer:
    """Return the answer compressed, when it is long and Accept-Encoding `accepted` takes that."""
    if len(answer.body) < _PACK_MIN or not takes_gzip(accepted):
        return answer
    headers = (*answer.headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return replace(answer, body=gzip.compress(answer.body, 5), headers=headers)


def kept(content: Kept, asked: Message, *, cache: str = "no-store") -> Answer:
    """Return the answer of `content` to a request with the headers `asked`.

    It is compressed where the client takes that, and 304 where it has it; `cache` is the
    Cache-Control of both.
    """
    headers = (("ETag", content.etag), ("Vary", "Accept-Encoding"), ("Cache-Control", cache))
    if content.etag in (asked.get("If-None-Match") or ""):
        return Answer(status=304, headers=headers)
    if not takes_gzip(asked.get("Accept-Encoding") or ""):
        return Answer(status=200, body=content.body, headers=headers)
    packing = ("Content-Encoding", "gzip")
    return Answer(status=200, body=content.gzip_body, headers=(*headers, packing))


def retry_after(seconds: int) -> tuple[tuple[str, str], ...]:
    """Return the header that says when to ask again."""
    return (("Retry-After", str(seconds)),)


def read_body(body: bytes) -> dict[str, Any]:
    """Return the flat JSON object in `body`, strictly; raises a refusal naming the field.

    Numbers with a point or an exponent are decimals, exactly as they were written.
    """

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            name = key.encode("utf-8", "replace").decode()[:40]
            if key in values:
                raise Refusal(400, f"{name} is given twice", field=name)
            if isinstance(value, dict | list):
                raise Refusal(400, f"{name} must be a plain value", field=name)
            if value is _UNUSABLE:
                raise Refusal(400, f"{name} must be a finite number", field=name)
            if any(isinstance(x, str) and _has_surrogate(x) for x in (key, value)):
                raise Refusal(400, f"{name} holds a lone surrogate", field=name)
            values[key] = value
        return values

    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=checked,
            parse_constant=lambda _: _UNUSABLE,
            parse_int=lambda text: int(text) if len(text) <= 15 else _UNUSABLE,
            parse_float=_exact,
        )
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON", field="body") from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body must be a JSON object", field="body")
    return value


def _exact(text: str) -> object:
    try:
        return Decimal(text) if len(text) <= 64 else _UNUSABLE
    except InvalidOperation:  # an exponent beyond what a decimal can hold
        return _UNUSABLE


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def number(query: Mapping[str, Sequence[str]], name: str, default: int, most: int) -> int:
    """Return the whole number `name` of the query, from 1 to `most`; raises 400."""
    text = query.get(name, [str(default)])[-1]
    if not re.fullmatch(r"\d{1,10}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise Refusal(400, f"{name} must be a whole number from 1 to {most}", field=name)
    return int(text)


def instant(query: Mapping[str, Sequence[str]], name: str) -> float | None:
    """Return the time `name` of the query, None if not given; raises 400."""
    if name not in query:
        return None
    text = query[name][-1]
    if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
        raise Refusal(400, f"{name} must be seconds since the epoch", field=name)
    return float(text)
