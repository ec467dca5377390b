"""Cash identities and economic invariants of the matching engine."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import Instrument, Side
from core.market import Book, Candle, Evidence, Trade
from core.record import replace
from exchange.matching import (
    Accepted,
    EngineState,
    MatchingConfig,
    MatchingEngine,
    NewOrder,
    VenueExecution,
    preset,
)
from exchange.venue import buy_hold
from tests.venue_world import (
    CENTS,
    FEES,
    NO_FEES,
    PLAIN,
    D,
    accepted,
    buy,
    engine,
    order,
    sell,
    trade,
    volumes,
)

# ---- money ----------------------------------------------------------------------------------


def identity(e: MatchingEngine) -> D:
    """Return available + reserved + inventory at cost + fees − realised."""
    b = e.balances()
    available = b.quote - b.reserved_quote
    assert available >= 0
    assert b.base - b.reserved_base >= 0
    return available + b.reserved_quote + b.inventory_cost + b.fees - b.realised


def evidence(rng: random.Random, n: int, price: D) -> Evidence:
    """Return a random candle, print or book near `price`."""
    tick, kind = PLAIN.tick_size, rng.randrange(3)
    if kind == 0:
        ends = [price + rng.randint(-8, 8) * tick for _ in range(4)]
        return Candle(
            time=60.0 * n, interval=60.0, open=ends[0], high=max(ends), low=min(ends),
            close=ends[3], volume=D(rng.randint(0, 9000)),
        )  # fmt: skip
    at = 60.0 * n + 60
    if kind == 1:
        side = rng.choice([None, Side.BUY, Side.SELL])
        return Trade(
            time=at,
            price=price + rng.randint(-8, 8) * tick,
            volume=D(rng.randint(1, 999)),
            side=side,
        )
    middle = price + rng.randint(-5, 5) * tick
    return Book(
        time=at,
        bids=tuple((middle - k * tick, D(rng.randint(1, 500))) for k in range(1, 6)),
        asks=tuple((middle + k * tick, D(rng.randint(1, 500))) for k in range(1, 6)),
    )


def play(e: MatchingEngine, seed: int, steps: int) -> list[VenueExecution]:
    """Play random orders, cancels and evidence; return the executions."""
    rng, fills = random.Random(seed), []
    for n in range(steps):
        for _ in range(rng.randrange(3)):
            price = D("0.1") + rng.randint(-9, 9) * PLAIN.tick_size
            volume = D(rng.randint(1, 4000))
            side = rng.choice([Side.BUY, Side.SELL])
            new = order(side, price, volume, f"o{n}-{rng.random()}", post=rng.random() < 0.7)
            result = e.submit(new, 60.0 * n)
            if isinstance(result, Accepted):
                fills += result.executions
        if e.orders() and rng.random() < 0.3:
            e.cancel(rng.choice(e.orders()).txid, 60.0 * n + 1)
        fills += e.on_evidence(evidence(rng, n, D("0.1")))
    return fills


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["optimistic", "default", "pessimistic"]))
def test_cash_identity_and_balances_hold_exactly(seed: int, name: str) -> None:
    """After every event nothing is lost to the last digit, and nothing is negative."""
    e = engine(preset(name, MatchingConfig(seed=seed)), base=3000, quote=300)
    for step in range(40):
        play(e, seed * 100 + step, 1)
        assert identity(e) == 300


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_snapshot_is_lossless_and_plain(seed: int) -> None:
    """An engine restored from JSON goes on exactly like the one that was kept."""
    kept = engine(MatchingConfig(seed=seed))
    play(kept, seed, 15)
    stored = EngineState.from_dict(json.loads(json.dumps(kept.state().to_dict())))
    other = MatchingEngine(kept.instrument, kept.config, stored)
    assert other.state() == kept.state()
    assert play(other, seed + 1, 15) == play(kept, seed + 1, 15)


def test_same_seed_gives_the_same_bytes() -> None:
    """Two runs of one seed are equal to the byte."""
    runs = []
    for _ in range(2):
        e = engine(preset("optimistic", MatchingConfig(seed=7)))
        play(e, 7, 60)
        runs.append(json.dumps(e.state().to_dict()))
    assert runs[0] == runs[1]


def overcharge(price: D, volume: D, rate: D) -> D:
    """Return what rounding adds to the exact cost and fee of one buy."""
    fine = Instrument()
    cost = fine.cost(price, volume)
    return cost + fine.fee(cost, rate) - price * volume * (1 + rate)


def test_account_spent_to_the_last_cent_is_never_overdrawn() -> None:
    """Though every piece rounds against it: what cannot be paid for goes on resting."""
    price, rate = D("0.1234567"), D("0.004")
    piece = max(
        (D("0.1") + D(n) / 10**5 for n in range(500)), key=lambda v: overcharge(price, v, rate)
    )
    assert overcharge(price, piece, rate) > D("4e-9")
    quote = buy_hold(price=price, volume=piece * 1000, rate=rate)
    e = engine(FEES, instrument=Instrument(), base=0, quote=quote)
    accepted(e.submit(buy(price, piece * 1000), 0.0))
    for n in range(1000):
        assert e.on_evidence(Trade(time=float(n), price=D("0.1"), volume=piece))
        assert identity(e) == quote
    (rest,) = e.orders()
    assert rest.remaining < piece / 100
    assert 0 <= e.balances().quote < D("1e-5")


def test_lost_fee_tier_fills_what_can_be_paid_for() -> None:
    """An order placed at 0.30 % that fills at 0.40 % takes no more than the account has."""
    tiered = replace(FEES, flat_fees=None)
    e = engine(tiered, instrument=Instrument(), base=0, quote=D("100.3"))
    e = MatchingEngine(e.instrument, tiered, replace(e.state(), daily_volume=((0, D(2500)),)))
    assert e.fees(0.0).maker == D("0.003")
    accepted(e.submit(buy("0.1", 1000), 0.0))
    later = 40 * 86_400.0
    (fill,) = e.on_evidence(trade("0.09", 1000, later))
    assert fill.fee / fill.cost == pytest.approx(D("0.004"))
    assert 998 < fill.volume < 1000
    assert 0 <= e.balances().quote < D("1e-7")
    identity(e)


# ---- economic invariants --------------------------------------------------------------------


def test_flat_price_earns_minus_fees() -> None:
    """Buying and selling at one price costs exactly the fees."""
    e = engine(FEES, base=0, quote=1000)
    e.submit(buy("0.1000", 1000), 0.0)
    e.on_evidence(trade("0.0999", 1000))
    e.submit(sell("0.1000", 1000), 2.0)
    e.on_evidence(trade("0.1001", 1000, 3.0))
    b = e.balances()
    assert (b.base, b.quote) == (0, 1000 - b.fees)
    assert b.fees == D("0.8")


def test_holding_earns_nothing() -> None:
    """Without orders no evidence changes the account."""
    e = engine(FEES)
    before = e.balances()
    rng = random.Random(1)
    for n in range(200):
        e.on_evidence(evidence(rng, n, D("0.1")))
    assert e.balances() == before


def drift_free_gain(seed: int, steps: int) -> tuple[float, int]:
    """Return gain and number of executions of a random maker policy on a driftless walk."""
    e = engine(NO_FEES, instrument=CENTS, base=1_000_000, quote=1_000_000_000)
    rng, price, count = random.Random(seed), 10_000, 0
    for n in range(steps):
        price += rng.choice((-1, 1))
        count += len(e.on_evidence(Trade(time=float(n), price=D(price), volume=D(10))))
        if n % 60 == 0:
            for resting in e.orders():
                e.cancel(resting.txid, n + 0.2)
            side = rng.choice((Side.BUY, Side.SELL))
            away = rng.randint(6, 8)  # beyond half the displayed spread of 5 basis points
            e.submit(
                order(side, D(price - away if side is Side.BUY else price + away), 1, f"o{n}"),
                n + 0.5,
            )
    b = e.balances()
    return float(b.quote - 1_000_000_000 + (b.base - 1_000_000) * price), count


@pytest.mark.slow
def test_random_policy_does_not_gain_on_a_driftless_path() -> None:
    """Over 10^5 steps in twenty runs the mean gain is not above three standard errors."""
    runs = [drift_free_gain(seed, 5_000) for seed in range(20)]
    gains = [gain for gain, _ in runs]
    assert min(count for _, count in runs) > 10
    mean = sum(gains) / len(gains)
    variance = sum((x - mean) ** 2 for x in gains) / (len(gains) - 1)
    assert mean <= 3 * math.sqrt(variance / len(gains))


def walk(seed: int, bars: int) -> list[Candle]:
    """Return candles of a random walk around 0.1."""
    rng, price, result = random.Random(seed), D("0.1"), []
    for n in range(bars):
        ends = [price, *(price + rng.randint(-12, 12) * PLAIN.tick_size for _ in range(3))]
        result.append(Candle(
            time=60.0 * n, interval=60.0, open=price, high=max(ends), low=min(ends),
            close=ends[3], volume=D(rng.randint(1, 9000)),
        ))  # fmt: skip
        price = max(D("0.05"), ends[3])
    return result


def first_fill(config: MatchingConfig, price: D, market: list[Evidence], volume: int) -> float:
    """Return when a buy at `price` first fills; infinity: never."""
    e = engine(config)
    e.submit(buy(price, volume), -1.0)
    return next((x.time for m in market for x in e.on_evidence(m)), math.inf)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(-15, 15), st.integers(0, 10), st.booleans())
def test_higher_buy_limit_never_fills_later(seed: int, at: int, more: int, prints: bool) -> None:
    """On candles and on prints alike."""
    rng = random.Random(seed)
    market: list[Evidence] = list(walk(seed, 20))
    if prints:
        market = [Trade(time=float(n), price=D("0.1") + rng.randint(-20, 20) * PLAIN.tick_size,
                        volume=D(rng.randint(1, 99))) for n in range(60)]  # fmt: skip
    low = D("0.1") + at * PLAIN.tick_size
    config = replace(NO_FEES, seed=seed, touch_prob=0.0)
    high = low + more * PLAIN.tick_size
    assert first_fill(config, high, market, 500) <= first_fill(config, low, market, 500)


def filled(config: MatchingConfig, orders: list[NewOrder], market: list[Evidence]) -> D:
    """Return the volume that a fixed set of resting orders fills."""
    e = engine(config)
    for new in orders:
        e.submit(new, -1.0)
    return sum((x.volume for m in market for x in e.on_evidence(m)), D(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from(["candles", "mixed"]))
def test_splitting_an_order_never_fills_more(seed: int, parts: int, kind: str) -> None:
    """One order of n × v fills at least what n orders of v fill together."""
    rng = random.Random(seed)
    market: list[Evidence] = list(walk(seed, 12))
    if kind == "mixed":
        market = sorted(
            (evidence(rng, n, D("0.1")) for n in range(40)),
            key=lambda m: m.time + (60 if isinstance(m, Candle) else 0),
        )
    config = replace(NO_FEES, seed=seed, touch_prob=0.5, is_probabilistic=True)
    price = D("0.1") - rng.randint(0, 8) * PLAIN.tick_size
    whole = filled(config, [buy(price, parts * 400)], market)
    split = filled(config, [buy(price, 400, f"p{n}") for n in range(parts)], market)
    assert split <= whole


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_presets_fill_in_order_of_optimism(seed: int, prints: bool) -> None:
    """For one schedule: optimistic at least default, default at least pessimistic."""
    rng = random.Random(seed)
    market: list[Evidence] = list(walk(seed, 15))
    if prints:
        market = [Trade(time=float(n), price=D("0.1") + rng.randint(-20, 20) * PLAIN.tick_size,
                        volume=D(rng.randint(1, 9999))) for n in range(60)]  # fmt: skip
    ladder = [buy(D("0.1") - k * PLAIN.tick_size, 700, f"b{k}") for k in range(1, 8, 3)]
    ladder += [sell(D("0.1") + k * PLAIN.tick_size, 700, f"s{k}") for k in range(1, 8, 3)]
    base = MatchingConfig(seed=seed)
    names = ("optimistic", "default", "pessimistic")
    best, middle, worst = (filled(preset(n, base), ladder, market) for n in names)
    assert best >= middle >= worst


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_volume_filled_per_print_is_at_most_the_print(seed: int) -> None:
    """However many orders rest, a print fills no more than itself; a bar no more than φ of it."""
    rng, e = random.Random(seed), engine(MatchingConfig(seed=seed, assumed_queue=D(0)))
    for n in range(60):
        if rng.random() < 0.7:
            price = D("0.1") + rng.randint(-9, 9) * PLAIN.tick_size
            side = rng.choice([Side.BUY, Side.SELL])
            e.submit(order(side, price, rng.randint(1, 900), f"o{n}"), 60.0 * n)
        market = evidence(rng, n, D("0.1"))
        total = sum(volumes(e.on_evidence(market)))
        if isinstance(market, Trade):
            assert total <= market.volume
        elif isinstance(market, Candle):
            assert total <= market.volume * e.config.participation
