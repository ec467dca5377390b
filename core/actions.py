"""What the reducer wants done. Actions run only after their cause is on disk.

Recording actions (Record…, BookCycleAction, PostEntries) are carried out by the commit itself; the
others by the shell after it.
"""

from decimal import Decimal

from core.advice import Opinion
from core.domain import CycleRecord, OrderState, Role, Side, SizeStep, TradeId
from core.record import Record


class PlaceOrderAction(Record, frozen=True, kw_only=True, tag="place"):
    """Send `order`, post-only, good until cancelled; not after `deadline` (exchange time)."""

    slot_id: int
    order: OrderState
    chain: tuple[SizeStep, ...]
    deadline: float


class CancelOrderAction(Record, frozen=True, kw_only=True, tag="cancel"):
    """Ask for the end of an order; a request, not a fact."""

    client_order_id: str
    txid: str | None
    reason: str


class OrphanOrderAction(Record, frozen=True, kw_only=True, tag="orphan"):
    """An exit became a recovery order; nothing is sent."""

    slot_id: int
    recovery_id: str
    client_order_id: str
    reason: str


class BookCycleAction(Record, frozen=True, kw_only=True, tag="book_cycle"):
    """A cycle is complete."""

    slot_id: int
    record: CycleRecord
    orphaned_at: float | None = None
    resolution: str = "exit"  # exit, recovery, partial, pair_off
    # What the policy said at the booking; None where it said nothing.
    regime_confidence: float | None = None
    regime_bias_signal: float | None = None
    against_trend: bool | None = None
    regime_tier: int | None = None


class RecordExecution(Record, frozen=True, kw_only=True, tag="execution"):
    """One execution was applied, exactly once."""

    execution_id: str
    client_order_id: str
    txid: str
    slot_id: int
    trade_id: TradeId
    role: Role
    cycle: int
    side: Side
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    executed_at: float
    is_maker: bool


class Entry(Record, frozen=True, kw_only=True, gc=False):
    """One line of a posting: `amount` of quote debited (positive) or credited to `account`."""

    account: str
    amount: Decimal


class PostEntries(Record, frozen=True, kw_only=True, tag="post"):
    """One balanced posting of the double-entry ledger."""

    reason: str
    entries: tuple[Entry, ...]


class RecordEquity(Record, frozen=True, kw_only=True, tag="equity"):
    """One point of the equity curve, all in quote at the bid."""

    time: float
    equity: Decimal
    hold: Decimal
    usd: Decimal
    doge: Decimal
    half: Decimal
    grid_profit: Decimal
    fees: Decimal
    mark: Decimal
    is_daily: bool


class RecordTransition(Record, frozen=True, kw_only=True, tag="transition"):
    """What an operator may look up later has changed: a level, a lock, a regime tier, a model."""

    kind: str  # risk_level, lock, unlock, mode, regime_tier, suppression, model, kelly, override
    name: str
    detail: str


class RequestReconcile(Record, frozen=True, kw_only=True, tag="reconcile"):
    """Read balances and the named orders (none: balances only) at the exchange."""

    reason: str
    client_order_ids: tuple[str, ...] = ()


class RequestEstimate(Record, frozen=True, kw_only=True, tag="estimate"):
    """Ask the models what they make of the newest candles: answered by RegimeEstimated."""


class RequestTraining(Record, frozen=True, kw_only=True, tag="train"):
    """Train the model of one timeframe on the candles closed by `until`.

    Answered by ModelTrained or TrainingFailed; until then no other is asked of that timeframe.
    """

    interval_sec: float
    until: float
    reason: str


class RequestKelly(Record, frozen=True, kw_only=True, tag="kelly"):
    """Ask what all completed cycles say of sizes: answered by KellyUpdated."""


class RequestOpinion(Record, frozen=True, kw_only=True, tag="ask_opinion"):
    """Ask the advisor for its opinion, or, with `is_council`, all panelists for their votes.

    Answered by OpinionGiven and CouncilHeld, or never: a newer question takes an older one's place.
    """

    trigger: str
    is_council: bool = False


class RecordOpinion(Record, frozen=True, kw_only=True, tag="opinion"):
    """An opinion came; what the mechanical tier and the price were then."""

    id: int
    opinion: Opinion
    asked_at: float
    trigger: str
    agreement: str
    mechanical_tier: int
    mechanical_direction: str
    price: Decimal | None  # mid; None: there was no market


class RecordScore(Record, frozen=True, kw_only=True, tag="opinion_score"):
    """An opinion's hour is over: the price then, and who was right, wrong or neither (inside)."""

    id: int
    price: Decimal
    advised: str
    mechanical: str


class Notify(Record, frozen=True, kw_only=True, tag="notify"):
    """Tell the operator, in plain words. `level` is info, warning or error."""

    level: str
    kind: str
    text: str


class ReplyToOperator(Record, frozen=True, kw_only=True, tag="reply"):
    """The answer to a command: whether it was accepted, and its effect or the reason why not."""

    command_id: str
    is_accepted: bool
    message: str
    field: str = ""  # the one at fault, where the command itself was wrong
    changed: tuple[tuple[str, str], ...] = ()


Action = (
    PlaceOrderAction
    | CancelOrderAction
    | OrphanOrderAction
    | BookCycleAction
    | RecordExecution
    | PostEntries
    | RecordEquity
    | RecordTransition
    | RequestReconcile
    | RequestEstimate
    | RequestTraining
    | RequestKelly
    | RequestOpinion
    | RecordOpinion
    | RecordScore
    | Notify
    | ReplyToOperator
)
