"""What the advisor is told: numbers and words of closed lists, and nothing else.

Every record brings its values into their bounds by itself: finite, rounded, clamped; a word that
is not in its list becomes null or the first of them. So no free text, no key and no name of an
account can leave by it, whoever builds it.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import msgspec
from msgspec.structs import force_setattr

from core.advice import DIRECTIONS
from core.record import Record
from core.regime import LABELS

AGREEMENTS = (
    "primary_untrained", "primary_only", "full", "15m_neutral", "1m_cooling", "conflict",
)  # fmt: skip
QUALITIES = ("shallow", "baseline", "deep", "full")
EVIDENCE_WORDS = ("no evidence", "weak", "present")
BANDS = ("normal", "caution", "stop")
SAMPLES_MAX = 15
_SHARE, _SIGNED = (0.0, 1.0, 4), (-1.0, 1.0, 4)
_AGE, _COUNT = (0.0, 1e9, 0), (0, 1_000_000, 0)
_PERCENT, _EDGE = (-1_000.0, 1_000.0, 3), (-1e6, 1e6, 6)
Bounds = tuple[float, float, int]
Matrix = tuple[tuple[float, ...], ...]


def bounded(value: float, low: float, high: float, digits: int) -> float:
    """Return `value` in its bounds, rounded; what is not finite is 0, or the bound nearest to 0."""
    try:
        given = float(value)
    except OverflowError:
        given = math.inf
    kept = min(max(given if math.isfinite(given) else 0.0, low), high)
    return round(kept, digits) + 0.0  # no minus before a zero


class Told(Record, frozen=True, kw_only=True):
    """Brings fields into `BOUNDS` (low, high, digits; 0 digits: a whole number) and `WORDS`.

    A number in `OPTIONAL` is null where it is not finite. The first of the words stands for one
    that is not among them; None among them allows null.
    """

    BOUNDS: ClassVar[Mapping[str, Bounds]] = {}
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    WORDS: ClassVar[Mapping[str, tuple[str | None, ...]]] = {}

    def __post_init__(self) -> None:
        """Bring every field into its bounds."""
        for name, limits in self.BOUNDS.items():
            value = getattr(self, name)
            if value is None or (name in self.OPTIONAL and not math.isfinite(value)):
                force_setattr(self, name, None)
                continue
            kept = bounded(value, *limits)
            force_setattr(self, name, kept if limits[2] else int(kept))
        for name, words in self.WORDS.items():
            if getattr(self, name) not in words:
                force_setattr(self, name, words[0])


class Probabilities(Told, frozen=True, kw_only=True):
    """Of each label."""

    BOUNDS: ClassVar = dict.fromkeys(LABELS, _SHARE)

    bearish: float
    ranging: float
    bullish: float


class Timeframe(Told, frozen=True, kw_only=True):
    """What one timeframe's model says; `regime` null while it is untrained or stale.

    Rows and columns of the matrix are bearish, ranging, bullish.
    """

    BOUNDS: ClassVar = {
        "interval_sec": (1.0, 1e6, 0), "confidence": _SHARE, "bias": _SIGNED,
        "confidence_modifier": _SHARE,
    }  # fmt: skip
    WORDS: ClassVar = {"regime": (None, *LABELS), "training_quality": QUALITIES}

    interval_sec: int
    regime: str | None
    confidence: float
    bias: float
    probabilities: Probabilities | None
    training_quality: str
    confidence_modifier: float
    transition_matrix: Matrix | None = None

    def __post_init__(self) -> None:
        """Bring every field into its bounds; a matrix of another shape is unknown."""
        super().__post_init__()
        rows = self.transition_matrix
        is_square = rows is not None and [len(x) for x in rows] == [3, 3, 3]
        made = tuple(tuple(bounded(x, *_SHARE) for x in row) for row in rows or ())
        force_setattr(self, "transition_matrix", made if is_square else None)


class Together(Told, frozen=True, kw_only=True):
    """What both timeframes say together."""

    BOUNDS: ClassVar = {"confidence": _SHARE, "bias": _SIGNED, "confidence_modifier": _SHARE}
    WORDS: ClassVar = {"agreement": AGREEMENTS, "regime": ("ranging", *LABELS)}

    agreement: str
    regime: str
    confidence: float
    bias: float
    confidence_modifier: float


class EvidenceTold(Told, frozen=True, kw_only=True):
    """Whether the market has followed a label so far."""

    BOUNDS: ClassVar = {"rows": _COUNT, "t_value": (-100.0, 100.0, 2)}
    OPTIONAL: ClassVar = ("t_value",)
    WORDS: ClassVar = {"label": LABELS, "word": EVIDENCE_WORDS}

    label: str
    word: str
    rows: int
    t_value: float | None


class SampleTold(Told, frozen=True, kw_only=True):
    """The regime at one evaluation of the last half hour."""

    BOUNDS: ClassVar = {"age_sec": _AGE, "confidence": _SHARE}
    WORDS: ClassVar = {"regime": ("ranging", *LABELS)}

    age_sec: int
    regime: str
    confidence: float


class MechanicalTold(Told, frozen=True, kw_only=True):
    """The mechanical tier: what an opinion is compared with."""

    BOUNDS: ClassVar = {"tier": (0, 2, 0), "tier_by_confidence": (0, 2, 0), "age_sec": _AGE}
    WORDS: ClassVar = {"direction": DIRECTIONS}

    tier: int
    direction: str
    age_sec: int  # of tier and direction
    tier_by_confidence: int


class Trend(Told, frozen=True, kw_only=True):
    """Returns up to now in percent, null where they are not known."""

    OPTIONAL: ClassVar = ("return_15m_pct", "return_1h_pct", "return_4h_pct")
    BOUNDS: ClassVar = dict.fromkeys(OPTIONAL, _PERCENT)

    return_15m_pct: float | None = None
    return_1h_pct: float | None = None
    return_4h_pct: float | None = None


class KellyEdge(Told, frozen=True, kw_only=True):
    """The measured edge in each regime, null where there are too few cycles."""

    OPTIONAL: ClassVar = LABELS
    BOUNDS: ClassVar = dict.fromkeys(LABELS, _EDGE)

    bearish: float | None = None
    ranging: float | None = None
    bullish: float | None = None


class Context(Told, frozen=True, kw_only=True):
    """Everything that a panelist is told; null is what is off or not known."""

    BOUNDS: ClassVar = {
        "fills_last_hour": _COUNT, "recovery_orders": _COUNT,
        "capacity_headroom_orders": (-1_000_000, 1_000_000, 0),
    }  # fmt: skip
    WORDS: ClassVar = {"capacity_band": BANDS}

    hmm_primary: Timeframe | None = None
    hmm_secondary: Timeframe | None = None
    consensus: Together | None = None
    evidence: tuple[EvidenceTold, ...] = ()
    regime_history_30m: tuple[SampleTold, ...] = ()  # oldest first
    mechanical: MechanicalTold = MechanicalTold(
        tier=0, direction=DIRECTIONS[0], age_sec=0, tier_by_confidence=0
    )
    trend: Trend = Trend()
    fills_last_hour: int | None = None
    recovery_orders: int = 0
    kelly_edge: KellyEdge | None = None
    capacity_band: str = BANDS[0]
    capacity_headroom_orders: int = 0

    def __post_init__(self) -> None:
        """Bring every field into its bounds; of a long history samples are left out evenly."""
        super().__post_init__()
        samples = self.regime_history_30m
        step = max(1, math.ceil(len(samples) / SAMPLES_MAX))
        force_setattr(self, "regime_history_30m", samples[::-1][::step][::-1])
        force_setattr(self, "evidence", self.evidence[:2])

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return msgspec.json.encode(self).decode()
