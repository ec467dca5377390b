"""The lock that keeps a second daemon off the same state: an flock held for life."""

import fcntl
import os
from pathlib import Path

from core.ports import StoreInUse


class StoreLock:
    """Holds `<path>.lock`; the text inside is for the message only."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._handle, 200).decode(errors="replace").strip() or "a process"
            os.close(self._handle)
            raise StoreInUse(
                f"{path} is in use by {holder}. Stop that daemon first, or set STATE_DB to "
                "another file."
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, owner.encode(), 0)

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
