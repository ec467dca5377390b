"""The account's money at Kraken: balances, what strangers hold of them, deposits, fee rates."""

from decimal import Decimal
from typing import TYPE_CHECKING

from core import events as e
from core.domain import ZERO, FeeRates, Side
from core.order_id import decode
from core.state import BotState
from exchange.kraken_budget import Priority
from exchange.kraken_reads import OVERLAP_SEC
from exchange.kraken_records import LedgerView, OrderView
from exchange.kraken_wire import balances, fee_rates
from grid.watch import LEDGER

if TYPE_CHECKING:
    from exchange.kraken_desk import Desk

TRADE = "trade"
SETTLED_SEC = 60.0  # a trade's line is judged when we must have heard of it if it is ours


class Account:
    """Reads money for one desk."""

    def __init__(self, desk: "Desk") -> None:
        self.foreign: list[OrderView] = []  # open orders that are not ours
        self._desk = desk
        self._fees: FeeRates | None = None
        self._read_from: float | None = None  # ledger lines since then are not looked at yet
        self._read_at: float | None = None
        self._told: dict[str, float] = {}  # ledger lines told as flows, and their times
        self._floor = 0.0  # what was before is part of the starting balances

    def begin_at(self, state: BotState) -> None:
        """Take note from when on flows may not be booked yet, and of the fee rates known."""
        reported = state.balances.reported_at
        self._fees, self._floor = state.fees, state.started_at
        if reported is not None:
            back = OVERLAP_SEC + self._desk.config.flows_sec
            self._read_from = max(reported - back, state.started_at)

    def read_money(self, priority: Priority) -> None:
        """Tell of balances; of flows first where they may explain a difference.

        Raises CallFailed. While a trade is too young to be told from one of ours, nothing is told.
        """
        desk, now = self._desk, self._desk.clock()
        if self._read_from is None:
            self._read_from = now
        result = desk.reader.read("Balance", {}, priority)
        amounts = desk.reader.parsed(balances, result)
        base = amounts.get(desk.facts.base_id, ZERO)
        quote = amounts.get(desk.facts.quote_id, ZERO)
        is_new = (base, quote) != desk.expected()
        is_due = self._read_at is None or now - self._read_at >= desk.config.flows_sec
        is_asked = desk.config.has_ledger and (is_new or is_due)
        if is_asked and self._tell_flows(now, priority) and is_new:
            desk.schedule("balances", now + SETTLED_SEC / 2)
            return
        held_base, held_quote = self._foreign_hold()
        desk.post(
            e.BalancesReported(
                time=desk.clock(),
                base=base,
                quote=quote,
                foreign_base=held_base,
                foreign_quote=held_quote,
            )
        )

    def _foreign_hold(self) -> tuple[Decimal, Decimal]:
        facts = self._desk.facts
        base = quote = ZERO
        for order in self.foreign:
            rest = order.volume - order.executed
            if order.pair in facts.names and order.side is Side.SELL:
                base += rest
            elif order.pair in facts.names:
                quote += rest * order.price
        return base, quote

    def _tell_flows(self, now: float, priority: Priority) -> bool:
        """Tell of flows; return whether a trade is there that cannot be judged yet."""
        desk = self._desk
        start = (self._read_from or now) + desk.reader.offset_sec - OVERLAP_SEC
        lines = desk.reader.ledger(start, priority)
        young = [x for x in lines if x.kind == TRADE and x.time > now - SETTLED_SEC]
        lines = [x for x in lines if x not in young and x.time >= (self._read_from or 0.0)]
        strange = self._strange_trades({x.reference for x in lines if x.kind == TRADE}, priority)
        for line in lines:
            is_flow = line.kind != TRADE or line.reference in strange
            if is_flow and line.ledger_id not in self._told:
                self._told[line.ledger_id] = line.time
                self._tell_flow(line)
        self._read_at = now
        until = min([now - OVERLAP_SEC, *(x.time for x in young)])
        self._read_from = max(until, self._floor)
        oldest = self._read_from - 2 * OVERLAP_SEC
        self._told = {x: at for x, at in self._told.items() if at >= oldest}
        references = {x.reference for x in young}
        return bool(references - desk.booked(references))

    def _strange_trades(self, ids: set[str], priority: Priority) -> set[str]:
        """Return those trades that no order of this bot has made."""
        desk = self._desk
        unbooked = sorted(ids - desk.booked(ids))
        if not unbooked:
            return set()
        trades = desk.reader.trades_of(unbooked, priority)
        views = desk.reader.orders(sorted({x.txid for x in trades}), priority)
        places = {x.txid: decode(x.client_order_id or "") for x in views}
        others = {txid for txid, place in places.items() if place is None or place.tag != desk.tag}
        desk.strangers.tell_unowned([x for x in views if x.txid not in others])
        return {x.execution_id for x in trades if x.txid in others}

    def _tell_flow(self, line: LedgerView) -> None:
        desk, amount = self._desk, line.amount - line.fee
        is_base = line.asset == desk.facts.base_id
        if not is_base and line.asset != desk.facts.quote_id:
            return
        desk.post(
            e.ExternalFlow(
                time=desk.clock(),
                base=amount if is_base else ZERO,
                quote=ZERO if is_base else amount,
                reference=f"{LEDGER}{line.ledger_id} {line.kind}",
            )
        )

    def read_fees(self, priority: Priority) -> None:
        """Tell of the fee rates when they have changed. Raises CallFailed."""
        desk = self._desk
        params = {"pair": desk.facts.instrument.symbol}
        result = desk.reader.read("TradeVolume", params, priority)
        rates = desk.reader.parsed(lambda x: fee_rates(x, desk.facts.names), result)
        if rates != self._fees:
            self._fees = rates
            desk.post(e.FeesUpdated(time=desk.clock(), fees=rates))
