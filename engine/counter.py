"""The counter at which page and chat ask and command: history from the store, commands to the loop.

Safe from any thread. An answer that was given once stands, also after a restart.
"""

from concurrent.futures import Future
from concurrent.futures import TimeoutError as AnswerLate
from decimal import Decimal

from core.actions import ReplyToOperator
from core.commands import AuditPnl, Command, ReconcileDrift, is_same
from core.record import replace
from dashboard import Busy, IdReused, Reply
from engine.loop import Full, Loop
from engine.runtime import Runtime
from store.history import SqliteHistory

ANSWER_SEC = 2.0
SCORED_SHOWN = 4


class Counter:
    """Empty until `history` and `loop` are set."""

    def __init__(self) -> None:
        self.history: SqliteHistory | None = None
        self.loop: Loop | None = None
        self._waiting: dict[str, tuple[Command, Future[ReplyToOperator]]] = {}

    def recent_events(self, limit: int) -> list[dict[str, object]]:
        """Return the newest operator-visible events, newest first."""
        return self.history.recent_events(limit) if self.history is not None else []

    def past_opinions(self, limit: int) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        """Return the newest opinions, and the newest scored ones that are older, newest first."""
        if self.history is None:
            return [], []
        newest = self.history.recent_opinions(limit)
        shown = {x["id"] for x in newest}
        scored = self.history.recent_opinions(SCORED_SHOWN, is_scored=True)
        return newest, [x for x in scored if x["id"] not in shown]

    def submit(self, command_id: str, command: Command, expect_version: int | None) -> Reply:
        """Carry a command to the loop and its answer back. Raises Busy, IdReused."""
        loop = self.loop
        if loop is None:
            raise Busy
        known = None if self.history is None else self.history.reply(command_id)
        if known is not None:  # sent before a restart: its answer stands
            if not is_same(command, str(known["command"])):
                raise IdReused
            status = 200 if known["is_accepted"] else 409
            return Reply(status=status, message=str(known["message"]), command_id=command_id)
        waiting = self._waiting.get(command_id)
        if waiting is not None and waiting[0] != command:
            raise IdReused
        try:
            answer = waiting[1] if waiting else loop.inbox.put(command_id, command, expect_version)
            self._waiting[command_id] = (command, answer)
            reply = answer.result(ANSWER_SEC)
        except (Full, AnswerLate):  # a late one stays queued: asked again, it is waited for
            raise Busy from None
        self._waiting.pop(command_id, None)
        return Reply(
            status=200 if reply.is_accepted else 400 if reply.field else 409,
            message=reply.message,
            command_id=command_id,
            field=reply.field,
            changed=dict(reply.changed),
        )


def prepare(runtime: Runtime, command: Command) -> Command:
    """Give a command what only the shell knows: sums over executions, the exchange's listing."""
    if isinstance(command, ReconcileDrift):
        exchange = runtime.exchange
        return replace(command, listing=None if exchange is None else exchange.listing())
    if not isinstance(command, AuditPnl):
        return command
    sums, own = runtime.store.audit(), runtime.state.balances
    return AuditPnl(
        base_difference=Decimal(own.base - own.start_base - own.flow_base - sums["base"]),
        quote_difference=Decimal(own.quote - own.start_quote - own.flow_quote - sums["quote"]),
    )
