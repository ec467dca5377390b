"""The chart library and the page as files: packed, kept by browsers, and known byte by byte."""

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_dashboard import TOKEN, World
from web.charts import CHARTS_SHA256, read_charts

SCRIPT = "/lightweight-charts.js"


@pytest.fixture(name="world", scope="module")
def make_world() -> Iterator[World]:
    """Give a dashboard with a token."""
    world = World(token=TOKEN)
    yield world
    world.app.stop()


def test_script_is_served_packed_and_fetched_once(world: World) -> None:
    """Nobody need be logged in; who has it gets 304, and the browser may keep it."""
    status, headers, body = world.ask("GET", SCRIPT)
    assert status == 200
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert headers.get_all("Cache-Control") == ["no-cache"]
    assert headers["ETag"] == f'W/"{CHARTS_SHA256[:32]}"'
    assert b"TradingView Lightweight Charts" in body[:200]
    packed = world.ask("GET", SCRIPT, Accept_Encoding="gzip")
    assert packed[1]["Content-Encoding"] == "gzip"
    assert len(packed[2]) < 70_000
    assert gzip.decompress(packed[2]) == body
    again = world.ask("GET", SCRIPT, If_None_Match=headers["ETag"])
    assert (again[0], again[2]) == (304, b"")
    assert again[1].get_all("Cache-Control") == ["no-cache"]


def test_package_is_not_imported(world: World) -> None:
    """Only its file is used."""
    assert world.ask("HEAD", SCRIPT)[0] == 200
    assert "litecharts" not in sys.modules


def test_page_is_packed_when_taken(world: World) -> None:
    """The page is the same, a third as long."""
    plain, packed = world.ask("GET", "/"), world.ask("GET", "/", Accept_Encoding="gzip")
    assert packed[1]["Content-Encoding"] == "gzip"
    assert len(gzip.decompress(packed[2])) == len(plain[2]) > 2 * len(packed[2])
    nonce = packed[1]["Content-Security-Policy"].split("script-src 'nonce-")[1].split("'")[0]
    assert nonce.encode() in gzip.decompress(packed[2])


def test_other_or_missing_script_is_said_and_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed file never reaches a browser; the log says what to do, the rest goes on."""
    folder = tmp_path / "otherpackage" / "js"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_charts("otherpackage") is None
    read_charts.cache_clear()
    (folder / "lightweight-charts.js").write_text("steal()")
    assert read_charts("otherpackage") is None
    assert read_charts("no_such_package") is None
    assert caplog.text.count("pip install -r requirements.txt") == 3
    monkeypatch.setattr("dashboard.read_charts", lambda: None)
    world = World()
    assert world.ask("GET", SCRIPT)[0] == 404
    assert world.ask("GET", "/")[0] == 200
    world.app.stop()
