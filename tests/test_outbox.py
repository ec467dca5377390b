"""What leaves a box and when, in time that is passed in; and the texts of report and chat."""

import ast
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.commands import ACTION_NAMES, CommandError, Halt, SetProfitPct
from engine import outbox
from engine.chat import Ask, addressee, help_text, read
from engine.outbox import ATTEMPTS_MAX, QUEUE_MAX, Message, Outbox, Outcome, Route, route_of

FAILED = Outcome(problem="answered 500")


def box(*, is_fast: bool = False) -> Outbox:
    """Return an empty box."""
    return Outbox("test", is_fast=is_fast, rng=Random(1))


def message(text: str = "x", *, kind: str = "uncertain", level: str = "error") -> Message:
    """Return a message that is told at once."""
    return Message(level=level, kind=kind, text=text, at=0.0)


def drain(made: Outbox, now: float, until: float) -> list[tuple[float, Message]]:
    """Deliver whatever leaves up to `until`; return when and what."""
    sent = []
    while (at := made.next_at()) is not None and max(at, now) <= until:
        now = max(at, now)
        found = made.take(now, now)
        assert found is not None
        sent.append((now, found))
        made.settle(Outcome(), now, now)
    return sent


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("lock", "error", Route.IMMEDIATE),
        ("halt", "warning", Route.IMMEDIATE),
        ("cycle", "info", Route.DIGEST),
        ("fill", "info", Route.SILENT),
        ("never heard of", "error", Route.IMMEDIATE),
        ("never heard of", "warning", Route.IMMEDIATE),
        ("never heard of", "odd level", Route.IMMEDIATE),
        ("never heard of", "info", Route.DIGEST),
    ],
)
def test_one_table_decides_how_a_kind_is_told(kind: str, level: str, expected: Route) -> None:
    """What nobody has thought of is told at once when it is grave."""
    assert route_of(kind, level, is_fast=False) is expected
    is_least = kind in ("lock", "halt")
    assert route_of(kind, level, is_fast=True) is (expected if is_least else Route.SILENT)


def test_the_table_knows_every_kind_of_the_reducer() -> None:
    """Nothing that the reducer tells is left to the rule for the unknown."""
    root = Path(__file__).parent.parent
    kinds = {
        constant.value
        for path in (*root.glob("grid/*.py"), root / "leg.py", root / "state_machine.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "notify"
        for constant in ast.walk(call.args[1])
        if isinstance(constant, ast.Constant)
    }
    assert {"lock", "halt", "command", "cycle", "owed_exit"} < kinds
    assert kinds <= outbox.ROUTES.keys()


def test_the_rate_is_one_a_second_and_twenty_a_minute() -> None:
    """Fifty messages at once leave spaced; no window of 60 s holds more than twenty."""
    made = box()
    for n in range(50):
        made.put(message(str(n), kind="reply"), 0.0)
    sent = drain(made, 0.0, 1000.0)
    times = [at for at, _ in sent]
    assert [x.text for _, x in sent] == [str(n) for n in range(50)]
    assert all(b - a >= 1.0 for a, b in pairwise(times))
    assert all(b - a >= 60.0 for a, b in zip(times, times[20:], strict=False))
    assert times[19] == 19.0


def test_cycles_come_as_one_digest() -> None:
    """Ten minutes after the first: counts by kind and the newest lines."""
    made = box()
    for n in range(12):
        made.put(message(f"cycle {n}", kind="cycle", level="info"), float(n))
    made.put(message("slot 1 orphan", kind="orphan", level="info"), 20.0)
    assert made.next_at() == outbox.DIGEST_SEC
    ((at, digest),) = drain(made, 20.0, 10_000.0)
    assert at == outbox.DIGEST_SEC
    assert digest.kind == "digest"
    assert digest.text.splitlines()[0] == "cycle × 12, orphan × 1; the newest 5:"
    assert digest.text.splitlines()[1:] == [*(f"cycle {n}" for n in range(8, 12)), "slot 1 orphan"]
    made.put(message("cycle 99", kind="cycle", level="info"), 2_000.0)
    assert [x.text for _, x in drain(made, 2_000.0, 10_000.0)] == ["cycle × 1\ncycle 99"]


def test_a_storm_of_one_kind_goes_into_the_digest() -> None:
    """Five of a kind are told one by one, the others together; another kind is not delayed."""
    made = box()
    for n in range(40):
        made.put(message(f"lock {n}", kind="lock"), n * 0.1)
    made.put(message("order 7", kind="uncertain"), 5.0)
    sent = drain(made, 5.0, 590.0)
    assert [x.text for _, x in sent] == [*(f"lock {n}" for n in range(5)), "order 7"]
    ((_, digest),) = drain(made, 590.0, 700.0)
    assert digest.level == "error"
    assert digest.text.startswith("lock × 35; the newest 5:\nlock 35")


def test_a_market_in_a_hurry_tells_the_least() -> None:
    """A thousand cycles and fills of a replay at full speed leave nothing behind."""
    made = box(is_fast=True)
    for n in range(1000):
        assert not made.put(message(kind=("cycle", "fill", "uncertain")[n % 3]), 0.0)
    assert made.next_at() is None
    made.put(message("daily loss", kind="lock"), 0.0)
    assert [x.text for _, x in drain(made, 0.0, 10.0)] == ["daily loss"]


def test_without_room_the_oldest_of_the_least_level_goes_and_that_is_told() -> None:
    """Info first, then warnings; errors and the start stay as long as anything else is there."""
    made = box()
    made.put(message("started", kind="start", level="info"), 0.0)
    for n in range(QUEUE_MAX):
        level = ("error", "info", "warning")[n % 3]
        made.put(message(f"{level} {n}", kind="reply", level=level), 0.0)
    for n in range(40):
        made.put(message(f"late {n}", kind="reply"), 0.0)
    assert made.health().dropped == 41
    assert made.health().waiting == QUEUE_MAX
    texts = [x.text for _, x in drain(made, 0.0, 10_000.0)]
    assert texts[:2] == ["41 messages were dropped or not delivered", "started"]
    assert not [x for x in texts if x.startswith("info")]
    assert texts[-40:] == [f"late {n}" for n in range(40)]
    assert len([x for x in texts if x.startswith("error")]) == 34


def test_attempts_are_bounded_and_lie_farther_and_farther_apart() -> None:
    """A server that is down gets eight attempts a message, with growing, uneven pauses."""
    made = box()
    made.put(message("one"), 0.0)
    times, now = [], 0.0
    while (at := made.next_at()) is not None:
        now = max(now, at)
        assert made.take(now, now) is not None
        times.append(now)
        made.settle(FAILED, now, now)
    assert len(times) == ATTEMPTS_MAX
    pauses = [b - a for a, b in pairwise(times)]
    for n, pause in enumerate(pauses):
        assert 0.5 <= pause / (2.0 * 2.0**n) < 1.5 or pause >= 150.0
    assert len({round(pause / 2.0**n, 6) for n, pause in enumerate(pauses)}) > 1
    health = made.health()
    assert (health.failed, health.errors, health.sent) == (1, 8, 0)
    assert health.last_error == "answered 500"
    made.put(message("two"), now)
    sent = drain(made, now, now + 10_000)
    assert [x.text for _, x in sent] == ["two", "1 message was dropped or not delivered"]
    assert sent[0][0] >= now + 150.0  # the pause grown over the first message holds


def test_a_loss_is_told_again_when_the_note_about_it_is_lost() -> None:
    """The count survives; while nothing works no attempt is made for the note alone."""
    made = box()
    made.put(message("one"), 0.0)
    made.take(0.0, 0.0)
    made.settle(Outcome(problem="answered 403: refused", is_final=True), 0.0, 0.0)
    assert made.next_at() is None
    made.put(message("two"), 10.0)
    made.take(10.0, 10.0)
    made.settle(Outcome(), 10.0, 10.0)
    note = made.take(20.0, 20.0)
    assert note is not None
    made.settle(Outcome(problem="answered 403: refused", is_final=True), 20.0, 20.0)
    made.put(message("three"), 50.0)
    texts = [x.text for _, x in drain(made, 50.0, 1000.0)]
    assert texts == ["three", "1 message was dropped or not delivered"]


@pytest.mark.parametrize(("asked", "expected"), [(30.0, 30.0), (1e9, 86_400.0)])
def test_a_pause_that_is_asked_for_is_kept(asked: float, expected: float) -> None:
    """Nothing leaves before its end, whatever is put in; a day is the longest."""
    made = box()
    made.put(message("one"), 0.0)
    made.take(0.0, 0.0)
    made.settle(Outcome(problem="answered 429", pause_sec=asked), 0.0, 0.0)
    made.put(message("two", kind="halt"), 1.0)
    assert made.take(expected - 0.1, 0.0) is None
    assert [x.text for _, x in drain(made, expected, expected + 100)] == ["one", "two"]


def test_the_last_message_holds_everything_that_waits() -> None:
    """The newest first, what was gathered and lost too, at the gravest level, within 4096."""
    made = box()
    for n in range(QUEUE_MAX + 1):
        made.put(message("é" * 100 + str(n), kind="reply", level="info"), 0.0)
    made.put(message("cycle", kind="cycle", level="info"), 0.0)
    made.put(message("lock", kind="lock"), 0.0)
    made.put(message("stopped", kind="stop", level="info"), 0.0)
    last = made.close(5.0)
    assert last is not None
    assert last.text.startswith("stopped\nbefore that:\nlock\n")
    assert len(last.text.encode("utf-16-le")) // 2 <= 4096
    assert (last.level, last.kind) == ("error", "stop")
    made.settle(FAILED, 5.0, 5.0)
    assert made.health().failed == 1
    assert box().close(0.0) is None


@given(st.text(), st.integers(1, 50))
def test_texts_are_cut_to_units_of_a_chat(text: str, most: int) -> None:
    """Whatever the characters, the length in UTF-16 units holds and nothing raises."""
    cut = outbox.shortened(text, most)
    assert len(cut.encode("utf-16-le")) // 2 <= most


# ---- the chat -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/halt", Halt()),
        ("/HALT@GridBot", Halt()),
        ("/set_profit_pct slot=1 value=2.0", SetProfitPct(slot=1, value=Decimal(2))),
        ("/set_profit_pct  value='2.0' ", SetProfitPct(value=Decimal(2))),
        ("/help", Ask(about="help")),
        ("/start x", Ask(about="help")),
        ("/status", Ask(about="status")),
    ],
)
def test_typed_commands_are_those_of_the_page(text: str, expected: Any) -> None:
    """A slash, a name, fields as name=value."""
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/", "action must be one of"),
        ("/moon", "action must be one of"),
        ("/ halt", "'halt' is no field=value"),
        ("/set_profit_pct 2.0", "'2.0' is no field=value; write it as /set_profit_pct slot=1"),
        ("/set_profit_pct value=1 value=2", "value is given twice"),
        ("/set_profit_pct value=", "value must be a number"),
        ("/record_flow note='open", "the quotes do not match"),
        ("/pair_off slot=1 confirm=yes", "confirm must be true or false"),
        ("/halt now=true", "halt has no field 'now'"),
        ("/halt " + "x" * 600, "at most 500 characters"),
    ],
)
def test_what_cannot_be_read_is_refused_in_plain_words(text: str, words: str) -> None:
    """The refusal says what is allowed."""
    with pytest.raises(CommandError) as caught:
        read(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_reading_is_total(text: str) -> None:
    """Whatever is typed, it is read or refused."""
    addressee("/" + text)
    with suppress(CommandError):
        assert read("/" + text)


def test_help_names_every_command_and_fits_a_message() -> None:
    """All actions with their fields."""
    text = help_text()
    assert all(f"/{name}" in text for name in ACTION_NAMES)
    assert "/set_profit_pct value=number [slot=N]" in text
    assert len(text) < 4000
