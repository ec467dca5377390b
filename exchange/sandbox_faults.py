"""Faults of the sandbox: what goes wrong between a client and the venue, on demand.

Pure and seeded. A fault is drawn once per request; what it does to the answer is in
`exchange/sandbox_venue.py`, waiting is for whoever carries requests.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from core.record import Record, replace
from exchange.rates import chance

WAIT_MAX_SEC = 600.0
DEFAULT_WAIT_SEC = 5.0
BOTH_SIDES = ("", "public", "private")


class FaultKind(StrEnum):
    """What goes wrong."""

    LOST_REQUEST = "lost_request"  # not executed, the connection closed
    LOST_RESPONSE = "lost_response"  # executed, the connection closed
    REPLAYED = "replayed"  # the same bytes processed twice, the second answer given
    DELAYED = "delayed"  # processed only after `seconds`
    SLOW = "slow"  # processed at once, answered after `seconds`
    ERROR_BEFORE = "error_before"  # 502, not executed
    ERROR_AFTER = "error_after"  # 502, executed
    HTML = "html"  # executed, a page instead of JSON
    TRUNCATED = "truncated"  # executed, half of the JSON
    NULL_RESULT = "null_result"  # executed, no error and no result
    HUGE = "huge"  # executed, the answer with more blanks behind it than any answer has bytes
    UNAVAILABLE_BEFORE = "unavailable_before"  # EService:Unavailable, not executed
    UNAVAILABLE_AFTER = "unavailable_after"  # EService:Unavailable, executed
    RATE_LIMIT = "rate_limit"  # EAPI:Rate limit exceeded, not executed
    LOCKOUT = "lockout"  # the key is locked out from now on
    NONCE = "nonce"  # EAPI:Invalid nonce, not executed
    TEXT = "text"  # `text` as the error string, not executed
    ENDED = "ended"  # executed, and the order it placed is ended by the venue with `text` as reason


TIMED = (FaultKind.DELAYED, FaultKind.SLOW)


class Fault(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault: of which methods (none: all), how often (None: for ever), how likely."""

    kind: FaultKind
    methods: tuple[str, ...] = ()
    side: str = "private"  # private, public, or both by an empty text
    count: int | None = None
    probability: float = 1.0
    seconds: float = DEFAULT_WAIT_SEC
    status: int = 502
    text: str = ""


class Faults:
    """The faults that are on. `drawn` counts what happened, by kind."""

    def __init__(self, seed: int, faults: Sequence[Fault] = ()) -> None:
        self._seed = seed
        self._draws = 0
        self._faults: list[Fault] = []
        self.drawn: dict[str, int] = {}
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Switch a fault on. Raises ValueError for one out of bounds."""
        if not 0.0 <= fault.probability <= 1.0:
            raise ValueError(f"probability {fault.probability:g} must be from 0 to 1")
        if not 0.0 <= fault.seconds <= WAIT_MAX_SEC:
            raise ValueError(f"seconds {fault.seconds:g} must be from 0 to {WAIT_MAX_SEC:g}")
        if fault.count is not None and fault.count < 1:
            raise ValueError(f"count {fault.count} must be at least 1, or left out")
        if fault.side not in BOTH_SIDES:
            raise ValueError(f"side {fault.side!r} must be private, public or empty for both")
        if not 400 <= fault.status <= 599:
            raise ValueError(f"status {fault.status} must be from 400 to 599")
        if fault.kind in (FaultKind.TEXT, FaultKind.ENDED) and not fault.text:
            raise ValueError(f"a fault of the kind {fault.kind} needs a text")
        self._faults.append(fault)

    def clear(self) -> None:
        """Switch all faults off."""
        self._faults.clear()

    def active(self) -> tuple[Fault, ...]:
        """Return the faults that are on, with what is left of their counts."""
        return tuple(self._faults)

    def draw(self, side: str, method: str, *, is_timed: bool = False) -> Fault | None:
        """Return the fault that befalls a request, used up by one; None for none.

        `is_timed`: of those that take time; otherwise of all others.
        """
        for place, fault in enumerate(self._faults):
            if (fault.kind in TIMED) is not is_timed:
                continue
            if fault.side not in ("", side) or (fault.methods and method not in fault.methods):
                continue
            self._draws += 1
            if chance(self._seed, f"fault/{self._draws}") >= fault.probability:
                continue
            if fault.count is not None:
                left = fault.count - 1
                self._faults[place : place + 1] = [replace(fault, count=left)] if left else []
            self.drawn[fault.kind] = self.drawn.get(fault.kind, 0) + 1
            return fault
        return None


def read_faults(told: Any) -> tuple[Fault, ...]:
    """Return the faults that a JSON list tells. Raises ValueError in plain words."""
    if not isinstance(told, list):
        raise ValueError('faults must be a list such as [{"kind": "lost_response", "count": 1}]')
    try:
        return tuple(msgspec.convert(item, Fault) for item in told)
    except msgspec.ValidationError as error:
        kinds = ", ".join(FaultKind)
        raise ValueError(f"{error}; kinds are {kinds}") from None
