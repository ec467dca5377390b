"""Deliberate bugs, each of which the storm must catch: a simulation without teeth proves nothing.

The first are what other bots do with orders, or what one might simplify in the protocol; each
breaks one rule of `exchange/kraken_desk.py` or `exchange/kraken_resolve.py`. The others are
slips in the reducer and its books, put in place of the function that they break.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import engine.live
import engine.runtime
import grid.booking
import grid.endings
import grid.operations
import grid.upkeep
import leg
import state_machine
from core import events as e
from core.actions import Action, CancelOrderAction, PlaceOrderAction
from core.domain import OrderStatus, RejectReason
from core.params import Params
from core.ports import AccountFacts
from core.record import Record, replace
from core.state import BotState, Entering, Exiting, Idle
from engine.books import Check
from engine.start_check import account_checks
from exchange import kraken_account
from exchange.kraken_budget import Budget, Priority
from exchange.kraken_desk import Desk
from exchange.kraken_records import Answer, Judgement, OrderView, Purpose, Trouble
from exchange.kraken_resolve import Doubts
from exchange.kraken_watch import Watched
from grid.reduction import Duty, Found, Reduction
from sim.storm_clock import Crash
from sim.storm_run import run_seed
from sim.storm_weather import CALM, LAG_MAX_SEC, REQUESTS, Weather
from sim.storm_world import Inline, World

Patch = tuple[Any, str, Any]  # of what, its name there, and what is put in its place
SLIP = 0.2  # how often the process dies where a variant leaves something undone
WIDE = 10**15  # a nonce window in nanoseconds: whatever is late is taken


class Mutant(Record, frozen=True, kw_only=True):
    """One bug: a world of its own, functions in the place of others, and its weather."""

    name: str
    world: type[World] = World
    patches: tuple[Patch, ...] = ()
    weather: Weather

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the functions in their places, for as long as it lasts."""
        before = [(place, name, getattr(place, name)) for place, name, _ in self.patches]
        try:
            for place, name, made in self.patches:
                setattr(place, name, made)
            yield
        finally:
            for place, name, made in before:
                setattr(place, name, made)


# ---- the protocol of orders ---------------------------------------------------------------------


def _desk(made: type[Desk]) -> type[World]:
    class Variant(World):
        desk_class = made
        needs_deadline = not issubclass(made, _WithoutDeadline)

    return Variant


class RecordAfterSend(World):
    """The order is sent first and written down after."""

    def _attach(self, runtime: Any, store: Any) -> None:
        super()._attach(runtime, store)
        commit = store.commit

        def late(made: Any) -> None:
            orders = [x for x in made.actions if isinstance(x, PlaceOrderAction)]
            if orders and self.rng.random() < SLIP:
                self.line.private("AddOrder", self.exchange.desk.order(orders[0]))
                raise Crash("crash")
            commit(made)

        store.commit = late


class PendingWasNotSent(World):
    """After a crash an order without an answer is taken for one that was never sent."""

    def _begin(self, runtime: Any, exchange: Any, now: float) -> None:
        for slot in runtime.state.slots:
            for one in slot.legs:
                order = getattr(one.state, "order", None) or getattr(one.state, "exit", None)
                if order is not None and getattr(order, "status", None) is OrderStatus.PENDING:
                    runtime.step(
                        e.OrderRejected(
                            time=runtime.state.now,
                            client_order_id=order.client_order_id,
                            reason=RejectReason.NOT_SENT,
                        )
                    )
        super()._begin(runtime, exchange, now)


class _Forgetful(Inline):
    def post(self, event: e.Event) -> None:
        halves: set[str] = getattr(self.world, "halves", set())
        if not (isinstance(event, e.FillEvent) and event.execution_id in halves):
            super().post(event)


class TwoTransactions(World):
    """An execution is written down first and what follows from it after, in a second step."""

    exchange_class = _Forgetful

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.halves: set[str] = set()

    def _attach(self, runtime: Any, store: Any) -> None:
        super()._attach(runtime, store)
        commit = store.commit

        def split(made: Any) -> None:
            if isinstance(made.event, e.FillEvent) and made.actions:
                self.halves.add(made.event.execution_id)
                if self.rng.random() < SLIP:
                    raise Crash("crash")
            commit(made)

        store.commit = split


class _BlindRetry(Desk):
    """What had no answer is sent again, under the same id."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent: dict[str, PlaceOrderAction] = {}
        self._tries: dict[str, int] = {}

    def _uncertain(self, order_id: str, detail: str) -> None:
        action = self._sent.get(order_id)
        if action is None or self._tries.get(order_id, 0) >= 3:
            super()._uncertain(order_id, detail)
            return
        self._tries[order_id] = self._tries.get(order_id, 0) + 1
        until = replace(action, deadline=self.clock() + 10.0)
        self.schedule("place", self.clock(), None, action=until)

    def _place(self, action: PlaceOrderAction) -> None:
        self._sent[action.order.client_order_id] = action
        super()._place(action)


class _WithoutDeadline(Desk):
    """Nothing bounds how late an order may appear."""

    def order(self, action: PlaceOrderAction) -> dict[str, object]:
        told = super().order(action)
        del told["deadline"]
        return told


class _BlindRetryWithoutDeadline(_BlindRetry, _WithoutDeadline):
    """The same, and nothing bounds how late a copy may appear."""


class _OpenOnlyDoubts(Doubts):
    def _seek(self, wanted: list[Watched]) -> dict[str, list[OrderView]]:
        views = self._desk.reader.open_orders(Priority.RESOLVE)
        return {
            order.client_order_id: [x for x in views if x.client_order_id == order.client_order_id]
            for order in wanted
        }

    def _is_traded(self, _order: Watched) -> bool:
        return False


class _OpenOnly(Desk):
    doubts_class = _OpenOnlyDoubts


class _CancelIsGone(Desk):
    """A cancel that was answered, well or not, is taken for the end of the order."""

    def _cancel(self, action: CancelOrderAction) -> None:
        super()._cancel(action)
        order = self.known.get(action.client_order_id)
        if order is not None:
            self.post(
                e.OrderClosed(
                    time=self.clock(),
                    client_order_id=order.client_order_id,
                    reason="cancelled",
                    executed=order.filled,
                )
            )


def _rejecting(is_taken: Callable[[Answer, Judgement], bool]) -> type[Desk]:
    """Return a desk that takes some unclear answers to a placement for a refusal."""

    class Rejecting(Desk):
        _is_refusal = False

        def _place(self, action: PlaceOrderAction) -> None:
            call = self.reader.call

            def heard(method: str, params: Any, purpose: Purpose) -> Any:
                answer, judgement = call(method, params, purpose)
                self._is_refusal = judgement is not None and is_taken(answer, judgement)
                return answer, judgement

            self.reader.call = heard  # type: ignore[method-assign]  # the variant is just this
            try:
                super()._place(action)
            finally:
                self.reader.call = call  # type: ignore[method-assign]

        def _uncertain(self, order_id: str, detail: str) -> None:
            if self._is_refusal:
                self.reject(order_id, RejectReason.NOT_SENT, detail)
            else:
                super()._uncertain(order_id, detail)

    return Rejecting


class _ClosedEarly(Desk):
    """An order that is over is told so before all of its executions are known."""

    def _tell_status(self, order: Watched, view: OrderView) -> None:
        super()._tell_status(order, replace(view, executed=self.told(order)))


class _Once(Doubts):
    """One look that finds nothing is believed, after the full wait."""

    negatives_needed = 1

    def _is_traded(self, _order: Watched) -> bool:
        return False


class _OnceClosedFirst(_Once):
    """The same, and closed orders are read before the open ones."""

    def _seek(self, wanted: list[Watched]) -> dict[str, list[OrderView]]:
        reader = self._desk.reader
        views = [*reader.closed_orders(self._start(wanted), Priority.RESOLVE)]
        views += reader.open_orders(Priority.RESOLVE)
        by_txid = {x.txid: x for x in views}.values()
        return {
            order.client_order_id: [
                x for x in by_txid if x.client_order_id == order.client_order_id
            ]
            for order in wanted
        }


class _AtOnce(_Once):
    """One look, at once, that finds nothing is believed."""

    def settles_at(self, order: Watched) -> float:
        return order.placed_at


class _AtOnceTwice(_AtOnce):
    """The same with two looks."""

    negatives_needed = 2

    def _plan_together(self, client_order_id: str, due: float) -> None:
        self._plan(client_order_id, due)


def _checks_but_nonces(facts: AccountFacts, *, now: float) -> list[Check]:
    """Return the checks of a start without that of the nonce window, which would refuse it."""
    return [x for x in account_checks(facts, now=now) if x.name != "nonce window"]


_UNCHECKED: tuple[Patch, ...] = ((engine.live, "account_checks", _checks_but_nonces),)


def _doubting(made: type[Doubts]) -> type[World]:
    class Variant(Desk):
        doubts_class = made

    return _desk(Variant)


# ---- the reducer and its books ------------------------------------------------------------------


def _reducing(change: Callable[[e.Event], e.Event]) -> tuple[Patch, ...]:
    """Return a reducer that is told something else."""
    whole = state_machine.reduce

    def reduce(
        state: BotState, event: e.Event, params: Params
    ) -> tuple[BotState, tuple[Action, ...]]:
        return whole(state, change(event), params)

    return ((engine.runtime, "reduce", reduce),)


def _uncertain_is_rejected(event: e.Event) -> e.Event:
    if not isinstance(event, e.OrderUncertain):
        return event
    order_id = event.client_order_id
    return e.OrderRejected(time=event.time, client_order_id=order_id, reason=RejectReason.NOT_SENT)


def _half_fee(event: e.Event) -> e.Event:
    return replace(event, fee=event.fee / 2) if isinstance(event, e.FillEvent) else event


def _double_flow(event: e.Event) -> e.Event:
    if not isinstance(event, e.ExternalFlow):
        return event
    return replace(event, base=2 * event.base, quote=2 * event.quote)


def _rounded_volume(event: e.Event) -> e.Event:
    if not isinstance(event, e.FillEvent):
        return event
    return replace(event, volume=event.volume.quantize(Decimal("0.001")))


def _forget_partial_entry(r: Reduction, slot_id: int, one: Any, order: Any) -> None:
    if 0 < order.filled_volume < order.volume:
        r.put_leg(slot_id, replace(one, state=Idle(since=r.now)))
    else:
        _FINISH_ENTRY(r, slot_id, one, order)


def _entry_is_whole(r: Reduction, slot_id: int, one: Any, order: Any) -> None:
    if order.filled_volume:
        order = replace(order, filled_volume=order.volume)
    _FINISH_ENTRY(r, slot_id, one, order)


def _free_on_cancel(r: Reduction, found: Found, reason: str) -> None:
    _REQUEST_CANCEL(r, found, reason)
    if found.duty is Duty.ENTRY:
        one = r.leg(found.slot_id, found.trade_id)
        if isinstance(one.state, Entering) and not one.state.order.filled_volume:
            r.put_leg(found.slot_id, replace(one, state=Idle(since=r.now)))


def _forget_rejected_exit(r: Reduction, found: Found, reason: RejectReason) -> None:
    one = r.leg(found.slot_id, found.trade_id)
    if found.duty is Duty.EXIT and isinstance(one.state, Exiting):
        r.put_leg(found.slot_id, replace(one, state=Idle(since=r.now), cycle=one.cycle + 1))
    else:
        _EXIT_REJECTED(r, found, reason)


def _count_gross(r: Reduction, slot_id: int, record: Any) -> None:
    _COUNT_CYCLE(r, slot_id, replace(record, net_profit=record.gross_profit))


def _forget_residual(r: Reduction, slot_id: int, one: Any, order: Any) -> None:
    _FINISH_ENTRY(r, slot_id, one, order)
    left = r.leg(slot_id, one.trade_id)
    if isinstance(left.state, Idle):
        r.put_leg(slot_id, replace(left, residual=None))


def _entry_fee_twice(r: Reduction, found: Found, event: e.FillEvent) -> None:
    _RECORD(r, found, replace(event, fee=2 * event.fee) if found.duty is Duty.ENTRY else event)


_FINISH_ENTRY = leg.finish_entry
_REQUEST_CANCEL = grid.endings.request_cancel
_EXIT_REJECTED = grid.endings._exit_rejected
_COUNT_CYCLE = grid.booking._count_cycle
_RECORD = leg._record


# ---- all of them --------------------------------------------------------------------------------


def _storm(**more: float) -> Weather:
    """Return a lively weather in which only requests fail and the process dies."""
    rates = {name: rate for name, rate in REQUESTS.items() if name != "lockout"}
    rates |= {"crash": 0.004, "fill_during_cancel": 30.0, "lag": 1.0, **more}
    lags = {"": LAG_MAX_SEC}
    env = {"SLOT_COUNT": "3", "PAIR_ENTRY_PCT": "0.3", "PAIR_PROFIT_PCT": "1.2",
           "ORDER_SIZE_USD": "20", "HMM_ENABLED": "false"}  # fmt: skip
    return Weather(rates=rates, lags=lags, env=env, hours=0.5, poll_sec=10.0, price_sec=5.0)


def protocol() -> tuple[Mutant, ...]:
    """Return the variants of the order protocol."""
    storm, crashes = _storm(), _storm(crash=0.015, lost_response=0.1)
    # The copy must come before the deadline and after the end of the order: a lively market.
    wide = replace(_storm(echoed=0.5), nonce_window=WIDE, step_pct=0.5, candle_sec=5.0)
    # What waits inside the exchange has passed its gate, and is seen late where reads lag.
    stalls = Weather(
        rates={"stalled": 0.15, "drift": 1.0}, lags={"": LAG_MAX_SEC}, is_lag_random=False,
        env={**storm.env, "SLOT_COUNT": "10", "ORDER_SIZE_USD": "12"}, poll_sec=20.0,
        price_sec=10.0, candle_sec=5.0,
    )  # fmt: skip
    # It fills between the two reads, which show different instants.
    apart = replace(stalls, lags={"OpenOrders": 0.0, "": LAG_MAX_SEC})
    unavailable = _rejecting(lambda _, x: x.trouble is Trouble.DOWN)
    nonce = _rejecting(lambda _, x: x.trouble is Trouble.NONCE)
    variants: list[tuple[str, type[World], Weather]] = [
        ("record after send", RecordAfterSend, storm),
        ("pending was not sent", PendingWasNotSent, crashes),
        ("blind retry without deadline", _desk(_BlindRetryWithoutDeadline), storm),
        ("blind retry within deadline", _desk(_BlindRetry), storm),
        ("open orders only", _desk(_OpenOnly), storm),
        ("cancel answer trusted", _desk(_CancelIsGone), storm),
        ("unavailable taken for rejected", _desk(unavailable), storm),
        ("execution and effect in two transactions", TwoTransactions, storm),
        ("no deadline and a nonce window", _desk(_WithoutDeadline), wide),
        ("nonce window", World, wide),
        ("invalid nonce taken for rejected", _desk(nonce), storm),
        ("resolved at once by one look", _doubting(_AtOnce), storm),
        ("closed before its executions are known", _desk(_ClosedEarly), storm),
        ("one look after the full wait", _doubting(_Once), apart),
        ("closed before open, one look", _doubting(_OnceClosedFirst), apart),
        ("no deadline", _desk(_WithoutDeadline), stalls),
        ("resolved at once by two looks", _doubting(_AtOnceTwice), stalls),
    ]
    return tuple(
        Mutant(name=name, world=world, weather=w, patches=_UNCHECKED if w.nonce_window else ())
        for name, world, w in variants
    )


def reducer() -> tuple[Mutant, ...]:
    """Return the slips in the reducer and its books."""
    storm = _storm(stranger=60.0, deposit=120.0, meddling=120.0, operator=120.0, new_minimum=300.0)
    storm = replace(storm, has_ledger=True)
    slips: list[tuple[str, tuple[Patch, ...]]] = [
        ("uncertain taken for rejected", _reducing(_uncertain_is_rejected)),
        ("half of the fee", _reducing(_half_fee)),
        ("flows twice", _reducing(_double_flow)),
        ("volume rounded", _reducing(_rounded_volume)),
        ("partial entry forgotten", ((leg, "finish_entry", _forget_partial_entry),
                                     (grid.endings, "finish_entry", _forget_partial_entry))),
        ("entry taken for whole", ((leg, "finish_entry", _entry_is_whole),
                                   (grid.endings, "finish_entry", _entry_is_whole))),
        ("leg free once a cancel is asked for",
         ((grid.upkeep, "request_cancel", _free_on_cancel),
          (grid.operations, "request_cancel", _free_on_cancel))),
        ("refused exit forgotten", ((grid.endings, "_exit_rejected", _forget_rejected_exit),)),
        ("profit before fees", ((grid.booking, "_count_cycle", _count_gross),)),
        ("residual forgotten", ((grid.endings, "finish_entry", _forget_residual),)),
        ("entry fee twice", ((leg, "_record", _entry_fee_twice),)),
    ]  # fmt: skip
    return tuple(Mutant(name=name, patches=patches, weather=storm) for name, patches in slips)


def found() -> tuple[Mutant, ...]:
    """Return what the storm has found once, put back; the corpus holds seeds that show it."""
    bugs: dict[str, Patch] = {
        "an exit made larger is not booked whole":
            (leg, "_widened", lambda r, found, _: r.position(found)),
        "calls decay while the clock is moved on": (Budget, "forward", lambda *_: None),
        "books open by the clock of one run": (kraken_account, "OPENING_SEC", 0.0),
    }  # fmt: skip
    return tuple(Mutant(name=x, patches=(patch,), weather=CALM) for x, patch in bugs.items())


def mutants() -> tuple[Mutant, ...]:
    """Return every deliberate bug."""
    return (*protocol(), *reducer())


class Catch(Record, frozen=True, kw_only=True):
    """How a mutant fared: after so many seeds this was seen; None: it got away."""

    name: str
    seeds: int
    seen: str | None


def catch(name: str, most: int) -> Catch:
    """Run the mutant of that name through seeds until one fails, or `most` have not."""
    mutant = next(x for x in mutants() if x.name == name)
    for seed in range(most):
        with mutant.in_place():
            result = run_seed(seed, mutant.weather, mutant.world)
        if result.wrongs:
            return Catch(name=name, seeds=seed + 1, seen=result.wrongs[0])
    return Catch(name=name, seeds=most, seen=None)
