"""The sandbox's rows in memory: orders, trades and ledger with their indexes.

Nothing here decides; `exchange/sandbox_account.py` does. Every row that is added or changed is
remembered until it is taken for the file.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from decimal import Decimal

from core.domain import ZERO, Side
from exchange.sandbox_records import LedgerRow, OrderChange, OrderRow, TradeRow

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def make_id(seed: int, kind: str, number: int) -> str:
    """Return the venue's id of the `number`-th order (O), trade (T) or ledger row (L)."""
    digest = hashlib.blake2b(f"{seed}/{kind}/{number}".encode(), digest_size=16).digest()
    text = kind + "".join(_LETTERS[byte % 32] for byte in digest)
    return f"{text[:6]}-{text[6:11]}-{text[11:17]}"


class Books:
    """All rows, oldest first."""

    def __init__(
        self,
        orders: Sequence[OrderRow] = (),
        trades: Sequence[TradeRow] = (),
        ledger: Sequence[LedgerRow] = (),
    ) -> None:
        self.orders: dict[str, OrderRow] = {}
        self.open: dict[str, None] = {}
        self.closed: list[str] = []  # in order of closing
        self.by_client: dict[str, list[str]] = {}
        self.trades: list[TradeRow] = []
        self.trade: dict[str, TradeRow] = {}
        self.trades_of: dict[str, list[TradeRow]] = {}
        self.ledger: list[LedgerRow] = []
        self.entry: dict[str, LedgerRow] = {}
        self._by_asset: dict[str, tuple[list[float], list[Decimal]]] = {}
        self.changed_orders: dict[str, OrderRow] = {}
        self.new_trades: list[TradeRow] = []
        self.new_ledger: list[LedgerRow] = []
        for row in orders:
            self.put_order(row)
        self.closed.sort(key=lambda txid: self.orders[txid].last.at)
        for trade in trades:
            self.add_trade(trade)
        for entry in ledger:
            self.add_ledger(entry)
        self.forget_changes()

    @property
    def is_changed(self) -> bool:
        """Tell whether there are rows the file does not have."""
        return bool(self.changed_orders or self.new_trades or self.new_ledger)

    def forget_changes(self) -> None:
        """Note that the file has every row."""
        self.changed_orders.clear()
        self.new_trades.clear()
        self.new_ledger.clear()

    # ---- writing ------------------------------------------------------------------------------

    def put_order(self, row: OrderRow) -> None:
        """Add or change an order."""
        known = self.orders.get(row.txid)
        if known is None and row.client_id is not None:
            self.by_client.setdefault(row.client_id, []).append(row.txid)
        was_open = known is not None and known.is_open
        self.orders[row.txid] = row
        if row.is_open:
            self.open[row.txid] = None
        elif known is None or was_open:
            self.open.pop(row.txid, None)
            self.closed.append(row.txid)
        self.changed_orders[row.txid] = row

    def add_trade(self, trade: TradeRow) -> None:
        """Add an execution."""
        self.trades.append(trade)
        self.trade[trade.trade_id] = trade
        self.trades_of.setdefault(trade.txid, []).append(trade)
        self.new_trades.append(trade)

    def add_ledger(self, entry: LedgerRow) -> None:
        """Add a ledger row."""
        self.ledger.append(entry)
        self.entry[entry.ledger_id] = entry
        times, balances = self._by_asset.setdefault(entry.asset, ([], []))
        times.append(entry.time)
        balances.append(entry.balance)
        self.new_ledger.append(entry)

    # ---- reading, as it was at a time ---------------------------------------------------------

    def open_with(self, client_id: str) -> list[OrderRow]:
        """Return the open orders of a client order id."""
        rows = (self.orders[txid] for txid in self.by_client.get(client_id, ()))
        return [row for row in rows if row.is_open]

    def balance(self, asset: str, at: float | None = None) -> Decimal:
        """Return the total of an asset, held amounts included."""
        times, balances = self._by_asset.get(asset, ([], []))
        place = len(times) if at is None else bisect_right(times, at)
        return balances[place - 1] if place else ZERO

    def balances(self, at: float) -> dict[str, Decimal]:
        """Return the totals of all assets there ever were."""
        return {asset: self.balance(asset, at) for asset in self._by_asset}

    def held(self, at: float) -> tuple[Decimal, Decimal]:
        """Return what open orders reserve of base and quote."""
        held = {Side.BUY: ZERO, Side.SELL: ZERO}
        for row, change in self.orders_open(at):
            held[row.side] += change.hold
        return held[Side.SELL], held[Side.BUY]

    def orders_open(self, at: float) -> Iterator[tuple[OrderRow, OrderChange]]:
        """Yield the orders that were open at `at`, newest first."""
        rows = [self.orders[txid] for txid in self.open]
        rows += self._closed_after(at)
        for row in sorted(rows, key=lambda x: x.number, reverse=True):
            change = row.seen(at)
            if change is not None and change.status == "open":
                yield row, change

    def orders_closed(
        self, at: float, client_id: str | None = None
    ) -> Iterator[tuple[OrderRow, OrderChange]]:
        """Yield the orders that were over at `at`, the last closed first; all or of a client id."""
        ids = self.closed
        if client_id is not None:
            ids = [x for x in self.by_client.get(client_id, ()) if not self.orders[x].is_open]
            ids.sort(key=lambda txid: self.orders[txid].last.at)
        for txid in reversed(ids):
            row = self.orders[txid]
            change = row.seen(at)
            if change is not None and change.status != "open":
                yield row, change

    def trades_of_order(self, txid: str, at: float) -> list[TradeRow]:
        """Return the executions of an order that could be seen at `at`, oldest first."""
        return [trade for trade in self.trades_of.get(txid, ()) if trade.seen_at <= at]

    def _closed_after(self, at: float) -> Iterator[OrderRow]:
        for txid in reversed(self.closed):
            row = self.orders[txid]
            if row.last.at <= at:
                return
            yield row
