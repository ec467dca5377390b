"""The replica's door: the one place that talks to Supabase. Rows in, rows out, errors by kind.

Nothing here retries, waits or keeps anything: `store/replica.py` does. The package is imported when
a replica is opened: a run without one does not pay for it.
"""

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx

from core.ports import ConfigError
from store.tables import BY_NAME, MIGRATION_FILES, REMOTE_VERSION, RUNS, Table

if TYPE_CHECKING:
    from supabase import Client

PAGE_ROWS = 1000  # more are never given in one answer
TIMEOUT_SEC = 10.0  # of a connection, and between two bytes
CALL_SEC = 60.0  # of a call in all
_OPENED = ("connect_tcp.complete", "start_tls.complete")
SCHEMA_FILE = "docs/supabase_v1_schema.sql"
_NO_TABLE = ("PGRST205", "42P01")
_NO_COLUMN = ("PGRST204", "42703")
_NO_RIGHT = ("42501", "PGRST301", "PGRST302", "PGRST303", "401")


class RemoteError(Exception):
    """A call that was not answered as it should be; `is_line`: no call would be, for now."""

    def __init__(self, text: str, *, code: str = "", is_line: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.is_line = is_line


class Supabase:
    """The tables of one project."""

    def __init__(
        self, url: str, key: str, *, timeout_sec: float = TIMEOUT_SEC, call_sec: float = CALL_SEC
    ) -> None:
        from supabase import ClientOptions, create_client  # noqa: PLC0415 - slow to import

        self._line = _Line(timeout_sec, call_sec)
        options = ClientOptions(
            auto_refresh_token=False,
            persist_session=False,
            httpx_client=self._line.client,
            postgrest_client_retry=False,  # it would sleep; the replica has its own pauses
        )
        self._client: Client = create_client(url, key, options)
        self.is_complete = False  # the tables have been looked at, and nothing is wrong
        self._good: set[str] = set()  # of them, those that need not be looked at again

    def upsert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, each in place of one with the same key. All or none. Raises RemoteError.

        The answer must hold their keys: a page of some proxy that says 200 is no acknowledgement.
        """
        query = self._client.table(table.name).upsert(
            [dict(row) for row in rows], on_conflict=",".join(table.key)
        )
        answered = self._ask(query.select(",".join(table.key)), f"{table.name} cannot be written")
        if len(answered) != len(rows):
            raise RemoteError(f"{table.name}: {len(rows)} rows sent, {len(answered)} acknowledged")

    def read(self, table: Table, *, equal: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield rows in the order of their key, amounts as text. Raises RemoteError.

        `equal` narrows columns to values. A page is asked for at a time.
        """
        first = 0
        while True:
            query = self._client.table(table.name).select(_selected(table))
            for name, value in equal.items():
                query = query.eq(name, value)
            for name in table.key:
                query = query.order(name)
            last = first + PAGE_ROWS - 1
            page = self._ask(query.range(first, last), f"{table.name} cannot be read")
            if not page:  # a short page is not the last where the project gives fewer rows
                return
            yield from page
            first += len(page)

    def newest(self, table: Table, run: str, by: str) -> dict[str, Any] | None:
        """Return the row of a run with the greatest `by`, None without any. Raises RemoteError."""
        query = self._client.table(table.name).select(_selected(table))
        query = query.eq("run", run).order(by, desc=True).limit(1)
        found = self._ask(query, f"{table.name} cannot be read")
        return found[0] if found else None

    def pages(
        self, table: Table, *, equal: Mapping[str, str], column: str, since: float, before: float
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows with a `column` from `since` on and before `before`, the newest first.

        `column` is the last of the key and `equal` has the others: its values are unique. A page
        is asked for at a time. Raises RemoteError.
        """
        while True:
            query = self._client.table(table.name).select(_selected(table))
            for name, value in equal.items():
                query = query.eq(name, value)
            query = query.gte(column, since).lt(column, before).order(column, desc=True)
            page = self._ask(query.limit(PAGE_ROWS), f"{table.name} cannot be read")
            if not page:  # a short page is not the last where the project gives fewer rows
                return
            yield page
            before = min(float(row[column]) for row in page)

    def check(self, run: Mapping[str, Any]) -> None:
        """Make sure that all tables and rights are there, and that `run` is known.

        Raises ConfigError, naming the file to run or the key to use; RemoteError while there is no
        answer.
        """
        problem = self.problem()
        if problem is not None:
            raise ConfigError([problem])
        try:
            self.upsert(RUNS, [run])
        except RemoteError as error:
            if error.code in _NO_RIGHT:
                raise ConfigError([_key_problem(error)]) from None
            raise

    def problem(self) -> str | None:
        """Return what is wrong with the tables there, or with the key; nothing is written.

        Asked until it is complete, once; what was found good before an answer was lost stays so, or
        a line that loses a few would never be done. Raises RemoteError while there is no answer.
        """
        if self.is_complete:
            return None
        problem = self._version_problem() or self._columns_problem()
        self.is_complete = problem is None
        return problem

    def _version_problem(self) -> str | None:
        query = self._client.table("replica_schema").select("version")
        query = query.order("version", desc=True).limit(1)
        try:
            found = self._ask(query, "replica_schema cannot be read")
        except RemoteError as error:
            if error.code in _NO_TABLE:
                return f"SUPABASE_URL: the project has no tables of ours: run {SCHEMA_FILE} there"
            if error.code in _NO_RIGHT:
                return _key_problem(error)
            raise
        if not found:
            return (
                "SUPABASE_KEY: it shows no version of the schema: use the service key, not the "
                f"public one; if it is the service key, run {SCHEMA_FILE} in the project"
            )
        version = int(found[0]["version"])
        missing = range(version + 1, REMOTE_VERSION + 1)
        files = [f"docs/migrations/{MIGRATION_FILES[number]}" for number in missing]
        if not files:
            return None
        return (
            f"SUPABASE_URL: the schema there has version {version}, {REMOTE_VERSION} is needed: "
            f"run {', then '.join(files)}"
        )

    def _columns_problem(self) -> str | None:
        for table in BY_NAME.values():
            if table.name in self._good:
                continue
            query = self._client.table(table.name).select(",".join(table.all_columns))
            try:
                self._ask(query.limit(1), f"{table.name} cannot be read")
            except RemoteError as error:
                if error.code in (*_NO_TABLE, *_NO_COLUMN):
                    return (
                        f"SUPABASE_URL: the schema there is not complete ({error}): run "
                        f"{SCHEMA_FILE}; a table that another program made has to be moved away"
                    )
                if error.code in _NO_RIGHT:
                    return _key_problem(error)
                raise
            self._good.add(table.name)
        return None

    def _ask(self, query: Any, what: str) -> list[dict[str, Any]]:
        """Return the rows of an answer. Raises RemoteError."""
        from supabase import PostgrestAPIError  # noqa: PLC0415 - imported before

        try:
            with self._line.call():
                found = query.execute().data
        except PostgrestAPIError as error:
            code = str(error.code or "")
            text = error.message or error.details or "no reason is given"
            is_key = not code and "api key" in text.lower()  # the gateway's word, without a code
            raise RemoteError(
                f"{what}: {text[:300]}" + (f" ({code})" if code else ""),
                code="401" if is_key else code,
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise RemoteError(f"{what}: no answer: {reason[:300]}", is_line=True) from None
        except ValueError as error:
            raise RemoteError(f"{what}: {str(error)[:300]}") from None
        if not isinstance(found, list):
            raise RemoteError(f"{what}: the answer is none of Supabase's", is_line=True)
        return found


def _selected(table: Table) -> str:
    """Return what is asked for of a table: amounts as text, so that they stay exact."""
    return ",".join(
        f"{name}::text" if kind == "numeric" else name for name, kind in table.all_columns.items()
    )


class _Line:
    """The connections of a client. A call that takes too long in all is broken off.

    The client's own limit is between two bytes: an answer that trickles would never end.
    """

    def __init__(self, timeout_sec: float, call_sec: float) -> None:
        self.client = httpx.Client(timeout=timeout_sec, event_hooks={"request": [self._watch]})
        self._call_sec = call_sec
        self._sockets: list[socket.socket] = []

    @contextmanager
    def call(self) -> Iterator[None]:
        """Break off what is done here once its time is over."""
        timer = threading.Timer(self._call_sec, self._break)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _watch(self, request: httpx.Request) -> None:
        request.extensions["trace"] = self._opened

    def _opened(self, event: str, told: Mapping[str, Any]) -> None:
        if event.endswith(_OPENED):
            opened = told["return_value"].get_extra_info("socket")
            self._sockets = [*(x for x in self._sockets if x.fileno() >= 0), opened]

    def _break(self) -> None:
        for opened in self._sockets:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(opened, socket.SHUT_RDWR)


def _key_problem(error: RemoteError) -> str:
    return f"SUPABASE_KEY: it has not the rights that are needed ({error}): use the service key"
