"""The candles' copy: one thread that sends what has changed, and reads what is missing here.

Its own thread and line: whatever becomes of it, nothing waits for it, not trading, not training and
not the other tables. What is to be sent is noted in the file of candles itself (`SqliteCandles`
`.replicate`), which other programs may write too; sending twice changes nothing there. What was
read is handed over page by page, the newest first.
"""

import logging
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

from core.market import CandleRow
from core.status import CandleCopyBlock
from store.supabase import RemoteError
from store.tables import CANDLES, Table

log = logging.getLogger("replica")

BATCH_ROWS = 500
POLL_SEC = 5.0
PAUSE_SEC, PAUSE_SEC_MAX = 5.0, 300.0
STOP_SEC = 2.0
_COLUMNS = ("time", "open", "high", "low", "close", "volume", "trades")


class CandleRemote(Protocol):
    """What the copy is kept in."""

    def upsert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows by their keys, all or none. Raises RemoteError."""
        ...

    def pages(
        self, table: Table, *, equal: Mapping[str, str], column: str, since: float, before: float
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield rows a page at a time, the newest first. Raises RemoteError."""
        ...


class _Line:
    """Tells when something that failed may be tried again: after ever longer pauses."""

    def __init__(self, what: str, rng: Random, monotonic: Callable[[], float]) -> None:
        self._what, self._rng, self._monotonic = what, rng, monotonic
        self._resume_at = float("-inf")
        self.attempts, self.error = 0, ""

    def is_open(self) -> bool:
        """Tell whether it may be tried now."""
        return self._monotonic() >= self._resume_at

    def fail(self, error: str) -> None:
        """Note a failure."""
        self.attempts += 1
        pause = min(PAUSE_SEC * 2.0 ** min(self.attempts - 1, 20), PAUSE_SEC_MAX)
        self._resume_at = self._monotonic() + pause * (0.5 + self._rng.random())
        if error != self.error:
            log.warning("%s wait: %s", self._what, error)
        self.error = error

    def settle(self) -> None:
        """Note a success."""
        if self.attempts:
            log.info("%s go on", self._what)
        self.attempts, self.error = 0, ""


class Unsent:
    """What is noted in a file of candles and not sent yet."""

    def __init__(self, path: Path) -> None:
        uri = f"{path.absolute().as_uri()}?mode=rw"
        self._db = sqlite3.connect(
            uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False
        )

    def count(self) -> int:
        """Return how many candles wait."""
        count: int = self._db.execute("SELECT count(*) FROM unsent").fetchone()[0]
        return count

    def batch(self, limit: int) -> tuple[list[tuple[int]], list[dict[str, Any]]]:
        """Return the numbers of what waits for longest, and the candles as they are now."""
        query = (
            "SELECT id, pair, interval, time, open, high, low, close, volume, trades "
            "FROM unsent LEFT JOIN candles USING (pair, interval, time) ORDER BY id LIMIT ?"
        )
        found = self._db.execute(query, (limit,)).fetchall()
        names = ("pair", "interval", *_COLUMNS)
        rows = [dict(zip(names, x[1:], strict=True)) for x in found if x[4] is not None]
        return [(x[0],) for x in found], rows

    def forget(self, numbers: list[tuple[int]]) -> None:
        """Note that these were sent; what has changed since has another number."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("DELETE FROM unsent WHERE id = ?", numbers)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Release the file."""
        self._db.close()


class CandleReplica:
    """A place where candles are kept (`market/pipeline.py`), of the market `pair`; and its thread.

    `path` is the file of candles; `monotonic` a clock in seconds.
    """

    name = "replica"
    is_stored = False

    def __init__(
        self,
        remote: CandleRemote,
        path: Path,
        *,
        pair: str,
        rng: Random,
        monotonic: Callable[[], float],
    ) -> None:
        self._remote, self._path, self._pair = remote, path, pair
        self._sending = _Line("candles for the replica", rng, monotonic)
        self._reading = _Line("candles of the replica", rng, monotonic)
        self._unsent: Unsent | None = None
        self._lock = threading.Lock()
        self._wanted: dict[float, tuple[float, float]] = {}  # guarded by _lock, as is the next
        self._arrived: dict[float, list[CandleRow]] = {}
        self._queue = self._sent = self._read = 0
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._work, name="candle-replica", daemon=True)

    # ---- what other threads call ----------------------------------------------------------------

    def start(self) -> None:
        """Begin to send and to read."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was not sent is sent by the next run. Safe to call twice."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)  # a call that hangs is cut off with the process

    def ask(self, interval: float, since: float, until: float) -> None:
        """Begin to look for candles that opened from `since` on and closed by `until`."""
        before = math.floor(until / interval) * interval  # what opens then closes too late
        with self._lock:
            self._wanted[interval] = (since, before)
        self._woken.set()

    def arrived(self, interval: float) -> list[CandleRow]:
        """Return, once, what has been found of an interval."""
        with self._lock:
            return self._arrived.pop(interval, [])

    def view(self) -> CandleCopyBlock:
        """Return how the copy fares."""
        worst = max(self._sending, self._reading, key=lambda x: x.attempts)
        return CandleCopyBlock(
            queue=self._queue,
            sent=self._sent,
            read=self._read,
            attempts=worst.attempts,
            last_error=worst.error,
        )

    # ---- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self.run_once()
            except Exception as error:  # the worker's top: trading must not know of it
                log.exception("copying candles failed")
                self._sending.fail(f"{type(error).__name__}: {error}")
            self._woken.wait(POLL_SEC)
        if self._unsent is not None:
            self._unsent.close()

    def run_once(self) -> None:
        """Read what is wanted and send what waits, as far as either may be tried."""
        if self._reading.is_open():
            try:
                self._read_wanted()
            except RemoteError as error:
                self._reading.fail(str(error))
        if self._sending.is_open():
            try:
                self._send()
            except (RemoteError, sqlite3.Error) as error:
                self._sending.fail(str(error))

    def _read_wanted(self) -> None:
        with self._lock:
            wanted = dict(self._wanted)
        for interval, (since, before) in wanted.items():
            equal = {"pair": self._pair, "interval": f"{interval:g}"}
            pages = self._remote.pages(
                CANDLES, equal=equal, column="time", since=since, before=before
            )
            for page in pages:
                rows = [_row(x) for x in page]
                with self._lock:
                    self._arrived.setdefault(interval, []).extend(rows)
                    self._wanted[interval] = (since, min(x[0] for x in rows))  # go on from here
                self._read += len(rows)
                if self._stopping.is_set():
                    return
            with self._lock:
                self._wanted.pop(interval, None)
            self._reading.settle()

    def _send(self) -> None:
        if self._unsent is None:
            self._unsent = Unsent(self._path)
        self._queue = self._unsent.count()
        while not self._stopping.is_set():
            numbers, rows = self._unsent.batch(BATCH_ROWS)
            if not numbers:
                break
            if rows:
                self._remote.upsert(CANDLES, rows)
            self._unsent.forget(numbers)
            self._sent += len(rows)
            self._queue = max(0, self._queue - len(numbers))
            self._sending.settle()
        self._sending.settle()


def _row(told: Mapping[str, Any]) -> CandleRow:
    """Return a row as numbers. Raises RemoteError for one that holds none."""
    try:
        time, first, high, low, close, volume = (float(told[x]) for x in _COLUMNS[:-1])
        trades = None if told["trades"] is None else float(told["trades"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RemoteError(f"candles: a row is none: {type(error).__name__}") from None
    return time, first, high, low, close, volume, trades
