"""Quiet ticks, alone or many at once: what they leave behind is time, price and range."""

from decimal import Decimal

import pytest

from core import actions as a
from core import events as e
from core.params import RiskBasis
from core.record import replace
from core.state import BotState, Market
from state_machine import quiet_bounds, reduce, skip_prices, take_note
from tests.world import GOLDEN_PARAMS, START, World

D = Decimal
TIMER, HOUR = START + 1000.0, START + 2800.0  # the second is the turn of an hour
PARAMS = replace(
    GOLDEN_PARAMS,
    recon_interval_sec=1000.0,
    stale_price_max_age_sec=5000.0,
    risk_basis=RiskBasis.ACCOUNT,  # its peak follows the price
)


def tick(seconds: float, bid: str, message: int = 0) -> e.PriceTick:
    """Return a quote so many seconds after the start."""
    low = D(bid)
    return e.PriceTick(
        time=START + seconds, message=message, bid=low, ask=low + D("0.00002"), last=low + D("1e-5")
    )


def resting() -> World:
    """Return a world with both entries resting and nothing due but the reading of balances."""
    world = World(PARAMS)
    world.enter()
    own = world.state.balances
    world.step(e.BalancesReported(time=world.now, base=own.base, quote=own.quote))
    world.timer()
    return world


def folded(state: BotState, events: list[e.Event]) -> tuple[BotState, list[a.Action]]:
    """Return the state after all events, and their actions."""
    actions: list[a.Action] = []
    for event in events:
        state, made = reduce(state, event, PARAMS)
        actions += made
    return state, actions


def test_quiet_tick_notes_price_time_and_range() -> None:
    """Everything else stays; a tick without a number leaves the cursor where it was."""
    state = resting().state
    old = state.market
    assert old is not None
    for bid in ("0.09996", "0.10001"):
        event = tick(30, bid, message=9)
        after, actions = reduce(state, event, PARAMS)
        market = Market(
            bid=event.bid, ask=event.ask, last=event.last, time=event.time,
            bid_high=max(event.bid, old.bid), bid_low=min(event.bid, old.bid),
        )  # fmt: skip
        assert after == replace(state, now=event.time, exchange_cursor=9, market=market)
        assert actions == ()
        again, _ = reduce(after, tick(20, bid), PARAMS)
        assert (again.now, again.exchange_cursor) == (after.now, 9)


def test_noting_without_a_market_keeps_time_and_cursor_alone() -> None:
    """As of an event that is no quote."""
    state = resting().state
    timer = e.TimerTick(time=START + 50, message=4)
    assert take_note(state, timer) == replace(state, now=START + 50, exchange_cursor=4)
    bare = replace(state, market=None)
    assert take_note(bare, tick(60, "0.1", 5)) == replace(bare, now=START + 60, exchange_cursor=5)


@pytest.mark.parametrize("bids", [("0.09996", "0.10001", "0.0999"), ("0.10002", "0.09995", "0.1")])
def test_many_quiet_ticks_at_once_are_those_ticks(bids: tuple[str, ...]) -> None:
    """The same state, with the range of all of them and the number of the last."""
    state = resting().state
    ticks = [tick(100 + n, bid, 10 + n) for n, bid in enumerate(bids)]
    last = ticks[-1]
    skipped = e.PricesSkipped(
        time=last.time, message=last.message, count=len(ticks), bid=last.bid, ask=last.ask,
        last=last.last, low=min(x.bid for x in ticks), high=max(x.bid for x in ticks),
    )  # fmt: skip
    assert reduce(state, skipped, PARAMS) == (folded(state, [*ticks])[0], ())
    unnumbered = replace(skipped, message=0)
    assert reduce(state, unnumbered, PARAMS)[0].exchange_cursor == state.exchange_cursor


@pytest.mark.parametrize("peak", ["0.10003", "0.09996"])
@pytest.mark.parametrize("asks", [True, False])
def test_idle_timers_between_quiet_ticks_are_those_timers(peak: str, asks: bool) -> None:
    """The equity at the turn of the hour, the read of balances, the peak and the tokens."""
    state = resting().state
    if not asks:
        own = replace(state.balances, requested_at=START + 2000.0)
        state = replace(state, balances=own)
        state = replace(state, quiet=quiet_bounds(state, PARAMS))
    own = state.balances
    read = e.BalancesReported(time=TIMER + 3.0, base=own.base, quote=own.quote)
    asked = [e.TimerTick(time=TIMER + 1.0), read] if asks else []
    until = [tick(500, "0.09997"), *asked, tick(1500, peak)]
    turn = [e.TimerTick(time=HOUR)]
    after = [tick(2900, "0.09998"), tick(2950, "0.09994"), tick(2990, "0.1", 8)]
    if asks:  # and again before the hour is over
        again = replace(read, time=TIMER + 1005.0)
        until += [e.TimerTick(time=TIMER + 1002.0), again]
    single, actions = folded(state, [*until, *turn, *after])
    skipped = e.PricesSkipped(
        time=START + 2990, message=8, count=5, bid=D("0.1"), ask=after[-1].ask,
        last=after[-1].last, low=D("0.09994"), high=max(D(peak), D("0.1")),
        rhythm=e.Rhythm(
            time=HOUR, low=min(D("0.09997"), D(peak)), high=max(D("0.09997"), D(peak)),
            turns=(e.Turn(time=HOUR, bid=D(peak)),),
            asked_at=TIMER + 1002.0 if asks else None,
            reported_at=TIMER + 1005.0 if asks else None,
        ),
    )  # fmt: skip
    at_once, told = reduce(state, skipped, PARAMS)
    assert at_once == single
    assert at_once.risk.peak > state.risk.peak or D(peak) < D("0.1")
    assert list(told) == [x for x in actions if isinstance(x, a.RecordEquity)]
    assert len(told) == 1


def test_nothing_is_skipped_without_a_market() -> None:
    """Whoever says so is wrong."""
    state = replace(resting().state, market=None)
    skipped = e.PricesSkipped(
        time=START + 9, count=1, bid=D(1), ask=D(2), last=D(1), low=D(1), high=D(1)
    )
    with pytest.raises(AssertionError, match="without a market"):
        skip_prices(state, skipped, PARAMS)
