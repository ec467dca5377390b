"""A store of candles for runs that are never taken up again."""

from collections.abc import Iterable, Sequence

from core.market import CandleRow, LabelRow
from store.candles import LABEL_DAYS, SqliteCandles


class UnkeptCandles(SqliteCandles):
    """Candles and labels that are known in memory by those who wrote them."""

    def write(self, interval: float, rows: Sequence[CandleRow]) -> None:
        """Forget them."""

    def append_labels(self, interval: float, labels: Iterable[LabelRow]) -> None:
        """Forget them."""

    def prune_labels(self, now: float, days: int = LABEL_DAYS) -> None:
        """Delete nothing."""
