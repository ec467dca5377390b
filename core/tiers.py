"""What the policy makes of the models' word, and what is held of it: part of the state, bounded.

Values only. `regime_policy.py` decides, `grid/regimes.py` applies it to the state.
"""

from core.domain import TradeId
from core.record import Record
from core.regime import RANGING, Estimate, Evidence, ModelRef


class Policy(Record, frozen=True, kw_only=True, gc=False):
    """The policy regime: what every consumer goes by.

    `label` decides the tiers and is ranging where confidence is too low; `tag` is what positions
    are tagged with and statistics are kept by: the label of the models alone, None while unknown.
    """

    label: int = RANGING
    confidence: float = 0.0  # as the models say
    bias: float = 0.0
    modifier: float = 1.0  # of the training depth
    source: str = "none"  # consensus, primary, manual
    agreement: str = "primary_untrained"
    tag: int | None = None

    @property
    def effective(self) -> float:
        """Return the confidence that decides."""
        return self.confidence * self.modifier


class Tiers(Record, frozen=True, kw_only=True, gc=False):
    """The mechanical tier with its direction (a label; None in tier 0), and what it waits for.

    `by_confidence` is the tier that confidence and bias alone call for; where the two differ
    `held_by` says why.
    """

    tier: int = 0
    direction: int | None = None
    since: float = 0.0  # of tier and direction
    by_confidence: int = 0
    held_by: str = ""
    tier2_left_at: float | None = None


class Stance(Record, frozen=True, kw_only=True, gc=False):
    """The tier and direction in effect."""

    tier: int = 0
    direction: int | None = None


class TierOverride(Record, frozen=True, kw_only=True, gc=False):
    """A tier and direction that an operator has put in the mechanical ones' place, for a time.

    As applied: at most one tier from the mechanical one of then, and against its direction never
    above tier 1. `direction` None is symmetric in tier 0, and the mechanical direction above it.
    `recommended` is what the opinion said.
    """

    tier: int
    direction: int | None
    until: float
    applied_at: float
    conviction: int
    recommended: int
    mechanical: int  # tier when it was applied
    panelist: str = ""
    blocked: str = ""  # why it is without effect at present


class Suppression(Record, frozen=True, kw_only=True, gc=False):
    """Whose entries tier 2 withholds, one fact for all slots.

    `side` is the leg against the trend, withheld since `since` (None: in grace until `begins_at`,
    or released). A side released from too long a suppression is free until `released_until`.
    """

    side: TradeId | None = None
    begins_at: float | None = None
    since: float | None = None
    released: TradeId | None = None
    released_until: float | None = None


class Sample(Record, frozen=True, kw_only=True, gc=False):
    """The policy regime at one evaluation."""

    ts: float
    regime: int
    conf: float


class Training(Record, frozen=True, kw_only=True):
    """How one timeframe's model has been trained, and what is under way."""

    interval_sec: float
    model: ModelRef | None = None
    trained_at: float | None = None  # when the training of `model` was asked for
    requested_at: float | None = None  # of the one under way; it trains on candles until then
    reason: str = ""  # of the last request
    candles: int = 0  # at hand at the last request
    failures: int = 0  # in a row
    next_try: float | None = None  # after a failure
    error: str = ""  # of the last failure


class Regimes(Record, frozen=True, kw_only=True):
    """Everything about regimes that a decision may depend on."""

    estimate_due: float | None = None  # when the models are asked next; None: not begun
    asked_at: float | None = None
    heard_at: float | None = None
    primary: Estimate | None = None
    secondary: Estimate | None = None
    evidence: tuple[Evidence, ...] = ()
    horizon_sec: float = 0.0
    policy: Policy = Policy()
    tiers: Tiers = Tiers()
    override: TierOverride | None = None
    suppression: Suppression = Suppression()
    history: tuple[Sample, ...] = ()  # of the last half hour
    trainings: tuple[Training, ...] = ()
