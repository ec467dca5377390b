"""One model over real HTTP: what is sent, what is understood, and what goes wrong without harm."""

import json
import logging
import time
from typing import Any

import pytest

from ai_advisor import Panelist, RegimeAdvisor, parse_opinion
from core.advice_told import Context
from core.ports import Answer
from core.record import replace
from engine.clock import monotonic
from engine.llm import HttpLlm, open_seats
from tests.bad_server import Manner, say
from tests.llm_server import (
    ADVICE,
    GOOD,
    HOSTILE,
    RESET,
    SILENT,
    LlmServer,
    advice,
    chat,
    cut_short,
    drip,
    drip_head,
    huge,
    rate_limited,
    raw,
    redirect,
    refusal,
    status,
)

KEY = "nvapi-0123456789-SECRET-abcdefghij"


def panelist(server: LlmServer, **changed: Any) -> Panelist:
    """Return a panelist behind the server, with little patience."""
    own = Panelist(
        name="Local", model="some/model", base_url=server.base_url, key_name="AI_API_KEY",
        timeout_sec=0.25,
    )  # fmt: skip
    return replace(own, **changed)


def asked(*manners: Manner, key: str = KEY, times: int = 1, **changed: Any) -> tuple[Any, Any]:
    """Return the last answer of a model behind a server of these manners, and the server."""
    with LlmServer(*manners) as server:
        llm = HttpLlm(panelist(server, **changed), key, monotonic)
        for _ in range(times):
            got = llm.ask("be brief", "what now?")
    return got, server


def test_a_question_follows_the_protocol() -> None:
    """One POST to the chat endpoint, with the key in its header and nothing else in others."""
    got, server = asked(chat(), temperature=0.2, max_tokens=512)
    (request,) = server.seen
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert "cookie" not in request.headers
    assert json.loads(request.body) == {
        "model": "some/model",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "what now?"},
        ],
        "max_tokens": 512,
        "stream": False,
        "temperature": 0.2,
    }
    assert got == Answer(text=GOOD)


def test_a_reasoning_model_gets_no_temperature() -> None:
    """Nor is there a key in the header of a server that needs none."""
    _, server = asked(chat(), key="", temperature=None, effort="low")
    (request,) = server.seen
    assert "authorization" not in request.headers
    assert "temperature" not in json.loads(request.body)
    assert json.loads(request.body)["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("manner", "error"),
    [
        (status(401), "http_401"),
        (status(403), "http_403"),
        (status(404), "http_404"),
        (status(400), "http_400"),
        (status(410), "http_410"),
        (status(500), "http_500"),
        (status(503, body=b"<html>"), "http_503"),
        (status(202, body=b""), "http_202"),
        (redirect("http://169.254.169.254/latest/meta-data/"), "http_302"),
        (SILENT, "timeout"),
        (drip(), "timeout"),
        (drip_head(), "timeout"),
        (RESET, "connection"),
        (cut_short(), "connection"),
        (say(b"SSH-2.0-OpenSSH_9.6\r\n"), "connection"),
        (huge(), "too_long"),
        (raw(b""), "parse_error"),
        (raw(b"<html>busy</html>"), "parse_error"),
        (raw(b"\xff\xfe\x00"), "parse_error"),
        (raw(b"[" * 200_000), "parse_error"),
        (raw(b'{"a":' * 40_000), "parse_error"),
        (raw(b'{"choices":' + b"9" * 100_000 + b"}"), "parse_error"),
        (raw(b"null"), "parse_error"),
        (raw(b"[]"), "parse_error"),
        (raw(b"{}"), "parse_error"),
        (raw(b'{"choices":null}'), "parse_error"),
        (raw(b'{"choices":[]}'), "parse_error"),
        (raw(b'{"choices":{"0":1}}'), "parse_error"),
        (raw(b'{"choices":[null]}'), "parse_error"),
        (raw(b'{"choices":["text"]}'), "parse_error"),
        (raw(b'{"choices":[{"message":null}]}'), "parse_error"),
        (raw(b'{"choices":[{"message":"text"}]}'), "parse_error"),
        (raw(b'{"choices":[{"message":{}}]}'), "empty"),
        (chat(""), "empty"),
        (chat(" \n"), "empty"),
        (chat(None), "empty"),
        (chat(7), "empty"),
        (chat([]), "empty"),
        (chat(None, reasoning_content=None), "empty"),
        (chat({"text": "x"}), "empty"),
    ],
)
def test_what_goes_wrong_is_one_word(manner: Manner, error: str) -> None:
    """Whatever a server does: an error in a word, within the panelist's time, nothing followed."""
    began = time.monotonic()
    got, server = asked(manner)
    assert got == Answer(error=error)
    assert len(server.seen) == 1
    assert time.monotonic() - began < 30


def test_ten_megabytes_are_not_read() -> None:
    """The line is closed once there is more than an answer may have."""
    sent = []

    def pour(line: Any, _stop: Any) -> bool:
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n")
        for _ in range(5_000):
            line.sendall(b" " * 100_000)
            sent.append(100_000)
        return False

    got, _ = asked(pour, timeout_sec=5.0)
    assert got.error == "too_long"
    assert sum(sent) < 20_000_000


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("7", 7.0), ("0", 0.0), ("soon", None), ("-5", None), ("9" * 40, None), ("١", None)],
)
def test_a_rate_limit_tells_how_long(told: str, seconds: float | None) -> None:
    """Only a plain number of seconds counts."""
    got, _ = asked(say(b"HTTP/1.1 429 X\r\nRetry-After: " + told.encode() + b"\r\n\r\n"))
    assert got == Answer(error="http_429", retry_after_sec=seconds)


def test_nobody_there_is_a_connection() -> None:
    """As is an address that is none."""
    with LlmServer(chat()) as server:
        gone = panelist(server)
    assert HttpLlm(gone, KEY, monotonic).ask("a", "b").error == "connection"
    for base_url in ("http://[::1", "no address", "ftp://127.0.0.1", "http://a b/", ""):
        llm = HttpLlm(replace(gone, base_url=base_url), KEY, monotonic)
        assert llm.ask("a", "b").error == "connection", base_url


def test_texts_in_every_place_they_are_told() -> None:
    """Content as text or as parts; reasoning under both of its names."""
    parts = [{"type": "text", "text": "ab"}, {"type": "image"}, "c", None, {"text": 7}]
    assert asked(chat(parts))[0] == Answer(text="abc")
    assert asked(chat(None, reasoning_content=GOOD))[0] == Answer(reasoning=GOOD)
    assert asked(chat("", reasoning=GOOD))[0] == Answer(reasoning=GOOD)
    assert asked(chat("yes", reasoning_content="so"))[0] == Answer(text="yes", reasoning="so")


@pytest.mark.parametrize("code", [400, 422])
def test_a_refused_temperature_is_left_out_for_good(code: int) -> None:
    """Asked once more without it; the next question does not carry it at all."""
    got, server = asked(refusal("temperature", code), chat(), times=2, is_reasoning=True)
    assert got.text == GOOD
    assert ["temperature" in x for x in server.bodies] == [True, False, False]


def test_a_refused_limit_is_named_otherwise_for_good() -> None:
    """Newer servers know it by another name."""
    got, server = asked(refusal("max_tokens"), chat(), times=2, max_tokens=99)
    assert got.text == GOOD
    names = [[k for k in x if k.startswith("max")] for x in server.bodies]
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]
    assert server.bodies[1]["max_completion_tokens"] == 99


def test_all_refused_parameters_in_turn() -> None:
    """Each is given up once; then the server's word stands."""
    got, server = asked(
        refusal("temperature"), refusal("reasoning_effort"), refusal("max_tokens"),
        refusal("max_tokens"), effort="low",
    )  # fmt: skip
    assert got.error == "http_400"
    assert len(server.seen) == 4


def test_what_did_not_help_is_not_remembered() -> None:
    """A server that goes on complaining is asked the same way the next time."""
    _, server = asked(refusal("max_tokens"), status(500), chat(), times=2)
    assert ["max_tokens" in x for x in server.bodies] == [True, False, True]


def test_a_refusal_does_not_double_the_time() -> None:
    """The panelist's time is for all calls together."""
    began = time.monotonic()
    got, _ = asked(refusal("temperature"), SILENT)
    assert got.error == "timeout"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "manner",
    [
        status(401, body=KEY.encode()), SILENT, RESET, chat(KEY), raw(b"{"), huge(300_000),
        redirect(f"http://127.0.0.1:1/{KEY}"),
    ],
)  # fmt: skip
def test_the_key_is_in_no_text(
    manner: Manner, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in a log, an error, a repr; an opinion of a model that knows it is not our concern."""
    caplog.set_level(logging.DEBUG)
    with LlmServer(manner) as server:
        llm = HttpLlm(panelist(server), KEY, monotonic)
        got = llm.ask("a", "b")
        shown = f"{llm!r} {llm} {got.error} {panelist(server)!r}"
    assert KEY not in shown + caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize("key", ["a\nb: c", "\r\n", "ключ", "\ud800", "x" * 100_000])
def test_a_hostile_key_does_no_harm(key: str) -> None:
    """Whatever stands in the setting: an answer or an error, and no further header."""
    got, server = asked(chat(), key=key)
    assert got.error in ("", "connection")
    assert all("b" not in x.headers for x in server.seen)


def test_keys_lose_their_white_space() -> None:
    """A panelist without a key has no way to it, the free choice needs none."""
    with LlmServer(chat()) as server:
        own = panelist(server)
        others = (replace(own, key_name="NVIDIA_API_KEY"), replace(own, key_name="GROQ_API_KEY"))
        free = replace(own, key_name="AI_API_KEY", needs_key=False)
        keys = {"NVIDIA_API_KEY": f" {KEY}\n", "GROQ_API_KEY": " \t"}
        seats = open_seats((*others, free), keys, monotonic)
        assert [x.llm is None for x in seats] == [False, True, False]
        for seat in seats:
            if seat.llm is not None:
                seat.llm.ask("a", "b")
    assert [x.headers.get("authorization") for x in server.seen] == [f"Bearer {KEY}", None]


def test_close_ends_a_call_and_refuses_others() -> None:
    """The daemon is stopping."""
    with LlmServer(SILENT) as server:
        llm = HttpLlm(panelist(server, timeout_sec=30.0), KEY, monotonic)
        llm.close()
        assert llm.ask("a", "b").error == "connection"
    assert server.seen == []


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        f"Certainly! Here it is:\n```json\n{GOOD}\n```\nGood luck.",
        f"<think>maybe {{tier}} 2? {advice(recommended_tier=2)}</think>\n{GOOD}",
        f"{GOOD} {advice(recommended_tier=2)}",
        json.dumps({**ADVICE, "notes": {"deep": [{"recommended_tier": 2}]}}, indent=2),
        [{"type": "text", "text": GOOD[:40]}, {"type": "text", "text": GOOD[40:]}],
    ],
)
def test_opinions_from_all_manners_of_speech(content: Any) -> None:
    """Plain, fenced, thought aloud, twice, nested, in parts: the same opinion."""
    with LlmServer(chat(content)) as server:
        seats = open_seats((panelist(server),), {"AI_API_KEY": KEY}, monotonic)
        opinion = RegimeAdvisor(seats, monotonic).get_regime_opinion(Context())
    assert opinion.to_dict() == {**ADVICE, "panelist": "Local", "is_mended": False, "error": ""}


def test_a_rate_limited_model_rests_as_it_asks() -> None:
    """Over real HTTP: the pause of the header is the rest of the provider."""
    with LlmServer(rate_limited("90")) as server:
        seats = open_seats((panelist(server),), {"AI_API_KEY": KEY}, monotonic)
        advisor = RegimeAdvisor(seats, monotonic)
        assert advisor.get_regime_opinion(Context()).error == "http_429"
        assert advisor.get_regime_opinion(Context()).error == "resting"
        (block,) = advisor.providers()
    assert (block.state, block.failed) == ("resting", 1)
    assert 80 < (block.rests_sec or 0.0) <= 90
    assert len(server.seen) == 1


def test_hostile_text_arrives_inert() -> None:
    """HTML stays text, escapes and direction marks go, and no word becomes a command."""
    got, _ = asked(chat(advice(rationale=HOSTILE, watch_for=HOSTILE, action="halt")))
    opinion = parse_opinion(got)
    assert opinion.recommended_tier == 1
    assert "\x1b" not in opinion.rationale + opinion.watch_for
    assert not set(opinion.rationale) & set("\u202e\u2066")
    assert "halt" not in opinion.to_dict()
