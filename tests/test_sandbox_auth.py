"""The sandbox's gate: signatures, nonces, permissions, lockout and the REST counter."""

import base64
import json
from typing import Any

import pytest

from core.record import replace
from exchange.sandbox_auth import METHODS, Gate, _is_signed
from exchange.sandbox_records import ApiKey
from exchange.sandbox_venue import READS
from tests.sandbox_client import KEY, START, Caller, make_venue


def errors(answer: tuple[int, bytes]) -> list[str]:
    """Return the error strings of an answer."""
    told: list[str] = json.loads(answer[1])["error"]
    return told


def test_the_published_signature_is_accepted() -> None:
    """The example of the venue's guide is signed right, and with one letter changed it is not."""

    secret = base64.b64decode(
        "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
    )
    body = b"nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
    told = (
        "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    )
    path, nonce = "/0/private/AddOrder", "1616492376594"
    assert _is_signed(secret, path, nonce, body, told)
    assert not _is_signed(secret, path, nonce, body.replace(b"1.25", b"1.26"), told)


@pytest.mark.parametrize("change", ["body", "path", "sign", "nonce"])
def test_a_changed_request_is_not_signed(change: str) -> None:
    """Whatever is changed after signing, the signature is refused and no nonce is used."""
    venue = make_venue()
    path, headers, body = Caller(venue).request("AddOrder", pair="XDGUSD", volume="100")
    match change:
        case "body":
            body = body.replace(b"100", b"900")
        case "path":
            path = path.replace("AddOrder", "CancelAll")
        case "sign":
            headers["api-sign"] = "AAAA" + headers["api-sign"][4:]
        case "nonce":
            body = body.replace(b"nonce=1", b"nonce=2")
    assert errors(venue.answer("POST", path, headers, body, START)) == ["EAPI:Invalid signature"]
    assert Caller(venue).ask("Balance")


def test_a_nonce_must_rise_even_after_a_refusal() -> None:
    """Equal and lower nonces are refused; a refused order has used its nonce up."""
    venue = make_venue()
    caller = Caller(venue)
    request = caller.request("AddOrder", pair="NOPE")
    assert errors(venue.answer("POST", *request, START)) == ["EQuery:Unknown asset pair"]
    assert errors(venue.answer("POST", *request, START)) == ["EAPI:Invalid nonce"]
    caller.nonce = 0
    assert caller.refusal("Balance") == ["EAPI:Invalid nonce"]


def test_a_nonce_window_lets_a_replay_through() -> None:
    """With a window the same bytes are taken twice: what the daemon must refuse at its start."""
    key = replace(KEY, nonce_window=10)
    venue = make_venue(keys=(key,))
    caller = Caller(venue, key)
    request = caller.request("AddOrder", **caller.order())
    for _ in range(2):
        assert errors(venue.answer("POST", *request, START)) == []
    assert len(caller.ask("OpenOrders")["open"]) == 2
    assert caller.ask("GetApiKeyInfo")["nonce_window"] == "10"


@pytest.mark.parametrize("nonce", ["", "abc", "-5", "1.5", str(2**64), "9" * 30])
def test_a_nonce_that_is_no_number_is_refused(nonce: str) -> None:
    """Only whole numbers of 64 bits are nonces."""
    caller = Caller(make_venue())
    caller.nonce = 10
    assert caller.refusal("Balance", nonce=nonce)[0].startswith("EAPI:Invalid ")


def test_five_failures_lock_the_key_out_and_asking_prolongs_it() -> None:
    """After five bad signatures even good calls are refused until 15 minutes of silence."""
    venue = make_venue()
    bad = Caller(venue, replace(KEY, secret="A" * 44))
    good = Caller(venue)
    for _ in range(5):
        assert bad.refusal("Balance") == ["EAPI:Invalid signature"]
    good.now = START + 600
    assert good.refusal("Balance") == ["EGeneral:Temporary lockout"]
    good.now = START + 1000
    assert good.refusal("Balance") == ["EGeneral:Temporary lockout"]
    good.now += 901
    assert good.ask("Balance")


def test_unknown_and_expired_keys_are_invalid() -> None:
    """A key that was never made, and one past its end, get the same words."""
    old = ApiKey(name="old", key="old", secret=KEY.secret, valid_until=int(START))
    venue = make_venue(keys=(KEY, old))
    assert Caller(venue, replace(KEY, key="nobody")).refusal("Balance") == ["EAPI:Invalid key"]
    assert Caller(venue, old).refusal("Balance") == ["EAPI:Invalid key"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_asks_for_its_permission(method: str) -> None:
    """A key without permissions may ask about itself only."""
    key = replace(KEY, permissions=())
    caller = Caller(make_venue(keys=(key,)), key)
    if method == "GetApiKeyInfo":
        told: dict[str, Any] = caller.ask(method)
        assert told["permissions"] == []
    else:
        assert caller.refusal(method) == ["EGeneral:Permission denied"]
    assert method in METHODS
    assert set(READS) < set(METHODS)


def test_the_rest_counter_is_the_keys_and_decays() -> None:
    """Starter: 15 reads at once, the next is refused; three seconds later one is taken."""
    other = replace(KEY, key="other", name="other")
    venue = make_venue(tier="starter", keys=(KEY, other))
    caller = Caller(venue)
    for _ in range(15):
        caller.ask("Balance")
    assert caller.refusal("Balance") == ["EAPI:Rate limit exceeded"]
    assert Caller(venue, other).ask("Balance")
    assert caller.ask("AddOrder", **caller.order())
    caller.now += 3.1
    assert caller.ask("Balance")


def test_unknown_methods_are_refused() -> None:
    """A method there is not, a private GET, a public POST, and a path elsewhere."""
    venue = make_venue()
    caller = Caller(venue)
    assert caller.refusal("Nonsense") == ["EGeneral:Unknown method"]
    for verb, path in (
        ("GET", "/0/private/Balance"),
        ("POST", "/0/public/Time"),
        ("GET", "/"),
        ("GET", "/0/public/Nonsense"),
    ):
        assert errors(venue.answer(verb, path, {}, b"", START)) == ["EGeneral:Unknown method"]


def test_key_facts_never_hold_the_secret() -> None:
    """GetApiKeyInfo tells name, permissions, window and the nonce of this very call."""
    caller = Caller(make_venue())
    told = caller.ask("GetApiKeyInfo")
    assert (told["nonce"], told["nonce_window"], told["api_key"]) == ("1", "0", KEY.key)
    assert "withdraw-funds" not in told["permissions"]
    assert KEY.secret not in json.dumps(told)


def test_keys_that_cannot_be_used_are_refused_in_words() -> None:
    """No base64, too short, an unknown permission, two of one text, none at all."""
    for keys, words in (
        ((replace(KEY, secret="!!"),), "not base64"),
        ((replace(KEY, secret="QUJD"),), "shorter"),
        ((replace(KEY, permissions=("fly",)),), "unknown permissions fly"),
        ((KEY, KEY), "same text"),
        ((), "at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            Gate(keys, {}, tier="pro", lockout_sec=900)
