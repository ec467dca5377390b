"""A small world around the reducer for tests: drives events, names orders, checks invariants.

Orders are named slot, leg and duty, as in "1B.entry" or "1A.recovery".
"""

from decimal import Decimal

from core import actions as a
from core import events as e
from core.commands import Command
from core.domain import Audit, FeeRates, Instrument, OrderState, Owed, RejectReason, TradeId
from core.params import Params
from core.record import replace
from core.state import BotState, Entering, Exiting, Idle, Leg, SlotState
from engine.runtime import Runtime
from grid.auditing import recompute
from grid.invariants import check_invariants
from grid_strategy import phase
from state_machine import reduce
from store.memory import MemoryStore

GOLDEN_INSTRUMENT = Instrument(
    tick_size=Decimal("0.000001"),
    lot_size=Decimal(1),
    order_min=Decimal(1),
    cost_min=Decimal("0.1"),
)
GOLDEN_PARAMS = Params(
    slot_count=1,
    entry_pct=Decimal("0.2"),
    profit_pct=Decimal(1),
    order_size_usd=Decimal(2),
    slot_stagger_pct=Decimal(0),
    stale_price_max_age_sec=1e9,
    recon_interval_sec=1e9,
)
HMM_PARAMS = replace(GOLDEN_PARAMS, hmm_enabled=True)
ACTING_PARAMS = replace(HMM_PARAMS, regime_directional_enabled=True)
GOLDEN_FEES = FeeRates(maker=Decimal("0.0025"), taker=Decimal("0.004"))
START = 1_700_000_000.0


class World:
    """A reducer with a clock that tests move."""

    def __init__(
        self,
        params: Params = GOLDEN_PARAMS,
        *,
        instrument: Instrument = GOLDEN_INSTRUMENT,
        fees: FeeRates = GOLDEN_FEES,
        base: Decimal = Decimal(10_000),
        quote: Decimal = Decimal(1_000),
        price: Decimal | None = Decimal("0.1"),
    ) -> None:
        self.params = params
        self.state = BotState()
        self.now = START
        self.executions = 0
        self.log: list[a.Action] = []
        started = e.Started(
            time=self.now,
            params=params,
            instrument=instrument,
            fees=fees,
            bot_tag=1,
            store_epoch=2,
            code_version="test",
        )
        self.step(started)
        self.step(e.BalancesReported(time=self.now, base=base, quote=quote))
        if price is not None:
            self.price(price)

    def step(self, event: e.Event) -> list[a.Action]:
        """Reduce one event and check the safety invariants."""
        self.state, actions = reduce(self.state, event, self.params)
        self.log.extend(actions)
        assert check_invariants(self.state) == []
        return list(actions)

    @staticmethod
    def violations(state: BotState) -> list[str]:
        """Return the safety invariants that a state violates."""
        return check_invariants(state)

    def advance(self, seconds: float) -> None:
        """Let time pass without an event."""
        self.now += seconds

    def price(self, mid: Decimal | str, spread: str = "0.0002") -> list[a.Action]:
        """Send a quote around `mid`."""
        half = Decimal(mid) * Decimal(spread) / 2
        return self.quote(Decimal(mid) - half, Decimal(mid) + half)

    def quote(self, bid: Decimal, ask: Decimal) -> list[a.Action]:
        """Send a quote."""
        return self.step(e.PriceTick(time=self.now, bid=bid, ask=ask, last=(bid + ask) / 2))

    def timer(self, seconds: float = 1.0) -> list[a.Action]:
        """Let time pass and send a TimerTick."""
        self.now += seconds
        return self.step(e.TimerTick(time=self.now))

    def leg(self, name: str) -> Leg:
        """Return the leg that a name like "1B" or "1B.entry" names."""
        slot = next(s for s in self.state.slots if s.slot_id == int(name[0]))
        return slot.leg(TradeId(name[1]))

    def slot(self, slot_id: int = 1) -> SlotState:
        """Return a slot."""
        return next(s for s in self.state.slots if s.slot_id == slot_id)

    def order(self, name: str) -> OrderState:
        """Return the live order of that name."""
        leg = self.leg(name)
        duty = name.split(".")[1]
        if duty == "recovery":
            for recovery in self.slot(int(name[0])).recovery_orders:
                if recovery.trade_id == name[1] and isinstance(recovery.exit, OrderState):
                    return recovery.exit
        if duty == "entry" and isinstance(leg.state, Entering):
            return leg.state.order
        if (
            duty == "exit"
            and isinstance(leg.state, Exiting)
            and isinstance(leg.state.exit, OrderState)
        ):
            return leg.state.exit
        raise AssertionError(f"no live order {name}")

    def accept(self, *names: str) -> None:
        """Acknowledge orders."""
        for name in names:
            order = self.order(name)
            self.step(
                e.OrderAccepted(
                    time=self.now, client_order_id=order.client_order_id, txid=f"T-{name}"
                )
            )

    def fill(
        self,
        name: str,
        volume: Decimal | int | None = None,
        *,
        fee: str = "0",
        late: float = 0.0,
    ) -> list[a.Action]:
        """Execute an order, wholly or in part, at its limit; told `late` seconds afterwards."""
        order = self.order(name)
        amount = order.remaining if volume is None else Decimal(volume)
        self.executions += 1
        return self.step(
            e.FillEvent(
                time=self.now,
                client_order_id=order.client_order_id,
                txid=f"T-{name}",
                execution_id=f"E{self.executions}",
                price=order.price,
                volume=amount,
                cost=self.state.instrument.cost(order.price, amount),
                fee=Decimal(fee),
                executed_at=self.now - late,
            )
        )

    def close(
        self, name: str, executed: Decimal | int | None = None, reason: str = "cancelled"
    ) -> list[a.Action]:
        """Let the exchange end an order."""
        order = self.order(name)
        total = order.filled_volume if executed is None else Decimal(executed)
        return self.step(
            e.OrderClosed(
                time=self.now,
                client_order_id=order.client_order_id,
                reason=reason,
                executed=total,
            )
        )

    def reject(self, name: str, reason: RejectReason) -> list[a.Action]:
        """Refuse an order."""
        order = self.order(name)
        return self.step(
            e.OrderRejected(time=self.now, client_order_id=order.client_order_id, reason=reason)
        )

    def command(self, command: Command) -> a.ReplyToOperator:
        """Send an operator command and return the reply."""
        actions = self.step(
            e.CommandReceived(time=self.now, command_id=f"c{self.now}", command=command)
        )
        return next(x for x in actions if isinstance(x, a.ReplyToOperator))

    def enter(self) -> None:
        """Run the entry pass until nothing more is placed, and acknowledge everything."""
        for _ in range(20):
            if not [x for x in self.timer() if isinstance(x, a.PlaceOrderAction)]:
                break
        for slot in self.state.slots:
            for leg in slot.legs:
                name = f"{slot.slot_id}{leg.trade_id}.entry"
                if isinstance(leg.state, Entering) and leg.state.order.txid is None:
                    self.accept(name)


def of(actions: list[a.Action], kind: type) -> list:
    """Return the actions of one kind."""
    return [x for x in actions if isinstance(x, kind)]


def audited(state: BotState, log: list[a.Action]) -> Audit:
    """Return how the books differ from the executions among the actions of all steps."""
    executions = [
        (x.slot_id, x.trade_id, x.cycle, x.side, str(x.volume), str(x.cost), str(x.fee))
        for x in of(log, a.RecordExecution)
    ]
    cycles = []
    for x in of(log, a.BookCycleAction):
        own = x.record
        amounts = (
            own.entry_price, own.exit_price, own.volume, own.gross_profit, own.entry_fee,
            own.exit_fee, own.fees, own.net_profit,
        )  # fmt: skip
        cycles.append((x.slot_id, own.trade_id, own.cycle, *map(str, amounts), x.resolution))
    return recompute(state, 0, sorted(executions), sorted(cycles))


def start_again(world: World, params: Params) -> None:
    """Start the same run with these parameters."""
    world.step(
        e.Started(
            time=world.now, params=params, instrument=GOLDEN_INSTRUMENT, fees=GOLDEN_FEES,
            bot_tag=1, store_epoch=2, code_version="test",
        )
    )  # fmt: skip
    world.params = params


class StoredWorld(World):
    """A world whose events go through the daemon's step into a store."""

    def __init__(self, params: Params) -> None:
        self.store = MemoryStore(epoch=2)
        self.runtime = Runtime(self.store, None, None)
        super().__init__(params)

    def step(self, event: e.Event) -> list[a.Action]:
        """Step the daemon."""
        if isinstance(event, e.Started):
            event = replace(event, code_version=self.runtime.code)
        actions = list(self.runtime.step(event))
        self.state = self.runtime.state
        self.log.extend(actions)
        return actions


def entered(params: Params = GOLDEN_PARAMS) -> World:
    """Return a world with both entries resting."""
    world = World(params)
    world.enter()
    return world


def holding_both() -> World:
    """Return a world in S2: both legs hold a position with a resting exit."""
    world = entered()
    for leg in ("A", "B"):
        world.fill(f"1{leg}.entry")
        world.accept(f"1{leg}.exit")
    return world


def describe_action(action: a.Action) -> str | None:
    """Return an action as one line of a transcript, or None for bookkeeping."""
    match action:
        case a.PlaceOrderAction(slot_id=slot, order=order):
            return (
                f"place {slot}{order.trade_id}.{order.role} {order.side} {order.volume:f} "
                f"@ {order.price:f} attempt {order.attempt}"
            )
        case a.CancelOrderAction(reason=reason):
            return f"cancel ({reason})"
        case a.BookCycleAction(slot_id=slot, record=x, resolution=resolution):
            return (
                f"book {slot}{x.trade_id} cycle {x.cycle} {x.volume:f} gross "
                f"{x.gross_profit:f} net {x.net_profit:f} ({resolution})"
            )
        case a.OrphanOrderAction(recovery_id=recovery, reason=reason):
            return f"orphan {recovery} ({reason})"
        case a.RequestReconcile(reason=reason):
            return f"reconcile ({reason})"
        case a.ReplyToOperator(is_accepted=ok, message=message):
            return f"{'accepted' if ok else 'refused'}: {message}"
        case a.RequestTraining(interval_sec=interval, reason=reason):
            return f"train {interval:g} s ({reason})"
        case a.RecordTransition(kind=kind, name=name):
            return f"transition {kind} {name}"
        case _:
            return None


def describe_state(state: BotState) -> list[str]:
    """Return the slots of a state as lines of a transcript."""
    lines = []
    for slot in state.slots:
        legs = ", ".join(f"{leg.trade_id}: {_leg(leg)}" for leg in slot.legs)
        extra = "".join(f"; recovery {x.recovery_id} {_exit(x.exit)}" for x in slot.recovery_orders)
        lines.append(f"slot {slot.slot_id} {phase(slot)} {legs}{extra}")
    return lines


def _leg(leg: Leg) -> str:
    residual = f" residual {leg.residual.volume:f}" if leg.residual else ""
    match leg.state:
        case Idle(veto=veto):
            return f"idle cycle {leg.cycle}" + (f" ({veto})" if veto else "") + residual
        case Entering(order=order):
            return f"entering {order.filled_volume:f}/{order.volume:f} {order.status}" + residual
        case Exiting(position=position, exit=exit_):
            return f"holding {position.open_volume:f}, exit {_exit(exit_)}" + residual


def _exit(exit_: OrderState | Owed) -> str:
    if isinstance(exit_, Owed):
        return f"owed ({exit_.reason})"
    return f"{exit_.filled_volume:f}/{exit_.volume:f} @ {exit_.price:f} {exit_.status}"
