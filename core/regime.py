"""What the regime models say, as values: estimates, training depth, evidence. No decisions.

The models run in the shell (`engine/models.py`); what they say reaches the reducer as events that
hold these records, and `regime_policy.py` decides what follows from them.
"""

from core.record import Record

BEARISH, RANGING, BULLISH = 0, 1, 2
LABELS = ("bearish", "ranging", "bullish")


class Depth(Record, frozen=True, kw_only=True, gc=False):
    """How much a model has been trained on, and what that takes off its confidence.

    Candles are rows before the warm-up is dropped. `tier` is shallow, baseline, deep or full and
    follows the model in use and the candles at hand, whichever is less.
    """

    candles: int  # at hand now, at most the target
    target: int
    tier: str
    modifier: float  # confidence times this decides
    full_at: float | None  # when the target will be reached; None: it is


class Estimate(Record, frozen=True, kw_only=True, gc=False):
    """What one timeframe's model makes of its newest closed candle.

    `regime` is the most probable label, None (with `why`) while untrained or stale: that is what a
    position is tagged with. Probabilities are of bearish, ranging, bullish and add up to 1.
    """

    interval_sec: float
    is_trained: bool
    regime: int | None
    why: str = ""
    confidence: float = 0.0  # best less second probability, 0 to 1
    bias: float = 0.0  # −1 bearish to +1 bullish
    probabilities: tuple[float, float, float] = (0.0, 1.0, 0.0)
    entropy: float = 1.0  # normalised, 0 to 1
    leaving: float = 0.0  # probability that the next candle has another label
    candle_time: float | None = None  # the newest candle's close, seconds
    is_outdated: bool = False  # the model was trained with other settings
    depth: Depth


class Evidence(Record, frozen=True, kw_only=True, gc=False):
    """What followed rows with one directional label that the serving model had not seen before.

    `mean` is the mean log return over `horizon_sec`, `t` its HAC t-value in the label's direction
    (positive: the market moved as the label says); None where there are too few rows.
    """

    label: int
    rows: int
    mean: float | None
    t: float | None


class ModelRef(Record, frozen=True, kw_only=True):
    """Which model serves, what it was trained on, and how well it fits."""

    id: str
    interval_sec: float
    first: float  # the training window's first candle, open time
    until: float  # and the close of its last
    candles: int
    rows: int  # after the warm-up, of all sequences
    effective_rows: float  # fewer than `rows` where newer blocks were drawn more often
    log_likelihood: float
    iterations: int
    is_converged: bool
    starts: int
    changed_share: float | None = None  # of the last day's rows, whose label the retrain changed
    recipe: str = ""  # of the settings it was trained with
