"""The state of the bot: what the reducer folds events into. All of it bounded.

Completed cycles, executions and prices live in the store, never here. Derived facts (phase, free
funds, one-sidedness) are functions of these types, never fields. Look next at `state_machine.py`.
"""

from decimal import Decimal
from enum import StrEnum

import msgspec

from core.advice import AdviceState
from core.domain import (
    ONE,
    ZERO,
    FeeRates,
    Instrument,
    OrderState,
    Owed,
    Position,
    RecoveryOrder,
    Residual,
    Role,
    Side,
    SizeStep,
    TradeId,
)
from core.kelly import KellyState
from core.record import Record
from core.tiers import Regimes

STATE_VERSION = 1


class Idle(Record, frozen=True, kw_only=True, tag="idle", gc=False):
    """The leg has no order and no position; it wants an entry from `resume_at` on.

    `since` is when it was last without need of one: a refused entry does not reset it.
    """

    since: float
    resume_at: float | None = None
    veto: str | None = None  # why the last entry pass gave it none
    short_funds_since: float | None = None


class Entering(Record, frozen=True, kw_only=True, tag="entering"):
    """The leg's entry order exists or may exist; the leg was idle since `idle_since`."""

    order: OrderState
    idle_since: float = 0.0


class Exiting(Record, frozen=True, kw_only=True, tag="exiting"):
    """The leg holds a position; its exit is an order, or owed."""

    position: Position
    exit: OrderState | Owed


class LegTotals(Record, frozen=True, kw_only=True, gc=False):
    """What a leg has executed over its life, in base volume and entry cost."""

    entered_volume: Decimal = ZERO
    entered_cost: Decimal = ZERO
    exited_volume: Decimal = ZERO
    exited_cost: Decimal = ZERO
    written_off_volume: Decimal = ZERO
    written_off_cost: Decimal = ZERO


class AntiChase(Record, frozen=True, kw_only=True, gc=False):
    """How often the entry has been refreshed in one direction (+1 up, −1 down), and when last."""

    direction: int = 0
    refreshes: int = 0
    last_at: float = 0.0


class Leg(Record, frozen=True, kw_only=True):
    """One side of a slot."""

    trade_id: TradeId
    state: Idle | Entering | Exiting
    cycle: int = 1
    entry_attempts: int = 0  # within this cycle
    loss_streak: int = 0
    anti_chase: AntiChase = AntiChase()
    rejected_at: tuple[float, ...] = ()  # when its last entries were refused as crossing
    refusals: int = 0  # entries in a row that never reached the exchange
    residual: Residual | None = None
    totals: LegTotals = LegTotals()
    last_chain: tuple[SizeStep, ...] = ()


class SlotTotals(Record, frozen=True, kw_only=True, gc=False):
    """What a slot has earned and suffered so far."""

    cycles: int = 0
    gross: Decimal = ZERO
    fees: Decimal = ZERO
    net: Decimal = ZERO
    losses: int = 0
    orphans: int = 0


class SlotState(Record, frozen=True, kw_only=True):
    """One independent pair of legs; `place` decides its stagger and is kept for life."""

    slot_id: int
    place: int
    alias: str
    legs: tuple[Leg, Leg]  # A, B
    recovery_orders: tuple[RecoveryOrder, ...] = ()
    totals: SlotTotals = SlotTotals()
    closing: bool = False
    pairing: bool = False  # exits are being withdrawn so that A and B can be set off

    def leg(self, trade_id: TradeId) -> Leg:
        """Return leg A or B."""
        return self.legs[0 if trade_id is TradeId.A else 1]


class Ghost(Record, frozen=True, kw_only=True):
    """An order of ours at the exchange that no live intent owns; see `grid/ghosts.py`."""

    client_order_id: str
    txid: str
    slot_id: int
    trade_id: TradeId
    role: Role
    cycle: int
    side: Side
    found_at: float
    since: float | None = None  # it was opened then; None: unknown, in the last days
    cancelled_at: float = 0.0
    executed: Decimal = ZERO
    execution_ids: tuple[str, ...] = ()
    closed_executed: Decimal | None = None


class Unbound(Record, frozen=True, kw_only=True):
    """An order of ours that a restored state has no place for; an operator decides.

    Which place it wants its client order id tells.
    """

    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal
    opened_at: float
    why: str


class Restoring(Record, frozen=True, kw_only=True):
    """A restored state that learns what happened since; see `grid/restoring.py`."""

    since: float
    is_told: bool = False  # by the exchange, all of it
    bound: int = 0
    unbound: tuple[Unbound, ...] = ()


class Mode(StrEnum):
    """What the operator wants."""

    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"


class Market(Record, frozen=True, kw_only=True, gc=False):
    """The last accepted quote, and the range of the bid since the last event that was not quiet."""

    bid: Decimal
    ask: Decimal
    last: Decimal
    time: float
    bid_high: Decimal
    bid_low: Decimal
    candidate: Decimal | None = None  # an insane price waiting for a second sample that agrees


class Quiet(Record, frozen=True, kw_only=True, gc=False):
    """Bounds of bid and mid inside which a price tick changes nothing but price and time.

    `next_due` is when a TimerTick is next worth sending; `duty_due` the same without what it only
    asks and notes: the regular read of balances, the turn of an hour, questions to models, sizer
    and advisor. `rules_due` is that without what follows from the models' age.
    """

    price_low: Decimal
    price_high: Decimal
    next_due: float
    duty_due: float = 0.0  # without it no tick is quiet
    rules_due: float = 0.0
    mid_low: Decimal = ZERO  # without these no tick is quiet
    mid_high: Decimal = ZERO


class Balances(Record, frozen=True, kw_only=True, gc=False):
    """What we own by our own books, what the exchange last said, and what strangers hold."""

    base: Decimal = ZERO
    quote: Decimal = ZERO
    start_base: Decimal = ZERO
    start_quote: Decimal = ZERO
    start_mark: Decimal = ZERO  # bid at the first mark; 0 until there is one
    flow_base: Decimal = ZERO
    flow_quote: Decimal = ZERO
    foreign_base: Decimal = ZERO
    foreign_quote: Decimal = ZERO
    reported_base: Decimal = ZERO
    reported_quote: Decimal = ZERO
    reported_at: float | None = None
    flows_until: float = 0.0  # flows before then have been told; 0: the exchange tells of none
    requested_at: float | None = None
    last_execution_at: float | None = None
    drift_since: float | None = None
    drift_base: Decimal = ZERO  # by how much the exchange reports more since then
    drift_quote: Decimal = ZERO


class Accounts(Record, frozen=True, kw_only=True, gc=False):
    """Balances of the double-entry ledger in quote; assets and expenses positive, others negative.

    The sum over all fields is zero after every event.
    """

    cash: Decimal = ZERO
    reserved: Decimal = ZERO  # held by resting and pending buys, fee included
    inventory: Decimal = ZERO  # the pool, at average cost
    positions: Decimal = ZERO  # signed cost of what legs and recoveries hold; leg A negative
    residuals: Decimal = ZERO  # the same for residuals
    fees: Decimal = ZERO
    capital: Decimal = ZERO  # starting balances at the first mark
    flows: Decimal = ZERO  # deposits less withdrawals, base at the mark of its time
    grid_profit: Decimal = ZERO  # gross of booked cycles
    unbooked: Decimal = ZERO  # gross of the executed part of exits whose cycle is not booked yet
    # Not money but the base volume behind `inventory`:
    inventory_base: Decimal = ZERO


class Benchmarks(Record, frozen=True, kw_only=True, gc=False):
    """Four ways of having done nothing, flows included: holdings in quote and base."""

    usd: Decimal = ZERO  # everything in quote
    doge: Decimal = ZERO  # everything in base (volume)
    half_quote: Decimal = ZERO
    half_base: Decimal = ZERO


class RiskLevel(StrEnum):
    """How deep the drawdown is."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    CRITICAL = "CRITICAL"
    EMERGENCY = "EMERGENCY"


class LockName(StrEnum):
    """Safety locks that stop entries until something or someone clears them."""

    DAILY_LOSS = "daily_loss"
    API_ERRORS = "api_errors"
    RECONCILIATION = "reconciliation"
    FUNDS = "funds"
    EQUITY_STOP = "equity_stop"
    SAFETY = "safety"  # a safety invariant was violated
    RESTORE = "restore"  # what happened since the restored state is not known yet


class Lock(Record, frozen=True, kw_only=True, gc=False):
    """A lock that holds: since when, and why in plain words."""

    name: LockName
    since: float
    reason: str


class RiskState(Record, frozen=True, kw_only=True):
    """Drawdown memory, level with its clocks, and the locks that hold."""

    level: RiskLevel = RiskLevel.LOW
    level_since: float = 0.0
    below_since: float | None = None  # since when a lower level would do
    emergency_since: float | None = None
    peak: Decimal = ONE  # of the risk index
    day: int = -1  # days since the epoch, UTC; −1 before the first mark
    day_start: Decimal = ZERO  # risk value at midnight, in quote
    day_start_equity: Decimal = ZERO
    locks: tuple[Lock, ...] = ()
    peak_resets: int = 0


class Health(Record, frozen=True, kw_only=True, gc=False):
    """What the shell reported about its connections."""

    system_status: str = "online"
    clock_offset_sec: float = 0.0
    consecutive_errors: int = 0


class PolicyRegime(Record, frozen=True, kw_only=True, gc=False):
    """What positions are tagged with; `regime` None when unknown.

    `time` is that of the newest estimate, `since` that of the first of a quick succession which
    said the same.
    """

    regime: int | None
    time: float
    since: float | None = None  # None: `time`
    interval_sec: float = 300.0


class Override(Record, frozen=True, kw_only=True, gc=False):
    """A parameter changed by the operator: for one slot, or for all when `slot_id` is None."""

    name: str
    value: Decimal
    at: float
    slot_id: int | None = None


class Stint(Record, frozen=True, kw_only=True, gc=False):
    """For how long a condition has held in all: closed spans, plus the one since `since`."""

    total_sec: float = 0.0
    since: float | None = None
    spans: int = 0


class BotState(Record, frozen=True, kw_only=True):
    """Everything the bot knows that a decision may depend on."""

    version: int = STATE_VERSION
    code_version: str = ""  # of the program that wrote this state
    bot_tag: int = 0
    store_epoch: int = 0
    now: float = 0.0
    started_at: float = 0.0
    mode: Mode = Mode.RUNNING
    mode_since: float = 0.0
    mode_reason: str = ""
    instrument: Instrument = Instrument()
    fees: FeeRates = FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008"))
    market: Market | None = None
    quiet: Quiet | None = None
    slots: tuple[SlotState, ...] = ()
    next_slot_id: int = 1
    ghosts: tuple[Ghost, ...] = ()
    former_epochs: tuple[int, ...] = ()  # that orders of ours may carry beside `store_epoch`
    restoring: Restoring | None = None
    ignored: tuple[str, ...] = ()  # client ids of orders that the operator took for a stranger's
    # Of deposits and withdrawals that may be told again: reference → when it was booked.
    flows_told: dict[str, float] = msgspec.field(default_factory=dict)
    balances: Balances = Balances()
    accounts: Accounts = Accounts()
    benchmarks: Benchmarks = Benchmarks()
    risk: RiskState = RiskState()
    health: Health = Health()
    regime: PolicyRegime | None = None
    regime_before: PolicyRegime | None = None  # the estimate before it: reports may come late
    regimes: Regimes = Regimes()
    kelly: KellyState = KellyState()
    advice: AdviceState = AdviceState()
    overrides: tuple[Override, ...] = ()
    entry_tokens: float = 0.0
    entry_tokens_at: float = 0.0
    pass_due: float | None = None  # when the entry pass is next worth running
    timer_at: float = 0.0  # of the last TimerTick: what was due by then has been looked at
    hour: int = -1  # hours since the epoch of the last equity point
    exchange_cursor: int = 0  # the last exchange message that is part of this state
    market_ended: bool = False
    fill_secs: tuple[float, ...] = ()  # from placing to complete fill, of the last 100 orders
    counters: dict[str, int] = msgspec.field(default_factory=dict)  # never mutated: copied
    stints: dict[str, Stint] = msgspec.field(default_factory=dict)
