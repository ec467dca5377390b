"""What is skipped changes nothing: the same state at every instant, the same books at the end."""

import random
from pathlib import Path
from typing import Any

import pytest

import config
from core import events as e
from core.record import replace
from core.state import BotState
from engine.books import canonical_text, digest
from engine.runtime import Runtime, comparable
from market.columns import ColumnSource
from sim.run import Outcome, live_through
from tests.helpers import market_file, write_candles
from tests.test_columns import with_holes

States = dict[float, BotState]


def settings_of(folder: Path, path: Path, **more: str) -> config.Settings:
    """Return a daemon's settings for a replay of `path`."""
    env = {"MARKET_DATA": "replay", "REPLAY_FILE": str(path), "STATE_DB": str(folder / "x.db")}
    return config.load(env | more, folder / ".env")


def lived(settings: config.Settings, folder: Path, *, skips: bool) -> tuple[Outcome, States, int]:
    """Run to the end; return also the state after every last event of an instant, and the skips."""
    states: States = {}
    skipped = 0

    def watch(runtime: Runtime, _models: object) -> None:
        def note(event: e.Event, _actions: object) -> None:
            nonlocal skipped
            skipped += event.count if isinstance(event, e.PricesSkipped) else 0
            states[runtime.state.now] = runtime.state

        runtime.on_step = note

    if settings.replay_file is None:
        raise AssertionError("a replay has a file")
    source = ColumnSource(settings.replay_file, start=settings.replay_from)
    made = live_through(settings, source, folder=folder, is_skipping=skips, watch=watch)
    return made, states, skipped


def same(state: BotState) -> BotState:
    """Return what must be equal: all but the number of the last message, in a bound-free order."""
    return replace(state, exchange_cursor=0)


def check_equal(folder: Path, path: Path, **more: str) -> int:
    """Run with and without skips; return how many quotes were skipped."""
    settings = settings_of(folder, path, **more)
    skipping, states, skipped = lived(settings, folder, skips=True)
    single, others, none = lived(settings, folder, skips=False)
    assert none == 0
    for at, state in states.items():
        assert same(state) == same(others[at]), at
    exports = [canonical_text(x.store, x.state) for x in (skipping, single)]
    assert digest(exports[0]) == digest(exports[1])
    assert comparable(skipping.state) == comparable(single.state)
    return skipped


LIVELY = {"PAIR_ENTRY_PCT": "0.5", "PAIR_PROFIT_PCT": "1.2", "PAPER_MAKER_FEE_PCT": "0.1",
          "PAPER_TAKER_FEE_PCT": "0.2"}  # fmt: skip
KINDS: dict[str, dict[str, str]] = {
    "plain": {},
    "slots": {"SLOT_COUNT": "3", "SLOT_STAGGER_PCT": "0.3"},
    "lively": {**LIVELY, "SLOT_COUNT": "2"},
    "kelly": {**LIVELY, "KELLY_ENABLED": "true"},
    "pessimistic": {**LIVELY, "PAPER_PRESET": "pessimistic"},
    "lucky": {**LIVELY, "PAPER_TOUCH_PROB": "0.5"},
    "rarely": {"RECON_INTERVAL_SEC": "3600"},
    "often": {**LIVELY, "RECON_INTERVAL_SEC": "30"},
    "by hand": {
        **LIVELY,
        "REGIME_MANUAL_OVERRIDE": "BEARISH",
        "REGIME_MANUAL_CONFIDENCE": "0.9",
        "REGIME_MAX_SUPPRESSION_SEC": "1200",
        "RECON_INTERVAL_SEC": "47",
    },
}


QUICK = ("slots", "lively", "kelly")


def calm(path: Path, *, bars: int, seed: int) -> None:
    """Write a market that is often quiet: its bars are a tenth of the usual, with some bursts."""
    rng = random.Random(seed)
    price, lines = 0.1, ["time,open,high,low,close,volume"]
    for n in range(bars):
        wild = 10 if n // 300 % 4 == 3 else 1
        end = price * (1 + wild * rng.gauss(0.0, 0.0003))
        high, low = max(price, end) * 1.0001, min(price, end) * 0.9999
        lines.append(f"{1_700_000_040 + n * 60},{price:.7f},{high:.7f},{low:.7f},{end:.7f},30000")
        price = float(f"{end:.7f}")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "kind",
    [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in KINDS],
)
def test_a_run_that_skips_is_the_run(tmp_path: Path, kind: str) -> None:
    """At every instant that both know the state is the same, and so are the books."""
    path = tmp_path / "candles.csv"
    calm(path, bars=1_500, seed=len(kind))
    skipped = check_equal(tmp_path, path, **KINDS[kind])
    assert skipped > 300


def test_holes_and_bars_without_volume_are_no_obstacle(tmp_path: Path) -> None:
    """A quote that comes late is not quiet."""
    path = tmp_path / "candles.csv"
    with_holes(path, 900)
    check_equal(tmp_path, path, **LIVELY)


def check_markets(folder: Path, seeds: range) -> None:
    """Compare runs on random markets of every kind, lively or calm."""
    kinds = list(KINDS.values())
    for seed in seeds:
        own = folder / str(seed)
        own.mkdir()
        path = own / "candles.csv"
        (calm if seed % 2 else write_candles)(path, bars=800, seed=100 + seed)
        check_equal(own, path, **kinds[seed // 2 % len(kinds)])


@pytest.mark.slow(seconds=30)
def test_random_markets(tmp_path: Path) -> None:
    """Sixteen of them."""
    check_markets(tmp_path, range(16))


@pytest.mark.long
def test_fifty_random_markets(tmp_path: Path) -> None:
    """Fifty more."""
    check_markets(tmp_path, range(16, 66))


@pytest.mark.slow(seconds=30)
def test_models_and_tiers_see_the_same(tmp_path: Path) -> None:
    """Both timeframes, daily training, tiers that act, Kelly sizes."""
    path = tmp_path / "candles.csv"
    calm(path, bars=4_000, seed=9)
    more = {
        "HMM_ENABLED": "true", "REGIME_DIRECTIONAL_ENABLED": "true", "KELLY_ENABLED": "true",
        "REGIME_EVIDENCE_GATE": "false", "HMM_TRAINING_CANDLES": "720",
    }  # fmt: skip
    assert check_equal(tmp_path, path, **LIVELY, **more) > 500


@pytest.mark.market
@pytest.mark.long
def test_a_recorded_month_is_the_same(tmp_path: Path) -> None:
    """Three slots over real minutes."""
    path = market_file("kucoin_dogeusdt_1m_20230218_20230321.csv.gz")
    more: dict[str, Any] = {"SLOT_COUNT": "3"}
    assert check_equal(tmp_path, path, **more) > 20_000
