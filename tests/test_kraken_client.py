"""What the client of Kraken's interface sends, takes for an answer, and refuses."""

import logging
import socket
import threading
from decimal import Decimal

import pytest

from exchange.kraken import KrakenClient, check_url, is_venue
from exchange.kraken_wire import decode_secret, sign
from exchange.nonce import Nonces
from tests.bad_server import (
    GOOD,
    Manner,
    answer,
    gzipped,
    hang,
    reset_after,
    say,
)
from tests.kraken_server import (
    CHUNKED,
    HEAD,
    KEY,
    NONCE,
    SECRET,
    SHORT_SEC,
    Clock,
    KrakenServer,
    assert_good,
    nonces,
)

# ---- what is sent ---------------------------------------------------------------------------


def test_private_call_is_signed_as_it_is_sent() -> None:
    """POST with plain texts, our nonce and name, and a signature of exactly these bytes."""
    params = {
        "volume": Decimal("1E+3"),
        "price": Decimal("1E-7"),
        "oflags": ("post", "fciq"),
        "validate": False,
        "trades": True,
        "userref": None,
        "note": "a b&c=ü/",
    }
    before = dict(params)
    with KrakenServer(answer()) as server:
        assert_good(server.client().private("AddOrder", params))
    (seen,) = server.requests
    assert seen.line == "POST /0/private/AddOrder HTTP/1.1"
    assert seen.form == {
        "volume": "1000", "price": "0.0000001", "oflags": "post,fciq", "trades": "true",
        "note": "a b&c=ü/", "nonce": str(NONCE),
    }  # fmt: skip
    assert seen.headers["api-key"] == KEY
    expected = sign(decode_secret(SECRET), "/0/private/AddOrder", str(NONCE), seen.body.decode())
    assert seen.headers["api-sign"] == expected
    assert seen.headers["user-agent"] == "grid-daemon"
    assert seen.headers["accept-encoding"] == "gzip"
    assert seen.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert params == before


def test_public_call_has_neither_key_nor_nonce() -> None:
    """GET with the parameters in the address; no key is needed, and one that is set stays here."""
    with KrakenServer(answer()) as server:
        for key, secret in (("", ""), (KEY, SECRET)):
            client = server.client(key=key, secret=secret)
            assert_good(client.public("Depth", {"pair": "XDGUSD", "count": 10}))
    for seen in server.requests:
        assert seen.line == "GET /0/public/Depth?pair=XDGUSD&count=10 HTTP/1.1"
        assert not {"api-key", "api-sign"} & set(seen.headers)
        assert seen.body == b""


def test_private_calls_go_one_after_another() -> None:
    """From eight threads at once the nonces arrive in rising order, one connection serves all."""
    with KrakenServer(answer()) as server:
        client = server.client()

        def work() -> None:
            for _ in range(5):
                assert_good(client.private("Balance", {}))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    arrived = [int(x.form["nonce"]) for x in server.requests]
    assert arrived == list(range(NONCE, NONCE + 40))
    assert server.connections == 1


def test_what_cannot_be_sent_is_not() -> None:
    """A call without a key, a nonce or a sendable parameter is refused before the line."""
    used_up = Nonces(lambda: NONCE, 0)
    with KrakenServer(answer()) as server:
        client = server.client()
        told = [
            server.client(key="", secret="").private("Balance", {}),
            server.client(nonces=used_up).private("Balance", {}),
            client.private("AddOrder", {"price": object()}),
            client.private("AddOrder", {"price": Decimal("NaN")}),
            client.private("AddOrder", {"note": "\ud800"}),
            client.private("AddOrder", {"nonce": 1}),
            client.private("../0/private/Withdraw", {}),
            client.public("Time?x=1", {}),
        ]
    words = ["no API key", "committed", "price", "price", "cannot be sent", "nonce", "no method",
             "no method"]  # fmt: skip
    for each, word in zip(told, words, strict=True):
        assert word in (each.fault or "")
        assert not each.was_sent
    assert server.requests == []


# ---- what comes back ------------------------------------------------------------------------

BAD_ANSWERS = {
    "status 500": answer(b"<html>oops</html>", "500 Internal Server Error"),
    "status 520": answer(b"<html>oops</html>", "520 Web Server Error"),
    "status 429": answer(b"", "429 Too Many Requests"),
    "status 204": say(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "good body, bad status": answer(GOOD, "502 Bad Gateway"),
    "html": answer(b"<html>challenge</html>"),
    "empty body": answer(b""),
    "nothing at all": say(b""),
    "no http": say(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "header only": say(b"HTTP/1.1 200 OK\r\n"),
    "broken header": say(b"HTTP/1.1 abc\r\n\r\n"),
    "endless header": say(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000),
    "too many headers": say(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n" + GOOD),
    "length too long": answer(GOOD, length=len(GOOD) + 1, keeps=False),
    "length too short": answer(GOOD, length=len(GOOD) - 1),
    "length no number": say(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + GOOD[:-1]),
    "chunks that are none": say(CHUNKED + b"hello\r\nworld\r\n"),
    "chunk of negative size": say(CHUNKED + b"-5\r\nworld\r\n"),
    "chunks that end early": say(CHUNKED + b"5\r\nhel"),
    "reset": reset_after(b""),
    "reset mid-body": reset_after(HEAD + GOOD),
    "gzip that is none": answer(GOOD, "200 OK", "Content-Encoding: gzip"),
    "gzip cut off": answer(gzipped(GOOD)[:-12], "200 OK", "Content-Encoding: gzip"),
    "unknown encoding": answer(b"\x01\x02", "200 OK", "Content-Encoding: zstd2"),
}


@pytest.mark.parametrize("manner", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_is_a_fault_and_leaves_no_rest(
    manner: Manner,
) -> None:
    """What is no answer of Kraken's is a fault of a call that was sent; the next call is well."""
    with KrakenServer(manner, answer()) as server:
        client = server.client()
        told = client.private("AddOrder", {})
        assert told.fault
        assert told.was_sent
        assert not told.is_good
        assert_good(client.private("Balance", {}))
        assert [(x.line.split()[1], x.connection) for x in server.requests] == [
            ("/0/private/AddOrder", 1), ("/0/private/Balance", 2),
        ]  # fmt: skip


@pytest.mark.parametrize("manner", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_to_a_public_call_is_not_asked_again(
    manner: Manner,
) -> None:
    """On a connection of its own a public call is not repeated either."""
    with KrakenServer(manner, answer()) as server:
        assert server.client().public("Time", {}).fault
        assert len(server.requests) == 1


def test_good_answers_in_every_dress() -> None:
    """Chunks, gzip, a closing connection and an interim status change nothing."""
    manners = (
        answer(gzipped(GOOD), "200 OK", "Content-Encoding: gzip"),
        say(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD), keeps=True),
        say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD),
        answer(),
    )
    with KrakenServer(*manners) as server:
        client = server.client()
        for _ in manners:
            assert_good(client.private("Balance", {}))


def test_errors_of_the_exchange_come_through() -> None:
    """An error list is an answer, not a fault."""
    with KrakenServer(answer(b'{"error":["EOrder:Insufficient funds"]}')) as server:
        told = server.client().private("AddOrder", {})
    assert told.errors == ("EOrder:Insufficient funds",)
    assert told.fault is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(
    status: int,
) -> None:
    """Neither key nor question goes to the host that a redirect names, nor back to ours."""
    with KrakenServer(answer()) as other:
        for target in (f"{other.url}/0/private/AddOrder", "/0/private/Balance"):
            manner = answer(GOOD, f"{status} Moved", f"Location: {target}")
            with KrakenServer(manner, answer()) as server:
                client = server.client()
                told = client.private("AddOrder", {})
                assert str(status) in (told.fault or "")
                assert told.was_sent
                assert len(server.requests) == 1
            with KrakenServer(manner, answer()) as server:
                assert server.client().public("Time", {}).fault
                assert len(server.requests) == 1
        assert other.connections == 0


def counted(head: bytes, piece: bytes, pieces: int, sent: list[int]) -> Manner:
    """Send a long body piece by piece and note how much of it got away."""

    def manner(line: socket.socket, _stop: threading.Event) -> bool:
        line.sendall(head)
        for _ in range(pieces):
            line.sendall(piece)
            sent.append(len(piece))
        return False

    return manner


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n",
     b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"],
    ids=["told", "untold", "redirect"],
)  # fmt: skip
def test_body_of_50_megabytes_is_cut_off(
    head: bytes,
) -> None:
    """Not more than the most is read, whatever the header says."""
    sent: list[int] = []
    with KrakenServer(counted(head, b" " * 65536, 800, sent), answer()) as server:
        client = server.client()
        told = client.private("Balance", {})
        assert told.fault == "the body is longer than 8388608 bytes"
        assert_good(client.private("Balance", {}))
    assert sum(sent) < 40 * 1024 * 1024


@pytest.mark.parametrize("layers", [1, 2])
def test_gzip_bomb_is_cut_off(
    layers: int,
) -> None:
    """The most counts for what the body unpacks to, packed once or twice."""
    body = b" " * (64 * 1024 * 1024)
    for _ in range(layers):
        body = gzipped(body)
    coding = ", ".join(["gzip"] * layers)
    with KrakenServer(answer(body, "200 OK", f"Content-Encoding: {coding}")) as server:
        told = server.client().private("Balance", {})
    assert told.fault == "the body is longer than 8388608 bytes"


def test_body_of_exactly_the_most_is_read() -> None:
    """One byte more is too long."""
    with KrakenServer(answer()) as server:
        assert_good(server.client(body_max=len(GOOD)).private("Balance", {}))
        assert server.client(body_max=len(GOOD) - 1).private("Balance", {}).fault


# ---- secrets and addresses ------------------------------------------------------------------


def test_nothing_shows_key_or_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither repr nor faults nor any line logged at DEBUG holds key, secret or signature."""
    caplog.set_level(logging.DEBUG)
    with KrakenServer(answer(), answer(b"<"), reset_after(HEAD), hang) as server:
        client = server.client(timeout_sec=SHORT_SEC)
        told = [client.private("AddOrder", {}) for _ in range(4)]
    told += [client.private("AddOrder", {})]
    output = capfd.readouterr()
    shown = [repr(client), str(client), repr(told), caplog.text, output.out, output.err]
    secrets = {KEY, SECRET, *(x.headers["api-sign"] for x in server.requests)}
    assert len(secrets) == 6
    assert not [x for x in secrets for text in shown if x in text]


@pytest.mark.parametrize(
    ("key", "secret", "words"),
    [
        (KEY, "", "both or neither"),
        ("", SECRET, "both or neither"),
        (KEY, SECRET[1:], "base64"),
        (KEY, f"{SECRET[:40]} {SECRET[40:]}", "base64"),
        (KEY, f"{SECRET[:40]}*", "base64"),
        (KEY, f"{SECRET[:40]}ü", "base64"),
        (f"{KEY}\r\nX-Other: 1", SECRET, "copy it whole"),
        (f"{KEY}ü", SECRET, "copy it whole"),
        (KEY * 4, SECRET, "copy it whole"),
    ],
)
def test_keys_that_cannot_be_right_are_refused(key: str, secret: str, words: str) -> None:
    """The refusal says what is wrong and repeats neither key nor secret."""
    with pytest.raises(ValueError, match=words) as refused:
        KrakenClient(
            url="https://api.kraken.com", key=key, secret=secret, nonces=nonces(), clock=Clock()
        )
    text = str(refused.value) + repr(refused.value.__cause__) + repr(refused.value.args)
    assert not {x for x in (KEY[:10], SECRET[1:20]) if x in text}


GOOD_URLS = [
    "https://api.kraken.com", "https://api.kraken.com/", "https://API.Kraken.com:443",
    "http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:65535", "https://127.9.9.9",
    "https://proxy.example", "https://proxy.example:8443",
]  # fmt: skip
BAD_URLS = [
    "", "api.kraken.com", "ftp://api.kraken.com", "http://api.kraken.com",
    "https://api.kraken.com:8443", "https://api.kraken.com.evil.example",
    "https://api.kraken.com.", "https://evil.example", "http://proxy.example",
    "https://user:hidden@api.kraken.com", "https://api.kraken.com@evil.example",
    "https://api.kraken.com/0", "https://api.kraken.com?x=1", "https://api.kraken.com#x",
    "https://api.kraken.com//", "https://api.kraken.com\\.evil.example", "https://api.kraken.com\n",
    "https://api.kr\taken.com", "https://аpi.kraken.com", "https://", "http://127.0.0.1:0",
    "http://127.0.0.1:65536", "http://127.1", "http://0.0.0.0", "http://2130706433",
    "http://localhost.evil.example", "http://[::ffff:127.0.0.1%25x]", "http://10.0.0.1",
    "https://%61pi.kraken.com", "https://api.kraken.com:", " https://api.kraken.com",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD_URLS)
def test_address_that_is_allowed(url: str) -> None:
    """Kraken's own, loopback, and a host that was named, over TLS."""
    check_url(url, ["Proxy.Example"])
    KrakenClient(
        url=url, key=KEY, secret=SECRET, nonces=nonces(), clock=Clock(), allow=["proxy.example"]
    ).close()


@pytest.mark.parametrize("url", BAD_URLS)
def test_address_that_is_refused(url: str) -> None:
    """Everything else is refused with what is allowed; a password in it is not repeated."""
    with pytest.raises(
        ValueError, match=r"allowed is https://api\.kraken\.com|1 to 65535"
    ) as refused:
        check_url(url, ["proxy.example"])
    assert "hidden" not in str(refused.value)
    assert not is_venue(url)
    with pytest.raises(ValueError, match="address"):
        KrakenClient(
            url=url, key=KEY, secret=SECRET, nonces=nonces(), clock=Clock(),
            allow=["proxy.example"],
        )  # fmt: skip


def test_only_krakens_own_address_is_the_venue() -> None:
    """Loopback and allowed hosts are not where orders cost real money."""
    assert [x for x in GOOD_URLS if is_venue(x)] == GOOD_URLS[:3]


def test_host_that_is_not_named_is_refused() -> None:
    """Without the setting only Kraken and loopback are left, and a text is no list of hosts."""
    for allow in ((), "https://proxy.example", ["other.example"]):
        with pytest.raises(ValueError, match="KRAKEN_API_URL_ALLOW"):
            check_url("https://proxy.example", allow)
