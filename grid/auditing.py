"""The books recomputed from the executions, for `audit_pnl` and `bot.py verify`. All pure.

From the executions alone follow base and quote, fees, cash, and what each cycle earned that was
entered and left by executions of its own; partial ones and recoveries are no exception. With what
the state holds open follow the accounts positions, residuals and unbooked.

Not from executions follows what the inventory cost on average and what flows of base were worth
when they came: of these two it is shown only that they balance the rest. Nor does it follow which
part of an entry belongs to which cycle, where a rest was left, joined the next one or was released,
where two positions were paired off, where an order that nobody owned executed, and where an exit
used up its order numbers. That side of such a cycle is taken as booked, by its price, and the cycle
is counted; the gross of all cycles is held against the ledger, the net of a slot's against its
profit.
"""

from collections.abc import Iterable, Iterator
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from operator import add
from typing import Any

from accounting import positions, sign, trial_balance
from core.domain import ONE, ZERO, Audit, Difference, Side, TradeId
from core.state import BotState, Entering

LISTED_MAX = 10
EXECUTED = "slot_id, trade_id, cycle, side, volume, cost, fee"  # the columns that are read
BOOKED = (
    "slot_id, trade_id, cycle, entry_price, exit_price, volume, gross_profit, entry_fee, exit_fee, "
    "fees, net_profit, resolution"
)
_EXACT = Context(prec=100, traps=[Inexact, InvalidOperation])  # a digit lost is an error
_COST_STEP, _ROUNDING = ONE.scaleb(-15), Context(prec=100)  # finer than any cost
_WHOLE = ("exit", "recovery")  # ends that leave nothing of the position
_SHOWN = ("gross", "fees", "net")
_WAYS = {Side.BUY.value: 1, Side.SELL.value: -1}
_SIDES = {leg.value: (leg.entry_side.value, leg.exit_side.value) for leg in TradeId}


_Key = tuple[int, str, int]  # slot, leg, cycle
_Sides = dict[str, tuple[Decimal, ...]]  # what was bought and sold: volume, cost and fee
_NONE = (ZERO, ZERO, ZERO)


def recompute(state: BotState, seq: int, executions: Iterable[Any], cycles: Iterable[Any]) -> Audit:
    """Return how the books of step `seq` differ from what its executions say.

    `executions` and `cycles` are all rows of then, with the columns that EXECUTED and BOOKED name,
    by slot, leg and cycle in ascending order. Raises ArithmeticError or LookupError where a row
    holds what is no amount, side or leg.
    """
    with localcontext(_EXACT):
        sums, found = _Executions(executions), _Cycles()
        for row in cycles:
            found.add(row, sums.of(row[:3]))
        sums.of(None)
        own = state.balances
        if not own.start_mark:  # the books are not open yet
            return Audit(seq=seq, executions=sums.count, cycles=found.count)
        differences = [
            ("base", own.base - own.start_base - own.flow_base - sums.base),
            ("quote", own.quote - own.start_quote - own.flow_quote - sums.quote),
            ("executions", Decimal(state.counters.get("fills", 0) - sums.count)),
        ]
        return Audit(
            seq=seq,
            executions=sums.count,
            cycles=found.count,
            cycles_shared=found.shared,
            cycles_wrong=found.wrong,
            in_balances=_other_than_zero(differences),
            in_ledger=_other_than_zero(_ledger(state, sums, gross=found.gross)),
            in_cycles=(*found.listed, *_other_than_zero(_profits(state, found))),
        )


def _other_than_zero(found: Iterable[tuple[str, Decimal]]) -> tuple[Difference, ...]:
    return tuple(Difference(name=name, amount=amount) for name, amount in found if amount)


class _Executions:
    """The executions, gone through cycle by cycle; what those passed come to in all."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.base = self.quote = self.fees = ZERO
        self.count = 0
        self._groups = self._grouped(rows)
        self._next = next(self._groups, None)

    def of(self, key: _Key | None) -> _Sides:
        """Return what was bought and sold in a cycle, passing those before it; None: all."""
        while self._next is not None and (key is None or self._next[0] < key):
            self._next = next(self._groups, None)
        return self._next[1] if self._next is not None and self._next[0] == key else {}

    def _grouped(self, rows: Iterable[Any]) -> Iterator[tuple[_Key, _Sides]]:
        last: _Key | None = None
        sides: _Sides = {}
        for slot_id, leg, cycle, side, volume, cost, fee in rows:
            key = (slot_id, leg, cycle)
            if key != last:
                if last is not None:
                    self._pass(sides)
                    yield last, sides
                last, sides = key, {}
            amounts = (Decimal(volume), Decimal(cost), Decimal(fee))
            old = sides.get(side)
            sides[side] = amounts if old is None else tuple(map(add, old, amounts))
            self.count += 1
        if last is not None:
            self._pass(sides)
            yield last, sides

    def _pass(self, sides: _Sides) -> None:
        for side, (volume, cost, fee) in sides.items():
            way = _WAYS[side]
            self.base += way * volume
            self.quote -= way * cost + fee
            self.fees += fee


def _cost(volume: Decimal, price: str) -> Decimal:
    """Return the cost that an average price of 28 digits was made of."""
    return (volume * Decimal(price)).quantize(_COST_STEP, context=_ROUNDING)


class _Cycles:
    """The booked cycles, gone through one by one."""

    def __init__(self) -> None:
        self.count = self.shared = self.wrong = 0
        self.gross = ZERO
        self.net: dict[int, Decimal] = {}  # of each slot
        self.listed: list[Difference] = []

    def add(self, row: Any, sides: _Sides) -> None:
        """Compare one cycle with its executions."""
        slot_id, leg, cycle, entry_price, exit_price, *texts, resolution = row
        volume, gross, entry_fee, exit_fee, fees, net = map(Decimal, texts)
        entry_side, exit_side = _SIDES[leg]
        entered, entry_cost, paid = sides.get(entry_side, _NONE)
        left, exit_cost, paid_again = sides.get(exit_side, _NONE)
        self.count += 1
        if left == volume:
            exit_fee = paid_again
        else:
            exit_cost = _cost(volume, exit_price)
        if left == entered == volume and resolution in _WHOLE:
            entry_fee = paid
        else:
            self.shared += 1
            entry_cost = _cost(volume, entry_price)
        right = _WAYS[entry_side] * (exit_cost - entry_cost)
        charged = entry_fee + exit_fee
        self.gross += right
        self.net[slot_id] = self.net.get(slot_id, ZERO) + right - charged
        if (gross, fees, net) != (right, charged, right - charged):
            self.wrong += 1
            self._list(
                f"slot {slot_id} leg {leg} cycle {cycle}",
                (gross - right, fees - charged, net - right + charged),
            )

    def _list(self, name: str, amounts: tuple[Decimal, ...]) -> None:
        for what, amount in zip(_SHOWN, amounts, strict=True):
            if amount and len(self.listed) < LISTED_MAX:
                self.listed.append(Difference(name=f"{name} {what}", amount=amount))


def _ledger(state: BotState, sums: _Executions, *, gross: Decimal) -> Iterator[tuple[str, Decimal]]:
    """Yield by how much each account has more than it should."""
    books, own = state.accounts, state.balances
    held = unbooked = rests = ZERO
    for trade_id, position, _ in positions(state):
        held += sign(trade_id) * position.open_cost
        unbooked += sign(trade_id) * (position.exit_cost - position.closed_cost)
    for leg in (leg for slot in state.slots for leg in slot.legs):
        if isinstance(leg.state, Entering):
            held += sign(leg.trade_id) * leg.state.order.filled_cost
        if leg.residual is not None:
            rests += sign(leg.trade_id) * leg.residual.cost
    yield "cash", books.cash + books.reserved - own.start_quote - own.flow_quote - sums.quote
    yield "fees", books.fees - sums.fees
    yield "capital", books.capital + own.start_quote + own.start_base * own.start_mark
    yield "positions", books.positions - held
    yield "residuals", books.residuals - rests
    yield "grid_profit", books.grid_profit + gross
    yield "unbooked", books.unbooked + unbooked
    yield "all accounts together", trial_balance(books)


def _profits(state: BotState, found: _Cycles) -> Iterator[tuple[str, Decimal]]:
    yield "number of cycles", Decimal(state.counters.get("cycles", 0) - found.count)
    for slot in state.slots:
        net = found.net.get(slot.slot_id, ZERO)
        yield f"profit of slot {slot.slot_id}", slot.totals.net - net


# ---- in words ---------------------------------------------------------------------------------


def figures(audit: Audit) -> tuple[tuple[str, str], ...]:
    """Return what differs in balances, ledger and cycles ("0": nothing) and how much was read."""
    listed = _amounts(audit.in_cycles)
    if audit.cycles_wrong:
        listed = f"{audit.cycles_wrong:,} differ: {listed}"
    return (
        ("balances", _amounts(audit.in_balances)),
        ("ledger", _amounts(audit.in_ledger)),
        ("cycles", listed),
        ("executions_read", str(audit.executions)),
        ("cycles_read", str(audit.cycles)),
        ("cycles_taken_as_booked", str(audit.cycles_shared)),
    )


def _amounts(found: tuple[Difference, ...]) -> str:
    return ", ".join(f"{x.name} {x.amount:+f}" for x in found) or "0"


def in_words(audit: Audit) -> str:
    """Return what an audit has shown, as one sentence without its end."""
    read = f"{audit.executions:,} executions and {audit.cycles:,} cycles"
    if audit.agrees:
        text = f"the books agree with {read}: balances, ledger and cycles"
    else:
        parts = [f"{name} {value}" for name, value in figures(audit)[:3] if value != "0"]
        text = f"the books differ from {read}, having more by: {'; '.join(parts)}"
    if audit.cycles_shared:
        text += (
            f"; {audit.cycles_shared:,} cycles share executions with others (a rest, a pair-off, "
            "an order nobody owned): entry or exit is taken as booked"
        )
    return text
