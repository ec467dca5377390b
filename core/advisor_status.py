"""The block of `/api/status` about the advisor: part of the contract in `core/status.py`.

Of a block that is off only `enabled` and `state` are sent; else what is absent is null. Times are
bot time in seconds since the epoch; directions are symmetric, long_bias, short_bias.
"""

from msgspec import UNSET, UnsetType

from core.record import Record


class AdvisorCounters(Record, frozen=True, kw_only=True):
    """What has happened since the database began.

    `ended` are overrides ended by a rail, `mended` opinions whose tier and direction did not fit.
    """

    opinions: int
    errors: int
    disagreements: int
    applied: int
    expired: int
    reverted: int
    ended: int
    dismissed: int
    mended: int


class MechanicalBlock(Record, frozen=True, kw_only=True):
    """The mechanical tier now: what an opinion is compared with."""

    tier: int
    direction: str


class OpinionBlock(Record, frozen=True, kw_only=True):
    """The newest opinion, and how it stands to the mechanical tier now.

    `agreement` is agree, ai_upgrade, ai_downgrade, ai_flip or error; `is_reversed` that its
    direction is against the mechanical one. `age_sec` is that of what it was told.
    """

    id: int
    recommended_tier: int
    recommended_direction: str
    conviction: int
    rationale: str
    watch_for: str
    suggested_ttl_minutes: int
    panelist: str
    error: str | None
    agreement: str
    is_reversed: bool
    is_mended: bool
    is_dismissed: bool
    asked_at: float
    at: float
    age_sec: float
    trigger: str


class ApplyBlock(Record, frozen=True, kw_only=True):
    """What `ai_regime_override` would do now: `why` it would be refused, null if it would not.

    `tier` and `direction` are what would be applied, null where there is nothing to apply;
    `ttl_sec` is what the opinion wishes, else what is configured; `effect` is in plain words.
    """

    why: str | None
    tier: int | None
    direction: str | None
    ttl_sec: float
    ttl_max_sec: float
    evidence: str | None  # of the direction that would be applied: no evidence, weak, present
    effect: str | None


class OverrideStateBlock(Record, frozen=True, kw_only=True):
    """The operator's override; null but for `active` while there is none.

    `tier` and `direction` are as applied, `tier_effective` and `direction_effective` what is in
    effect; where they differ `blocked` says why. `evidence` is that of the direction in effect.
    """

    active: bool
    tier: int | None = None
    direction: str | None = None
    tier_effective: int | None = None
    direction_effective: str | None = None
    applied_at: float | None = None
    expires_at: float | None = None
    remaining_sec: float | None = None
    source_conviction: int | None = None
    recommended_tier: int | None = None
    panelist: str | None = None
    blocked: str | None = None
    evidence: str | None = None
    effect: str | None = None
    last_end: str | None = None  # how the newest one that is over ended, and when
    last_ended_at: float | None = None


class PastOpinion(Record, frozen=True, kw_only=True):
    """An opinion of the past, as it stood when it came; outcomes are right, wrong, inside or null.

    `change_pct` is the change of the price over the hour after it, null until it is scored.
    """

    id: int
    at: float
    panelist: str
    error: str | None
    recommended_tier: int
    recommended_direction: str
    conviction: int
    agreement: str
    mechanical_tier: int
    mechanical_direction: str
    change_pct: str | None
    advised_outcome: str | None
    mechanical_outcome: str | None


class TallyBlock(Record, frozen=True, kw_only=True):
    """How often one voice was right: `hit_rate` of those right or wrong, with a 95 % interval.

    `windows` are those whose hours do not overlap; the interval counts on no more.
    """

    right: int
    wrong: int
    inside: int
    windows: int
    hit_rate: float | None
    low: float | None
    high: float | None


class VoiceBlock(TallyBlock, frozen=True, kw_only=True):
    """The tally of all calls of one voice, and of those that named a direction."""

    directional: TallyBlock


class ScoreBlock(Record, frozen=True, kw_only=True):
    """Opinions scored an hour later against the price, beyond one round trip of fees.

    Where the two differed, counted by hours that do not overlap, the advisor was `better` or
    `worse`, or nothing moved; `better_rate` is better/(better + worse), with a 95 % interval.
    """

    count: int
    waiting: int
    unscored: int
    horizon_sec: float
    threshold_pct: str
    advised: VoiceBlock
    mechanical: VoiceBlock
    differed: int
    better: int
    worse: int
    better_rate: float | None
    better_low: float | None
    better_high: float | None


class VoteBlock(Record, frozen=True, kw_only=True):
    """One panelist's vote, or why it has none."""

    panelist: str
    action: str | None
    error: str | None


class CouncilBlock(Record, frozen=True, kw_only=True):
    """The newest council: an action, or null and why; applied by nobody but the operator."""

    is_asked: bool  # one is under way
    action: str | None
    why: str | None
    votes: tuple[VoteBlock, ...]
    at: float | None


class ProviderBlock(Record, frozen=True, kw_only=True):
    """One model of the panel: `state` is untried, ok, failing, resting or no_key."""

    name: str
    model: str
    host: str
    is_reasoning: bool
    state: str
    answered: int
    failed: int
    failures_in_row: int
    last_error: str | None
    last_sec: float | None  # how long its last answer took
    rests_sec: float | None  # how much longer it rests, real time


class WorkerBlock(Record, frozen=True, kw_only=True):
    """The thread that asks: `waiting` is 0 or 1, `replaced` are questions a newer one overtook."""

    is_asking: bool
    waiting: int
    asked: int
    replaced: int


class AdvisorBlock(Record, frozen=True, kw_only=True):
    """The advisor: off, waiting, unavailable, agrees, disagrees, override or dismissed.

    `why` tells why it is off though it is switched on.
    """

    enabled: bool
    state: str = "off"
    why: str | UnsetType = UNSET
    interval_sec: float | UnsetType = UNSET
    last_run: float | UnsetType | None = UNSET
    last_trigger: str | UnsetType | None = UNSET
    next_run: float | UnsetType | None = UNSET
    counters: AdvisorCounters | UnsetType = UNSET
    mechanical: MechanicalBlock | UnsetType = UNSET
    opinion: OpinionBlock | UnsetType | None = UNSET
    apply: ApplyBlock | UnsetType = UNSET
    override: OverrideStateBlock | UnsetType = UNSET
    history: tuple[PastOpinion, ...] | UnsetType = UNSET
    scored: tuple[PastOpinion, ...] | UnsetType = UNSET  # the newest that are, if not among them
    score: ScoreBlock | UnsetType = UNSET
    council: CouncilBlock | UnsetType = UNSET
    providers: tuple[ProviderBlock, ...] | UnsetType = UNSET
    worker: WorkerBlock | UnsetType | None = UNSET
