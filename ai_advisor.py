"""A second opinion on the regime by language models: whom to ask, what is told, what is heard.

Pure: no clock, no sockets, no logging. What a model writes is data; it becomes an `Opinion` or a
`Vote` inside their bounds, or an error in one word, and never anything that acts. HTTP is in
`engine/llm.py`, the thread that asks in `engine/advisor.py`; what is told in `core/advice_told.py`.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core.advice import (
    COUNCIL_ACTIONS,
    DIRECTIONS,
    ERROR_MAX,
    RATIONALE_MAX,
    SYMMETRIC,
    WATCH_FOR_MAX,
    Agreement,
    Council,
    Opinion,
    Vote,
    agreement,
)
from core.advice_told import Context
from core.advisor_status import ProviderBlock, WorkerBlock
from core.hosts import host_of, is_here
from core.plain_text import clean_text
from core.ports import Answer, Llm
from core.record import Record, replace

__all__ = ["Agreement", "Context", "agreement"]

NO_PROVIDERS, RESTING, EMPTY, PARSE_ERROR = "no_providers", "resting", "empty", "parse_error"
NO_KEY, INTERNAL = "no_key", "internal"

# ---- the panel ----------------------------------------------------------------------------------

NVIDIA, GROQ = "https://integrate.api.nvidia.com/v1", "https://api.groq.com/openai/v1"
FREE_CHOICE = "own model"


class Panelist(Record, frozen=True, kw_only=True):
    """One model behind an OpenAI-compatible chat endpoint."""

    name: str
    model: str
    base_url: str
    key_name: str  # of the setting that holds its key
    needs_key: bool = True
    is_reasoning: bool = False
    effort: str | None = None  # of its reasoning, where it can be told
    temperature: float | None = 0.2
    max_tokens: int = 512
    timeout_sec: float = 20.0  # for the whole answer


KIMI = Panelist(
    name="Kimi", model="moonshotai/kimi-k3", base_url=NVIDIA, key_name="NVIDIA_API_KEY",
    is_reasoning=True, effort="low", temperature=None, max_tokens=2_048, timeout_sec=60.0,
)  # fmt: skip
LLAMA_70B = Panelist(
    name="Llama 70B", model="llama-3.3-70b-versatile", base_url=GROQ, key_name="GROQ_API_KEY"
)
LLAMA_8B = Panelist(
    name="Llama 8B", model="llama-3.1-8b-instant", base_url=GROQ, key_name="GROQ_API_KEY"
)


def panel(
    *,
    prefer_reasoning: bool = True,
    models: Mapping[str, str] | None = None,
    base_url: str = "",
    model: str = "",
) -> tuple[Panelist, ...]:
    """Return the panelists in order of preference; the free choice, where it is set, is last.

    `models` are the models' names at their providers, by panelist, where they are other ones.
    """
    first = (KIMI, LLAMA_70B, LLAMA_8B) if prefer_reasoning else (LLAMA_70B, LLAMA_8B, KIMI)
    named = tuple(replace(x, model=(models or {}).get(x.name, x.model)) for x in first)
    if not (base_url and model):
        return named
    free = Panelist(
        name=FREE_CHOICE, model=model, base_url=base_url, key_name="AI_API_KEY", needs_key=False,
        max_tokens=2_048, timeout_sec=60.0,
    )  # fmt: skip
    return (*named, free)


# ---- what is asked ------------------------------------------------------------------------------

SYSTEM = """\
You review the market regime of a grid trading bot on a DOGE/USD spot market. You are told numbers \
by the bot and answer with exactly one JSON object: no other text, no code fence.
The bot places buys below and sells above the price. Its tiers:
- tier 0, symmetric: both sides trade alike.
- tier 1, biased: entries with the trend are placed nearer, entries against it farther away.
- tier 2, directional: entries against the trend are withheld.
Directions: long_bias in a rising market, short_bias in a falling one, symmetric with tier 0 only.
The mechanical tier follows from hidden Markov models on two timeframes. Your answer is shown to a \
human operator, who decides; nothing is done because of it. Labels follow the past, so expect most \
of them to say little about the next hours, and prefer tier 0 when the evidence is weak."""

_OPINION = """\
Which tier and direction do you recommend for the next hour? Answer with these fields:
{"recommended_tier": 0, 1 or 2,
 "recommended_direction": "symmetric", "long_bias" or "short_bias",
 "conviction": integer from 0 to 100,
 "rationale": text of at most 500 characters,
 "watch_for": text of at most 200 characters: what would change your mind,
 "suggested_ttl_minutes": integer from 0 to 60, 0 without a wish}
Conviction is your confidence in the assessment as a whole, not in a trend: tier 0 may carry 90.
Tier 0 goes with symmetric, tiers 1 and 2 with long_bias or short_bias."""

_COUNCIL = """\
Several models vote on one change to the grid. Answer with one field:
{"action": one of the following}
- "continue": leave everything as it is
- "tighten_entry", "widen_entry": place entries nearer to, farther from the price
- "tighten_profit", "widen_profit": take profit sooner, later
- "pause": place no new entries for now"""


def opinion_question(context: Context) -> str:
    """Return the question for an opinion."""
    return f"The bot's numbers:\n{context.to_json()}\n\n{_OPINION}"


def council_question(context: Context) -> str:
    """Return the question for a vote."""
    return f"The bot's numbers:\n{context.to_json()}\n\n{_COUNCIL}"


# ---- what is heard ------------------------------------------------------------------------------

LOOKED_AT_MAX, ATTEMPTS_MAX = 32_000, 50
TTL_MAX_MINUTES = 60
_FIELDS = (
    "recommended_tier", "recommended_direction", "conviction", "rationale", "watch_for",
    "suggested_ttl_minutes",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")
# Whole numbers as floats: no text has too many digits for one.
_DECODER = json.JSONDecoder(parse_int=float, parse_constant=lambda _: None, strict=False)


def first_object(text: str) -> dict[str, Any] | None:
    """Return the first whole JSON object in what follows the thoughts, or None.

    At most LOOKED_AT_MAX characters are looked at, from at most ATTEMPTS_MAX braces on.
    """
    said = text.rpartition("</think>")[2][:LOOKED_AT_MAX]
    at = -1
    for _ in range(ATTEMPTS_MAX):
        at = said.find("{", at + 1)
        if at < 0:
            return None
        try:
            found, _end = _DECODER.raw_decode(said, at)
        except ValueError:
            continue
        except RecursionError:  # no answer is nested that deep
            return None
        return found if isinstance(found, dict) else None
    return None


def _said(answer: Answer, fields: Sequence[str]) -> dict[str, Any] | str:
    """Return the object that an answer holds, which has one of `fields`, or its error."""
    if answer.error:
        return clean_text(answer.error, ERROR_MAX)
    text = answer.text if answer.text.strip() else answer.reasoning
    if not text.strip():
        return EMPTY
    found = first_object(text)
    return PARSE_ERROR if found is None or found.keys().isdisjoint(fields) else found


def _number(value: object) -> float:
    """Return a finite number, 0 for whatever is none; the decoder knows floats only."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return value if isinstance(value, float) and math.isfinite(value) else 0.0


def _whole(value: object, most: int) -> int:
    return int(min(max(_number(value), 0.0), most))


def _word(value: object) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _text(value: object, most: int) -> str:
    return clean_text(value, most).strip() if isinstance(value, str) else ""


def parse_opinion(answer: Answer, panelist: str = "") -> Opinion:
    """Return the opinion that an answer holds, inside all bounds, or its error; total."""
    said = _said(answer, _FIELDS)
    if isinstance(said, str):
        return Opinion(panelist=panelist, error=said)
    tier, direction = (
        _number(said.get("recommended_tier")),
        _word(said.get("recommended_direction")),
    )
    is_known = tier in (0, 1, 2) and direction in DIRECTIONS and "recommended_tier" in said
    fits = is_known and (tier == 0) == (direction == SYMMETRIC)
    if not fits:
        tier = 0
    return Opinion(
        recommended_tier=int(tier),
        recommended_direction=direction if tier else SYMMETRIC,
        conviction=_whole(said.get("conviction"), 100),
        rationale=_text(said.get("rationale"), RATIONALE_MAX),
        watch_for=_text(said.get("watch_for"), WATCH_FOR_MAX),
        suggested_ttl_minutes=_whole(said.get("suggested_ttl_minutes"), TTL_MAX_MINUTES),
        panelist=panelist,
        is_mended=not fits,
    )


def parse_vote(answer: Answer, panelist: str = "") -> Vote:
    """Return the vote that an answer holds, or its error; total."""
    said = _said(answer, ("action",))
    if isinstance(said, str):
        return Vote(panelist=panelist, action=None, error=said)
    action = _word(said.get("action"))
    if action not in COUNCIL_ACTIONS:
        return Vote(panelist=panelist, action=None, error=PARSE_ERROR)
    return Vote(panelist=panelist, action=action)


# ---- the advisor --------------------------------------------------------------------------------

FAILURES_MAX, REST_SEC, REST_MIN_SEC = 3, 3_600.0, 1.0
QUORUM = 3


class Seat(NamedTuple):
    """A panelist and the way to it, None where its key is missing."""

    panelist: Panelist
    llm: Llm | None


class _Health(Record, frozen=True, kw_only=True):
    """How a panelist has fared."""

    answered: int = 0
    failed: int = 0
    in_row: int = 0
    last_error: str = ""
    last_sec: float | None = None
    rests_until: float | None = None  # by the monotonic clock

    def after(
        self, error: str, retry_after_sec: float | None, took_sec: float, now: float
    ) -> "_Health":
        """Return the health after one more answer; it rests where that is called for."""
        if not error:
            return replace(
                self, answered=self.answered + 1, in_row=0, last_sec=took_sec, rests_until=None
            )
        in_row = self.in_row + 1
        rest = None
        if in_row >= FAILURES_MAX:
            rest = REST_SEC
        elif error == "http_429" and retry_after_sec is not None:
            rest = min(max(retry_after_sec, REST_MIN_SEC), REST_SEC)
        return replace(
            self,
            failed=self.failed + 1,
            in_row=in_row,
            last_error=error,
            rests_until=None if rest is None else now + rest,
        )


class RegimeAdvisor:
    """Asks the panel, one model at a time; one thread asks, any may read `providers`."""

    def __init__(self, seats: Sequence[Seat], monotonic: Callable[[], float]) -> None:
        self._seats = tuple(seats)
        self._monotonic = monotonic
        self._health = [_Health() for _ in self._seats]

    def get_regime_opinion(self, context: Context) -> Opinion:
        """Return the first opinion that can be read, in order of preference, or why there is none.

        The error is that of the panelist asked last.
        """
        question = opinion_question(context)
        opinion = Opinion(error=NO_PROVIDERS)
        for number, (panelist, llm) in enumerate(self._seats):
            if llm is None:
                continue
            if self._is_resting(number):
                if opinion.error == NO_PROVIDERS:
                    opinion = Opinion(error=RESTING)
                continue
            answer, took_sec = self._ask(llm, question)
            opinion = parse_opinion(answer, panelist.name)
            self._note(number, opinion.error, answer, took_sec)
            if not opinion.error:
                break
        return opinion

    def get_council_recommendation(self, context: Context) -> Council:
        """Return what more than half of the votes name; who rests is asked too, by a person."""
        question = council_question(context)
        votes = []
        for number, (panelist, llm) in enumerate(self._seats):
            vote = Vote(panelist=panelist.name, action=None, error=NO_KEY)
            if llm is not None:
                answer, took_sec = self._ask(llm, question)
                vote = parse_vote(answer, panelist.name)
                self._note(number, vote.error, answer, took_sec)
            votes.append(vote)
        return decided(votes)

    def asks_others(self) -> bool:
        """Tell whether a question would go to another machine than this one."""
        return any(
            seat.llm is not None
            and not self._is_resting(number)
            and not is_here(host_of(seat.panelist.base_url))
            for number, seat in enumerate(self._seats)
        )

    def providers(self) -> tuple[ProviderBlock, ...]:
        """Return how each panelist fares."""
        return tuple(self._block(number) for number in range(len(self._seats)))

    def _ask(self, llm: Llm, question: str) -> tuple[Answer, float]:
        began = self._monotonic()
        answer = llm.ask(SYSTEM, question)
        return answer, self._monotonic() - began

    def _note(self, number: int, error: str, answer: Answer, took_sec: float) -> None:
        self._health[number] = self._health[number].after(
            error, answer.retry_after_sec, took_sec, self._monotonic()
        )

    def _rests_sec(self, number: int) -> float:
        until = self._health[number].rests_until
        return 0.0 if until is None else max(0.0, until - self._monotonic())

    def _is_resting(self, number: int) -> bool:
        return self._rests_sec(number) > 0

    def _block(self, number: int) -> ProviderBlock:
        panelist, llm = self._seats[number]
        own, rests_sec = self._health[number], self._rests_sec(number)
        if llm is None:
            state = NO_KEY
        elif rests_sec:
            state = RESTING
        else:
            state = "failing" if own.in_row else "ok" if own.answered else "untried"
        return ProviderBlock(
            name=panelist.name,
            model=clean_text(panelist.model, 100),
            host=host_of(panelist.base_url),
            is_reasoning=panelist.is_reasoning,
            state=state,
            answered=own.answered,
            failed=own.failed,
            failures_in_row=own.in_row,
            last_error=own.last_error or None,
            last_sec=None if own.last_sec is None else round(own.last_sec, 3),
            rests_sec=round(rests_sec, 1) if rests_sec else None,
        )


def decided(votes: Sequence[Vote]) -> Council:
    """Return the council of these votes: a strict majority of those cast, of QUORUM at least."""
    cast = Counter(x.action for x in votes if x.action is not None)
    count = cast.total()
    if count < QUORUM:
        why = f"{count} of {QUORUM} votes needed for a quorum"
        return Council(action=None, why=why, votes=tuple(votes))
    action, most = cast.most_common(1)[0]
    if 2 * most <= count:
        why = f"no majority: no action has more than half of {count} votes"
        return Council(action=None, why=why, votes=tuple(votes))
    return Council(action=action, why=f"{most} of {count} votes", votes=tuple(votes))


# ---- the queue of one ---------------------------------------------------------------------------


class Question(NamedTuple):
    """What the worker is to ask: an opinion where there is a trigger, a council, or both.

    `context` makes what is told; it is called by the worker.
    """

    context: Callable[[], Context]
    asked_at: float
    trigger: str | None
    is_council: bool = False


class Waiting:
    """The one question that waits, and when it may be asked; not safe to share without a lock.

    Of two that wait the newer counts; what the older wished for is asked with the newer's context.
    """

    def __init__(self, debounce_sec: float) -> None:
        self._debounce_sec = debounce_sec
        self._question: Question | None = None
        self._others_at: float | None = None  # when other machines were asked last
        self._is_asking = False
        self._asked = self._replaced = 0

    def put(self, question: Question) -> None:
        """Let `question` wait in place of one that waits already."""
        older = self._question
        if older is not None:
            self._replaced += 1
            question = question._replace(
                trigger=older.trigger if question.trigger is None else question.trigger,
                is_council=question.is_council or older.is_council,
            )
        self._question = question

    def wait_sec(self, now: float, *, asks_others: bool) -> float | None:
        """Return how long, in real time, the question has to wait; None where there is none.

        Other machines are asked once per debounce, this one's as often as there is a question.
        """
        if self._question is None:
            return None
        if not asks_others or self._others_at is None:
            return 0.0
        return max(0.0, self._others_at + self._debounce_sec - now)

    def take(self, now: float, *, asks_others: bool) -> Question | None:
        """Return the question if it may be asked now; it waits no longer."""
        question = self._question
        if question is None or self.wait_sec(now, asks_others=asks_others):
            return None
        if asks_others:
            self._others_at = now
        self._question, self._is_asking = None, True
        self._asked += (question.trigger is not None) + question.is_council
        return question

    def done(self) -> None:
        """Note that the question taken last is answered."""
        self._is_asking = False

    def block(self) -> WorkerBlock:
        """Return the counters."""
        return WorkerBlock(
            is_asking=self._is_asking,
            waiting=0 if self._question is None else 1,
            asked=self._asked,
            replaced=self._replaced,
        )
