"""What a client may send beyond the rows of docs/SECURITY.md: bodies, doubles, sessions, sites."""

import json
import time
from collections.abc import Iterator

import pytest

from core.commands import Pause
from tests.http_client import status_of
from tests.test_dashboard import BODY_MAX, TOKEN, World
from web.gate import FAILURE_SEC, FAILURES_MAX, Gate, Memory, Reply
from web.message import Refusal

PAUSE = '{"action":"pause"}'


@pytest.fixture(name="world")
def make_world() -> Iterator[World]:
    """Give a dashboard without a token."""
    world = World()
    yield world
    world.app.stop()


@pytest.fixture(name="guarded")
def make_guarded() -> Iterator[World]:
    """Give a dashboard with a token, known also as grid.example."""
    world = World(token=TOKEN, allowed_hosts=("grid.example",))
    yield world
    world.app.stop()


def test_body_of_sixteen_kib_passes_and_more_does_not(world: World) -> None:
    """The limit is exact, and a client that sends far more still reads the 413."""
    note = "x" * (BODY_MAX - len('{"action":"record_flow","quote":1,"note":""}'))
    body = f'{{"action":"record_flow","quote":1,"note":"{note}"}}'.encode()
    assert len(body) == BODY_MAX
    assert world.act(body)[0] == 200
    assert world.act(body + b" ")[0] == 413
    assert world.act(b" " * 500_000)[0] == 413


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST"])
@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/login"])
def test_a_body_is_never_the_next_request(world: World, method: str, path: str) -> None:
    """What a length announces is read as body, also where no body is wanted."""
    origin = f"Origin: http://{world.host}\r\nContent-Type: application/json\r\n"
    inner = f"POST /api/action HTTP/1.1\r\nHost: {world.host}\r\n{origin}"
    inner += f"Content-Length: {len(PAUSE)}\r\n\r\n{PAUSE}"
    outer = f"{method} {path} HTTP/1.1\r\nHost: {world.host}\r\nContent-Length: {len(inner)}\r\n"
    last = f"GET /healthz HTTP/1.1\r\nHost: {world.host}\r\nConnection: close\r\n\r\n"
    answers = world.raw(f"{outer}\r\n{inner}{last}".encode())
    assert answers.count(b"HTTP/1.1 ") == 2
    assert answers.endswith(b'{"alive":true}')
    assert not world.submitted


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer x",
        "Cookie: a=b",
        "Origin: http://evil.example",
        "Content-Type: text/plain",
        "Sec-Fetch-Site: cross-site",
    ],
)
def test_what_decides_may_not_be_said_twice(guarded: World, line: str) -> None:
    """Whichever of two a proxy believed, we believe neither."""
    name = line.split(":", maxsplit=1)[0]
    right = {
        "Authorization": f"Bearer {TOKEN}",
        "Cookie": "c=d",
        "Origin": f"http://{guarded.host}",
        "Content-Type": "application/json",
        "Sec-Fetch-Site": "same-origin",
    }
    head = "".join(f"{key}: {value}\r\n" for key, value in right.items() if key != "Cookie")
    head = f"POST /api/action HTTP/1.1\r\nHost: {guarded.host}\r\n{head}"
    for second in (line, f"{name.lower()}: {right[name]}"):
        cookie = "Cookie: c=d\r\n" if name == "Cookie" else ""
        known = head.replace(f"Authorization: Bearer {TOKEN}\r\n", "") if cookie else head
        data = f"{known}{cookie}{second}\r\nContent-Length: {len(PAUSE)}\r\n\r\n{PAUSE}"
        assert status_of(guarded.raw(data.encode())) == 400, second
    assert not guarded.submitted


def test_a_session_is_never_one_that_the_client_chose(guarded: World) -> None:
    """An id that was planted before the login opens nothing after it; each login has its own."""
    name = f"grid_session_{guarded.port}"
    planted = f"{name}={'A' * 43}"
    made = set()
    for _ in range(2):
        status, headers, _ = guarded.ask("POST", "/login", {"token": TOKEN}, Cookie=planted)
        assert status == 200
        made.add(headers["Set-Cookie"].split(";")[0])
    assert len(made | {planted}) == 3
    for cookie, expected in (
        (planted, 401),
        (f"{planted}; {min(made)}", 401),  # the first counts, as a more special path would be
        (f"x{min(made)}", 401),
        (name, 401),
        (f"{name}=", 401),
        ("x=" + "y" * 15_000, 401),
        (min(made), 200),
    ):
        assert guarded.ask("GET", "/api/status", Cookie=cookie)[0] == expected, cookie[:60]


def test_a_foreign_page_cannot_log_in_nor_lock_its_visitor_out(guarded: World) -> None:
    """What comes from another site is refused before the token is looked at."""
    for _ in range(2 * FAILURES_MAX):
        for token in (TOKEN, "wrong"):
            body = {"token": token}
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec_Fetch_Site": "cross-site"},
            ):
                status, told, _ = guarded.ask("POST", "/login", body, **headers)
                assert (status, told["Set-Cookie"]) == (403, None)
        assert guarded.ask("POST", "/login", body, Content_Type="text/plain")[0] == 415
    assert guarded.ask("POST", "/login", {"token": TOKEN})[0] == 200


def test_the_cookie_is_secure_behind_tls(guarded: World) -> None:
    """A page that was loaded by https never sends its session readable."""
    own = {"Host": "grid.example", "Origin": "https://grid.example"}
    cookie = guarded.ask("POST", "/login", {"token": TOKEN}, **own)[1]["Set-Cookie"]
    assert cookie.endswith("; HttpOnly; SameSite=Strict; Path=/; Secure")
    assert "Secure" not in guarded.ask("POST", "/login", {"token": TOKEN})[1]["Set-Cookie"]


def test_a_foreign_page_costs_no_work(world: World) -> None:
    """What another site's page asks for is not even read, though it could not see the answer."""
    for site in ("cross-site", "same-site"):
        for path in ("/api/status", "/api/cycles", "/api/equity"):
            assert world.ask("GET", path, Sec_Fetch_Site=site)[0] == 403, path
        assert world.ask("GET", "/", Sec_Fetch_Site=site)[0] == 200
    for site in ("same-origin", "none"):
        assert world.ask("GET", "/api/cycles", Sec_Fetch_Site=site)[0] == 200


def test_what_was_sent_comes_back_as_json_only(world: World) -> None:
    """A refusal that names a field of the client's is no markup."""
    name = "<script>alert(1)</script>\r\nX: y\u202e"
    status, headers, body = world.ask("POST", "/api/action", {"action": "pause", name: 1})
    assert status == 400
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["X"] is None
    assert json.loads(body)["field"] == name[:40]


def test_ids_of_64_characters_are_taken_and_longer_ones_refused(world: World) -> None:
    """Each counts whole: two that differ in the last are two."""
    for last in "ab":
        assert world.act({"action": "pause", "id": "x" * 63 + last})[0] == 200
    assert world.act({"action": "pause", "id": "x" * 65})[0] == 400
    assert len(world.submitted) == 2


def test_the_tables_are_bounded() -> None:
    """However many addresses guess, sessions open or commands come."""
    gate, memory = Gate(TOKEN, time.monotonic), Memory(time.monotonic)
    first = gate.open_session()
    for n in range(2_000):
        assert not gate.token_is_right("wrong", f"2001:db8::{n:x}")
        gate.open_session()
        reply = Reply(status=200, message="", command_id=f"{n}")
        memory.once(f"{n}", Pause(), lambda made=reply: made)
    sizes = [len(x) for x in (gate._failures, gate._sessions, memory._kept)]
    assert sizes == [256] * 3
    assert not gate.session_holds(first)


def test_one_address_is_slowed_down_whatever_others_do() -> None:
    """Its failures count by its address alone, and are forgotten a minute after each."""
    now = [0.0]
    gate = Gate(TOKEN, lambda: now[0])
    for _ in range(FAILURES_MAX):
        assert not gate.token_is_right("wrong", "10.0.0.1")
        now[0] += 1
    with pytest.raises(Refusal):
        gate.token_is_right(TOKEN, "10.0.0.1")
    assert gate.token_is_right(TOKEN, "10.0.0.2")
    now[0] = FAILURE_SEC + 0.5
    assert gate.token_is_right(TOKEN, "10.0.0.1")
    assert not gate.token_is_right("wrong", "10.0.0.1")
    with pytest.raises(Refusal):
        gate.token_is_right(TOKEN, "10.0.0.1")
