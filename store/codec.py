"""Between records and the text that is stored. Errors name what could not be read."""

from contextlib import suppress
from typing import TypeVar

import msgspec

from core.actions import Action
from core.events import Event, event_decoder
from core.params import Params
from core.ports import Loaded, StoreError
from core.record import Record
from core.state import BotState

R = TypeVar("R", bound=Record)

_encoder = msgspec.json.Encoder(decimal_format="string")
_actions_decoder: "msgspec.json.Decoder[tuple[Action, ...]]" = msgspec.json.Decoder(
    tuple[Action, ...]
)
_state_decoder: "msgspec.json.Decoder[BotState]" = msgspec.json.Decoder(BotState)
_params_decoder: "msgspec.json.Decoder[Params]" = msgspec.json.Decoder(Params)


def encode(value: Record | tuple[Record, ...]) -> str:
    """Return a record, or several, as JSON text."""
    return _encoder.encode(value).decode()


def decode_event(text: str, where: str) -> Event:
    """Return the journaled event. Raises StoreError naming `where`."""
    try:
        return event_decoder.decode(text)
    except msgspec.DecodeError as error:
        raise StoreError(f"{where} cannot be read: {error}") from None


def decode_actions(text: str | None, where: str) -> tuple[Action, ...]:
    """Return the journaled actions; none for NULL. Raises StoreError naming `where`."""
    if text is None:
        return ()
    try:
        return _actions_decoder.decode(text)
    except msgspec.DecodeError as error:
        raise StoreError(f"{where} cannot be read: {error}") from None


def decode_state(text: str, where: str) -> BotState:
    """Return the stored state; missing fields take their conservative defaults.

    Legacy regime texts become their numbers. Raises StoreError naming `where` and the field: a
    state that cannot be read is never taken for a new one.
    """
    return _decode_record(text, _state_decoder, where)


def decode_params(text: str, where: str) -> Params:
    """Return the stored parameters. Raises StoreError naming `where` and the field."""
    return _decode_record(text, _params_decoder, where)


def decode_loaded(seq: int, state: str, params: str) -> Loaded:
    """Return stored state and parameters at `seq`. Raises StoreError as the above do."""
    return Loaded(
        seq=seq,
        state=decode_state(state, f"the state at {seq}"),
        params=decode_params(params, f"the parameters at {seq}"),
    )


def _decode_record(text: str, decoder: "msgspec.json.Decoder[R]", where: str) -> R:
    with suppress(msgspec.DecodeError):
        return decoder.decode(text)
    try:  # an older program's text, or one that cannot be read
        return decoder.type.from_dict(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise StoreError(f"{where} cannot be read: {error}") from None
