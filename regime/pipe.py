"""What parent and worker of the training say to each other: framed msgpack over two pipes.

A frame is a mark, the length of the body (big-endian, four bytes) and the body. The mark tells
garbage from an answer at its first byte.
"""

from typing import IO

import msgspec

from regime.model import Model
from regime.training import TrainingRequest

MARK = b"HMM\x01"
HEAD = len(MARK) + 4
BODY_MAX = 64 * 2**20


class PipeError(Exception):
    """What came through the pipe is not a frame."""


class Trained(msgspec.Struct, frozen=True, tag="trained"):
    """The model that a request led to."""

    model: Model


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why a request led to none; asking again would lead to the same."""

    reason: str


Answer = Trained | Refused
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Trained | Refused)


def write_frame(pipe: IO[bytes], body: bytes) -> None:
    """Write one frame and flush it."""
    if len(body) > BODY_MAX:
        raise PipeError(f"a message of {len(body)} bytes is longer than {BODY_MAX}")
    pipe.write(MARK + len(body).to_bytes(4, "big") + body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """Return the next frame's body, None at the end; raise PipeError for anything else.

    `pipe` is buffered: its `read` waits for all bytes or the end.
    """
    mark = pipe.read(len(MARK))
    if not mark:
        return None
    if mark != MARK:
        raise PipeError("garbage on the pipe")
    size = pipe.read(4)
    length = int.from_bytes(size, "big")
    if len(size) < 4 or length > BODY_MAX:
        raise PipeError("garbage on the pipe")
    body = pipe.read(length)
    if len(body) < length:
        raise PipeError(f"the pipe ended after {len(body)} of {length} bytes")
    return body


def decode_request(body: bytes) -> TrainingRequest:
    """Return the request in a frame's body; raise PipeError if there is none."""
    try:
        return msgspec.msgpack.decode(body, type=TrainingRequest)
    except msgspec.DecodeError as error:
        raise PipeError(f"a request that cannot be read: {error}") from None


def decode_answer(body: bytes) -> Answer:
    """Return the answer in a frame's body; raise PipeError if there is none."""
    try:
        return _ANSWERS.decode(body)
    except msgspec.DecodeError as error:
        raise PipeError(f"an answer that cannot be read: {error}") from None
