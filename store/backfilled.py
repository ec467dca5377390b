"""What `bot.py backfill` has written into the file of candles since that was read."""

from core.market import CandleRow
from store.candles import SqliteCandles


class Backfilled:
    """A place where candles are kept (`market/pipeline.py`): stretches that were written lately."""

    name = "backfill"
    is_stored = True

    def __init__(self, store: SqliteCandles) -> None:
        """Take what is there now as read. Raises StoreError."""
        self._store = store
        newest = self._newest(store.stretches())
        self._first = newest
        self._seen: dict[float, int] = {}

    def ask(self, interval: float, since: float, until: float) -> None:
        """Do nothing: an operator asks for these."""

    def arrived(self, interval: float) -> list[CandleRow]:
        """Return, once, the candles of stretches that were written. Raises StoreError."""
        seen = self._seen.get(interval, self._first)
        new = self._store.stretches(after=seen)
        if not new:
            return []
        self._seen[interval] = self._newest(new)
        found = {
            row[0]: row
            for _, since, until in new
            for row in self._store.read(interval, since, until)
        }
        return [found[time] for time in sorted(found)]

    @staticmethod
    def _newest(stretches: list[tuple[int, float, float]]) -> int:
        return max((number for number, _, _ in stretches), default=0)
