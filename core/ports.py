"""What the daemon needs of the world, as protocols. Adapters implement them; tests may double them.

Unknown is not empty: a read that fails raises one of the errors below, it never returns nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from core.actions import (
    Action,
    CancelOrderAction,
    PlaceOrderAction,
    RequestOpinion,
    RequestReconcile,
    RequestTraining,
)
from core.advisor_status import ProviderBlock, WorkerBlock
from core.domain import Audit, FeeRates, Instrument, Listing
from core.events import (
    CouncilHeld,
    Event,
    KellyUpdated,
    ModelTrained,
    OpinionGiven,
    RegimeEstimated,
    TrainingFailed,
)
from core.market import Book, Candle, CandleRow, LabelRow, Trade
from core.params import Params
from core.record import Record
from core.regime import ModelRef
from core.state import BotState


class ConfigError(Exception):
    """The environment must be fixed; `problems` lists everything that is wrong. Exit code 2."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StoreError(Exception):
    """The store cannot be read or written: stop before acting. Exit code 4."""


class StoreInUse(StoreError):
    """Another process holds the store. Exit code 5."""


class Unavailable(Exception):
    """The exchange did not do it, surely; try again later, after `pause_sec` at the earliest."""

    def __init__(self, why: str, pause_sec: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.pause_sec = pause_sec


class StartRefused(Exception):
    """The exchange, or what it says of key and account, does not let a run begin. Exit code 3."""


class MarketError(Exception):
    """The market data cannot be used; the message names the file, the line and what is allowed."""


class PublicData(Protocol):
    """What an exchange tells everybody of one pair. Every method raises Unavailable."""

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Return prints after the cursor `since_ns`, oldest first, and the cursor to go on from.

        Where there are more than fit one answer, the oldest come; the cursor is nanoseconds since
        the epoch.
        """
        ...

    def depth(self, count: int) -> Book:
        """Return up to `count` levels a side; its time is to be set by whoever asked."""
        ...

    def candles(self, interval_sec: float, since: float) -> tuple[Candle, ...]:
        """Return closed candles that opened after `since`, oldest first, the newest 720 at most."""
        ...

    def system_status(self) -> str:
        """Return the exchange's status: online, maintenance, cancel_only, post_only, limit_only."""
        ...

    def server_time(self) -> float:
        """Return the exchange's clock, whole seconds since the epoch, rounded down."""
        ...

    def pair(self) -> tuple[Instrument, str]:
        """Return the pair's limits and its status (those above, reduce_only or delisted)."""
        ...


class Clock(Protocol):
    """Bot time."""

    def now(self) -> float:
        """Return seconds since the epoch, UTC."""
        ...


class Venue(Record, frozen=True, kw_only=True):
    """What the exchange says of the pair and the account at the start."""

    instrument: Instrument
    fees: FeeRates
    base: Decimal
    quote: Decimal
    system_status: str = "online"


class AccountFacts(Record, frozen=True, kw_only=True):
    """What the exchange says of clock, key and account: what a start with real orders must know."""

    clock_offset_sec: float  # exchange less ours
    clock_error_sec: float
    pair_status: str
    permissions: frozenset[str]
    nonce_window: int
    key_valid_until: float | None
    bound: Mapping[str, Decimal]  # of base and quote, where orders cannot draw on it (earn, staked)
    own_orders: int
    other_epochs: tuple[int, ...]  # of open orders placed by this bot from another database
    foreign_orders: int
    is_known: bool | None = None  # orders of the database exist there; None: there was none to ask


class Message(Record, frozen=True, kw_only=True):
    """One event from the exchange or its market, numbered in order of delivery.

    Numbers rise by one and never repeat over the life of an exchange's own store; a bot that has
    message n in its state has all before it.
    """

    seq: int
    event: Event


class Exchange(Protocol):
    """An exchange that takes requests; every answer comes back as a message, never as a result."""

    def describe(self) -> Venue:
        """Return pair facts, fees and total balances. Raises Unavailable."""
        ...

    def obstacle(self, action: PlaceOrderAction, status: str) -> str | None:
        """Return why an order may not leave now, or None.

        The system status is worse than `status`, at which it was decided, or too little time is
        left to its deadline.
        """
        ...

    def place(self, action: PlaceOrderAction) -> None:
        """Send an order."""
        ...

    def cancel(self, action: CancelOrderAction) -> None:
        """Ask for the end of an order."""
        ...

    def reconcile(self, action: RequestReconcile) -> None:
        """Read balances and the named orders.

        Answers: BalancesReported, and per order FillEvents with OrderFound or OrderClosed, or
        OrderRejected(NEVER_ARRIVED) once it is certain that it cannot exist.
        """
        ...

    def listing(self) -> Listing | None:
        """Return the last complete listing of open orders; None: there has been none yet."""
        ...


class SimulatedExchange(Exchange, Protocol):
    """An exchange that is driven through time by the loop, together with its market.

    `reads_first`: it tells balances by itself, once it has told what has executed meanwhile.
    """

    reads_first: bool

    def now(self) -> float:
        """Return the instant the exchange has reached."""
        ...

    def horizon(self) -> float | None:
        """Return the instant until which all that happened is known; it never falls.

        None: simulated time, without such a bound. Ask for it before `next_time`.
        """
        ...

    def next_time(self) -> float | None:
        """Return the time of its next event (market, arrival, delivery).

        None: nothing to come, which without a horizon means the end.
        """
        ...

    def advance(self, to: float) -> tuple[Message, ...]:
        """Go to the instant `to`; return the messages due by then, in order.

        Everything is durable before it returns. Messages stay until acknowledged. With a horizon
        it may come out later than `to`, never later than the horizon.
        """
        ...

    def acknowledge(self, seq: int) -> None:
        """Forget messages up to `seq`: the bot has them on disk for good."""
        ...

    def catch_up(self, told: int, until: float) -> None:
        """Live again, unheard, what a power cut has taken from the exchange before `until`.

        The bot has heard of it all, up to message `told`.
        """
        ...

    def pending(self, after: int) -> tuple[Message, ...]:
        """Return messages delivered before with numbers above `after`, in order (after a restart).

        Raises StoreError when some of them are forgotten already: the bot's state is older.
        """
        ...


class Models(Protocol):
    """The regime models: what they say is an event, asked for by the reducer.

    In simulated time a training's result comes `Params.model_latency_sec` after it was asked for,
    however long it took; else as soon as it is there. Only the thread that steps calls this.
    """

    def estimate(self, now: float) -> RegimeEstimated:
        """Return what the models make of all candles closed by `now`."""
        ...

    def train(self, action: RequestTraining) -> None:
        """Begin to train on the candles closed by `action.until`, beside the loop."""
        ...

    def next_time(self) -> float | None:
        """Return when a training's result is to be told, None for nothing to come."""
        ...

    def take(self, to: float) -> tuple[ModelTrained | TrainingFailed, ...] | None:
        """Return, once, what is to be told by `to`; None while the worker is not done with it."""
        ...

    def adopt(self, model: ModelRef) -> None:
        """Let a model that was told of, and committed, serve."""
        ...


class Sizer(Protocol):
    """What completed cycles say of sizes. Only the thread that steps calls this."""

    def update(self, state: BotState, params: Params) -> KellyUpdated:
        """Return the statistics of all cycles completed so far. Raises StoreError."""
        ...


class Advisor(Protocol):
    """A second opinion on the regime, asked for by the reducer; its word is an event, or none.

    Only the thread that steps calls this, and it is never made to wait.
    """

    def ask(self, action: RequestOpinion, state: BotState, params: Params) -> None:
        """Ask about `state`; a question that still waits is replaced."""
        ...

    def next_time(self) -> float | None:
        """Return when an answer is to be told, None while there is none."""
        ...

    def take(self, to: float) -> tuple[OpinionGiven | CouncilHeld, ...]:
        """Return, once, what is to be told by `to`."""
        ...

    def providers(self) -> tuple[ProviderBlock, ...]:
        """Return how each model of the panel fares."""
        ...

    def worker(self) -> WorkerBlock:
        """Return what has been asked, and what waits."""
        ...

    def stop(self) -> None:
        """Ask no more; what is under way is left behind, never waited for."""
        ...


class Answer(Record, frozen=True, kw_only=True):
    """What a model server said: the text of its message, or the `error` why there is none.

    `reasoning` is what it said apart from the message, where it keeps the two apart.
    """

    text: str = ""
    reasoning: str = ""
    error: str = ""
    retry_after_sec: float | None = None


class Llm(Protocol):
    """One model behind an address; the panel in `ai_advisor.py` has several."""

    def ask(self, system: str, question: str) -> Answer:
        """Return what it says within its time; never raises for what a server does."""
        ...


class Commit(Record, frozen=True, kw_only=True):
    """One step, to be stored as one transaction."""

    seq: int
    event: Event
    actions: tuple[Action, ...]
    state: BotState
    is_quiet: bool  # only the journal row is written
    is_critical: bool  # FULL sync: intents, cancels, executions, commands, locks, start and stop


class Loaded(Record, frozen=True, kw_only=True):
    """The stored state at journal number `seq`, and the parameters in force there."""

    seq: int
    state: BotState
    params: Params


class JournalRow(Record, frozen=True, kw_only=True):
    """One journaled step."""

    seq: int
    event: Event
    actions: tuple[Action, ...]


class Store(Protocol):
    """The local truth. One writer: the thread that steps."""

    def load(self) -> Loaded | None:
        """Return the current state row, or None for a new store. Raises StoreError."""
        ...

    def journal(self, after: int) -> Iterable[JournalRow]:
        """Yield the journal rows with seq > `after`, in order. Raises StoreError."""
        ...

    def commit(self, commit: Commit) -> None:
        """Store event, actions and (unless quiet) state in one transaction. Raises StoreError.

        An execution id or (slot, leg, cycle) that exists already is an error, never ignored.
        """
        ...

    def snapshot(self, loaded: Loaded) -> None:
        """Keep a copy of the state; prune snapshots and the journal behind the oldest kept."""
        ...

    def snapshots(self) -> Iterable[Loaded]:
        """Yield the kept snapshots, oldest first."""
        ...

    def identity(self) -> tuple[int, Mapping[str, str]]:
        """Return the 24-bit epoch of this store and its other fixed facts."""
        ...

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a fact about this store for good, in place of an older one. Raises StoreError."""
        ...

    def audit(self, loaded: Loaded) -> Audit:
        """Return how these books differ from what all executions say. Raises StoreError."""
        ...

    def execution_ids(self, after: int = 0) -> Iterable[str]:
        """Yield the exchange's ids of all executions booked after a step."""
        ...

    def export(self) -> Mapping[str, Any]:
        """Return history in canonical form: executions, orders, cycles, ledger, equity, …"""
        ...

    def is_held(self) -> bool:
        """Tell whether no other process can have taken the store's lock."""
        ...

    def close(self) -> None:
        """Release the store; safe to call twice."""
        ...


class CandleStore(Protocol):
    """Candles on disk: a convenience, all of it can be fetched again. Raises StoreError."""

    def read(self, interval: float, since: float, until: float) -> list[CandleRow]:
        """Return candles that opened from `since` on and closed by `until`, oldest first."""
        ...

    def write(self, interval: float, rows: Sequence[CandleRow]) -> None:
        """Store candles, all or none; one of a time that is there already takes its place."""
        ...

    def prune(self, interval: float, before: float) -> None:
        """Delete candles that opened before a time."""
        ...


class LabelStore(Protocol):
    """What the policy made of each candle, on disk. Raises StoreError."""

    def labels(self, interval: float) -> list[LabelRow]:
        """Return the labels of all candles that were read, oldest first."""
        ...

    def append_labels(self, interval: float, labels: Iterable[LabelRow]) -> None:
        """Store labels, all or none; a time's first label stays."""
        ...

    def prune_labels(self, now: float) -> None:
        """Delete labels that are too old to be evidence at `now`."""
        ...


class Notifier(Protocol):
    """Carries messages to the operator without ever blocking the loop."""

    def send(self, *, level: str, kind: str, text: str) -> None:
        """Queue a message."""
        ...
