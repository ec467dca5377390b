"""The decision parameters, as values: what `Started` carries and every decision reads.

They live in core, not beside the formulas they feed, because events carry them and core imports
nothing (`docs/decisions/002-parameters-in-core.md`). Percentages are percent, durations seconds.
`config.py` reads them from the environment; nothing here has another source.
"""

from decimal import Decimal
from enum import StrEnum

from core.advice import AdviceParams
from core.domain import ZERO
from core.kelly import KellyConfig
from core.record import Record


class PausePolicy(StrEnum):
    """What a pause does with resting entries."""

    WITHDRAW = "withdraw"
    STAY = "stay"


class RiskBasis(StrEnum):
    """What drawdown and daily loss are measured on."""

    STRATEGY = "strategy"  # equity against the value of the starting balances held
    ACCOUNT = "account"  # equity in quote


class RegimeSource(StrEnum):
    """Whose word the policy regime is, where there are two timeframes."""

    CONSENSUS = "consensus"
    PRIMARY = "primary"


class Params(Record, frozen=True, kw_only=True):
    """Everything the reducer may depend on besides its state and the event."""

    # Grid
    slot_count: int = 3
    slot_stagger_pct: Decimal = Decimal("0.5")
    slot_aliases: tuple[str, ...] = ()
    entry_pct: Decimal = Decimal("0.5")
    profit_pct: Decimal = Decimal("2.0")
    refresh_pct: Decimal = Decimal("1.5")
    min_net_profit_pct: Decimal = Decimal("0.10")
    entries_per_second: int = 2
    partial_entry_max_sec: float = 600.0
    reentry_cooldown_sec: float = 0.0
    backoff_after: int = 3  # ENTRY_BACKOFF_AFTER: losses in a row before the distance widens
    backoff_step: Decimal = Decimal("0.5")
    backoff_max: Decimal = Decimal(5)
    loss_streak_rest_at: int = 5
    loss_rest_sec: float = 900.0
    s1_orphan_after_sec: float = 21_600.0
    s2_orphan_after_sec: float = 43_200.0
    orphan_min_adverse_pct: Decimal | None = None  # None: the profit target
    max_recovery_slots: int = 1
    pause_policy: PausePolicy = PausePolicy.WITHDRAW
    # Size
    order_size_usd: Decimal = Decimal(40)
    max_order_usd: Decimal = Decimal(200)
    layers_target: int = 0
    layer_base_per_order: Decimal = Decimal(1)
    rebalance_enabled: bool = False
    rebalance_target: Decimal = Decimal("0.5")
    rebalance_band: Decimal = Decimal("0.1")
    # Risk
    daily_loss_limit_usd: Decimal | None = None  # None: 5 % of the equity at midnight; 0: off
    risk_basis: RiskBasis = RiskBasis.STRATEGY
    max_equity_share: Decimal = Decimal("0.8")
    equity_stop_usd: Decimal = ZERO  # 0: off
    max_consecutive_errors: int = 25
    imbalance_alert_min: float = 60.0
    open_order_limit: int = 225
    recon_interval_sec: float = 300.0
    # Market
    stale_price_max_age_sec: float = 60.0
    price_jump_max_pct: Decimal = Decimal(10)
    max_spread_pct: Decimal = Decimal("0.5")
    is_simulated: bool = True  # simulated time: locks that need an operator clear as one would
    # Regimes: numbers of models are floats; where one touches money it passes one door
    # (`regime_policy.distance_factor`).
    hmm_enabled: bool = False
    hmm_min_train_samples: int = 500
    hmm_secondary_min_train_samples: int = 200
    hmm_retrain_interval_sec: float = 86_400.0
    hmm_multi_timeframe_enabled: bool = True
    hmm_multi_timeframe_source: RegimeSource = RegimeSource.CONSENSUS
    consensus_1m_weight: float = 0.3
    consensus_15m_weight: float = 0.7
    consensus_dampen_factor: float = 0.5
    regime_directional_enabled: bool = False  # False: shadow, all is computed and nothing acts
    regime_eval_interval_sec: float = 300.0
    regime_tier1_confidence: float = 0.20
    regime_tier2_confidence: float = 0.50
    regime_tier1_bias: float = 0.10
    regime_tier2_bias: float = 0.25
    regime_hysteresis: float = 0.05
    regime_min_dwell_sec: float = 300.0
    regime_suppression_grace_sec: float = 60.0
    regime_tier2_cooldown_sec: float = 600.0
    regime_max_suppression_sec: float = 1_800.0
    regime_manual_override: int | None = None  # a label; None: the models decide
    regime_manual_confidence: float = 0.6
    regime_evidence_gate: bool = True
    regime_evidence_t: float = 2.3
    model_latency_sec: float = 30.0  # how long a training takes in simulated time
    # Kelly: off, sizes pass through unchanged; regime tags are stamped all the same
    kelly_enabled: bool = False
    kelly: KellyConfig = KellyConfig()
    advice: AdviceParams = AdviceParams()  # an opinion on the regime, which never acts
