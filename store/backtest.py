"""A store for backtests: the history tables in memory, without what only a restart needs."""

from decimal import Decimal

import numpy as np
import numpy.typing as npt

from core import actions as a
from core import events as e
from core.ports import Commit, Loaded
from store import rows
from store.memory import MemoryStore

_WITHOUT_ROWS = (
    e.TimerTick, e.PriceTick, e.PricesSkipped, e.BalancesReported, e.RegimeEstimated, e.KellyUpdated
)  # fmt: skip
_ROWLESS = (a.RequestReconcile, a.RequestEstimate, a.RequestTraining, a.RequestKelly)


class BacktestStore(MemoryStore):
    """Keeps orders, executions, cycles, ledger, transitions and equity; no journal, no state.

    A backtest is never taken up again, so nothing is folded from here. What it exports is what the
    store of a daemon would.
    """

    def __init__(self, *, epoch: int = 0) -> None:
        super().__init__(epoch=epoch)
        self._points: list[tuple[a.RecordEquity, Decimal]] = []  # with the base owned then

    def commit(self, commit: Commit) -> None:
        """Write the rows that a step calls for. Raises StoreError.

        Of equity those of days; the others, of which one step may have several, are kept beside.
        """
        if commit.is_quiet:
            return
        base = commit.state.balances.base  # it does not change within a step that notes equity
        self._points += [(x, base) for x in commit.actions if isinstance(x, a.RecordEquity)]
        if isinstance(commit.event, _WITHOUT_ROWS) and all(
            isinstance(x, _ROWLESS) or (isinstance(x, a.RecordEquity) and not x.is_daily)
            for x in commit.actions
        ):
            return
        with self._transaction(f"step {commit.seq}", is_full=True) as db:
            rows.write(db, commit)

    def snapshot(self, loaded: Loaded) -> None:
        """Forget it."""

    def equity_points(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the equity once an hour, and what doing nothing would be worth: by column."""
        names = ("time", "equity", "hold", "usd", "doge", "half", "mark")
        found = [
            [*(float(getattr(point, name)) for name in names), float(base)]
            for point, base in self._points
        ]
        points = np.array(found).reshape(-1, len(names) + 1)
        return dict(zip((*names, "base"), points.T, strict=True))
