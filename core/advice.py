"""The advisor's word as values: opinions, votes of a council, and how often they were right.

Nothing of it acts. `ai_advisor.py` makes opinions of what models write, `grid/advice.py` keeps them
and carries out what an operator makes of one; both compare by `agreement`, which therefore stands
here.
"""

from decimal import Decimal
from typing import NamedTuple

from core.record import Record
from core.regime import BEARISH, BULLISH

SYMMETRIC, LONG_BIAS, SHORT_BIAS = "symmetric", "long_bias", "short_bias"
DIRECTIONS = (SYMMETRIC, LONG_BIAS, SHORT_BIAS)
_LABELS = {LONG_BIAS: BULLISH, SHORT_BIAS: BEARISH}

AGREE, UPGRADE, DOWNGRADE, FLIP, ERROR = "agree", "ai_upgrade", "ai_downgrade", "ai_flip", "error"
COUNCIL_ACTIONS = (
    "continue", "tighten_entry", "widen_entry", "tighten_profit", "widen_profit", "pause",
)  # fmt: skip
NOT_ASKED = ("resting", "no_providers")  # errors of a panel of which nobody was asked
RATIONALE_MAX, WATCH_FOR_MAX, ERROR_MAX = 500, 200, 40


class AdviceParams(Record, frozen=True, kw_only=True):
    """When the advisor is asked, and the rails of an override."""

    enabled: bool = False
    interval_sec: float = 300.0
    debounce_sec: float = 60.0  # never are two questions nearer
    override_ttl_sec: float = 1_800.0
    override_max_ttl_sec: float = 3_600.0
    override_min_conviction: int = 50
    opinion_max_age_sec: float = 900.0  # of what it was told, where an override is applied


class Opinion(Record, frozen=True, kw_only=True):
    """What one panelist recommends, inside its bounds; or, with `error`, that none did.

    Tier 0, 1 or 2; tier 0 is symmetric and a higher one is not. Conviction, 0 to 100, is that in
    the assessment: tier 0 may carry 90. Texts are plain, for showing only.
    """

    recommended_tier: int = 0
    recommended_direction: str = SYMMETRIC
    conviction: int = 0
    rationale: str = ""
    watch_for: str = ""
    suggested_ttl_minutes: int = 0  # 0 to 60; 0: no wish
    panelist: str = ""
    is_mended: bool = False  # tier and direction did not fit, and were read as tier 0
    error: str = ""  # disabled, no_providers, http_429, timeout, parse_error, …


class Heard(Record, frozen=True, kw_only=True):
    """The newest opinion: the time of what it was told, and when it came."""

    opinion: Opinion
    asked_at: float
    at: float
    trigger: str
    is_dismissed: bool = False


class Vote(Record, frozen=True, kw_only=True, gc=False):
    """One panelist's vote: an action of COUNCIL_ACTIONS, or the error that kept it from voting."""

    panelist: str
    action: str | None
    error: str = ""


class Council(Record, frozen=True, kw_only=True):
    """What the panelists would do: an action that more than half of the votes name, or why none."""

    action: str | None
    why: str
    votes: tuple[Vote, ...] = ()


class Sitting(Record, frozen=True, kw_only=True):
    """The newest council, and when it was held."""

    council: Council
    asked_at: float
    at: float


class Call(Record, frozen=True, kw_only=True, gc=False, array_like=True):
    """An opinion that waits to be scored; directions are labels, None is symmetric."""

    id: int
    at: float
    price: Decimal  # mid when it came
    advised: int | None
    mechanical: int | None


class Tally(Record, frozen=True, kw_only=True, gc=False):
    """How often one voice was right.

    `inside` are directional calls after which the price moved by less than a round trip of fees:
    neither right nor wrong, and nothing earned. `windows` are calls that were right or wrong and
    whose hours do not overlap: the number that statistics may count on.
    """

    right: int = 0
    wrong: int = 0
    inside: int = 0
    windows: int = 0
    window_at: float | None = None  # when the newest of them came


class Voice(Record, frozen=True, kw_only=True, gc=False):
    """The tally of all calls of one voice, and that of those which named a direction."""

    all: Tally = Tally()
    directional: Tally = Tally()


class Score(Record, frozen=True, kw_only=True):
    """Opinions scored so far, of both voices, and how the two compare.

    Compared are calls whose hours do not overlap and where the two differed: the advisor was
    better or worse, or, where nothing moved, neither.
    """

    advised: Voice = Voice()
    mechanical: Voice = Voice()
    unscored: int = 0  # there was no fresh price, or the advisor was switched off
    differed: int = 0
    better: int = 0
    worse: int = 0
    differed_at: float | None = None  # when the newest of them came

    @property
    def count(self) -> int:
        """Return how many opinions were scored."""
        own = self.advised.all
        return own.right + own.wrong + own.inside


class End(Record, frozen=True, kw_only=True, gc=False):
    """How the newest override that is over ended: expired, reverted, ended; and why."""

    at: float
    name: str
    why: str


class AdviceState(Record, frozen=True, kw_only=True):
    """Everything about the advisor that a decision may depend on; an override is in `Regimes`."""

    due: float | None = None  # when it is asked next; None: not begun
    asked_at: float | None = None
    trigger: str = ""  # of the next question
    opinions: int = 0  # the number of the newest
    heard: Heard | None = None
    sitting: Sitting | None = None
    council_asked_at: float | None = None
    pending: tuple[Call, ...] = ()
    score_due: float | None = None
    score: Score = Score()
    end: End | None = None


class Agreement(NamedTuple):
    """How an opinion stands to a tier and direction."""

    word: str  # agree, ai_upgrade, ai_downgrade, ai_flip, error
    is_reversed: bool  # both are directional, and against each other


def label_of(direction: str) -> int | None:
    """Return the label that a direction in words means, None for symmetric."""
    return _LABELS.get(direction)


def direction_of(label: int | None) -> str:
    """Return a label as a direction in words."""
    return LONG_BIAS if label == BULLISH else SHORT_BIAS if label == BEARISH else SYMMETRIC


def agreement(opinion: Opinion, tier: int, direction: int | None) -> Agreement:
    """Return how `opinion` stands to `tier` and its `direction`, a label (None: symmetric)."""
    if opinion.error:
        return Agreement(ERROR, is_reversed=False)
    own = label_of(opinion.recommended_direction)
    is_reversed = None not in (own, direction) and own != direction
    if opinion.recommended_tier != tier:
        word = UPGRADE if opinion.recommended_tier > tier else DOWNGRADE
    else:
        word = FLIP if is_reversed else AGREE
    return Agreement(word, is_reversed=is_reversed)
