"""Sizings on the same fills, against an account kept by hand, and against looking ahead."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.kelly import BANKROLL, TILT, Bank, Book, KellyConfig, OpenPosition, sizing
from core.record import replace
from engine.kelly import HORIZON_SEC
from kelly_sizer import KellySizer
from sim.arms import SIZINGS, Comparison, Cycle, Fills, Measured, Replay, compare
from sim.metrics import Floats, cycle_figures
from tests.sizing_world import PARAMS, market, stream

FEW = replace(
    PARAMS, regime_eval_interval_sec=21_600.0, max_equity_share=Decimal("0.02"),
    kelly=KellyConfig(min_samples_total=10, min_samples_per_regime=5, kelly_floor_mult=0.01),
)  # fmt: skip
MODES = pytest.mark.parametrize(("mode", "by_regime"), [x[1:] for x in SIZINGS])


def kelly_sized(
    fills: Fills, *, mode: str = TILT, by_regime: bool = True, seed: int = 0
) -> Measured:
    """Return one Kelly sizing of the fills."""
    return Replay(fills).tested(
        "Kelly", FEW, mode=mode, by_regime=by_regime, shuffles=200, seed=seed
    )


def kept_by_hand(fills: Fills, multipliers: Floats) -> Floats:
    """Return equity at each mark from balances booked one by one."""
    equity = []
    for mark, bid in zip(fills.mark_times, fills.bids, strict=True):
        quote, base = fills.quote, fills.base
        for x, m in zip((*fills.cycles, *fills.held), multipliers, strict=True):
            sign = 1.0 if x.leg == "B" else -1.0
            if x.entry_time <= mark:
                quote -= m * (sign * x.entry_price * x.volume + x.entry_fee)
                base += m * sign * x.volume
            if isinstance(x, Cycle) and x.exit_time <= mark:
                quote += m * (sign * x.exit_price * x.volume - x.exit_fee)
                base -= m * sign * x.volume
        equity.append(quote + base * bid * (1.0 - fills.taker))
    return np.array(equity)


@pytest.fixture(scope="module", name="fills")
def make_fills() -> Fills:
    """Return two months of cycles in all regimes and in none, some positions left open."""
    return market(1)


@pytest.fixture(scope="module", name="comparison")
def make_comparison(fills: Fills) -> Comparison:
    """Return all sizings of these."""
    return compare(fills, FEW)


# ---- equity -------------------------------------------------------------------------------------


def test_the_fixed_arm_is_the_base_run(fills: Fills, comparison: Comparison) -> None:
    """Its equity is that of the balances that the run had, to rounding."""
    expected = kept_by_hand(fills, np.ones(124))
    np.testing.assert_allclose(comparison.fixed.equity, expected, rtol=1e-12)
    assert (comparison.fixed.multipliers == 1.0).all()
    assert comparison.fixed.cut == 0


def test_every_arm_keeps_its_books(fills: Fills, comparison: Comparison) -> None:
    """Whatever the multipliers, equity is what balances booked one by one come to."""
    arms = [comparison.equity_part, *(x.arm for x in comparison.tested)]
    for arm in (*arms, *(x.matched for x in comparison.tested)):
        expected = kept_by_hand(fills, arm.multipliers)
        np.testing.assert_allclose(arm.equity, expected, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(level=st.floats(0.1, 3.0), seed=st.integers(0, 50))
def test_profit_scales_with_the_multipliers(level: float, seed: int) -> None:
    """A constant times all sizes is that constant times all that was gained over holding."""
    fills = market(seed, cycles=30, held=2, days=30)
    replay = Replay(fills)
    arm = replay.fixed()
    holding = fills.quote + fills.base * fills.bids * (1.0 - fills.taker)
    scaled = replay.given("K", np.full(32, level))
    np.testing.assert_allclose(
        scaled.equity - holding, level * (arm.equity - holding), rtol=1e-9, atol=1e-9
    )


def test_an_arm_without_positions_holds(fills: Fills) -> None:
    """No cycles: nothing is traded, nothing undefined."""
    found = compare(fills._replace(cycles=(), held=()), FEW)
    holding = fills.quote + fills.base * fills.bids * (1.0 - fills.taker)
    for arm in (found.fixed, found.equity_part, *(x.arm for x in found.tested)):
        np.testing.assert_allclose(arm.equity, holding)
        assert (arm.fees, arm.turnover, arm.exposure, arm.mean_notional) == (0.0, 0.0, 0.0, None)
    assert all((x.placebo == x.placebo[0]).all() for x in found.tested)


def test_figures_follow_from_sizes(fills: Fills, comparison: Comparison) -> None:
    """Fees, notional, turnover and cycles of an arm are its multipliers times the base run's."""
    arm = comparison.tested[1].arm
    everything = (*fills.cycles, *fills.held)
    pairs = list(zip(everything, arm.multipliers, strict=True))
    done = list(zip(fills.cycles, arm.multipliers, strict=False))
    fees = sum(m * x.entry_fee for x, m in pairs) + sum(m * x.exit_fee for x, m in done)
    notional = sum(m * x.entry_price * x.volume for x, m in pairs)
    exits = sum(m * x.exit_price * x.volume for x, m in done)
    assert arm.fees == pytest.approx(fees)
    assert arm.mean_notional == pytest.approx(notional / 124)
    assert arm.turnover == pytest.approx((notional + exits) / 40 / arm.equity.mean())
    nets = np.array([m * x.net_profit for x, m in done])
    held_sec = np.array([x.exit_time - x.entry_time for x in fills.cycles])
    assert arm.cycles == cycle_figures(nets, held_sec)
    assert arm.exposure is not None
    assert 0.0 < arm.exposure < 0.5
    assert arm.long_max is not None
    assert arm.long_mean is not None
    assert 0.0 < arm.long_mean <= arm.long_max < 1.0


# ---- cash ---------------------------------------------------------------------------------------


def bought(time_sec: float, volume: float, net: float = 0.0) -> Cycle:
    """Return a cycle bought at 1 and sold an hour later."""
    return Cycle(
        slot_id=0, leg="B", entry_time=time_sec, exit_time=time_sec + 3600.0, entry_price=1.0,
        exit_price=1.0 + net / volume, volume=volume, entry_fee=0.0, exit_fee=0.0,
        net_profit=net, regime_at_entry=1, placed_at=time_sec, regime_placed=1,
    )  # fmt: skip


def short_of_cash(*cycles: Cycle, least_usd: float = 0.0) -> Fills:
    """Return fills of an account with 100 in quote and 100 in base, at a price of 1."""
    marks = np.array([0.0, 86_400.0, 172_800.0])
    return Fills(
        cycles=cycles, held=(), mark_times=marks, bids=np.ones(3), base=100.0, quote=100.0,
        taker=0.0, slots=1, days=frozenset({0, 1}), least_usd=least_usd,
    )  # fmt: skip


def test_a_size_that_cash_does_not_suffice_for_is_cut() -> None:
    """100 in quote buy 100, of which an open position of 60 leaves 40; its exit frees them."""
    fills = short_of_cash(bought(0.0, 60.0), bought(10.0, 80.0), bought(4000.0, 80.0))
    arm = Replay(fills).given("K", np.ones(3))
    assert arm.multipliers.tolist() == pytest.approx([1.0, 0.5, 1.0])
    assert arm.cut == 1


def test_what_was_sold_first_is_cut_by_base_and_its_proceeds_are_kept_for_the_exit() -> None:
    """100 in base sell 100; the quote they bring buys nothing else before the exit."""
    sold = bought(0.0, 80.0)._replace(leg="A")
    fills = short_of_cash(sold, sold._replace(entry_time=5.0), bought(10.0, 100.0))
    arm = Replay(fills).given("K", np.array([1.0, 1.0, 1.5]))
    assert arm.multipliers.tolist() == pytest.approx([1.0, 0.25, 1.0])
    assert arm.cut == 2


def test_what_is_cut_below_the_venues_minimum_is_no_order() -> None:
    """40 are left of 100, and 50 are the least."""
    cycles = (bought(0.0, 60.0), bought(10.0, 60.0))
    for least, expected in ((0.0, 40.0), (50.0, 0.0)):
        fills = short_of_cash(*cycles, least_usd=least)
        arm = Replay(fills).given("K", np.ones(2))
        assert arm.multipliers * 60.0 == pytest.approx([60.0, expected])
        assert arm.cut == 1


def test_a_tenth_of_equity_is_ordered_each_time() -> None:
    """200 in all: 20 an order, then a tenth of what the first has made of it."""
    fills = short_of_cash(bought(0.0, 50.0, net=25.0), bought(7200.0, 50.0))
    arm = Replay(fills).equity_part()
    assert arm.multipliers * 50.0 == pytest.approx([20.0, 21.0])
    assert arm.cut == 0


# ---- Kelly --------------------------------------------------------------------------------------


@MODES
def test_nothing_is_known_before_it_has_happened(fills: Fills, mode: str, by_regime: bool) -> None:
    """A cycle that ends otherwise changes no size up to its end, its own included."""
    number = 60
    changed = list(fills.cycles)
    old = changed[number]
    changed[number] = old._replace(net_profit=-5.0 * abs(old.net_profit), exit_price=0.05)
    before = kelly_sized(fills, mode=mode, by_regime=by_regime).arm.multipliers
    after = kelly_sized(
        fills._replace(cycles=changed), mode=mode, by_regime=by_regime
    ).arm.multipliers
    entries = np.array([x.entry_time for x in (*fills.cycles, *fills.held)])
    is_before = entries <= old.exit_time
    assert (before[is_before] == after[is_before]).all()
    assert (before[~is_before] != after[~is_before]).any()


def test_sizes_are_what_the_sizer_says_of_the_cycles_before() -> None:
    """Recomputed at each entry with the sizer alone; cycles count with the size that they had."""
    fills = stream(5, cycles=80, days=40, odds={0: 0.6, 1: 0.75, 2: 0.95})
    params = replace(FEW, regime_eval_interval_sec=0.0)
    arm = Replay(fills).tested("K", params, mode=TILT, by_regime=True, shuffles=2, seed=0).arm
    sizer = KellySizer(FEW.kelly)
    for x, made in zip(fills.cycles, arm.multipliers, strict=True):
        earlier = [
            {"net_profit": y.net_profit * m, "exit_time": y.exit_time,
             "regime_at_entry": y.regime_at_entry}
            for y, m in zip(fills.cycles, arm.multipliers, strict=True)
            if y.exit_time < x.entry_time
        ]  # fmt: skip
        sizer.update(earlier, x.regime_at_entry)
        usd, _ = sizer.size_for_slot(1000.0)
        assert made == pytest.approx(usd / 1000.0, abs=1e-12)
    assert len(np.unique(arm.multipliers)) > 10
    assert (arm.multipliers[:10] == 1.0).all()


def test_bankroll_sizes_know_the_account_and_what_is_open() -> None:
    """The last entry's size is what the sizer says with the arm's equity and open positions."""
    fills = stream(6, cycles=60, days=40, odds={0: 0.9, 1: 0.9, 2: 0.9})
    last = fills.cycles[-1]
    stuck = last._replace(leg="B", entry_time=fills.cycles[20].entry_time, entry_price=1.1)
    held = stuck._replace(exit_time=last.exit_time + 9e6, net_profit=0.0)
    fills = fills._replace(cycles=(*fills.cycles, held))
    params = replace(FEW, regime_eval_interval_sec=0.0, order_size_usd=Decimal(500))
    cfg = replace(FEW.kelly, mode=BANKROLL)
    arm = Replay(fills).tested("K", params, mode=BANKROLL, by_regime=True, shuffles=2, seed=0).arm
    done = [(x, m) for x, m in zip(fills.cycles, arm.multipliers, strict=True)
            if x.exit_time < last.entry_time]  # fmt: skip
    still = [(x, m) for x, m in zip(fills.cycles, arm.multipliers, strict=True)
             if x.entry_time < last.entry_time < x.exit_time]  # fmt: skip
    gains = sum(m * x.net_profit for x, m in done)
    gains += sum(m * (1.0 - x.entry_price) * x.volume * (1 if x.leg == "B" else -1)
                 for x, m in still)  # fmt: skip
    bank = Bank(equity_usd=40_000.0 + gains, equity_share=float(params.max_equity_share), slots=4)
    book = Book(
        now=last.entry_time, bank=bank, horizon_sec=HORIZON_SEC, structural_loss=0.02,
        base_usd=500.0,
        positions=tuple(
            OpenPosition(
                regime_at_entry=x.regime_at_entry, opened_at=x.entry_time,
                capital_usd=x.entry_price * x.volume,
                marked_usd=(1.0 - x.entry_price) * x.volume * (1 if x.leg == "B" else -1),
            )
            for x, _ in still
        ),
    )  # fmt: skip
    spans = [x.exit_time - x.entry_time for x, _ in done]
    book = replace(book, horizon_sec=float(np.median(spans)))
    cycles = [
        {**x._asdict(), "trade_id": x.leg, "net_profit": x.net_profit * m, "volume": x.volume * m}
        for x, m in done
    ]
    results = KellySizer(cfg).update(cycles, book=book)
    label = ("bearish", "ranging", "bullish")[last.regime_at_entry or 0]
    said = sizing(results, label, cfg, base_usd=1000.0, bank=bank)
    assert results[label].bankroll is not None
    assert results["aggregate"].bankroll is not None
    assert results["aggregate"].bankroll.censored == 1
    assert arm.multipliers[59] == pytest.approx(said.multiplier, rel=1e-9)


def test_the_aggregate_does_not_see_regimes(fills: Fills) -> None:
    """Other tags, the same sizes."""
    others = [x._replace(regime_at_entry=n % 3) for n, x in enumerate(fills.cycles)]
    one = kelly_sized(fills, by_regime=False).arm.multipliers
    two = kelly_sized(fills._replace(cycles=others), by_regime=False).arm.multipliers
    assert (one == two).all()
    assert np.ptp(one) > 0


def test_sizes_keep_to_the_cap_and_the_minimum_of_an_order() -> None:
    """MAX_ORDER_USD holds what is raised, the venue's minimum what is lowered, as in the daemon."""
    fills = stream(5, cycles=120, days=40, odds={0: 0.5, 2: 0.95})
    params = replace(FEW, max_order_usd=Decimal(1_050))
    replay = Replay(fills._replace(least_usd=800.0))
    arm = replay.tested("K", params, mode=TILT, by_regime=True, shuffles=2, seed=0).arm
    assert (arm.multipliers.min(), arm.multipliers.max()) == (0.8, 1.05)
    assert arm.at_bounds is not None
    assert arm.at_bounds > 0.5


# ---- what Kelly is measured against -------------------------------------------------------------


def test_fixed_sizes_that_cash_cuts_are_raised_until_as_much_is_at_work() -> None:
    """Cash cuts the second; the first, and the third later, make up for it."""
    fills = short_of_cash(bought(0.0, 60.0), bought(10.0, 50.0), bought(4000.0, 10.0))
    replay = Replay(fills)
    arm = replay.given("K", np.array([1.0, 0.8, 1.5]))
    found = replay.matched(arm)
    assert found.mean_notional == pytest.approx(115.0 / 3)
    assert found.multipliers @ [60.0, 50.0, 10.0] == pytest.approx(115.0)
    assert found.cut == 1


def test_fixed_sizes_have_the_mean_notional_of_their_arm(comparison: Comparison) -> None:
    """One multiplier for all, as much at work."""
    for x in comparison.tested:
        assert x.matched.mean_notional == pytest.approx(x.arm.mean_notional, rel=1e-9)
        assert np.ptp(x.matched.multipliers) == 0.0
        assert x.matched.cut == 0


def test_shuffles_keep_each_months_sizes(fills: Fills) -> None:
    """Each month has the same sizes in another order; a seed says which."""
    sizes = np.arange(124.0)
    replay = Replay(fills)
    found = replay.shuffled(sizes, 50, seed=4)
    entries = np.array([x.entry_time for x in (*fills.cycles, *fills.held)])
    months = entries.astype("datetime64[s]").astype("datetime64[M]")
    assert len(np.unique(months)) >= 2
    for month in np.unique(months):
        rows = months == month
        assert (np.sort(found[rows], axis=0) == np.sort(sizes[rows])[:, None]).all()
    assert (found != sizes[:, None]).mean() > 0.9
    assert len(np.unique(found, axis=1).T) == 50
    assert (found == replay.shuffled(sizes, 50, seed=4)).all()
    assert (found != replay.shuffled(sizes, 50, seed=5)).any()


def test_a_placebo_grows_as_an_arm_of_its_sizes_would(fills: Fills) -> None:
    """Its growth is that of the equity with the shuffled sizes, from the first mark to the last."""
    replay = Replay(fills)
    sizes = kelly_sized(fills).arm.multipliers
    growth = replay.placebo(sizes, 20, seed=4)
    for n in (0, 7, 19):
        equity = kept_by_hand(fills, replay.shuffled(sizes, 20, seed=4)[:, n])
        assert growth[n] == pytest.approx(np.log(equity[-1] / equity[0]) / 40, rel=1e-9)


def test_the_same_seed_gives_the_same_placebos(fills: Fills) -> None:
    """And another seed others, of the same arm."""
    one, two, three = (kelly_sized(fills, seed=seed) for seed in (1, 1, 2))
    assert (one.placebo == two.placebo).all()
    assert (one.placebo != three.placebo).any()
    assert (one.arm.multipliers == three.arm.multipliers).all()


def test_an_account_that_is_used_up_is_the_worst_placebo() -> None:
    """No logarithm of what is not there."""
    fills = short_of_cash(bought(0.0, 100.0, net=-300.0), bought(90_000.0, 10.0))
    growth = Replay(fills).placebo(np.ones(2), 3, seed=0)
    assert (growth == -np.inf).all()


def test_a_size_is_decided_when_the_entry_is_placed() -> None:
    """What closes while it waits is not known to it, though the fill comes later."""
    seen: list[tuple[str, int]] = []

    class Noting:
        def wanted(self, i: int, _equity: np.ndarray) -> np.ndarray:
            seen.append(("sized", i))
            return np.ones(1)

        def entered(self, i: int, made: np.ndarray) -> None:
            seen.append(("entered", i))

        def closed(self, i: int) -> None:
            seen.append(("closed", i))

    early = bought(0.0, 10.0)
    late = bought(90_000.0, 10.0)._replace(placed_at=1_800.0)
    made, cut = Replay(short_of_cash(early, late))._play(Noting(), 1)
    assert seen == [("sized", 0), ("entered", 0), ("sized", 1), ("closed", 0), ("entered", 1),
                    ("closed", 1)]  # fmt: skip
    assert (made.tolist(), cut) == ([[1.0], [1.0]], 0)
