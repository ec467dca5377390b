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
SETTLED_SEC = 60.0  # by then we must have heard of a trade if it is ours
QUIET_SEC = 10.0  # by then every read shows it: longer than reads lag
# Books open when nothing has moved for QUIET_SEC: their beginning is put back by half of it, so
# that what moves right after is on its side of it by the clock of any later run, too. What moved
# in those seconds before, and the balance shows sooner than the ledger, would be booked again.
OPENING_SEC = QUIET_SEC / 2
AGAIN_SEC = 15.0


class Account:
    """Reads money for one desk."""

    def __init__(self, desk: "Desk") -> None:
        self.foreign: list[OrderView] = []  # open orders that are not ours
        self._desk = desk
        self._fees: FeeRates | None = None
        self._read_from: float | None = None  # lines since then may be new; None: books not open
        self._read_at: float | None = None
        self._waits_since: float | None = None  # balances are not told for young lines' sake
        self._told: dict[str, float] = {}  # ledger lines told as flows, and their times
        self._floor = 0.0  # lines before then were told by a run before, or came before the books

    def begin_at(self, state: BotState) -> None:
        """Take note from when on flows may not be booked yet, and of the fee rates known."""
        own, self._fees = state.balances, state.fees
        if own.reported_at is not None:
            self._read_from = self._floor = own.flows_until or own.reported_at

    def read_money(self, priority: Priority) -> bool:
        """Tell of balances; of flows first where they may explain a difference.

        Raises CallFailed. While a trade is too young to be told from one of ours, nothing is told
        and False returned, but not for longer than it takes a trade to grow old: somebody may
        trade all the time, and `_drift` looks twice.
        """
        desk, now = self._desk, self._desk.clock()
        result = desk.reader.read("Balance", {}, priority)
        amounts = desk.reader.parsed(balances, result)
        base = amounts.get(desk.facts.base_id, ZERO)
        quote = amounts.get(desk.facts.quote_id, ZERO)
        is_new = not desk.expects(base=base, quote=quote)
        is_due = self._read_at is None or now - self._read_at >= desk.config.flows_sec
        is_asked = desk.config.has_ledger and (is_new or is_due)
        is_unclear = is_asked and self._is_open_question(now, priority)
        if is_unclear and is_new:
            if self._waits_since is None:
                self._waits_since = now
            if now - self._waits_since < SETTLED_SEC:
                desk.schedule("balances", now + AGAIN_SEC)
                return False
        self._waits_since = None
        if self._read_from is None or not desk.config.has_ledger:
            margin = OPENING_SEC if is_asked and not is_unclear else 0.0
            self._read_from = self._floor = now - margin
        held_base, held_quote = self._foreign_hold()
        desk.post(
            e.BalancesReported(
                time=desk.clock(),
                base=base,
                quote=quote,
                foreign_base=held_base,
                foreign_quote=held_quote,
                flows_until=self._read_from,
            )
        )
        return True

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

    def _is_open_question(self, now: float, priority: Priority) -> bool:
        """Tell of flows; return whether a line is there that cannot be judged yet."""
        desk, start = self._desk, now if self._read_from is None else self._read_from
        there = now + desk.reader.offset_sec
        lines = desk.reader.ledger(there - (now - start) - OVERLAP_SEC, priority)
        if self._read_from is None:
            return any(x.time > there - QUIET_SEC for x in lines)
        self._read_at = now
        begin = there - (now - start)
        lines = [x for x in lines if x.time >= begin and x.ledger_id not in self._told]
        trades = {x.reference: x.time for x in lines if x.kind == TRADE}
        young = {x for x, at in trades.items() if at > there - SETTLED_SEC}
        shown = {x for x, at in trades.items() if at <= there - QUIET_SEC}
        unbooked = trades.keys() - desk.booked(trades)
        strange = self._strange_trades(unbooked & shown, young, priority)
        for line in lines:
            if line.kind != TRADE or line.reference in strange:
                self._told[line.ledger_id] = line.time
                self._tell_flow(line)
        self._read_from = max(now - OVERLAP_SEC, self._floor)
        oldest = self._read_from - 2 * OVERLAP_SEC
        self._told = {x: at for x, at in self._told.items() if at >= oldest}
        return bool(unbooked & young - strange)

    def _strange_trades(self, ids: set[str], young: set[str], priority: Priority) -> set[str]:
        """Return those trades that no order of this bot has made; of ours, `young` ones may wait.

        An order of ours carries its tag wherever it is shown, so age is no matter for a stranger's.
        """
        desk = self._desk
        if not ids:
            return set()
        trades = desk.reader.trades_of(sorted(ids), priority)
        views = desk.reader.orders(sorted({x.txid for x in trades}), priority)
        places = {x.txid: decode(x.client_order_id or "") for x in views}
        others = {txid for txid, place in places.items() if place is None or place.tag != desk.tag}
        grown = {x.txid for x in trades if x.execution_id not in young} - others
        desk.strangers.tell_unowned([x for x in views if x.txid in grown])
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
