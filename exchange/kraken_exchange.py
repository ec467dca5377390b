"""The Kraken exchange as the loop sees it: a queue of events, and one private thread behind it.

The thread drives the desk; the public feed posts quotes and health here too. Events are handed to
the loop by `advance`, executions and order states before quotes. Nothing here decides anything.
"""

import logging
import queue
import threading
from collections.abc import Callable
from decimal import Decimal

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import Listing
from core.market import UNREACHABLE, Book, LiveMarket, Trade
from core.ports import Message, Venue
from core.record import replace
from core.state import BotState
from core.status import AccountBlock
from exchange.kraken_budget import Priority
from exchange.kraken_desk import Desk
from exchange.nonce import Nonces
from exchange.status import is_open, worsened
from risk import CLOCK_OFFSET_MAX_SEC

log = logging.getLogger("kraken")

SILENT_ERRORS, SILENT_SEC = 3, 60.0  # failed calls in a row, or a pause so long
RECONCILING = "reconciling"  # the status until all that the exchange holds has been read
IDLE_SEC = 0.5  # the thread looks at its clock this often even when nothing is due
FORWARD_MAX_SEC = 7 * 86_400.0  # a longer sleep is no sleep
STOP_SEC = 5.0


class KrakenExchange:
    """Kraken (or the sandbox), live; `now` is exchange time as well as it is known."""

    reads_first = True

    def __init__(
        self,
        desk: Desk,
        venue: Venue,
        nonces: Nonces,
        market: LiveMarket | None,
        *,
        clock: Callable[[], float],
        forward: Callable[[float], None],
        reserve: Callable[[int], None],
        abort: Callable[[], None],
    ) -> None:
        self.desk = desk
        self.woken: Callable[[], None] = lambda: None
        self._venue, self._nonces = venue, nonces
        self._market = market
        self._clock, self._forward = clock, forward
        self._reserve, self._abort = reserve, abort
        self._events: queue.SimpleQueue[e.Event] = queue.SimpleQueue()
        self._tick: e.PriceTick | None = None
        self._public = e.HealthChanged(time=0.0, system_status=venue.system_status)
        self._told: e.HealthChanged | None = None
        self._failure: BaseException | None = None
        self._stopping, self._awake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="kraken", daemon=True)

    # ---- events in ----------------------------------------------------------------------------

    def post(self, event: e.Event) -> None:
        """Take an event of the desk or of the feed for the loop; safe from any thread."""
        match event:
            case e.PriceTick():
                self._tick = event  # of those that wait the latest counts
            case e.HealthChanged():
                self._public = event
                self._note_status(event)
                return
            case _:
                self._events.put(event)
        self.woken()

    def _note_status(self, event: e.HealthChanged) -> None:
        desk, was = self.desk, self.desk.status
        offset = event.clock_offset_sec
        if offset == self._applied:  # told again, measured before it was applied
            event = replace(event, clock_offset_sec=0.0)
            self._public = event
        elif offset >= FORWARD_MAX_SEC:
            desk.halt(f"the exchange's clock is {offset:.0f} s ahead; set the machine's clock")
        elif offset >= CLOCK_OFFSET_MAX_SEC:  # the machine has slept: catch up
            self._applied = offset
            self._moved += offset
            self._forward(offset)
            event = replace(event, clock_offset_sec=0.0)
            self._public = event
            desk.hold()  # before the thread is told: it must not begin, and then be held
            self._is_back = True
        desk.status, desk.reader.offset_sec = event.system_status, event.clock_offset_sec
        if not is_open(was) and is_open(event.system_status):
            desk.hold()  # back again: read everything before anything is placed
            self._is_back = True
        self._awake.set()

    _is_back = False
    _applied: float | None = None  # the offset by which the clock was moved on
    _moved = 0.0  # the same, not yet told to the budget

    # ---- the port -----------------------------------------------------------------------------

    def describe(self) -> Venue:
        """Return pair facts, fees and balances as read at the start."""
        return self._venue

    def watch(self, state: BotState) -> None:
        """Take note of the orders that live."""
        self.desk.watch(state)

    def obstacle(self, action: PlaceOrderAction, status: str) -> str | None:
        """Return why an order may not leave now, or None."""
        worse = worsened(self.desk.status, status)
        return worse or self.desk.obstacle(action.deadline)

    def place(self, action: PlaceOrderAction) -> None:
        """Send an order."""
        self._put(action)

    def cancel(self, action: CancelOrderAction) -> None:
        """Ask for the end of an order."""
        self._put(action)

    def reconcile(self, action: RequestReconcile) -> None:
        """Read balances and the named orders."""
        self._put(action)

    def listing(self) -> Listing | None:
        """Return the open orders as last polled, less what is known to be over since."""
        return self.desk.strangers.listing

    def _put(self, action: PlaceOrderAction | CancelOrderAction | RequestReconcile) -> None:
        self.desk.put(action)
        self._awake.set()

    def view(self) -> AccountBlock:
        """Return what the status page shows of the account."""
        desk = self.desk
        now, budget = self._clock(), desk.reader.budget.view(self._clock())
        room = desk.reader.budget.wait(1.0, 0.0, Priority.EXECUTIONS, now)
        why = budget.why
        if not why and not desk.is_ready and room >= 1:
            why = f"{room:.0f} s until the call limit has room"
        return AccountBlock(
            foreign_orders=len(desk.account.foreign),
            in_doubt=len(desk.doubts),
            rest_used_pct=f"{100 * budget.rest_used / budget.rest_most:.0f}",
            engine_used_pct=f"{100 * budget.engine_used / budget.engine_most:.0f}",
            paused_until=budget.blocked_until,
            pause_reason=why,
            last_error=desk.reader.last_error
            if desk.reader.errors
            else next(iter(desk.failing.values()), "")[:200],
        )

    def now(self) -> float:
        """Return the present instant."""
        return self._clock()

    def horizon(self) -> float:
        """Return the present instant: nothing later may be processed yet."""
        self._horizon = self._clock()
        return self._horizon

    _horizon = 0.0

    def next_time(self) -> float | None:
        """Return the instant of the horizon when something waits for the loop, else None."""
        self._listen()
        is_waiting = self._tick is not None or not self._events.empty()
        return self._horizon if is_waiting or self._failure is not None else None

    def _listen(self) -> None:
        """Take what the market has told: the newest book is the quote."""
        if self._market is None:
            return
        for news in self._market.news():
            self.post(news)
        while (evidence := self._market.take()) is not None:
            if isinstance(evidence, Trade):
                self._last = evidence.price
            elif isinstance(evidence, Book):
                bid, ask = evidence.bids[0][0], evidence.asks[0][0]
                last = self._last or bid
                self._tick = e.PriceTick(time=self._clock(), bid=bid, ask=ask, last=last)

    _last: Decimal | None = None

    def advance(self, to: float) -> tuple[Message, ...]:  # noqa: ARG002  # the port's: time passes by itself
        """Return what has come: executions and order states first, then the latest quote.

        Raises what ended the private thread. Nonces are reserved on disk here, ahead of their use.
        """
        if self._failure is not None:
            raise self._failure
        self.reserve_nonces()
        events: list[e.Event] = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        tick, self._tick = self._tick, None
        if tick is not None:
            events.append(tick)
        return tuple(Message(seq=0, event=event) for event in events)

    def reserve_nonces(self) -> None:
        """Commit a higher ceiling for nonces when the present one is half used up."""
        wanted = self._nonces.wanted()
        if wanted is not None:
            self._reserve(wanted)
            self._nonces.extend(wanted)

    def acknowledge(self, seq: int) -> None:
        """Do nothing: events of this exchange are found again by reading, not by number."""

    def catch_up(self, told: int, until: float) -> None:
        """Do nothing: the exchange goes on by itself."""

    def pending(self, after: int) -> tuple[Message, ...]:  # noqa: ARG002  # the port's
        """Return nothing: what was missed is read by the desk."""
        return ()

    # ---- the private thread -------------------------------------------------------------------

    def start(self, state: BotState) -> None:
        """Begin to work: read all that the exchange holds, then serve the loop."""
        self.reserve_nonces()
        self.desk.resume_from(state)
        self.desk.begin()
        self._tell_health()
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                wait = self._step() - self._clock()
                if wait > 0:
                    self._awake.wait(min(wait, IDLE_SEC))
                    self._awake.clear()
        except Exception as error:  # boundary: the loop ends the process
            log.exception("the private thread has failed")
            self._failure = error
            self.woken()

    def _step(self) -> float:
        """Do what is due of the account's side; return when to come again."""
        moved, self._moved = self._moved, 0.0
        if moved:
            self.desk.reader.budget.forward(moved)
        if self._is_back:
            self._is_back = False
            self.desk.begin()
        at = self.desk.step()
        self._note_silence()
        self._tell_health()
        return at

    def _note_silence(self) -> None:
        """Place nothing while Kraken answers no call of the account; then read all anew."""
        errors, now = self.desk.reader.errors, self._clock()
        until = self.desk.reader.budget.blocked_until(now) or now
        if errors >= SILENT_ERRORS or until - now > SILENT_SEC:
            if not self._is_silent:
                self.desk.hold()
            self._is_silent = True
        elif self._is_silent and not errors:
            self._is_silent = False
            self.desk.begin()

    _is_silent = False

    def _tell_health(self) -> None:
        """Tell of the connection when it has changed; not ready is a status of its own."""
        public, desk = self._public, self.desk
        status = public.system_status
        if is_open(status) and not desk.is_ready:
            status = UNREACHABLE if self._is_silent else RECONCILING
        errors = max(public.consecutive_errors, desk.reader.errors)
        health = replace(public, time=0.0, system_status=status, consecutive_errors=errors)
        if health != self._told:
            self._told = health
            self._events.put(replace(health, time=self._clock()))
            self.woken()

    def close(self) -> None:
        """Stop the thread; a call in flight is abandoned, its intent is resolved at the start."""
        self._stopping.set()
        self._awake.set()
        self._abort()
        if self._thread.is_alive():
            self._thread.join(STOP_SEC)
