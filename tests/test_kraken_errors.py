"""What error strings call for: every catalogued one on purpose, every other one with caution."""

import json
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import ONE, ZERO, RejectReason, Side
from exchange import kraken_errors as errors
from exchange.kraken_errors import ROWS, ending, find_row, is_unknown_order, judge, judge_answer
from exchange.kraken_records import Answer, OrderView, Purpose, Trouble, Verdict
from exchange.kraken_wire import read_answer
from tests.wire_answers import FOLDER, recorded
from tools import kraken_table

DOCUMENT = Path(__file__).parent.parent / "docs" / "KRAKEN.md"
PLACE, CANCEL, READ = Purpose.PLACE, Purpose.CANCEL, Purpose.READ
# What placing concludes from each string of the catalogues, written down apart from the table.
HALTING = """
EAPI:Invalid key|EAPI:Invalid signature|EGeneral:Permission denied|EAccount:Invalid permissions
EBM:limit exceeded:CAL|EAuth:Account temporary disabled|EAuth:Account unconfirmed
EAuth:Rate limit exceeded|EAuth:Too many requests"""
UNKNOWN = """
EAPI:Invalid nonce|EAPI:Rate limit exceeded|EAPI:Feature disabled|EGeneral:Temporary lockout
EGeneral:Internal error|EGeneral:Too many requests|EService:Unavailable|EService:Busy
EService:Timeout|EService:Throttled: 1234567890|EOrder:Unknown order|EOrder:Invalid order
ETrade:Invalid request|EFunding:Max fee exceeded|EFunding:No funding method
EFunding:Too many addresses"""
REJECTED = """
EAPI:Bad request|EGeneral:Unknown method|EGeneral:Invalid arguments
EGeneral:Invalid arguments:Index unavailable|EGeneral:Invalid arguments:volume
EGeneral:Invalid arguments:ordertype|EService:Deadline elapsed
EService:Market in cancel_only mode|EService:Market in post_only mode
EService:Market in limit_only mode|EOrder:Insufficient funds|EOrder:Order minimum not met
EOrder:Cost minimum not met|EOrder:Tick size check failed|EOrder:Invalid price
EOrder:Post only order|EOrder:Orders limit exceeded|EOrder:Scheduled orders limit exceeded
EOrder:Rate limit exceeded|EOrder:Domain rate limit exceeded|EOrder:Positions limit exceeded
EOrder:Reduce only:No position exists|EOrder:Margin allowance exceeded
EOrder:Margin level too low|EOrder:Margin position size exceeded|EOrder:Insufficient margin
EOrder:Cannot open position|EOrder:Trading agreement required|EQuery:Unknown asset pair
EQuery:Unknown asset|EQuery:Invalid asset pair"""
EXISTING = "EGeneral:Invalid arguments:cl_ord_id not unique"


def texts(block: str) -> list[str]:
    """Return the strings of a block above."""
    return [x for line in block.splitlines() for x in line.split("|") if x]


EXPECTED = (
    dict.fromkeys(texts(HALTING), Verdict.HALT)
    | dict.fromkeys(texts(UNKNOWN), Verdict.UNKNOWN)
    | dict.fromkeys(texts(REJECTED), Verdict.REJECT)
    | {EXISTING: Verdict.EXISTS}
)
DEFINITE = [x for x, verdict in EXPECTED.items() if verdict is Verdict.REJECT]


@pytest.mark.parametrize("text", EXPECTED)
def test_placing_concludes_what_was_decided(text: str) -> None:
    """Each known string has its verdict, is in the table, and says what to do."""
    judgement = judge([text], PLACE)
    assert judgement.verdict is EXPECTED[text]
    assert find_row(text) is not None
    assert judgement.advice


def test_the_table_holds_nothing_that_was_not_decided() -> None:
    """A new row needs a line above."""
    decided = {find_row(x) for x in EXPECTED}
    assert [row.text for row in ROWS if row not in decided] == []
    assert len({errors.canonical(row.text) for row in ROWS}) == len(ROWS)


@recorded
def test_every_catalogued_string_is_classified_on_purpose() -> None:
    """Both catalogues and every recorded body: no string falls through to "anything else"."""
    folder = FOLDER / "errors"
    found = {x["code"] for x in json.loads(
        (folder / "error_catalog_api_evangelist.json").read_text())["errors"]}  # fmt: skip
    for path in (folder / "bodies").iterdir():
        answer = read_answer(200, path.read_bytes())
        assert answer.fault is None
        found |= set(answer.errors)
    tools = json.loads((folder / "error_catalog_kraken_cli.json").read_text())["categories"]
    messages = [x["example_envelope"]["message"] for x in tools]
    found |= {x.rpartition(": ")[2] for x in messages if x.rpartition(": ")[2].startswith("E")}
    assert len(found) > 45
    assert found - EXPECTED.keys() == set()


@pytest.mark.parametrize("text", EXPECTED)
def test_a_cancel_is_never_concluded_from_an_error(text: str) -> None:
    """It is unknown or a halt, for a cancel's error says nothing about the order."""
    assert judge([text], CANCEL).verdict in (Verdict.UNKNOWN, Verdict.HALT)


@pytest.mark.parametrize("text", EXPECTED)
def test_a_read_is_repeated_or_fails_closed(text: str) -> None:
    """A read is never rejected, and what exists is nothing to a read."""
    assert judge([text], READ).verdict in (Verdict.UNKNOWN, Verdict.HALT, Verdict.RETRY)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("EOrder:Post only order", RejectReason.POST_ONLY),
        ("EOrder:Insufficient funds", RejectReason.INSUFFICIENT_FUNDS),
        ("EOrder:Order minimum not met", RejectReason.ORDER_MINIMUM),
        ("EOrder:Cost minimum not met", RejectReason.COST_MINIMUM),
        ("EOrder:Tick size check failed", RejectReason.TICK_SIZE),
        ("EOrder:Orders limit exceeded", RejectReason.ORDERS_LIMIT),
        ("EOrder:Rate limit exceeded", RejectReason.RATE_LIMIT),
        ("EService:Deadline elapsed", RejectReason.DEADLINE),
        ("EService:Market in post_only mode", RejectReason.MARKET_MODE),
        ("EOrder:Invalid price:XDGUSD price can only be specified up to 7 decimals.",
         RejectReason.TICK_SIZE),
        ("EOrder:Margin level too low", RejectReason.OTHER),
    ],
)  # fmt: skip
def test_a_rejection_tells_its_reason(text: str, reason: RejectReason) -> None:
    """The strategy reacts to the reason, not to the words."""
    judgement = judge([text], PLACE)
    assert (judgement.verdict, judgement.reason) == (Verdict.REJECT, reason)


@pytest.mark.parametrize(
    ("text", "trouble", "pause_sec"),
    [
        ("EAPI:Invalid nonce", Trouble.NONCE, 0),
        ("EAPI:Rate limit exceeded", Trouble.RATE, 15),
        ("EGeneral:Too many requests", Trouble.RATE, 60),
        ("EOrder:Domain rate limit exceeded", Trouble.ENGINE_RATE, 15),
        ("EGeneral:Temporary lockout", Trouble.LOCKOUT, 900),
        ("EAuth:Too many requests", Trouble.LOCKOUT, 900),
        ("EService:Market in cancel_only mode", Trouble.MARKET_MODE, 30),
        ("EService:Unavailable", Trouble.DOWN, 5),
        ("EGeneral:Internal error:7", Trouble.DOWN, 5),
        ("EAPI:Invalid key", Trouble.KEY, 60),
        ("EAccount:Invalid permissions:XDG trading restricted for US:WA.", Trouble.KEY, 60),
        ("EOrder:Insufficient funds", Trouble.NONE, 0),
    ],
)
def test_trouble_and_pause(text: str, trouble: Trouble, pause_sec: float) -> None:
    """The kind of trouble is the same whatever the call was for."""
    for purpose in Purpose:
        judgement = judge([text], purpose)
        assert (judgement.trouble, judgement.pause_sec) == (trouble, pause_sec)


def test_throttling_names_its_end() -> None:
    """The time after the words is the exchange's, with and without the odd blank."""
    for text in ("EService:Throttled: 1700000100", "EService: Throttled:1700000100"):
        assert judge([text], PLACE).until == 1700000100
    assert judge(["EService:Throttled: soon"], PLACE).until is None
    both = judge(["EService:Throttled: 7", "EService:Throttled: 9"], READ)
    assert both.until == 9


@pytest.mark.parametrize(
    "detail",
    ["cl_ord_id", "cl_ord_id: not unique", "cl_ord_id not unique now", "duplicate order",
     "order already exists", "CL_ORD_ID invalid"],
)  # fmt: skip
def test_a_detail_that_may_speak_of_an_existing_order_is_no_rejection(detail: str) -> None:
    """Only the exact words mean that it exists; words near them prove nothing."""
    assert judge([f"EGeneral:Invalid arguments:{detail}"], PLACE).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "text",
    ["", " ", "E", "EOrder", "EOrder:", "EOrder:Insufficient", "Insufficient funds",
     "EOrder:Insufficient funds!", "EOrder:Insufficient funds:x", "xEOrder:Insufficient funds",
     "EOrder:Insufficient\x00funds", "EOrder:Insufficient funds\x0b",
     "EOrder:In\u017fufficient funds", "EOrder:Unknown",
     "EOrder:Tic\u212a size check failed",
     "EOrder:Insufficient\u00a0funds", "WOrder:Insufficient funds", "EGeneral:Invalid"],
)  # fmt: skip
def test_what_is_nearly_a_known_string_is_unknown(text: str) -> None:
    """Look-alikes, cuts and additions prove nothing, for any purpose."""
    for purpose in Purpose:
        assert judge([text], purpose).verdict is Verdict.UNKNOWN


def test_several_strings_give_the_most_cautious_verdict() -> None:
    """Halt over unknown over exists over reject; a rejection only if every string is definite."""
    order = ["EOrder:Post only order", EXISTING, "EService:Busy", "EAPI:Invalid key"]
    verdicts = [Verdict.REJECT, Verdict.EXISTS, Verdict.UNKNOWN, Verdict.HALT]
    for size in range(1, 5):
        assert judge(order[:size], PLACE).verdict is verdicts[size - 1]
        assert judge(order[size - 1 :: -1], PLACE).verdict is verdicts[size - 1]
    assert judge(["EService:Busy", "what?"], READ).verdict is Verdict.UNKNOWN
    mixed = judge(["EOrder:Post only order", "EOrder:Insufficient funds"], PLACE)
    assert (mixed.verdict, mixed.reason) == (Verdict.REJECT, RejectReason.OTHER)
    grave = judge(["EGeneral:Temporary lockout", "EAPI:Invalid key"], READ)
    assert (grave.trouble, grave.pause_sec) == (Trouble.LOCKOUT, 900)
    alike = judge(["EOrder:Rate limit exceeded", "EOrder:Domain rate limit exceeded"], PLACE)
    assert (alike.reason, alike.pause_sec) == (RejectReason.RATE_LIMIT, 15)
    nonce = ["EAPI:Invalid nonce", "EAPI:Rate limit exceeded"]
    assert judge(nonce, READ).trouble is judge(nonce[::-1], READ).trouble is Trouble.NONCE
    assert judge([], PLACE).verdict is Verdict.UNKNOWN


def test_several_strings_give_each_advice_once() -> None:
    """In the order of the strings, as one text."""
    first, second = "EService:Busy", "EAPI:Rate limit exceeded"
    advices = [judge([x], READ).advice for x in (first, second)]
    assert judge([first, second, first, second], READ).advice == "; also: ".join(advices)


ANY = st.text(max_size=40) | st.sampled_from(sorted(EXPECTED))


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, max_size=4), st.sampled_from(Purpose))
def test_any_strings_are_judged_and_only_known_ones_reject(
    said: list[str], purpose: Purpose
) -> None:
    """Total; a rejection or an adoption needs every string to be a known one."""
    judgement = judge(said, purpose)
    known = [EXPECTED.get(x) for x in said]
    if judgement.verdict is Verdict.REJECT:
        assert purpose is PLACE
        assert said
        assert all(find_row(x) is not None for x in said)
        assert all(x in (None, Verdict.REJECT) for x in known)
    if judgement.verdict is Verdict.EXISTS:
        assert purpose is PLACE
        assert EXISTING in said
    if Verdict.HALT in known:
        assert judgement.verdict is Verdict.HALT
    assert judgement.pause_sec >= 0


@st.composite
def variants(draw: st.DrawFn) -> tuple[str, str]:
    """Draw a known string and a variant of it: case, blanks, or one character changed."""
    text = draw(st.sampled_from(sorted(EXPECTED)))
    changed = "".join(x.upper() if draw(st.booleans()) else x.lower() for x in text)
    if draw(st.booleans()):
        changed = changed.replace(" ", draw(st.sampled_from(["  ", "\t", "\n", "\u2003", ""])))
    if draw(st.booleans()):
        changed = changed.replace(":", draw(st.sampled_from([": ", " :", "::", "\uff1a"])))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(changed)))
        changed = changed[:place] + draw(st.characters()) + changed[place + 1 :]
    return text, changed


@settings(max_examples=400, deadline=None)
@given(variants(), st.sampled_from(Purpose))
def test_variants_are_judged_alike_or_as_unknown(pair: tuple[str, str], purpose: Purpose) -> None:
    """A string that is nearly another never changes into a rejection."""
    text, changed = pair
    verdict = judge([changed], purpose).verdict
    assert verdict in (judge([text], purpose).verdict, Verdict.UNKNOWN)


# ---- whole answers --------------------------------------------------------------------------


def fault(status: int, *said: str) -> Answer:
    """Return an answer that is none of Kraken's."""
    return Answer(status=status, errors=said, fault="no answer of Kraken's")


@pytest.mark.parametrize(
    ("status", "trouble", "pause_sec", "read"),
    [
        (0, Trouble.DOWN, 5, Verdict.RETRY),
        (200, Trouble.DOWN, 5, Verdict.RETRY),
        (299, Trouble.DOWN, 5, Verdict.RETRY),
        (300, Trouble.DOWN, 60, Verdict.RETRY),
        (399, Trouble.DOWN, 60, Verdict.RETRY),
        (400, Trouble.DOWN, 5, Verdict.UNKNOWN),
        (403, Trouble.RATE, 60, Verdict.RETRY),
        (499, Trouble.DOWN, 5, Verdict.UNKNOWN),
        (429, Trouble.RATE, 60, Verdict.RETRY),
        (500, Trouble.DOWN, 5, Verdict.RETRY),
        (520, Trouble.DOWN, 5, Verdict.RETRY),
    ],
)
def test_a_fault_leaves_the_outcome_unknown(
    status: int, trouble: Trouble, pause_sec: float, read: Verdict
) -> None:
    """Whatever the status, an order's fate must be found out; a read is repeated later."""
    for purpose in Purpose:
        judgement = judge_answer(fault(status), purpose)
        assert judgement is not None
        assert (judgement.trouble, judgement.pause_sec) == (trouble, pause_sec)
        assert judgement.verdict is (read if purpose is READ else Verdict.UNKNOWN)
        assert judgement.advice
        assert judgement.advice.startswith("no answer:") is (status == 0)


def test_an_answer_without_a_fault_is_judged_by_its_errors() -> None:
    """As the strings alone are."""
    for text in EXPECTED:
        for purpose in Purpose:
            assert judge_answer(Answer(status=200, errors=(text,)), purpose) == judge(
                [text], purpose
            )


def test_errors_beside_a_fault_never_reject() -> None:
    """A proxy's page may repeat anything; but a refused key halts all the same."""
    for text in (*DEFINITE, EXISTING):
        judgement = judge_answer(fault(502, text), PLACE)
        assert judgement is not None
        assert judgement.verdict is Verdict.UNKNOWN
    halted = judge_answer(fault(502, "EAPI:Invalid key"), PLACE)
    assert halted is not None
    assert (halted.verdict, halted.trouble) == (Verdict.HALT, Trouble.KEY)


def test_only_what_was_surely_not_sent_needs_no_looking_up() -> None:
    """A request that never left is a definite refusal; with any sign of an answer it is not."""
    never = Answer(fault="the name could not be resolved", was_sent=False)
    judgement = judge_answer(never, PLACE)
    assert judgement is not None
    assert (judgement.verdict, judgement.reason) == (Verdict.REJECT, RejectReason.NOT_SENT)
    assert (judgement.trouble, judgement.pause_sec) == (Trouble.DOWN, 5)
    assert "not sent" in judgement.advice
    for purpose, verdict in ((CANCEL, Verdict.UNKNOWN), (READ, Verdict.RETRY)):
        judgement = judge_answer(never, purpose)
        assert judgement is not None
        assert judgement.verdict is verdict
    for odd in (
        Answer(status=502, fault="x", was_sent=False),
        Answer(errors=("odd",), fault="x", was_sent=False),
    ):
        judgement = judge_answer(odd, PLACE)
        assert judgement is not None
        assert judgement.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("said", "is_unknown"),
    [
        ((), False),
        (("EOrder:Unknown order",), True),
        (("EOrder:Invalid order", "EOrder:Unknown order:O1"), True),
        (("EOrder:Unknown order", "EService:Busy"), False),
        (("EService:Busy",), False),
    ],
)
def test_an_order_is_unknown_only_if_every_string_says_so(
    said: tuple[str, ...], is_unknown: bool
) -> None:
    """An answer without errors, or with others beside, says nothing of the kind."""
    assert is_unknown_order(Answer(status=200, errors=said)) is is_unknown


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        Answer,
        status=st.integers(-1, 1000),
        errors=st.lists(ANY, max_size=3).map(tuple),
        result=st.none() | st.just({}),
        fault=st.none() | st.just("x"),
        was_sent=st.booleans(),
    ),
    st.sampled_from(Purpose),
)
def test_any_answer_is_judged(answer: Answer, purpose: Purpose) -> None:
    """None for good ones only; a read never rejects; a fault that was sent never rejects."""
    judgement = judge_answer(answer, purpose)
    assert (judgement is None) == answer.is_good
    if judgement is not None and judgement.verdict in (Verdict.REJECT, Verdict.EXISTS):
        assert purpose is PLACE
        assert answer.fault is None or not answer.was_sent


# ---- ended orders ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        ("closed", None, "filled"),
        ("canceled", None, "cancelled"),
        ("canceled", "User requested", "cancelled"),
        ("canceled", "Post only order", RejectReason.POST_ONLY),
        ("canceled", "post-only order would take", RejectReason.POST_ONLY),
        ("canceled", "Self trade prevention", RejectReason.SELF_TRADE),
        ("canceled", "SELF-TRADE", RejectReason.SELF_TRADE),
        ("expired", "Post only order", "expired"),
        ("closed", "Post only order", "filled"),
    ],
)
def test_an_ended_order_says_why(status: str, reason: str | None, told: str) -> None:
    """Of the exchange's own endings those count as refusals that it might have told at once."""
    view = OrderView(
        txid="O1", client_order_id=None, status=status, pair="XDGUSD", side=Side.BUY,
        price=ONE, volume=ONE, executed=ZERO, cost=ZERO, fee=ZERO, opened_at=0.0, reason=reason,
    )  # fmt: skip
    assert ending(view) == told


# ---- the document ---------------------------------------------------------------------------


def test_the_document_holds_the_table() -> None:
    """The operator reads what the program does: `python -m tools.kraken_table` writes it."""
    text = DOCUMENT.read_text()
    assert text.count(errors.TABLE_BEGIN) == text.count(errors.TABLE_END) == 1
    begin, end = text.index(errors.TABLE_BEGIN), text.index(errors.TABLE_END)
    table = text[begin : end + len(errors.TABLE_END)]
    assert table == errors.error_table()
    # Built anew from the source: the rows are made once, when the module is loaded.
    anew = runpy.run_path(str(errors.__file__), run_name=errors.__name__)
    assert table == anew["error_table"]()
    assert [x.to_dict() for x in anew["ROWS"]] == [x.to_dict() for x in ROWS]


def test_the_tool_writes_what_stands_between_the_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is around them stays; a document without them is refused and left as it was."""
    document = tmp_path / "KRAKEN.md"
    document.write_text(f"before\n{errors.TABLE_BEGIN}\nold\n{errors.TABLE_END}\nafter\n")
    monkeypatch.setattr(kraken_table, "DOCUMENT", document)
    kraken_table.main()
    assert document.read_text() == f"before\n{errors.error_table()}\nafter\n"
    document.write_text("nothing")
    with pytest.raises(ValueError, match="markers"):
        kraken_table.main()
    assert document.read_text() == "nothing"
