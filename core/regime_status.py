"""The blocks of `/api/status` about regimes: part of the contract in `core/status.py`.

Numbers of models are plain numbers, rounded for reading; labels are bearish, ranging, bullish. Of a
block that is off only `enabled` is sent; else what is absent is null.
"""

from msgspec import UNSET, UnsetType

from core.record import Record


class TrainingDepthBlock(Record, frozen=True, kw_only=True):
    """How deep the model in use has been trained; `estimated_full_at` is null when full."""

    current_candles: int
    target_candles: int
    quality_tier: str
    confidence_modifier: float
    pct_complete: float
    estimated_full_at: str | None  # ISO, UTC


class ModelBlock(Record, frozen=True, kw_only=True):
    """Which model serves, and how well it fits; `changed_share` is of the last day's labels."""

    id: str
    first: float
    until: float
    candles: int
    rows: int
    effective_rows: float
    log_likelihood: float
    iterations: int
    is_converged: bool
    starts: int
    changed_share: float | None
    recipe: str  # the settings it was trained with, in short


class TrainingBlock(Record, frozen=True, kw_only=True):
    """The training under way, and how the last ones have gone."""

    is_training: bool
    requested_at: float | None
    trained_at: float | None
    reason: str
    failures: int
    next_try: float | None
    error: str


class Probabilities(Record, frozen=True, kw_only=True):
    """Of the three labels; they add up to 1."""

    bearish: float
    ranging: float
    bullish: float


class TimeframeBlock(Record, frozen=True, kw_only=True):
    """What one timeframe's model says; `regime` is null, with `why`, where data is stale."""

    interval_sec: float
    is_trained: bool
    regime: str | None
    why: str
    confidence: float
    confidence_effective: float
    bias: float
    probabilities: Probabilities | None  # None while there is no regime
    entropy: float
    leaving: float
    candle_time: float | None
    training_depth: TrainingDepthBlock
    model: ModelBlock | None
    training: TrainingBlock
    transmat: tuple[tuple[float, ...], ...] | None  # rows and columns in label order


class TrainerBlock(Record, frozen=True, kw_only=True):
    """The worker process that trains: what it has done since the daemon began."""

    is_running: bool
    submitted: int
    trained: int
    failed: int
    started: int  # processes
    died: int
    hung: int
    garbled: int
    last_sec: float | None
    last_error: str


class HmmBlock(Record, frozen=True, kw_only=True):
    """What the primary model says, with the depth of both; `secondary` in full.

    `confidence` is the model's, `confidence_effective` less what the training depth takes off.
    """

    enabled: bool
    is_trained: bool | UnsetType = UNSET
    regime: str | UnsetType | None = UNSET
    why: str | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    confidence_effective: float | UnsetType = UNSET
    bias: float | UnsetType = UNSET
    probabilities: Probabilities | UnsetType | None = UNSET
    entropy: float | UnsetType | None = UNSET
    leaving: float | UnsetType | None = UNSET
    interval_sec: float | UnsetType | None = UNSET
    candle_time: float | UnsetType | None = UNSET
    heard_at: float | UnsetType | None = UNSET
    training_depth: TrainingDepthBlock | UnsetType | None = UNSET
    training_depth_secondary: TrainingDepthBlock | UnsetType | None = UNSET
    model: ModelBlock | UnsetType | None = UNSET
    training: TrainingBlock | UnsetType | None = UNSET
    transmat: tuple[tuple[float, ...], ...] | UnsetType | None = UNSET
    secondary: TimeframeBlock | UnsetType | None = UNSET
    trainer: TrainerBlock | UnsetType | None = UNSET


class VoiceBlock(Record, frozen=True, kw_only=True):
    """One timeframe's part in the consensus; `regime` is null while it has none."""

    regime: str | None
    confidence: float
    bias: float
    weight: float


class ConsensusBlock(Record, frozen=True, kw_only=True):
    """What both timeframes say together; it decides where `source` is consensus."""

    enabled: bool
    source: str | UnsetType = UNSET
    agreement: str | UnsetType = UNSET
    regime: str | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    confidence_effective: float | UnsetType = UNSET
    confidence_modifier: float | UnsetType = UNSET
    bias: float | UnsetType = UNSET
    dampen_factor: float | UnsetType = UNSET
    primary: VoiceBlock | UnsetType = UNSET
    secondary: VoiceBlock | UnsetType = UNSET


class SampleBlock(Record, frozen=True, kw_only=True):
    """The policy regime and its confidence at one evaluation."""

    ts: float
    regime: str
    conf: float


class EvidenceBlock(Record, frozen=True, kw_only=True):
    """What has followed a label so far: no evidence, weak or present.

    `t` is in the label's direction, `mean` the mean log return.
    """

    label: str
    word: str
    rows: int
    mean: float | None
    t: float | None
    needed_rows: int
    needed_t: float


class SuppressionBlock(Record, frozen=True, kw_only=True):
    """Whose entries are withheld: `side` sell or buy, since when, and until when at most.

    `begins_at` is the end of the grace. `is_acting` is false in shadow.
    """

    side: str | None
    is_acting: bool
    begins_at: float | None
    since: float | None
    until: float | None
    released_side: str | None
    released_until: float | None


class DirectionalBlock(Record, frozen=True, kw_only=True):
    """The policy regime and its tiers: by confidence alone, mechanical, and in effect.

    `enabled` says whether tiers act; `shadow` that they are computed and shown only. Clocks are
    null where they do not run. Factors are those of the entry distances, in shadow what they would
    be.
    """

    enabled: bool
    shadow: bool | UnsetType = UNSET
    regime: str | UnsetType = UNSET
    confidence: float | UnsetType = UNSET
    confidence_effective: float | UnsetType = UNSET
    bias: float | UnsetType = UNSET
    source: str | UnsetType = UNSET
    agreement: str | UnsetType = UNSET
    manual_override: str | UnsetType | None = UNSET
    tier_by_confidence: int | UnsetType = UNSET
    tier_mechanical: int | UnsetType = UNSET
    tier_effective: int | UnsetType = UNSET
    tier_name: str | UnsetType = UNSET
    direction: str | UnsetType = UNSET  # symmetric, long_bias, short_bias
    since: float | UnsetType = UNSET
    held_by: str | UnsetType | None = UNSET
    hint: str | UnsetType = UNSET
    evaluated_at: float | UnsetType | None = UNSET
    next_evaluation: float | UnsetType | None = UNSET
    dwell_until: float | UnsetType | None = UNSET
    grace_until: float | UnsetType | None = UNSET
    cooldown_until: float | UnsetType | None = UNSET
    sell_entry_factor: str | UnsetType = UNSET
    buy_entry_factor: str | UnsetType = UNSET
    suppression: SuppressionBlock | UnsetType = UNSET
    evidence_gate: bool | UnsetType = UNSET
    evidence: tuple[EvidenceBlock, ...] | UnsetType = UNSET
    evidence_horizon_sec: float | UnsetType | None = UNSET


class PipelineBlock(Record, frozen=True, kw_only=True):
    """How one timeframe's candles are: what is there, how fresh, and where it comes from."""

    enabled: bool
    interval_sec: float | UnsetType = UNSET
    samples: int | UnsetType = UNSET
    target: int | UnsetType = UNSET
    coverage: float | UnsetType = UNSET  # of the bars that the target window should hold
    newest_age_sec: float | UnsetType | None = UNSET
    freshness_limit_sec: float | UnsetType = UNSET
    volume_coverage: float | UnsetType = UNSET
    is_ready: bool | UnsetType = UNSET
    is_fresh: bool | UnsetType = UNSET
    minimum: int | UnsetType = UNSET  # fewer cannot be trained on
    gaps: tuple[str, ...] | UnsetType = UNSET  # the newest few of the target window, in words
    gap_count: int | UnsetType = UNSET
    filled_bars: int | UnsetType = UNSET
    sequences: int | UnsetType = UNSET
    ema_restarts: int | UnsetType = UNSET
    last_sync: float | UnsetType | None = UNSET
    sources: dict[str, int] | UnsetType = UNSET  # rows by where they came from
    refused: int | UnsetType = UNSET
    errors: int | UnsetType = UNSET
    trouble: str | UnsetType | None = UNSET  # the newest of them
