"""A daemon with a token and further secrets, as its user runs it, and what it leaves behind."""

import sqlite3
import time
from pathlib import Path
from typing import Any

from tests.http_client import Client
from tests.test_daemon import Running, environment

TOKEN = "canary-Zx81-qwerty-ASDFGH-0123456789-token"
KEY = "canary-KRAKEN-key-0123456789-abcdefghijklmnop"
SECRET = "canarySECRETkQH5HW8p1uGOVjbgWA7amGO8lsSUXkQH5HW8p1uGOVjbgWA7amGO8lsSUXkQH5HW8p1uGOVA=="
SECRETS = {"DASHBOARD_TOKEN": TOKEN, "KRAKEN_API_KEY": KEY, "KRAKEN_API_SECRET": SECRET}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SPEED = 600.0  # seconds of the market per second


class Guarded(Client):
    """A running daemon on the synthetic market; everything it logs is in `log`."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self.folder, self.log = folder, folder / "daemon.log"
        base = {"SYNTHETIC_SPEED": f"{SPEED:g}", "LOG_LEVEL": "DEBUG", **SECRETS}
        self.env = environment(folder, **{**base, **changes})
        self.running = Running(self.env, log=self.log)
        super().__init__(int(self.running.url.rsplit(":", 1)[1]))
        until = time.monotonic() + 60
        while self.running.get("/readyz").json()["reason"] not in (None, "halted"):
            assert time.monotonic() < until
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self.running.process.pid

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Read the database beside the daemon."""
        db = sqlite3.connect(f"file:{self.folder / 'bot.db'}?mode=ro", uri=True, timeout=30)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def write(self, statement: str) -> None:
        """Change the database under the daemon."""
        db = sqlite3.connect(self.folder / "bot.db", timeout=30, isolation_level=None)
        db.execute(statement)
        db.close()

    def accepted(self) -> list[str]:
        """Return the ids of the commands that were carried out."""
        query = "SELECT command_id FROM operator_log WHERE is_accepted ORDER BY seq"
        return [str(row[0]) for row in self.rows(query)]

    def pace(self, seconds: float) -> float:
        """Watch the journal; return the market's progress as a share of what it should be."""
        query = "SELECT max(time) FROM journal"
        first, began = self.rows(query)[0][0], time.monotonic()
        time.sleep(seconds)
        made = self.rows(query)[0][0] - first
        return float(made / SPEED / (time.monotonic() - began))

    def log_in(self) -> str:
        """Return the cookie of a new session."""
        status, headers, _ = self.ask("POST", "/login", {"token": TOKEN})
        assert status == 200
        return str(headers["Set-Cookie"]).split(";")[0]

    def kill(self) -> None:
        """End the process at once; it must not have ended by itself."""
        ended = self.running.process.poll()
        self.running.process.kill()
        self.running.process.wait()
        assert ended is None, f"exit {ended}: {self.log.read_text()[-2_000:]}"
