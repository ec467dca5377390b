"""The candles' copy: what is noted, sent and read; what hangs or fails holds up nothing."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

import config
from core.market import CandleRow
from core.ports import ConfigError
from engine.candle_history import candles_of, open_candle_replica
from store.backfilled import Backfilled
from store.candle_replica import BATCH_ROWS, CandleReplica
from store.candles import SqliteCandles, candles_db
from store.supabase import RemoteError, Supabase
from store.tables import CANDLES, Table
from tests.postgrest_shim import SERVICE_KEY, Shim
from tests.public_server import serving
from tests.test_daemon import Running, environment

NOWHERE = Path("/nonexistent/.env")
ADDRESS = "https://abc.supabase.co"
KEY = "sb_0123456789abcdefghijklmnopqrstuvwxyz"
PAIR = "DOGE/USD, Kraken's public prices"
T = 1_700_000_100.0


def row(n: int, close: float = 1.5, trades: float | None = 3.0) -> CandleRow:
    """Return the candle of minute `n`."""
    return (T + n * 60, 1.0, 2.0, 0.5, close, 10.0, trades)


class FakeRemote:
    """Keeps candles by their keys; fails, or hangs, on request."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], Mapping[str, Any]] = {}
        self.batches: list[int] = []
        self.error: RemoteError | None = None
        self.page_rows = 1000
        self.pages_until_error: int | None = None
        self.on_upsert: Callable[[], None] | None = None
        self.answers = threading.Event()
        self.answers.set()

    def upsert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows."""
        self.answers.wait(20)
        if self.error is not None:
            raise self.error
        assert table is CANDLES
        for each in rows:
            assert set(each) == set(table.all_columns)
            self.rows[tuple(each[x] for x in table.key)] = each
        self.batches.append(len(rows))
        if self.on_upsert is not None:
            self.on_upsert()

    def pages(
        self, table: Table, *, equal: Mapping[str, str], column: str, since: float, before: float
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield rows, the newest first."""
        self.answers.wait(20)
        found = sorted(
            (dict(x) for (pair, interval, at), x in self.rows.items()
             if pair == equal["pair"] and f"{interval:g}" == equal["interval"]
             and since <= at < before),
            key=lambda x: -x[column],
        )  # fmt: skip
        for n, first in enumerate(range(0, len(found), self.page_rows)):
            if n == self.pages_until_error:
                raise RemoteError("candles cannot be read: no answer", is_line=True)
            yield found[first : first + self.page_rows]


class Desk:
    """A file of candles, and its copy driven by hand, on a clock of the test's."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bot.candles.db"
        self.now = 0.0
        self.remote = FakeRemote()
        self.store = SqliteCandles(self.path, pair=PAIR)
        self.replica = CandleReplica(
            self.remote, self.path, pair=PAIR, rng=Random(1), monotonic=lambda: self.now
        )

    def run(self) -> None:
        """Let time pass, and the thread do what it would."""
        self.now += 1000.0
        self.replica.run_once()

    def there(self) -> dict[float, float]:
        """Return time → close of the copy's minutes."""
        return {key[2]: x["close"] for key, x in self.remote.rows.items() if key[1] == 60.0}

    def here(self) -> dict[float, float]:
        """Return time → close of the file's minutes."""
        return {x[0]: x[4] for x in self.store.read(60.0, 0.0, 1e12)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Yield a desk; nothing is noted yet."""
    made = Desk(tmp_path)
    yield made
    made.replica.stop()
    made.store.close()


# ---- sending ------------------------------------------------------------------------------------


def test_all_that_is_there_is_sent_once_and_then_what_changes(desk: Desk) -> None:
    """Older ones that come later too; what is told again as it was is not sent again."""
    desk.store.write(60.0, [row(n) for n in range(100, 100 + BATCH_ROWS + 1)])
    desk.store.replicate(ADDRESS)
    desk.run()
    assert desk.remote.batches == [BATCH_ROWS, 1]
    desk.store.write(60.0, [row(n) for n in range(100, 200)])
    desk.store.write(60.0, [row(150, close=1.75), row(5, trades=None)])
    desk.store.write(900.0, [row(0)])
    desk.run()
    assert desk.remote.batches == [BATCH_ROWS, 1, 3]
    assert desk.there() == desk.here()
    view = desk.replica.view()
    assert (view.queue, view.sent, view.attempts) == (0, BATCH_ROWS + 4, 0)
    desk.store.replicate(ADDRESS)  # the next start
    desk.run()
    assert len(desk.remote.batches) == 3


def test_another_project_is_given_all_and_none_is_given_nothing(desk: Desk) -> None:
    """Switched off, nothing is noted any more."""
    desk.store.replicate(ADDRESS)
    desk.store.write(60.0, [row(n) for n in range(3)])
    desk.run()
    desk.store.replicate("https://other.supabase.co")
    desk.run()
    assert desk.remote.batches == [3, 3]
    desk.store.replicate(None)
    desk.store.write(60.0, [row(9)])
    desk.run()
    assert desk.remote.batches == [3, 3]


def test_a_candle_that_changes_while_it_is_sent_is_sent_again(desk: Desk) -> None:
    """The acknowledgement is of what was sent."""
    desk.store.replicate(ADDRESS)
    desk.store.write(60.0, [row(0), row(1)])
    desk.remote.on_upsert = lambda: desk.store.write(60.0, [row(0, close=1.9)])
    desk.run()
    assert desk.there()[T] == 1.9
    assert desk.remote.batches == [2, 1]


def test_what_waits_is_bounded_by_what_is_there(desk: Desk) -> None:
    """A project that is away for ever costs no disk: what is pruned waits no more."""
    desk.store.replicate(ADDRESS)
    desk.store.write(60.0, [row(n) for n in range(1000)])
    desk.store.prune(60.0, T + 990 * 60)
    with sqlite3.connect(desk.path) as db:
        assert db.execute("SELECT count(*) FROM unsent").fetchone() == (10,)
    desk.run()
    assert desk.there() == desk.here()


def test_a_failure_is_told_and_tried_again_after_a_pause(desk: Desk) -> None:
    """Nothing is lost, nothing is doubled."""
    desk.store.replicate(ADDRESS)
    desk.store.write(60.0, [row(n) for n in range(3)])
    desk.remote.error = RemoteError("candles cannot be written: the disk is full (53100)")
    desk.run()
    desk.replica.run_once()  # within its pause
    view = desk.replica.view()
    assert (view.queue, view.attempts) == (3, 1)
    assert "the disk is full" in view.last_error
    desk.remote.error = None
    desk.run()
    assert desk.there() == desk.here()
    assert (desk.replica.view().attempts, desk.replica.view().last_error) == (0, "")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The thread goes on."""
    made = CandleReplica(
        FakeRemote(), tmp_path / "none.db", pair=PAIR, rng=Random(1), monotonic=lambda: 0.0
    )
    made.run_once()
    assert "unable to open" in made.view().last_error


# ---- reading ------------------------------------------------------------------------------------


def filled(desk: Desk, count: int) -> None:
    """Give the copy so many minutes, of ours and of somebody else's market."""
    names = ("time", "open", "high", "low", "close", "volume", "trades")
    rows = [
        {"pair": pair, "interval": 60.0, **dict(zip(names, row(n, close), strict=True))}
        for pair, close in ((PAIR, 0.1 + 0.2), ("DOGE/USD, a sandbox", 9.0))
        for n in range(count)
    ]
    desk.remote.upsert(CANDLES, rows)


def test_what_is_asked_for_arrives_exactly(desk: Desk) -> None:
    """Of the pair and the interval, closed by then; once."""
    filled(desk, 50)
    desk.replica.ask(60.0, T + 10 * 60, T + 40 * 60 + 30)
    assert desk.replica.arrived(60.0) == []
    desk.run()
    expected = [row(n, 0.1 + 0.2) for n in range(10, 40)]
    assert sorted(desk.replica.arrived(60.0)) == expected
    assert desk.replica.arrived(60.0) == []
    assert desk.replica.view().read == 30
    desk.run()
    assert desk.replica.arrived(60.0) == []


def test_reading_that_breaks_off_goes_on_where_it_was(desk: Desk) -> None:
    """What has come is there at once; sending does not wait for it."""
    filled(desk, 50)
    desk.store.replicate(ADDRESS)
    desk.store.write(60.0, [row(99)])
    desk.remote.page_rows, desk.remote.pages_until_error = 10, 2
    desk.replica.ask(60.0, T, T + 50 * 60)
    desk.run()
    assert [x[0] for x in desk.replica.arrived(60.0)] == [T + n * 60 for n in range(49, 29, -1)]
    assert "no answer" in desk.replica.view().last_error
    assert T + 99 * 60 in desk.there()
    desk.remote.pages_until_error = None
    desk.run()
    assert [x[0] for x in desk.replica.arrived(60.0)] == [T + n * 60 for n in range(29, -1, -1)]


def test_a_row_that_is_none_is_told(desk: Desk) -> None:
    """Another program may have written there."""
    filled(desk, 3)
    key = next(iter(desk.remote.rows))
    desk.remote.rows[key] = {**desk.remote.rows[key], "close": "many"}
    desk.replica.ask(60.0, T, T + 180)
    desk.run()
    assert "a row is none" in desk.replica.view().last_error


def test_a_project_that_hangs_holds_up_nothing(desk: Desk) -> None:
    """Asking, taking, writing and stopping return at once."""
    desk.remote.answers.clear()
    desk.store.replicate(ADDRESS)
    desk.replica.ask(60.0, T, T + 600)
    desk.replica.start()
    desk.store.write(60.0, [row(0)])
    assert desk.replica.arrived(60.0) == []
    assert desk.store.read(60.0, T, T + 60) == [row(0)]
    desk.remote.answers.set()
    deadline = time.monotonic() + 60
    while desk.there() != desk.here():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- what a backfill has written ----------------------------------------------------------------


def test_a_running_daemon_takes_in_what_a_backfill_writes(desk: Desk) -> None:
    """Stretches that were written since the last look, each once; what it read at the start not."""
    desk.store.write_stretch(T - 900, T, {60.0: [row(-1)]})
    place = Backfilled(desk.store)
    assert place.arrived(60.0) == []
    other = SqliteCandles(desk.path, pair=PAIR)
    other.write_stretch(T, T + 900, {60.0: [row(0), row(14)], 900.0: [row(0)]})
    assert place.arrived(60.0) == [row(-1), row(0), row(14)]  # it was joined to the one before
    assert place.arrived(60.0) == []
    assert place.arrived(900.0) == [row(0)]
    other.write_stretch(T - 9_000, T - 8_100, {60.0: [row(-150)]})
    assert place.arrived(60.0) == [row(-150)]
    other.close()


def test_stretches_are_kept_as_deep_as_was_asked_for(desk: Desk) -> None:
    """Retention deletes what is older, and knows it is not there any more."""
    store = desk.store
    store.write_stretch(T, T + 60_000, {60.0: [row(n) for n in range(1000)]})
    store.keep(900 * 60.0)
    store.prune(60.0, T + 500 * 60)
    assert store.read(60.0, 0.0, 1e12)[0] == row(99)
    assert [x[1:] for x in store.stretches()] == [(T + 99 * 60, T + 60_000)]
    store.prune(60.0, T + 50 * 60)
    assert store.read(60.0, 0.0, 1e12)[0] == row(99)


def test_a_file_of_the_first_version_is_used_as_it_is(tmp_path: Path) -> None:
    """Nothing is moved aside: its evidence is the only copy."""
    path = tmp_path / "bot.candles.db"
    store = SqliteCandles(path, pair=PAIR)
    store.write(60.0, [row(0)])
    store.append_labels(60.0, [(T, 1.5, 2)])
    store.close()
    with sqlite3.connect(path) as db:
        for table in ("facts", "backfilled", "depths", "unsent"):
            db.execute(f"DROP TABLE {table}")
    store = SqliteCandles(path, pair=PAIR)
    assert store.notice is None
    store.replicate(ADDRESS)
    store.write(60.0, [row(1)])
    assert store.read(60.0, 0.0, 1e12) == [row(0), row(1)]
    assert store.labels(60.0) == [(T, 1.5, 2)]
    store.close()


# ---- settings -----------------------------------------------------------------------------------


def test_copying_candles_needs_a_copy_a_live_market_and_models() -> None:
    """The first is refused; without the others there is nothing to copy, which is a warning."""
    with pytest.raises(ConfigError, match="SUPABASE_CANDLES=true: set SUPABASE_URL"):
        config.load({"SUPABASE_CANDLES": "true"}, NOWHERE)
    env = {"SUPABASE_URL": ADDRESS, "SUPABASE_KEY": KEY, "SUPABASE_CANDLES": "true"}
    for more, warned in (
        ({}, "no effect with MARKET_DATA=synthetic"),
        ({"MARKET_DATA": "kraken"}, "no effect without HMM_ENABLED=true"),
    ):
        found = config.load({**env, **more}, NOWHERE)
        assert warned in "\n".join(found.warnings)
        assert open_candle_replica(found) is None
    found = config.load({**env, "MARKET_DATA": "kraken", "HMM_ENABLED": "true"}, NOWHERE)
    assert found.warnings == ()
    assert candles_of(found) == PAIR


# ---- against a real PostgreSQL ------------------------------------------------------------------


@pytest.mark.slow
def test_candles_come_back_from_the_project_to_the_last_bit(tmp_path: Path, shim: Shim) -> None:
    """More than a page, over the official client; odd floats and unknown trades too."""
    rng = Random(3)
    rows: list[CandleRow] = []
    for n in range(2_300):
        price = rng.uniform(1e-9, 1e5)
        trades = None if n % 7 == 0 else float(n)
        rows.append((T + 60 * n, price, price * 1.1, price / 3, price, rng.random() / 7, trades))
    made = Desk(tmp_path)
    remote = Supabase(shim.url, SERVICE_KEY)
    made.replica = CandleReplica(
        remote, made.path, pair=PAIR, rng=Random(1), monotonic=lambda: made.now
    )
    made.store.replicate(shim.url)
    made.store.write(60.0, rows)
    made.store.write(900.0, rows[:1])
    shim.down = True
    made.run()
    assert made.replica.view().attempts == 1
    shim.down = False
    made.run()
    assert made.replica.view().queue == 0
    made.replica.ask(60.0, T, T + 60 * 2_300)
    made.run()
    assert sorted(made.replica.arrived(60.0)) == rows
    assert shim.sql("select count(*) from candles") == "2301"
    made.store.close()


@pytest.mark.slow(seconds=35)
def test_a_fresh_machine_trains_on_the_candles_of_the_project(tmp_path: Path, shim: Shim) -> None:
    """A disk without candles, a market that tells few: the rest comes from there, and is kept."""
    with serving() as server:
        env = environment(
            tmp_path, SUPABASE_URL=shim.url, SUPABASE_KEY=SERVICE_KEY, SUPABASE_CANDLES="true",
            MARKET_DATA="kraken", KRAKEN_API_URL=server.url, HMM_ENABLED="true",
            POLL_INTERVAL_SECONDS="1", REGIME_EVAL_INTERVAL_SEC="30",
        )  # fmt: skip
        now = time.time() // 60 * 60
        shim.sql(
            "insert into candles select 'DOGE/USD, Kraken''s public prices from "
            f"{server.url}', 60, {now:.0f} - 60 * n, p, p * 1.001, p * 0.999, p, 100, 5 from "
            "(select n, 0.1 * (1 + 0.05 * sin(n / 50.0) + 0.01 * random()) as p from "
            "generate_series(2, 5000) n) m"
        )
        daemon = Running(env)
        try:
            daemon.wait("/readyz")
            deadline = time.monotonic() + 90
            while True:
                status = daemon.get("/api/status").json()
                regime = status["hmm_regime"]
                depth = (regime.get("training_depth") or {}).get("quality_tier")
                if depth == "full" and regime["is_trained"]:
                    break
                assert time.monotonic() < deadline, regime
                time.sleep(0.5)
            assert status["hmm_data_pipeline"]["sources"]["replica"] >= 4_900
            assert status["persistence"]["replica"]["candles"]["read"] >= 4_999
            assert daemon.stop() == 0
        finally:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
        with sqlite3.connect(candles_db(tmp_path / "bot.db")) as db:
            kept = db.execute("SELECT count(*) FROM candles WHERE interval = 60").fetchone()[0]
        assert kept >= 4_999
