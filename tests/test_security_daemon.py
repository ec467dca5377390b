"""What the daemon withstands as a process: the rows of docs/SECURITY.md beyond one request."""

import http.server
import json
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.http_client import HERE, read_all, status_of
from tests.page_world import CHROMIUM, FLAGS, needs_browser
from tests.security_world import BEARER, SECRETS, TOKEN, Guarded
from tests.test_daemon import environment, run_bot
from web.connection import CONNECTIONS_MAX, REQUEST_SEC

ROOT = Path(__file__).parent.parent
PACE_MIN = 0.2  # of the market's speed; a loop that is held up stands
LATE_SEC = 20.0  # on a machine that does other things, too


@pytest.fixture(name="guarded", scope="module")
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Start a daemon with a token for the module."""
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    yield made
    made.kill()


def until_served(guarded: Guarded) -> None:
    """Wait until there is room again, or fail."""
    deadline = time.monotonic() + REQUEST_SEC + LATE_SEC
    while True:
        try:
            if guarded.ask("GET", "/healthz")[0] == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- what it starts with -------------------------------------------------------------------------


def test_02_other_interfaces_need_a_token(tmp_path: Path) -> None:
    """HOST=0.0.0.0 without DASHBOARD_TOKEN: exit 2, a clear text, nothing opened."""
    result = run_bot(environment(tmp_path, HOST="0.0.0.0"))
    assert result.returncode == 2
    assert "HOST=0.0.0.0: reachable from other machines; set DASHBOARD_TOKEN" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_05_a_placeholder_is_refused_as_token(tmp_path: Path) -> None:
    """Exit 2, and the text says how to make one but not what was set."""
    token = "changeme-" * 4
    result = run_bot(environment(tmp_path, DASHBOARD_TOKEN=token))
    assert result.returncode == 2
    assert "DASHBOARD_TOKEN=***: must have at least 32" in result.stderr
    assert "secrets.token_urlsafe" in result.stderr
    assert token not in result.stderr


@pytest.mark.parametrize(
    ("mode", "code"), [("live", 2), pytest.param("paper", 0, marks=pytest.mark.slow)]
)
def test_32_files_of_secrets_are_this_users_alone(tmp_path: Path, mode: str, code: int) -> None:
    """Open to others, a link, another user's: refused with MODE=live, warnings on paper."""
    files = {name: tmp_path / name.lower() for name in SECRETS}
    for name, path in files.items():
        path.write_text(SECRETS[name])
        path.chmod(0o600)
    first, second, third = files.values()
    first.chmod(0o644)
    second.rename(tmp_path / "elsewhere")
    second.symlink_to(tmp_path / "elsewhere")
    expected = [f"{first} is open to other users", f"{second} is a link"]
    if os.getuid() == 0:  # only root can give a file away
        os.chown(third, 12_345, -1)
        expected.append(f"{third} belongs to another user")
    env = environment(tmp_path, MODE=mode, **{f"{name}_FILE": str(x) for name, x in files.items()})
    result = run_bot(env, "check")
    assert result.returncode == code, result.stderr
    for words in expected:
        assert words in result.stdout + result.stderr


# ---- the page in a frame ------------------------------------------------------------------------


@pytest.mark.slow
@needs_browser
@pytest.mark.browser
def test_16_the_page_shows_itself_in_no_frame(guarded: Guarded) -> None:
    """A page of another origin frames it, is answered, and shows nothing of it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    frame = f'<h1>prize</h1><iframe src="http://{guarded.host}/"></iframe>'.encode()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(frame)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer((HERE, 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with playwright.sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page()
            with page.expect_console_message(lambda x: "frame-ancestors" in x.text, timeout=10_000):
                page.goto(f"http://{HERE}:{server.server_address[1]}/")
            assert page.inner_text("h1") == "prize"
            framed = page.frames[1]
            assert framed.query_selector("#login, #main") is None
            page.goto(f"http://{guarded.host}/")
            assert page.query_selector("#main") is not None
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


# ---- slow, many, stalled ------------------------------------------------------------------------


@pytest.mark.slow
def test_19_20_slow_clients_are_cut_off_at_the_deadline(guarded: Guarded) -> None:
    """A stall, two bytes a second in head or body, silence, answers unread: closed after 5 s."""
    head = (
        f"POST /api/action HTTP/1.1\r\nHost: {guarded.host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()
    lasted: dict[str, float] = {}

    def stall(name: str, data: bytes, drip: bytes) -> None:
        began = time.monotonic()
        with guarded.connect() as sock:
            sock.sendall(data)
            sock.settimeout(0.5)
            while time.monotonic() - began < 60:
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
        lasted[name] = time.monotonic() - began

    def ignore(name: str, data: bytes, _drip: bytes) -> None:
        with guarded.connect() as sock:
            sock.sendall(data)  # answers of 20 MB, none of which is read
            began = time.monotonic()
            port, process = sock.getsockname()[1], psutil.Process(guarded.pid)
            for is_served in (True, False):
                while is_served != any(
                    x.raddr and x.raddr.port == port for x in process.net_connections()
                ):
                    time.sleep(0.05)
        lasted[name] = time.monotonic() - began

    cases = (
        ("stalled body", head + b"Content-Length: 100\r\n\r\n{", b""),
        ("dripped body", head + b"Content-Length: 100\r\n\r\n{", b" "),
        ("dripped head", head + b"X: ", b"y"),
        ("dripped line", b"GET /", b"y"),
        ("silent", b"", b""),
    )
    page = f"GET / HTTP/1.1\r\nHost: {guarded.host}\r\n\r\n".encode()
    threads = [threading.Thread(target=stall, args=case) for case in cases]
    threads.append(threading.Thread(target=ignore, args=("never reads", page * 250, b"")))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lasted) == len(threads)
    for name, seconds in lasted.items():
        assert REQUEST_SEC - 0.5 <= seconds <= REQUEST_SEC + LATE_SEC, (name, seconds)


@pytest.mark.slow
def test_21_a_thousand_idle_connections_are_32_threads(guarded: Guarded) -> None:
    """Trading goes on at its pace, the next client is told at once, and room comes back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    process = psutil.Process(guarded.pid)
    before = process.num_threads()
    with ExitStack() as open_:
        open_.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1_000):
            open_.enter_context(guarded.connect())
        until = time.monotonic() + 30
        while (made := process.num_threads() - before) < CONNECTIONS_MAX - 2:
            assert time.monotonic() < until
        assert made <= CONNECTIONS_MAX
        assert process.num_fds() < 2 * CONNECTIONS_MAX + 100
        for _ in range(5):
            began = time.monotonic()
            status, headers, _ = guarded.ask("GET", "/healthz")
            assert (status, headers["Retry-After"]) == (503, "1")
            assert time.monotonic() - began < LATE_SEC
        assert guarded.pace(2.0) > PACE_MIN
        until_served(guarded)
    until = time.monotonic() + 30
    while process.num_threads() > before + 2:  # each lets go of its connection by itself
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_40_stalled_handlers_do_not_hold_the_market_up(guarded: Guarded) -> None:
    """All threads wait for bodies that never come; the journal goes on at its pace."""
    stalled = f"POST /login HTTP/1.1\r\nHost: {guarded.host}\r\nContent-Length: 100\r\n\r\n{{"
    with ExitStack() as open_:
        for _ in range(CONNECTIONS_MAX):
            open_.enter_context(guarded.connect()).sendall(stalled.encode())
        time.sleep(0.1)
        refused = guarded.connect()
        assert status_of(read_all(refused)) == 503
        refused.close()
        assert guarded.pace(2.0) > PACE_MIN
    until_served(guarded)


# ---- errors, secrets ----------------------------------------------------------------------------


class Remains(NamedTuple):
    """What a run left: the answer to a request whose handler failed, and all it wrote or said."""

    away: tuple[int, bytes]  # a table of the database was
    failed: tuple[int, bytes]
    texts: dict[str, bytes]


def said(result: "subprocess.CompletedProcess[str]") -> bytes:
    """Return all that a sub-command printed; it must have succeeded."""
    assert result.returncode == 0, result.stderr
    return f"{result.stdout}{result.stderr}".encode()


def resting(made: Guarded) -> str:
    """Return the id of an order that rests; there may be none for a moment."""
    deadline = time.monotonic() + 30
    while True:
        legs = json.loads(made.ask("GET", "/api/status", **BEARER)[2])["slots"][0]["legs"]
        if found := [str(leg["order"]["id"]) for leg in legs if leg["order"]]:
            return found[0]
        assert time.monotonic() < deadline, legs
        time.sleep(0.1)


@pytest.fixture(name="remains", scope="module")
def run_and_read(tmp_path_factory: pytest.TempPathFactory) -> Remains:
    """Run a daemon through commands, wrong logins and a failing handler; read what it left."""
    folder = tmp_path_factory.mktemp("remains")
    webhook = f"http://{HERE}:9/canary-webhook"
    made = Guarded(folder, NOTIFY_WEBHOOK_URL=webhook, NVIDIA_API_KEY="canary-nvidia-0123456789")
    texts: dict[str, bytes] = {}
    try:
        cookie = made.log_in()
        for n in range(6):
            made.ask("POST", "/login", {"token": TOKEN[:-1] + str(n)}, source="127.0.0.5")
            made.ask("GET", "/api/status", Authorization=f"Bearer {TOKEN}x", source="127.0.0.6")
        for body in ({"action": "pause"}, {"action": "resume"}, {"action": "audit_pnl"},
                     {"action": "set_profit_pct", "value": "x"}, {"action": "remove_slot"},
                     {"action": "set_profit_pct", "value": "0.1"}):  # fmt: skip
            made.act(body, Cookie=cookie)
        made.raw(f"GET /?token={TOKEN} HTTP/9.9\r\nCookie: {cookie}\r\n\r\n".encode())
        made.write("ALTER TABLE operator_log RENAME TO away")
        away, _, said_away = made.ask("GET", "/api/commands/x", **BEARER)
        made.write("ALTER TABLE away RENAME TO operator_log")
        assert made.ask("GET", "/api/commands/x", **BEARER)[0] == 404
        assert made.ask("GET", f"/api/commands/x?token={TOKEN}", **BEARER)[0] == 400
        order_id = resting(made)
        made.write("UPDATE orders SET chain = 'broken' || chain")
        status, _, body = made.ask("GET", f"/api/orders/{order_id}", **BEARER)
        made.write("UPDATE orders SET chain = substr(chain, 7)")
        for path in ("/", "/metrics", "/api/status", "/api/equity", "/api/kelly/config"):
            texts[path] = made.ask("GET", path, **BEARER)[2]
        texts["bot.py backup"] = said(run_bot(made.env, "backup", str(folder / "copy.db")))
    finally:
        made.kill()
    for name in ("check", "export"):
        texts[f"bot.py {name}"] = said(run_bot(made.env, name))
    texts |= {path.name: path.read_bytes() for path in folder.iterdir()}
    return Remains(away=(away, said_away), failed=(status, body), texts=texts)


@pytest.mark.slow
def test_29_a_failing_handler_tells_nothing(remains: Remains) -> None:
    """A row nobody can read, a table that is away: constant answers; why is in the log."""
    assert remains.failed == (500, b'{"error":"internal error"}')
    assert remains.away == (503, b'{"error":"the history cannot be read"}')
    log = remains.texts["daemon.log"]
    assert b"request failed path=/api/orders/" in log
    assert b"cannot be read: no such table: operator_log" in log


@pytest.mark.slow
def test_30_no_secret_is_left_anywhere(remains: Remains) -> None:
    """Not in a log, an answer, a database, a journal, a backup, an export."""
    assert {"bot.db", "copy.db", "copy.paper.db", "daemon.log", "/api/status"} <= set(remains.texts)
    assert b"audit_pnl" in remains.texts["bot.db"] + remains.texts.get("bot.db-wal", b"")
    for name, text in remains.texts.items():
        assert not re.search(rb"canary", text, re.IGNORECASE), name


# ---- what a kill leaves -------------------------------------------------------------------------


class Killed(NamedTuple):
    """A daemon that was halted amid its first orders, killed at once and started again."""

    again: Guarded
    cookie: str  # of a session before
    entries: list[float]  # when entries were laid before
    halted_at: float


@pytest.fixture(name="killed", scope="module")
def halt_and_kill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """Halt while orders are being placed, kill, start again."""
    folder = tmp_path_factory.mktemp("killed")
    first = Guarded(folder, SYNTHETIC_SPEED="60")
    cookie = first.log_in()
    until = time.monotonic() + 60
    while not first.rows("SELECT 1 FROM orders") and time.monotonic() < until:
        time.sleep(0.01)
    assert first.act({"action": "halt"}, **BEARER)[0] == 200
    first.kill()
    entries = [x[0] for x in first.rows("SELECT placed_at FROM orders WHERE role = 'entry'")]
    (halt,) = first.rows("SELECT time FROM operator_log")
    again = Guarded(folder)
    yield Killed(again=again, cookie=cookie, entries=entries, halted_at=halt[0])
    again.kill()


@pytest.mark.slow
def test_38_a_session_ends_with_the_process(killed: Killed) -> None:
    """After a restart the old cookie opens nothing."""
    assert killed.again.ask("GET", "/api/status", Cookie=killed.cookie)[0] == 401


@pytest.mark.slow
def test_39_a_halt_stands_after_a_kill(killed: Killed) -> None:
    """No entry was laid after the halt, nor is one after the restart."""
    assert killed.entries
    assert max(killed.entries) <= killed.halted_at
    killed.again.pace(1.0)
    status = json.loads(killed.again.ask("GET", "/api/status", **BEARER)[2])
    assert status["bot"]["mode"] == "halted"
    assert killed.again.ask("GET", "/readyz")[0] == 503
    laid = killed.again.rows("SELECT count(*) FROM orders WHERE role = 'entry'")
    assert laid == [(len(killed.entries),)]


# ---- the document -------------------------------------------------------------------------------


def test_every_row_of_the_document_names_tests_that_exist() -> None:
    """Forty rows, each with at least one test of the tree."""
    text = (ROOT / "docs" / "SECURITY.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .* \| (.+) \|$", text, re.MULTILINE)
    assert [int(n) for n, _ in rows] == list(range(1, 41))
    for n, cell in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", cell)
        assert named, n
        for module, name in named:
            assert f"\ndef {name}(" in (ROOT / "tests" / f"{module}.py").read_text(), name
