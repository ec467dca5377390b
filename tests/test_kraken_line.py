"""The client's time and connections: deadlines, dead lines, other hosts, TLS."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exchange.kraken import KrakenClient
from exchange.kraken_records import Answer
from exchange.nonce import Nonces
from tests.bad_server import (
    GOOD,
    Manner,
    answer,
    hang,
    say,
    trickle,
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
def test_call_ends_at_its_deadline(
    manner: Manner,
) -> None:
    """A server that keeps the line alive does not keep the call; the line is broken."""
    broken = threading.Event()

    def watched(line: socket.socket, stop: threading.Event) -> bool:
        try:
            return manner(line, stop)
        except OSError:
            broken.set()
            raise

    with KrakenServer(watched, answer()) as server:
        client = server.client(timeout_sec=SHORT_SEC)
        told = client.private("AddOrder", {})
        assert told == Answer(fault="no answer within 0.4 s", was_sent=True)
        assert manner is hang or broken.wait(10)
        assert_good(client.private("Balance", {}))
        assert len(server.requests) == 2


def test_clock_is_looked_at_between_pieces() -> None:
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

    with KrakenServer(pieces) as server:
        told = server.client(clock=clock).private("Balance", {})
    assert told == Answer(fault="no answer within 8 s", was_sent=True)
    assert clock.now < 1900


def test_answer_after_the_deadline_does_not_count() -> None:
    """A machine that slept over the deadline does not take what it finds on waking."""
    clock = Clock()

    def late(line: socket.socket, stop: threading.Event) -> bool:
        clock.now += 8.5
        return answer()(line, stop)

    with KrakenServer(late) as server:
        told = server.client(clock=clock).private("AddOrder", {})
    assert told == Answer(fault="no answer within 8 s", was_sent=True)


def test_clock_that_stands_still_holds_no_call() -> None:
    """The wait is over after the time of a call even if the injected clock does not move."""
    with KrakenServer(hang) as server:
        told = server.client(clock=Clock(), timeout_sec=SHORT_SEC).private("AddOrder", {})
    assert told == Answer(fault="no answer within 0.4 s", was_sent=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_fault_of_our_own_is_an_answer_too() -> None:
    """What nobody thought of ends its call at once, and the next one is made."""
    times = iter([NONCE])
    broken = Nonces(lambda: next(times), 0)
    broken.extend(NONCE + 10)
    with KrakenServer(answer()) as server:
        client = server.client(nonces=broken, timeout_sec=600.0)
        assert_good(client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told == Answer(fault="the call broke off", was_sent=False)
        for thread in [x for x in threading.enumerate() if x.name == "kraken"]:
            thread.join(10)
        assert_good(client.public("Time", {}))


def test_lookup_that_hangs_sends_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call left while its host is looked up was not sent, and is not sent once it is found."""
    found = threading.Event()
    look_up = socket.getaddrinfo

    def slow(*args: object, **kwargs: object) -> object:
        found.wait(30)
        return look_up(*args, **kwargs)  # type: ignore[arg-type]

    with KrakenServer(answer()) as server:
        client = server.client(url=f"http://localhost:{server.port}", timeout_sec=0.05)
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
        patient = server.client(url=f"http://localhost:{server.port}")
        assert_good(patient.private("Balance", {}))


def begin(
    server: KrakenServer, call: Callable[[], Answer]
) -> tuple[threading.Thread, list[Answer]]:
    """Make a call on another thread; return once the server has its request."""
    told: list[Answer] = []
    before = len(server.requests)
    thread = threading.Thread(target=lambda: told.append(call()))
    thread.start()
    while len(server.requests) == before:
        time.sleep(0.005)
    return thread, told


def test_turn_that_does_not_come_is_not_sent() -> None:
    """A call that waited half of its time behind another is dropped before it is sent."""
    with KrakenServer(hang) as server:
        client = server.client(timeout_sec=2.0)
        thread, _ = begin(server, lambda: client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told == Answer(fault="earlier calls took too long", was_sent=False)
        client.close()
        thread.join(10)
    assert len(server.requests) == 1


def test_closing_cuts_off_calls_under_way() -> None:
    """Private and public calls under way end with a fault at once, later ones are not sent."""
    with KrakenServer(hang) as server:
        client = server.client(timeout_sec=600.0)
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


def test_connection_is_used_again_until_it_was_quiet_for_long() -> None:
    """Calls share a connection; after 20 s without a call a private one opens another."""
    clock = Clock()
    with KrakenServer(answer()) as server:
        client = server.client(clock=clock)
        for quiet_sec in (0, 20, 20.5):
            clock.now += quiet_sec
            assert_good(client.private("Balance", {}))
    assert [x.connection for x in server.requests] == [1, 1, 2]


def test_private_call_on_a_dead_connection_is_not_sent_again() -> None:
    """The server may have acted on it before the line broke: a fault, was sent, once."""
    with KrakenServer(answer(), say(b""), answer()) as server:
        client = server.client()
        assert_good(client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told.fault
        assert told.was_sent
        assert [x.line.split()[1][11:] for x in server.requests] == ["Balance", "AddOrder"]
        assert_good(client.private("Balance", {}))


def test_public_call_on_a_dead_connection_is_asked_again_once() -> None:
    """Twice for a connection kept from earlier; where the new one dies too that is the answer."""
    with KrakenServer(answer(), say(b""), answer(), say(b"")) as server:
        client = server.client()
        for _ in range(2):
            assert_good(client.public("Time", {}))
        assert len(server.requests) == 3
        told = client.public("Time", {})
        assert told.fault
        assert len(server.requests) == 5


def test_connection_opened_anew_is_not_an_old_one() -> None:
    """Where the server closed the first in good order, a second that dies is not asked again."""
    closing = answer(GOOD, "200 OK", "Connection: close", keeps=False)
    with KrakenServer(closing, say(b""), answer()) as server:
        client = server.client()
        assert_good(client.public("Time", {}))
        assert client.public("Time", {}).fault
        assert len(server.requests) == 2


def test_refused_connection_was_not_sent() -> None:
    """Nothing has left the process where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        client = KrakenClient(
            url=url, key=KEY, secret=SECRET, nonces=nonces(), clock=time.monotonic
        )
        told = [client.private("AddOrder", {}), client.public("Time", {})]
    for each in told:
        assert each == Answer(
            fault="the connection failed or broke: Connection refused", was_sent=False
        )


def test_cookies_are_not_kept() -> None:
    """What a server wants remembered is forgotten."""
    with KrakenServer(answer(GOOD, "200 OK", "Set-Cookie: a=b; Path=/")) as server:
        client = server.client()
        for _ in range(2):
            assert_good(client.private("Balance", {}))
    assert all("cookie" not in x.headers for x in server.requests)


def test_environment_turns_nothing_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither proxies of the environment nor passwords of .netrc take part."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password hidden\n")
    netrc.chmod(0o600)
    with KrakenServer(answer()) as proxy, KrakenServer(answer()) as server:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HOME", str(tmp_path))
        # That they would take part, did we let them:
        assert requests.get(server.url, timeout=30).ok
        assert proxy.connections == 1
        client = server.client()
        assert_good(client.private("Balance", {}))
        assert_good(client.public("Time", {}))
        assert proxy.connections == 1
    assert len(server.requests) == 2
    assert all("authorization" not in x.headers for x in server.requests)


def test_session_goes_to_no_other_host() -> None:
    """What krakenex could be made to ask elsewhere is refused before it is sent."""
    with KrakenServer(answer()) as other, KrakenServer(answer()) as server:
        client = server.client()
        session = client._account.session
        for url in (other.url, f"{server.url}0/", server.url.replace("http", "https"),
                    f"{server.url}@{other.url[7:]}/"):  # fmt: skip
            with pytest.raises(requests.exceptions.RequestException):
                session.get(f"{url}/0/public/Time", timeout=30)
        with pytest.raises(requests.exceptions.InvalidURL, match="another host"):
            client._account._way.send(requests.Request("GET", other.url).prepare())
        assert other.connections == 0


# ---- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a self-made certificate for 127.0.0.1 and its key."""
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
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that cannot prove its name is not asked, even if the environment would trust it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificate))
    with KrakenServer(answer(), tls=tls_of(certificate)) as server:
        client = server.client()
        for told in (client.private("AddOrder", {}), client.public("Time", {})):
            assert "no trusted TLS connection" in (told.fault or "")
            assert "self-signed" in (told.fault or "")
            assert not told.was_sent
        assert server.requests == []


def test_trusted_certificate_is_asked_and_a_trickle_cut_off(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS, too, calls share a connection and end at their deadline."""
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    manners = (answer(), answer(), trickle(HEAD), answer())
    with KrakenServer(*manners, tls=tls_of(certificate)) as server:
        client = server.client(timeout_sec=2.0)
        assert_good(client.private("Balance", {}))
        assert_good(client.private("Balance", {}))
        told = client.private("AddOrder", {})
        assert told == Answer(fault="no answer within 2 s", was_sent=True)
        assert_good(client.private("Balance", {}))
    assert [x.connection for x in server.requests] == [1, 1, 1, 2]
