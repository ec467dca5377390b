"""The lock that keeps a second daemon off the same state: an flock held for life."""

import fcntl
import os
from pathlib import Path

from core.ports import StoreError, StoreInUse


class StoreLock:
    """Holds `<path>.lock` beside the real file, so that a link to it is the same store.

    The text inside is for the message only. Raises StoreInUse when another process holds it, and
    StoreError when there can be no lock.
    """

    def __init__(self, path: Path, owner: str) -> None:
        real = path.resolve()
        self._path = real.with_name(real.name + ".lock")
        self._handle = -1
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, owner.encode(), 0)
        except BlockingIOError:
            holder = os.read(self._handle, 200).decode(errors="replace").strip() or "a process"
            self.release()
            raise StoreInUse(f"{path} is in use by {holder}. Stop that daemon first") from None
        except OSError as error:
            self.release()
            raise StoreError(f"{path} cannot be locked: {error.strerror}") from None

    def is_held(self) -> bool:
        """Tell whether the locked file is still the one under its name."""
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let go; safe to call twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
