"""Would a setting have helped: skill, only more of the coin, or nothing that can be told."""

from decimal import Decimal

import numpy as np
import pytest

from sim.against import Compared, compared, sentence, table
from sim.arms import Fills
from sim.cases import Against, Full
from sim.coverage import Coverage
from sim.metrics import Floats
from sim.observed import COARSE, Diagnostics, Observed, Spacing
from sim.verdict import BETTER, SAME, WORSE, Interval

DAY, TAKER = 86_400.0, 0.004
NOTHING = Diagnostics(0, 0, 0, 0, 0, 0, None, None, None, None)


def run(digest: str, *, coin: float, gains: Floats, rise: float = 0.01) -> Full:
    """Return a run that holds `coin` of a price that rises, and gains so much cash each day."""
    days = len(gains)
    chance = np.random.default_rng(7)
    moves = np.cumsum(np.append(0.0, chance.normal(rise, 0.002, days)))
    bids, cash = 0.1 * np.exp(moves), 1_000.0 + np.append(0.0, np.cumsum(gains))
    base = np.full(days + 1, coin)
    known = frozenset(range(20_000, 20_000 + days))
    fills = Fills(
        cycles=[], held=[], mark_times=DAY * (20_000 + np.arange(days + 1)), bids=bids, base=coin,
        quote=1_000.0, taker=TAKER, slots=1, days=known,
    )  # fmt: skip
    seen = Observed(
        fills=fills, days={"equity": cash + coin * bids, "base": base}, deepest={"equity": 0.1},
        diagnostics=NOTHING, counters={"cycles": 3}, paid=1.5,
        coverage=Coverage(known, (), 0, 0),
    )  # fmt: skip
    return Full(
        name="default", mode="tilt", observed=seen, spacing=None, cpu_sec=0.0, digest=digest
    )


def gains(mean: float, days: int = 60) -> Floats:
    """Return daily gains in USD around a mean."""
    drawn: Floats = np.random.default_rng(3).normal(mean, 0.5, days)
    return drawn


def judged(own: Full, other: Full) -> Compared:
    """Return what is thought of the two."""
    return compared(Against({"SLOT_COUNT": ("4", "3")}, own, other))


@pytest.mark.parametrize(("mean", "word"), [(3.0, BETTER), (-3.0, WORSE)])
def test_growth_beyond_holding_decides(mean: float, word: str) -> None:
    """The same coin, and more or less cash every day."""
    made = judged(run("a", coin=5_000, gains=gains(mean)), run("b", coin=5_000, gains=gains(0.0)))
    assert made.word == word
    assert made.days == 60
    assert isinstance(made.beyond, Interval)
    assert made.beyond.mean == pytest.approx(mean / 1_500 * 0.85, rel=0.3)


def test_more_of_the_coin_on_a_rising_market_is_no_skill() -> None:
    """It grew more, surely; beyond holding there is nothing."""
    made = judged(run("a", coin=9_000, gains=gains(0.0)), run("b", coin=4_000, gains=-gains(0.0)))
    assert isinstance(made.growth, Interval)
    assert made.growth.low > 0
    assert made.word == SAME
    assert made.reason == "what it held of the coin may explain it"
    still = [run(x, coin=coin, gains=np.zeros(60)) for x, coin in (("a", 9_000), ("b", 4_000))]
    assert judged(*still).reason == "beyond holding: no difference"


def test_what_cannot_be_told_is_said() -> None:
    """The same trades, too few days, an interval around 0."""
    own, other = (run(x, coin=5_000, gains=gains(y)) for x, y in (("a", 3.0), ("a", 0.0)))
    assert (judged(own, other).word, judged(own, other).reason) == (SAME, "the same trades")
    few = [run(x, coin=5_000, gains=gains(y, 19)) for x, y in (("a", 3.0), ("b", 0.0))]
    assert judged(*few).reason == "too few days: 19, 20 are needed"
    apart = judged(run("a", coin=5_000, gains=gains(0.0)), run("b", coin=5_000, gains=-gains(0.0)))
    assert apart.word == SAME
    assert apart.reason.startswith("the difference may be 0; a true one below ")


def test_no_word_where_bars_are_too_coarse_for_either() -> None:
    """Their order of events is not known; nor on equity that was used up."""
    coarse = Spacing(bar_sec=60.0, deviation_pct=1.0, to_exit=1.0, to_entry=1.0)
    own, other = run("a", coin=5_000, gains=gains(3.0)), run("b", coin=5_000, gains=gains(0.0))
    made = judged(own, other._replace(spacing=coarse))
    assert (made.word, made.reason) == (SAME, COARSE)
    lost = run("c", coin=0, gains=gains(-40.0))
    assert judged(own, lost).reason == "equity was used up"


def test_the_sentence_says_what_was_asked() -> None:
    """Both values, the preset, the word and the interval."""
    own, other = run("a", coin=5_000, gains=gains(3.0)), run("b", coin=5_000, gains=gains(0.0))
    told = sentence(Against({"SLOT_COUNT": ("4", "3")}, own, other))
    assert told.startswith("SLOT_COUNT=4 against SLOT_COUNT=3, under default: BETTER, +0.")
    assert told.endswith(" % a day; both intervals are above 0.")


def test_the_table_holds_both_runs() -> None:
    """Under their settings; the coin's mean share, fees, cycles."""
    own, other = run("a", coin=5_000, gains=gains(3.0)), run("b", coin=5_000, gains=gains(0.0))
    made = table(Against({"SLOT_COUNT": ("4", "3"), "PAIR_ENTRY_PCT": ("", "1")}, own, other))
    assert made.title == "Against SLOT_COUNT=3 PAIR_ENTRY_PCT=1, default"
    first, second = (dict(zip(made.columns, x, strict=True)) for x in made.rows)
    assert first["run"] == "SLOT_COUNT=4 PAIR_ENTRY_PCT=unset"
    assert (first["fees"], first["cycles"], first["at hours %"]) == ("1.50", "3", "10.00")
    coin = own.observed.fills.bids * 5_000 * (1 - TAKER)
    cash = own.observed.days["equity"] - own.observed.fills.bids * 5_000
    assert Decimal(first["coin %"]) == pytest.approx(
        Decimal(f"{100 * np.mean(coin / (cash + coin)):.1f}")
    )
    assert first["verdict"] == BETTER
    assert second["verdict"] == "–"
