"""Answers that were just made, for others who ask the same: fifty pages cost as much as one."""

import threading
from collections.abc import Callable

from web.message import Answer

KEEP_SEC = 1.0
_TABLE_MAX = 32


class Recent:
    """Makes answers one at a time, so that they never crowd the loop out; keeps each a second."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._making = threading.Lock()
        self._kept: dict[str, tuple[float, Answer]] = {}

    def answer(self, key: str, make: Callable[[], Answer]) -> Answer:
        """Return the answer that was made for `key` within the last second, or make it."""
        found = self._fresh(key)
        if found is not None:
            return found
        with self._making:
            found = self._fresh(key)  # somebody may have made it meanwhile
            if found is None:
                found = make()
                self._kept.pop(key, None)
                self._kept[key] = (self._monotonic(), found)
                while len(self._kept) > _TABLE_MAX:
                    self._kept.pop(next(iter(self._kept)))
            return found

    def _fresh(self, key: str) -> Answer | None:
        at, answer = self._kept.get(key, (0.0, None))
        return answer if self._monotonic() - at < KEEP_SEC else None
