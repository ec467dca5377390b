"""Commands read from what a client sent: numbers strictly, refusals that say what is allowed."""

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.commands import (
    ACTION_NAMES,
    CommandError,
    PairOff,
    RecordFlow,
    SetProfitPct,
    is_same,
    parse,
    parse_words,
    usage,
)

NUMBER = "value must be a number with a point for decimals, such as 1250.5"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1_0", NUMBER),
        ("٢", NUMBER),
        ("１０", NUMBER),
        ("1,000", NUMBER),
        ("1.000,5", NUMBER),
        ("1 000", NUMBER),
        ("", NUMBER),
        ("0x10", NUMBER),
        ("nan", NUMBER),
        ("Infinity", NUMBER),
        ("sNaN", NUMBER),
        ("1e", NUMBER),
        ("1e9999", NUMBER),
        ("1e999999999", NUMBER),
        ("1e-999999999", NUMBER),
        ("9" * 5_000, NUMBER),
        (None, NUMBER),
        (True, NUMBER),
        ([1], NUMBER),
        (float("nan"), NUMBER),
        (float("inf"), NUMBER),
        (10**30, "value must not be beyond ±1000000000000"),
        ("1e999", "value must not be beyond ±1000000000000"),
        (1e300, "value must not be beyond ±1000000000000"),
        ("0.0000000000001", "value may have at most 12 decimals"),
        (1e-300, "value may have at most 12 decimals"),
    ],
)
def test_what_is_no_number_is_refused_with_what_is_allowed(value: Any, expected: str) -> None:
    """Digits of other scripts, separators and exponents beyond reason are no numbers."""
    with pytest.raises(CommandError) as caught:
        parse({"action": "set_profit_pct", "value": value})
    assert caught.value.field == "value"
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.5", "1.5"), (" 1.5 ", "1.5"), (1.5, "1.5"), (2, "2"), ("+2", "2"), (".5", "0.5"),
        ("2.", "2"), ("1e1", "10"), (1e-7, "0.0000001"), ("-3", "-3"),
        (Decimal("123456789012.123456"), "123456789012.123456"), (Decimal("-1E-7"), "-0.0000001"),
    ],
)  # fmt: skip
def test_plain_numbers_are_read_exactly(value: Any, expected: str) -> None:
    """JSON numbers and decimal text give the same decimal."""
    command = parse({"action": "record_flow", "base": value})
    assert command == RecordFlow(base=Decimal(expected))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"action": "set_entry_pct", "value": 0}, "value must be above 0"),
        ({"action": "set_order_size", "value": "-1"}, "value must be above 0"),
        ({"action": "pair_off", "slot": 0}, "slot must be above 0"),
        ({"action": "soft_close_next", "max_loss_pct": -1}, "max_loss_pct must not be negative"),
        ({"action": "cancel_stale_recoveries", "older_than_sec": -1}, "must not be negative"),
        ({"action": "ai_regime_override", "opinion": 0}, "opinion must be above 0"),
    ],
)
def test_what_can_never_be_meant_is_refused(body: dict[str, Any], expected: str) -> None:
    """Signs that no state of the bot could make right."""
    with pytest.raises(CommandError, match=expected) as caught:
        parse(body)
    assert caught.value.field in body


@pytest.mark.parametrize("slot", ["1", "1_0", "١", 1.5, True, None, 10**30, -(10**30), [1], 1e30])
def test_whole_numbers_are_json_numbers(slot: Any) -> None:
    """Text, fractions and what no slot can be called are refused in plain words."""
    with pytest.raises(CommandError, match="slot must be a whole number") as caught:
        parse({"action": "pair_off", "slot": slot})
    assert caught.value.field == "slot"
    assert parse({"action": "pair_off", "slot": 1}) == PairOff(slot=1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"action": "pair_off", "slot": 1, "confirm": "yes"}, "confirm must be true or false"),
        ({"action": "soft_close", "slot": 1, "leg": "C"}, "leg must be one of: A, B"),
        ({"action": "soft_close", "slot": 1, "recovery": 5}, "recovery must be text"),
        ({"action": "record_flow", "note": None}, "note must be text"),
        ({"action": "cancel_stale_recoveries", "older_than_sec": "1_0"}, "older_than_sec must be"),
    ],
)
def test_other_fields_say_what_is_allowed(body: dict[str, Any], expected: str) -> None:
    """No refusal speaks of types of the program."""
    with pytest.raises(CommandError) as caught:
        parse(body)
    assert expected in str(caught.value)


values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals().map(str)
)
names = st.sampled_from(["value", "slot", "confirm", "leg", "base", "quote", "older_than_sec"])


@given(st.sampled_from(ACTION_NAMES), st.dictionaries(names, values, max_size=3))
@settings(max_examples=300, deadline=None)
def test_parse_is_total(name: str, fields: dict[str, Any]) -> None:
    """Whatever is sent, parse returns a command or raises CommandError."""
    with suppress(CommandError):
        parse({"action": name, **fields})


@pytest.mark.parametrize(
    ("body", "journaled", "expected"),
    [
        ({"action": "pause"}, '{"action":"pause"}', True),
        ({"action": "halt"}, '{"action":"pause"}', False),
        ({"action": "set_profit_pct", "value": 2}, '{"action":"set_profit_pct","value":"2"}', True),
        (
            {"action": "set_profit_pct", "value": 3},
            '{"action":"set_profit_pct","value":"2"}',
            False,
        ),
        ({"action": "audit_pnl"}, '{"action":"audit_pnl","base_difference":"0E-8"}', True),
        (
            {"action": "audit_pnl"},
            '{"action":"audit_pnl","audit":{"seq":1,"executions":0,"cycles":0}}',
            True,
        ),
        ({"action": "pause"}, '{"action":"gone"}', False),
        ({"action": "pause"}, "null", False),
        ({"action": "pause"}, "", False),
    ],
)
def test_a_command_is_known_again(body: dict[str, Any], journaled: str, expected: bool) -> None:
    """What the shell added is no difference; what cannot be read is another command."""
    assert is_same(parse(body), journaled) is expected


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("set_profit_pct", {"slot": "1", "value": "2.0"}, SetProfitPct(slot=1, value=Decimal(2))),
        ("pair_off", {"slot": "2", "confirm": "True"}, PairOff(slot=2, confirm=True)),
        ("record_flow", {"note": "2024", "base": "5"}, RecordFlow(note="2024", base=Decimal(5))),
    ],
)
def test_typed_words_are_read_by_the_kind_of_the_field(
    name: str, words: dict[str, str], expected: object
) -> None:
    """A whole number and a truth are read from text, a note of digits stays text."""
    assert parse_words(name, words) == expected


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("explode", {}, "action must be one of: add_layer"),
        ("pair_off", {"slot": "1.5"}, "slot must be a whole number"),
        ("pair_off", {"slot": "1" * 30}, "slot must be a whole number"),
        ("pair_off", {"slot": "١"}, "slot must be a whole number"),
        ("pair_off", {"slot": "1", "confirm": "yes"}, "confirm must be true or false"),
        ("pair_off", {"action": "halt", "slot": "1"}, "action is no field"),
        ("pause", {"slot": "1"}, "pause has no field 'slot'"),
        ("set_profit_pct", {"value": "1_0"}, NUMBER),
        ("set_profit_pct", {}, "set_profit_pct needs value"),
    ],
)
def test_typed_words_are_refused_as_json_is(
    name: str, words: dict[str, str], expected: str
) -> None:
    """The words of the refusal are those of `parse`."""
    with pytest.raises(CommandError, match=expected.replace("(", r"\(")):
        parse_words(name, words)


def test_usage_names_every_field_but_the_shells_own() -> None:
    """Required fields stand bare, optional ones in brackets, an audit has none."""
    shown = usage()
    assert tuple(shown) == ACTION_NAMES
    assert shown["set_profit_pct"] == "value=number [slot=N]"
    assert shown["soft_close"].startswith("slot=N [recovery=text] [leg=A|B]")
    assert shown["audit_pnl"] == shown["pause"] == ""
