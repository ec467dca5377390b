"""Kelly in the daemon: asked in time, heard, applied to sizes, shown; off it leaves no trace."""

import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core import actions as a
from core import events as e
from core.kelly import Bank, KellyConfig, KellyResult, KellyState
from core.params import Params
from core.record import replace
from core.regime import BULLISH
from core.state import BotState
from engine.kelly import KellyDesk, book_of
from engine.status_view import build_status
from grid.kelly import is_outstanding
from grid_strategy import KellyFacts, entry_size
from kelly_sizer import partition_cycles_by_regime
from store import codec
from store.sqlite import SqliteStore
from tests.helpers import write_candles
from tests.test_grid_strategy import facts, stage
from tests.test_models import running
from tests.test_regime_reducer import hear, of, start_again
from tests.test_status import sample_facts, sample_state
from tests.test_store import trade
from tests.world import HMM_PARAMS, World, entered

D = Decimal
CONFIG = KellyConfig(min_samples_total=5, min_samples_per_regime=3)
KELLY_PARAMS = replace(HMM_PARAMS, kelly_enabled=True, kelly=CONFIG)
GOOD = KellyResult(
    f_star=0.5, f_fractional=0.125, multiplier=1.125, win_rate=0.7, avg_win=0.4, avg_loss=0.5,
    payoff_ratio=0.8, n_total=40, n_wins=28, n_losses=12, edge=0.26, sufficient_data=True,
    reason="ok",
)  # fmt: skip
BAD = replace(GOOD, f_star=-0.2, f_fractional=-0.05, multiplier=1.0, reason="no_edge")


def kelly(label: str | None = "bullish", **results: KellyResult) -> KellyFacts:
    """Return what the pipeline reads."""
    return KellyFacts(results=results, label=label, bank=None)


def heard(world: World, **results: KellyResult) -> list[a.Action]:
    """Let the sizer answer now."""
    event = e.KellyUpdated(time=world.now, results=results, cycles=40, unknown=2)
    return world.step(event)


@pytest.fixture(scope="module", name="file")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a market of one minute candles."""
    path = tmp_path_factory.mktemp("market") / "candles.csv"
    write_candles(path, bars=3000, seed=5)
    return path


# ---- in the size pipeline -----------------------------------------------------------------------


def test_kelly_multiplies_after_layers_and_before_the_rebalancer() -> None:
    """40 USD become 45; the reason stands in the chain."""
    size = entry_size(facts(kelly=kelly(bullish=GOOD)), Params(kelly=CONFIG))
    assert [x.stage for x in size.chain][1:4] == ["layers", "kelly", "rebalancer"]
    assert stage(size, "kelly") == 45
    assert next(x.reason for x in size.chain if x.stage == "kelly") == (
        "kelly_bullish(f=0.1250,m=1.125)"
    )
    assert size.kelly is not None
    assert not size.kelly.is_capped


def test_kelly_off_passes_sizes_through() -> None:
    """Without facts the stage says off."""
    size = entry_size(facts(), Params())
    assert (stage(size, "kelly"), size.kelly) == (40, None)


def test_kelly_never_goes_below_the_minimum_or_above_the_cap() -> None:
    """A cut is held at the exchange's minimum and says so; MAX_ORDER_USD stays above all."""
    price = D("0.5")  # 50 DOGE are 25 USD
    cut = entry_size(facts(price=price, kelly=kelly(bullish=BAD)), Params(kelly=CONFIG))
    assert stage(cut, "kelly") == 25
    reason = next(x.reason for x in cut.chain if x.stage == "kelly")
    assert reason == "kelly_no_edge(bullish,m=0.500), held_at_minimum"
    assert cut.veto is None
    params = Params(kelly=CONFIG, max_order_usd=D(42))
    assert entry_size(facts(kelly=kelly(bullish=GOOD)), params).wanted_usd == 42


def test_an_unknown_regime_uses_the_aggregate() -> None:
    """And nothing at all changes where that is not enough either."""
    by_all = entry_size(facts(kelly=kelly(None, bullish=GOOD, aggregate=BAD)), Params(kelly=CONFIG))
    assert stage(by_all, "kelly") == 20
    none = entry_size(facts(kelly=kelly(None)), Params(kelly=CONFIG))
    assert stage(none, "kelly") == 40
    assert none.kelly is not None
    assert none.kelly.reason == "kelly_inactive"


# ---- in the reducer -----------------------------------------------------------------------------


def test_the_sizer_is_asked_at_the_regime_cadence() -> None:
    """At the start and each REGIME_EVAL_INTERVAL_SEC, with models or without."""
    world = World(replace(KELLY_PARAMS, hmm_enabled=False))
    assert len(of(world.timer(), a.RequestKelly)) == 1
    assert is_outstanding(world.state)
    heard(world, aggregate=GOOD)
    assert not is_outstanding(world.state)
    assert of(world.timer(298), a.RequestKelly) == []
    assert len(of(world.timer(2), a.RequestKelly)) == 1


def test_entries_go_by_the_regime_now() -> None:
    """The bucket is that of the tag an entry would get; sizes and caps are counted."""
    world = World(KELLY_PARAMS)
    hear(world, BULLISH)
    heard(world, bullish=GOOD, aggregate=BAD)
    placed = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    reasons = {s.reason for x in placed for s in x.chain if s.stage == "kelly"}
    assert reasons == {"kelly_bullish(f=0.1250,m=1.125)"}
    assert world.state.counters["kelly_sizes"] == len(placed)
    assert world.state.counters.get("kelly_sizes_capped", 0) == 0


def test_sizes_that_kelly_has_not_made_are_not_counted() -> None:
    """The share at floor or ceiling is of sizes that a bucket decided."""
    world = World(KELLY_PARAMS)
    hear(world, BULLISH)
    heard(world)
    placed = [x for x in world.timer() if isinstance(x, a.PlaceOrderAction)]
    reasons = {s.reason for x in placed for s in x.chain if s.stage == "kelly"}
    assert reasons == {"kelly_inactive"}
    assert "kelly_sizes" not in world.state.counters


def test_off_nothing_is_asked_heard_or_kept() -> None:
    """Switched off, what was heard is forgotten; the event of a late answer changes nothing."""
    world = World(KELLY_PARAMS)
    heard(world, aggregate=GOOD)
    assert world.state.kelly.updates == 1
    start_again(world, HMM_PARAMS)
    assert world.state.kelly == KellyState()
    heard(world, aggregate=GOOD)
    assert world.state.kelly == KellyState()
    assert of(world.timer(), a.RequestKelly) == []


def test_state_and_parameters_survive_their_file_form() -> None:
    """Labels by number, results by label."""
    state = replace(sample_state(), kelly=KellyState(due=1.0, results={"aggregate": GOOD}))
    assert codec.decode_state(codec.encode(state), "x") == state
    params = Params(kelly_enabled=True, kelly=CONFIG)
    assert Params.from_dict(json.loads(codec.encode(params))) == params


# ---- the desk -----------------------------------------------------------------------------------


def rows(count: int) -> list[dict[str, Any]]:
    """Return stored cycles, two of three won."""
    return [
        {"id": n, "slot_id": 1 + n % 2, "trade_id": "AB"[n % 2], "entry_price": "0.1",
         "volume": "400", "entry_fee": "0.16", "net_profit": "0.4" if n % 3 else "-0.5",
         "entry_time": 100.0 * n, "exit_time": 100.0 * n + 250.0, "regime_at_entry": n % 4 or None}
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["tilt", "bankroll"])
def test_the_desk_reads_cycles_and_open_positions(mode: str) -> None:
    """Both modes speak of the same buckets; a label that is none counts as unknown."""
    world = entered(replace(KELLY_PARAMS, kelly=replace(CONFIG, mode=mode)))
    world.fill("1B.entry", late=0)
    asked: list[int] = []

    def recent(limit: int) -> list[dict[str, Any]]:
        asked.append(limit)
        return rows(60)

    found = KellyDesk(recent).update(world.state, world.params)
    assert asked == [500]
    assert (found.cycles, found.unknown) == (60, 30)
    assert set(found.results) == {"bearish", "ranging", "bullish", "aggregate"}
    assert found.results["aggregate"].n_total == 60
    assert (found.results["aggregate"].bankroll is None) is (mode == "tilt")
    world.step(found)
    assert world.state.kelly.results == found.results


def test_the_book_marks_what_is_open() -> None:
    """A position under water, after both fees; nothing without a market."""
    world = entered(KELLY_PARAMS)
    world.fill("1B.entry", fee="0.005")
    world.price(D("0.09"))
    book = book_of(world.state, world.params, 3600.0)
    assert book is not None
    (held,) = book.positions
    position = world.leg("1B").state.position
    assert held.capital_usd == pytest.approx(float(position.cost) + 0.005)
    bid = world.state.market.bid
    closing = float(world.state.fees.maker * position.volume * bid)
    expected = float(position.volume * bid - position.cost) - 0.005 - closing
    assert held.marked_usd == pytest.approx(expected)
    assert book.open_losers == 1
    assert isinstance(book.bank, Bank)
    assert book_of(BotState(), world.params, 3600.0) is None


@pytest.mark.slow
def test_a_run_learns_from_its_own_cycles(tmp_path: Path, file: Path) -> None:
    """Over a replay with models: cycles by regime, sizes with reasons, and the books fold."""
    with running(
        tmp_path / "a", REPLAY_FILE=str(file), KELLY_ENABLED="true", KELLY_MIN_SAMPLES="5",
        KELLY_MIN_REGIME_SAMPLES="2",
    ) as run:  # fmt: skip
        assert run.go_on() == "ended"
        state = run.runtime.state
        told = run.parts.store.export()
        assert state.kelly.cycles == len(run.parts.store.recent_cycles(500)) > 5
        reasons = {s["reason"] for x in told["orders"] for s in x["chain"] if s["stage"] == "kelly"}
        assert any(x.startswith("kelly_aggregate(") for x in reasons)
        assert any(x.startswith(("kelly_bullish(", "kelly_ranging(", "kelly_bearish(",
                                 "kelly_no_edge(")) for x in reasons)  # fmt: skip


# ---- what the tables keep -----------------------------------------------------------------------


@pytest.mark.parametrize("table", ["cycles", "exit_outcomes"])
@pytest.mark.parametrize(
    ("tag", "kept"),
    [(2, 2), ("2", 2), (None, None), (7, 7), ("BULLISH", "refused"), ("bullish", "refused"),
     ("sideways", "refused")],
)  # fmt: skip
def test_the_local_tables_take_no_word_for_a_regime(
    tmp_path: Path, table: str, tag: object, kept: object
) -> None:
    """The columns are strict integers from the first schema on: there is nothing to migrate.

    A number that is none of the three counts as unknown where cycles are read.
    """
    store = SqliteStore(tmp_path / "bot.db", epoch=7)
    trade(store)
    change = f"UPDATE {table} SET regime_at_entry = ?"
    with sqlite3.connect(tmp_path / "bot.db") as db:
        if kept == "refused":
            with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT value in INTEGER"):
                db.execute(change, (tag,))
        else:
            db.execute(change, (tag,))
            found = db.execute(f"SELECT regime_at_entry FROM {table}").fetchall()
            assert {x for (x,) in found} == {kept}
    parts = partition_cycles_by_regime(store.recent_cycles(10), CONFIG.regime_labels)
    is_bullish = table == "cycles" and kept == 2
    assert len(parts["bullish" if is_bullish else "unknown"]) == len(parts["aggregate"]) > 0
    store.close()


# ---- the status ---------------------------------------------------------------------------------


def shown(state: BotState, params: Params) -> dict[str, Any]:
    """Return the Kelly block as it is sent."""
    body = msgspec.json.encode(build_status(state, params, sample_facts()))
    block: dict[str, Any] = json.loads(body)["kelly"]
    return block


def test_the_status_off_says_only_so() -> None:
    """As every block that is off."""
    assert shown(sample_state(), Params()) == {"enabled": False}


def test_the_status_has_every_bucket_and_who_decides() -> None:
    """Results by label and of all, how often bounds decided, and what is still open."""
    params = replace(KELLY_PARAMS, kelly=CONFIG)
    state = replace(
        sample_state(),
        kelly=KellyState(
            due=10.0, heard_at=5.0, results={"aggregate": GOOD}, cycles=40, unknown=3, updates=2
        ),
        counters={"kelly_sizes": 8, "kelly_sizes_capped": 2},
        regime=None,
    )
    told = shown(state, params)
    assert told["aggregate"] == GOOD.to_dict()
    assert told["bullish"]["reason"] == "no_data"
    assert (told["mode"], told["active_regime"], told["unknown_count"]) == ("tilt", None, 3)
    assert (told["fallback"], told["multiplier_now"]) == ("aggregate: no regime is known", 1.125)
    assert (told["sizes"], told["capped_share"], told["last_update_n"]) == (8, 0.25, 40)
    assert set(told["open_losers"]) == {"count", "marked_usd"}


def test_without_a_market_the_status_names_no_bucket() -> None:
    """A share of equity needs an equity."""
    params = replace(KELLY_PARAMS, kelly=replace(CONFIG, mode="bankroll"))
    state = replace(
        sample_state(), market=None, regime=None, kelly=KellyState(results={"aggregate": GOOD})
    )
    told = shown(state, params)
    assert (told["reason_now"], told["multiplier_now"]) == ("kelly_inactive", 1.0)
    assert told["fallback"] == "base size: the equity is not known yet"
