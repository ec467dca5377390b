"""The loop body: journal, reduce, check, commit, and only then act. And the way back from disk.

`Runtime.step(event)` is the only way anything happens. Live, paper, replay and backtest differ only
in the ports. Nothing here reads a clock; nothing leaves the process before its cause is on disk.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import assert_never

from core import actions as a
from core import events as e
from core.domain import RejectReason
from core.params import Params
from core.ports import (
    Advisor,
    Commit,
    Exchange,
    Loaded,
    Models,
    Notifier,
    Sizer,
    Store,
    StoreError,
    Venue,
)
from core.record import replace
from core.state import BotState
from engine.version import code_version
from state_machine import reduce, take_note

log = logging.getLogger("runtime")

SNAPSHOT_EVERY = 10_000
SNAPSHOT_SEC = 3_600.0
_CRITICAL_EVENTS = (
    e.Started,
    e.FillEvent,
    e.OrderClosed,
    e.OrderRejected,
    e.OrderUncertain,
    e.CommandReceived,
    e.MarketEnded,
)
_CRITICAL_ACTIONS = (a.PlaceOrderAction, a.CancelOrderAction, a.RecordTransition)


class FoldError(StoreError):
    """The journal does not fold to what is stored: the books cannot be trusted."""


def initial_state() -> BotState:
    """Return the state before the first event."""
    return BotState()


class Runtime:
    """Owns the state; steps it one event at a time."""

    def __init__(
        self,
        store: Store,
        exchange: Exchange | None,
        notifier: Notifier | None,
        *,
        code: str | None = None,
    ) -> None:
        self.code = code or code_version()
        self.store = store
        self.exchange = exchange
        self.notifier = notifier
        self.models: Models | None = None
        self.sizer: Sizer | None = None
        self.advisor: Advisor | None = None
        self.state = initial_state()
        self.params = Params()
        self.seq = 0
        self.state_seq = 0
        self.durable_cursor = 0  # the last exchange message that no power cut can take back
        self.on_commit: Callable[[BotState], None] | None = None  # before anything is sent
        self.on_step: Callable[[e.Event, tuple[a.Action, ...]], None] | None = None
        self._next: deque[e.OrderRejected | e.RegimeEstimated | e.KellyUpdated] = deque()
        self._snapshot_seq = 0
        self._snapshot_at = 0.0

    # ---- stepping -----------------------------------------------------------------------------

    def step(self, event: e.Event) -> tuple[a.Action, ...]:
        """Reduce `event`, commit it with state and intents, then act. Raises StoreError.

        What could not be sent after all, and what the models answer, are events of their own,
        stepped before this returns.
        """
        before = self.state
        first = isinstance(event, e.Started) and not before.started_at
        params = event.params if isinstance(event, e.Started) and first else self.params
        state, actions = reduce(before, event, params)
        if isinstance(event, e.Started):
            self.params = event.params
        # Noted only: the bounds are the very same ones (and there were some).
        is_noted = state.quiet is not None and state.quiet is before.quiet
        is_quiet = is_noted and not actions and not isinstance(event, e.Started)
        commit = Commit(
            seq=self.seq + 1,
            event=event,
            actions=actions,
            state=state,
            is_quiet=is_quiet,
            is_critical=_is_critical(event, actions),
        )
        self.store.commit(commit)
        self.seq += 1
        self.state = state
        if commit.is_critical:
            self.durable_cursor = state.exchange_cursor
        if not is_quiet:
            self.state_seq = self.seq
        if self.on_commit is not None:
            self.on_commit(state)
        if isinstance(event, e.ModelTrained) and self.models is not None:
            self.models.adopt(event.model)
        for action in actions:
            self._act(action)
        self._keep_snapshot()
        if self.on_step is not None:
            self.on_step(event, actions)
        while self._next:
            self.step(self._next.popleft())
        return actions

    def _act(self, action: a.Action) -> None:
        match action:
            case a.PlaceOrderAction():
                if self.exchange is not None:
                    self._send(self.exchange, action)
            case a.CancelOrderAction():
                if self.exchange is not None:
                    self.exchange.cancel(action)
                log.info("cancel requested id=%s reason=%s", action.client_order_id, action.reason)
            case a.RequestReconcile():
                if self.exchange is not None:
                    self.exchange.reconcile(action)
            case a.RequestEstimate():
                if self.models is not None:
                    self._next.append(self.models.estimate(self.state.now))
            case a.RequestTraining():
                if self.models is not None:
                    self.models.train(action)
            case a.RequestKelly():
                if self.sizer is not None:
                    self._next.append(self.sizer.update(self.state, self.params))
            case a.RequestOpinion():
                if self.advisor is not None:
                    self.advisor.ask(action, self.state, self.params)
            case a.Notify():
                level = {"error": logging.ERROR, "warning": logging.WARNING}.get(action.level)
                log.log(level or logging.INFO, "%s: %s", action.kind, action.text)
                if self.notifier is not None:
                    self.notifier.send(level=action.level, kind=action.kind, text=action.text)
            case (
                a.RecordExecution()
                | a.BookCycleAction()
                | a.PostEntries()
                | a.RecordEquity()
                | a.RecordTransition()
                | a.RecordOpinion()
                | a.RecordScore()
                | a.OrphanOrderAction()
                | a.ReplyToOperator()
            ):
                pass  # carried out by the commit; replies are taken from the step's answer
            case _:
                assert_never(action)

    def _send(self, exchange: Exchange, action: a.PlaceOrderAction) -> None:
        """Send an order whose intent is on disk, unless something has changed since."""
        order = action.order
        obstacle = exchange.obstacle(action, self.state.health.system_status)
        if not self.store.is_held():
            obstacle = "another process may hold the database: its lock file is gone"
        if obstacle is not None:
            log.warning("order not sent id=%s: %s", order.client_order_id, obstacle)
            refusal = e.OrderRejected(
                time=self.state.now,
                client_order_id=order.client_order_id,
                reason=RejectReason.NOT_SENT,
                detail=obstacle,
            )
            self._next.append(refusal)
            return
        exchange.place(action)
        log.info(
            "order placed slot=%s leg=%s role=%s side=%s volume=%s price=%s id=%s",
            action.slot_id,
            order.trade_id,
            order.role,
            order.side,
            order.volume,
            order.price,
            order.client_order_id,
        )

    # ---- start and stop -----------------------------------------------------------------------

    def restore(self) -> bool:
        """Load the stored state and fold what was journaled after it; False for a new store.

        Those rows are quiet. Where another program wrote them, its word is taken for it: they are
        noted, not judged by rules they were not made with. Raises FoldError.
        """
        loaded = self.store.load()
        if loaded is None:
            return False
        self.state, self.params, self.seq = loaded.state, loaded.params, loaded.seq
        for row in self.store.journal(after=loaded.seq):
            if row.seq != self.seq + 1:
                raise FoldError(f"the journal jumps from {self.seq} to {row.seq}")
            if loaded.state.code_version != self.code and not row.actions:
                self.state = take_note(self.state, row.event)
            else:
                self.state, self.params, actions = fold(self.state, self.params, row.event)
                if actions != row.actions:
                    raise FoldError(f"journal row {row.seq} does not fold to its recorded actions")
            self.seq = row.seq
        self.state_seq = self.seq
        return True

    def start(self, venue: Venue, params: Params, *, now: float, bot_tag: int) -> None:
        """Begin to run, crash or not, by the same code; the loop then compares balances."""
        if self.seq:
            self.snapshot()
        epoch, _ = self.store.identity()
        started = e.Started(
            time=now,
            params=params,
            instrument=venue.instrument,
            fees=venue.fees,
            bot_tag=bot_tag,
            store_epoch=epoch,
            code_version=self.code,
        )
        self.step(started)

    def snapshot(self) -> None:
        """Keep a copy of the present state, from which the journal can be folded again."""
        self.store.snapshot(Loaded(seq=self.seq, state=self.state, params=self.params))
        self.durable_cursor = self.state.exchange_cursor
        self._snapshot_seq, self._snapshot_at = self.seq, self.state.now

    def _keep_snapshot(self) -> None:
        is_due = (
            self.seq - self._snapshot_seq >= SNAPSHOT_EVERY
            or self.state.now - self._snapshot_at >= SNAPSHOT_SEC
        )
        if is_due:
            self.snapshot()

    def stop(self) -> None:
        """Keep a last snapshot; resting orders stay, and an advisor is left to itself."""
        if self.advisor is not None:
            self.advisor.stop()
        if self.seq:
            self.snapshot()


def _is_critical(event: e.Event, actions: tuple[a.Action, ...]) -> bool:
    return isinstance(event, _CRITICAL_EVENTS) or any(
        isinstance(action, _CRITICAL_ACTIONS) for action in actions
    )


def fold(
    state: BotState, params: Params, event: e.Event
) -> tuple[BotState, Params, tuple[a.Action, ...]]:
    """Fold one journaled event: as `step` does, without store and exchange."""
    if isinstance(event, e.Started):
        known = params if state.started_at else event.params
        state, actions = reduce(state, event, known)
        return state, event.params, actions
    state, actions = reduce(state, event, params)
    return state, params, actions


def comparable(state: BotState) -> BotState:
    """Return the state without what may differ between equal runs (bounds, cursors)."""
    return replace(state, quiet=None, exchange_cursor=0)
