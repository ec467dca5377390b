"""Kelly fed from a real replay: cycles of every regime, and what follows from their rows alone.

What is expected is computed here from the database's rows, with other code than the sizer's.
"""

import gzip
import math
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any

import numpy as np
import pytest

from core import events as e
from core.commands import SoftCloseNext
from core.kelly import Bank, Book, KellyConfig
from core.record import replace
from engine.kelly import KellyDesk
from kelly_sizer import KellySizer
from tests.helpers import market_file
from tests.test_models import Run, running

pytestmark = pytest.mark.long

BARS = 7000
CLOSE_EVERY_SEC = 7200.0
LABELS = {0: "bearish", 1: "ranging", 2: "bullish"}
COLUMNS = "id, slot_id, trade_id, entry_price, volume, entry_fee, net_profit, entry_time, exit_time"
BOOK = Book(
    now=2e9, bank=Bank(equity_usd=10_000.0, equity_share=0.8, slots=8), horizon_sec=14_400.0,
    structural_loss=0.02, base_usd=20.0,
)  # fmt: skip
Rows = list[dict[str, Any]]
Held = dict[str, int | None]  # the regime held at an order's first execution


@pytest.fixture(scope="module", name="held")
def make_held() -> Held:
    """Return what the run fills."""
    return {}


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory: pytest.TempPathFactory, held: Held) -> Iterator[Run]:
    """Return a run over recorded candles, ended; each two hours its operator takes a loss."""
    folder = tmp_path_factory.mktemp("kelly")
    with gzip.open(market_file("kucoin_dogeusdt_1m_20230218_20230321.csv.gz"), "rt") as source:
        (folder / "market.csv").write_text("".join(islice(source, BARS + 1)))
    last = 0.0
    with running(
        folder / "a", REPLAY_FILE=str(folder / "market.csv"), KELLY_ENABLED="true", SLOT_COUNT="8",
        SLOT_STAGGER_PCT="0.2", S1_ORPHAN_AFTER_SEC="1800", S2_ORPHAN_AFTER_SEC="3600",
        MAX_RECOVERY_SLOTS="4", ORDER_SIZE_USD="20", PAPER_START_QUOTE="5000",
        PAPER_START_BASE_USD="5000",
    ) as run:  # fmt: skip

        def look(event: e.Event) -> None:
            nonlocal last
            if isinstance(event, e.FillEvent):
                regime = run.runtime.state.regime
                held.setdefault(event.client_order_id, None if regime is None else regime.regime)
            if event.time - last >= CLOSE_EVERY_SEC:
                last = event.time
                command = SoftCloseNext(max_loss_pct=Decimal(10), confirm=True)
                run.loop.inbox.put(f"close {last:.0f}", command)

        assert run.go_on(look) == "ended"
        yield run


def query(run: Run, text: str) -> list[tuple[Any, ...]]:
    """Return what the run's database says."""
    with sqlite3.connect(run.settings.state_db) as db:
        return db.execute(text).fetchall()


@pytest.fixture(scope="module", name="rows")
def make_rows(run: Run) -> Rows:
    """Return the rows of all cycles with the tag of their exit outcome."""
    names = [*COLUMNS.split(", "), "regime_at_entry"]
    qualified = ", ".join(f"c.{x}" for x in COLUMNS.split(", "))
    text = (
        f"SELECT {qualified}, o.regime_at_entry FROM cycles c JOIN exit_outcomes o ON cycle_id = id"
    )
    return [dict(zip(names, row, strict=True)) for row in query(run, f"{text} ORDER BY c.id")]


def of(rows: Rows, label: str) -> Rows:
    """Return the rows of a regime, or all, newest first."""
    own = [x for x in rows if label == "aggregate" or LABELS.get(x["regime_at_entry"]) == label]
    return sorted(own, key=lambda x: (x["exit_time"], x["id"]), reverse=True)


def weights(count: int) -> list[float]:
    """Return what each is worth: a half after a hundred."""
    return [0.5 ** (rank / 100) for rank in range(count)]


# ---- the evidence -------------------------------------------------------------------------------


def test_all_regimes_are_there_won_and_lost(run: Run, rows: Rows) -> None:
    """Tags 0, 1, 2 and none; both tables say the same, and every word is a number."""
    seen = {(x["regime_at_entry"], float(x["net_profit"]) > 0) for x in rows}
    assert seen >= {(tag, won) for tag in (0, 1, 2) for won in (True, False)}
    assert {x["regime_at_entry"] for x in rows} == {0, 1, 2, None}
    other = "SELECT count(*) FROM cycles c JOIN exit_outcomes o ON cycle_id = id WHERE "
    assert query(run, other + "c.regime_at_entry IS NOT o.regime_at_entry") == [(0,)]
    assert len(rows) == query(run, "SELECT count(*) FROM cycles")[0][0]
    for tag in (0, 1, 2):
        assert sum(x["regime_at_entry"] == tag for x in rows) >= 15


def test_the_tag_is_that_of_the_entrys_first_execution(run: Run, held: Held) -> None:
    """The regime held then, whatever it was when the exit was filled."""
    text = (
        "SELECT c.regime_at_entry, o.client_order_id, c.exit_time FROM cycles c JOIN orders o ON "
        "o.slot_id = c.slot_id AND o.trade_id = c.trade_id AND o.cycle = c.cycle AND "
        "o.role = 'entry' AND o.status = 'filled' GROUP BY c.id HAVING count(*) = 1"
    )
    found = query(run, text)
    assert len(found) > 100
    assert [(tag, order) for tag, order, _ in found if held[order] != tag] == []
    at_exit = "SELECT client_order_id FROM executions WHERE executed_at = {} AND role <> 'entry'"
    exits = [(tag, query(run, at_exit.format(time))) for tag, _, time in found]
    assert sum(tag != held[order] for tag, orders in exits for (order,) in orders[:1]) > 10


# ---- mode tilt ----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [*LABELS.values(), "aggregate"])
def test_the_sizer_says_what_the_rows_say(rows: Rows, label: str) -> None:
    """p, payoff, edge, f and multiplier of each regime, to nine digits."""
    own = of(rows, label)
    won = lost = sum_w = sum_l = 0.0
    for row, w in zip(own, weights(len(own)), strict=True):
        net = float(row["net_profit"])
        if net > 0:
            won, sum_w = won + w, sum_w + w * net
        elif net < 0:
            lost, sum_l = lost + w, sum_l - w * net
    p, b = won / (won + lost), (sum_w / won) / (sum_l / lost)
    f = p - (1 - p) / b
    sizer = KellySizer()
    found = sizer.update(rows, label)[label]
    assert found.n_total == len(own)
    assert found.win_rate == pytest.approx(p, rel=1e-9)
    assert found.payoff_ratio == pytest.approx(b, rel=1e-9)
    assert found.edge == pytest.approx(b * p - (1 - p), rel=1e-9)
    assert found.f_star == pytest.approx(f, rel=1e-9)
    assert found.f_fractional == pytest.approx(f / 4, rel=1e-9)
    assert found.reason == ("ok" if f > 0 else "no_edge")
    expected = 1 + f / 4 if f > 0 else 0.5
    size, why = sizer.size_for_slot(40.0, None if label == "aggregate" else label)
    assert size == pytest.approx(40.0 * expected, rel=1e-9)
    assert label in why


def test_the_daemon_has_come_to_the_same(run: Run, rows: Rows) -> None:
    """Its last word is that of the cycles known then, and it has sized by more than one bucket."""
    told = [
        (row.seq, row.event)
        for row in run.parts.store.journal(after=0)
        if isinstance(row.event, e.KellyUpdated)
    ]
    seq, event = told[-1]
    known = {x for (x,) in query(run, f"SELECT id FROM cycles WHERE seq < {seq}")}
    assert event.results == KellySizer().update([x for x in rows if x["id"] in known])
    assert event.cycles == len(known) > 100
    chains = [step for row in run.parts.store.export()["orders"] for step in row["chain"]]
    reasons = {x["reason"].split("(")[0] for x in chains if x["stage"] == "kelly"}
    assert len(reasons & {f"kelly_{x}" for x in (*LABELS.values(), "aggregate", "no_edge")}) > 1


# ---- mode bankroll ------------------------------------------------------------------------------


def best_share(returns: list[float], ws: list[float]) -> float:
    """Return the growth-optimal share by looking at a fine grid, finer and finer."""
    r, w = np.array(returns), np.array(ws)
    low, high = 0.0, 0.9999 / float(-r.min())
    for _ in range(12):
        grid = np.linspace(low, high, 201)
        growth = (w * np.log1p(np.outer(grid, r))).sum(axis=1)
        best = int(growth.argmax())
        low, high = float(grid[max(0, best - 1)]), float(grid[min(200, best + 1)])
    return (low + high) / 2


def tied(row: dict[str, Any]) -> float:
    """Return the capital of a cycle."""
    value = float(row["entry_price"]) * float(row["volume"])
    return value + float(row["entry_fee"]) * (row["trade_id"] == "B")


def rho_of(rows: Rows) -> float:
    """Return how cycles of different slots that overlap correlate."""
    pairs = []
    known = sorted(rows, key=lambda x: (x["entry_time"], x["exit_time"], x["slot_id"]))
    for n, row in enumerate(known):
        later = [x for x in known[n + 1 : n + 21] if x["entry_time"] < row["exit_time"]]
        other = next((x for x in later if x["slot_id"] != row["slot_id"]), None)
        if other is not None:
            pairs.append([float(x["net_profit"]) / tied(x) for x in (row, other)])
    assert len(pairs) >= 30
    return float(min(1.0, max(0.0, np.corrcoef(np.array(pairs).T)[0, 1])))


def test_bankroll_says_what_the_returns_say(rows: Rows) -> None:
    """f of the returns, shrunk and pooled, divided among the slots, as a multiple of the base."""
    cfg = KellyConfig(mode="bankroll")
    sizer = KellySizer(cfg)
    found = sizer.update(rows, None, book=BOOK)
    rho, pooled = rho_of(rows), 0.0
    for label in ("aggregate", *LABELS.values()):
        own = of(rows, label)
        returns = [float(x["net_profit"]) / tied(x) for x in own]
        ws = weights(len(own))
        n = sum(ws) ** 2 / sum(w * w for w in ws)
        f_raw = best_share(returns, ws) if np.average(returns, weights=ws) > 0 else 0.0
        f = n / (n + 30) * f_raw + 30 / (n + 30) * pooled
        pooled = f if label == "aggregate" else pooled
        facts = found[label].bankroll
        assert facts is not None
        assert facts.n_effective == pytest.approx(n, rel=1e-9)
        assert facts.f_raw == pytest.approx(f_raw, rel=1e-5, abs=1e-5)
        assert facts.rho == pytest.approx(rho, rel=1e-9)
        assert facts.f_shrunk == pytest.approx(f, rel=1e-5, abs=1e-5)
        assert facts.f_slot == pytest.approx(f / (1 + 7 * rho), rel=1e-5, abs=1e-5)
        target = min(0.25 * facts.f_slot, 1.0) * 10_000 * 0.8 / 16
        expected = min(max(target / 20.0, 0.5), 2.0) if f > 0 else 0.5
        size, _ = sizer.size_for_slot(20.0, None if label == "aggregate" else label)
        assert size == pytest.approx(20.0 * expected, rel=1e-4)


def test_bankroll_counts_what_is_open(run: Run) -> None:
    """The same run, asked in the other mode: old positions at mark make every share smaller."""
    params = replace(run.runtime.params, kelly=KellyConfig(mode="bankroll"))
    found = KellyDesk(run.parts.store.recent_cycles).update(run.runtime.state, params).results
    facts = found["aggregate"].bankroll
    assert facts is not None
    assert facts.censored > 0
    assert facts.censored_share == pytest.approx(facts.censored / found["aggregate"].n_total)
    assert math.isfinite(facts.f_slot)
