"""The counter at which page and chat ask and command: history from the store, commands to the loop.

Safe from any thread. An answer that was given once stands, also after a restart.
"""

from concurrent.futures import Future
from concurrent.futures import TimeoutError as AnswerLate
from threading import Lock

from core.actions import ReplyToOperator
from core.commands import AuditPnl, Command, ReconcileDrift, is_same
from core.record import replace
from dashboard import Busy, IdReused, Reply
from engine.loop import Full, Loop, StepTimes
from engine.runtime import Runtime
from store.history import SqliteHistory

ANSWER_SEC = 2.0
SCORED_SHOWN = 4


class Counter:
    """Empty until `history` and `loop` are set."""

    def __init__(self) -> None:
        self.history: SqliteHistory | None = None
        self.loop: Loop | None = None
        self._auditing = Lock()  # one at a time: the thread that steps wants the processor too
        self._waiting: dict[str, tuple[Command, Future[ReplyToOperator]]] = {}

    def step_times(self) -> StepTimes | None:
        """Return how long the loop's steps took, None before it began."""
        return None if self.loop is None else self.loop.times

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
        if not isinstance(command, AuditPnl):
            return self._submit(command_id, command, expect_version)
        if not self._auditing.acquire(timeout=ANSWER_SEC):
            raise Busy
        try:
            return self._submit(command_id, command, expect_version)
        finally:
            self._auditing.release()

    def _submit(self, command_id: str, command: Command, expect_version: int | None) -> Reply:
        loop = self.loop
        if loop is None:
            raise Busy
        known = None if self.history is None else self.history.reply(command_id)
        if known is not None:  # sent before a restart: its answer stands
            if not is_same(command, str(known["command"])):
                raise IdReused
            return Reply(
                status=200 if known["is_accepted"] else 400 if known["field"] else 409,
                message=str(known["message"]),
                command_id=command_id,
                field=known["field"],
                changed=known["changed"],
            )
        waiting = self._waiting.get(command_id)
        if waiting is not None and waiting[0] != command:
            raise IdReused
        try:
            if waiting is not None:
                answer = waiting[1]
            else:
                answer = loop.inbox.put(command_id, self._audited(command), expect_version)
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

    def _audited(self, command: Command) -> Command:
        """Give an audit what it finds, here and not in the loop, which it would hold up.

        State and executions are read as of one step, so steps taken meanwhile are no difference.
        """
        if not isinstance(command, AuditPnl) or self.history is None:
            return command
        return AuditPnl(audit=self.history.audit())


def prepare(runtime: Runtime, command: Command) -> Command:
    """Give a command what only the shell knows: the exchange's listing."""
    if not isinstance(command, ReconcileDrift):
        return command
    exchange = runtime.exchange
    return replace(command, listing=None if exchange is None else exchange.listing())
