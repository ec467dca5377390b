"""The daily report: what it says, when it is due, and that its sums are those of the store."""

import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.ports import StoreError
from core.record import replace
from core.status import Status
from engine.report import DAY_SEC, Day, ReportClock, daily_report, day_of, status_text
from store.history import SqliteHistory
from tests.test_daemon import replayed
from tests.test_status import sample_status

MIDNIGHT = 20_370 * float(DAY_SEC)  # 2025-10-09


class Rows:
    """A history of one cycle, two equity points and two locks; or one that cannot be read."""

    def __init__(self) -> None:
        self.error: StoreError | None = None

    def cycles_ended(self, since: float, until: float) -> list[dict[str, Any]]:
        """Return one cycle of the day."""
        if self.error is not None:
            raise self.error
        return [{"exit_time": MIDNIGHT + 5, "gross_profit": "0.8", "net_profit": "0.48"}]

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return a point at each end of the day and one in it."""
        fees = ("1.00", "1.10", "1.32")
        times = (MIDNIGHT + 1, MIDNIGHT + 3_601, MIDNIGHT + DAY_SEC + 1)
        return [
            {"time": at, "fees": fee, "equity": str(1000 + n)}
            for n, (at, fee) in enumerate(zip(times, fees, strict=True))
        ], False

    def recent_events(self, limit: int) -> list[dict[str, Any]]:
        """Return a lock of the day, one of another day, and something else."""
        return [
            {"time": MIDNIGHT + 9, "kind": "lock", "text": "entries locked (daily_loss): 50"},
            {"time": MIDNIGHT - 9, "kind": "lock", "text": "entries locked (funds): x"},
            {"time": MIDNIGHT + 9, "kind": "cycle", "text": "a cycle"},
        ]


def at(now: float) -> Status:
    """Return a status of the instant `now`, bot time."""
    made = sample_status()
    return replace(made, bot=replace(made.bot, now=now))


def test_the_report_is_due_once_at_five_past_midnight() -> None:
    """Not at the start, not before 00:05, once after it, then the next day again."""
    seen: list[Status | None] = [None]
    clock = ReportClock(lambda: seen[0], Rows)
    assert clock.due() is None
    next_day = MIDNIGHT + DAY_SEC
    for now, is_due in (
        (MIDNIGHT + 60, False),
        (MIDNIGHT + 80_000, True),
        (next_day + 299, False),
        (next_day + 300, True),
        (next_day + 301, False),
        (next_day + 80_000, False),
        (next_day + DAY_SEC + 299, False),
        (next_day + DAY_SEC + 900, True),
    ):
        seen[0] = at(now)
        assert (clock.due() is not None) is is_due, now


def test_nothing_is_due_without_a_price() -> None:
    """Before the first price bot time means nothing."""
    seen = [at(0.0)]
    seen[0] = replace(seen[0], market=replace(seen[0].market, time=None))
    clock = ReportClock(lambda: seen[0], Rows)
    assert clock.due() is None
    seen[0] = at(MIDNIGHT + 1_000)
    assert clock.due() is None


def test_the_report_says_what_the_day_brought() -> None:
    """Equity, the excess over each way of holding, cycles, fees, locks, drawdown level."""
    rows = Rows()
    day = day_of(
        MIDNIGHT, cycles=rows.cycles_ended(0, 1), points=rows.equity_curve(None, 3)[0],
        events=rows.recent_events(1),
    )  # fmt: skip
    assert day == Day(
        start=MIDNIGHT, cycles=1, gross=Decimal("0.8"), net=Decimal("0.48"),
        fees=Decimal("0.32"), change=Decimal(2), locks=("entries locked (daily_loss): 50",),
    )  # fmt: skip
    status = sample_status()
    text = daily_report(status, day)
    lines = text.splitlines()
    held = status.equity.holding
    assert held is not None
    assert lines[0] == "report for 2025-10-09 UTC, SIMULATED MARKET, DOGE/USD"
    assert f"against the starting balances: {Decimal(held.start.ahead):+.2f} USD" in text
    for name, value in (("all in USD", held.usd), ("all in DOGE", held.doge)):
        assert f"against {name}: {Decimal(value.ahead):+.2f} USD" in text
    assert f"against half and half: {Decimal(held.half.ahead):+.2f} USD" in text
    assert "cycles of the day: 1, grid profit +0.8000 USD, after their fees +0.4800" in lines
    assert "fees of the day: 0.3200 USD" in lines
    assert "equity over the day: +2.00 USD" in lines
    assert "locks set that day: 1" in lines
    assert f"drawdown: {status.risk.drawdown_pct} %, level {status.risk.level}" in lines
    assert not [x for x in ("regime", "Kelly", "advisor") if x in text]


def test_a_day_without_points_or_prices_says_so() -> None:
    """Nothing is made up: no fees, no change, no equity."""
    day = day_of(MIDNIGHT, cycles=[], points=Rows().equity_curve(None, 3)[0][:1], events=[])
    assert (day.fees, day.change, day.cycles) == (None, None, 0)
    made = sample_status()
    bare = replace(made, equity=replace(made.equity, equity=None, holding=None))
    text = daily_report(bare, day)
    assert "equity: there was no price yet" in text
    assert "fees of the day" not in text
    assert "locks set that day: none" in text
    assert "equity: there was no price yet" in status_text(bare)


def test_a_history_that_cannot_be_read_leaves_the_present_state() -> None:
    """The report is sent once all the same, and says what is missing."""
    rows = Rows()
    seen = [at(MIDNIGHT + 1_000)]
    clock = ReportClock(lambda: seen[0], lambda: rows)
    assert clock.due() is None
    rows.error = StoreError("locked")
    seen[0] = at(MIDNIGHT + DAY_SEC + 1_000)
    text = clock.due()
    assert text is not None
    assert text.startswith("report: the day's history cannot be read\nSIMULATED MARKET")
    assert clock.due() is None


@pytest.mark.slow
def test_the_sums_of_a_day_are_those_of_the_store(tmp_path: Path) -> None:
    """A real run of 25 hours: cycles, profits and fees agree with its tables."""
    replayed(tmp_path)
    history = SqliteHistory(tmp_path / "bot.db")
    points, _ = history.equity_curve(None, 72)
    start = float(int(points[0]["time"] // DAY_SEC) * DAY_SEC)
    days = [
        day_of(
            start + n * DAY_SEC, cycles=history.cycles_ended(0.0, 1e18), points=points,
            events=history.recent_events(2_000),
        )
        for n in range(3)
    ]  # fmt: skip
    with sqlite3.connect(tmp_path / "bot.db") as db:
        nets = [Decimal(x) for (x,) in db.execute("SELECT net_profit FROM cycles")]
        locks = db.execute("SELECT count(*) FROM events WHERE kind = 'lock'").fetchone()[0]
    assert nets
    assert sum(x.cycles for x in days) == len(nets)
    assert sum(x.net for x in days) == sum(nets)
    assert sum(len(x.locks) for x in days) == locks
    risen = [x.fees for x in days if x.fees is not None]
    assert sum(risen) == Decimal(points[-1]["fees"]) - Decimal(points[0]["fees"])


@pytest.mark.parametrize("stale", [True, False])
def test_the_short_status_names_what_speaks_against_trading(stale: bool) -> None:
    """Mode, condition with its reasons, price, orders, locks."""
    made = sample_status()
    text = status_text(replace(made, market=replace(made.market, is_stale=stale)))
    assert text.startswith(f"SIMULATED MARKET, DOGE/USD: {made.bot.mode}, {made.bot.condition}")
    assert all(reason in text for reason in made.bot.reasons)
    assert (" (not fresh)" in text) is stale
    room = made.capacity_fill_health
    assert f"open orders: {room.open_orders} of {room.limit}" in text


def test_the_report_tells_the_regime_where_there_are_models() -> None:
    """What the models say, what follows, and that nothing acts; nothing where they are off."""
    golden = (Path(__file__).parent / "golden" / "status_regimes.json").read_bytes()
    shown = status_text(msgspec.json.decode(golden, type=Status))
    (line,) = [x for x in shown.splitlines() if x.startswith("regime: ")]
    assert "% sure" in line
    assert "tier " in line
    off = (Path(__file__).parent / "golden" / "status.json").read_bytes()
    assert "regime" not in status_text(msgspec.json.decode(off, type=Status))
