"""`python -m regime.worker`: trains models in a process of its own, one request after the other.

Requests come on standard input and answers go to standard output, framed as `regime/pipe.py` says;
the end of the input ends it. It reads no files, no environment and no clock. Its parent is
`engine/trainer.py`.
"""

import io
import os
import sys
import warnings
from contextlib import suppress
from typing import IO

import msgspec

from regime.pipe import Answer, Refused, Trained, decode_request, read_frame, write_frame
from regime.training import TrainingError, train

NICENESS = 10
SHOWN_MAX = 300


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until they end."""
    while (body := read_frame(requests)) is not None:
        write_frame(answers, msgspec.msgpack.encode(answer(body)))


def answer(body: bytes) -> Answer:
    """Return the model that a request leads to, or why there is none; never raises.

    Whatever the numerical libraries raise must not end the worker: the next request may be fine.
    """
    try:
        return Trained(train(decode_request(body)))
    except TrainingError as error:
        return Refused(str(error))
    except Exception as error:  # noqa: BLE001  # the worker's top
        return Refused(f"{type(error).__name__}: {error}"[:SHOWN_MAX])


def main() -> None:
    """Serve the parent's pipes at low priority; nothing else can write to them."""
    os.nice(NICENESS)
    warnings.simplefilter("ignore")  # what matters of a model is in its record
    answers = io.FileIO(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints
    with suppress(BrokenPipeError), io.BufferedWriter(answers) as writer:  # the parent is gone
        serve(sys.stdin.buffer, writer)


if __name__ == "__main__":
    main()
