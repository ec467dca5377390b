"""One language model over HTTP, by the OpenAI chat protocol: `POST {base}/chat/completions`.

Never raises for what a server does, follows no redirect, reads no more than it must and waits no
longer than it may. The key stands in one header and in no text. What the model's answer means is
decided in `ai_advisor.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ai_advisor import EMPTY, PARSE_ERROR, Panelist, Seat
from core.ports import Answer
from core.record import Record, replace
from engine.notify import TIMEOUT, HttpAnswer, Line

ANSWER_MAX = 256 * 1024
REFUSED = (400, 422)  # where a parameter is not known or not allowed
_PATH = "/chat/completions"
LEFT_SEC = 0.05  # with less than this there is no second call


class _Manner(Record, frozen=True, kw_only=True):
    """Which parameters a server takes."""

    limit_name: str = "max_tokens"
    has_temperature: bool = True
    has_effort: bool = True


class HttpLlm:
    """A panelist behind its address. A `core.ports.Llm`; one thread asks, any may `close`."""

    def __init__(self, panelist: Panelist, key: str, monotonic: Callable[[], float]) -> None:
        self._panelist = panelist
        self._url = panelist.base_url.rstrip("/").removesuffix(_PATH) + _PATH
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._monotonic = monotonic
        self._line = Line(monotonic)
        self._manner = _Manner()

    def ask(self, system: str, question: str) -> Answer:
        """Return what the model says within its time, or the error in one word.

        A parameter that the server refuses is left out, or named otherwise, and the question asked
        once more; what it took is remembered.
        """
        until = self._monotonic() + self._panelist.timeout_sec
        manner = self._manner
        while True:
            body = self._body(manner, system, question)
            left_sec = until - self._monotonic()
            if left_sec < LEFT_SEC:
                return Answer(error=TIMEOUT)
            answer = self._line.post(
                self._url, body, limit_sec=left_sec, answer_max=ANSWER_MAX, headers=self._headers
            )
            if answer.status not in REFUSED:
                break
            other = _other(manner, answer.body, body)
            if other == manner:
                break
            manner = other
        if answer.status == 200:
            self._manner = manner
        return _answer(answer)

    def close(self) -> None:
        """Break off the call under way and refuse further ones."""
        self._line.close()

    def _body(self, manner: _Manner, system: str, question: str) -> dict[str, Any]:
        own = self._panelist
        body: dict[str, Any] = {
            "model": own.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": question},
            ],
            manner.limit_name: own.max_tokens,
            "stream": False,
        }
        if own.temperature is not None and manner.has_temperature:
            body["temperature"] = own.temperature
        if own.effort is not None and manner.has_effort:
            body["reasoning_effort"] = own.effort
        return body


def _other(manner: _Manner, complaint: bytes, sent: Mapping[str, Any]) -> _Manner:
    """Return the manner without the parameter that a server complains of."""
    if "temperature" in sent and b"temperature" in complaint:
        return replace(manner, has_temperature=False)
    if "reasoning_effort" in sent and b"reasoning_effort" in complaint:
        return replace(manner, has_effort=False)
    if "max_tokens" in sent and b"max_tokens" in complaint:
        return replace(manner, limit_name="max_completion_tokens")
    return manner


def _answer(answer: HttpAnswer) -> Answer:
    """Return what came over the line as an answer."""
    if answer.status not in (0, 200):
        return Answer(error=f"http_{answer.status}", retry_after_sec=answer.retry_after_sec)
    if answer.fault:
        return Answer(error=answer.fault)
    try:
        told = msgspec.json.decode(answer.body)
    except (ValueError, RecursionError):
        return Answer(error=PARSE_ERROR)
    choices = told.get("choices") if isinstance(told, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        return Answer(error=PARSE_ERROR)
    text = _text(message.get("content"))
    reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if not (text.strip() or reasoning.strip()):
        return Answer(error=EMPTY)
    return Answer(text=text, reasoning=reasoning)


def _text(content: object) -> str:
    """Return a message's content as text: it is one, or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [x.get("text") if isinstance(x, dict) else x for x in content]
    return "".join(x for x in texts if isinstance(x, str))


def open_seats(
    panelists: Sequence[Panelist], keys: Mapping[str, str], monotonic: Callable[[], float]
) -> tuple[Seat, ...]:
    """Return the panel with a way to each panelist whose key is among `keys`, by setting name."""
    seats = []
    for panelist in panelists:
        key = "".join(keys.get(panelist.key_name, "").split())
        is_open = bool(key) or not panelist.needs_key
        seats.append(Seat(panelist, HttpLlm(panelist, key, monotonic) if is_open else None))
    return tuple(seats)
