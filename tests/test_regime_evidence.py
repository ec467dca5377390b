"""Evidence: what it counts, its t-value by hand, its size on driftless walks, its power."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.regime import BEARISH, BULLISH, RANGING
from engine.clock import cpu_seconds
from engine.labelled import Labelled
from hmm_regime_detector import Detector, train
from regime.evidence import ROWS_MIN, UNLABELLED, Gathered, bandwidth, evidence
from regime.features import Floats
from store.candles import SqliteCandles
from tests.hmm_world import MINUTE, START, newest_label, request, walk

T_MIN = 2.3
DAY = 1440
HORIZON_SEC = 240 * MINUTE
Labels = npt.NDArray[np.int8]


def followed(closes: Floats, *, bars: int) -> Labels:
    """Return labels as a detector on `bars` candles gives them: the spread's sign, with inertia."""
    ends = pd.Series(np.log(closes[bars - 1 :: bars]))
    spread = ends.ewm(span=9, adjust=False).mean() - ends.ewm(span=21, adjust=False).mean()
    score = (spread / spread.rolling(400, min_periods=20).std()).fillna(0.0).to_numpy()
    entered = np.select(
        [score > 0.9, score < -0.9, np.abs(score) < 0.3], [BULLISH, BEARISH, RANGING], 9
    )
    labels = pd.Series(np.where(entered == 9, np.nan, entered)).ffill().fillna(RANGING)
    result = np.full(len(closes), RANGING, dtype=np.int8)
    known = np.repeat(labels.to_numpy(dtype=np.int8), bars)[: len(closes) - bars + 1]
    result[bars - 1 : bars - 1 + len(known)] = known
    return result


def market(days: float, seed: int, *, kind: str = "walk") -> Floats:
    """Return one-minute closes at 0.15 %: a walk, one with bursts and fat tails, or with drifts."""
    rng = np.random.Generator(np.random.PCG64(seed))
    count = int(days * DAY)
    sigma = 0.0015
    if kind == "bursts":
        shocks = rng.normal(0.0, 30.0, count) * (np.arange(count) > 0)
        log = pd.Series(shocks).ewm(alpha=0.001, adjust=False).mean().to_numpy()  # deviation 0.67
        steps = sigma * np.exp(log - 0.25) * rng.standard_t(4, count) / math.sqrt(2)
    else:
        steps = rng.normal(0.0, sigma, count)
    if kind == "drifts":  # daily Sharpe of 3, regimes of two days on average
        turns = np.cumsum(rng.random(count) < 1 / (2 * DAY)) + rng.integers(2)
        steps += np.where(turns % 2 == 0, 1, -1) * 3 * sigma * math.sqrt(DAY) / DAY
    result: Floats = 0.1 * np.exp(np.cumsum(steps))
    return result


def both_t(closes: Floats, labels: Labels, horizon_sec: float = HORIZON_SEC) -> tuple[float, float]:
    """Return the t-values of bearish and bullish, −inf without evidence."""
    times = START + MINUTE * np.arange(len(closes))
    found = evidence(times, closes, labels, horizon_sec=horizon_sec)
    bearish, bullish = (-math.inf if x.t is None else x.t for x in found)
    return bearish, bullish


# ---- what is counted ----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([(1,), (1, 1, 1, 1, 2, 30)]))
@settings(max_examples=25, deadline=None)
def test_mean_and_t_are_the_definitions(seed: int, bars: int, steps: tuple[int, ...]) -> None:
    """Row by row, with gaps or none: mean forward returns, Σ r·X over its standard error."""
    rng = np.random.Generator(np.random.PCG64(seed))
    count = 1500
    times = START + MINUTE * np.cumsum(rng.choice(steps, count))
    closes = 0.1 * np.exp(np.cumsum(rng.normal(0, 0.0015, count)))
    labels = np.repeat(rng.integers(-1, 3, count // 30), 30).astype(np.int8)
    horizon = bars * MINUTE
    logs = np.log(closes)
    for label, found in zip(
        (BEARISH, BULLISH), evidence(times, closes, labels, horizon_sec=horizon), strict=True
    ):
        forward, weights = [], np.zeros(count - 1)
        for row in range(count):
            if labels[row] != label or times[row] + horizon > times[-1]:
                continue
            end = int(np.flatnonzero(times <= times[row] + horizon)[-1])
            forward.append(logs[end] - logs[row])
            weights[row:end] += 1
        assert found.label == label
        assert found.rows == len(forward)
        if len(forward) < ROWS_MIN:
            assert (found.mean, found.t) == (None, None)
            continue
        terms = np.diff(logs) * weights
        lag = bandwidth(np.count_nonzero(terms))
        whole = terms @ terms
        for j in range(1, lag + 1):
            whole += 2 * (1 - j / (lag + 1)) * (terms[j:] @ terms[:-j])
        sign = 1 if label == BULLISH else -1
        assert found.mean == pytest.approx(np.mean(forward), rel=1e-6, abs=1e-12)
        expected = sign * terms.sum() / math.sqrt(max(whole, terms @ terms))
        assert found.t == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 4000), st.sampled_from([(5,), (1, 1, 1, 2, 90)]))
@settings(max_examples=20, deadline=None)
def test_what_is_kept_of_finished_blocks_changes_no_bit(
    seed: int, bars: int, steps: tuple[int, ...]
) -> None:
    """Rows that come one after another, in pieces, and a horizon that changes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    count = 9000
    times = START + MINUTE * np.cumsum(rng.choice(steps, count))
    closes = 0.1 * np.exp(np.cumsum(rng.normal(0, 0.0015, count)))
    labels = np.repeat(rng.integers(-1, 3, count // 300), 300).astype(np.float64)
    gathered, told = Gathered(), 0
    for end in [*sorted(rng.integers(0, count, 12).tolist()), count // 2]:
        horizon = (bars if rng.random() < 0.8 else 77) * MINUTE
        given_rows = times[:end], closes[:end], labels[:end]
        found = gathered.evidence(*given_rows, horizon_sec=horizon)
        assert found == evidence(*given_rows, horizon_sec=horizon)
        told += found[0].t is not None
    assert told > 0 or bars > 1500


def test_rows_whose_horizon_is_not_over_do_not_count() -> None:
    """Later prices change nothing that is told before they are known."""
    closes = market(1, 1)
    labels = np.full(len(closes), BULLISH, dtype=np.int8)
    times = START + MINUTE * np.arange(len(closes))
    found = evidence(times, closes, labels, horizon_sec=HORIZON_SEC)[1]
    assert found.rows == len(closes) - 240
    short = evidence(times[:439], closes[:439], labels[:439], horizon_sec=HORIZON_SEC)[1]
    assert (short.rows, short.mean, short.t) == (199, None, None)
    enough = evidence(times[:440], closes[:440], labels[:440], horizon_sec=HORIZON_SEC)[1]
    assert enough.rows == ROWS_MIN
    assert enough.t is not None


def test_ranging_and_unlabelled_rows_do_not_count() -> None:
    """Only the two directions have evidence."""
    closes = market(1, 2)
    for label in (RANGING, UNLABELLED):
        found = evidence(
            START + MINUTE * np.arange(len(closes)), closes, np.full(len(closes), label),
            horizon_sec=HORIZON_SEC,
        )  # fmt: skip
        assert [x.rows for x in found] == [0, 0]
        assert [x.t for x in found] == [None, None]


def test_evidence_is_the_same_upside_down() -> None:
    """Turned round, the market and the labels say the same of the other label."""
    closes = market(5, 3)
    labels = followed(closes, bars=15)
    bearish, bullish = both_t(closes, labels)
    turned = both_t(1 / closes, (2 - labels).astype(np.int8))
    assert turned == pytest.approx((bullish, bearish))


def test_no_rows_and_a_market_that_stands_still() -> None:
    """Nothing to count, and nothing that moves: no evidence, no nonsense."""
    none = evidence(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int8), horizon_sec=60.0)
    assert [(x.rows, x.mean, x.t) for x in none] == [(0, None, None)] * 2
    assert both_t(np.full(2000, 0.1), np.full(2000, BULLISH, dtype=np.int8))[1] == 0.0


@pytest.mark.parametrize("value", [math.nan, 0.0, -1.0, math.inf])
def test_prices_that_are_none_are_an_error(value: float) -> None:
    """They would make every mean nonsense."""
    closes = market(1, 4)
    closes[700] = value
    with pytest.raises(ValueError, match="not finite and positive"):
        both_t(closes, np.full(len(closes), BULLISH, dtype=np.int8))


def test_half_a_million_rows_in_less_than_a_third_of_a_second() -> None:
    """CPU seconds, best of three."""
    closes = market(500_000 / DAY, 5)
    labels = np.repeat(np.arange(10_000) % 3, 50).astype(np.int8)
    spent = []
    for _ in range(3):
        began = cpu_seconds()
        both_t(closes, labels)
        spent.append(cpu_seconds() - began)
    assert min(spent) < 0.3


def test_too_many_rows_begin_at_a_midnight(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is known of a whole day stays, hour after hour."""
    monkeypatch.setattr("engine.labelled.NEWEST", 3 * DAY + 10)
    kept = Labelled(SqliteCandles(":memory:", pair="DOGE/USD"), MINUTE)
    begin = START // 86_400 * 86_400 + 5 * MINUTE
    rows = [(begin + n * MINUTE, 0.1 + n * 1e-6, n % 3) for n in range(6 * DAY)]
    kept.append(rows, begin + 6 * DAY * MINUTE)
    assert kept.arrays(rows[99][0])[0].tolist() == [x[0] for x in rows[:99]]
    until = rows[-1][0] + MINUTE
    times, closes, labels = (x.tolist() for x in kept.arrays(until))
    first = next(n for n, x in enumerate(rows) if x[0] == begin + 3 * 86_400 - 5 * MINUTE)
    expected = [tuple(x) for x in rows[first:]]
    assert list(zip(times, closes, labels, strict=True)) == expected


# ---- size and power -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "bars"), [*product(("walk", "bursts"), (1, 15))])
def test_driftless_walks_have_no_evidence(kind: str, bars: int) -> None:
    """Either label reaches 2.3 on about 2 % of evaluations, from the first days on.

    Newey-West over the forward returns themselves, with twice the horizon as lag, does so on 30 %
    in the first days and on 10 % after a week.
    """
    hits, total = 0, 0
    for seed in range(80):
        closes = market(16, 1000 + seed, kind=kind)
        labels = followed(closes, bars=bars)
        for days in (1, 2, 4, 8, 16):
            rows = int(days * DAY)
            hits += max(both_t(closes[:rows], labels[:rows])) >= T_MIN
            total += 1
    assert hits / total <= 0.04


def test_planted_drifts_are_found() -> None:
    """A daily Sharpe of 3 in regimes of two days: both labels on 15 min within three weeks."""
    days = []
    for seed in range(20):
        closes = market(21, 2000 + seed, kind="drifts")
        labels = followed(closes, bars=15)
        first = 99.0
        for day in range(1, 22):
            if min(both_t(closes[: day * DAY], labels[: day * DAY])) >= T_MIN:
                first = day
                break
        days.append(first)
    assert float(np.median(days)) <= 10


@pytest.mark.slow
def test_detector_itself_has_no_evidence_on_walks() -> None:
    """The real features, training and filter on 20 driftless walks: a share below 5 %."""
    hits, total = 0, 0
    for seed in range(20):
        candles = walk(DAY * 14, 3000 + seed)
        model = train(request(candles._replace(
            time=candles.time[:4000], close=candles.close[:4000], volume=candles.volume[:4000],
            lengths=(4000,), restarts=candles.restarts[:4000],
        )))  # fmt: skip
        detector = Detector(model, interval_sec=MINUTE, target=4000, min_candles=500)
        labels = np.full(len(candles.time), UNLABELLED, dtype=np.int8)
        for n, row in enumerate(zip(*(x.tolist() for x in candles[:3]), strict=True)):
            detector.step(*row)
            label = newest_label(detector)
            if n >= 4000 and label is not None:
                labels[n] = label
        for rows in range(4000 + DAY, len(labels), DAY):
            hits += max(both_t(candles.close[:rows], labels[:rows])) >= T_MIN
            total += 1
    assert hits / total <= 0.05
