"""What the running daemon answers to requests it must not serve: rows of docs/SECURITY.md."""

import json
import socket
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, get_args

import msgspec
import psutil
import pytest

from core.commands import Command
from tests.http_client import HERE, read_all, status_of
from tests.security_world import BEARER, TOKEN, Guarded
from web.connection import BODY_MAX

PAUSE = {"action": "pause"}
MEANT = ("meant-10", "meant-26")  # the ids of the only commands that are carried out
KNOWN = f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
HEADERS = (
    "Content-Security-Policy: default-src 'none'",
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: DENY",
    "Referrer-Policy: no-referrer",
    "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Resource-Policy: same-origin",
    "Cache-Control: no-store",
)


@pytest.fixture(name="guarded", scope="module")
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Start a daemon with a token for the module; no test may leave it locked or stopped."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def _nothing_is_done(guarded: Guarded) -> Iterator[None]:
    """No request of a test is carried out but those that are meant to be."""
    before = guarded.accepted()
    yield
    assert guarded.accepted()[len(before) :] in ([], *([x] for x in MEANT))
    assert guarded.ask("GET", "/healthz")[0] == 200


def head_of(guarded: Guarded, data: bytes) -> str:
    """Send bytes and return the head of the answer; streams do not end."""
    received = b""
    with guarded.connect() as sock:
        sock.sendall(data)
        while b"\r\n\r\n" not in received and (chunk := sock.recv(65536)):
            received += chunk
    return received.split(b"\r\n\r\n")[0].decode()


def test_01_only_this_machine_is_served(guarded: Guarded) -> None:
    """By default every socket of the process listens on 127.0.0.1, and elsewhere is nobody."""
    sockets = psutil.Process(guarded.pid).net_connections()
    listening = [x.laddr for x in sockets if x.status == psutil.CONN_LISTEN]
    assert [tuple(x) for x in listening] == [(HERE, guarded.port)]
    found = [x for card in psutil.net_if_addrs().values() for x in card]
    own = [x.address for x in found if x.family == socket.AF_INET]
    for address in ("127.0.0.2", *(x for x in own if x != HERE)):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, guarded.port), timeout=2)


# ---- who may ask --------------------------------------------------------------------------------


def test_03_no_command_without_token(guarded: Guarded) -> None:
    """Neither a command nor data without the token, whatever else is right."""
    for headers in (
        {},
        {"Origin": None},
        {"Cookie": "grid_session=x"},
        {"Authorization": "Basic x"},
    ):
        status, answer = guarded.act(PAUSE, **headers)
        assert (status, answer) == (401, {"error": "log in first"}), headers
    for path in ("/api/status", "/api/equity", "/api/cycles", "/api/orders/x", "/api/commands/x"):
        assert guarded.ask("GET", path)[0] == 401, path


def test_04_five_wrong_tokens_lock_the_address_out(guarded: Guarded) -> None:
    """The sixth is 429, and so is the right token from there; others and trading go on."""
    there, seq = "127.0.0.4", guarded.rows("SELECT max(seq) FROM journal")
    for _ in range(5):
        assert guarded.ask("POST", "/login", {"token": "wrong-token"}, source=there)[0] == 401
    for headers in ({"Authorization": "Bearer wrong"}, BEARER):
        status, told, _ = guarded.ask("GET", "/api/status", source=there, **headers)
        assert (status, told["Retry-After"]) == (429, "60")
    assert guarded.ask("POST", "/login", {"token": TOKEN}, source=there)[0] == 429
    assert guarded.ask("GET", "/api/status", **BEARER)[0] == 200
    until = time.monotonic() + 30
    while guarded.rows("SELECT max(seq) FROM journal") == seq and time.monotonic() < until:
        time.sleep(0.05)
    assert guarded.rows("SELECT max(seq) FROM journal") > seq
    assert guarded.log.read_text().count("5 wrong tokens from 127.0.0.4") == 1


def test_06_token_in_the_address_is_nothing(guarded: Guarded) -> None:
    """It opens no route and stands in no log, also where the request fails."""
    for method, path in (("GET", "/api/status"), ("GET", "/nothing"), ("POST", "/api/action")):
        for name in ("token", "access_token", "Authorization"):
            status = guarded.ask(method, f"{path}?{name}={TOKEN}", PAUSE)[0]
            assert status == (404 if path == "/nothing" else 401)
    assert TOKEN not in guarded.log.read_text()


def test_07_cookie_from_a_foreign_page_is_refused(guarded: Guarded) -> None:
    """With a session, another origin, and what a browser calls another site, are 403."""
    cookie = guarded.log_in()
    for origin in ("https://evil.example", f"http://localhost.evil:{guarded.port}", None):
        assert guarded.act(PAUSE, Cookie=cookie, Origin=origin)[0] == 403, origin
    for site in ("cross-site", "same-site"):
        assert guarded.act(PAUSE, Cookie=cookie, Sec_Fetch_Site=site)[0] == 403, site
    assert guarded.act(PAUSE, Origin="https://evil.example", **BEARER)[0] == 403


def test_08_cookie_with_the_origin_null_is_refused(guarded: Guarded) -> None:
    """As it comes from a sandboxed frame or a file."""
    assert guarded.act(PAUSE, Cookie=guarded.log_in(), Origin="null")[0] == 403


def test_09_only_json_is_taken(guarded: Guarded) -> None:
    """What a form can send without asking first is 415."""
    cookie = guarded.log_in()
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", None):
        assert guarded.act(PAUSE, Cookie=cookie, Content_Type=kind)[0] == 415, kind


def test_10_no_header_of_our_own_is_needed(guarded: Guarded) -> None:
    """Cookie, origin and JSON are enough; the browser's word on the site is believed."""
    body = {"action": "add_layer", "id": MEANT[0]}
    assert guarded.act(body, Cookie=guarded.log_in(), Sec_Fetch_Site="same-origin")[0] == 200
    assert guarded.accepted()[-1] == MEANT[0]


def test_11_foreign_host_gets_no_data(guarded: Guarded) -> None:
    """A name that leads here without being ours is 421 on GET, too: DNS rebinding."""
    for host in (f"evil.example:{guarded.port}", "127.0.0.1", f"127.0.0.1:{guarded.port + 1}", ""):
        status, _, body = guarded.ask("GET", "/api/status", Host=host, **BEARER)
        assert (status, body) == (421, b'{"error":"not a name of this server"}'), host
    for host in (f"localhost:{guarded.port}", f"[::1]:{guarded.port}", f"LOCALHOST:{guarded.port}"):
        assert guarded.ask("GET", "/healthz", Host=host)[0] == 200, host


def test_12_host_is_there_once_and_plain(guarded: Guarded) -> None:
    """None, two, with a user's name, with a trailing dot: refused."""
    for head, expected in (
        ("", 400),
        (f"Host: {guarded.host}\r\nHost: {guarded.host}\r\n", 400),
        (f"Host: {guarded.host}\r\nhost: evil.example\r\n", 400),
        (f"Host: user@{guarded.host}\r\n", 421),
        (f"Host: localhost.:{guarded.port}\r\n", 421),
        (f"Host: {guarded.host}, evil.example\r\n", 421),
    ):
        answer = guarded.raw(f"GET /api/status HTTP/1.1\r\n{head}\r\n".encode())
        assert status_of(answer) == expected, head


def test_13_commands_are_not_got(guarded: Guarded) -> None:
    """GET and HEAD on a path that acts are 405."""
    for path in ("/api/action", "/login", "/logout", "/api/action?action=pause"):
        for method in ("GET", "HEAD"):
            status, headers, _ = guarded.ask(method, path, **BEARER)
            assert (status, headers["Allow"]) == (405, "POST"), path


def test_14_nobody_is_asked_for_leave_across_origins(guarded: Guarded) -> None:
    """OPTIONS is 405 as other methods are, and no answer names an origin."""
    for method in ("OPTIONS", "PUT", "DELETE", "TRACE", "PATCH"):
        status, headers, _ = guarded.ask(method, "/api/action", Origin="https://evil.example")
        assert status == 405
        assert not [x for x in headers if x.lower().startswith("access-control")]
    headers = guarded.ask("GET", "/api/status", Origin="https://evil.example", **BEARER)[1]
    assert not [x for x in headers if x.lower().startswith("access-control")]


def test_15_every_answer_has_the_headers(guarded: Guarded) -> None:
    """On every route and every refusal; no answer tells a program or a version."""
    host = f"Host: {guarded.host}\r\nConnection: close\r\n"
    known = host + KNOWN
    kelly = ("current-recommendations", "performance-metrics", "risk-status", "service-health")
    paths = ("/", "/healthz", "/readyz", "/metrics", "/nothing", "/api/status", "/api/equity",
             "/api/cycles", "/api/stream", "/api/candles", "/api/orders/x", "/api/action",
             "/api/export/cycles.csv", *(f"/api/kelly/{x}" for x in (*kelly, "history", "config")),
             )  # fmt: skip
    requests = [f"GET {path} HTTP/1.1\r\n{known}\r\n" for path in paths]
    requests += [
        f"GET /api/status HTTP/1.1\r\n{host}\r\n",
        f"GET /api/cycles?limit=x HTTP/1.1\r\n{known}\r\n",
        f"POST /api/action HTTP/1.1\r\n{known}\r\n",
        f"POST /api/action HTTP/1.1\r\n{host}Content-Length: 99999\r\n\r\n",
        f"OPTIONS / HTTP/1.1\r\n{host}\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "rubbish\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        f"GET /{'x' * 9000} HTTP/1.1\r\n{host}\r\n",
    ]
    seen = set()
    for data in requests:
        head = head_of(guarded, data.encode())
        seen.add(int(head.split()[1]))
        assert [x for x in HEADERS if x not in head] == [], (data, head)
        assert "\r\nServer:" not in head
    assert seen >= {200, 400, 401, 404, 405, 411, 413, 414, 421}
    page = head_of(guarded, f"GET / HTTP/1.1\r\n{host}\r\n".encode())
    (policy,) = [x for x in page.splitlines() if x.startswith("Content-Security-Policy")]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


# ---- what may be sent ---------------------------------------------------------------------------


def test_17_content_length_is_strict(guarded: Guarded) -> None:
    """Signs, underscores, other digits, too much, none and two are refused at once."""
    head = f"POST /api/action HTTP/1.1\r\nHost: {guarded.host}\r\n{KNOWN}"
    for line, expected in (
        ("Content-Length: -1", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 1_000", 400),
        ("Content-Length: 1 0", 400),
        ("Content-Length: 18, 18", 400),
        ("Content-Length: 0x10", 400),
        ("Content-Length: \N{ARABIC-INDIC DIGIT THREE}", 400),
        ("Content-Length:", 400),
        ("Content-Length: 18\r\nContent-Length: 18", 400),
        ("Content-Length: 18\r\ncontent-length: 0", 400),
        ("Content-Length: 99999999999", 413),
        (f"Content-Length: {BODY_MAX + 1}", 413),
        ("X-Content-Length: 18", 411),
    ):
        with guarded.connect() as sock:
            sock.sendall(f"{head}{line}\r\n\r\n".encode() + b'{"action":"pause"}')
            answer = sock.recv(65536)
        assert status_of(answer) == expected, line
        assert b"Connection: close" in answer


def test_18_chunked_bodies_are_refused_and_the_connection_ends(guarded: Guarded) -> None:
    """Nothing can be smuggled behind them, also where a length is told, too."""
    head = f"POST /api/action HTTP/1.1\r\nHost: {guarded.host}\r\n{KNOWN}"
    smuggled = head + 'Content-Length: 18\r\n\r\n{"action":"pause"}'
    for lines, expected in (
        ("Transfer-Encoding: chunked", 501),
        ("Transfer-Encoding: identity", 501),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 501),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 501),
        ("transfer-encoding: x, chunked", 501),
        ("Transfer-Encoding : chunked", 400),
        ("Transfer-Encoding\t: chunked", 400),
        (" Transfer-Encoding: chunked", 400),
    ):
        answer = guarded.raw(f"{head}{lines}\r\n\r\n0\r\n\r\n{smuggled}".encode())
        assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (expected, 1), lines


def test_22_heads_are_bounded_and_strict(guarded: Guarded) -> None:
    """Long lines, many headers, control characters and half-formed lines."""
    host = f"Host: {guarded.host}\r\n"
    few, many = ("".join(f"X-{n}: y\r\n" for n in range(x)) for x in (150, 10_000))
    for data, expected in (
        (f"GET /{'a' * 65536} HTTP/1.1\r\n{host}\r\n", 414),
        (f"GET / HTTP/1.1\r\n{host}{few}\r\n", 431),
        (f"GET / HTTP/1.1\r\n{host}{many}\r\n", 431),
        (f"GET / HTTP/1.1\r\n{host}X: {'y' * 20_000}\r\n\r\n", 431),
        (f"GET /\x00 HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET /a\rb HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET /a\r\nX: b HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET /\N{LATIN SMALL LETTER E WITH ACUTE} HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X : y\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host} folded\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X: a\r\n\tfolded\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X: a\rb\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}X: a\x00b\r\n\r\n", 400),
        (f"GET / HTTP/1.1\n{host}\r\n", 400),
        (f"GET  / HTTP/1.1\r\n{host}\r\n", 400),
        (f"GET / HTTP/0.9\r\n{host}\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}Expect: 100-continue\r\n\r\n", 417),
    ):
        assert status_of(guarded.raw(data.encode())) == expected, data[:60]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"action":"set_profit_pct","value":NaN}', "value"),
        (b'{"action":"set_profit_pct","value":-Infinity}', "value"),
        (b'{"action":"set_profit_pct","value":1e999}', "value"),
        (b'{"action":"set_profit_pct","value":1e99999999999999999999}', "value"),
        (b'{"action":"set_profit_pct","value":' + b"9" * 5_000 + b"}", "value"),
        (b'{"action":"pause","action":"halt"}', "action"),
        (b'{"action":"pause","note":{"deep":1}}', "note"),
        (b'{"action":["pause"]}', "action"),
        (b'{"action":"record_flow","note":"\\ud800"}', "note"),
        (b'{"action":"pause","id":"no spaces"}', "id"),
        (b'{"action":"pause","id":"' + b"x" * 65 + b'"}', "id"),
        (b'{"action":"pause","id":5}', "id"),
        (b'{"action":"pause","expect_version":true}', "expect_version"),
        (b'{"action":"pause","expect_version":1.0}', "expect_version"),
        (b'{"action":"pause","expect_version":-1}', "expect_version"),
        (b"[" * 16_000, "body"),
        (b'{"a":' * 3_000, "body"),
        (b'{"action":"pause"} trailing', "body"),
        (b'["pause"]', "body"),
        (b'"pause"', "body"),
        (b"null", "body"),
        (b"\xff\xfe", "body"),
        (b'\xef\xbb\xbf{"action":"pause"}', "body"),
        (b"\x1f\x8b\x08\x00", "body"),
        (b"", "body"),
    ],
)
def test_23_what_is_not_strictly_json_is_refused(guarded: Guarded, body: bytes, field: str) -> None:
    """The answer is 400 and names the field; the thread lives on."""
    status, answer = guarded.act(body, **BEARER)
    assert (status, answer["field"]) == (400, field), answer


def numeric_fields() -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield for each numeric field of each command the others' valid values, name and type."""
    valid = {"slot": 1, "value": 2, "name": "PAIR_ENTRY_PCT", "older_than_sec": 10**9}
    for variant in Command.__args__:
        fields = {x.name: x for x in msgspec.structs.fields(variant)}
        body = {"action": variant.__struct_config__.tag}
        body |= {name: valid[name] for name, x in fields.items() if x.required}
        for name, x in fields.items():
            kinds = set(get_args(x.type) or (x.type,)) & {int, float, Decimal}
            if kinds and not name.endswith("_difference"):
                yield body, name, kinds.pop()


MAY_BE_ZERO = {"base", "quote", "max_loss_pct", "older_than_sec"}
MAY_BE_NEGATIVE = {"base", "quote"}


def test_24_hostile_numbers_are_refused_in_every_field(guarded: Guarded) -> None:
    """Whatever the command, 400 and the name of the field."""
    found = list(numeric_fields())
    assert len({name for _, name, _ in found}) == 8
    for body, name, kind in found:
        hostile = ["1e30", '"1e-400"', "1e-400", "true", '"lots"', '""', '"1_0"', '"1,5"', "NaN"]
        hostile += ["[1]", "1e999", '"\N{ARABIC-INDIC DIGIT THREE}"']
        hostile += ["1.5", '"1"'] if kind is int else []
        hostile += ["0", "-0.0"] if name not in MAY_BE_ZERO else []
        hostile += ["-1"] if name not in MAY_BE_NEGATIVE else []
        for text in hostile:
            whole = {**body, name: "@"}
            data = json.dumps(whole).replace('"@"', text)
            status, answer = guarded.act(data.encode(), **BEARER)
            assert (status, answer.get("field")) == (400, name), (data, answer)


def test_25_unknown_commands_and_fields_are_refused(guarded: Guarded) -> None:
    """Also those of the program alone; the answer says which."""
    for body, field in (
        ({"action": "withdraw"}, "action"),
        ({"action": "PAUSE"}, "action"),
        ({}, "action"),
        ({"action": "pause", "extra": 1}, "extra"),
        ({"action": "audit_pnl", "audit": None}, "audit"),
        ({"action": "set_profit_pct"}, "value"),
        ({"action": "set_profit_pct", "value": 2, "__class__": "x"}, "__class__"),
        ({"action": "pause", "x" * 200: 1}, "x" * 40),
    ):
        status, answer = guarded.act(body, **BEARER)
        assert (status, answer["field"]) == (400, field), body


def test_26_the_same_id_is_carried_out_once(guarded: Guarded) -> None:
    """The second request gets the first answer, whoever sends it; another command is refused."""
    body = {"action": "add_layer", "id": MEANT[1]}
    first = guarded.act(body, **BEARER)
    assert first[0] == 200
    assert guarded.act(body, **BEARER) == first
    assert guarded.act(body, Cookie=guarded.log_in()) == first
    assert guarded.act({"action": "halt", "id": MEANT[1]}, **BEARER)[0] == 409
    assert guarded.accepted().count(MEANT[1]) == 1


def test_27_a_stale_version_is_refused(guarded: Guarded) -> None:
    """A command that was decided on an old page is 409."""
    status, answer = guarded.act({**PAUSE, "expect_version": 0}, **BEARER)
    assert (status, answer["accepted"]) == (409, False)


def test_28_no_path_leads_to_a_file(guarded: Guarded) -> None:
    """Every path that is no route is the same 404."""
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/",
        "//",
        "//api/status",
        "/\\",
        "/..\\..\\.env",
        "/.env",
        "/static/..%2f.env",
        "/static/../.env",
        "/static/dashboard.html",
        "/dashboard.py",
        "/api/orders/",
        "/api/orders/a/b",
        "/api/orders/..%2f..%2fbot.db",
        "/api/commands/%00",
        "/api/status/",
        "/api/status%20",
        "/API/STATUS",
        "api/status",
        "*",
        "http://evil.example/",
        f"http://{guarded.host}/api/status",
    ):
        head = f"GET {path} HTTP/1.1\r\nHost: {guarded.host}\r\n{KNOWN}"
        answer = guarded.raw(f"{head}Connection: close\r\n\r\n".encode())
        body = answer.split(b"\r\n\r\n", 1)[1]
        assert (status_of(answer), body) == (404, b'{"error":"not found"}'), path


def test_38_a_session_ends_at_logout(guarded: Guarded) -> None:
    """Its cookie opens nothing afterwards."""
    cookie = guarded.log_in()
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 200
    assert guarded.ask("POST", "/logout", {}, Cookie=cookie)[0] == 200
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 401
    assert guarded.act(PAUSE, Cookie=cookie)[0] == 401


def test_pipelined_requests_are_each_judged_alone(guarded: Guarded) -> None:
    """The right of one request is not the next one's on the same connection."""
    known = f"GET /api/cycles HTTP/1.1\r\nHost: {guarded.host}\r\n{KNOWN}"
    unknown = f"GET /api/cycles HTTP/1.1\r\nHost: {guarded.host}\r\nConnection: close\r\n"
    with guarded.connect() as sock:
        sock.sendall(f"{known}\r\n{unknown}\r\n".encode())
        answers = read_all(sock)
    assert [int(x[:3]) for x in answers.split(b"HTTP/1.1 ")[1:]] == [200, 401]


def test_requests_leave_no_file_open(guarded: Guarded) -> None:
    """Each connection has a thread of its own; the database is not opened anew for each."""
    process = psutil.Process(guarded.pid)
    before = process.num_fds()
    for _ in range(100):
        assert guarded.ask("GET", "/api/cycles?limit=1", **BEARER)[0] == 200
    assert process.num_fds() <= before + 8
