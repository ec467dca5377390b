"""The history routes, asked over real sockets of a real run's files."""

import csv
import http.client
import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from core import events as e
from core.commands import CancelStaleRecoveries, Command, Pause, RemoveSlot, SoftClose
from core.domain import OrderState, OrderStatus, TradeId
from core.state import BotState, Entering, Exiting, Leg
from dashboard import Dashboard
from engine.wiring import with_candles
from store.history import PAGE_ROWS, SqliteHistory
from store.sqlite import SqliteStore
from tests.helpers import write_candles
from tests.test_models import Run, running
from web.history_views import HISTORY_VIEWS, TABLES

BARS = 600
ROUTES = [*HISTORY_VIEWS, *TABLES, "/api/orders/x", "/api/commands/x"]


class Asked:
    """A dashboard over a history."""

    def __init__(self, history: SqliteHistory | None) -> None:
        self.app = Dashboard(
            "127.0.0.1", 0, token=None, read_only=False, allowed_hosts=(), published=lambda: None,
            readiness=lambda: "the market to open", liveness=lambda: True,
            submit=lambda *_: None, monotonic=lambda: 0.0, history=history,
        )  # fmt: skip
        self.app.start()

    def ask(self, path: str, version: int = 11) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Ask one route."""
        connection = http.client.HTTPConnection("127.0.0.1", self.app.port, timeout=30)
        connection._http_vsn = version  # type: ignore[attr-defined]
        connection._http_vsn_str = f"HTTP/{version / 10}"  # type: ignore[attr-defined]
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{self.app.port}"})
        answer = connection.getresponse()
        try:
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return what a route answers."""
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def table(self, path: str) -> list[dict[str, str]]:
        """Return a CSV by its columns."""
        status, headers, body = self.ask(path)
        name = path.partition("?")[0].rpartition("/")[2]
        assert status == 200
        assert headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert headers["Content-Type"].startswith("text/csv; charset=utf-8")
        assert body.count(b"\n") == body.count(b"\r\n")
        return list(csv.DictReader(io.StringIO(body.decode(), newline="")))


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return a run over a replay without models, its market ended, its candles kept."""
    folder = tmp_path_factory.mktemp("history")
    write_candles(folder / "candles.csv", bars=BARS, seed=5)
    env = {"REPLAY_FILE": str(folder / "candles.csv"), "HMM_ENABLED": "false"}
    with running(folder / "a", SLOT_COUNT="2", **env) as run:
        keeper = with_candles(run.parts, run.settings).candles
        assert keeper is not None
        assert run.go_on() == "ended"
        keeper.keep_up(run.runtime.state.now)
        yield run
        keeper.close()


@pytest.fixture(scope="module", name="asked")
def make_asked(run: Run) -> Iterator[Asked]:
    """Serve the run."""
    made = Asked(run.parts.history)
    yield made
    made.app.stop()


def recorded(run: Run) -> list[dict[str, str]]:
    """Return the candles of the file that was replayed."""
    path = run.settings.replay_file
    assert path is not None
    return list(csv.DictReader(path.open()))


def test_candles_are_those_of_the_market(asked: Asked, run: Run) -> None:
    """The newest are told as they were recorded, though no model is on; longer ones are made.

    A candle is known a second after its close: the very last one of a recording never is.
    """
    found = asked.get("/api/candles?limit=3")
    rows = recorded(run)[:-1]
    assert found["interval"] == 1
    names = ("open", "high", "low", "close", "volume")
    told = [[Decimal(x[name]) for name in names] for x in found["candles"]]
    assert told == [[Decimal(x[name]) for name in names] for x in rows[-3:]]
    assert [x["time"] for x in found["candles"]] == [float(x["time"]) for x in rows[-3:]]
    hours = asked.get("/api/candles?interval=60&limit=1500")
    assert hours["interval"] == 60
    for hour in hours["candles"]:
        part = [x for x in rows if hour["time"] <= float(x["time"]) < hour["time"] + 3600]
        assert len(part) == 60
        assert Decimal(hour["close"]) == Decimal(part[-1]["close"])
        assert Decimal(hour["volume"]) == sum(Decimal(x["volume"]) for x in part)
    assert len(hours["candles"]) >= BARS // 60 - 1


@pytest.mark.slow
def test_with_models_their_own_candles_are_told(tmp_path: Path, run: Run) -> None:
    """Nobody else keeps any; those of the secondary timeframe are made where they are asked for."""
    env = {"REPLAY_FILE": str(run.settings.replay_file), "HMM_MIN_TRAIN_SAMPLES": "700"}
    with running(tmp_path / "c", SLOT_COUNT="1", **env) as own:
        assert with_candles(own.parts, own.settings).candles is None
        assert own.go_on() == "ended"
        own.models.view(own.runtime.state.now)
        told = own.parts.history.candles(60.0, 1500, None)[1]
        with sqlite3.connect(own.settings.state_db.with_name("bot.candles.db")) as db:
            kept = db.execute("SELECT interval, count(*) FROM candles GROUP BY 1").fetchall()
        db.close()
    assert [x["time"] for x in told] == [float(x["time"]) for x in recorded(run)[:-1]]
    assert kept == [(60.0, BARS - 1)]


def test_executions_are_the_newest_oldest_first(asked: Asked) -> None:
    """Of those since a time the last ones; each with what it cost, and whose order it was."""
    every = asked.get("/api/executions?limit=5000")["executions"]
    assert len(every) > 20
    assert [x["time"] for x in every] == sorted(x["time"] for x in every)
    assert asked.get("/api/executions?limit=7")["executions"] == every[-7:]
    since = every[-5]["time"]
    later = asked.get(f"/api/executions?since={since}")["executions"]
    assert later == [x for x in every if x["time"] >= since]
    assert set(every[0]) == {
        "time", "execution_id", "client_order_id", "slot_id", "trade_id", "role", "side", "price",
        "volume", "cost", "fee", "fee_asset", "is_maker",
    }  # fmt: skip
    assert every[0]["is_maker"] in (True, False)


def test_equity_reaches_back_to_the_start(asked: Asked, run: Run) -> None:
    """All hours, or as few points as are asked for, the newest always."""
    whole = asked.get("/api/equity")
    assert whole["thinned"] is False
    assert len(whole["points"]) >= BARS // 60
    few = asked.get("/api/equity?limit=4")
    assert (len(few["points"]), few["thinned"]) == (4, True)
    assert few["points"][-1]["time"] == whole["points"][-1]["time"]
    deepest = [max(x["drawdown_pct"] for x in found["points"]) for found in (whole, few)]
    assert deepest[0] == deepest[1] >= 0
    assert set(whole["points"][0]) == {
        "time", "equity", "hold", "usd", "doge", "half", "grid_profit", "fees", "mark",
        "drawdown_pct",
    }  # fmt: skip


def test_cycles_come_page_by_page_and_none_is_lost(tmp_path: Path, run: Run) -> None:
    """Also where several end at one time; the field list is the documented one."""
    copy = tmp_path / "bot.db"
    with sqlite3.connect(run.settings.state_db) as source, sqlite3.connect(copy) as db:
        source.backup(db)
        db.execute("UPDATE cycles SET exit_time = 1700000000.0")
        count = db.execute("SELECT count(*) FROM cycles").fetchone()[0]
    source.close()
    db.close()
    asked, seen, before = Asked(SqliteHistory(copy)), [], ""
    try:
        while True:
            page = asked.get(f"/api/cycles?limit=3{before}")
            seen += page["cycles"]
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
    finally:
        asked.app.stop()
    assert [x["id"] for x in seen] == list(range(count, 0, -1))
    assert set(seen[0]) == {
        "id", "slot_id", "trade_id", "cycle", "entry_price", "exit_price", "volume",
        "gross_profit", "entry_fee", "exit_fee", "fees", "net_profit", "entry_time", "exit_time",
        "from_recovery", "regime_at_entry", "resolution",
    }  # fmt: skip


def test_the_tables_add_up_to_the_ledger(asked: Asked, run: Run) -> None:
    """Gross is what the ledger has booked, net what the slots have made, fees what was paid."""
    cycles = asked.table("/api/export/cycles.csv")
    accounts, slots = run.runtime.state.accounts, run.runtime.state.slots
    with sqlite3.connect(run.settings.state_db) as db:
        query = "SELECT amount FROM ledger_entries WHERE account = 'grid_profit'"
        booked = -sum(Decimal(x) for (x,) in db.execute(query))
    db.close()
    gross = sum(Decimal(x["gross_profit_usd"]) for x in cycles)
    assert gross == booked == -accounts.grid_profit != 0
    net = sum(Decimal(x["net_profit_usd"]) for x in cycles)
    assert net == sum(x.totals.net for x in slots)
    assert net == booked - sum(Decimal(x["fees_usd"]) for x in cycles)
    executions = asked.table("/api/export/executions.csv")
    assert sum(Decimal(x["fee_usd"]) for x in executions) == accounts.fees
    assert [x["exit_time_utc"] for x in cycles] == sorted(x["exit_time_utc"] for x in cycles)
    assert cycles[0]["exit_time_utc"].startswith("2023-11-1")
    assert cycles[0]["exit_time_utc"].endswith("Z")
    assert {x["entry_side"] for x in cycles if x["leg"] == "A"} == {"sell"}
    assert "volume_doge" in cycles[0]
    exact = [Decimal(x["exit_price"]) for x in asked.get("/api/cycles?limit=1000")["cycles"]]
    assert {Decimal(x["exit_price_usd"]) for x in cycles} == {round(x, 10) for x in exact}
    assert "E" not in "".join(x["net_profit_usd"] + x["volume_doge"] for x in cycles)


def test_a_table_of_a_span_and_of_all_pages(asked: Asked, run: Run) -> None:
    """From `since` on and before `until`; no row twice, none lost."""
    times = [x["time"] for x in asked.get("/api/executions?limit=5000")["executions"]]
    cut = times[len(times) // 2]
    early = asked.table(f"/api/export/executions.csv?until={cut}")
    late = asked.table(f"/api/export/executions.csv?since={cut}")
    ids = [x["execution_id"] for x in (*early, *late)]
    assert sorted(ids) == sorted(
        x["execution_id"] for x in asked.table("/api/export/executions.csv")
    )
    assert len(early) == sum(x < cut for x in times)
    plain = asked.ask("/api/export/cycles.csv", version=10)
    assert plain[2] == asked.ask("/api/export/cycles.csv")[2]
    assert (plain[1]["Transfer-Encoding"], plain[1]["Connection"]) == (None, "close")


@pytest.fixture(name="long")
def make_long(tmp_path: Path, run: Run) -> Callable[[int, str], SqliteHistory]:
    """Return a maker of copies with many cycles, the last of a resolution of one's own."""

    def make(count: int, resolution: str) -> SqliteHistory:
        with (
            sqlite3.connect(run.settings.state_db) as source,
            sqlite3.connect(tmp_path / "long.db") as db,
        ):
            source.backup(db)
            names = [x[1] for x in db.execute("PRAGMA table_info(cycles)")]
            row = dict(zip(names, db.execute("SELECT * FROM cycles").fetchone(), strict=True))
            db.executemany(
                f"INSERT INTO cycles VALUES ({', '.join('?' * len(names))})",
                (
                    tuple({**row, "id": n, "cycle": n, "resolution": resolution}.values())
                    for n in range(10_000, 10_000 + count)
                ),
            )
        source.close()
        db.close()
        return SqliteHistory(tmp_path / "long.db")

    return make


def test_no_cell_is_run_as_a_formula(long: Callable[[int, str], SqliteHistory]) -> None:
    """A text that begins like one is told as text; negative amounts stay numbers."""
    asked = Asked(long(PAGE_ROWS + 1, '=cmd("x")'))
    try:
        rows = asked.table("/api/export/cycles.csv")
    finally:
        asked.app.stop()
    assert rows[-1]["resolution"] == '\'=cmd("x")'
    assert len(rows) > PAGE_ROWS
    assert not [x for row in rows for x in row.values() if x.startswith(("=", "+", "@"))]


class Failing(SqliteHistory):
    """A history whose file is damaged behind its first page."""

    def _paged(self, query: str, since: float, until: float) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(super()._paged(query, since, until)):
            if number == PAGE_ROWS:
                self._path.unlink()
                self._rows("SELECT * FROM nothing")
            yield row


def test_a_table_that_cannot_be_read_to_its_end_is_no_table(
    long: Callable[[int, str], SqliteHistory], tmp_path: Path
) -> None:
    """The client is told that it is cut off: what looks whole is whole."""
    long(PAGE_ROWS, "exit")
    asked = Asked(Failing(tmp_path / "long.db"))
    try:
        with pytest.raises(http.client.IncompleteRead):
            asked.ask("/api/export/cycles.csv")
    finally:
        asked.app.stop()


@pytest.mark.parametrize("path", ROUTES)
def test_unknown_names_are_refused_by_every_route(asked: Asked, path: str) -> None:
    """A typo gives no answer to another question."""
    status, _, body = asked.ask(f"{path}?sicne=5")
    assert status == 400
    assert json.loads(body)["field"] == "sicne"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("candles?interval=2", "interval"), ("candles?interval=", "interval"),
        ("candles?limit=1501", "limit"), ("candles?before=x", "before"),
        ("executions?limit=0", "limit"), ("executions?limit=5001", "limit"),
        ("executions?since=", "since"), ("executions?since=1&since=2", "since"),
        ("equity?since=-1", "since"), ("equity?limit=1e3", "limit"),
        ("cycles?before=1700000000", "before"), ("cycles?before=1.5", "before"),
        ("export/cycles.csv?until=2026-01-01", "until"), ("cycles?" + "a=1&" * 20, "query"),
    ],
)  # fmt: skip
def test_values_are_refused_by_name(asked: Asked, query: str, field: str) -> None:
    """400 names the field, and the text what is allowed."""
    status, _, body = asked.ask(f"/api/{query}")
    assert (status, json.loads(body)["field"]) == (400, field)


def test_before_it_is_open_and_where_it_fails_it_says_so(tmp_path: Path) -> None:
    """Unknown is not empty: 503 until there is a history, and where it cannot be read."""
    closed, damaged = Asked(None), Asked(SqliteHistory(tmp_path / "none.db"))
    try:
        for path in ROUTES:
            status, _, body = closed.ask(path)
            assert (status, json.loads(body)["error"]) == (503, "not ready: the market to open")
            if path != "/api/candles":
                assert damaged.ask(path)[0] == 503, path
    finally:
        closed.app.stop()
        damaged.app.stop()


# ---- one order, one command ---------------------------------------------------------------------


def test_an_order_tells_its_life(asked: Asked) -> None:
    """What was wanted and why, by stages, what became of it, and what it executed."""
    execution = asked.get("/api/executions?limit=1")["executions"][0]
    order = asked.get(f"/api/orders/{execution['client_order_id']}")
    assert (order["side"], order["role"]) == (execution["side"], execution["role"])
    assert order["status"] == "filled"
    assert order["placed_at"] <= execution["time"] == order["closed_at"]
    (own,) = [x for x in order["executions"] if x["execution_id"] == execution["execution_id"]]
    assert own["is_maker"] is execution["is_maker"]
    entry = next(x for x in asked.get("/api/executions")["executions"] if x["role"] == "entry")
    chain = asked.get(f"/api/orders/{entry['client_order_id']}")["chain"]
    assert [x["stage"] for x in chain][::6] == ["base", "final"]
    assert chain[0] == {"stage": "base", "amount_usd": "40", "reason": "size 40 USD"}
    assert all(x["reason"] for x in chain)
    of_cycle = [(x["slot_id"], x["trade_id"]) for x in asked.get("/api/cycles")["cycles"]]
    exit_ = next(x for x in asked.get("/api/executions")["executions"] if x["role"] == "exit")
    assert (exit_["slot_id"], exit_["trade_id"]) in of_cycle
    told = asked.get(f"/api/orders/{exit_['client_order_id']}")
    opened = asked.get(f"/api/orders/{told['entry']['client_order_id']}")
    assert (opened["role"], opened["cycle"]) == ("entry", told["cycle"])
    assert told["entry"]["chain"] == opened["chain"]
    assert opened["entry"] is None


class Commanded:
    """A run that stands where an exit rests, with its pages."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.app = Asked(run.parts.history)
        self.count = 0

    def until(self, holds: Callable[[BotState], object]) -> None:
        """Go on until something holds."""

        def look(_: e.Event) -> None:
            if holds(self.run.runtime.state):
                self.run.loop.stop()

        self.run.loop.stopping.clear()
        assert self.run.go_on(look) == "stopped"

    def send(self, command: Command) -> str:
        """Carry a command out and return its id."""
        self.count += 1
        now = self.run.runtime.state.now
        self.run.runtime.step(
            e.CommandReceived(time=now, command_id=f"c{self.count}", command=command)
        )
        return f"c{self.count}"

    def told(self, command_id: str) -> Any:
        """Return what the page is told of a command."""
        return self.app.get(f"/api/commands/{command_id}")


@pytest.fixture(name="desk")
def make_desk(tmp_path: Path, run: Run) -> Iterator[Commanded]:
    """Return a run of its own over the same market."""
    env = {"REPLAY_FILE": str(run.settings.replay_file), "HMM_ENABLED": "false"}
    with running(tmp_path / "b", SLOT_COUNT="1", **env) as own:
        made = Commanded(own)
        yield made
        made.app.app.stop()


def resting(state: BotState) -> Sequence[Leg]:
    """Return the legs whose exit rests at the exchange."""
    return [
        leg
        for slot in state.slots
        for leg in slot.legs
        if isinstance(leg.state, Exiting)
        and isinstance(leg.state.exit, OrderState)
        and leg.state.exit.status is OrderStatus.OPEN
    ]


def entering(state: BotState) -> list[Leg]:
    """Return the legs whose entry rests at the exchange."""
    return [
        leg
        for slot in state.slots
        for leg in slot.legs
        if isinstance(leg.state, Entering) and leg.state.order.status is OrderStatus.OPEN
    ]


def test_a_soft_close_is_followed_to_its_end(desk: Commanded) -> None:
    """Withdrawn, confirmed, placed: what it waits for, then that it is done, and by which order."""
    desk.until(resting)
    leg = resting(desk.run.runtime.state)[0].trade_id
    command = SoftClose(slot=1, leg=TradeId(leg), max_loss_pct=Decimal(50), confirm=True)
    told = desk.told(desk.send(command))
    assert (told["is_accepted"], told["is_done"]) == (True, False)
    assert told["waits_for"] == [f"slot 1 leg {leg}: its exit to be withdrawn and placed anew"]
    assert [x["status"] for x in told["orders"]] == ["cancelling"]
    desk.until(lambda _: desk.told("c1")["is_done"])
    told = desk.told("c1")
    assert told["waits_for"] == []
    withdrawn, *placed = told["orders"]
    assert (withdrawn["status"], withdrawn["closed_at"] is None) == ("closed", False)
    assert placed[0]["price"] != withdrawn["price"]


def test_a_closing_slot_says_what_keeps_it(desk: Commanded) -> None:
    """Refused commands and quick ones are done; a slot is closed when it is gone."""
    desk.until(resting)
    refused = desk.told(desk.send(RemoveSlot(slot=1)))
    assert (refused["is_accepted"], refused["is_done"]) == (False, True)
    keep = desk.send(RemoveSlot(slot=1, disposition="keep_recoveries"))
    told = desk.told(keep)
    assert told["is_done"] is False
    assert any("recovery" in x and "to fill" in x for x in told["waits_for"])
    stale = desk.send(CancelStaleRecoveries(older_than_sec=0.0, confirm=True))
    assert "to be released" in desk.told(stale)["waits_for"][0]
    desk.until(lambda state: not state.slots)
    assert [desk.told(x)["is_done"] for x in (keep, stale)] == [True, True]
    assert desk.told(stale)["orders"][0]["status"] == "closed"
    paused = desk.told(desk.send(Pause()))
    assert (paused["is_done"], paused["orders"], paused["message"][:6]) == (True, [], "paused")
    assert desk.app.ask("/api/commands/none")[0] == 404


@pytest.mark.slow
def test_however_many_cycles_are_told_in_parts(
    long: Callable[[int, str], SqliteHistory],
) -> None:
    """No more than a page of rows and a part of text is held at a time."""
    import tracemalloc  # noqa: PLC0415 - slows whatever it watches

    history = long(20_000, "exit")
    tracemalloc.start()
    try:
        size = sum(len(part) for part in TABLES["/api/export/cycles.csv"](history, ""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 3_000_000
    assert peak < 3_000_000


def test_a_pause_tells_the_entries_that_it_withdraws(desk: Commanded) -> None:
    """It is done when the exchange has confirmed each."""
    desk.until(entering)
    told = desk.told(desk.send(Pause()))
    assert told["is_done"] is False
    assert all("its entry to be withdrawn" in x for x in told["waits_for"])
    desk.until(lambda state: not any(isinstance(x.state, Entering) for x in state.slots[0].legs))
    assert desk.told("c1")["is_done"] is True


def test_the_newest_executions_are_found_by_their_time(tmp_path: Path) -> None:
    """By an index and without sorting, whatever the order in which they were booked."""
    path = tmp_path / "bot.db"
    SqliteStore(path).close()
    history = SqliteHistory(path)
    with sqlite3.connect(path) as db:
        row = "'C', 'X', 1, 'A', 'entry', 1, 'sell', '0.1', '20', '2', '0', 'quote', 1"
        for n, at in enumerate((1.0, 2.0, 9.0, 3.0, 9.0)):
            db.execute(f"INSERT INTO executions VALUES ('E{n}', {row}, ?, ?)", (at, n))
    for since, limit, expected in ((None, 4, "1324"), (3.0, 9, "324"), (3.0, 2, "24")):
        found = [x["execution_id"] for x in history.executions(since, limit)]
        assert found == [f"E{n}" for n in expected]
    rows = history._rows
    history._rows = lambda query, values: rows(f"EXPLAIN QUERY PLAN {query}", values)  # type: ignore[assignment, misc]
    (plan,) = history.executions(None, 4)
    assert "executions_by_time" in plan["detail"]
