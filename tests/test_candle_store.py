"""Candles on disk: real files, good and bad; nothing that is lost there is lost for good."""

import sqlite3
from pathlib import Path

import pytest

from core.market import CandleRow
from core.ports import StoreError
from store.candles import SqliteCandles, candles_db

T = 1_700_000_100.0
PAIR = "DOGE/USD"


def row(n: int, close: float = 1.5, trades: float | None = 3.0) -> CandleRow:
    """Return the candle of minute `n`."""
    return (T + n * 60, 1.0, 2.0, 0.5, close, 10.0, trades)


def opened(folder: Path, pair: str = PAIR) -> SqliteCandles:
    """Return the store of a folder."""
    return SqliteCandles(folder / "bot.candles.db", pair=pair)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """By another that opens the file, in order, unknown trades as such; the newest told stays."""
    store = opened(tmp_path)
    store.write(60.0, [row(2), row(0), row(1, trades=None)])
    store.write(60.0, [row(2, close=1.75)])
    store.close()
    store = opened(tmp_path)
    expected = [row(0), row(1, trades=None), row(2, close=1.75)]
    assert store.read(60.0, 0.0, T + 180) == expected
    assert store.read(60.0, T + 60, T + 179) == expected[1:2]
    assert store.read(900.0, 0.0, T + 9_999) == []
    assert store.notice is None
    store.close()
    store.close()


def test_a_full_window_is_read_whole(tmp_path: Path) -> None:
    """14 days of minutes, in one go."""
    store = opened(tmp_path)
    rows = [row(n) for n in range(20_160)]
    store.write(60.0, rows)
    assert store.read(60.0, T, T + 20_160 * 60) == rows
    store.prune(60.0, T + 20_000 * 60)
    assert store.read(60.0, 0.0, 1e12) == rows[20_000:]
    store.close()


def test_pairs_and_intervals_do_not_mix(tmp_path: Path) -> None:
    """Candles and labels of another market are another's."""
    one, other = opened(tmp_path), opened(tmp_path, "DOGE/USD, synthetic, seed 1")
    one.write(60.0, [row(0)])
    other.write(60.0, [row(1)])
    one.write(900.0, [row(2)])
    one.append_labels(60.0, [(T, 0.1, 2)])
    other.append_labels(60.0, [(T, 0.1, 0)])
    other.prune(60.0, T + 9_999)
    assert one.read(60.0, 0.0, 1e12) == [row(0)]
    assert one.read(900.0, 0.0, 1e12) == [row(2)]
    assert other.read(60.0, 0.0, 1e12) == []
    assert (one.labels(60.0), other.labels(60.0)) == ([(T, 0.1, 2)], [(T, 0.1, 0)])
    one.close()
    other.close()


def test_labels_are_kept_as_they_were_given(tmp_path: Path) -> None:
    """A label of a candle is not rewritten; none is one too; old ones go after 400 days."""
    store = opened(tmp_path)
    store.append_labels(60.0, [(T + 60, 0.1, None), (T, 0.1, 0)])
    store.append_labels(60.0, [(T, 0.2, 2), (T + 120, 0.1, 2)])
    store.append_labels(60.0, [])
    assert store.labels(60.0) == [(T, 0.1, 0), (T + 60, 0.1, None), (T + 120, 0.1, 2)]
    store.prune_labels(T + 400 * 86_400)
    assert len(store.labels(60.0)) == 3
    store.prune_labels(T + 400 * 86_400 + 61)
    assert store.labels(60.0) == [(T + 120, 0.1, 2)]
    store.close()


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be stored leaves nothing of its batch behind, and the store usable."""
    store = opened(tmp_path)
    bad = (T + 60, "?", 1.0, 1.0, 1.0, 1.0, None)
    with pytest.raises(StoreError, match="cannot be written"):
        store.write(60.0, [row(0), bad])  # type: ignore[list-item]  # what a fault might give
    assert store.read(60.0, 0.0, 1e12) == []
    store.write(60.0, [row(0)])
    assert len(store.read(60.0, 0.0, 1e12)) == 1
    store.close()


def test_the_file_is_private_and_stands_beside_the_states(tmp_path: Path) -> None:
    """Its name follows the database's; so do its companions' permissions."""
    assert candles_db(tmp_path / "bot.db") == tmp_path / "bot.candles.db"
    assert candles_db(Path("x")) == Path("x.candles.db")
    store = SqliteCandles(tmp_path / "sub" / "bot.candles.db", pair=PAIR)
    store.write(60.0, [row(0)])
    files = list((tmp_path / "sub").iterdir())
    assert len(files) >= 2
    assert {x.stat().st_mode & 0o777 for x in files} == {0o600}
    store.close()
    path = tmp_path / "sub" / "bot.candles.db"
    path.chmod(0o644)
    SqliteCandles(path, pair=PAIR).close()
    assert path.stat().st_mode & 0o777 == 0o600


def damaged(path: Path) -> None:
    """Tear a database in its midst."""
    store = SqliteCandles(path, pair=PAIR)
    store.write(60.0, [row(n) for n in range(2_000)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4_096:40_000] = b"\xff" * (40_000 - 4_096)
    path.write_bytes(content)


def of_another_version(path: Path) -> None:
    """Make a file of a program to come."""
    SqliteCandles(path, pair=PAIR).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def of_another_program(path: Path) -> None:
    """Make a database of somebody else."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE candles (x)")
    db.close()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_text("this is no database at all"), "is damaged"),
        (damaged, "is damaged"),
        (of_another_version, "another program or version (99, here 1)"),
        (of_another_program, "another program or version (0, here 1)"),
    ],
)
def test_what_cannot_be_used_is_moved_aside_and_said(
    tmp_path: Path, spoil: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is deleted; a new file is begun, and again the next time."""
    path = tmp_path / "bot.candles.db"
    for number in (1, 2):
        spoil(path)  # type: ignore[operator]  # one of the functions above
        content = path.read_bytes()
        store = SqliteCandles(path, pair=PAIR)
        aside = tmp_path / f"bot.candles.db.aside-{number}"
        assert store.notice is not None
        assert why in store.notice
        assert aside.name in store.notice
        assert store.notice in caplog.text
        assert len(aside.read_bytes()) == len(content)
        store.write(60.0, [row(0)])
        assert store.read(60.0, 0.0, 1e12) == [row(0)]
        store.close()
        path.unlink()


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """As a crash right after the first open may leave it."""
    (tmp_path / "bot.candles.db").touch()
    store = opened(tmp_path)
    store.write(60.0, [row(0)])
    assert store.notice is None
    store.close()


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    """A file in the place of its folder; a folder in its own place is moved aside."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"x\.db"):
        SqliteCandles(tmp_path / "file" / "x.db", pair=PAIR)
    path = tmp_path / "bot.candles.db"
    path.mkdir()
    store = SqliteCandles(path, pair=PAIR)
    store.close()
    assert path.is_file()
    assert (tmp_path / "bot.candles.db.aside-1").is_dir()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """It is an error of the store, as everything that goes wrong with it."""
    store = opened(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="is not open"):
        store.read(60.0, 0.0, 1e12)


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """One that finds the file held gives up soon and may try again."""
    one, other = opened(tmp_path), opened(tmp_path)
    assert one._db is not None
    one._db.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        other.write(60.0, [row(0)])
    one._db.execute("COMMIT")
    other.write(60.0, [row(0)])
    assert one.read(60.0, 0.0, 1e12) == [row(0)]
    one.close()
    other.close()
