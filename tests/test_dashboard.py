"""The HTTP server, over real sockets: who may ask, what is refused, and what nothing may break."""

import gzip
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from core.commands import Command, Halt, Pause, SetProfitPct
from core.ports import ConfigError
from core.status import Published
from dashboard import Busy, Dashboard, Reply, access_problems
from tests.http_client import Client, read_all, status_of
from web.gate import SESSION_SEC

BODY_MAX, CONNECTIONS_MAX, REQUEST_SEC = 16_384, 32, 5.0
TOKEN = "Zq3vT9-kLm2x_Wp8sR4y-7hNc5dFj1bGe"
STATUS = Published(
    body=b'{"schema_version":1}' + b" " * 2_000,
    gzip_body=gzip.compress(b'{"schema_version":1}' + b" " * 2_000),
    etag='W/"abc"',
    version=7,
)


class FakeHistory:
    """History in memory."""

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        points = [{"time": float(n), "equity": Decimal("1E-7") * n} for n in range(3_000)]
        return [x for x in points if since is None or x["time"] >= since][-limit:], False

    def cycles(self, limit: int, before: int | None) -> list[dict[str, Any]]:
        if limit == 13:
            raise RuntimeError(f"canary {TOKEN}")
        own = {"from_recovery": 1, "regime_at_entry": 0, "before": before}
        return [{"id": n, **own} for n in range(limit)]

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        return {"id": client_order_id} if client_order_id == "known-1" else None

    def command(self, command_id: str) -> dict[str, Any] | None:
        return {"command_id": command_id} if command_id == "known-1" else None


class World(Client):
    """A dashboard on a free port, with what stands behind it."""

    def __init__(self, **options: Any) -> None:
        self.submitted: list[tuple[str, Command, int | None]] = []
        self.published: Published | None = STATUS
        self.reason: str | None = None
        self.is_alive = True
        self.skew = 0.0
        self.submit: Callable[[str, Command, int | None], Reply] = self.accept
        self.app = Dashboard(
            "127.0.0.1",
            0,
            token=options.get("token"),
            read_only=options.get("read_only", False),
            allowed_hosts=options.get("allowed_hosts", ()),
            published=lambda: self.published,
            readiness=lambda: self.reason,
            liveness=lambda: self.is_alive,
            submit=lambda *args: self.submit(*args),  # noqa: PLW0108 - tests replace it
            history=FakeHistory(),
            monotonic=lambda: time.monotonic() + self.skew,
        )
        super().__init__(self.app.port)
        self.app.start()

    def accept(self, command_id: str, command: Command, version: int | None) -> Reply:
        """Take a command down and accept it."""
        self.submitted.append((command_id, command, version))
        changed = {"mode": "paused"}
        return Reply(status=200, message="done", command_id=command_id, changed=changed)


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard without a token."""
    world = World()
    yield world
    world.app.stop()


@pytest.fixture(name="guarded")
def make_guarded() -> Iterator[World]:
    """Give a dashboard with a token."""
    world = World(token=TOKEN)
    yield world
    world.app.stop()


# ---- reading ------------------------------------------------------------------------------------


def test_status_with_etag_gzip_and_304(world: World) -> None:
    """The published bytes are sent as they are, compressed on wish, and 304 when unchanged."""
    status, headers, body = world.ask("GET", "/api/status")
    assert (status, body) == (200, STATUS.body)
    assert headers["ETag"] == STATUS.etag
    assert headers["Vary"] == "Accept-Encoding"
    assert headers["Cache-Control"] == "no-store"
    status, headers, body = world.ask("GET", "/api/status", Accept_Encoding="br, gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(body) == STATUS.body
    assert "Content-Encoding" not in world.ask("GET", "/api/status", Accept_Encoding="gzip;q=0")[1]
    status, headers, body = world.ask("GET", "/api/status", If_None_Match='W/"abc"')
    assert (status, body) == (304, b"")
    assert world.ask("GET", "/api/status", If_None_Match='W/"abd"')[0] == 200


def test_status_before_the_first_says_what_it_waits_for(world: World) -> None:
    """Until something is published the answer is 503 with the reason."""
    world.published, world.reason = None, "the first price"
    status, headers, body = world.ask("GET", "/api/status")
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert json.loads(body)["error"] == "not ready: the first price"


def test_health_and_readiness(world: World) -> None:
    """healthz follows the loop, readyz gives the reason; neither needs a token."""
    assert world.ask("GET", "/healthz")[0] == 200
    assert world.ask("GET", "/readyz")[0] == 200
    world.is_alive, world.reason = False, "halted"
    assert world.ask("GET", "/healthz")[0] == 503
    status, _, body = world.ask("GET", "/readyz")
    assert (status, json.loads(body)["reason"]) == (503, "halted")


def test_history_routes(world: World) -> None:
    """Equity, cycles, orders and commands come from the history, decimals as plain text."""
    points = json.loads(world.ask("GET", "/api/equity?limit=2&since=2999")[2])["points"]
    assert points == [{"time": 2999.0, "equity": "0.0002999"}]
    cycles = json.loads(world.ask("GET", "/api/cycles?limit=1&before=17")[2])["cycles"]
    own = {"from_recovery": True, "regime_at_entry": "bearish", "before": 17}
    assert cycles == [{"id": 0, **own}]
    packed = world.ask("GET", "/api/equity", Accept_Encoding="gzip")
    assert packed[1]["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(packed[2]))["points"]) == 1_000
    assert json.loads(world.ask("GET", "/api/orders/known-1")[2]) == {"id": "known-1"}
    assert world.ask("GET", "/api/orders/other")[0] == 404
    assert json.loads(world.ask("GET", "/api/commands/known-1")[2])["command_id"] == "known-1"
    for query in ("limit=0", "limit=x", "limit=99999999", "limit=-1", "since=NaN", "since=1e9"):
        status, _, body = world.ask("GET", f"/api/equity?{query}")
        assert status == 400, query
        assert json.loads(body)["field"] == query.partition("=")[0]


def test_page_has_fresh_nonce_in_policy_and_tags(world: World) -> None:
    """The page's style and scripts carry the nonce of its policy, new each time."""
    nonces = set()
    for _ in range(2):
        status, headers, body = world.ask("GET", "/")
        assert status == 200
        policy = headers["Content-Security-Policy"]
        nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
        nonces.add(nonce)
        assert body.count(f'nonce="{nonce}"'.encode()) == 3
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert len(nonces) == 2


def test_head_is_a_get_without_its_body(world: World) -> None:
    """With the length that the body would have; other paths take what they are for."""
    status, headers, body = world.ask("HEAD", "/api/status")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(STATUS.body)))
    status, headers, _ = world.ask("POST", "/api/status", {})
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_one_send_and_keep_alive(world: World) -> None:
    """Several requests on one connection, each answered without a delayed-acknowledgement stall."""
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    started = time.monotonic()
    for _ in range(300):
        connection.request("GET", "/api/status", headers={"Accept-Encoding": "gzip"})
        assert connection.getresponse().read() == STATUS.gzip_body
    assert time.monotonic() - started < 10.0  # 300 × 40 ms would be 12 s
    connection.close()
    pair = f"GET /healthz HTTP/1.1\r\nHost: {world.host}\r\n\r\n".encode()
    last = pair.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert world.raw(pair + last).count(b'{"alive":true}') == 2


# ---- who may ask --------------------------------------------------------------------------------


def test_binding_beyond_loopback_needs_a_good_token() -> None:
    """Without a token only loopback may be bound; short tokens and placeholders are refused."""
    assert access_problems("127.0.0.1", None) == []
    assert access_problems("0.0.0.0", TOKEN) == []
    for host, token in (
        ("0.0.0.0", None),
        ("192.168.1.5", None),
        ("127.0.0.1", "short"),
        ("127.0.0.1", TOKEN[:31]),
        ("0.0.0.0", "changeme-0123456789-abcdefghijkl"),
        ("0.0.0.0", "abababababababababababababababab"),
        ("127.0.0.1", ""),
    ):
        problems = access_problems(host, token)
        assert problems, (host, token)
        assert "DASHBOARD_TOKEN" in problems[0]
        assert not token or token not in problems[0]
    with pytest.raises(ConfigError, match="DASHBOARD_TOKEN"):
        Dashboard(
            "0.0.0.0",
            0,
            token=None,
            read_only=False,
            allowed_hosts=(),
            published=lambda: None,
            readiness=lambda: None,
            liveness=lambda: True,
            submit=lambda *_: Reply(status=200, message="", command_id=""),
            history=FakeHistory(),
            monotonic=time.monotonic,
        )


def test_token_guards_the_api_but_not_page_and_health(guarded: World) -> None:
    """Without credentials every API route is 401; page and health carry no data."""
    for path in ("/api/status", "/api/equity", "/api/cycles", "/api/orders/known-1"):
        assert guarded.ask("GET", path)[0] == 401, path
    assert guarded.act({"action": "pause"})[0] == 401
    assert guarded.act({"action": "pause"}, Origin=None, Content_Type=None)[0] == 401
    assert guarded.ask("GET", f"/api/status?token={TOKEN}")[0] == 401
    for path in ("/", "/healthz", "/readyz"):
        assert guarded.ask("GET", path)[0] == 200, path
    assert guarded.ask("GET", "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert guarded.act({"action": "pause"}, Origin=None, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert len(guarded.submitted) == 1


def log_in(world: World) -> str:
    """Return the cookie of a new session."""
    status, headers, _ = world.ask("POST", "/login", {"token": TOKEN})
    assert status == 200
    cookie = headers["Set-Cookie"]
    assert all(flag in cookie for flag in ("HttpOnly", "SameSite=Strict", "Path=/"))
    return cookie.split(";")[0]


def test_session_lives_twelve_idle_hours_and_dies_at_logout(guarded: World) -> None:
    """The cookie opens the API, is kept alive by use, ends after 12 idle hours and at logout."""
    cookie = log_in(guarded)
    assert guarded.ask("GET", "/api/status", Cookie=f"a=b; {cookie}")[0] == 200
    assert guarded.ask("GET", "/api/status", Cookie=f"{cookie}x")[0] == 401
    guarded.skew += SESSION_SEC - 60
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 200
    guarded.skew += SESSION_SEC - 60
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 200
    guarded.skew += SESSION_SEC + 60
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 401
    cookie = log_in(guarded)
    assert guarded.act({"action": "pause"}, Cookie=cookie)[0] == 200
    assert guarded.ask("POST", "/logout", {}, Cookie=cookie)[0] == 200
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 401
    other = World(token=TOKEN)  # a restart: the table is gone
    assert other.ask("GET", "/api/status", Cookie=log_in(guarded))[0] == 401
    other.app.stop()


def test_without_token_origin_is_required(world: World) -> None:
    """An open dashboard takes commands from its own page only."""
    assert world.act({"action": "pause"})[0] == 200
    assert world.act({"action": "pause"}, Origin=None)[0] == 403
    assert world.act({"action": "pause"}, Origin="http://evil.example")[0] == 403
    assert world.ask("POST", "/login", {"token": TOKEN})[0] == 409


def test_guessing_is_slowed_down(guarded: World, caplog: pytest.LogCaptureFixture) -> None:
    """After five failures even the right token gets 429 for a minute; sessions go on."""
    caplog.set_level(logging.DEBUG)
    cookie = log_in(guarded)
    for _ in range(5):
        assert guarded.ask("POST", "/login", {"token": "wrong-canary"})[0] == 401
    status, headers, _ = guarded.ask("POST", "/login", {"token": TOKEN})
    assert (status, headers["Retry-After"]) == (429, "60")
    assert guarded.ask("GET", "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 429
    assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == 200
    guarded.skew += 61
    assert guarded.ask("GET", "/api/status", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert "canary" not in caplog.text
    assert TOKEN not in caplog.text


def test_allowed_hosts_are_ours_too() -> None:
    """A configured name is accepted, alone (behind a proxy) and with our port."""
    world = World(allowed_hosts=("Grid.Example",))
    for host in ("grid.example", f"grid.example:{world.port}"):
        assert world.ask("GET", "/healthz", Host=host)[0] == 200
        origin = f"https://{host}"
        assert world.act({"action": "pause"}, Host=host, Origin=origin)[0] == 200
    assert world.ask("GET", "/healthz", Host="other.example")[0] == 421
    world.app.stop()


def test_read_only_has_no_post_route() -> None:
    """DASHBOARD_READ_ONLY removes the action route; reading goes on."""
    world = World(read_only=True)
    assert world.act({"action": "pause"})[0] == 405
    assert world.ask("GET", "/api/status")[0] == 200
    assert not world.submitted
    world.app.stop()


# ---- what may be asked --------------------------------------------------------------------------


def test_action_is_parsed_and_submitted(world: World) -> None:
    """A command reaches the loop as a value, with its id and the version it expects."""
    status, answer = world.act(
        {"action": "set_profit_pct", "value": 2.5, "slot": 3, "id": "a-1", "expect_version": 7}
    )
    assert status == 200
    assert answer == {
        "accepted": True,
        "message": "done",
        "command_id": "a-1",
        "changed": {"mode": "paused"},
    }
    assert world.submitted == [("a-1", SetProfitPct(value=Decimal("2.5"), slot=3), 7)]


def test_refusals_of_the_loop_are_passed_on(world: World) -> None:
    """409 carries the reason, a full inbox is 503, and a second try may succeed."""
    world.submit = lambda command_id, *_: Reply(status=409, message="no", command_id=command_id)
    status, answer = world.act({"action": "halt"})
    assert (status, answer["accepted"], answer["message"]) == (409, False, "no")

    def busy(*_: object) -> Reply:
        raise Busy

    world.submit = busy
    assert world.act({"action": "halt", "id": "x"})[0] == 503
    world.submit = world.accept
    assert world.act({"action": "halt", "id": "x"})[0] == 200


def test_same_id_is_carried_out_once(world: World) -> None:
    """The second request with an id gets the first reply, also when both are under way."""
    release = threading.Event()

    def slow(command_id: str, command: Command, version: int | None) -> Reply:
        release.wait(2)
        return world.accept(command_id, command, version)

    world.submit = slow
    answers: list[tuple[int, dict[str, Any]]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(world.act({"action": "pause", "id": "one"})))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * 4
    assert world.submitted == [("one", Pause(), None)]
    assert world.act({"action": "halt", "id": "one"})[0] == 409
    world.skew += 601
    assert world.act({"action": "halt", "id": "one"})[0] == 200
    assert [command for _, command, _ in world.submitted] == [Pause(), Halt()]


def test_handler_failure_is_a_constant_500(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a handler tells the client nothing, and the server goes on."""
    status, _, body = world.ask("GET", "/api/cycles?limit=13")
    assert (status, body) == (500, b'{"error":"internal error"}')
    assert "request failed path=/api/cycles" in caplog.text
    assert world.ask("GET", "/healthz")[0] == 200


# ---- load and malice ----------------------------------------------------------------------------


def test_connections_beyond_the_limit_get_503_at_once(world: World) -> None:
    """32 idle connections take all room; the next is told so, and room comes back."""
    before = threading.active_count()
    idle = [
        socket.create_connection(("127.0.0.1", world.port), timeout=30)
        for _ in range(CONNECTIONS_MAX)
    ]
    time.sleep(0.1)
    assert threading.active_count() - before <= CONNECTIONS_MAX
    refused = [socket.create_connection(("127.0.0.1", world.port), timeout=30) for _ in range(200)]
    assert {status_of(read_all(sock)) for sock in refused} == {503}
    assert threading.active_count() - before <= CONNECTIONS_MAX
    assert world.app.refused == 200
    for sock in (*idle, *refused):
        sock.close()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if world.ask("GET", "/healthz")[0] == 200:
                break
        except OSError:
            pass
        time.sleep(0.02)
    assert world.ask("GET", "/healthz")[0] == 200


def test_stop_releases_the_port() -> None:
    """After stop nothing is served on old connections, and a new dashboard may take the port."""
    world = World()
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b'{"alive":true}'
    world.app.stop()
    connection.request("GET", "/healthz")
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", world.port), timeout=1)
