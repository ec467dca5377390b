"""Arbitrary interleavings of fills, cancels, rejections, duplicates and late executions.

A model exchange keeps its own exact books; the reducer must agree with them whatever the order of
events, and keep every safety invariant on the way (World checks them after each event).
"""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting import breakdown, orders, trial_balance
from core import actions as a
from core import commands as c
from core import events as e
from core.domain import Instrument, OrderState, OrderStatus, RejectReason, TradeId
from core.record import Record, replace
from core.state import BotState, Exiting, Idle
from grid.invariants import check_invariants
from state_machine import reduce
from tests.regime_world import BOTH_PRESENT, depth, estimate, estimated, model
from tests.world import GOLDEN_INSTRUMENT, GOLDEN_PARAMS, World, audited

D = Decimal
PARAMS = replace(
    GOLDEN_PARAMS, slot_count=2, slot_stagger_pct=D("0.3"), s1_orphan_after_sec=600.0,
    s2_orphan_after_sec=900.0, loss_streak_rest_at=2, loss_rest_sec=30.0, hmm_enabled=True,
    regime_directional_enabled=True, regime_min_dwell_sec=30.0, regime_tier2_cooldown_sec=90.0,
    regime_max_suppression_sec=400.0,
)  # fmt: skip


class Known(Record, frozen=True, kw_only=True):
    """An order as the model exchange knows it."""

    order: OrderState
    executed: Decimal = D(0)
    is_over: bool = False


class ModelExchange:
    """Executes orders of a World in any manner a venue may, and keeps exact books."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[str, Known] = {}
        self.base, self.quote = world.state.balances.base, world.state.balances.quote
        self.undelivered: list[e.FillEvent] = []
        self.delivered: list[e.FillEvent] = []
        self.booked: list[tuple[int, str, int]] = []
        self.executions = 0
        self._seen = 0

    def collect(self) -> None:
        """Take in what the bot has placed and booked since the last look."""
        for action in self.world.log[self._seen :]:
            if isinstance(action, a.PlaceOrderAction):
                assert action.order.client_order_id not in self.known
                self.known[action.order.client_order_id] = Known(order=action.order)
            elif isinstance(action, a.BookCycleAction):
                record = action.record
                self.booked.append((action.slot_id, record.trade_id, record.cycle))
        self._seen = len(self.world.log)

    def live(self, pick: int) -> Known | None:
        """Return one of the orders that are not over."""
        alive = [x for x in self.known.values() if not x.is_over]
        return alive[pick % len(alive)] if alive else None

    def execute(self, known: Known, share: int) -> e.FillEvent:
        """Execute a share (1 to 4 quarters) of what is left, in whole lots."""
        order = known.order
        rest = order.volume - known.executed
        volume = max(D(1), (rest * share / 4).to_integral_value()) if share < 4 else rest
        volume = min(volume, rest)
        cost, fee = order.price * volume, (order.price * volume * D("0.0025")).quantize(D("1e-8"))
        way = 1 if order.side == "buy" else -1
        self.base += way * volume
        self.quote -= way * cost + fee
        self.executions += 1
        executed = known.executed + volume
        self.known[order.client_order_id] = replace(
            known, executed=executed, is_over=executed == order.volume
        )
        return e.FillEvent(
            time=self.world.now, client_order_id=order.client_order_id, txid="T",
            execution_id=f"E{self.executions}", price=order.price, volume=volume, cost=cost,
            fee=fee, executed_at=self.world.now,
        )  # fmt: skip

    def deliver(self, fill: e.FillEvent) -> None:
        """Tell the bot of an execution."""
        self.world.step(replace(fill, time=self.world.now))
        self.delivered.append(fill)

    def close(self, known: Known, reason: str) -> None:
        """End an order and say so; its undelivered executions come later."""
        self.known[known.order.client_order_id] = replace(known, is_over=True)
        self.world.step(
            e.OrderClosed(
                time=self.world.now, client_order_id=known.order.client_order_id, reason=reason,
                executed=known.executed,
            )
        )  # fmt: skip


def act(exchange: ModelExchange, kind: int, pick: int, share: int) -> None:
    """Do one thing that may happen in the life of a bot."""
    world = exchange.world
    world.advance(1)
    known = exchange.live(pick)
    match kind:
        case 0 | 1 if known is not None:
            exchange.deliver(exchange.execute(known, share))
        case 2 if known is not None:
            exchange.undelivered.append(exchange.execute(known, share))
        case 3 if exchange.undelivered:
            exchange.deliver(exchange.undelivered.pop(pick % len(exchange.undelivered)))
        case 4 if exchange.delivered:
            world.step(exchange.delivered[pick % len(exchange.delivered)])
        case 5 if known is not None:
            exchange.close(known, "cancelled")
        case 6 if known is not None and known.executed == 0:
            reason = list(RejectReason)[pick % len(RejectReason)]
            exchange.known[known.order.client_order_id] = replace(known, is_over=True)
            world.step(
                e.OrderRejected(
                    time=world.now, client_order_id=known.order.client_order_id, reason=reason
                )
            )
        case 7:
            world.price(str((D("0.1") * (100 + (pick % 13) - 6) / 100).quantize(D("1e-6"))))
        case 8:
            world.timer([1, 5, 60, 301, 1000][share % 5])
        case 9 if known is not None:
            kinds = (
                e.OrderAccepted(
                    time=world.now, client_order_id=known.order.client_order_id, txid="T"
                ),
                e.OrderUncertain(time=world.now, client_order_id=known.order.client_order_id),
                e.CancelRefused(
                    time=world.now, client_order_id=known.order.client_order_id, reason="x"
                ),
            )
            world.step(kinds[share % 3])
        case 10:
            commands: list[c.Command] = [
                c.Pause(), c.Resume(), c.Halt(), c.Resume(),
                c.PairOff(slot=1 + pick % 2, confirm=True),
                c.CancelStaleRecoveries(older_than_sec=0, confirm=True),
                c.SoftCloseNext(max_loss_pct=D(5), confirm=True),
                c.RemoveSlot(slot=1 + pick % 3, disposition="keep_recoveries"),
                c.AddSlot(), c.RetrainHmm(),
            ]  # fmt: skip
            world.command(commands[pick % len(commands)])
        case 12 | 13:
            world.step(said(world.now, pick, share))
        case 14:
            if pick % 2:
                world.step(e.ModelTrained(time=world.now, model=model(until=world.now)))
            else:
                world.step(e.TrainingFailed(time=world.now, interval_sec=60.0, reason="x"))
        case _:
            world.timer()
    exchange.collect()


def said(now: float, pick: int, share: int) -> e.Event:
    """Return what models may say: any label, sure or not, of one timeframe or two."""
    regime = (None, 0, 1, 2)[pick % 4]
    confidence = (0.1, 0.3, 0.48, 0.9, 0.9)[pick % 5]
    own = depth(400 * share, modifier=(0.70, 0.85, 0.95, 1.00)[pick % 4])
    bias = 0.0 if regime is None else (regime - 1) * confidence
    primary = estimate(regime, confidence, bias, is_trained=pick % 3 > 0, own=own)
    second = estimate((None, 0, 1, 2)[share % 4], 0.8, 0.6, interval_sec=900.0)
    return e.RegimeEstimated(
        time=now, primary=primary, secondary=second if pick % 2 else None, evidence=BOTH_PRESENT
    )


def answer(exchange: ModelExchange, order: OrderState) -> None:
    """Say what has become of an order whose fate the bot does not know, or end a cancelled one."""
    world, known = exchange.world, exchange.known[order.client_order_id]
    facts = {"time": world.now, "client_order_id": order.client_order_id}
    if order.status is OrderStatus.CANCELLING and not known.is_over:
        exchange.close(known, "cancelled")
    elif known.is_over and (known.executed or order.txid is not None):
        world.step(e.OrderClosed(**facts, reason="closed", executed=known.executed))
    elif known.is_over:
        world.step(e.OrderRejected(**facts, reason=RejectReason.NEVER_ARRIVED))
    elif order.status in (OrderStatus.PENDING, OrderStatus.UNCERTAIN):
        world.step(e.OrderFound(**facts, txid="T", executed=known.executed))


def settle(exchange: ModelExchange) -> None:
    """Deliver everything outstanding, answer every question and let the bot rest."""
    world = exchange.world
    while exchange.undelivered:
        exchange.deliver(exchange.undelivered.pop(0))
    exchange.collect()
    for _ in range(8):
        for order in list(orders(world.state)):
            answer(exchange, order)
            exchange.collect()
        world.timer(61)
        exchange.collect()


steps = st.lists(st.tuples(st.integers(0, 14), st.integers(0, 40), st.integers(1, 4)), max_size=120)


def check_against(exchange: ModelExchange) -> None:
    """Compare the bot's books with the exchange's, exactly."""
    state = exchange.world.state
    own = state.balances
    assert (own.base, own.quote) == (exchange.base, exchange.quote)
    assert trial_balance(state.accounts) == 0
    parts = breakdown(state)
    assert parts is not None
    assert parts.unexplained == 0
    assert len(set(exchange.booked)) == len(exchange.booked)
    assert audited(exchange.world.state, exchange.world.log).agrees
    executed = [x.execution_id for x in exchange.world.log if isinstance(x, a.RecordExecution)]
    assert len(executed) == len(set(executed)) == exchange.executions


def run_steps(
    plan: list[tuple[int, int, int]], instrument: Instrument = GOLDEN_INSTRUMENT
) -> ModelExchange:
    """Run a plan from a fresh world to rest."""
    exchange = ModelExchange(World(PARAMS, instrument=instrument))
    exchange.world.enter()
    exchange.collect()
    for kind, pick, share in plan:
        act(exchange, kind, pick, share)
    settle(exchange)
    return exchange


@given(steps)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_interleaving_keeps_the_books_of_the_exchange(plan: list[tuple[int, int, int]]) -> None:
    """Whatever the order of events, every execution is booked once and the books agree exactly."""
    exchange = run_steps(plan)
    check_against(exchange)
    _check_rest(exchange)


@given(steps)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_interleaving_with_a_minimum_that_rests_fall_below(
    plan: list[tuple[int, int, int]],
) -> None:
    """Rests too small for an order of their own are booked or kept, never owed for ever."""
    exchange = run_steps(plan, replace(GOLDEN_INSTRUMENT, order_min=D(5)))
    check_against(exchange)
    _check_rest(exchange)


@pytest.mark.long
@given(steps)
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_interleaving_at_length(plan: list[tuple[int, int, int]]) -> None:
    """The same with many more examples."""
    for least in (D(1), D(5)):
        exchange = run_steps(plan, replace(GOLDEN_INSTRUMENT, order_min=least))
        check_against(exchange)
        _check_rest(exchange)


def _check_rest(exchange: ModelExchange) -> None:
    """At rest nothing hangs: no ghost, no unfinished wish, and every exit rests."""
    state = exchange.world.state
    for order in orders(state):
        assert not exchange.known[order.client_order_id].is_over
    for slot in state.slots:
        assert not slot.pairing
        assert not any(x.releasing for x in slot.recovery_orders)
        holders = [leg.state for leg in slot.legs if isinstance(leg.state, Exiting)]
        for holder in (*holders, *slot.recovery_orders):
            assert isinstance(holder.exit, OrderState)
            assert not holder.position.is_repricing


@given(steps)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_state_survives_its_stored_form(plan: list[tuple[int, int, int]]) -> None:
    """from_dict(to_dict(state)) is the state, wherever it has got to."""
    state = run_steps(plan).world.state
    assert BotState.from_dict(state.to_dict()) == state


quotes = st.lists(st.integers(-40, 40), min_size=1, max_size=60)


@given(steps, quotes)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_quiet_ticks_decide_nothing(plan: list[tuple[int, int, int]], path: list[int]) -> None:
    """A tick inside the quiet bounds, reduced in full, would have changed no decision either."""
    world = run_steps(plan).world
    market = world.state.market
    assert market is not None
    mid = market.bid
    for move in path:
        mid *= 1 + D(move) / 20_000
        bid = mid.quantize(D("1e-6"))
        tick = e.PriceTick(time=world.now, bid=bid, ask=bid + D("1e-6"), last=bid)
        quick, actions = reduce(world.state, tick, world.params)
        if quick.quiet is not world.state.quiet:
            world.step(tick)
            world.timer(0)
            continue
        assert actions == ()
        full, _ = reduce(replace(world.state, quiet=None), tick, world.params)
        full, timer_actions = reduce(full, e.TimerTick(time=world.now), world.params)
        moved = [x for x in timer_actions if not isinstance(x, a.RecordEquity | a.RequestReconcile)]
        assert moved == []
        world.state = quick


waits = st.lists(st.sampled_from([0.5, 1.0, 7.0, 29.0, 61.0, 200.0, 299.0]), max_size=40)


@given(steps, waits, st.sampled_from([0, 2]), st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_quiet_tick_passes_over_nothing_that_is_due(
    plan: list[tuple[int, int, int]], waited: list[float], regime: int, is_heard: bool
) -> None:
    """Before the next due time a timer would do nothing, before that of duties only ask and note.

    No tick after that is quiet.
    """
    world = run_steps(plan).world
    market = world.state.market
    assert market is not None
    world.price(str(market.bid))  # no insane price waits for a second one that agrees
    market = world.state.market
    assert market is not None
    world.step(estimated(world.now, regime))
    world.timer(30)
    world.step(estimated(world.now, regime))
    for wait in waited:
        world.advance(wait)
        quiet = world.state.quiet
        assert quiet is not None
        tick = e.PriceTick(time=world.now, bid=market.bid, ask=market.ask, last=market.last)
        quick, actions = reduce(world.state, tick, world.params)
        if quick.quiet is not quiet:
            world.step(tick)
            if is_heard and any(isinstance(x, a.RequestEstimate) for x in world.timer(0)):
                world.step(estimated(world.now, regime))
            else:
                world.timer(0)
            continue
        assert actions == ()
        assert world.now < quiet.duty_due
        full, timer_actions = reduce(quick, e.TimerTick(time=world.now), world.params)
        own = [x for x in timer_actions if not isinstance(x, a.RecordEquity)]
        if world.now >= quiet.next_due:
            assert all(isinstance(x, a.RequestReconcile | a.RequestEstimate) for x in own)
            world.step(tick)
            world.timer(0)
            if is_heard and any(isinstance(x, a.RequestEstimate) for x in own):
                world.step(estimated(world.now, regime))
            continue
        assert own == []
        assert full.regimes == quick.regimes
        world.state = quick


def test_a_position_is_never_lost_over_every_rejection() -> None:
    """For each reason an exit may be refused with, it stays owed and is placed again."""
    for reason in RejectReason:
        world = World()
        world.enter()
        world.fill("1B.entry")
        world.reject("1B.exit", reason)
        for _ in range(3):
            world.timer(60)
        assert world.leg("1B").trade_id is TradeId.B
        assert world.order("1B.exit").volume == 20
        assert not isinstance(world.leg("1B").state, Idle)
        assert check_invariants(world.state) == []
