"""Kelly statistics: golden values, every reason, and numbers on any finite input."""

import json
import math
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.kelly import PAYOFF_MAX, REASONS, Bank, Book, OpenPosition
from core.record import replace
from kelly_bankroll import (
    Outcome,
    bankroll_results,
    capital,
    correlation,
    growth_optimal,
    per_slot,
    shrinkage,
    target_usd,
)
from kelly_samples import n_effective, recency_weights
from kelly_sizer import (
    KellyConfig,
    KellyResult,
    KellySizer,
    compute_kelly_fraction,
    partition_cycles_by_regime,
)

LABELS = {0: "bearish", 1: "ranging", 2: "bullish"}
FEW = KellyConfig(min_samples_total=1, min_samples_per_regime=1, use_recency_weighting=False)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def cycle(net: object, regime: object = 2, at: object = 0.0, **more: object) -> dict[str, object]:
    """Return a cycle as the sizer reads it."""
    return {"net_profit": net, "regime_at_entry": regime, "exit_time": at, **more}


def cycles(
    wins: int, losses: int, win: float = 0.02, loss: float = 0.01
) -> list[dict[str, object]]:
    """Return bullish cycles, the wins first."""
    nets = [win] * wins + [-loss] * losses
    return [cycle(net, at=float(n)) for n, net in enumerate(nets)]


# ---- golden values ------------------------------------------------------------------------------


def test_fraction_of_a_simple_sample() -> None:
    """p 0.6 at odds 2: edge 0.8, f* 0.4, a quarter of it on top."""
    found = compute_kelly_fraction([0.02] * 3, [0.01] * 2)
    assert (found.n_total, found.n_wins, found.n_losses, found.reason) == (5, 3, 2, "ok")
    for name, expected in (
        ("win_rate", 0.6), ("payoff_ratio", 2.0), ("edge", 0.8), ("f_star", 0.4),
        ("f_fractional", 0.1), ("multiplier", 1.1), ("avg_win", 0.02), ("avg_loss", 0.01),
    ):  # fmt: skip
        assert getattr(found, name) == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize(("fraction", "multiplier"), [(0.25, 1.130952), (0.5, 1.261905)])
def test_fraction_scales_the_answer(fraction: float, multiplier: float) -> None:
    """20 wins of 0.012 against 8 losses of 0.008."""
    found = compute_kelly_fraction([0.012] * 20, [0.008] * 8, fraction)
    assert found.f_star == pytest.approx(0.523810, abs=1e-6)
    assert found.multiplier == pytest.approx(multiplier, abs=1e-6)


def test_negative_edge_keeps_its_numbers() -> None:
    """The multiplier is 1 in the result; what follows is the sizer's."""
    found = compute_kelly_fraction([0.007] * 5, [0.011] * 8)
    assert found.edge == pytest.approx(-0.370629, abs=1e-6)
    assert found.f_star == pytest.approx(-0.582418, abs=1e-6)
    assert (found.multiplier, found.reason) == (1.0, "no_edge")


def test_recency_halves_a_weight_each_halflife() -> None:
    """Half-life 2, three cycles: the newest weighs 1, the oldest a half."""
    cfg = replace(FEW, use_recency_weighting=True, recency_halflife_cycles=2.0)
    assert recency_weights(3, cfg) == pytest.approx([1.0, 2**-0.5, 0.5])
    sizer = KellySizer(cfg)
    found = sizer.update([cycle(0.01, at=10), cycle(-0.01, at=20), cycle(0.02, at=30)])["bullish"]
    assert found.win_rate == pytest.approx(0.679623, abs=1e-6)
    assert found.avg_win == pytest.approx(0.0166667, abs=1e-7)
    assert found.f_star == pytest.approx(0.487396, abs=1e-6)


def test_the_multiplier_without_edge_is_bounded_too() -> None:
    """Floor 0.7 and 0.2 for no edge: 100 USD become 70."""
    cfg = replace(FEW, kelly_floor_mult=0.7, negative_edge_mult=0.2)
    sizer = KellySizer(cfg)
    sizer.update(cycles(2, 8), "bullish")
    assert sizer.size_for_slot(100.0) == (70.0, "kelly_no_edge(bullish,m=0.700)")


def test_reasons_read_as_specified() -> None:
    """Bucket, fraction and multiplier, with four and three digits."""
    sizer = KellySizer(FEW)
    sizer.update(cycles(20, 8, win=0.012, loss=0.008), 2)
    assert sizer.size_for_slot(100.0)[1] == "kelly_bullish(f=0.1310,m=1.131)"
    assert KellySizer().size_for_slot(40.0) == (40.0, "kelly_inactive")


# ---- cases --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "reason", "multiplier"),
    [(0, 0, "no_data", 1.0), (5, 0, "all_wins", 1.25), (0, 5, "no_edge", 1.0)],
)
def test_one_sided_samples_are_no_exception(
    wins: int, losses: int, reason: str, multiplier: float
) -> None:
    """Nothing, only wins, only losses; the payoff ratio stays finite."""
    found = compute_kelly_fraction([1.0] * wins, [2.0] * losses)
    assert (found.reason, found.multiplier) == (reason, multiplier)
    assert found.sufficient_data is bool(wins or losses)
    if wins:
        assert (found.f_star, found.payoff_ratio) == (1.0, PAYOFF_MAX)


@pytest.mark.parametrize(
    ("count", "reason", "is_enough"),
    [(0, "no_data", False), (1, "insufficient_samples", False),
     (29, "insufficient_samples", False), (30, "ok", True), (10_000, "ok", True)],
)  # fmt: skip
def test_few_cycles_change_nothing(count: int, reason: str, is_enough: bool) -> None:
    """30 in all, 15 in a regime; ten thousand are looked at no further than 500 back."""
    made = [cycle(0.02 if n % 2 else -0.01, at=float(n)) for n in range(count)]
    sizer = KellySizer()
    found = sizer.update(made, "bullish")
    for name in ("bullish", "aggregate"):
        assert (found[name].reason, found[name].sufficient_data) == (reason, is_enough)
        assert found[name].n_total == min(count, 500)
        assert is_enough or found[name].multiplier == 1.0
    size, why = sizer.size_for_slot(40.0)
    assert (size > 40.0, why != "kelly_inactive") == (is_enough, is_enough)


def test_a_thin_regime_falls_back_to_the_aggregate() -> None:
    """Fourteen bearish cycles of forty: all of them together decide."""
    made = cycles(20, 6) + [cycle(-1.0, 0, at=99.0) for _ in range(14)]
    sizer = KellySizer()
    found = sizer.update(made, "bearish")
    assert found["bearish"].reason == "insufficient_samples"
    assert sizer.size_for_slot(40.0)[1].startswith("kelly_no_edge(aggregate")
    made.append(cycle(-1.0, 0, at=100.0))
    assert sizer.update(made, "bearish")["bearish"].reason == "no_edge"
    assert sizer.size_for_slot(40.0)[1].startswith("kelly_no_edge(bearish")
    assert sizer.size_for_slot(40.0, "bullish")[1].startswith("kelly_bullish")


def test_a_regime_counts_only_once_there_are_enough_in_all() -> None:
    """Twenty of one regime are enough for it, not for the bot."""
    found = KellySizer().update(cycles(12, 8), "bullish")
    assert found["bullish"].reason == "insufficient_samples"


def test_neutral_cycles_count_in_the_total_only() -> None:
    """Exactly zero is neither won nor lost."""
    found = KellySizer(FEW).update([*cycles(3, 2), cycle(0.0), cycle("0.00")])["bullish"]
    assert (found.n_total, found.n_wins, found.n_losses) == (7, 3, 2)
    assert found.win_rate == pytest.approx(0.6)
    only = KellySizer(FEW).update([cycle(0.0)] * 3)["bullish"]
    assert (only.reason, only.multiplier, only.n_total) == ("no_edge", 1.0, 3)


def test_the_partition_keeps_what_it_is_given() -> None:
    """By label, and what has none; the aggregate has all."""
    tags: tuple[Any, ...] = ("BULLISH", "bullish", 2, "2", None, "sideways", 7, 0, "Ranging", True)
    parts = partition_cycles_by_regime([cycle(1.0, tag) for tag in tags], LABELS)
    counts = {name: [x["regime_at_entry"] for x in part] for name, part in parts.items()}
    assert counts == {
        "bearish": [0], "ranging": ["Ranging"], "bullish": ["BULLISH", "bullish", 2],
        "unknown": ["2", None, "sideways", 7, True], "aggregate": list(tags),
    }  # fmt: skip
    assert partition_cycles_by_regime([{}], LABELS)["unknown"] == [{}]


def test_what_is_no_number_does_not_count() -> None:
    """Profits that are none are left out; a cycle without a time is older than all."""
    bad: list[object] = [math.nan, math.inf, -math.inf, None, "abc", [], 1e400]
    sizer = KellySizer(replace(FEW, lookback_cycles=2))
    found = sizer.update([*(cycle(x, at=9.0) for x in bad), *cycles(3, 0), cycle(-5.0, at=None)])
    assert (found["bullish"].n_total, found["bullish"].n_losses) == (2, 0)
    assert sizer.status_payload()["last_update_n"] == len(bad) + 4


def test_weights_must_be_as_many_as_outcomes() -> None:
    """Anything else is a mistake of the caller's."""
    with pytest.raises(ValueError, match="1 outcomes, 2 weights"):
        compute_kelly_fraction([1.0], [], weights_w=[1.0, 2.0])


@given(
    st.lists(FLOATS, max_size=20), st.lists(FLOATS, max_size=20), FLOATS,
    st.lists(FLOATS, min_size=20, max_size=20),
)  # fmt: skip
def test_numbers_stay_numbers(
    wins: list[float], losses: list[float], fraction: float, weights: list[float]
) -> None:
    """Any finite input gives finite numbers and a known reason."""
    for more in ({}, {"weights_w": weights[: len(wins)], "weights_l": weights[: len(losses)]}):
        found = compute_kelly_fraction(wins, losses, fraction, **more)
        assert found.reason in REASONS
        told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert 0.0 <= told["win_rate"] <= 1.0
        assert found.f_star <= 1.0


@given(
    st.lists(st.tuples(FLOATS, st.sampled_from([0, 1, 2, None]), FLOATS, FLOATS), max_size=40),
    st.sampled_from(["tilt", "bankroll"]), FLOATS,
)  # fmt: skip
def test_sizes_stay_within_floor_and_ceiling(
    rows: list[tuple[float, int | None, float, float]], mode: str, base: float
) -> None:
    """Whatever has happened: a size, between the bounds, with a reason."""
    cfg = KellyConfig(mode=mode, min_samples_total=1, min_samples_per_regime=1)
    sizer = KellySizer(cfg)
    book = a_book(positions=(OpenPosition(
        regime_at_entry=1, opened_at=-1e6, capital_usd=40.0, marked_usd=-1.0),))  # fmt: skip
    made = [
        cycle(net, tag, at, entry_price=price, volume=100.0, entry_time=at, slot_id=1)
        for net, tag, at, price in rows
    ]
    sizer.update(made, "bullish", book=book)
    size, reason = sizer.size_for_slot(base)
    assert reason.startswith("kelly_")
    if base > 1e-300:
        assert size <= base * cfg.kelly_ceiling_mult * (1 + 1e-9)
        assert size >= 0.0
    json.dumps(sizer.status_payload(), allow_nan=False)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.001, 10), st.floats(0.001, 10))
def test_more_wins_never_shrink_a_size(wins: int, losses: int, win: float, loss: float) -> None:
    """f* rises with the win rate and the size of wins; currency does not matter."""
    base = compute_kelly_fraction([win] * wins, [loss] * losses).f_star
    assert compute_kelly_fraction([win] * (wins + 1), [loss] * losses).f_star >= base
    assert compute_kelly_fraction([win * 1.5] * wins, [loss] * losses).f_star >= base
    cents = compute_kelly_fraction([100 * win] * wins, [100 * loss] * losses).f_star
    assert cents == pytest.approx(base, rel=1e-9, abs=1e-9)


# ---- state --------------------------------------------------------------------------------------


def test_a_restart_keeps_regime_and_count() -> None:
    """Results are computed anew; nonsense is left alone."""
    sizer = KellySizer(FEW)
    sizer.update(cycles(3, 2), "bullish")
    other = KellySizer(FEW)
    other.restore_state(json.loads(json.dumps(sizer.snapshot_state())))
    assert other.snapshot_state() == {"active_regime": "bullish", "update_count": 1}
    for nonsense in (
        None,
        [],
        "x",
        {"active_regime": 7, "update_count": -1},
        {"update_count": "2"},
    ):
        fresh = KellySizer(FEW)
        fresh.restore_state(nonsense)
        assert fresh.snapshot_state() == {"active_regime": None, "update_count": 0}


def test_the_status_says_which_bucket_decides_and_why() -> None:
    """One object for each label, the aggregate, what is unknown, and the way it falls back."""
    sizer = KellySizer()
    sizer.update([*cycles(20, 16), cycle(1.0, None)], "ranging")
    told = sizer.status_payload()
    assert told["enabled"] is True
    assert (told["mode"], told["active_regime"], told["unknown_count"]) == ("tilt", "ranging", 1)
    assert set(told) >= {"bearish", "ranging", "bullish", "aggregate", "fallback", "open_losers"}
    assert told["fallback"] == "aggregate: ranging has 0 of 15 cycles"
    sizer.update(cycles(20, 16), "bullish")
    assert sizer.status_payload()["fallback"] == "bullish"
    sizer.update(cycles(5, 5), "bullish")
    assert sizer.status_payload()["fallback"] == "base size: 10 of 30 cycles"
    sizer.update(cycles(20, 16), None)
    assert sizer.status_payload()["fallback"] == "aggregate: no regime is known"


# ---- mode bankroll ------------------------------------------------------------------------------


def a_book(**changes: object) -> Book:
    """Return a small account with three slots."""
    made = Book(
        now=1e6, bank=Bank(equity_usd=1000.0, equity_share=0.8, slots=3), horizon_sec=14_400.0,
        structural_loss=0.06, base_usd=40.0,
    )  # fmt: skip
    return replace(made, **changes)


def returns(*sample: tuple[float, int], tag: int | None = 2) -> list[dict[str, object]]:
    """Return cycles of 40 USD with so many of each return."""
    every = [r for r, count in sample for _ in range(count)]
    return [
        cycle(40 * r, tag, at=float(n), entry_price=0.1, volume=400.0, trade_id="A", slot_id=1,
              entry_time=float(n))
        for n, r in enumerate(every)
    ]  # fmt: skip


def results(made: list[dict[str, object]], book: Book, **changes: object) -> dict[str, KellyResult]:
    """Return what mode bankroll makes of these cycles."""
    cfg = replace(KellyConfig(mode="bankroll", use_recency_weighting=False), **changes)
    return bankroll_results(partition_cycles_by_regime(made, LABELS), cfg, book)


def test_the_growth_optimal_share_of_a_sample() -> None:
    """+1 % × 80, −1.5 % × 15, −5 % × 5: f 9.3574, growth 0.017331 a cycle."""
    sample = [Outcome(0.01)] * 80 + [Outcome(-0.015)] * 15 + [Outcome(-0.05)] * 5
    f, growth = growth_optimal(sample)
    assert f == pytest.approx(9.35737, abs=1e-4)
    assert growth == pytest.approx(0.0173312, abs=1e-7)
    found = results(returns((0.01, 80), (-0.015, 15), (-0.05, 5)), a_book())["aggregate"]
    assert found.f_star == pytest.approx(9.35737, abs=1e-4)
    assert found.bankroll is not None
    assert found.bankroll.f_shrunk == pytest.approx(9.35737 * 100 / 130, abs=1e-4)
    with pytest.raises(ValueError, match="without a loss"):
        growth_optimal([Outcome(0.01)])


def test_shrinkage_turns_a_losing_bet_into_a_winning_one() -> None:
    """30 cycles at p 0.8 and odds 1/3: raw Kelly loses 0.00874 a bet, shrunk it wins 0.00366."""

    def expected(strength: float) -> float:
        total = 0.0
        for k in range(31):
            p = k / 30
            f = min(max(p - (1 - p) * 3, 0.0), 0.9999) * shrinkage(30, strength)
            growth = 0.8 * math.log1p(f / 3) + 0.2 * math.log1p(-f)
            total += comb(30, k) * 0.8**k * 0.2 ** (30 - k) * growth
        return total

    assert expected(0) == pytest.approx(-0.00874, abs=5e-6)
    assert expected(30) == pytest.approx(0.00366, abs=5e-6)


def test_no_losses_are_no_infinite_odds() -> None:
    """30 wins of 0.5 % against a structural loss of 6 %: p 0.905 at least, and no bet."""
    found = results(returns((0.005, 30)), a_book())["aggregate"]
    assert found.bankroll is not None
    assert found.bankroll.p_low == pytest.approx(0.904966, abs=1e-6)
    assert (found.reason, found.f_star) == ("no_edge", 0.0)
    small = results(returns((0.005, 30)), a_book(structural_loss=0.03))["aggregate"]
    assert small.reason == "all_wins"
    assert small.f_star == pytest.approx(0.904966 / 0.03 - 0.095034 / 0.005, abs=1e-2)


def test_few_losses_bring_one_of_structural_size() -> None:
    """A loss of 0.1 % alone does not say how bad it gets."""
    found = results(returns((0.01, 60), (-0.001, 1)), a_book())["aggregate"]
    assert found.bankroll is not None
    assert found.bankroll.structural_loss == 0.06
    assert found.f_star < 1 / 0.06
    many = results(returns((0.01, 60), (-0.001, 5)), a_book())["aggregate"]
    assert many.f_star > 100


def test_open_losers_are_outcomes_at_mark() -> None:
    """Positions older than the horizon count, in their regime, and the share is told."""
    old = OpenPosition(regime_at_entry=2, opened_at=0.0, capital_usd=40.0, marked_usd=-8.0)
    young = replace(old, opened_at=1e6 - 60.0)
    book = a_book(positions=(old, young, replace(old, regime_at_entry=None)))
    made = returns((0.01, 50), (-0.01, 6))
    calm = results(made, a_book())["bullish"]
    found = results(made, book)
    assert found["bullish"].n_losses == calm.n_losses + 1
    assert found["aggregate"].n_losses == calm.n_losses + 2
    assert found["bullish"].f_star < calm.f_star
    assert found["aggregate"].bankroll is not None
    assert found["aggregate"].bankroll.censored_share == pytest.approx(2 / 58)
    assert (book.open_losers, book.open_losers_usd) == (3, -24.0)


def test_a_regime_is_pooled_towards_the_aggregate() -> None:
    """With no cycles of its own it has nothing; with few it says almost what all say."""
    good, bad = returns((0.01, 200), (-0.01, 100)), returns((0.01, 3), (-0.01, 5), tag=0)
    found = results([*good, *bad], a_book())
    f_all = found["aggregate"].bankroll
    f_bad, f_good = found["bearish"].bankroll, found["bullish"].bankroll
    assert f_all is not None
    assert f_bad is not None
    assert f_good is not None
    assert f_bad.f_raw == 0.0
    assert f_bad.f_shrunk == pytest.approx(f_all.f_shrunk * 30 / 38)
    assert f_good.f_shrunk > f_all.f_shrunk
    assert found["ranging"].reason == "no_data"


def test_slots_that_move_together_share_one_bet() -> None:
    """f/(1 + (N − 1)·ρ); 0.8 where nothing is known of ρ."""
    assert per_slot(0.2, slots=8, rho=0.7) == pytest.approx(0.0339, abs=1e-4)
    assert per_slot(0.2, slots=1, rho=0.8) == 0.2
    assert correlation([]) == 0.8
    pairs = []
    for n in range(60):
        for slot in (1, 2):
            net = 0.4 if n % 3 else -0.4
            pairs.append({"net_profit": net, "entry_price": 0.1, "volume": 400, "trade_id": "A",
                          "slot_id": slot, "entry_time": 100.0 * n + slot,
                          "exit_time": 100.0 * n + 90})  # fmt: skip
    assert correlation(pairs) == pytest.approx(1.0)
    assert correlation(pairs[:40]) == 0.8  # twenty pairs are too few


def test_capital_is_what_was_tied_up() -> None:
    """A buy's cost with its fee, the value of what was sold; nonsense is none."""
    made = cycle(1.0, entry_price="0.1", volume="400", entry_fee="0.16", trade_id="B")
    assert capital(made) == pytest.approx(40.16)
    assert capital({**made, "trade_id": "A"}) == pytest.approx(40.0)
    for bad in ({"volume": 0}, {"entry_price": None}, {"volume": math.inf}, {"entry_price": "x"}):
        assert capital({**made, **bad}) is None


def test_the_target_is_a_share_of_equity() -> None:
    """min(c·f, 1) · equity · share / (2 · slots), then floor, ceiling and the cap of one order."""
    bank = Bank(equity_usd=1000.0, equity_share=0.8, slots=2)
    cfg = KellyConfig(mode="bankroll")
    assert target_usd(1.0, cfg, bank) == pytest.approx(0.25 * 1000 * 0.8 / 4)
    assert target_usd(1e9, cfg, bank) == pytest.approx(200.0)
    assert target_usd(-1.0, cfg, bank) == 0.0
    sizer = KellySizer(replace(cfg, use_recency_weighting=False))
    made = returns((0.01, 80), (-0.015, 15), (-0.05, 5))
    sizer.update(made, "bullish", book=a_book())
    assert sizer.size_for_slot(40.0)[0] == 80.0  # the ceiling
    sizer.update(made, "bullish", book=a_book(bank=replace(bank, equity_usd=200.0)))
    assert sizer.size_for_slot(40.0)[0] == pytest.approx(40.0)  # 200 · 0.8 / 4
    sizer.update(made, "bullish", book=a_book(bank=replace(bank, equity_usd=60.0)))
    assert sizer.size_for_slot(40.0)[0] == pytest.approx(15.0)  # a quarter of equity, at most
    sizer.update(made, "bullish")  # without a book nothing is known of the account
    assert sizer.size_for_slot(40.0) == (40.0, "kelly_inactive")


def test_weights_are_worth_fewer_cycles() -> None:
    """A half-life of 100: 500 cycles are worth 271."""
    cfg = KellyConfig()
    assert n_effective(recency_weights(500, cfg)) == pytest.approx(271.053, abs=1e-3)
    assert n_effective([]) == 0.0


def test_odd_returns_are_left_out_before_they_are_weighed() -> None:
    """A profit beyond all capital, an order of no size: numbers all the same."""
    cfg = KellyConfig(mode="bankroll", recency_halflife_cycles=1e-3)
    made = returns((0.01, 2))
    made.append(cycle(1e308, at=99.0, entry_price=1e-300, volume=1e-5, slot_id=1))
    found = KellySizer(cfg).update(made, "bullish", book=a_book())
    assert found["bullish"].n_total == 2
    assert found["bullish"].bankroll is not None
    assert found["bullish"].bankroll.n_effective == pytest.approx(1.0)
    good = returns((0.01, 80), (-0.015, 15))
    small = KellySizer(cfg).update(good, "bullish", book=a_book(base_usd=0.0))
    assert small["bullish"].multiplier == 1.0
