"""Money: holds, free funds, the double-entry ledger, equity, benchmarks and what explains them.

Everything is exact decimals in quote; the mark is the bid. The ledger's accounts are in
`core.state.Accounts`; the sum over them is zero after every event. Nothing here decides anything.
"""

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from core.actions import Entry
from core.domain import ONE, ZERO, OrderState, Owed, Position, Side, TradeId
from core.record import Record
from core.state import Accounts, Benchmarks, BotState, Entering, Exiting, LegTotals, SlotState

_MONEY_ACCOUNTS = tuple(
    field.name for field in msgspec.structs.fields(Accounts) if field.name != "inventory_base"
)


class Funds(Record, frozen=True, kw_only=True, gc=False):
    """An amount of both assets."""

    base: Decimal
    quote: Decimal


class Breakdown(Record, frozen=True, kw_only=True):
    """The change of equity since the first mark, in five lines that add up exactly."""

    change: Decimal
    grid_profit: Decimal
    inventory_pnl: Decimal
    fees: Decimal  # as an effect: never positive
    flows: Decimal
    unexplained: Decimal  # zero, or an alarm
    liquidation_cost: Decimal  # taker fee on all base, not part of the change


class BenchmarkValues(Record, frozen=True, kw_only=True):
    """What doing nothing would be worth at the mark, flows included."""

    hold: Decimal
    usd: Decimal
    doge: Decimal
    half: Decimal


def sign(trade_id: TradeId) -> int:
    """Return +1 for leg B, which holds base, and −1 for leg A, which owes it."""
    return 1 if trade_id is TradeId.B else -1


def slot_orders(slot: SlotState) -> list[OrderState]:
    """Return every order of the slot that the exchange holds or may hold."""
    found = []
    for leg in slot.legs:
        own = leg.state
        if isinstance(own, Entering):
            found.append(own.order)
        elif isinstance(own, Exiting) and isinstance(own.exit, OrderState):
            found.append(own.exit)
    for recovery in slot.recovery_orders:
        if isinstance(recovery.exit, OrderState):
            found.append(recovery.exit)
    return found


def orders(state: BotState) -> list[OrderState]:
    """Return every order the exchange holds or may hold."""
    return [order for slot in state.slots for order in slot_orders(slot)]


def positions(state: BotState) -> Iterator[tuple[TradeId, Position, OrderState | Owed]]:
    """Yield every position, with its leg and its exit."""
    for slot in state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Exiting):
                yield leg.trade_id, leg.state.position, leg.state.exit
        for recovery in slot.recovery_orders:
            yield recovery.trade_id, recovery.position, recovery.exit


def _holding(state: BotState) -> list[OrderState]:
    return [order for order in orders(state) if order.closed_executed is None]


def hold(order: OrderState, state: BotState) -> Funds:
    """Return what one order holds: a sell its base, a buy its quote with the fee of its placing."""
    if order.side is Side.SELL:
        return Funds(base=order.remaining, quote=ZERO)
    rate = state.fees.maker if order.fee_rate is None else order.fee_rate
    return Funds(base=ZERO, quote=order.remaining * order.price * (ONE + rate))


def held(state: BotState) -> Funds:
    """Return what our own orders hold: sells their base, buys their quote with fee."""
    base = quote = ZERO
    for order in _holding(state):
        mine = hold(order, state)
        base, quote = base + mine.base, quote + mine.quote
    return Funds(base=base, quote=quote)


def is_short(state: BotState) -> bool:
    """Tell whether our orders hold more than we own less foreign holds, fees not counted.

    Fees are left out because they may rise while orders rest; free funds do count them.
    """
    own = state.balances
    base = quote = ZERO
    for order in _holding(state):
        if order.side is Side.SELL:
            base += order.remaining
        else:
            quote += order.remaining * order.price
    return base > own.base - own.foreign_base or quote > own.quote - own.foreign_quote


def claims(state: BotState) -> Funds:
    """Return what owed exits and the executed part of unfinished entries will still need."""
    base = quote = ZERO
    with_fee = ONE + state.fees.maker
    for trade_id, position, exit_ in positions(state):
        if isinstance(exit_, OrderState) and exit_.closed_executed is None:
            continue
        if trade_id is TradeId.B:
            base += position.open_volume
        else:
            quote += position.open_cost * with_fee
    for slot in state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Entering):
                if leg.trade_id is TradeId.B:
                    base += leg.state.order.filled_volume
                else:
                    quote += leg.state.order.filled_cost * with_fee
            if leg.residual is not None and leg.trade_id is TradeId.B:
                base += leg.residual.volume
            elif leg.residual is not None:
                quote += leg.residual.cost * with_fee
    return Funds(base=base, quote=quote)


def free(state: BotState) -> Funds:
    """Return what is free for new entries: owned, less held, foreign holds and claims."""
    balances = state.balances
    mine, owed = held(state), claims(state)
    return Funds(
        base=balances.base - balances.foreign_base - mine.base - owed.base,
        quote=balances.quote - balances.foreign_quote - mine.quote - owed.quote,
    )


def closed_share(position: Position, volume: Decimal, decimals: int) -> Decimal:
    """Return the entry cost that belongs to closing `volume`; the last part takes the rounding."""
    if position.closed_volume + volume >= position.volume:
        return position.open_cost
    share = position.cost * volume / position.volume
    return share.quantize(ONE.scaleb(-decimals), ROUND_HALF_EVEN)


def post(accounts: Accounts, **amounts: Decimal) -> tuple[Accounts, tuple[Entry, ...]]:
    """Return the ledger after a posting, and its lines. Raises ValueError unless it balances."""
    if sum(amounts.values()) != 0:
        raise ValueError(f"unbalanced posting: {amounts}")
    changed = {name: getattr(accounts, name) + amount for name, amount in amounts.items()}
    lines = tuple(Entry(account=name, amount=amount) for name, amount in amounts.items() if amount)
    return msgspec.structs.replace(accounts, **changed), lines


def trial_balance(accounts: Accounts) -> Decimal:
    """Return the sum over all accounts: zero, or the books are wrong."""
    return sum((getattr(accounts, name) for name in _MONEY_ACCOUNTS), ZERO)


def equity(state: BotState) -> Decimal | None:
    """Return quote plus base at the bid, or None before the first mark."""
    if state.market is None:
        return None
    return state.balances.quote + state.balances.base * state.market.bid


def net_equity(state: BotState, mark: Decimal) -> Decimal:
    """Return equity at `mark` without the deposits and withdrawals since the start."""
    own = state.balances
    return own.quote - own.flow_quote + (own.base - own.flow_base) * mark


def held_value(state: BotState, mark: Decimal) -> Decimal:
    """Return what the starting balances alone would be worth at `mark`, flows left out."""
    return state.balances.start_quote + state.balances.start_base * mark


def benchmarks(state: BotState) -> BenchmarkValues | None:
    """Return the four holding benchmarks at the bid, or None before the first mark."""
    if state.market is None or not state.balances.start_mark:
        return None
    bid, own, held_ = state.market.bid, state.balances, state.benchmarks
    flows = own.flow_quote + own.flow_base * bid
    return BenchmarkValues(
        hold=held_value(state, bid) + flows,
        usd=held_.usd,
        doge=held_.doge * bid,
        half=held_.half_quote + held_.half_base * bid,
    )


def first_benchmarks(value: Decimal, mark: Decimal) -> Benchmarks:
    """Return the benchmarks that put the starting equity `value` to work at `mark`."""
    return Benchmarks(
        usd=value, doge=value / mark, half_quote=value / 2, half_base=value / 2 / mark
    )


def with_flow(held_: Benchmarks, *, value: Decimal, mark: Decimal) -> Benchmarks:
    """Return the benchmarks after a flow worth `value` at `mark` joined each of them."""
    joined = first_benchmarks(value, mark)
    return Benchmarks(
        usd=held_.usd + joined.usd,
        doge=held_.doge + joined.doge,
        half_quote=held_.half_quote + joined.half_quote,
        half_base=held_.half_base + joined.half_base,
    )


def rebalanced(held_: Benchmarks, mark: Decimal) -> Benchmarks:
    """Return the benchmarks after the daily, free rebalancing of half and half."""
    half = (held_.half_quote + held_.half_base * mark) / 2
    return msgspec.structs.replace(held_, half_quote=half, half_base=half / mark)


def signed_open_volume(state: BotState) -> Decimal:
    """Return the base volume behind the accounts positions and residuals, leg A negative."""
    volume = ZERO
    for trade_id, position, _ in positions(state):
        volume += sign(trade_id) * position.open_volume
    for slot in state.slots:
        for leg in slot.legs:
            if isinstance(leg.state, Entering):
                volume += sign(leg.trade_id) * leg.state.order.filled_volume
            if leg.residual is not None:
                volume += sign(leg.trade_id) * leg.residual.volume
    return volume


def breakdown(state: BotState) -> Breakdown | None:
    """Return what explains the change of equity since the first mark, or None before it."""
    now = equity(state)
    if now is None or state.market is None or not state.balances.start_mark:
        return None
    bid, books = state.market.bid, state.accounts
    change = now + books.capital  # capital is the negative of the starting equity
    grid = -(books.grid_profit + books.unbooked)
    volume = books.inventory_base + signed_open_volume(state)
    cost = books.inventory + books.positions + books.residuals
    inventory_pnl = volume * bid - cost
    fees, flows = -books.fees, -books.flows
    return Breakdown(
        change=change,
        grid_profit=grid,
        inventory_pnl=inventory_pnl,
        fees=fees,
        flows=flows,
        unexplained=change - grid - inventory_pnl - fees - flows,
        liquidation_cost=state.balances.base * bid * state.fees.taker,
    )


def conservation(totals: LegTotals) -> Funds:
    """Return what a leg must still hold by its running totals, as volume and entry cost."""
    return Funds(
        base=totals.entered_volume - totals.exited_volume - totals.written_off_volume,
        quote=totals.entered_cost - totals.exited_cost - totals.written_off_cost,
    )
