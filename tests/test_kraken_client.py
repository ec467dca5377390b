"""The client of Kraken's REST interface against a server that misbehaves (spec: exchange, 1)."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import requests

from exchange.kraken import KrakenClient, check_url, is_venue
from exchange.kraken_records import Answer
from exchange.kraken_wire import decode_secret, sign
from exchange.nonce import Nonces
from tests.bad_server import (
    GOOD,
    BadServer,
    Manner,
    answer,
    gzipped,
    hang,
    reset_after,
    say,
    trickle,
)

KEY = "KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKE"
SECRET = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
NONCE = 1_790_000_000_000_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_SEC = 0.4  # the time of a call that is to run out of it


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def nonces() -> Nonces:
    """Return nonces from NONCE on."""
    found = Nonces(lambda: NONCE, 0)
    found.extend(NONCE + 10**9)
    return found


@pytest.fixture
def clients() -> Iterator[Callable[..., KrakenClient]]:
    """Return what makes a client for a server; all are closed at the end."""
    made: list[KrakenClient] = []

    def make(server: BadServer, **changes: object) -> KrakenClient:
        values: dict[str, object] = {
            "url": server.url,
            "key": KEY,
            "secret": SECRET,
            "nonces": nonces(),
            "clock": time.monotonic,
        }
        made.append(KrakenClient(**{**values, **changes}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for client in made:
        client.close()


Make = Callable[..., KrakenClient]


def assert_good(told: Answer) -> None:
    """Check that the server's good answer came through, exactly."""
    assert told.fault is None
    assert told.is_good
    assert told.result == {"price": "0.1", "number": Decimal("0.30000000000000001")}


# ---- what is sent ---------------------------------------------------------------------------


def test_private_call_is_signed_as_it_is_sent(clients: Make) -> None:
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
    with BadServer(answer()) as server:
        assert_good(clients(server).private("AddOrder", params))
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
    assert seen.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert params == before


def test_public_call_has_neither_key_nor_nonce(clients: Make) -> None:
    """GET with the parameters in the address; no key is needed, and one that is set stays here."""
    with BadServer(answer()) as server:
        for key, secret in (("", ""), (KEY, SECRET)):
            client = clients(server, key=key, secret=secret)
            assert_good(client.public("Depth", {"pair": "XDGUSD", "count": 10}))
    for seen in server.requests:
        assert seen.line == "GET /0/public/Depth?pair=XDGUSD&count=10 HTTP/1.1"
        assert not {"api-key", "api-sign"} & set(seen.headers)
        assert seen.body == b""


def test_private_calls_go_one_after_another(clients: Make) -> None:
    """From eight threads at once the nonces arrive in rising order, one connection serves all."""
    with BadServer(answer()) as server:
        client = clients(server)

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


def test_what_cannot_be_sent_is_not(clients: Make) -> None:
    """A call without a key, a nonce or a sendable parameter is refused before the line."""
    used_up = Nonces(lambda: NONCE, 0)
    with BadServer(answer()) as server:
        client = clients(server)
        told = [
            clients(server, key="", secret="").private("Balance", {}),
            clients(server, nonces=used_up).private("Balance", {}),
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
def test_bad_answer_is_a_fault_and_leaves_no_rest(manner: Manner, clients: Make) -> None:
    """What is no answer of Kraken's is a fault of a call that was sent; the next call is well."""
    with BadServer(manner, answer()) as server:
        client = clients(server)
        told = client.private("AddOrder", {})
        assert told.fault
        assert told.was_sent
        assert not told.is_good
        assert_good(client.private("Balance", {}))
        assert [x.line.split()[1] for x in server.requests] == [
            "/0/private/AddOrder", "/0/private/Balance",
        ]  # fmt: skip


@pytest.mark.parametrize("manner", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_to_a_public_call_is_not_asked_again(manner: Manner, clients: Make) -> None:
    """On a connection of its own a public call is not repeated either."""
    with BadServer(manner, answer()) as server:
        assert clients(server).public("Time", {}).fault
        assert len(server.requests) == 1


def test_good_answers_in_every_dress(clients: Make) -> None:
    """Chunks, gzip, a closing connection and an interim status change nothing."""
    manners = (
        answer(gzipped(GOOD), "200 OK", "Content-Encoding: gzip"),
        say(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD), keeps=True),
        say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD),
        answer(),
    )
    with BadServer(*manners) as server:
        client = clients(server)
        for _ in manners:
            assert_good(client.private("Balance", {}))


def test_errors_of_the_exchange_come_through(clients: Make) -> None:
    """An error list is an answer, not a fault."""
    with BadServer(answer(b'{"error":["EOrder:Insufficient funds"]}')) as server:
        told = clients(server).private("AddOrder", {})
    assert told.errors == ("EOrder:Insufficient funds",)
    assert told.fault is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status: int, clients: Make) -> None:
    """Neither key nor question goes to the host that a redirect names, nor back to ours."""
    with BadServer(answer()) as other:
        for target in (f"{other.url}/0/private/AddOrder", "/0/private/Balance"):
            manner = answer(GOOD, f"{status} Moved", f"Location: {target}")
            with BadServer(manner, answer()) as server:
                client = clients(server)
                told = client.private("AddOrder", {})
                assert str(status) in (told.fault or "")
                assert told.was_sent
                assert len(server.requests) == 1
            with BadServer(manner, answer()) as server:
                assert clients(server).public("Time", {}).fault
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
def test_body_of_50_megabytes_is_cut_off(head: bytes, clients: Make) -> None:
    """Not more than the most is read, whatever the header says."""
    sent: list[int] = []
    with BadServer(counted(head, b" " * 65536, 800, sent), answer()) as server:
        client = clients(server)
        told = client.private("Balance", {})
        assert told.fault == "the body is longer than 8388608 bytes"
        assert_good(client.private("Balance", {}))
    assert sum(sent) < 40 * 1024 * 1024


@pytest.mark.parametrize("layers", [1, 2])
def test_gzip_bomb_is_cut_off(layers: int, clients: Make) -> None:
    """The most counts for what the body unpacks to, packed once or twice."""
    body = b" " * (64 * 1024 * 1024)
    for _ in range(layers):
        body = gzipped(body)
    coding = ", ".join(["gzip"] * layers)
    with BadServer(answer(body, "200 OK", f"Content-Encoding: {coding}")) as server:
        told = clients(server).private("Balance", {})
    assert told.fault == "the body is longer than 8388608 bytes"


def test_body_of_exactly_the_most_is_read(clients: Make) -> None:
    """One byte more is too long."""
    with BadServer(answer()) as server:
        assert_good(clients(server, body_max=len(GOOD)).private("Balance", {}))
        assert clients(server, body_max=len(GOOD) - 1).private("Balance", {}).fault


# ---- time -----------------------------------------------------------------------------------

SLOW = {
    "hangs": hang,
    "trickles the body": trickle(HEAD),
    "trickles chunks": trickle(CHUNKED, b"1\r\n \r\n"),
    "trickles a chunk's size": trickle(CHUNKED, b"0"),
    "trickles the header": trickle(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "goes on continuing": trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("manner", SLOW.values(), ids=SLOW)
def test_call_ends_at_its_deadline(manner: Manner, clients: Make) -> None:
    """A server that keeps the line alive does not keep the call; the line is broken."""
    broken = threading.Event()

    def watched(line: socket.socket, stop: threading.Event) -> bool:
        try:
            return manner(line, stop)
        except OSError:
            broken.set()
            raise

    with BadServer(watched, answer()) as server:
        client = clients(server, timeout_sec=SHORT_SEC)
        told = client.private("AddOrder", {})
        assert told == Answer(fault="no answer within 0.4 s", was_sent=True)
        assert manner is hang or broken.wait(10)
        assert_good(client.private("Balance", {}))
        assert len(server.requests) == 2


def test_clock_is_looked_at_between_pieces(clients: Make) -> None:
    """The injected clock alone ends a body that comes in pieces, the first after the deadline."""
    clock = Clock()

    def pieces(line: socket.socket, stop: threading.Event) -> bool:
        line.sendall(HEAD)
        for _ in range(900):
            clock.now += 1.0
            line.sendall(b" ")
            if stop.wait(0.01):
                break
        return False

    with BadServer(pieces) as server:
        told = clients(server, clock=clock).private("Balance", {})
    assert told == Answer(fault="no answer within 8 s", was_sent=True)
    assert clock.now < 1900


def test_answer_after_the_deadline_does_not_count(clients: Make) -> None:
    """A machine that slept over the deadline does not take what it finds on waking."""
    clock = Clock()

    def late(line: socket.socket, stop: threading.Event) -> bool:
        clock.now += 8.5
        return answer()(line, stop)

    with BadServer(late) as server:
        told = clients(server, clock=clock).private("AddOrder", {})
    assert told == Answer(fault="no answer within 8 s", was_sent=True)


def test_lookup_that_hangs_sends_nothing_later(
    clients: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call left while its host is looked up was not sent, and is not sent once it is found."""
    found = threading.Event()
    look_up = socket.getaddrinfo

    def slow(*args: object, **kwargs: object) -> object:
        found.wait(30)
        return look_up(*args, **kwargs)  # type: ignore[arg-type]

    with BadServer(answer()) as server:
        client = clients(server, url=f"http://localhost:{server.port}", timeout_sec=0.05)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        for _ in range(8):
            assert client.private("AddOrder", {}) == Answer(
                fault="no answer within 0.05 s", was_sent=False
            )
        told = client.public("Time", {})
        assert told == Answer(fault="8 earlier requests still hang", was_sent=False)
        hanging = [x for x in threading.enumerate() if x.name == "kraken"]
        found.set()
        for thread in hanging:
            thread.join(10)
            assert not thread.is_alive()
        assert server.requests == []
        monkeypatch.undo()
        patient = clients(server, url=f"http://localhost:{server.port}")
        assert_good(patient.private("Balance", {}))


def begin(server: BadServer, call: Callable[[], Answer]) -> tuple[threading.Thread, list[Answer]]:
    """Make a call on another thread; return once the server has its request."""
    told: list[Answer] = []
    before = len(server.requests)
    thread = threading.Thread(target=lambda: told.append(call()))
    thread.start()
    while len(server.requests) == before:
        time.sleep(0.005)
    return thread, told


def test_turn_that_does_not_come_is_not_sent(clients: Make) -> None:
    """A call that waited half of its time behind another is dropped before it is sent."""
    with BadServer(hang) as server:
        client = clients(server, timeout_sec=2.0)
        thread, _ = begin(server, lambda: client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told == Answer(fault="earlier calls took too long", was_sent=False)
        client.close()
        thread.join(10)
    assert len(server.requests) == 1


def test_closing_cuts_off_calls_under_way(clients: Make) -> None:
    """Private and public calls under way end with a fault at once, later ones are not sent."""
    with BadServer(hang) as server:
        client = clients(server, timeout_sec=600.0)
        began = [
            begin(server, lambda: client.private("AddOrder", {})),
            begin(server, lambda: client.public("Time", {})),
        ]
        client.close()
        for thread, told in began:
            thread.join(10)
            assert told == [Answer(fault="the client was closed meanwhile", was_sent=True)]
        for later in (client.private("Balance", {}), client.public("Time", {})):
            assert later == Answer(fault="the client is closed", was_sent=False)
        client.close()
        assert len(server.requests) == 2


# ---- connections ----------------------------------------------------------------------------


def test_connection_is_used_again_until_it_was_quiet_for_long(clients: Make) -> None:
    """Calls share a connection; after 20 s without a call a private one opens another."""
    clock = Clock()
    with BadServer(answer()) as server:
        client = clients(server, clock=clock)
        for quiet_sec in (0, 20, 20.5):
            clock.now += quiet_sec
            assert_good(client.private("Balance", {}))
    assert [x.connection for x in server.requests] == [1, 1, 2]


def test_private_call_on_a_dead_connection_is_not_sent_again(clients: Make) -> None:
    """The server may have acted on it before the line broke: a fault, was sent, once."""
    with BadServer(answer(), say(b""), answer()) as server:
        client = clients(server)
        assert_good(client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told.fault
        assert told.was_sent
        assert [x.line.split()[1][11:] for x in server.requests] == ["Balance", "AddOrder"]
        assert_good(client.private("Balance", {}))


def test_public_call_on_a_dead_connection_is_asked_again_once(clients: Make) -> None:
    """Twice for a connection kept from earlier; where the new one dies too that is the answer."""
    with BadServer(answer(), say(b""), answer(), say(b"")) as server:
        client = clients(server)
        for _ in range(2):
            assert_good(client.public("Time", {}))
        assert len(server.requests) == 3
        told = client.public("Time", {})
        assert told.fault
        assert len(server.requests) == 5


def test_refused_connection_was_not_sent(clients: Make) -> None:
    """Nothing has left the process where nobody listens."""
    with BadServer(answer()) as server:
        client = clients(server)
    for told in (client.private("AddOrder", {}), client.public("Time", {})):
        assert told == Answer(
            fault="the connection failed or broke: Connection refused", was_sent=False
        )


def test_cookies_are_not_kept(clients: Make) -> None:
    """What a server wants remembered is forgotten."""
    with BadServer(answer(GOOD, "200 OK", "Set-Cookie: a=b; Path=/")) as server:
        client = clients(server)
        for _ in range(2):
            assert_good(client.private("Balance", {}))
    assert all("cookie" not in x.headers for x in server.requests)


def test_environment_turns_nothing_aside(
    clients: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither proxies of the environment nor passwords of .netrc take part."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hidden\n")
    netrc.chmod(0o600)
    with BadServer(answer()) as proxy, BadServer(answer()) as server:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HOME", str(tmp_path))
        # That they would take part, did we let them:
        assert requests.get(server.url, timeout=10).ok
        assert proxy.connections == 1
        client = clients(server)
        assert_good(client.private("Balance", {}))
        assert_good(client.public("Time", {}))
        assert proxy.connections == 1
    assert len(server.requests) == 2
    assert all("authorization" not in x.headers for x in server.requests)


def test_session_goes_to_no_other_host(clients: Make) -> None:
    """What krakenex could be made to ask elsewhere is refused before it is sent."""
    with BadServer(answer()) as other, BadServer(answer()) as server:
        client = clients(server)
        session = client._account.session
        for url in (other.url, f"{server.url}0/", server.url.replace("http", "https"),
                    f"{server.url}@{other.url[7:]}/"):  # fmt: skip
            with pytest.raises(requests.exceptions.RequestException):
                session.get(f"{url}/0/public/Time", timeout=5)
        with pytest.raises(requests.exceptions.InvalidURL, match="another host"):
            client._account._way.send(requests.Request("GET", other.url).prepare())
        assert other.connections == 0


# ---- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a self-made certificate for 127.0.0.1 and its key."""
    pytest.importorskip("cryptography", reason="makes the certificate")
    from ipaddress import ip_address  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def tls_of(certificate: Path) -> ssl.SSLContext:
    """Return what a server with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_untrusted_certificate_gets_nothing(
    clients: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that cannot prove its name is not asked, even if the environment would trust it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificate))
    with BadServer(answer(), tls=tls_of(certificate)) as server:
        client = clients(server)
        for told in (client.private("AddOrder", {}), client.public("Time", {})):
            assert "no trusted TLS connection" in (told.fault or "")
            assert "self-signed" in (told.fault or "")
            assert not told.was_sent
        assert server.requests == []


def test_trusted_certificate_is_asked_and_a_trickle_cut_off(
    clients: Make, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, too, calls share a connection and end at their deadline."""
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    manners = (answer(), answer(), trickle(HEAD), answer())
    with BadServer(*manners, tls=tls_of(certificate)) as server:
        client = clients(server, timeout_sec=2.0)
        assert_good(client.private("Balance", {}))
        assert_good(client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told == Answer(fault="no answer within 2 s", was_sent=True)
        assert_good(client.private("Balance", {}))
    assert [x.connection for x in server.requests] == [1, 1, 1, 2]


# ---- secrets and addresses ------------------------------------------------------------------


def test_nothing_shows_key_or_secret(
    clients: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither repr nor faults nor any line logged at DEBUG holds key, secret or signature."""
    caplog.set_level(logging.DEBUG)
    with BadServer(answer(), answer(b"<"), reset_after(HEAD), hang) as server:
        client = clients(server, timeout_sec=SHORT_SEC)
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
