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

from collections.abc import Iterable, Iterator, Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import Any, NamedTuple

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


class _Sum(NamedTuple):
    """What the executions of one cycle on one side come to."""

    volume: Decimal
    cost: Decimal
    fee: Decimal
    executions: int


_NOTHING = _Sum(ZERO, ZERO, ZERO, 0)
_Sums = Mapping[tuple[int, str, int, str], _Sum]


def recompute(
    state: BotState, seq: int, executions: Iterable[Any], cycles: Iterable[Any]
) -> Audit:
    """Return how the books of step `seq` differ from what its executions say.

    `executions` and `cycles` are all rows of then, as EXECUTED and BOOKED name their columns.
    Raises ArithmeticError or ValueError where a row holds what is no amount or no leg.
    """
    with localcontext(_EXACT):
        sums = _summed(executions)
        base, quote, fees, count = _totals(sums)
        found = _Cycles()
        for row in cycles:
            found.add(row, sums)
        own = state.balances
        if not own.start_mark:  # the books are not open yet
            return Audit(seq=seq, executions=count, cycles=found.count)
        differences = [
            ("base", own.base - own.start_base - own.flow_base - base),
            ("quote", own.quote - own.start_quote - own.flow_quote - quote),
            ("executions", Decimal(state.counters.get("fills", 0) - count)),
        ]
        return Audit(
            seq=seq,
            executions=count,
            cycles=found.count,
            cycles_shared=found.shared,
            cycles_wrong=found.wrong,
            in_balances=_other_than_zero(differences),
            in_ledger=_other_than_zero(_ledger(state, quote=quote, fees=fees, gross=found.gross)),
            in_cycles=(*found.listed, *_other_than_zero(_profits(state, found))),
        )


def _other_than_zero(found: Iterable[tuple[str, Decimal]]) -> tuple[Difference, ...]:
    return tuple(Difference(name=name, amount=amount) for name, amount in found if amount)


def _summed(executions: Iterable[Any]) -> _Sums:
    sums: dict[tuple[int, str, int, str], _Sum] = {}
    for slot_id, trade_id, cycle, side, volume, cost, fee in executions:
        key = (slot_id, trade_id, cycle, side)
        old = sums.get(key, _NOTHING)
        sums[key] = _Sum(
            old.volume + Decimal(volume),
            old.cost + Decimal(cost),
            old.fee + Decimal(fee),
            old.executions + 1,
        )
    return sums


def _totals(sums: _Sums) -> tuple[Decimal, Decimal, Decimal, int]:
    """Return what all executions did to base and quote, their fees and how many they are."""
    base = quote = fees = ZERO
    count = 0
    for (*_, side), found in sums.items():
        way = 1 if side == Side.BUY else -1
        base += way * found.volume
        quote -= way * found.cost + found.fee
        fees += found.fee
        count += found.executions
    return base, quote, fees, count


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

    def add(self, row: Any, sums: _Sums) -> None:
        """Compare one cycle with its executions."""
        slot_id, leg, cycle, entry_price, exit_price, *texts, resolution = row
        volume, gross, entry_fee, exit_fee, fees, net = map(Decimal, texts)
        trade_id = TradeId(leg)
        entry = sums.get((slot_id, leg, cycle, trade_id.entry_side), _NOTHING)
        exit_ = sums.get((slot_id, leg, cycle, trade_id.exit_side), _NOTHING)
        self.count += 1
        has_exit = exit_.volume == volume
        has_entry = entry.volume == volume and has_exit and resolution in _WHOLE
        if has_entry:
            entry_cost, entry_fee = entry.cost, entry.fee
        else:
            self.shared += 1
            entry_cost = _cost(volume, entry_price)
        if has_exit:
            exit_cost, exit_fee = exit_.cost, exit_.fee
        else:
            exit_cost = _cost(volume, exit_price)
        right = sign(trade_id) * (exit_cost - entry_cost)
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


def _ledger(
    state: BotState, *, quote: Decimal, fees: Decimal, gross: Decimal
) -> Iterator[tuple[str, Decimal]]:
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
    yield "cash", books.cash + books.reserved - own.start_quote - own.flow_quote - quote
    yield "fees", books.fees - fees
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
