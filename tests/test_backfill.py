"""Candles from prints: what is read, how minutes are made, kills, errors, what an operator sees.

The whole way is run through a real server that pages as Kraken does, and through the client.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bot
from core.domain import Side
from core.market import CandleRow, Trade
from core.ports import Unavailable
from exchange.sandbox_tape import PRINTS_MAX
from market.backfill import (
    ATTEMPTS_MAX,
    PAGE_ROWS,
    Backfill,
    Done,
    MinuteCandles,
    known_since,
    missing,
    quarter,
)
from store.candles import SqliteCandles, candles_db
from tests.helpers import market_file
from tests.public_server import PublicServer, serving
from tests.test_daemon import Running

D = Decimal
ROOT = Path(__file__).parent.parent
PAIR = "DOGE/USD, Kraken's public prices"
T = 1_700_000_100.0 // 900 * 900
NS = 10**9
DAY = 86_400.0


def trade(at: float, price: str = "0.1", volume: str = "10") -> Trade:
    """Return a print so many seconds after the begin."""
    return Trade(time=T + at, price=D(price), volume=D(volume), side=Side.BUY)


class Prints:
    """Pages as Kraken's: what is newer than the cursor, which is the last print's time."""

    def __init__(self, trades: list[Trade], page_rows: int = PAGE_ROWS) -> None:
        self.all = trades
        self.page_rows = page_rows
        self.asked: list[int] = []
        self.failures: list[Unavailable] = []
        self.killed_after: int | None = None

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Answer, fail, or be killed."""
        self.asked.append(since_ns)
        if self.killed_after is not None and len(self.asked) > self.killed_after:
            raise KeyboardInterrupt
        if self.failures:
            raise self.failures.pop(0)
        found = [x for x in self.all if _ns(x) > since_ns][: self.page_rows]
        return tuple(found), _ns(found[-1]) if found else since_ns


def _ns(trade: Trade) -> int:
    return int(D(repr(trade.time)) * NS)


class Run:
    """A job over `hours` hours from the begin, in memory or on disk; it waits for nothing."""

    def __init__(self, prints: Prints, store: SqliteCandles, hours: float = 1.0) -> None:
        self.waits: list[float] = []
        self.warnings: list[str] = []
        self.told: list[Done] = []
        self.job = Backfill(
            prints,
            store,
            wait=self.waits.append,
            told=self.told.append,
            warned=lambda why, _: self.warnings.append(why),
        )
        self.job.run(missing(store, T, T + hours * 3600))


def memory() -> SqliteCandles:
    """Return an empty store."""
    return SqliteCandles(":memory:", pair=PAIR)


def stored(store: SqliteCandles, interval: float = 60.0) -> list[CandleRow]:
    """Return all its candles."""
    return store.read(interval, 0.0, 1e12)


# ---- minutes ------------------------------------------------------------------------------------


def test_a_minute_is_made_of_its_prints_in_their_order() -> None:
    """First, highest, lowest, last; volumes add up exactly; a minute without prints is flat."""
    made = MinuteCandles()
    for at, price, volume in (
        (0, "0.3", "0.1"), (1, "0.5", "0.2"), (1, "0.2", "0.3"), (59.9, "0.4", "0.00000001"),
        (60, "0.7", "1"), (200, "0.6", "2"),
    ):  # fmt: skip
        made.add(trade(at, price, volume))
    assert made.take(T + 61) == [(T, 0.3, 0.5, 0.2, 0.4, 0.60000001, 4.0)]
    assert made.take(T + 240) == [
        (T + 60, 0.7, 0.7, 0.7, 0.7, 1.0, 1.0), (T + 120, 0.7, 0.7, 0.7, 0.7, 0.0, 0.0),
        (T + 180, 0.6, 0.6, 0.6, 0.6, 2.0, 1.0),
    ]  # fmt: skip
    assert made.take(T + 900) == []


@given(
    trades=st.lists(
        st.tuples(st.integers(0, 3_599), st.integers(1, 10**6), st.integers(0, 10**12)),
        min_size=1, max_size=60,
    ),
    page_rows=st.integers(2, 9),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_pages_of_any_size_make_the_same_candles(
    trades: list[tuple[int, int, int]], page_rows: int
) -> None:
    """Prints of one instant may be cut in two by a page's end."""
    prints = [
        trade(at, str(D(price) / 10**6), str(D(volume + 1) / 10**8))
        for at, price, volume in sorted(trades, key=lambda x: x[0])
    ]
    most = max(sum(1 for y in prints if y.time == x.time) for x in prints)
    paged, whole = memory(), memory()
    Run(Prints(prints, max(page_rows, most + 1)), paged)
    Run(Prints(prints), whole)
    assert stored(paged) == stored(whole)
    assert stored(paged, 900.0) == stored(whole, 900.0)
    assert sum(x[6] or 0 for x in stored(whole)) == len(prints)


def with_silences(table: pd.DataFrame, interval: int) -> pd.DataFrame:
    """Return candles with those of silences of up to 15 min, flat at the close before."""
    every = pd.RangeIndex(int(table.index[0]), int(table.index[-1]) + interval, interval)
    whole = table.reindex(every.astype(float))
    is_silent = whole["last"].isna()
    length = is_silent.groupby((~is_silent).cumsum()).transform("sum")
    whole[["volume", "count"]] = whole[["volume", "count"]].fillna(0.0)
    whole["last"] = whole["last"].ffill()
    for name in ("first", "max", "min"):
        whole[name] = whole[name].fillna(whole["last"])
    return whole[~is_silent | (length * interval <= 900)]


@pytest.mark.market
def test_real_prints_make_the_candles_that_pandas_makes() -> None:
    """A thin day of an exchange, minutes and quarters of an hour: same times, same numbers."""
    table = pd.read_csv(market_file("trades/gemini_dogeusd_trades_20251010.csv.gz"), dtype=str)
    table = table[table.time.astype(float) < 1_760_054_400 + DAY]
    prints = [
        Trade(time=float(x.time), price=D(x.price), volume=D(x.volume), side=Side(x.side))
        for x in table.itertuples()
    ]
    store = memory()
    begin = 1_760_054_400.0
    job = Backfill(
        Prints(prints), store, wait=lambda _: None, told=lambda _: None, warned=lambda *_: None
    )
    job.run(missing(store, begin, begin + DAY))
    assert job.done.trades == len(prints)
    floats = table[["price", "volume"]].astype(float)
    for interval in (60, 900):
        opens = table.time.astype(float) // interval * interval
        grouped = floats.groupby(opens)
        expected = grouped.price.agg(["first", "max", "min", "last"])
        expected["volume"] = grouped.volume.sum()
        expected["count"] = grouped.size()
        expected = with_silences(expected, interval)
        found = pd.DataFrame(stored(store, float(interval))).set_index(0)
        assert found.index.tolist() == expected.index.tolist()
        assert (found.iloc[:, :4].to_numpy() == expected.iloc[:, :4].to_numpy()).all()
        assert found[5].to_numpy() == pytest.approx(expected.volume.to_numpy(), rel=1e-12)
        assert (found[6].to_numpy() == expected["count"].to_numpy()).all()


# ---- what is read -------------------------------------------------------------------------------


def test_days_are_read_newest_first_and_only_what_is_missing() -> None:
    """What a run of the daemon or of a backfill has is not read again."""
    store = memory()
    midnight = (T // DAY + 1) * DAY
    since, until = midnight - 2 * DAY, midnight + 3 * 3600
    assert missing(store, since, until) == [
        (midnight, until), (midnight - DAY, midnight), (since, midnight - DAY),
    ]  # fmt: skip
    row = (1.0, 1.0, 1.0, 1.0, 1.0, None)
    store.write(60.0, [(midnight + n * 60, *row) for n in range(120) if n != 100])
    store.write(900.0, [(midnight + n * 900, *row) for n in range(8) if n])
    store.write_stretch(since, midnight - DAY, {})
    assert missing(store, since, until) == [
        (midnight + 7200, until), (midnight + 90 * 60, midnight + 105 * 60),
        (midnight, midnight + 900), (midnight - DAY, midnight),
    ]  # fmt: skip
    store.write_stretch(since - 450, until, {})
    assert missing(store, since, until) == []


def test_a_job_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Whole quarters only; the next run reads on, and what comes out is the same."""
    prints = [trade(7 * n, str(D("0.1") + D(n % 50) / 1000)) for n in range(500)]
    whole = memory()
    Run(Prints(prints, 40), whole)
    path = tmp_path / "bot.candles.db"
    asked = 0
    for killed_after in (5, 4, None):
        store = SqliteCandles(path, pair=PAIR)
        own = Prints(prints, 40)
        own.killed_after = killed_after
        if killed_after is not None:
            with pytest.raises(KeyboardInterrupt):
                Run(own, store)
            newest = stored(store)[-1][0] + 60
            assert newest == quarter(newest)  # no minute of a quarter that is half read
            assert stored(store) == [x for x in stored(whole) if x[0] < newest]
        else:
            Run(own, store)
        asked += len(own.asked)
        store.close()
    store = SqliteCandles(path, pair=PAIR)
    assert stored(store) == stored(whole)
    assert stored(store, 900.0) == stored(whole, 900.0)
    assert missing(store, T, T + 3600) == []
    assert asked < 2 * 15  # of 15 pages
    store.close()


def test_short_silences_are_flat_and_long_ones_are_gaps() -> None:
    """Up to 15 missing minutes, as gaps are filled; known either way, and not read again."""
    store = memory()
    prints = [trade(-30, "0.2"), trade(130), trade(130 + 16 * 60, "0.3"), trade(130 + 33 * 60)]
    Run(Prints(prints), store)
    found = {round(x[0] - T) // 60: (x[4], x[6]) for x in stored(store)}
    silent = {n: (0.1, 0.0) for n in range(3, 18)}
    expected = {0: (0.2, 0.0), 1: (0.2, 0.0), 2: (0.1, 1.0), **silent, 18: (0.3, 1.0)}
    assert found == expected | {35: (0.1, 1.0)}
    assert [x[0] - T for x in stored(store, 900.0)] == [0.0, 900.0, 1_800.0]
    assert missing(store, T, T + 3600) == []


def test_a_silence_over_midnight_is_as_any_other() -> None:
    """Days are read apart, and fit together."""
    midnight = (T // DAY + 1) * DAY - T
    prints = [trade(midnight - 400), trade(midnight + 400), trade(midnight + 900)]
    store = memory()
    Run(Prints(prints), store, hours=(midnight + 900) / 3600)
    times = [x[0] - T for x in stored(store)]
    assert times == [midnight - 420 + 60 * n for n in range(22)]


def test_prints_are_asked_for_within_the_public_rate() -> None:
    """A pause between any two pages."""
    prints = Prints([trade(n) for n in range(3_600)])
    run = Run(prints, memory())
    assert run.waits == [1.5] * (len(prints.asked) - 1)
    assert len(prints.asked) == 5
    assert run.told[-1] == Done(sec=3600.0, pages=5, trades=3_600, minutes=60, bars=4)


# ---- what goes wrong ----------------------------------------------------------------------------


def test_what_fails_is_asked_for_again_after_a_pause() -> None:
    """Longer each time, and as long as the exchange wants it."""
    prints, store = Prints([trade(1), trade(4_000)]), memory()
    prints.failures = [Unavailable("down"), Unavailable("too often", 60.0), Unavailable("down")]
    run = Run(prints, store)
    assert run.waits == [5.0, 1.5, 60.0, 1.5, 20.0, 1.5]
    assert run.warnings == ["down", "too often", "down"]
    assert len(stored(store)) == 1


def test_an_exchange_that_stays_away_ends_the_job() -> None:
    """What was read is kept."""
    prints, store = Prints([trade(7 * n) for n in range(500)], 200), memory()
    prints.failures = []
    run = Prints(prints.all, 200)
    original = run.trades

    def failing(since_ns: int) -> tuple[tuple[Trade, ...], int]:
        if len(run.asked) >= 1:
            raise Unavailable("down")
        return original(since_ns)

    run.trades = failing  # type: ignore[method-assign]  # the double's own
    with pytest.raises(Unavailable, match="down"):
        Run(run, store)
    assert [x[0] for x in stored(store, 900.0)] == [T]


class Odd:
    """Answers that cannot be: each is taken for no answer at all."""

    def __init__(self, *pages: tuple[tuple[Trade, ...], int]) -> None:
        self.pages = list(pages)
        self.asked = 0

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Give the pages one after another, the last again and again."""
        self.asked += 1
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]


@pytest.mark.parametrize("kind", ["order", "cursor", "fewer"])
def test_what_cannot_be_is_never_written(kind: str) -> None:
    """Prints out of order, a cursor that stands, and prints that are gone."""
    store = memory()
    full = tuple(trade(n / 1000) for n in range(PAGE_ROWS))
    pages: dict[str, list[tuple[tuple[Trade, ...], int]]] = {
        "order": [((trade(50), trade(40)), int(T + 50) * NS)],
        "cursor": [(full, int(T) * NS - 2)],
        # The newest day shows that there are prints; an older one cannot have none after it.
        "fewer": [((trade(2 * DAY),), int(T + 2 * DAY) * NS), ((), int(T) * NS)],
    }
    odd = Odd(*pages[kind])
    since = T // DAY * DAY
    stretches = [(since + DAY, since + DAY + 3600), (since, since + 3600)]
    job = Backfill(odd, store, wait=lambda _: None, told=lambda _: None, warned=lambda *_: None)
    with pytest.raises(Unavailable, match=r"^Trades: "):
        job.run(stretches if kind == "fewer" else stretches[:1])
    assert stored(store) == []
    assert odd.asked >= ATTEMPTS_MAX


# ---- the command, through a real server ---------------------------------------------------------


@pytest.fixture
def server() -> Iterator[PublicServer]:
    """Yield a server whose tape goes back some hours: a print each 20 seconds."""
    with serving() as made:
        yield made


def history(server: PublicServer, hours: float) -> float:
    """Print so many hours of the past, without moving the book; return when they begin."""
    now = time.time()
    begin = quarter(now - hours * 3600)
    view = server._view
    view._tape._prints.clear()
    for n in range(int((now - begin) / 20)):
        price = D("0.1") + D(n % 40) / 10_000
        each = Trade(time=begin + 20 * n, price=price, volume=D(10), side=Side.BUY)
        view.feed(each, None, None)
    assert len(view._tape._prints) < PRINTS_MAX
    return begin


def environment(folder: Path, server: PublicServer, **more: str) -> dict[str, str]:
    """Return the environment of a command."""
    kept = {x: os.environ[x] for x in ("PATH", "HOME", "LANG") if x in os.environ}
    return kept | {
        "MARKET_DATA": "kraken", "KRAKEN_API_URL": server.url, "STATE_DB": str(folder / "bot.db"),
    } | more  # fmt: skip


def command(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the sub-command in a process of its own."""
    return subprocess.run(
        [sys.executable, "bot.py", "backfill", *arguments], cwd=ROOT, env=env, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def here(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], *arguments: str, page_sec: float = 0.0
) -> int:
    """Run the sub-command in this process, without the pauses between pages."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("engine.backfill.sleep", lambda _sec: time.sleep(page_sec))
    monkeypatch.setattr("bot.DOTENV", Path("/nonexistent/.env"))
    return bot.main(["backfill", *arguments])


def minutes(folder: Path, server: PublicServer) -> list[CandleRow]:
    """Return the minutes on disk."""
    pair = f"{PAIR} from {server.url}"
    store = SqliteCandles(candles_db(folder / "bot.db"), pair=pair)
    try:
        return stored(store)
    finally:
        store.close()


def test_the_command_fills_the_file_of_candles(
    tmp_path: Path,
    server: PublicServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each whole quarter of an hour; the second run has nothing left to read."""
    begin = history(server, 5)
    env = environment(tmp_path, server)
    assert here(monkeypatch, env, "--days", "0.25") == 0
    out, err = capsys.readouterr()
    found = minutes(tmp_path, server)
    assert found[0][0] == begin
    assert [x[0] for x in found] == [begin + 60 * n for n in range(len(found))]
    assert found[-1][0] + 60 == quarter(found[-1][0] + 60)
    assert found[0] == (begin, 0.1, 0.1002, 0.1, 0.1002, 30.0, 3.0)
    assert f"there are {len(found):,} of {len(found):,} minutes ({len(found):,} with" in out
    assert "silence" not in out
    assert "HMM_ENABLED=true" in out
    assert "are to be read" in err
    assert "on only" in err  # it is asked for more than the tape has
    server.asked.clear()
    assert here(monkeypatch, env, "--days", "0.25") == 0
    assert server.asked.count("Trades") <= 2  # a quarter may have ended meanwhile


def test_a_source_that_begins_in_the_midst_of_a_minute_is_read_from_the_next_quarter_on() -> None:
    """Half of a minute is no minute; one that has no prints tells nothing."""
    assert known_since(Prints([trade(1), trade(2)]), T) == T + 900
    assert known_since(Prints([trade(2_000), trade(9_000)]), T) == T + 2_700
    assert known_since(Prints([trade(0)]), T) == T
    assert known_since(Prints([trade(-800), trade(5_000)]), T) == T
    assert known_since(Prints([trade(-901)]), T) == float("inf")
    assert known_since(Prints([]), T) == float("inf")


def test_a_source_without_a_whole_quarter_says_so(
    tmp_path: Path,
    server: PublicServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sandbox that has just begun: nothing is written, nothing is noted as complete."""
    assert here(monkeypatch, environment(tmp_path, server)) == 3
    out, err = capsys.readouterr()
    assert "not yet; try again later" in err
    assert out == ""
    assert minutes(tmp_path, server) == []


def test_the_command_says_what_is_wrong(
    tmp_path: Path,
    server: PublicServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A simulated market, an unknown pair, nobody there, bad days: no traceback, and what to do."""
    env = environment(tmp_path, server)
    assert here(monkeypatch, {**env, "MARKET_DATA": "synthetic"}) == 2
    assert "MARKET_DATA=kraken" in capsys.readouterr().err
    server.error = "EQuery:Unknown asset pair"
    assert here(monkeypatch, env) == 3
    assert "Unknown asset pair" in capsys.readouterr().err
    server.error = None
    server.down()
    assert here(monkeypatch, env) == 3
    err = capsys.readouterr().err
    assert "The exchange does not answer" in err
    assert "Traceback" not in err
    for days in ("0", "-1", "nan", "inf", "1000000000", "many", ""):
        with pytest.raises(SystemExit) as caught:
            here(monkeypatch, env, "--days", days)
        assert caught.value.code == 2
        assert "must be from 0.1 to 400" in capsys.readouterr().err


def test_a_pair_that_kraken_does_not_know_is_told(
    tmp_path: Path,
    server: PublicServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only AssetPairs says so."""
    answer = server.answer

    def unknown(path: str) -> bytes:
        if "AssetPairs" in path:
            return b'{"error": ["EQuery:Unknown asset pair"]}'
        return answer(path)

    monkeypatch.setattr(server, "answer", unknown)
    assert here(monkeypatch, environment(tmp_path, server)) == 3
    assert "it does not know the pair DOGE/USD" in capsys.readouterr().err


def test_one_backfill_at_a_time(
    tmp_path: Path,
    server: PublicServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two would be too many questions."""
    from store.lock import StoreLock  # noqa: PLC0415

    lock = StoreLock(candles_db(tmp_path / "bot.db"), "process 7")
    assert here(monkeypatch, environment(tmp_path, server)) == 5
    assert "is running: process 7" in capsys.readouterr().err
    lock.release()


@pytest.mark.slow
def test_a_backfill_that_is_killed_or_interrupted_goes_on(
    tmp_path: Path, server: PublicServer
) -> None:
    """By SIGKILL without a word, by Ctrl-C with one; the third run completes it."""
    history(server, 40)
    env = environment(tmp_path, server)
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "bot.py", "backfill", "--days", "1.5"], cwd=ROOT, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        server.asked.clear()
        deadline = time.monotonic() + 60
        while server.asked.count("Trades") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "the same command goes on from there" in err
            assert "Traceback" not in err
    before = len(minutes(tmp_path, server))
    assert before > 0
    done = command(env, "--days", "1.5")
    assert done.returncode == 0
    found = minutes(tmp_path, server)
    assert len(found) > before
    assert {b[0] - a[0] for a, b in pairwise(found)} == {60.0}
    with sqlite3.connect(candles_db(tmp_path / "bot.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow(seconds=40)
def test_a_running_daemon_trains_deeper_on_what_a_backfill_writes(
    tmp_path: Path, server: PublicServer
) -> None:
    """Without a restart: its tier improves, and the status says where candles came from."""
    history(server, 40)
    env = environment(
        tmp_path, server, PORT="0", HMM_ENABLED="true", HMM_TRAINING_CANDLES="2000",
        REGIME_EVAL_INTERVAL_SEC="30",
    )  # fmt: skip
    daemon = Running(env)

    def depth() -> str:
        regime = daemon.get("/api/status").json()["hmm_regime"]
        is_there = regime["is_trained"] and regime["model"] and regime["training_depth"]
        return regime["training_depth"]["quality_tier"] if is_there else ""

    def wait_for(tier: str) -> None:
        deadline = time.monotonic() + 90
        while depth() != tier:
            assert time.monotonic() < deadline, depth()
            time.sleep(0.5)

    try:
        daemon.wait("/readyz")
        wait_for("baseline")
        assert command(env, "--days", "1.6").returncode == 0
        wait_for("full")
        sources = daemon.get("/api/status").json()["hmm_data_pipeline"]["sources"]
        assert sources["backfill"] > 1_500
        assert daemon.stop() == 0
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
