"""The contract of `/api/status`: what the page and other programs are told, schema version 1.

Money, prices and volumes are plain decimal text (`Money`); percentages are percent, as text too;
times are seconds since the epoch, UTC, in bot time unless a name says wall, whole ones inside a
slot; what is absent is null, never NaN. Types only: `engine/status_view.py` fills them,
`static/dashboard.html` shows them.
"""

from core import regime_status
from core.advisor_status import AdvisorBlock
from core.kelly_status import KellyBlock
from core.record import Record

SCHEMA_VERSION = 1

Money = str  # plain decimal text without exponent


class Published(Record, frozen=True, kw_only=True):
    """One status as it is sent: swapped by reference, never changed.

    `version` names the state it shows and is what `expect_version` is compared with; `obstacle` is
    why the bot does not trade now, in constant words: they are told to whoever asks.
    """

    body: bytes
    gzip_body: bytes
    etag: str
    version: int
    obstacle: str | None = None


class BotBlock(Record, frozen=True, kw_only=True):
    """What runs, in which mode, and whether a person should look.

    `condition` is ok, attention, stopped or alarm; `reasons` say why it is not ok. `now` is bot
    time, the `_wall` times are the machine's. A status older than `stale_after_sec` is stale.
    """

    mode: str
    mode_since: float
    mode_reason: str
    condition: str
    reasons: tuple[str, ...]
    waiting_for: str | None
    version: str
    uptime_sec: float
    started_wall: float
    published_wall: float
    stale_after_sec: float
    now: float
    running_since: float | None
    exchange_mode: str
    market_name: str
    speed: float | None
    market_ended: bool
    read_only: bool


class MarketBlock(Record, frozen=True, kw_only=True):
    """The last accepted quote; `candidate` is an implausible price that waits for a second one."""

    pair: str
    base: str
    quote: str
    price_decimals: int
    bid: Money | None = None
    ask: Money | None = None
    last: Money | None = None
    mid: Money | None = None
    spread_pct: str | None = None
    change_pct: str | None = None  # of the bid since the first mark
    time: float | None = None
    is_stale: bool = True
    candidate: Money | None = None


class Change(Record, frozen=True, kw_only=True):
    """The change of equity since the first mark: the five lines add up to `total` exactly."""

    total: Money
    grid_profit: Money
    inventory_pnl: Money
    fees: Money
    flows: Money
    unexplained: Money


class Comparison(Record, frozen=True, kw_only=True):
    """What doing nothing would be worth now, and how far equity is ahead of it."""

    value: Money
    ahead: Money
    ahead_pct: str | None


class Holding(Record, frozen=True, kw_only=True):
    """The four ways of having done nothing, flows included."""

    start: Comparison
    usd: Comparison
    doge: Comparison
    half: Comparison


class Economics(Record, frozen=True, kw_only=True):
    """What one cycle earns at the target in force, and which share of it the fees take."""

    profit_pct: str
    break_even_pct: str
    net_per_cycle_pct: str
    net_per_cycle_usd: Money
    fee_share_pct: str | None
    paid_fee_share_pct: str | None  # fees paid so far over the gross of booked cycles
    cycles: int
    wins: int
    losses: int


class EquityBlock(Record, frozen=True, kw_only=True):
    """Equity at the bid and what explains it; null before the first mark.

    `holding_base` and `holding_quote` are what holding the starting balances would own, with flows.
    """

    equity: Money | None
    cash: Money
    base: Money
    inventory: Money | None
    start_equity: Money | None
    drawdown_pct: str
    change: Change | None
    change_pct: str | None
    holding: Holding | None
    holding_base: Money | None
    holding_quote: Money | None
    liquidation_cost: Money | None
    economics: Economics


class OrderBlock(Record, frozen=True, kw_only=True):
    """A resting order; `distance_pct` is from the mid, negative below it."""

    id: str
    side: str
    price: Money
    volume: Money
    filled: Money
    distance_pct: str | None
    placed_at: int
    status: str


class PositionBlock(Record, frozen=True, kw_only=True):
    """What an entry bought or sold and is still open, at its average price.

    `unrealised` is at the mark before fees, `expected_net` what the exit order leaves after fees;
    `tag` is the regime at the entry: 0 bearish, 1 ranging, 2 bullish, null unknown.
    """

    volume: Money
    price: Money
    since: int
    unrealised: Money | None
    expected_net: Money | None
    tag: int | None


class MissingBlock(Record, frozen=True, kw_only=True):
    """Why an order is not there, in plain words; `veto` is the reason's name for an entry.

    `until` is when it is tried again, as far as that is known.
    """

    why: str
    veto: str | None
    since: int
    until: int | None


class LegBlock(Record, frozen=True, kw_only=True):
    """One side of a slot: idle, entering or exiting, with its order or why there is none."""

    leg: str
    cycle: int
    state: str
    order: OrderBlock | None
    position: PositionBlock | None
    missing: MissingBlock | None
    loss_streak: int


class RecoveryBlock(Record, frozen=True, kw_only=True):
    """An orphaned exit that goes on resting."""

    id: str
    leg: str
    orphaned_at: int
    reason: str
    order: OrderBlock | None
    position: PositionBlock
    missing: MissingBlock | None


class ParkedBlock(Record, frozen=True, kw_only=True):
    """A slot that time frees no more: the two prices that would, and what else would.

    `ways_out` are wait and the names of commands.
    """

    since: int
    total_sec: float
    low_price: Money
    high_price: Money
    text: str
    ways_out: tuple[str, ...]


class SlotBlock(Record, frozen=True, kw_only=True):
    """One slot; `net` is realised after fees, `profit` adds open positions at the mark.

    `ending` is closing, pairing or null.
    """

    slot_id: int
    alias: str
    phase: str
    ending: str | None
    cycles: int
    net: Money
    profit: Money
    legs: tuple[LegBlock, LegBlock]
    recoveries: tuple[RecoveryBlock, ...]
    parked: ParkedBlock | None


class CapacityBlock(Record, frozen=True, kw_only=True):
    """How many orders fit, and how orders have fared; fill times are null until known."""

    open_orders: int
    limit: int
    safe_cap: str
    headroom: str
    band: str
    orders: int
    fills: int
    partial_fills: int
    orphans: int
    rejected: dict[str, int]
    fill_sec_median: float | None = None
    fill_sec_p95: float | None = None


class LockBlock(Record, frozen=True, kw_only=True):
    """A lock that holds, and what clears it."""

    name: str
    since: float
    reason: str
    clears: str


class LimitsBlock(Record, frozen=True, kw_only=True):
    """Where risk is bounded by configuration; those of `set_*` are in `settings`.

    `levels_pct` are the drawdowns at which the levels begin; `equity_share_pct` bounds what is
    committed to buying, of equity; beyond the others entries stop. Null: off.
    """

    levels_pct: dict[str, str]
    equity_share_pct: str
    equity_stop: Money | None
    errors_in_a_row: int
    spread_pct: str
    price_age_sec: float


class RiskBlock(Record, frozen=True, kw_only=True):
    """Drawdown, level, locks and limits; a negative daily loss is a gain."""

    level: str
    level_since: float
    drawdown_pct: str
    basis: str
    daily_loss: Money
    daily_loss_limit: Money | None
    portfolio_room: Money
    limits: LimitsBlock
    locks: tuple[LockBlock, ...]
    violations: tuple[str, ...]
    missing: tuple[str, ...]


class SizeStage(Record, frozen=True, kw_only=True, array_like=True):
    """One stage of a size: its name, the amount in quote after it, why. Sent as an array."""

    stage: str
    amount: Money
    reason: str


class SizingBlock(Record, frozen=True, kw_only=True):
    """The size chain of a leg that has or wants an entry, without stages that had nothing to do.

    That of an older order is under `/api/orders/<id>`.
    """

    slot_id: int
    leg: str
    chain: tuple[SizeStage, ...]


class VetoBlock(Record, frozen=True, kw_only=True):
    """How often an entry was vetoed for a reason, with the reason in plain words."""

    reason: str
    count: int
    text: str


class LedgerBlock(Record, frozen=True, kw_only=True):
    """Our books against the exchange's last word: its figure less ours."""

    drift_base: Money | None
    drift_quote: Money | None
    agrees: bool | None  # but for the exchange's rounding; None: not compared since an execution
    drift_since: float | None
    reported_at: float | None
    is_balanced: bool


class CandleCopyBlock(Record, frozen=True, kw_only=True):
    """How the copy of the candles fares (`SUPABASE_CANDLES`)."""

    queue: int  # candles that wait to be sent
    sent: int  # since the start
    read: int  # from there, since the start
    attempts: int  # failed in a row
    last_error: str  # of these


class ReplicaBlock(Record, frozen=True, kw_only=True):
    """How the copy at Supabase fares: what waits for it, and what keeps it."""

    is_checked: bool  # it has been asked, and can take our rows
    queue: int  # rows that wait, the state aside
    lag_sec: float  # age of the oldest of them
    sent: int  # rows, since the start
    dropped: int  # rows that could not wait any longer
    attempts: int  # failed in a row
    last_error: str  # of these
    failing: tuple[str, ...]  # tables that fail alone
    candles: CandleCopyBlock | None = None  # None: they are not copied


class UnboundBlock(Record, frozen=True, kw_only=True):
    """An order of ours that a restored state has no place for, and why; `order` is Kraken's id."""

    order: str
    slot_id: int
    trade_id: str
    role: str
    side: str
    price: str
    volume: str
    why: str


class RestoreBlock(Record, frozen=True, kw_only=True):
    """A start from an older state: what the exchange has told of what happened since.

    Nothing is placed while there is this block; orders `unbound` wait for adopt or ignore.
    """

    since: float
    is_told: bool
    bound: int
    unbound: tuple[UnboundBlock, ...]


class PersistenceBlock(Record, frozen=True, kw_only=True):
    """How far the journal has come; `state_seq` is the last step that changed the state.

    The journal does not lag: each step is committed before anything of it is sent or shown.
    """

    journal_seq: int
    state_seq: int
    replica: ReplicaBlock | None = None  # None: there is none
    restore: RestoreBlock | None = None


class AccountBlock(Record, frozen=True, kw_only=True):
    """The account at a real exchange: what it lets us call, and what else is on it."""

    foreign_orders: int  # open, not ours, never touched
    in_doubt: int  # orders whose placing had no definite answer
    rest_used_pct: str  # of what we allow ourselves
    engine_used_pct: str
    paused_until: float | None  # no private call before
    pause_reason: str
    last_error: str


class ExchangeBlock(Record, frozen=True, kw_only=True):
    """The exchange as the bot sees it."""

    status: str
    clock_offset_sec: float
    consecutive_errors: int
    maker_pct: str
    taker_pct: str
    ghosts: int = 0  # orders of ours that nobody owned, being cancelled
    account: AccountBlock | None = None  # None on paper


class SettingsBlock(Record, frozen=True, kw_only=True):
    """The values in force for all slots, and the bounds that `set_*` accepts.

    `entry_pct_of` is the entry distance by slot: further places stand further out. `layers` is the
    target number of capital layers.
    """

    entry_pct: str
    entry_pct_of: dict[int, str]
    layers: int
    profit_pct: str
    order_size_usd: Money
    profit_pct_min: str
    order_size_usd_min: Money | None
    order_size_usd_max: Money


class OverrideBlock(Record, frozen=True, kw_only=True):
    """A configured value the operator changed; `reset_override` with `name` is the way back."""

    name: str
    slot: int | None
    configured: str
    current: str
    at: float
    way_back: str


class EventBlock(Record, frozen=True, kw_only=True):
    """Something that happened, in plain English."""

    time: float
    kind: str
    level: str
    text: str


class Status(Record, frozen=True, kw_only=True):
    """Everything the page shows."""

    schema_version: int = SCHEMA_VERSION
    version: int
    bot: BotBlock
    market: MarketBlock
    equity: EquityBlock
    slots: tuple[SlotBlock, ...]
    capacity_fill_health: CapacityBlock
    risk: RiskBlock
    sizing: tuple[SizingBlock, ...]
    entry_vetoes: tuple[VetoBlock, ...]
    ledger: LedgerBlock
    persistence: PersistenceBlock
    exchange: ExchangeBlock
    settings: SettingsBlock
    overrides: tuple[OverrideBlock, ...]
    recent_events: tuple[EventBlock, ...]
    hmm_regime: regime_status.HmmBlock
    hmm_consensus: regime_status.ConsensusBlock
    hmm_data_pipeline: regime_status.PipelineBlock
    hmm_data_pipeline_secondary: regime_status.PipelineBlock
    regime_history_30m: tuple[regime_status.SampleBlock, ...]
    regime_directional: regime_status.DirectionalBlock
    kelly: KellyBlock = KellyBlock(enabled=False)
    ai_regime_advisor: AdvisorBlock = AdvisorBlock(enabled=False)
