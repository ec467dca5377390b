"""Deep training: windows, starts, warm start, labels over retrains, decay, bad input."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.record import replace
from hmm_regime_detector import WARM_UP, Model, TrainingError, depth, features, train
from regime import fitting
from regime.decay import BLOCK, blocks_of, resample
from regime.features import Floats
from regime.fitting import (
    FitError,
    Fitted,
    Parameters,
    fit,
    has_converged,
    repaired,
    run_em,
    softened,
    starting_points,
)
from regime.training import row_labels
from tests.hmm_world import MINUTE, recorded, request, rows_of, trained, walk

BINANCE = "binance_dogeusdt_1m_20210402_20210615.csv.gz"
KRAKEN = "kraken_xdgusd_5m.csv.gz"


# ---- the window -----------------------------------------------------------------------------


def test_target_of_720_is_legal() -> None:
    """The roll-back's setting: 570 rows after the warm-up, full by its own target."""
    model = train(request(walk(720, 1), target=720, starts=1))
    assert (model.ref.candles, model.ref.rows) == (720, 720 - WARM_UP)
    assert model.ref.effective_rows == 570.0
    found = depth(
        720, target=720, min_candles=500, model_candles=720, newest_close=0.0, interval_sec=MINUTE
    )
    assert found.tier == "full"


def test_fresh_disk_with_720_rows_trains_at_once() -> None:
    """Towards 4000 it is shallow, and nothing waits."""
    model = train(request(walk(720, 1), starts=1))
    found = depth(
        720, target=4000, min_candles=500, model_candles=model.ref.candles, newest_close=0.0,
        interval_sec=MINUTE,
    )  # fmt: skip
    assert (found.tier, found.modifier) == ("shallow", 0.70)


def test_window_is_the_newest_target_candles() -> None:
    """Older candles change nothing; the reference names the window."""
    candles = walk(1500, 2)
    cut = type(candles)(*(x[800:] for x in candles[:3]), (700,), candles.restarts[800:])
    model = train(request(candles, target=700, starts=1))
    assert model == train(request(cut, target=700, starts=1))
    assert model.ref.first == candles.time[800]
    assert model.ref.until == candles.time[-1] + MINUTE
    assert model.ref.candles == 700


@pytest.mark.parametrize("count", [0, 1, 100, 499])
def test_too_few_candles_are_told_with_their_count(count: int) -> None:
    """The minimum counts candles before the warm-up."""
    candles = walk(600, 3)
    few = type(candles)(
        *(x[:count] for x in candles[:3]), (count,) if count else (), candles.restarts[:count]
    )
    with pytest.raises(TrainingError, match=f"too few candles: {count} of 500"):
        train(request(few))


def test_minimum_of_200_is_enough() -> None:
    """The second timeframe's: 50 rows after the warm-up."""
    model = train(request(walk(200, 4), target=1440, min_candles=200))
    assert model.ref.rows == 50


def test_a_restart_that_leaves_too_few_rows_is_told() -> None:
    """Candles enough, but most of them within warm-ups."""
    base = walk(520, 5)
    shift = np.zeros(520)
    for at in (160, 320, 480):
        shift[at:] += 7 * 3600
    candles = rows_of(base.time + shift, base.close, base.volume)
    with pytest.raises(TrainingError, match="too few candles: 30 of 40 after the warm-up"):
        train(request(candles))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -0.1])
def test_prices_that_are_none_are_refused(value: float) -> None:
    """Told with their count; no model is made of them."""
    candles = walk(700, 6)
    candles.close[300] = value
    with pytest.raises(TrainingError, match="1 of 700 candles"):
        train(request(candles))


def test_constant_prices_are_refused_and_zero_volume_is_not() -> None:
    """Without movement there is nothing to learn; without volume there is."""
    candles = walk(700, 7)
    with pytest.raises(TrainingError, match="do not move"):
        train(request(candles._replace(close=np.full(700, 0.1))))
    model = train(request(candles._replace(volume=np.zeros(700)), starts=1))
    assert model.deviation[3] == 1.0  # a deviation of 0 counts as 1
    assert all(math.isfinite(x) for row in model.means for x in row)


def test_standardised_with_the_windows_mean_and_deviation() -> None:
    """The scaler is kept in the model."""
    candles = walk(2000, 1)
    matrix, mask = features(candles)
    np.testing.assert_allclose(trained().mean, matrix[mask].mean(axis=0))
    np.testing.assert_allclose(trained().deviation, matrix[mask].std(axis=0))


def test_gaps_become_sequences() -> None:
    """A window with gaps trains on its sequences and says how many rows they have."""
    base = walk(1500, 8)
    shift = np.zeros(1500)
    shift[500:] += 3600
    shift[1000:] += 8 * 3600
    candles = rows_of(base.time + shift, base.close, base.volume)
    model = train(request(candles, starts=1))
    assert candles.lengths == (500, 500, 500)
    assert model.ref.rows == 1500 - 2 * WARM_UP


# ---- starts, likelihood, convergence ----------------------------------------------------------


def standard(count: int, seed: int) -> Floats:
    """Return the standardised rows of a walk."""
    matrix, mask = features(walk(count, seed))
    rows = matrix[mask]
    result: Floats = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return result


def test_the_same_request_gives_the_same_model() -> None:
    """Bit for bit; another seed may give another."""
    wanted = request(walk(900, 9))
    assert train(wanted) == train(wanted)
    assert train(wanted).ref.id == train(wanted).ref.id


def test_the_best_of_the_starts_is_taken() -> None:
    """Its likelihood is the largest of what each start alone leads to."""
    rows = standard(900, 10)
    starts = starting_points(rows, count=3, seed=0)
    alone = [run_em(rows, [len(rows)], x).log_likelihood for x in starts]
    assert math.isclose(fit(rows, [len(rows)], starts).log_likelihood, max(alone), abs_tol=0.011)


def test_starts_are_seeded_and_differ() -> None:
    """The same seed gives the same starts, each another."""
    rows = standard(400, 11)
    one, same, other = (starting_points(rows, count=2, seed=x) for x in (1, 1, 2))
    np.testing.assert_array_equal(one[0].means, same[0].means)
    assert not np.array_equal(one[0].means, one[1].means)
    assert not np.array_equal(one[0].means, other[0].means)


def test_running_out_of_iterations_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """hmmlearn calls it converged when iterations are used up; we do not."""
    monkeypatch.setattr(fitting, "ITERATIONS", 3)
    model = train(request(walk(900, 12), starts=2))
    assert (model.ref.iterations, model.ref.is_converged) == (3, False)


@pytest.mark.parametrize(
    ("history", "expected"),
    [([], False), ([1.0], False), ([1.0, 1.005], True), ([1.0, 2.0], False), ([2.0, 1.0], False)],
)
def test_convergence_is_a_likelihood_that_stands_still(
    history: list[float], expected: bool
) -> None:
    """Neither a single iteration nor a falling likelihood is convergence."""
    assert has_converged(history) == expected


def test_an_estimator_that_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """From every start: an error with its words. From one: the others decide."""

    def raising(*_: object) -> Fitted:
        raise ValueError("covariance is not positive")

    good = run_em
    monkeypatch.setattr(fitting, "run_em", raising)
    with pytest.raises(TrainingError, match="failed from all 3 starts: covariance is not positive"):
        train(request(walk(700, 13)))
    calls = []

    def once(rows: Floats, lengths: Sequence[int], start: Parameters) -> Fitted:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("bad start")
        return good(rows, lengths, start)

    monkeypatch.setattr(fitting, "run_em", once)
    assert train(request(walk(700, 13), starts=2)).ref.starts == 2
    assert len(calls) == 2
    with pytest.raises(FitError, match="no starts"):
        fit(standard(400, 1), [250], [])


def test_hmmlearns_warnings_do_not_reach_our_log(caplog: pytest.LogCaptureFixture) -> None:
    """What they say is in the model's record."""
    with caplog.at_level(logging.DEBUG):
        train(request(walk(700, 14), starts=1))
    assert not [x for x in caplog.records if x.name.startswith("hmmlearn")]


def test_a_row_sixty_deviations_out_does_not_stop_training() -> None:
    """hmmlearn's fast recursion underflows there; the slow one takes over."""
    candles = walk(3000, 15)
    candles.close[2000:] *= 1.5  # once, within a minute
    model = train(request(candles, starts=1))
    assert math.isfinite(model.ref.log_likelihood)
    matrix, mask = features(candles)
    rows = (matrix[mask] - model.mean) / np.asarray(model.deviation)
    assert np.abs(rows).max() > 38


def test_a_state_that_no_row_is_left_in_is_repaired() -> None:
    """Its transitions are equal; numbers that are none are refused."""
    start = starting_points(standard(400, 1), count=1, seed=0)[0]
    empty = start.transmat.copy()
    empty[1] = 0.0
    found = repaired(start._replace(transmat=empty))
    np.testing.assert_allclose(found.transmat.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.transmat[1], 1 / 3)
    with pytest.raises(ValueError, match="not those of a model"):
        repaired(start._replace(means=np.full((3, 4), math.nan)))


# ---- retrains ----------------------------------------------------------------------------------


def test_warm_start_ends_sooner_and_no_worse() -> None:
    """An hour later the previous model is a better start than chance."""
    candles = recorded(BINANCE, 30_000, 4060)
    first = train(request(candles, target=4000))
    cold = train(request(candles, target=4000))
    warm = train(request(candles, target=4000, previous=first))
    assert warm.ref.starts == 4
    assert warm.ref.log_likelihood >= cold.ref.log_likelihood - 0.02
    assert warm.ref.iterations <= cold.ref.iterations


def test_a_retrain_on_the_same_window_changes_no_label() -> None:
    """The share of changed labels is reported: 0 here, None without a previous model."""
    candles = recorded(BINANCE, 30_000, 4000)
    first = train(request(candles))
    assert first.ref.changed_share is None
    second = train(request(candles, previous=first))
    assert second.labels == first.labels
    assert second.ref.changed_share is not None
    assert second.ref.changed_share < 0.01


def test_changed_share_counts_the_last_days_rows() -> None:
    """Against a model with all labels turned round, all directional rows have changed."""
    candles = walk(2000, 1)
    turned = replace(trained(), labels=tuple(2 - x for x in trained().labels))
    model = train(request(candles, starts=1, previous=turned))
    matrix, mask = features(candles)
    old, new = (
        np.array(row_labels(x, matrix, mask, candles.lengths))[-1440:] for x in (turned, model)
    )
    assert model.ref.changed_share == pytest.approx(float(np.mean(old != new)))
    assert model.ref.changed_share is not None
    assert model.ref.changed_share > 0.3


def test_softened_parameters_leave_nothing_impossible() -> None:
    """EM never leaves a zero, so a start must not hold one."""
    start = starting_points(standard(400, 1), count=1, seed=0)[0]
    frozen = start._replace(transmat=np.eye(3), startprob=np.array([1.0, 0.0, 0.0]))
    found = softened(frozen)
    assert (found.transmat > 0).all()
    assert (found.startprob > 0).all()
    np.testing.assert_allclose(found.transmat.sum(axis=1), 1.0)


@pytest.mark.slow
def test_labels_are_stable_over_daily_retrains() -> None:
    """On the venue's own candles a day's shift changes few labels of the last day's rows."""
    shares = []
    model: Model | None = None
    candles = recorded(KRAKEN, 20_000, 4000 + 4 * 288)
    for day in range(5):
        rows = slice(day * 288, day * 288 + 4000)
        part = type(candles)(
            *(x[rows] for x in candles[:3]), (4000,), np.zeros(4000, dtype=np.bool_)
        )
        model = train(request(part, interval_sec=300.0, previous=model))
        if model.ref.changed_share is not None:
            shares.append(model.ref.changed_share)
    assert len(shares) == 4
    assert float(np.median(shares)) < 0.05


# ---- decay -------------------------------------------------------------------------------------


def test_blocks_cover_sequences_from_their_ends() -> None:
    """In order, none across a border, only a sequence's oldest block short."""
    assert blocks_of((300, 50, 120)) == [(0, 60), (60, 180), (180, 300), (300, 350), (350, 470)]
    assert blocks_of(()) == []


@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=6),
    st.floats(50, 20_000),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_resampled_rows_keep_their_order_inside_blocks(
    lengths: list[int], halflife: float, seed: int
) -> None:
    """Whole blocks, in order of time, as sequences; about as many rows, worth no more."""
    total = sum(lengths)
    rows = np.arange(total, dtype=np.float64)[:, None] * np.ones(4)
    ages = np.arange(total)[::-1].astype(np.float64)
    found = resample(rows, ages, tuple(lengths), halflife=halflife, seed=seed)
    assert sum(found.lengths) == len(found.rows)
    assert abs(len(found.rows) - total) <= 2 * BLOCK
    spans = blocks_of(tuple(lengths))
    at = 0
    for length in found.lengths:
        block = found.rows[at : at + length, 0]
        assert (int(block[0]), int(block[-1]) + 1) in spans
        assert (np.diff(block) == 1).all()
        at += length
    firsts = found.rows[np.cumsum((0, *found.lengths[:-1])), 0]
    assert (np.diff(firsts) >= 0).all()
    assert 0 < found.effective_rows <= total + 1e-9


def test_newer_blocks_are_drawn_more_often() -> None:
    """In proportion to 2^(−age/halflife), over many seeds."""
    total, halflife = 3840, 1440.0
    rows = np.arange(total, dtype=np.float64)[:, None] * np.ones(4)
    ages = np.arange(total)[::-1].astype(np.float64)
    counts = np.zeros(total)
    for seed in range(200):
        found = resample(rows, ages, (total,), halflife=halflife, seed=seed)
        counts += np.bincount(found.rows[:, 0].astype(int), minlength=total)
    drawn = counts.reshape(-1, BLOCK).mean(axis=1) / 200
    weights = np.exp2(-ages / halflife).reshape(-1, BLOCK).mean(axis=1)
    expected = weights / weights.mean()
    np.testing.assert_allclose(drawn, expected, atol=0.12)
    assert 0.5 * total < found.effective_rows < 0.9 * total


def test_a_halflife_without_end_draws_every_block_once() -> None:
    """No decay: the same rows, worth as many as there are."""
    rows = standard(1350, 16)
    ages = np.arange(len(rows))[::-1].astype(np.float64)
    found = resample(rows, ages, (len(rows),), halflife=1e12, seed=3)
    np.testing.assert_array_equal(found.rows, rows)
    assert found.effective_rows == len(rows)


def test_decay_is_off_by_default_and_reported_when_on() -> None:
    """Raw and effective counts differ, the scaler does not; the same seed, the same model."""
    candles = walk(2000, 1)
    wanted = request(candles, starts=1, decay_halflife=480.0)
    model = train(wanted)
    assert model == train(wanted)
    assert trained().ref.effective_rows == trained().ref.rows == 1850
    assert model.ref.rows == 1850
    assert 500 < model.ref.effective_rows < 1500
    assert model.mean == trained().mean
    assert model.means != trained().means
