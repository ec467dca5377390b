"""A store of candles for runs that are never taken up again."""

from collections.abc import Iterable

from core.market import LabelRow
from store.candles import LABEL_DAYS, SqliteCandles


class UnkeptCandles(SqliteCandles):
    """Labels that are known in memory by who wrote them; candles are not written here."""

    def append_labels(self, interval: float, labels: Iterable[LabelRow]) -> None:
        """Forget them."""

    def prune_labels(self, now: float, days: int = LABEL_DAYS) -> None:
        """Delete nothing."""
