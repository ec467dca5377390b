"""Messages and commands over real sockets, against a server that behaves well and badly."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from core.commands import Command
from engine import log as log_setup
from engine import notify, outbox, telegram
from engine.notify import Line, Notifications, Webhook
from engine.outbox import Message
from engine.telegram import Listener, Telegram
from tests.notify_world import (
    BOT_TOKEN,
    CHAT,
    HOOK,
    SECRETS,
    UNREAD,
    World,
    nothing_secret_is_logged,
    paths,
    serve,
)

__all__ = ["nothing_secret_is_logged", "serve"]


SAID = Message(level="error", kind="lock", text="entries locked (daily_loss): 50", at=5.25)
HOSTILE = '<b>&amp;</b> *_[x](javascript:1)_* \x1b[31m\x00\u202eevil\ud800 {"a":"\\"} 🚀'


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses short; the rules about them are tested in test_outbox.py."""
    monkeypatch.setattr(outbox, "BACKOFF_SEC", 0.02)
    monkeypatch.setattr(outbox, "SPACING_SEC", 0.0)
    monkeypatch.setattr(outbox, "PER_MINUTE_MAX", 10_000)


def line() -> Line:
    """Return a line on the machine's clock."""
    return Line(time.monotonic)


def chat(world: World) -> Telegram:
    """Return the Telegram channel to the server."""
    return Telegram(world.url, BOT_TOKEN, CHAT, "grid")


@contextmanager
def sending(world: World, *, is_fast: bool = False, **more: Any) -> Iterator[Notifications]:
    """Yield running notifications over both channels."""
    made = Notifications(
        [Webhook(world.hook, "grid"), chat(world)], is_fast=is_fast, rng=Random(1),
        monotonic=time.monotonic, wall_now=time.time, **more,
    )  # fmt: skip
    made.start()
    try:
        yield made
    finally:
        made.stop()


# ---- one attempt --------------------------------------------------------------------------------


def test_the_webhook_gets_one_json_object(world: World) -> None:
    """Bot, level, kind, text, and the time it was said."""
    assert Webhook(world.hook, "grid").deliver(SAID, line(), 2.0).problem is None
    assert world.heard == [(HOOK, {
        "bot": "grid", "level": "error", "kind": "lock", "text": SAID.text, "time": 5.25,
    })]  # fmt: skip


def test_telegram_gets_plain_text(world: World) -> None:
    """No parse mode, no preview of links; who speaks and how grave it is stand before the text."""
    assert chat(world).deliver(SAID, line(), 2.0).problem is None
    assert world.heard == [(f"/bot{BOT_TOKEN}/sendMessage", {
        "chat_id": CHAT, "text": f"grid: ERROR: {SAID.text}",
        "link_preview_options": {"is_disabled": True},
    })]  # fmt: skip


@pytest.mark.parametrize(
    ("behaviour", "words", "is_final"),
    [
        ("500", "answered 500", False),
        ("503", "answered 503", False),
        ("408", "answered 408", False),
        ("429:7", "answered 429: too many messages", False),
        ("400", "answered 400", True),
        ("403", "answered 403", True),
        ("redirect", "answered 302: redirects are not followed", True),
        ("drop", "no connection, or it broke off", False),
        ("hang", "no complete answer within 0.3 s", False),
        ("drip_head", "no complete answer within 0.3 s", False),
        ("drip_later", "no complete answer within 0.3 s", False),
    ],
)
@pytest.mark.parametrize("channel", ["webhook", "telegram"])
def test_a_failed_attempt_is_told_in_plain_words(
    world: World, channel: str, behaviour: str, words: str, is_final: bool
) -> None:
    """Whether trying again is of use is known; nothing hangs beyond the limit; no redirect."""
    world.behaviours.append(behaviour)
    made = Webhook(world.hook, "grid") if channel == "webhook" else chat(world)
    outcome = made.deliver(SAID, line(), 0.3 if "within" in words else 5.0)
    assert outcome.problem is not None
    assert words in outcome.problem
    assert outcome.is_final is is_final
    assert outcome.pause_sec == (7.0 if behaviour == "429:7" and channel == "telegram" else None)
    assert not [secret for secret in SECRETS if secret in repr(outcome)]
    assert len(world.heard) == 1


@pytest.mark.parametrize("behaviour", ["drip", "drop_body", "huge", "garbage"])
def test_what_the_body_says_counts_for_telegram_only(world: World, behaviour: str) -> None:
    """A webhook's 200 is a delivery; Telegram must say that it is one, within bounds."""
    world.behaviours.extend([behaviour, behaviour])
    assert Webhook(world.hook, "grid").deliver(SAID, line(), 10.0).problem is None
    assert chat(world).deliver(SAID, line(), 0.3).problem in UNREAD


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "https://127.0.0.1:{port}/", "http://[::1"])
def test_no_connection_is_told_without_the_address(world: World, url: str) -> None:
    """A port nobody listens on, a server without TLS, an address that is none."""
    address = url.format(port=world.url.rsplit(":", 1)[1]) + SECRETS[2]
    outcome = Webhook(address, "grid").deliver(SAID, line(), 1.0)
    assert outcome.problem is not None
    assert "zzWEBHOOK" not in outcome.problem
    assert repr(chat(world)) == f"Telegram(chat_id={CHAT})"


def test_nothing_of_the_environment_changes_where_a_message_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies named there would see the token."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert chat(world).deliver(SAID, line(), 2.0).problem is None


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_masks_secrets_and_keeps_the_library_silent(
    world: World, style: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even at DEBUG, with a server whose headers the library complains about, address and all."""
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = root.handlers[:]
    try:
        log_setup.configure("DEBUG", style, secrets=(BOT_TOKEN, world.hook))
        world.behaviours.extend(["bad_head", "bad_head"])
        chat(world).deliver(SAID, line(), 1.0)
        Webhook(world.hook, "grid").deliver(SAID, line(), 1.0)
        logging.getLogger("x").error("%s and %s and %s", BOT_TOKEN, world.hook, HOOK)
        logging.getLogger("urllib3.connectionpool").error("POST /bot%s/x", BOT_TOKEN)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("urllib3").setLevel(logging.NOTSET)
    shown = capfd.readouterr().err
    assert not [secret for secret in SECRETS if secret in shown]
    assert "*** and *** and ***" in shown
    assert "POST /bot***/x" in shown
    assert len(shown.splitlines()) == 2


# ---- the worker ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("brisk")
def test_a_message_reaches_both_channels_after_failures(world: World) -> None:
    """Errors are counted and shown; the message arrives once per channel in the end."""
    world.behaviours.extend(["500", "drop", "503", "garbage"])
    with sending(world) as made:
        made.send(level="error", kind="uncertain", text="order 7")
        world.wait(lambda: sum(x.sent for x in made.health()) == 2)
        health = made.health()
    assert [x.name for x in health] == ["webhook", "telegram"]
    assert sum(x.errors for x in health) == 4 or sum(x.errors for x in health) == 3
    assert {x.failed + x.dropped + x.waiting for x in health} == {0}
    assert any(x.last_error for x in health)
    assert all(x.last_sent_at for x in health)


@pytest.mark.usefixtures("brisk")
def test_one_channel_that_is_down_does_not_silence_the_other(world: World) -> None:
    """The webhook refuses the connection; Telegram gets all."""
    made = Notifications(
        [Webhook("http://127.0.0.1:1/x", "grid"), chat(world)], is_fast=False, rng=Random(1),
        monotonic=time.monotonic, wall_now=time.time,
    )  # fmt: skip
    made.start()
    for n in range(3):
        made.send(level="error", kind="uncertain", text=f"order {n}")
    world.wait(lambda: len(world.texts()) == 3)
    made.stop()
    assert made.health()[0].sent == 0
    assert made.health()[0].last_error == "no connection, or it broke off"


def test_429_is_obeyed(world: World) -> None:
    """Nothing more is sent while the pause lasts; the message is sent after it."""
    world.behaviours.append("429:1")
    made = Notifications(
        [chat(world)], is_fast=False, rng=Random(1), monotonic=time.monotonic, wall_now=time.time
    )
    made.start()
    began = time.monotonic()
    made.send(level="error", kind="uncertain", text="one")
    world.wait(lambda: len(world.heard) == 1)
    made.send(level="error", kind="uncertain", text="two")
    world.wait(lambda: len(world.heard) == 2)
    assert time.monotonic() - began >= 1.0
    assert world.texts() == ["grid: ERROR: one"] * 2
    made.stop()
    assert world.texts()[2:] == ["grid: ERROR: two"]


@pytest.mark.usefixtures("brisk")
def test_hostile_text_is_text(world: World) -> None:
    """Control and direction marks are gone, markup is left as it is, lengths hold."""
    with sending(world) as made:
        made.send(level="error", kind="uncertain", text=HOSTILE)
        made.send(level="error", kind="uncertain", text="line\n" * 10_000 + "x" * 100_000)
        world.wait(lambda: len(world.texts()) == 4)
    for text in world.texts():
        assert len(text) <= 4096
        assert not set(text) & set("\x00\x1b\u202e\ud800")
    assert "<b>&amp;</b> *_[x](javascript:1)_*" in world.texts("uncertain")[0]


@pytest.mark.usefixtures("brisk")
def test_the_loop_is_never_held_up(world: World) -> None:
    """While the server hangs thousands of messages are put, dropped and counted at once."""
    world.behaviours.extend(["hang"] * 10)
    with sending(world) as made:
        made.send(level="error", kind="uncertain", text="first")
        world.wait(lambda: paths(world))
        for n in range(5_000):
            made.send(level="warning", kind=f"kind {n}", text="x")
        health = made.health()
    assert [x.waiting for x in health] == [outbox.QUEUE_MAX + 1, outbox.QUEUE_MAX]
    assert sum(x.dropped for x in health) == 2 * 5_001 - 2 * outbox.QUEUE_MAX - 1


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["hang", "drip", "drip_head"])
def test_a_stop_ends_in_two_seconds_whatever_hangs(world: World, behaviour: str) -> None:
    """Both channels and the listener hang; the stop is over long before a call's limit is."""
    assert notify.STOP_SEC + telegram._STOP_SEC < 2.0
    world.behaviours.extend([behaviour] * 50)
    heard = Listening(world)
    with sending(world) as made:
        heard.listener.start()
        made.send(level="error", kind="uncertain", text="first")
        world.wait(lambda: paths(world))
        made.send(level="info", kind="stop", text="stopped")
        began = time.monotonic()
        heard.listener.stop()
        made.stop()
        took = time.monotonic() - began
    assert took < notify.CALL_SEC
    until = time.monotonic() + 30
    while busy := [x.name for x in threading.enumerate() if x.name in ("notify", "telegram")]:
        assert time.monotonic() < until, busy
        time.sleep(0.01)


def test_what_waits_at_the_stop_is_sent_as_one(world: World) -> None:
    """The stop first, then what the rate had held back and the digest."""
    with sending(world) as made:
        for n in range(4):
            made.send(level="error", kind="uncertain", text=f"order {n}")
        made.send(level="info", kind="cycle", text="a cycle")
        world.wait(lambda: len(world.texts("uncertain")) == 1)
        made.send(level="info", kind="stop", text="stopped; resting orders stay")
    (last,) = world.texts("stop")
    assert last.splitlines()[:3] == ["stopped; resting orders stay", "before that:", "order 3"]
    assert "a cycle" in last
    made.send(level="error", kind="uncertain", text="after the end")
    made.start()


@pytest.mark.usefixtures("brisk")
def test_a_report_that_is_due_is_sent_and_a_failing_one_harms_nothing(world: World) -> None:
    """Asked for on the worker's thread; not at all for a market in a hurry."""
    asked: list[str] = []

    def report() -> str | None:
        asked.append(threading.current_thread().name)
        if len(asked) > 1:
            raise ZeroDivisionError(BOT_TOKEN)
        return "report for yesterday"

    with sending(world, report=report) as made:
        world.wait(lambda: len(world.texts()) == 2)
        made._watched_at = float("-inf")
        made.send(level="error", kind="uncertain", text="goes on")
        world.wait(lambda: len(world.texts()) == 4)
    assert asked[0] == "notify"
    count = len(asked)
    with sending(world, is_fast=True, report=report) as made:
        made.send(level="error", kind="halt", text="halted")
        world.wait(lambda: world.texts("halt"))
    assert len(asked) == count


# ---- commands -----------------------------------------------------------------------------------


class Listening:
    """A listener on the server, and what it handed on."""

    def __init__(self, world: World, known: Callable[[str], str | None] = lambda _: None) -> None:
        self.submitted: list[tuple[str, Command]] = []
        self.replies: list[str] = []
        self.world = world
        self.error: Exception | None = None
        self.listener = Listener(
            chat(world), line(), submit=self._submit, known=known, status=lambda: "all is well",
            reply=self._reply, rng=Random(1), monotonic=time.monotonic, wall_now=time.time,
        )  # fmt: skip

    def _submit(self, command_id: str, command: Command) -> str:
        self.submitted.append((command_id, command))
        if self.error is not None:
            raise self.error
        return "accepted: done"

    def _reply(self, text: str) -> None:
        with self.world.changed:
            self.replies.append(text)
            self.world.changed.notify_all()

    def wait_reply(self, part: str) -> str:
        """Wait for an answer that contains `part`."""
        found: str = self.world.wait(lambda: next((x for x in self.replies if part in x), None))
        return found


@pytest.fixture
def heard(world: World) -> Iterator[Listening]:
    """Yield a listener that has caught up."""
    made = Listening(world)
    made.listener.start()
    world.wait(lambda: any(x["timeout"] for x in world.polls))
    yield made
    made.listener.stop()


def test_commands_of_the_chat_are_carried_out(heard: Listening, world: World) -> None:
    """In order, each once, with an id made of the update's number; refusals come back as text."""
    first = world.type("/pause")
    world.type("/set_profit_pct slot=1 value=0x10")
    second = world.type("/set_profit_pct@gridtestbot slot=1 value=2.0")
    world.type("/status")
    world.type("/help")
    world.type("hello")
    heard.wait_reply("/help lists them")
    assert heard.replies[0] == "accepted: done"
    assert heard.replies[1].startswith("refused: value must be a number")
    assert heard.replies[2:4] == ["accepted: done", "all is well"]
    assert "/set_profit_pct value=number [slot=N]" in heard.replies[4]
    names = [(x, y.__struct_config__.tag) for x, y in heard.submitted]
    assert names == [(f"telegram-{first}", "pause"), (f"telegram-{second}", "set_profit_pct")]
    assert heard.listener.health().commands == 2


def test_other_chats_other_bots_and_forwards_are_not_obeyed(
    heard: Listening, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted, and told in the log once an hour with the number that would have to be set."""
    for n in range(5):
        world.type("/halt", chat=999 + n)
    world.type("/halt", chat=-CHAT)
    world.type("/halt@OtherBot")
    world.type("/halt", forward_origin={"type": "user"})
    world.type("/halt", forward_date=5)
    world.type(None)
    world.type(["/halt"])
    with world.changed:
        world.updates.append({"update_id": 900, "edited_message": {"text": "/halt"}})
        world.updates.append({"update_id": "x"})
        world.updates.append({"update_id": 901, "message": {"chat": {"id": str(CHAT)}}})
    world.type("/status", number=950)
    heard.wait_reply("all is well")
    assert heard.submitted == []
    assert heard.listener.health().ignored >= 9
    told = [x.getMessage() for x in caplog.records if "is ignored" in x.getMessage()]
    assert told == ["a message from chat 999 is ignored: not TELEGRAM_CHAT_ID"]
    assert heard.replies.count("refused: a forwarded message is no command") == 2


def test_a_repeated_update_is_carried_out_once(heard: Listening, world: World) -> None:
    """The server sends an update again although it was confirmed."""
    number = world.type("/pause")
    heard.wait_reply("accepted")
    world.forgets = False
    with world.changed:
        world.updates.insert(0, {
            "update_id": number, "message": {"chat": {"id": CHAT}, "text": "/pause"},
        })  # fmt: skip
    world.type("/status")
    heard.wait_reply("all is well")
    assert len(heard.submitted) == 1


def test_what_was_sent_before_the_start_is_not_carried_out(world: World) -> None:
    """It is told so; what an earlier run did carry out gets its answer, questions none."""
    for text in ("/halt", "/start", "hello", "/nonsense"):
        world.type(text)
    done = world.type("/pause")
    world.type("/halt", chat=5)
    answers = {f"telegram-{done}": "accepted: paused"}
    heard = Listening(world, known=answers.get)
    heard.listener.start()
    heard.wait_reply("not applied (2)")
    assert heard.replies[0] == "before the restart: accepted: paused"
    world.type("/resume")
    heard.wait_reply("accepted: done")
    heard.listener.stop()
    assert [y.__struct_config__.tag for _, y in heard.submitted] == ["resume"]


def test_a_command_that_fails_inside_is_answered(heard: Listening, world: World) -> None:
    """Whoever asked hears that it may not have been carried out, and the next is taken."""
    heard.error = ZeroDivisionError("x")
    world.type("/pause")
    heard.wait_reply("an error inside; it may not have been carried out")
    heard.error = None
    world.type("/resume")
    heard.wait_reply("accepted")


@pytest.mark.parametrize(
    "behaviour", ["500", "429:0", "409", "drop", "huge", "garbage", "drop_body", "redirect"]
)
def test_listening_goes_on_after_failures(
    world: World, behaviour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the greeting, while catching up and later; the failures are counted and in words."""
    monkeypatch.setattr(telegram, "BACKOFF_SEC_MAX", 0.05)
    monkeypatch.setattr(telegram, "REFUSED_SEC", 0.05)
    world.behaviours.extend([behaviour, "ok", behaviour])
    heard = Listening(world)
    heard.listener.start()
    world.wait(lambda: any(x["timeout"] for x in world.polls))
    world.behaviours.append(behaviour)  # for the call after the one that is held open
    world.type("/pause")
    heard.wait_reply("accepted")
    world.type("/resume")
    world.wait(lambda: len(heard.submitted) == 2)
    heard.listener.stop()
    health = heard.listener.health()
    assert health.errors == 3
    assert health.last_error
    assert health.last_heard_at


def test_a_refused_token_is_not_tried_over_and_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning that names the setting, then a long rest."""
    world.behaviours.extend(["401"] * 50)
    heard = Listening(world)
    heard.listener.start()
    world.wait(lambda: heard.listener.health().errors)
    time.sleep(0.2)
    assert heard.listener.health().errors == 1
    assert "answered 401: TELEGRAM_BOT_TOKEN is not accepted" in caplog.text
    heard.listener.stop()
