"""Ctrl-C for programs that take seconds to begin: exit code 130, never a traceback.

Imported before anything large, so it may import nothing of the kind itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130
STDERR = 2


def end_at_once(name: str) -> None:
    """Have Ctrl-C end the process at once: before it has begun, or where it was told once."""

    def end(_signal: int, _frame: object) -> None:
        os.write(STDERR, f"\n{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, end)


def run(name: str, main: Callable[[list[str]], int]) -> NoReturn:
    """Run a program and exit with its code.

    Ctrl-C raises KeyboardInterrupt in it, once; the next one ends the process at once.
    """

    def interrupt(_signal: int, _frame: object) -> None:
        end_at_once(name)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # others are undone while Python ends
    if code == INTERRUPTED:  # Python itself may end by the signal that it was told of
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
