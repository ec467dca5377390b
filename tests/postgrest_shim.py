"""PostgreSQL with a small HTTP door in front that keeps PostgREST's rules, for tests.

What it does as PostgREST 12 does: a bulk upsert is one statement over `json_to_recordset` with
`on_conflict` and `columns`; `Prefer: resolution=merge-duplicates` and `return=representation`;
`select` with casts, `order`, `limit`, `offset`, filters `eq`, `gte`, `lt`; at most 1,000 rows of a
read; the role of the key is taken on with SET ROLE, so rights and row-level security are
PostgreSQL's own; errors are worded, numbered and given the statuses as there (PGRST204 unknown
column of a write, PGRST205 unknown table, SQLSTATE for all else). An unknown key is answered as
Supabase's gateway does.

What it does not cover: JWTs (a key is a word that stands for a role), embedded resources, other
filters and methods, RPC, counts, `missing=default`, ranges by header, schemas but public, a stale
schema cache, TLS and HTTP/2. PostgREST never writes the half of a request: the fault `half` stands
for an older row store behind it, or for a trigger that commits; the client must bear it.

Everything is driven by `psql`: one process a request, so nothing is shared between requests.
"""

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SERVICE_KEY = "sb_service_0123456789abcdefghijklmnop"
PUBLIC_KEY = "sb_public_0123456789abcdefghijklmnopq"
ROLES = {SERVICE_KEY: "service_role", PUBLIC_KEY: "anon"}
PAGE_ROWS = 1000
NO_FILTERS = ("select", "limit", "offset", "order")
SIGNS = {"eq": "=", "gte": ">=", "lt": "<"}
ROLE_SQL = """
create role anon nologin; create role service_role nologin bypassrls;
grant usage on schema public to anon, service_role;
alter default privileges in schema public grant all on tables to anon;
"""
_ERROR = re.compile(r"^(?:psql:[^\n]*?: )?ERROR:  (\w{5}): (.*)$", re.MULTILINE)
_NAME = re.compile(r"\w+", re.ASCII)


class SqlError(Exception):
    """PostgreSQL's refusal: its SQLSTATE and its words."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(f"{state}: {text}")
        self.state, self.text = state, text


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda x: x.parts[-3])
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).parent


def why_not() -> str | None:
    """Return why PostgreSQL cannot be run here, or None."""
    if binaries() is None:
        return "no PostgreSQL on this machine: apt-get install postgresql"
    try:
        _as_postgres()
    except KeyError:
        return "root cannot run PostgreSQL, and there is no user postgres"
    return None


def _as_postgres() -> dict[str, Any]:
    """Return what makes a process that of an unprivileged user."""
    if os.getuid():
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Postgres:
    """A server of its own on a free port of this machine; `database` makes a fresh database."""

    def __init__(self) -> None:
        folder = binaries()
        assert folder is not None
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if not os.getuid():
            shutil.chown(self.folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._programs = folder
        self._own: dict[str, Any] = {"cwd": self.folder, **_as_postgres()}
        subprocess.run(
            [folder / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-N",
             "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, **self._own,
        )  # fmt: skip
        self.resume()
        self.sql("postgres", ROLE_SQL.split("grant", maxsplit=1)[0])

    def resume(self) -> None:
        """Start the server; it takes what it had before."""
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self.folder / "data", "-h", "127.0.0.1",
             "-p", str(self.port), "-k", self.folder, "-c", "fsync=off",
             "-c", "shared_buffers=16MB"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._own,
        )  # fmt: skip
        for _ in range(200):
            try:
                self.sql("postgres", "select 1")
                break
            except SqlError:
                time.sleep(0.05)

    def halt(self) -> None:
        """Stop the server at once, as a crash does: what runs is broken off."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(20)

    def sql(self, database: str, text: str) -> str:
        """Run a script in one connection; return what it prints. Raises SqlError."""
        command = [
            "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose",
            "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database, "-f", "-",
        ]  # fmt: skip
        env = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
        done = subprocess.run(
            command, check=False, input=text.encode(), capture_output=True, env=env
        )
        if done.returncode:
            words = done.stderr.decode()
            found = _ERROR.search(words)
            raise SqlError(*(found.groups() if found else ("08006", words.strip())))
        return done.stdout.decode().strip()

    def database(self, schema: str = "") -> str:
        """Make a fresh database with Supabase's roles and `schema`; return its name."""
        name = "d" + secrets.token_hex(6)
        self.sql("postgres", f"create database {name}")
        self.sql(name, "grant" + ROLE_SQL.split("grant", maxsplit=1)[1] + schema)
        return name

    def stop(self) -> None:
        """End the server and take its files away."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone, and of a PostgreSQL that a test has stopped."""


class Shim:
    """The door: `url` is what SUPABASE_URL would be. Faults are switched on by setting them."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self.postgres, self.database = postgres, database
        self.down = False  # connections close without a word
        self.slow_sec = 0.0
        self.broken: set[str] = set()  # tables that answer 500
        self.half: set[str] = set()  # tables that take the first half of a write, and then break
        self.deaf: set[str] = set()  # tables that take a write whose answer is lost
        self.page: set[str] = set()  # tables whose writes a proxy answers with a page, and 200
        self.writes: list[tuple[str, int]] = []  # table and rows of each write that was taken
        self.asked = 0
        handler = type("Handler", (_Handler,), {"shim": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def sql(self, text: str) -> str:
        """Run a script as the database's owner."""
        return self.postgres.sql(self.database, text)

    def close(self) -> None:
        """Close the door."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def columns(self, table: str) -> dict[str, str]:
        """Return the columns of a table and their types; none for an unknown table."""
        if not _NAME.fullmatch(table):
            return {}
        text = self.sql(
            "select attname || ' ' || format_type(atttypid, atttypmod) from pg_attribute where "
            f"attrelid = to_regclass('public.{table}') and attnum > 0 and not attisdropped"
        )
        return dict(line.split(" ", 1) for line in text.splitlines())

    def run(self, role: str, query: str) -> str:
        """Run one statement as a role, in a transaction of its own."""
        return self.sql(f"begin;\nset local role {role};\n{query};\ncommit;")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    shim: Shim
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a read."""
        self._serve(self._read)

    def do_POST(self) -> None:
        """Answer a write."""
        self._serve(self._write)

    def _serve(self, work: Any) -> None:
        shim = self.shim
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        shim.asked += 1
        if shim.slow_sec:
            time.sleep(shim.slow_sec)
        if shim.down:
            self.close_connection = True
            return
        role = ROLES.get(self.headers.get("apikey", ""))
        parts = urlsplit(self.path)
        table = parts.path.removeprefix("/rest/v1/")
        if role is None:
            hint = "Double check your Supabase `anon` or `service_role` API key."
            self._answer(401, {"message": "Invalid API key", "hint": hint})
        elif table in shim.broken:
            self._answer(500, {"message": "the disk is full", "code": "53100"})
        else:
            try:
                columns = shim.columns(table)
                if columns:
                    work(role, table, columns, dict(parse_qsl(parts.query)), body)
                else:
                    self._refuse(404, "PGRST205", f"Could not find the table 'public.{table}' in "
                                 "the schema cache")  # fmt: skip
            except SqlError as error:
                states = {"42501": 403 if role != "anon" else 401, "23505": 409, "57014": 500}
                server = error.state[:2] in ("08", "53", "54", "55", "57", "58", "XX")
                status = states.get(error.state, 503 if server else 400)
                self._refuse(status, error.state, error.text)

    def _read(
        self, role: str, table: str, columns: dict[str, str], asked: dict[str, str], _body: bytes
    ) -> None:
        wanted = [x.split("::") for x in asked.get("select", "*").split(",")]
        limit = min(int(asked.get("limit", PAGE_ROWS)), PAGE_ROWS)
        offset = int(asked.get("offset", 0))
        order = [x.split(".") for x in asked.get("order", "").split(",") if x]
        names = [f't."{x[0]}"' + (f'::{x[1]} as "{x[0]}"' if x[1:] else "") for x in wanted]
        filters = parse_qsl(urlsplit(self.path).query)  # a column may have several
        where = [_condition(*item) for item in filters if item[0] not in NO_FILTERS]
        query = f"select {', '.join(names)} from public.{table} t"
        if where:
            query += " where " + " and ".join(where)
        if order:
            query += " order by " + ", ".join(f't."{x[0]}" {"".join(x[1:])}' for x in order)
        query += f" limit {limit} offset {offset}"
        try:
            text = self.shim.run(role, f"select coalesce(json_agg(r), '[]') from ({query}) r")
        except SqlError as error:
            if error.state == "42703":
                name = next((x[0] for x in wanted if x[0] not in columns), "")
                raise SqlError("42703", f"column {table}.{name} does not exist") from None
            raise
        self._send(200, text.encode())

    def _write(
        self, role: str, table: str, columns: dict[str, str], asked: dict[str, str], body: bytes
    ) -> None:
        shim = self.shim
        rows = json.loads(body)
        given = [x.strip('"') for x in asked.get("columns", "").split(",") if x] or list(rows[0])
        for name in given:
            if name not in columns:
                self._refuse(400, "PGRST204", f"Could not find the '{name}' column of '{table}' "
                             "in the schema cache")  # fmt: skip
                return
        if table in shim.page:
            self._send(200, b"<html>welcome to the guest network</html>", "text/html")
            return
        taken = rows[: max(1, len(rows) // 2)] if table in shim.half else rows
        text = shim.run(role, self._statement(table, columns, given, asked, taken))
        shim.writes.append((table, len(taken)))
        if table in shim.half or table in shim.deaf:
            self.close_connection = True
            return
        is_told = "return=representation" in self.headers.get("Prefer", "")
        self._send(201, text.encode() if is_told else b"")

    def _statement(
        self, table: str, columns: dict[str, str], given: list[str], asked: dict[str, str],
        rows: list[Any],
    ) -> str:  # fmt: skip
        names = ", ".join(f'"{x}"' for x in given)
        kinds = ", ".join(f'"{x}" {columns[x]}' for x in given)
        tag = "q" + secrets.token_hex(4)
        query = (
            f"insert into public.{table} ({names}) select {names} from "
            f"json_to_recordset(${tag}${json.dumps(rows)}${tag}$) as _({kinds})"
        )
        if "resolution=merge-duplicates" in self.headers.get("Prefer", ""):
            key = asked["on_conflict"].split(",")
            changes = ", ".join(f'"{x}" = excluded."{x}"' for x in given)
            query += f" on conflict ({', '.join(key)}) do update set {changes}"
        back = asked.get("select", "*")
        return (
            f"with source as ({query} returning {back}) "
            "select coalesce(json_agg(source), '[]') from source"
        )

    def _refuse(self, status: int, code: str, text: str) -> None:
        self._answer(status, {"code": code, "details": None, "hint": None, "message": text})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _condition(name: str, text: str) -> str:
    sign, _, value = text.partition(".")
    return f't."{name}" {SIGNS[sign]} {_quoted(value)}'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def door(postgres: Postgres, schema: str) -> Iterator[Shim]:
    """Yield a door to a fresh database with `schema`."""
    shim = Shim(postgres, postgres.database(schema))
    try:
        yield shim
    finally:
        shim.close()
