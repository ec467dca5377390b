"""What Kelly sizing is told and what it finds, as values, and the size that follows from them.

`kelly_sizer.py` has the statistics. `sizing` stands here because the size pipeline and the sizer
must say the same, and neither may import the other.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from core.record import Record
from core.regime import LABELS

AGGREGATE, UNKNOWN = "aggregate", "unknown"
NO_DATA, NO_EDGE, ALL_WINS = "no_data", "no_edge", "all_wins"
INSUFFICIENT, OK = "insufficient_samples", "ok"
REASONS = (OK, NO_DATA, NO_EDGE, ALL_WINS, INSUFFICIENT)
TILT, BANKROLL = "tilt", "bankroll"
PAYOFF_MAX = 1e6  # the largest payoff ratio that is told: without losses there is none


class KellyConfig(Record, frozen=True, kw_only=True):
    """How sizes follow the measured edge; the last three fields are those of mode bankroll."""

    kelly_fraction: float = 0.25
    min_samples_total: int = 30
    min_samples_per_regime: int = 15
    lookback_cycles: int = 500  # the newest, of each bucket
    kelly_floor_mult: float = 0.5
    kelly_ceiling_mult: float = 2.0
    negative_edge_mult: float = 0.5  # of a size without edge, before floor and ceiling
    use_recency_weighting: bool = True
    recency_halflife_cycles: float = 100.0
    log_kelly_updates: bool = True
    regime_labels: dict[int, str] = msgspec.field(default_factory=lambda: dict(enumerate(LABELS)))
    mode: str = TILT
    prior_strength: float = 30.0  # cycles that the sceptical prior counts as
    max_equity_share: float = 0.25  # of equity, in one order


class BankrollFacts(Record, frozen=True, kw_only=True):
    """The numbers on the way from a sample of returns to a share of equity (mode bankroll)."""

    n_effective: float  # (Σ w)²/Σ w²
    mean_return: float  # of the capital tied up, weighted
    growth: float  # expected log growth per cycle at `f_raw`
    f_raw: float  # share of equity in one cycle that grows fastest on this sample
    f_shrunk: float = 0.0  # after the sceptical prior and, in a regime, the pooling
    f_slot: float = 0.0  # of it for one of several correlated slots
    rho: float = 0.0  # correlation of slots' outcomes
    p_low: float | None  # one-sided 95 % bound of the win rate, where no loss was seen
    structural_loss: float | None  # stands in for losses not seen, a fraction
    censored: int  # outcomes that are marks of open positions
    censored_share: float


class KellyResult(Record, frozen=True, kw_only=True):
    """What one bucket of cycles says about size; `multiplier` is before floor and ceiling.

    Wins and losses are magnitudes in USD (mode tilt) or fractions of capital (mode bankroll);
    `win_rate`, `avg_win` and `avg_loss` are weighted. Without losses `payoff_ratio` is the largest
    that is ever told, PAYOFF_MAX.
    """

    f_star: float = 0.0
    f_fractional: float = 0.0
    multiplier: float = 1.0
    win_rate: float = 0.0
    avg_win: float = 0.0
    avg_loss: float = 0.0
    payoff_ratio: float = 0.0
    n_total: int = 0
    n_wins: int = 0
    n_losses: int = 0
    edge: float = 0.0
    sufficient_data: bool = False
    reason: str = NO_DATA
    bankroll: BankrollFacts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values; every number is finite."""
        return {name: _finite(value) for name, value in super().to_dict().items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return 0.0
    return value


class Bank(Record, frozen=True, kw_only=True):
    """What sizes in mode bankroll are a share of."""

    equity_usd: float
    equity_share: float  # that may be in positions, MAX_EQUITY_SHARE
    slots: int


class OpenPosition(Record, frozen=True, kw_only=True):
    """A position that closed cycles do not show yet, at mark."""

    regime_at_entry: int | None
    opened_at: float
    capital_usd: float
    marked_usd: float  # profit if it were closed now, after the exit's fee


class Book(Record, frozen=True, kw_only=True):
    """What mode bankroll must know besides completed cycles."""

    now: float
    bank: Bank
    horizon_sec: float  # positions open for longer are outcomes, at mark
    structural_loss: float  # what a loss would cost, as a fraction, where none was seen
    base_usd: float  # of one order
    positions: tuple[OpenPosition, ...] = ()

    @property
    def open_losers(self) -> int:
        """Return how many open positions are under water."""
        return sum(x.marked_usd < 0 for x in self.positions)

    @property
    def open_losers_usd(self) -> float:
        """Return what these would lose if they were closed now."""
        return sum(x.marked_usd for x in self.positions if x.marked_usd < 0)


# ---- the size that follows ----------------------------------------------------------------------


class Sizing(NamedTuple):
    """A multiplier within floor and ceiling, with its reason."""

    multiplier: float
    reason: str
    bucket: str | None = None  # whose statistics it comes from, None: none are good enough
    is_capped: bool = False  # floor, ceiling or the cap of one order decided


def sizing(
    results: Mapping[str, KellyResult],
    label: str | None,
    cfg: KellyConfig,
    *,
    base_usd: float,
    bank: Bank | None,
) -> Sizing:
    """Return what an order of `base_usd` is to be multiplied by in the regime `label`.

    The bucket of the regime counts if it is sufficient, else the aggregate, else nothing changes.
    `bank` is needed in mode bankroll only.
    """
    names = [x for x in (label, AGGREGATE) if x is not None]
    bucket = next((x for x in names if x in results and results[x].sufficient_data), None)
    if bucket is None or not (math.isfinite(base_usd) and base_usd > 0):
        return Sizing(1.0, "kelly_inactive")
    result = results[bucket]
    wanted = result.multiplier
    is_without_edge = result.reason == NO_EDGE
    if cfg.mode == BANKROLL:
        if bank is None or result.bankroll is None:
            return Sizing(1.0, "kelly_inactive")
        wanted = target_usd(result.bankroll.f_slot, cfg, bank) / base_usd
    if is_without_edge:
        wanted = cfg.negative_edge_mult
    made = min(max(wanted, cfg.kelly_floor_mult), cfg.kelly_ceiling_mult)
    if cfg.mode == BANKROLL and bank is not None:
        made = min(made, cfg.max_equity_share * max(0.0, bank.equity_usd) / base_usd)
    if is_without_edge:
        reason = f"kelly_no_edge({bucket},m={made:.3f})"
    else:
        reason = f"kelly_{bucket}(f={result.f_fractional:.4f},m={made:.3f})"
    return Sizing(made, reason, bucket, made != wanted)


def target_usd(f_slot: float, cfg: KellyConfig, bank: Bank) -> float:
    """Return the notional of one leg: min(c·f, 1) · equity · share / (2 · slots)."""
    share = min(max(0.0, cfg.kelly_fraction * f_slot), 1.0)
    room = max(0.0, bank.equity_usd) * bank.equity_share
    return share * room / (2 * max(1, bank.slots))


def fallback(results: Mapping[str, KellyResult], label: str | None, cfg: KellyConfig) -> str:
    """Return which bucket decides in the regime `label`, and why if it is not the regime's own."""
    own = results.get(label or "", KellyResult())
    total = results.get(AGGREGATE, KellyResult())
    if own.sufficient_data:
        return str(label)
    if not total.sufficient_data:
        return f"base size: {total.n_total} of {cfg.min_samples_total} cycles"
    if label is None:
        return f"{AGGREGATE}: no regime is known"
    return f"{AGGREGATE}: {label} has {own.n_total} of {cfg.min_samples_per_regime} cycles"


class KellyState(Record, frozen=True, kw_only=True):
    """What was heard of the sizer last: part of the state."""

    due: float | None = None  # when it is asked next; None: not begun
    asked_at: float | None = None
    heard_at: float | None = None
    results: dict[str, KellyResult] = msgspec.field(default_factory=dict)  # never mutated
    cycles: int = 0  # that it has looked at
    unknown: int = 0  # of them, entered in a regime that is not known
    updates: int = 0
