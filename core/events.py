"""Everything that can change the state. Events are the only input of the reducer.

Every event carries its time in seconds since the epoch, UTC (bot time: real or simulated). An
exchange event names the order by our client order id.
"""

from decimal import Decimal

import msgspec

from core.advice import Council, Opinion
from core.commands import Command
from core.domain import FeeRates, Instrument, RejectReason, Side
from core.kelly import KellyResult
from core.params import Params
from core.record import Record
from core.regime import Estimate, Evidence, ModelRef


class _Event(Record, frozen=True, kw_only=True, omit_defaults=True):
    time: float
    message: int = 0  # number of the exchange message that carried it, 0 if none did


class Started(_Event, frozen=True, kw_only=True, tag="started"):
    """The daemon begins: the complete decision parameters and facts as values."""

    params: Params
    instrument: Instrument
    fees: FeeRates
    bot_tag: int
    store_epoch: int
    code_version: str


class PriceTick(_Event, frozen=True, kw_only=True, tag="price", gc=False):
    """A fresh quote; at most one a second reaches the reducer."""

    bid: Decimal
    ask: Decimal
    last: Decimal


class Turn(Record, frozen=True, kw_only=True, gc=False):
    """The turn of an hour inside a skip."""

    time: float
    bid: Decimal  # at that time


class Rhythm(Record, frozen=True, kw_only=True, gc=False):
    """The idle timers inside a skip: hours that turn, and balances that are read and agree."""

    time: float  # of the last TimerTick
    low: Decimal  # of the bids until then
    high: Decimal
    turns: tuple[Turn, ...]
    asked_at: float | None  # the last read of balances, if there was one
    reported_at: float | None


class PricesSkipped(_Event, frozen=True, kw_only=True, tag="prices_skipped", gc=False):
    """Many quiet quotes at once (backtest), with the idle timers between them.

    Its reduction is the fold of the single events; `time` and `message` are those of the last.
    `low` and `high` are the lowest and highest bid since the last TimerTick, if there was one,
    otherwise of all.
    """

    count: int
    bid: Decimal
    ask: Decimal
    last: Decimal
    low: Decimal
    high: Decimal
    rhythm: Rhythm | None = None


class TimerTick(_Event, frozen=True, kw_only=True, tag="timer", gc=False):
    """Time has passed and something may be due; ends an iteration of the loop."""


class MarketEnded(_Event, frozen=True, kw_only=True, tag="market_ended"):
    """The market has run dry (end of a replay)."""


class OrderAccepted(_Event, frozen=True, kw_only=True, tag="order_accepted"):
    """The exchange acknowledged an order and gave it an id."""

    client_order_id: str
    txid: str


class OrderRejected(_Event, frozen=True, kw_only=True, tag="order_rejected"):
    """The exchange said no, or the order surely never arrived."""

    client_order_id: str
    reason: RejectReason
    detail: str = ""


class OrderUncertain(_Event, frozen=True, kw_only=True, tag="order_uncertain"):
    """The outcome of a placement is unknown; only reconciliation may move the order."""

    client_order_id: str
    detail: str = ""


class OrderFound(_Event, frozen=True, kw_only=True, tag="order_found"):
    """Reconciliation saw the order working at the exchange."""

    client_order_id: str
    txid: str
    executed: Decimal


class OrderAmended(_Event, frozen=True, kw_only=True, tag="order_amended"):
    """A working order of ours has another price or volume there than we gave it."""

    client_order_id: str
    price: Decimal
    volume: Decimal


class FillEvent(_Event, frozen=True, kw_only=True, tag="fill"):
    """One execution of one of our orders, as the exchange reports it."""

    client_order_id: str
    txid: str
    execution_id: str
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    executed_at: float
    is_maker: bool = True


class OrderClosed(_Event, frozen=True, kw_only=True, tag="order_closed"):
    """The exchange's word that an order is over, with the volume it executed in all."""

    client_order_id: str
    reason: str
    executed: Decimal


class CancelRefused(_Event, frozen=True, kw_only=True, tag="cancel_refused"):
    """A cancel was refused, which says nothing about the order."""

    client_order_id: str
    reason: str


class GhostFound(_Event, frozen=True, kw_only=True, tag="ghost_found"):
    """The exchange has an order with our tag and epoch that no live intent owns."""

    client_order_id: str
    txid: str


class RestoreBegun(_Event, frozen=True, kw_only=True, tag="restore_begun"):
    """The state is an older one put back: what our orders did since `since` is not part of it.

    They may carry these `epochs` beside the store's own.
    """

    since: float
    epochs: tuple[int, ...] = ()


class OrderRestored(_Event, frozen=True, kw_only=True, tag="order_restored"):
    """The exchange has, or had, an order of ours that the restored state does not know."""

    client_order_id: str
    txid: str
    side: Side
    price: Decimal
    volume: Decimal
    opened_at: float


class RestoreTold(_Event, frozen=True, kw_only=True, tag="restore_told"):
    """All that the exchange knows of our orders since the restored state has been told."""


class BalancesReported(_Event, frozen=True, kw_only=True, tag="balances"):
    """Total balances as the exchange reports them, and what orders not ours hold of them."""

    base: Decimal
    quote: Decimal
    foreign_base: Decimal = Decimal(0)
    foreign_quote: Decimal = Decimal(0)
    flows_until: float = 0.0  # flows before then have been told; 0: the exchange tells of none


class ExternalFlow(_Event, frozen=True, kw_only=True, tag="external_flow"):
    """A deposit (positive) or withdrawal (negative)."""

    base: Decimal
    quote: Decimal
    reference: str


class InstrumentUpdated(_Event, frozen=True, kw_only=True, tag="instrument"):
    """The exchange changed the pair's limits."""

    instrument: Instrument


class FeesUpdated(_Event, frozen=True, kw_only=True, tag="fees"):
    """The account's fee tier changed."""

    fees: FeeRates


class HealthChanged(_Event, frozen=True, kw_only=True, tag="health"):
    """The state of the connection to the exchange."""

    system_status: str
    clock_offset_sec: float = 0.0
    consecutive_errors: int = 0


class TradingHalted(_Event, frozen=True, kw_only=True, tag="trading_halted"):
    """The adapter saw what only a person may decide on; the bot halts until resumed."""

    reason: str


class RegimeEstimated(_Event, frozen=True, kw_only=True, tag="regime"):
    """What the models say of the newest candles, and what has followed their labels so far.

    `secondary` is None where there is no second timeframe; the evidence is of forward returns over
    `horizon_sec`.
    """

    primary: Estimate
    secondary: Estimate | None = None
    evidence: tuple[Evidence, ...] = ()
    horizon_sec: float = 0.0


class ModelTrained(_Event, frozen=True, kw_only=True, tag="model_trained"):
    """A training is done; the model serves from now on."""

    model: ModelRef


class TrainingFailed(_Event, frozen=True, kw_only=True, tag="training_failed"):
    """A training gave no model; the old one, if any, goes on serving."""

    interval_sec: float
    reason: str


class KellyUpdated(_Event, frozen=True, kw_only=True, tag="kelly"):
    """What completed cycles, by the regime of their entry, say of sizes."""

    results: dict[str, KellyResult]  # by label, and of the aggregate
    cycles: int
    unknown: int


class OpinionGiven(_Event, frozen=True, kw_only=True, tag="opinion"):
    """What the advisor makes of what it was told at `asked_at`."""

    asked_at: float
    trigger: str
    opinion: Opinion


class CouncilHeld(_Event, frozen=True, kw_only=True, tag="council"):
    """How the panelists voted on what they were told at `asked_at`."""

    asked_at: float
    council: Council


class CommandReceived(_Event, frozen=True, kw_only=True, tag="command"):
    """The operator asks for something."""

    command_id: str
    command: Command


Event = (
    Started
    | PriceTick
    | PricesSkipped
    | TimerTick
    | MarketEnded
    | OrderAccepted
    | OrderRejected
    | OrderUncertain
    | OrderFound
    | OrderAmended
    | FillEvent
    | OrderClosed
    | CancelRefused
    | GhostFound
    | RestoreBegun
    | OrderRestored
    | RestoreTold
    | BalancesReported
    | ExternalFlow
    | InstrumentUpdated
    | FeesUpdated
    | HealthChanged
    | TradingHalted
    | RegimeEstimated
    | ModelTrained
    | TrainingFailed
    | KellyUpdated
    | OpinionGiven
    | CouncilHeld
    | CommandReceived
)
event_decoder: "msgspec.json.Decoder[Event]" = msgspec.json.Decoder(Event)
