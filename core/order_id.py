"""Client order ids that can be read back: a 128-bit value written as a UUID.

Layout, most significant first: 32 bits tag of the bot (hash of name and pair), 24 bits epoch of the
store, 14 slot, 1 leg, 2 role, 24 cycle, 12 attempt, 3 version, 16 checksum. Ids are compared by
value, never by text. Nothing here may depend on a store or an exchange.
"""

import hashlib
import uuid
from enum import IntEnum

from core.domain import Role, TradeId
from core.record import Record

VERSION = 1
_CHECK_BITS = 16
_FIELDS = (
    ("tag", 32),
    ("epoch", 24),
    ("slot", 14),
    ("leg", 1),
    ("role", 2),
    ("cycle", 24),
    ("attempt", 12),
    ("version", 3),
)
LIMITS = {name: 1 << bits for name, bits in _FIELDS}


class _RoleCode(IntEnum):
    ENTRY = 0
    EXIT = 1
    RECOVERY = 2


class OrderPlace(Record, frozen=True, kw_only=True, gc=False):
    """What a client order id names: whose it is, and its place in the grid."""

    tag: int
    epoch: int
    slot: int
    trade_id: TradeId
    role: Role
    cycle: int
    attempt: int


def bot_tag(bot_name: str, pair: str) -> int:
    """Return the 32-bit tag shared by every database of the bot `bot_name` on `pair`."""
    return int.from_bytes(hashlib.sha256(f"{bot_name}\n{pair}".encode()).digest()[:4])


def _checksum(body: int) -> int:
    return int.from_bytes(hashlib.sha256(body.to_bytes(14)).digest()[:2])


def encode(place: OrderPlace) -> str:
    """Return the client order id of `place` as UUID text. Raises ValueError if out of range."""
    numbers = {
        "tag": place.tag,
        "epoch": place.epoch,
        "slot": place.slot,
        "leg": 0 if place.trade_id is TradeId.A else 1,
        "role": int(_RoleCode[place.role.name]),
        "cycle": place.cycle,
        "attempt": place.attempt,
        "version": VERSION,
    }
    body = 0
    for name, bits in _FIELDS:
        if not 0 <= numbers[name] < LIMITS[name]:
            raise ValueError(f"{name} {numbers[name]} does not fit into {bits} bits")
        body = body << bits | numbers[name]
    return str(uuid.UUID(int=body << _CHECK_BITS | _checksum(body)))


def decode(text: str) -> OrderPlace | None:
    """Return what the client order id `text` names, or None if it is not one of this format."""
    try:
        value = uuid.UUID(text).int
    except (ValueError, AttributeError, TypeError):
        return None
    body, check = value >> _CHECK_BITS, value & ((1 << _CHECK_BITS) - 1)
    if check != _checksum(body):
        return None
    numbers: dict[str, int] = {}
    rest = body
    for name, bits in reversed(_FIELDS):
        numbers[name] = rest & ((1 << bits) - 1)
        rest >>= bits
    if numbers["version"] != VERSION or numbers["role"] > _RoleCode.RECOVERY:
        return None
    return OrderPlace(
        tag=numbers["tag"],
        epoch=numbers["epoch"],
        slot=numbers["slot"],
        trade_id=TradeId.B if numbers["leg"] else TradeId.A,
        role=Role[_RoleCode(numbers["role"]).name],
        cycle=numbers["cycle"],
        attempt=numbers["attempt"],
    )
