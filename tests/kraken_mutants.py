"""Deliberately broken variants of the protocol: what other bots do, or what one might simplify.

Each breaks one rule of `exchange/kraken_desk.py` or `exchange/kraken_resolve.py`; the storm must
catch every one, or it has no teeth.
"""

from collections.abc import Callable
from typing import Any

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction
from core.domain import OrderStatus, RejectReason
from core.record import replace
from core.state import BotState
from exchange.kraken_budget import Priority
from exchange.kraken_desk import Desk
from exchange.kraken_records import Answer, Judgement, OrderView, Purpose, Trouble
from exchange.kraken_resolve import Doubts
from exchange.kraken_watch import Watched
from tests.kraken_world import World
from tests.storm_line import Crash


class RecordAfterSend(World):
    """The order is sent first and written down after."""

    def live(self) -> None:
        """Send within the step, before anything of it is on disk, and sometimes die there."""
        commit = self.store.commit

        def late(made: Any) -> None:
            orders = [x for x in made.actions if isinstance(x, PlaceOrderAction)]
            if orders and self.rng.random() < 20 * self.line.faults.crash:
                self.line.private("AddOrder", self.exchange.desk.order(orders[0]))
                raise Crash
            commit(made)

        self.store.commit = late  # type: ignore[method-assign]  # the variant is just this
        try:
            super().live()
        finally:
            self.store.commit = commit  # type: ignore[method-assign]


class PendingWasNotSent(World):
    """After a crash an order without an answer is taken for one that was never sent."""

    def after_start(self, state: BotState) -> None:
        """Reject every pending order unseen."""
        for slot in state.slots:
            for leg in slot.legs:
                order = getattr(leg.state, "order", None) or getattr(leg.state, "exit", None)
                if getattr(order, "status", None) is OrderStatus.PENDING:
                    self.runtime.step(
                        e.OrderRejected(
                            time=self.clock.now,
                            client_order_id=order.client_order_id,
                            reason=RejectReason.NOT_SENT,
                        )
                    )


class _BlindRetry(Desk):
    """What had no answer is sent again, under the same id."""

    has_deadline = True

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent: dict[str, PlaceOrderAction] = {}
        self._tries: dict[str, int] = {}


class _WithoutDeadline(Desk):
    def order(self, action: PlaceOrderAction) -> dict[str, object]:
        told = super().order(action)
        del told["deadline"]
        return told


class _BlindRetryWithoutDeadline(_BlindRetry, _WithoutDeadline):
    """The same, and nothing bounds how late a copy may appear."""


class _BlindRetryWithinDeadline(_BlindRetry):
    """The same, each copy with a deadline."""


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
    """An order is looked for among the open ones only."""

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

        _is_refusal = False

    return Rejecting


class TwoTransactions(World):
    """An execution is written down first and what follows from it after, in a second step."""

    def live(self) -> None:
        """Die, now and then, between the two: the execution is known, its effect is lost."""
        commit = self.store.commit

        def split(made: Any) -> None:
            if isinstance(made.event, e.FillEvent) and made.actions:
                self.halves.add(made.event.execution_id)
                if self.rng.random() < 20 * self.line.faults.crash:
                    raise Crash
            commit(made)

        self.store.commit = split  # type: ignore[method-assign]  # the variant is just this
        try:
            super().live()
        finally:
            self.store.commit = commit  # type: ignore[method-assign]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.halves: set[str] = set()

    def show(self, event: e.Event) -> bool:
        """Keep executions that are known from being told again."""
        return not (isinstance(event, e.FillEvent) and event.execution_id in self.halves)


class _AtOnceDoubts(Doubts):
    negatives_needed = 1

    def settles_at(self, order: Watched) -> float:
        return order.placed_at

    def _is_traded(self, _order: Watched) -> bool:
        return False


class _AtOnce(Desk):
    """One look, at once, that finds nothing is believed."""

    doubts_class = _AtOnceDoubts


def worlds() -> dict[str, Callable[[int], World]]:
    """Return every variant by name: a seed makes its world."""

    def desk(made: type[Desk], *, window: int = 0) -> Callable[[int], World]:
        def build(seed: int) -> World:
            world = World(seed, lag=4.0, nonce_window=window, step_pct=0.4 if window else 0.25)
            world.desk_class = made
            return world

        return build

    def whole(made: type[World]) -> Callable[[int], World]:
        return lambda seed: made(seed, lag=4.0)

    unavailable = _rejecting(lambda _, x: x.trouble is Trouble.DOWN)
    nonce = _rejecting(lambda _, x: x.trouble is Trouble.NONCE)
    wide = 10**15  # nanoseconds: whatever is late is taken
    return {
        "record after send": whole(RecordAfterSend),
        "pending was not sent": whole(PendingWasNotSent),
        "blind retry without deadline": desk(_BlindRetryWithoutDeadline),
        "blind retry within deadline": desk(_BlindRetryWithinDeadline),
        "open orders only": desk(_OpenOnly),
        "cancel answer trusted": desk(_CancelIsGone),
        "unavailable taken for rejected": desk(unavailable),
        "execution and effect in two transactions": whole(TwoTransactions),
        "no deadline and a nonce window": desk(_WithoutDeadline, window=wide),
        "nonce window": desk(Desk, window=wide),
        "invalid nonce taken for rejected": desk(nonce),
        "resolved at once by one look": desk(_AtOnce),
    }
