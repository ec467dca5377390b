"""Kraken's wire: signature, forms, the envelope, and every recorded answer through its parser."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import Side
from core.record import Record
from exchange import kraken_wire as wire
from exchange.kraken_records import Answer, WireError
from tests.wire_answers import (
    DOGE,
    ERRORS,
    FOLDER,
    PAIR,
    PARSERS,
    REFUSED,
    Parser,
    is_other,
    of_pair,
    read,
    recorded,
)

D = Decimal
SECRET = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="


@recorded
def test_no_recorded_file_is_left_out() -> None:
    """Every file is read, refused for a reason, or no answer of this wire."""
    files = {str(x.relative_to(FOLDER)) for x in FOLDER.rglob("*") if x.is_file()}
    named = PARSERS.keys() | REFUSED.keys() | ERRORS.keys()
    assert {x for x in files if not is_other(x)} == named


@recorded
@pytest.mark.parametrize("name", PARSERS)
def test_recorded_answers_parse(name: str) -> None:
    """What Kraken or another client's test said is read by the parser of its method."""
    answer = read(name)
    assert answer.is_good, answer.fault
    assert PARSERS[name](answer.result)


@recorded
@pytest.mark.parametrize("name", REFUSED)
def test_pairs_without_all_limits_are_refused(name: str) -> None:
    """Old answers lack limits that orders must keep."""
    with pytest.raises(WireError, match=REFUSED[name]):
        wire.pair_facts(read(name).result)


@recorded
@pytest.mark.parametrize("name", ERRORS)
def test_recorded_errors_are_errors(name: str) -> None:
    """An error answer has its text and no result."""
    answer = read(name)
    assert (answer.errors, answer.result, answer.fault) == ((ERRORS[name],), None, None)
    assert not answer.is_good


# ---- signature and forms --------------------------------------------------------------------

BODY = "nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"


def test_signature_of_the_published_example() -> None:
    """The vector of Kraken's guide."""
    signature = (
        "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    )
    secret = wire.decode_secret(f" {SECRET}\n")
    assert wire.sign(secret, "/0/private/AddOrder", "1616492376594", BODY) == signature


@given(secret=st.binary(min_size=1), nonce=st.integers(0, 2**63), body=st.text(max_size=50))
def test_signature_agrees_with_the_construction_by_hand(
    secret: bytes, nonce: int, body: str
) -> None:
    """HMAC-SHA512, done here with its two paddings, over the path and the inner SHA-256."""
    key = (hashlib.sha512(secret).digest() if len(secret) > 128 else secret).ljust(128, b"\0")
    message = b"/0/private/X" + hashlib.sha256(f"{nonce}{body}".encode()).digest()
    inner = hashlib.sha512(bytes(x ^ 0x36 for x in key) + message).digest()
    outer = hashlib.sha512(bytes(x ^ 0x5C for x in key) + inner).digest()
    signature = wire.sign(secret, "/0/private/X", str(nonce), body)
    assert base64.b64decode(signature) == outer


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "empty"), ("  ", "empty"), (SECRET[:-1], "base64"), ("ä" * 88, "base64"),
     (f'"{SECRET}"', "base64"), ("c2hvcnQ=", "too short")],
)  # fmt: skip
def test_bad_secrets_are_refused_without_being_told(text: str, words: str) -> None:
    """The message says what is wrong and never repeats the key."""
    with pytest.raises(ValueError, match=words) as caught:
        wire.decode_secret(text)
    assert caught.value.__cause__ is None
    assert not text.strip() or text not in str(caught.value)


def test_forms_are_plain() -> None:
    """Decimals without exponent, lower-case booleans, nothing for None and False."""
    params = {
        "volume": D("1E+2"), "price": D("1E-7"), "oflags": ("post", "fciq"), "validate": False,
        "trades": True, "ofs": 50, "start": 1700000000.25, "pair": "XDGUSD", "none": None,
        "small": 1e-7,
    }  # fmt: skip
    assert wire.form(params) == {
        "volume": "100", "price": "0.0000001", "oflags": "post,fciq", "trades": "true", "ofs": "50",
        "start": "1700000000.25", "pair": "XDGUSD", "small": "0.0000001",
    }  # fmt: skip
    assert len(params) == 10  # the caller's own is left as it was


@pytest.mark.parametrize("value", [D("NaN"), D("Infinity"), float("nan"), b"x", {"a": 1}, [None]])
def test_what_has_no_form_is_refused(value: object) -> None:
    """Nothing that Kraken would misread is sent."""
    with pytest.raises(ValueError, match="cannot be sent"):
        wire.form({"price": value})


# ---- the envelope ---------------------------------------------------------------------------


def test_numbers_with_a_point_are_decimals() -> None:
    """No float ever holds an amount."""
    answer = wire.read_answer(200, b'{"error":[],"result":{"a":0.1000,"b":7}}')
    assert answer == Answer(status=200, result={"a": D("0.1000"), "b": 7})
    assert answer.is_good


def test_warnings_come_with_a_result_and_other_texts_are_errors() -> None:
    """W is a warning; E is an error, and so is what begins with neither."""
    answer = wire.read_answer(200, b'{"error":["WGeneral:soon","E:x","odd",""],"result":{"a":1}}')
    assert answer.warnings == ("WGeneral:soon",)
    assert answer.errors == ("E:x", "odd", "")
    assert not answer.is_good
    assert wire.read_answer(200, b'{"error":["W:a"],"result":{}}').is_good


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<html>Just a moment</html>", "HTML"),
        (b'{"error":[],"result":{"txid":["O', "no JSON"),
        (b"null", "no object"),
        (b"[]", "no object"),
        (b"1", "no object"),
        (b'"x"', "no object"),
        (b"{}", "no list of error"),
        (b'{"result":{}}', "no list of error"),
        (b'{"error":null,"result":{}}', "no list of error"),
        (b'{"error":"E:x","result":{}}', "no list of error"),
        (b'{"error":[1],"result":{}}', "no list of error"),
        (b'{"error":[null],"result":{}}', "no list of error"),
        (b'{"error":[]}', "neither"),
        (b'{"error":[],"result":null}', "neither"),
        (b'{"error":["W:x"],"result":null}', "neither"),
        (b'{"error":[],"result":{"a":NaN}}', "NaN"),
        (b'{"error":[],"result":{"a":-Infinity}}', "Infinity"),
        (b'{"error":[],"error":[],"result":{}}', "twice"),
        (b'{"error":[],"result":{"open":{},"open":{}}}', "twice"),
        ('{"error":[],"result":{"a":"ü"}}'.encode("latin-1"), "UTF-8"),
        ('{"error":[],"result":{}}'.encode("utf-16"), "UTF-8"),
        (b'{"error":[],"result":' + b"[" * 100_000, "no JSON"),
        (b'{"error":[],"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
        (b'{"error":[],"result":' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"error":[],"result":1e99999999999999999999}', "no JSON"),
        (b'{"error":[' + b'"E",' * 60 + b'"E"],"result":{}}', "61 errors"),
        (b'{"error":[],"result":{}}{"error":[],"result":{}}', "no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_fault(body: bytes, words: str) -> None:
    """Anything but one object with a list of texts and a result is a fault in plain words."""
    answer = wire.read_answer(200, body)
    assert answer.fault is not None
    assert words in answer.fault
    assert answer.result is None
    assert not answer.is_good


def test_another_status_than_200_is_a_fault_that_keeps_the_errors() -> None:
    """A result that came with an error status is not read."""
    answer = wire.read_answer(502, b'{"error":["EService:Busy"],"result":{"a":1}}')
    assert answer.fault == "HTTP status 502"
    assert answer.errors == ("EService:Busy",)
    assert answer.result is None
    assert "502" in str(wire.read_answer(502, b"<html>").fault)
    assert not wire.read_answer(204, b'{"error":[],"result":{}}').is_good


def test_long_error_texts_are_cut_so_that_they_are_no_known_ones() -> None:
    """Control characters are replaced, and a cut is marked."""
    body = json.dumps({"error": ["E" * 1000, "E:a\x1b[2J"]}).encode()
    long, odd = wire.read_answer(200, body).errors
    assert len(long) == 301
    assert long.endswith("…")
    assert odd == "E:a\ufffd[2J"


JSON_TEXT = st.text(max_size=12) | st.sampled_from(
    ["open", "closed", "trades", "count", "last", "error", "result", "XDGUSD", "0.1", "1e999999"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.decimals(allow_nan=True)
    | st.sampled_from([D("1E+999999"), D("1E-999999"), 10**4000])
    | JSON_TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXT, inner, max_size=4),
    max_leaves=12,
)
ALL_PARSERS: tuple[Parser, ...] = (
    wire.server_time, wire.system_status, wire.pair_facts, wire.asset_names, wire.balances,
    wire.balances_ex, wire.open_orders, wire.closed_orders, wire.queried_orders,
    wire.trades_history, wire.queried_trades, wire.placed, wire.cancelled, wire.ledgers,
    wire.key_facts,
    *(of_pair(x, *DOGE)
      for x in (wire.fee_rates, wire.public_trades, wire.depth, wire.candles, wire.ticker)),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(status=st.integers(-1, 1000), body=st.binary(max_size=80) | JSON_TEXT.map(str.encode))
def test_any_bytes_are_read(status: int, body: bytes) -> None:
    """There is an answer for everything, good only with a result."""
    answer = wire.read_answer(status, body)
    assert answer.status == status
    assert answer.is_good or answer.fault is not None or answer.errors


@settings(max_examples=200, deadline=None)
@given(result=JSON)
def test_parsers_return_or_say_what_is_wrong(result: object) -> None:
    """Arbitrary values raise nothing but WireError, with words."""
    for parser in ALL_PARSERS:
        try:
            parser(result)
        except WireError as error:
            assert str(error)  # noqa: PT017 -- a value or this error, both are right


ORDER: dict[str, Any] = {
    "status": "open", "opentm": D("1700000000.5"), "vol": "50.00000000", "vol_exec": "0.00000000",
    "cost": "0.00000", "fee": "0.00000", "price": "0.0", "refid": None, "reason": None,
    "cl_ord_id": None, "closetm": 0, "trades": [],
    "descr": {"pair": "XDGUSD", "type": "buy", "ordertype": "limit", "price": "0.1234567"},
}  # fmt: skip
TRADE: dict[str, Any] = {
    "ordertxid": "OUF4EM-FRGI2-MQMWZD", "pair": "XDGUSD", "time": D("1700000000.1234"),
    "type": "sell", "price": "0.1", "cost": "5", "fee": "0.02", "vol": "50", "maker": True,
}  # fmt: skip
GOOD: tuple[tuple[Parser, Any], ...] = (
    (wire.open_orders, {"open": {"OUF4EM-FRGI2-MQMWZD": ORDER}}),
    (wire.trades_history, {"trades": {"TUF4EM-FRGI2-MQMWZD": TRADE}, "count": 1}),
    (wire.pair_facts, {"XDGUSD": PAIR}),
    (
        of_pair(wire.candles, *DOGE),
        {"XDGUSD": [[60, "1", "2", "1", "2", "1", "5", 3]], "last": 60},
    ),
    (
        of_pair(wire.public_trades, *DOGE),
        {"XDGUSD": [["0.1", "5", D("60.5"), "b", "l", "", 7]], "last": "1"},
    ),
    (
        of_pair(wire.depth, *DOGE),
        {"XDGUSD": {"bids": [["0.1", "5", 1]], "asks": [["0.2", "5", 1]]}},
    ),
    (
        wire.key_facts,
        {"permissions": ["query-funds"], "nonceWindow": "0", "nonce": 5, "ipAllowlist": [""]},
    ),
    (wire.balances_ex, {"ZUSD": {"balance": "5", "hold_trade": "1"}}),
    (
        wire.ledgers,
        {"ledger": {"LUF4EM-FRGI2-MQMWZD": {"refid": "x", "time": 1, "type": "trade",
         "asset": "ZUSD", "amount": "-1", "fee": "0", "balance": "4"}}, "count": 1},
    ),
)  # fmt: skip


def paths(value: object, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the ways to every place inside a JSON value."""
    found = [so_far] if so_far else []
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        found += paths(item, (*so_far, key))
    return found


def decimals(value: object) -> list[Decimal]:
    """Return every decimal inside records, rows and mappings."""
    if isinstance(value, Decimal):
        return [value]
    if isinstance(value, Record):
        return decimals(msgspec.structs.astuple(value))
    items = value.values() if isinstance(value, dict) else value
    if isinstance(items, str) or not isinstance(items, Iterable):
        return []
    return [x for item in items for x in decimals(item)]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(GOOD), SCALARS)
def test_one_wrong_value_in_a_good_answer_is_read_or_refused(
    data: st.DataObject, good: tuple[Parser, Any], value: object
) -> None:
    """A single field of any kind never raises anything but WireError, nor lets odd numbers in."""
    parser, result = good
    assert parser(result)
    changed: Any = json.loads(json.dumps(result, default=str))
    *way, last = data.draw(st.sampled_from(paths(changed)))
    place = changed
    for key in way:
        place = place[key]
    place[last] = value
    try:
        told = parser(changed)
    except WireError as error:
        assert str(error)  # noqa: PT017 -- a value or this error, both are right
    else:
        assert all(x.is_finite() and abs(x) < D("1E18") for x in decimals(told))


# ---- orders ---------------------------------------------------------------------------------


def order(**changes: Any) -> Any:
    """Return one order as OpenOrders' parser reads it, with `changes` to the good one."""
    (view,) = wire.open_orders({"open": {"OUF4EM-FRGI2-MQMWZD": ORDER | changes}})
    return view


def test_an_order_is_read_field_by_field() -> None:
    """Its limit is that of the description, not the average price."""
    view = order(vol_exec="20.5", cost="2.53", fee="0.01", trades=["TCCCTY-WE2O6-P3NB37"])
    assert (view.price, view.volume, view.executed) == (D("0.1234567"), D(50), D("20.5"))
    assert (view.cost, view.fee, view.side, view.pair) == (D("2.53"), D("0.01"), Side.BUY, "XDGUSD")
    assert (view.opened_at, view.closed_at, view.reason) == (1700000000.5, None, None)
    assert view.trade_ids == ("TCCCTY-WE2O6-P3NB37",)
    assert not view.is_over


@given(st.integers(0, 2**128 - 1), st.booleans(), st.booleans())
def test_client_ids_compare_by_value(value: int, has_dashes: bool, is_upper: bool) -> None:
    """However a 128-bit id is written, it comes back as the text that uuid writes."""
    whole = str(uuid.UUID(int=value))
    text = whole if has_dashes else whole.replace("-", "")
    assert order(cl_ord_id=text.upper() if is_upper else text).client_order_id == whole


@pytest.mark.parametrize("told", ["my-order-1", "A" * 18, "0" * 31, "g" * 32])
def test_other_client_ids_stay_as_told(told: str) -> None:
    """A free text of someone else's program is kept letter by letter."""
    assert order(cl_ord_id=told).client_order_id == told


def test_no_client_id_is_none() -> None:
    """Null, empty and missing all mean that there is none."""
    assert order(cl_ord_id="").client_order_id is None
    assert order().client_order_id is None


def test_an_order_of_another_kind_has_no_limit() -> None:
    """A percentage for a price must not hide the account's other orders."""
    descr = ORDER["descr"] | {"ordertype": "trailing-stop", "price": "+1.0000%"}
    assert order(descr=descr).price == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "filled"}, "status: one of"),
        ({"status": ["open"]}, "status: one of"),
        ({"vol": "-1"}, "negative"),
        ({"vol": "NaN"}, "number is expected"),
        ({"vol": "1e999"}, "not plausible"),
        ({"vol": "1e-999"}, "not plausible"),
        ({"vol": "0e-999"}, "not plausible"),
        ({"vol": "0e999"}, "not plausible"),
        ({"vol": D("1E-999999")}, "not plausible"),
        ({"vol": "0." + "1" * 35}, "not plausible"),
        ({"vol": 10**5000}, "not plausible"),
        ({"descr": 10**5000}, "a huge number"),
        ({"vol": True}, "number is expected"),
        ({"vol": "1_000"}, "number is expected"),
        ({"vol": "١"}, "number is expected"),
        ({"opentm": "soon"}, "number is expected"),
        ({"opentm": -5}, "no time"),
        ({"opentm": 10**12}, "no time"),
        ({"cl_ord_id": "x" * 65}, "1 to 64"),
        ({"cl_ord_id": 7}, "1 to 64"),
        ({"trades": "T"}, "a list is expected"),
        ({"trades": ["a b"]}, "an id is expected"),
        ({"descr": None}, "an object is expected"),
        ({"descr": ORDER["descr"] | {"type": "hold"}}, "buy or sell"),
        ({"descr": ORDER["descr"] | {"price": "0"}}, "above zero"),
    ],
)  # fmt: skip
def test_an_order_that_is_not_as_documented_is_refused(changes: dict[str, Any], words: str) -> None:
    """The message names the order, the field and what was expected."""
    with pytest.raises(WireError, match=words) as caught:
        order(**changes)
    assert "OUF4EM-FRGI2-MQMWZD" in str(caught.value)


def test_every_field_of_an_order_that_money_hangs_on_is_needed() -> None:
    """An order without one of them is not read as if it had none."""
    for name in ("status", "descr", "vol", "vol_exec", "cost", "fee", "opentm"):
        with pytest.raises(WireError, match=f"{name} is missing"):
            wire.queried_orders(
                {"OUF4EM-FRGI2-MQMWZD": {k: v for k, v in ORDER.items() if k != name}}
            )


def test_an_execution_is_read_field_by_field() -> None:
    """With its order, its fee and whether it was the maker's."""
    page = wire.trades_history({"trades": {"TUF4EM-FRGI2-MQMWZD": TRADE}, "count": "3"})
    (view,) = page.rows
    assert page.count == 3
    assert (view.execution_id, view.txid) == ("TUF4EM-FRGI2-MQMWZD", "OUF4EM-FRGI2-MQMWZD")
    assert (view.price, view.volume, view.cost, view.fee) == (D("0.1"), D(50), D(5), D("0.02"))
    assert (view.side, view.time, view.is_maker) == (Side.SELL, 1700000000.1234, True)
    older = {k: v for k, v in TRADE.items() if k != "maker"}
    assert not wire.queried_trades({"TUF4EM-FRGI2-MQMWZD": older})[0].is_maker


@pytest.mark.parametrize("count", [-1, "x", D("1.5"), True])
def test_a_page_with_an_odd_count_is_refused(count: object) -> None:
    """A walk over pages must be able to trust the count; without one it knows that."""
    with pytest.raises(WireError, match="whole number"):
        wire.closed_orders({"closed": {}, "count": count})
    assert wire.closed_orders({"closed": {}}).count is None


@pytest.mark.parametrize(
    "txid",
    [None, [], "OUF4EM-FRGI2-MQMWZD", ["OUF4EM-FRGI2-MQMWZD"] * 2, [7], ["ouf4em-frgi2-mqmwzd"],
     ["OUF4EM-FRGI2-MQMWZD\n"], ["TUF4EM-FRGI2-MQMWZD"], [""]],
)  # fmt: skip
def test_only_one_well_formed_id_means_placed(txid: object) -> None:
    """Everything else is an order of unknown fate."""
    assert wire.placed({"txid": ["OUF4EM-FRGI2-MQMWZD"]}) == "OUF4EM-FRGI2-MQMWZD"
    with pytest.raises(WireError, match=r"exactly one order id|a list is expected"):
        wire.placed({"txid": txid})


def test_a_cancel_tells_count_and_whether_it_is_pending() -> None:
    """Pending means taken, not done."""
    assert wire.cancelled({"count": 1}) == (1, False)
    assert wire.cancelled({"count": 0, "pending": True}) == (0, True)
    with pytest.raises(WireError, match="count is missing"):
        wire.cancelled({})


# ---- account --------------------------------------------------------------------------------


def test_fee_rates_are_fractions_and_never_too_low() -> None:
    """Percent become fractions; no maker's rate means the taker's, a rebate means none."""
    fees = {"XDGUSD": {"fee": "0.8000"}, "XXBTZUSD": {"fee": "0.1"}}
    told = wire.fee_rates({"fees": fees, "fees_maker": {"XDGUSD": {"fee": "0.4000"}}}, DOGE)
    assert (told.maker, told.taker) == (D("0.004"), D("0.008"))
    assert wire.fee_rates({"fees": fees}, DOGE).maker == D("0.008")
    assert wire.fee_rates({"fees": fees, "fees_maker": {}}, DOGE).maker == D("0.008")
    rebate = {"fees": fees, "fees_maker": {"XDGUSD": {"fee": "-0.02"}}}
    assert wire.fee_rates(rebate, DOGE).maker == 0
    for wrong in ({}, {"fees": {}}, {"fees": None}, {"fees": {"XDGUSD": {"fee": "80"}}},
                  {"fees": {"XDGUSD": {"fee": None}}}, {"fees": fees | {"DOGEUSD": {"fee": "1"}}},
                  {"fees": fees, "fees_maker": []}):  # fmt: skip
        with pytest.raises(WireError):
            wire.fee_rates(wrong, DOGE)


def test_money_under_a_suffix_is_reported_apart() -> None:
    """Only that of our assets, only where there is some, by names and not by letters."""
    names = {"XXDG": frozenset({"XXDG", "XDG", "DOGE"}), "ZUSD": frozenset({"ZUSD", "USD"})}
    balances = {
        "XXDG": D(5), "XDG.F": D(7), "USD.M": D(0), "USD.B": D(1), "XBT.F": D(3), "DG.F": D(2),
    }  # fmt: skip
    assert wire.suffixed(balances, names) == {"XDG.F": D(7), "USD.B": D(1)}


@recorded
def test_key_facts_are_read_in_both_spellings_and_without_the_key() -> None:
    """The names with underscores of one source, the joined ones of the documents."""
    told = read("jkorf/account/GetApiKeyInfo.json").result
    facts = wire.key_facts(told)
    assert (facts.nonce, facts.nonce_window, facts.valid_until, facts.allowlist) == (
        123,
        15,
        None,
        (),
    )
    assert "withdraw-funds" in facts.permissions
    assert "api_key" not in str(facts)
    joined = {
        "apiKeyName": told["api_key_name"], "permissions": told["permissions"],
        "nonce": "123", "nonceWindow": "15", "validUntil": "0", "ipAllowlist": [],
    }  # fmt: skip
    assert wire.key_facts(joined) == facts


@pytest.mark.parametrize("missing", ["permissions", "nonceWindow"])
def test_key_facts_without_what_the_start_checks_are_refused(missing: str) -> None:
    """A window that is not told is not a window of 0."""
    told = {"permissions": [], "nonceWindow": 0}
    del told[missing]
    with pytest.raises(WireError):
        wire.key_facts(told)
