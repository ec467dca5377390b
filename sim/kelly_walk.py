"""Kelly's multipliers in the order of time, as the daemon would have said them."""

from collections import defaultdict, deque
from typing import Any

import numpy as np

from core.kelly import BANKROLL, Bank, Book, KellyResult, OpenPosition, sizing
from core.params import Params
from core.regime import LABELS
from engine.kelly import horizon_sec, structural_loss
from kelly_sizer import KellySizer
from sim.metrics import Floats

Noted = dict[str, Any]  # a cycle as the sizer reads it, at multiplier 1


class KellyWalk:
    """Asks the sizer when entries are placed, with what its own account has closed by then.

    It is asked at the daemon's interval, in mode tilt only when a cycle has closed since. Open
    positions are marked at the price of the entry at hand, less a fee at the rate of their own.
    `said` holds what Kelly wanted, before cash.
    """

    def __init__(
        self,
        positions: list[Noted],
        params: Params,
        *,
        slots: int,
        by_regime: bool,
        least_usd: float = 0.0,
    ) -> None:
        self.said = np.ones(len(positions))
        self._positions, self._params, self._slots = positions, params, slots
        self._by_regime, self._least = by_regime, least_usd
        self._sizer = KellySizer(params.kelly)
        self._results: dict[str, KellyResult] = {}
        self._asked_at = -np.inf
        self._is_new = False
        self._closed: list[Noted] = []
        most = params.kelly.lookback_cycles
        self._recent: dict[int | None, deque[int]] = defaultdict(lambda: deque(maxlen=most))
        self._open: dict[int, float] = {}
        self._sized = self._bound = 0

    def wanted(self, i: int, equity: Floats, /) -> Floats:
        """Return the multiplier of entry `i` in an account worth `equity`, (1,)."""
        entry, cfg = self._positions[i], self._params.kelly
        now, notional = entry["placed_at"], entry["entry_price"] * entry["volume"]
        bank = Bank(
            equity_usd=float(equity[0]),
            equity_share=float(self._params.max_equity_share),
            slots=self._slots,
        )
        is_stale = self._is_new or cfg.mode == BANKROLL
        if is_stale and now - self._asked_at >= self._params.regime_eval_interval_sec:
            self._ask(now, entry["entry_price"], bank)
        tag = entry["regime_placed"] if self._by_regime else None
        label = None if tag is None else LABELS[tag]
        made = sizing(self._results, label, cfg, base_usd=notional, bank=bank)
        amount = min(made.multiplier * notional, float(self._params.max_order_usd))
        if amount < self._least <= notional:
            amount = self._least
        if made.bucket is not None:
            self._sized += 1
            self._bound += made.is_capped or amount != made.multiplier * notional
        self.said[i] = amount / notional
        return self.said[i : i + 1]

    def entered(self, i: int, made: Floats) -> None:
        """Take note of an entry and the multiplier that cash allowed."""
        self._open[i] = float(made[0])

    def closed(self, i: int) -> None:
        """Take in a completed cycle, at the size it had; one of no size did not happen."""
        made = self._open.pop(i)
        if made <= 0.0:
            return
        cycle = dict(self._positions[i])
        for name in ("net_profit", "volume", "entry_fee"):
            cycle[name] *= made
        if not self._by_regime:
            cycle["regime_at_entry"] = None
        number = len(self._closed)
        self._closed.append(cycle)
        for bucket in {None, cycle["regime_at_entry"]}:
            self._recent[bucket].append(number)
        self._is_new = True

    def at_bounds(self) -> float | None:
        """Return the share of sizes with statistics behind them that a bound changed."""
        return self._bound / self._sized if self._sized else None

    def _ask(self, now: float, price: float, bank: Bank) -> None:
        recent = [self._closed[n] for n in sorted(set().union(*self._recent.values()))]
        book = None
        if self._params.kelly.mode == BANKROLL:
            book = Book(
                now=now,
                bank=bank,
                horizon_sec=horizon_sec(recent),
                structural_loss=structural_loss(self._params),
                base_usd=float(self._params.order_size_usd),
                positions=tuple(
                    self._marked(i, price) for i, made in self._open.items() if made > 0
                ),
            )
        self._results = self._sizer.update(recent, book=book)
        self._asked_at, self._is_new = now, False

    def _marked(self, i: int, price: float) -> OpenPosition:
        """Return an open position at `price`; shares of capital do not depend on its size."""
        x = self._positions[i]
        cost, value = x["entry_price"] * x["volume"], price * x["volume"]
        gain = value - cost if x["trade_id"] == "B" else cost - value
        fees = x["entry_fee"] * (1.0 + price / x["entry_price"])
        return OpenPosition(
            regime_at_entry=x["regime_at_entry"] if self._by_regime else None,
            opened_at=x["entry_time"],
            capital_usd=cost + (x["entry_fee"] if x["trade_id"] == "B" else 0.0),
            marked_usd=gain - fees,
        )
