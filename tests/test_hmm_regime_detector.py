"""Features, filter, labels, depth and the model's file form, against independent computations."""

import math
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.regime import BEARISH, BULLISH, RANGING
from hmm_regime_detector import (
    FEATURES,
    WARM_UP,
    Detector,
    FeatureState,
    Gap,
    Model,
    depth,
    features,
    train,
    transmat_by_label,
)
from regime.features import kept_lengths, missing
from regime.filter import Filter, LabelView, best_label, bias, confidence, entropy
from regime.labels import label_of, labels_of, long_run_variance, standard_error
from regime.model import stationary
from regime.training import newest
from tests.hmm_world import (
    MINUTE,
    START,
    Rows,
    hand_made,
    newest_label,
    recorded,
    request,
    rows_of,
    trained,
    walk,
)

LIMIT = 180.0


def oracle(close: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Return the features as pandas computes them, from the specification's words."""
    prices, volumes = pd.Series(close), pd.Series(volume)

    def ema(values: pd.Series, span: int) -> pd.Series:
        return values.ewm(span=span, adjust=False).mean()

    macd = ema(prices, 12) - ema(prices, 26)
    slope = (macd - ema(macd, 9)).diff() / prices
    spread = (ema(prices, 9) - ema(prices, 21)) / ema(prices, 21)
    change = prices.diff().fillna(0.0)
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    rsi = 100 - 100 / (1 + gain / loss)
    ratio = (volumes / ema(volumes, 20)).fillna(0.0)
    return np.column_stack((slope, spread, (rsi - 50) / 50, ratio))


def fed(model: Model | None, candles: Rows, **changes: float) -> Detector:
    """Return a detector that has taken all candles one by one."""
    values = {"interval_sec": MINUTE, "target": 4000, "min_candles": 500, "gain": 1.0, **changes}
    detector = Detector(model, **values)  # type: ignore[arg-type]
    for time, close, volume in zip(candles.time, candles.close, candles.volume, strict=True):
        detector.step(float(time), float(close), float(volume))
    return detector


# ---- features ---------------------------------------------------------------------------------


def test_features_are_those_of_the_specification() -> None:
    """pandas, from the formulas, gives the same numbers."""
    candles = walk(1000, 3)
    matrix, mask = features(candles)
    assert FEATURES == ("macd_hist_slope", "ema_spread", "rsi_zone", "volume_ratio")
    assert not mask[:WARM_UP].any()
    assert mask[WARM_UP:].all()
    expected = oracle(candles.close, candles.volume)[WARM_UP:]
    np.testing.assert_allclose(matrix[WARM_UP:], expected, rtol=0, atol=1e-12)


def test_features_step_by_step_equal_those_in_bulk() -> None:
    """A state that takes one candle at a time gives the same rows, to 1e-12."""
    candles = recorded("kraken_xdgusd_5m.csv.gz", 1000, 3000)
    matrix, mask = features(candles)
    state = FeatureState()
    for n in range(len(candles.close)):
        row = state.step(
            float(candles.close[n]), float(candles.volume[n]), is_restart=bool(candles.restarts[n])
        )
        assert (row is not None) == mask[n]
        if row is not None:
            np.testing.assert_allclose(row, matrix[n], rtol=0, atol=1e-12)


def test_features_of_a_row_know_nothing_later() -> None:
    """Changing a later candle leaves every earlier row as it was."""
    candles = walk(600, 4)
    changed = candles.close.copy()
    changed[400:] *= 3
    before, _ = features(candles)
    after, _ = features(candles._replace(close=changed))
    np.testing.assert_array_equal(before[:400], after[:400])


@given(st.sampled_from([1e-6, 0.001, 1.0, 1e4]), st.sampled_from([1e-3, 1.0, 1e6]))
@settings(max_examples=12, deadline=None)
def test_features_do_not_depend_on_units(price: float, size: float) -> None:
    """Prices and volumes in other units give the same rows."""
    candles = walk(400, 5)
    plain, mask = features(candles)
    scaled, _ = features(
        candles._replace(close=candles.close * price, volume=candles.volume * size)
    )
    np.testing.assert_allclose(plain[mask], scaled[mask], rtol=1e-9, atol=1e-12)


def test_features_of_a_market_that_stands_still_are_neutral() -> None:
    """Constant prices and no volume: all zeros, and nothing that is not a number."""
    count = 2000
    still = Rows(
        START + MINUTE * np.arange(count), np.full(count, 0.1), np.zeros(count), (count,),
        np.zeros(count, dtype=np.bool_),
    )  # fmt: skip
    matrix, mask = features(still)
    assert (matrix[mask] == 0.0).all()


def test_features_after_a_market_stands_still_recover() -> None:
    """Ten thousand flat bars neither underflow into nonsense nor outlast the next moves."""
    closes = np.concatenate((walk(300, 6).close, np.full(10_000, 0.1), walk(300, 7).close))
    volume = np.concatenate((np.ones(300), np.zeros(10_000), np.ones(300)))
    count = len(closes)
    candles = Rows(
        START + MINUTE * np.arange(count), closes, volume, (count,), np.zeros(count, dtype=np.bool_)
    )
    matrix, mask = features(candles)
    assert np.isfinite(matrix[mask]).all()
    assert np.abs(matrix[mask][:, 2]).max() <= 1.0
    assert matrix[mask][:, 3].max() <= 10.5  # one volume after silence: 21/2


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_features_refuse_prices_that_are_none(value: float) -> None:
    """NaN, infinity, negative and zero prices are an error, with their count."""
    candles = walk(300, 8)
    candles.close[200:202] = value
    with pytest.raises(ValueError, match="2 candles"):
        features(candles)


def test_gaps_end_sequences_and_restart_averages() -> None:
    """Up to 15 min is filled; beyond it a sequence ends; beyond 6 h averages start anew."""
    base = walk(1200, 9)
    shift = np.zeros(1200)
    shift[300:] += 15 * 60  # filled: 15 bars
    shift[600:] += 16 * 60  # ends the sequence
    shift[900:] += 6 * 3600 + 60  # restarts
    candles = rows_of(base.time + shift, base.close, base.volume)
    assert candles.lengths == (615, 300, 300)
    assert np.flatnonzero(candles.restarts).tolist() == [915]
    matrix, mask = features(candles)
    assert np.flatnonzero(~mask).tolist() == [*range(150), *range(915, 1065)]
    assert kept_lengths(mask, candles.lengths) == (465, 300, 150)
    alone, _ = features(
        Rows(*(x[915:] for x in candles[:3]), (300,), np.zeros(300, dtype=np.bool_))
    )
    np.testing.assert_array_equal(matrix[1065:], alone[150:])


def test_gap_thresholds() -> None:
    """max(3 bars, 15 min) is filled, up to 6 h ends the sequence, beyond restarts."""
    assert missing(0, 60, 60) == (Gap.NONE, 0)
    assert missing(0, 60 * 16, 60) == (Gap.NONE, 15)
    assert missing(0, 60 * 17, 60) == (Gap.SEQUENCE, 0)
    assert missing(0, 60 * 361, 60) == (Gap.SEQUENCE, 0)
    assert missing(0, 60 * 362, 60) == (Gap.RESTART, 0)
    assert missing(0, 900 * 4, 900) == (Gap.NONE, 3)
    assert missing(0, 900 * 5, 900) == (Gap.SEQUENCE, 0)
    assert missing(0, 300 * 4, 300) == (Gap.NONE, 3)
    assert missing(0, 300 * 5, 300) == (Gap.SEQUENCE, 0)


def test_newest_cuts_sequences_where_the_window_begins() -> None:
    """The newest rows keep their sequences' ends."""
    base = walk(100, 10)
    candles = base._replace(lengths=(30, 50, 20))
    assert newest(candles, 60).lengths == (40, 20)
    assert newest(candles, 20).lengths == (20,)
    assert newest(candles, 1000).lengths == (30, 50, 20)
    np.testing.assert_array_equal(newest(candles, 60).close, base.close[40:])


# ---- filter -----------------------------------------------------------------------------------


def by_hand(model: Model, rows: np.ndarray) -> np.ndarray:
    """Return filtered posteriors as the textbook writes them (Hamilton 1989), in numpy."""
    mean, deviation = np.asarray(model.mean), np.asarray(model.deviation)
    means, variances = np.asarray(model.means), np.asarray(model.variances)
    state = stationary(model.transmat)
    result = []
    for n, row in enumerate((rows - mean) / deviation):
        density = np.prod(
            np.exp(-((row - means) ** 2) / (2 * variances)) / np.sqrt(2 * np.pi * variances), axis=1
        )
        state = (state if not n else state @ np.asarray(model.transmat)) * density
        state = state / state.sum()
        result.append(state)
    return np.array(result)


def test_posterior_by_hand() -> None:
    """One step from the long-run shares: worked out on paper."""
    model = hand_made()
    found = Filter(model).step((0.0, 0.001, 0.0, 1.0))  # one deviation above zero
    shares = np.array([0.25, 0.5, 0.25])  # of (0.9 0.1 0 / 0.05 0.9 0.05 / 0 0.1 0.9)
    weights = shares * np.exp([-2.0, -0.5, 0.0])
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-7)
    np.testing.assert_allclose(found, [0.057629, 0.516549, 0.425822], atol=1e-6)


def test_posteriors_are_the_textbooks() -> None:
    """A thousand steps agree with plain numpy."""
    model = trained()
    matrix, mask = features(walk(1150, 11))
    forward = Filter(model)
    found = [forward.step(tuple(row)) for row in matrix[mask].tolist()]  # type: ignore[arg-type]
    np.testing.assert_allclose(found, by_hand(model, matrix[mask]), rtol=1e-6, atol=1e-9)


def test_posterior_of_the_newest_row_is_hmmlearns() -> None:
    """At the last row filtered and smoothed are the same: hmmlearn's predict_proba."""
    from hmmlearn.hmm import GaussianHMM  # noqa: PLC0415

    model = trained()
    matrix, mask = features(walk(1150, 11))
    theirs = GaussianHMM(3, "diag", init_params="")
    theirs.startprob_ = stationary(model.transmat)
    theirs.transmat_, theirs.means_ = np.array(model.transmat), np.array(model.means)
    theirs.covars_ = np.array(model.variances)
    rows = (matrix[mask] - model.mean) / np.asarray(model.deviation)
    forward = Filter(model)
    for row in matrix[mask].tolist():
        forward.step(tuple(row))
    np.testing.assert_allclose(forward.posterior, theirs.predict_proba(rows)[-1], atol=1e-9)


def test_filter_survives_what_no_state_expects() -> None:
    """Rows thousands of deviations out leave probabilities that are probabilities."""
    forward = Filter(hand_made())
    for row in ((0.0, 50.0, 0.0, 1.0), (1e6, -50.0, 1.0, 10.5), (0.0, 0.0, 0.0, 0.0)):
        found = forward.step(row)
        assert math.isclose(sum(found), 1.0)
        assert all(0.0 <= x <= 1.0 for x in found)


def test_states_of_one_label_add_up() -> None:
    """Probabilities by label, and the probability that the next candle has another."""
    model = hand_made(labels=(1, 1, 2))
    view = LabelView(model)
    assert view.probabilities((0.2, 0.3, 0.5)) == (0.0, 0.5, 0.5)
    assert math.isclose(view.leaving((0.0, 1.0, 0.0), RANGING), 0.05)
    assert math.isclose(view.leaving((0.0, 0.0, 1.0), BULLISH), 0.1)


@pytest.mark.parametrize(
    ("probabilities", "gain", "expected"),
    [
        ((0.1, 0.2, 0.7), 1.0, 0.6),
        ((0.7, 0.2, 0.1), 1.0, -0.6),
        ((0.1, 0.2, 0.7), 2.0, 1.0),
        ((0.30, 0.32, 0.38), 1.0, 0.0),  # confidence 0.06
        ((0.05, 0.9, 0.05), 1.0, 0.0),
    ],
)
def test_bias(probabilities: tuple[float, float, float], gain: float, expected: float) -> None:
    """The difference times gain, clamped; nothing below a confidence of 0.15."""
    assert math.isclose(bias(probabilities, gain=gain), expected, abs_tol=1e-12)


def test_confidence_and_entropy() -> None:
    """Best less second; entropy from 0 (certain) to 1 (no idea)."""
    assert math.isclose(confidence((0.2, 0.5, 0.3)), 0.2)
    assert entropy((0.0, 1.0, 0.0)) == 0.0
    assert math.isclose(entropy((1 / 3, 1 / 3, 1 / 3)), 1.0)
    assert best_label((0.4, 0.4, 0.2)) == RANGING
    assert best_label((0.4, 0.2, 0.4)) == BEARISH
    assert best_label((0.1, 0.2, 0.7)) == BULLISH


# ---- labels and transitions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "error", "label"),
    [
        (0.0021, 0.001, BULLISH), (0.002, 0.001, RANGING), (0.0, 0.0, RANGING),
        (-0.002, 0.001, RANGING), (-0.0021, 0.001, BEARISH), (1e-9, 0.0, BULLISH),
    ],
)  # fmt: skip
def test_label_rule(mean: float, error: float, label: int) -> None:
    """Directional only beyond two standard errors of the right sign."""
    assert label_of(mean, error, 2.0) == label


def test_labels_keep_to_the_previous_ones_at_the_edge() -> None:
    """What was ranging becomes directional a little later; nothing is directional earlier."""
    means = [-0.0022, 0.0022, 0.0023]
    assert labels_of(means, 0.001, 2.0) == (BEARISH, BULLISH, BULLISH)
    assert labels_of(means, 0.001, 2.0, [RANGING] * 3) == (RANGING, RANGING, BULLISH)
    assert labels_of([0.0019] * 3, 0.001, 2.0, [BULLISH] * 3) == (RANGING,) * 3


def test_standard_error_is_that_of_neighbours_made_of_the_same_prices() -> None:
    """On a walk five times the textbook's."""
    matrix, mask = features(walk(20_000, 20))
    spread = matrix[mask][:, 1]
    assert 4.0 < standard_error(spread) / (spread.std() / math.sqrt(len(spread))) < 6.0


def test_long_run_variance_is_honest_about_neighbours() -> None:
    """For AR(1) it is σ²/(1 − φ)², six and more times the plain variance; for noise the same."""
    rng = np.random.Generator(np.random.PCG64(12))
    noise = rng.normal(0, 1, 100_000)
    assert 0.9 < long_run_variance(noise) < 1.1
    series = np.zeros(100_000)
    for n in range(1, len(series)):
        series[n] = 0.8 * series[n - 1] + noise[n]
    assert 0.8 * 25 < long_run_variance(series) < 1.1 * 25
    assert long_run_variance(np.ones(50)) == 0.0


@given(st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_labels_on_random_walks_follow_the_spread(seed: int) -> None:
    """Never bullish with a negative mean spread, never bearish with a positive one."""
    candles = walk(700, seed)
    model = train(request(candles, starts=1))
    spread = np.asarray(model.means)[:, 1] * model.deviation[1] + model.mean[1]
    for mean, label in zip(spread, model.labels, strict=True):
        assert not (label == BULLISH and mean <= 0)
        assert not (label == BEARISH and mean >= 0)
    assert all(a <= b for a, b in pairwise(spread))


def test_transmat_comes_in_label_order() -> None:
    """One state a label: the matrix permuted; rows add up to 1; plain lists."""
    model = hand_made(labels=(2, 0, 1))
    found = transmat_by_label(model)
    assert found is not None
    expected = [[0.9, 0.05, 0.05], [0.1, 0.9, 0.0], [0.1, 0.0, 0.9]]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert type(found) is list
    assert type(found[0]) is list
    assert type(found[0][0]) is float
    assert transmat_by_label(None) is None


def test_transmat_joins_states_by_their_share_of_time() -> None:
    """Two ranging states are weighted by how often they occur; an absent label has the shares."""
    model = hand_made(
        transmat=((0.9, 0.1, 0.0), (0.3, 0.6, 0.1), (0.0, 0.2, 0.8)), labels=(1, 1, 2)
    )
    shares = stationary(model.transmat)  # 6 : 2 : 1
    np.testing.assert_allclose(shares, [6 / 9, 2 / 9, 1 / 9], atol=1e-7)
    found = transmat_by_label(model)
    expected = [[0.0, 8 / 9, 1 / 9], [0.0, 1 - 0.1 / 4, 0.1 / 4], [0.0, 0.2, 0.8]]
    np.testing.assert_allclose(found, expected, atol=1e-7)  # type: ignore[arg-type]


# ---- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candles", "tier", "modifier"),
    [
        (0, "shallow", 0.70), (720, "shallow", 0.70), (999, "shallow", 0.70),
        (1000, "baseline", 0.85), (2499, "baseline", 0.85), (2500, "deep", 0.95),
        (3999, "deep", 0.95), (4000, "full", 1.0), (9000, "full", 1.0),
    ],
)  # fmt: skip
def test_depth_table(candles: int, tier: str, modifier: float) -> None:
    """The table for a target of 4000 and a minimum of 500."""
    found = depth(
        candles, target=4000, min_candles=500, model_candles=candles, newest_close=START,
        interval_sec=MINUTE,
    )  # fmt: skip
    assert (found.tier, found.modifier) == (tier, modifier)
    assert (found.candles, found.target) == (min(candles, 4000), 4000)
    expected = START + (4000 - candles) * MINUTE if candles < 4000 else None
    assert found.full_at == expected


@pytest.mark.parametrize(
    ("candles", "target", "least", "tier"),
    [
        (499, 720, 500, "shallow"), (500, 720, 500, "deep"), (719, 720, 500, "deep"),
        (720, 720, 500, "full"),
        (359, 1440, 200, "shallow"), (360, 1440, 200, "baseline"), (900, 1440, 200, "deep"),
        (1440, 1440, 200, "full"),
    ],
)  # fmt: skip
def test_depth_of_other_targets(candles: int, target: int, least: int, tier: str) -> None:
    """The roll-back's target of 720 and the second timeframe's 1440."""
    found = depth(
        candles, target=target, min_candles=least, model_candles=candles, newest_close=None,
        interval_sec=MINUTE,
    )  # fmt: skip
    assert found.tier == tier
    assert found.full_at is None


def test_depth_is_not_promised_for_the_past() -> None:
    """Where candles have been missing for long, the target is as far off as it was."""
    found = depth(
        3900, target=4000, min_candles=500, model_candles=3900, newest_close=START,
        interval_sec=MINUTE, now=START + 86_400.0,
    )  # fmt: skip
    assert found.full_at == START + 86_400.0 + 100 * MINUTE


def test_depth_follows_the_lesser_of_model_and_candles() -> None:
    """A model of yesterday's few candles is no deeper for the many of today, and vice versa."""

    def tier(candles: int, model: int | None) -> str:
        return depth(
            candles, target=4000, min_candles=500, model_candles=model, newest_close=START,
            interval_sec=MINUTE,
        ).tier  # fmt: skip

    assert tier(4000, 720) == "shallow"
    assert tier(720, 4000) == "shallow"
    assert tier(4000, None) == "shallow"
    assert tier(4000, 2600) == "deep"


def test_depth_tells_when_it_will_be_full() -> None:
    """1,200 of 4,000: full in some 47 h."""
    found = depth(
        1200, target=4000, min_candles=500, model_candles=1200, newest_close=START,
        interval_sec=MINUTE,
    )  # fmt: skip
    assert found.full_at is not None
    assert round((found.full_at - START) / 3600) == 47


# ---- detector -----------------------------------------------------------------------------------


def test_detector_says_what_the_filter_says() -> None:
    """Regime, confidence, bias and the rest follow from the newest posterior."""
    candles = walk(1150, 11)
    detector = fed(trained(), candles, gain=1.5)
    end = float(candles.time[-1]) + MINUTE
    found = detector.estimate(end + 10, candles=1150, freshness_limit_sec=LIMIT)
    matrix, mask = features(candles)
    view = LabelView(trained())
    expected = view.probabilities(tuple(by_hand(trained(), matrix[mask])[-1]))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-9)
    assert found.regime == best_label(found.probabilities)
    assert math.isclose(found.confidence, confidence(found.probabilities))
    assert math.isclose(found.bias, bias(found.probabilities, gain=1.5))
    assert found.is_trained
    assert found.why == ""
    assert found.candle_time == end
    assert found.depth.tier == "baseline"


def test_detector_without_a_model_is_ranging_without_confidence() -> None:
    """Untrained: no regime, why with the count, all else neutral."""
    detector = fed(None, walk(120, 13))
    found = detector.estimate(START + 121 * MINUTE, candles=120, freshness_limit_sec=LIMIT)
    assert found.why == "untrained: 120 of 500 candles"
    assert (found.is_trained, found.regime, found.confidence, found.bias) == (False, None, 0, 0)
    assert found.probabilities == (0.0, 1.0, 0.0)
    assert found.depth.tier == "shallow"
    enough = detector.estimate(START, candles=720, freshness_limit_sec=LIMIT)
    assert enough.why == "untrained: 720 candles, no model yet"


def test_detector_that_is_stale_says_so() -> None:
    """Beyond the freshness limit there is no regime, and the reason is told."""
    candles = walk(400, 14)
    detector = fed(trained(), candles)
    close = float(candles.time[-1]) + MINUTE
    fresh = detector.estimate(close + LIMIT, candles=400, freshness_limit_sec=LIMIT)
    assert fresh.regime is not None
    stale = detector.estimate(close + LIMIT + 1, candles=400, freshness_limit_sec=LIMIT)
    assert (stale.regime, stale.confidence, stale.bias) == (None, 0.0, 0.0)
    assert stale.why == "stale: the newest candle closed 181 s ago, 180 s allowed"
    assert stale.is_trained
    assert stale.candle_time == close


def test_detector_warms_up_in_the_open() -> None:
    """Within the first 150 candles there is no regime; the 151st has one."""
    candles = walk(151, 15)
    short = fed(trained(), Rows(*(x[:150] for x in candles[:3]), (150,), candles.restarts[:150]))
    now = START + 151 * MINUTE
    found = short.estimate(now, candles=150, freshness_limit_sec=LIMIT)
    assert (found.regime, found.why) == (None, "warming up: 150 of 151 candles")
    assert newest_label(fed(trained(), candles)) is not None


@pytest.mark.parametrize(
    ("close", "volume"),
    [
        (math.nan, 1.0), (math.inf, 1.0), (-0.1, 1.0), (0.0, 1.0), (0.1, math.nan),
        (0.1, math.inf), (0.1, -1.0), (1e300, 1.0), (5e-324, 1.0),
    ],
)  # fmt: skip
def test_detector_skips_and_counts_what_it_cannot_compute_with(close: float, volume: float) -> None:
    """A bad candle leaves the filter as if it had been missing."""
    candles = walk(400, 16)
    detector, other = fed(trained(), candles), fed(trained(), candles)
    at = float(candles.time[-1])
    assert not detector.step(at + MINUTE, close, volume)
    assert (detector.refused, detector.taken) == (1, 400)
    for one in (detector, other):
        assert one.step(at + 2 * MINUTE, 0.1, 1000.0)
    now = at + 3 * MINUTE
    seen = [x.estimate(now, candles=400, freshness_limit_sec=LIMIT) for x in (detector, other)]
    assert seen[0] == seen[1]
    assert detector.filled == 1


def test_detector_refuses_candles_out_of_order() -> None:
    """An old or repeated candle is counted and changes nothing."""
    candles = walk(400, 17)
    detector = fed(trained(), candles)
    before = newest_label(detector), detector.newest_close
    assert not detector.step(float(candles.time[-1]), 0.2, 1.0)
    assert not detector.step(float(candles.time[-5]), 0.2, 1.0)
    assert detector.refused == 2
    assert (newest_label(detector), detector.newest_close) == before


def test_detector_without_movement_or_volume_goes_on() -> None:
    """Constant prices and zero volume are numbers as any others."""
    candles = walk(400, 18)
    detector = fed(trained(), candles)
    at = float(candles.time[-1])
    for n in range(1, 3000):
        assert detector.step(at + n * MINUTE, 0.1, 0.0)
    found = detector.estimate(at + 3000 * MINUTE, candles=4000, freshness_limit_sec=LIMIT)
    assert math.isclose(sum(found.probabilities), 1.0)
    assert found.regime is not None


def test_detector_by_times_and_by_prepared_rows_agree() -> None:
    """Gaps told by the times and gaps told by prepared candles lead to the same state."""
    base = walk(2000, 19)
    shift = np.zeros(2000)
    for at, lost in ((300, 2), (600, 15), (900, 40), (1200, 360), (1500, 361)):
        shift[at:] += lost * 60
    raw = base._replace(time=base.time + shift)
    one = fed(trained(), raw)
    other = Detector(trained(), interval_sec=MINUTE, target=4000, min_candles=500)
    other.run(rows_of(raw.time, raw.close, raw.volume))
    now = float(raw.time[-1]) + 61
    first = one.estimate(now, candles=2000, freshness_limit_sec=LIMIT)
    assert first == other.estimate(now, candles=2000, freshness_limit_sec=LIMIT)
    assert (one.filled, one.sequences, one.restarts) == (17, 3, 1)
    assert (other.filled, other.sequences, other.restarts) == (0, 3, 1)


def test_detector_fed_again_is_in_the_same_state() -> None:
    """A restart that replays the same candles continues to the same numbers, bit for bit."""
    candles = recorded("binance_dogeusdt_1m_20210402_20210615.csv.gz", 24_000, 1000)
    one, other = fed(trained(), candles), fed(trained(), candles)
    now = float(candles.time[-1]) + 61
    first = one.estimate(now, candles=1000, freshness_limit_sec=LIMIT)
    assert first == other.estimate(now, candles=1000, freshness_limit_sec=LIMIT)
