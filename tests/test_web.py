"""What a client may send, over real sockets: lengths, heads, bodies, and how slowly."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.test_dashboard import BODY_MAX, REQUEST_SEC, World, status_of


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard without a token."""
    world = World()
    yield world
    world.app.stop()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"action":"set_profit_pct","value":NaN}', "value"),
        (b'{"action":"set_profit_pct","value":Infinity}', "value"),
        (b'{"action":"set_profit_pct","value":1e999}', "value"),
        (b'{"action":"set_profit_pct","value":' + b"9" * 5_000 + b"}", "value"),
        (b'{"action":"set_profit_pct","value":1e30}', "value"),
        (b'{"action":"set_profit_pct","value":"1e-400"}', "value"),
        (b'{"action":"set_profit_pct","value":true}', "value"),
        (b'{"action":"set_profit_pct","value":"1_0"}', "value"),
        (b'{"action":"set_profit_pct","value":"1,000"}', "value"),
        (b'{"action":"set_profit_pct","value":"\\u0661"}', "value"),
        (b'{"action":"set_profit_pct","value":"1e999999999"}', "value"),
        (b'{"action":"remove_slot","slot":"1_0"}', "slot"),
        (b'{"action":"set_profit_pct","value":"lots"}', "value"),
        (b'{"action":"set_profit_pct"}', "value"),
        (b'{"action":"pause","action":"halt"}', "action"),
        (b'{"action":"pause","extra":1}', "extra"),
        (b'{"action":"withdraw"}', "action"),
        (b'{"action":["pause"]}', "action"),
        (b'{"action":"pause","note":{"deep":1}}', "note"),
        (b'{"action":"record_flow","note":"\\ud800"}', "note"),
        (b'{"action":"pause","id":"no spaces"}', "id"),
        (b'{"action":"pause","id":"' + b"x" * 65 + b'"}', "id"),
        (b'{"action":"pause","id":5}', "id"),
        (b'{"action":"pause","expect_version":true}', "expect_version"),
        (b'{"action":"pause","expect_version":-1}', "expect_version"),
        (b'{"action":"remove_slot","slot":99999999999999999999}', "slot"),
        (b'{"action":"remove_slot","slot":1.5}', "slot"),
        (b'{"action":"pair_off","slot":1,"confirm":"yes"}', "confirm"),
        (b"[" * 16_000, "body"),
        (b'{"a":' * 3_000, "body"),
        (b'{"action":"pause"} trailing', "body"),
        (b'["pause"]', "body"),
        (b"\xff\xfe", "body"),
        (b"", "body"),
    ],
)
def test_unusable_bodies_are_400_naming_the_field(world: World, body: bytes, field: str) -> None:
    """Nothing that is not plainly a command gets through, and the answer names the field."""
    status, answer = world.act(body)
    assert (status, answer["field"]) == (400, field), answer
    assert not world.submitted
    assert world.ask("GET", "/healthz")[0] == 200


def test_content_length_is_strict(world: World) -> None:
    """Signs, underscores, spaces, other digits, lies and doubles are refused at once."""
    head = (
        f"POST /api/action HTTP/1.1\r\nHost: {world.host}\r\nOrigin: http://{world.host}\r\n"
        "Content-Type: application/json\r\n"
    )
    started = time.monotonic()
    for length, expected in (
        ("-1", 400),
        ("+5", 400),
        ("1_000", 400),
        ("1 0", 400),
        ("0x10", 400),
        ("", 400),
        ("99999999999", 413),
        (str(BODY_MAX + 1), 413),
        ("18\r\nContent-Length: 18", 400),
    ):
        data = f"{head}Content-Length: {length}\r\n\r\n".encode() + b'{"action":"pause"}'
        assert status_of(world.raw(data)) == expected, length
    arabic = head.encode() + "Content-Length: ٣\r\n\r\n{}".encode()
    assert status_of(world.raw(arabic)) == 400
    assert status_of(world.raw(f"{head}\r\n".encode())) == 411
    assert time.monotonic() - started < 8.0  # 12 answers, each well under a second
    assert not world.submitted


def test_body_of_sixteen_kib_passes_and_more_does_not(world: World) -> None:
    """The limit is exact, and a client that sends far more still reads the 413."""
    note = "x" * (BODY_MAX - len('{"action":"record_flow","quote":1,"note":""}'))
    body = f'{{"action":"record_flow","quote":1,"note":"{note}"}}'.encode()
    assert len(body) == BODY_MAX
    assert world.act(body)[0] == 200
    assert world.act(body + b" ")[0] == 413
    assert world.act(b" " * 500_000)[0] == 413


def test_transfer_encoding_is_refused(world: World) -> None:
    """Chunked bodies end the connection, so nothing can be smuggled behind them."""
    answer = world.raw(
        f"POST /api/action HTTP/1.1\r\nHost: {world.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: {world.host}\r\n\r\n".encode()
    )
    assert status_of(answer) == 501
    assert answer.count(b"HTTP/1.1") == 1


def test_heads_are_bounded_and_strict(world: World) -> None:
    """Long lines, many headers, control characters and half-formed lines are refused."""
    host = f"Host: {world.host}\r\n"
    many = "".join(f"X-{n}: y\r\n" for n in range(1_000))
    for data, expected in (
        (f"GET /{'a' * 65536} HTTP/1.1\r\n{host}\r\n", 414),
        (f"GET / HTTP/1.1\r\n{host}{many}\r\n", 431),
        (f"GET / HTTP/1.1\r\n{host}X: {'y' * 20_000}\r\n\r\n", 431),
        (f"GET /\x00 HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET /a\rb HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X : y\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host} folded\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n", 400),
        (f"GET / HTTP/0.9\r\n{host}\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}Expect: 100-continue\r\n\r\n", 417),
    ):
        assert status_of(world.raw(data.encode())) == expected, data[:60]


@pytest.mark.slow
def test_slow_clients_are_cut_off_at_the_deadline(world: World) -> None:
    """A stalled body, a drip of headers and a drip of body all end 5 s after they began."""
    begun = (
        f"POST /api/action HTTP/1.1\r\nHost: {world.host}\r\nOrigin: http://{world.host}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    ).encode()
    lasted: dict[str, float] = {}

    def stall(name: str, data: bytes, drip: bytes) -> None:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", world.port), timeout=15) as sock:
            sock.sendall(data)
            sock.settimeout(0.25)
            while time.monotonic() - started < 12:
                try:
                    if not sock.recv(4096):
                        break
                except TimeoutError:
                    try:
                        sock.sendall(drip)
                    except OSError:
                        break
                except OSError:
                    break
        lasted[name] = time.monotonic() - started

    threads = [
        threading.Thread(target=stall, args=args)
        for args in (
            ("stalled body", begun, b""),
            ("dripped body", begun, b" "),
            ("dripped head", b"GET / HTTP/1.1\r\nX: ", b"y"),
            ("silent", b"", b""),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lasted) == 4
    for name, seconds in lasted.items():
        assert REQUEST_SEC - 0.5 <= seconds <= REQUEST_SEC + 1.5, (name, seconds)
    assert not world.submitted
