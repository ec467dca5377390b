"""What the desk has to do: jobs, and which of them is the most urgent."""

from core.actions import CancelOrderAction, PlaceOrderAction
from core.record import Record
from exchange.kraken_budget import Priority

OVERDUE_SEC = 15.0  # telemetry that has waited so long for room is as urgent as executions


class Job(Record, frozen=True, kw_only=True):
    """One thing to do: of a kind, about something, when, and how urgent."""

    kind: str
    due: float
    priority: Priority
    number: int
    key: str = ""
    action: PlaceOrderAction | CancelOrderAction | None = None
    tries: int = 0


def priority_of(job: Job, now: float) -> Priority:
    """Return how urgent a job is by now: what must be done at last is not put off for ever."""
    is_overdue = now - job.due > OVERDUE_SEC
    return min(job.priority, Priority.EXECUTIONS) if is_overdue else job.priority


def urgency(job: Job, now: float) -> tuple[int, float, int]:
    """Return a key that sorts jobs, the most urgent first."""
    return int(priority_of(job, now)), job.due, job.number
