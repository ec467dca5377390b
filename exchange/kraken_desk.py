"""The desk: places, cancels and follows our orders at Kraken, so that each exists once.

Single-threaded and driven by `step`: the private thread calls it live, a test may call it on a
clock of its own. It decides nothing about trading; what it learns it posts as events. An order
whose placing did not end in a definite answer is found out by `exchange/kraken_resolve.py`; calls
and walks are in `exchange/kraken_reads.py`; the protocol is described in `docs/KRAKEN.md`.
"""

import logging
import math
import queue
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from core import events as e
from core.actions import CancelOrderAction, PlaceOrderAction, RequestReconcile
from core.domain import ZERO, OrderStatus, RejectReason, Role, Side
from core.record import Record
from core.state import BotState, Mode
from exchange.kraken_account import Account
from exchange.kraken_budget import Budget, Priority
from exchange.kraken_errors import ending
from exchange.kraken_jobs import Job, priority_of, urgency
from exchange.kraken_reads import OVERLAP_SEC, CallFailed, Client, Reader
from exchange.kraken_records import (
    OrderView,
    PairFacts,
    Purpose,
    TradeView,
    Verdict,
    WireError,
)
from exchange.kraken_resolve import Doubts
from exchange.kraken_restore import Restorer
from exchange.kraken_strangers import Strangers
from exchange.kraken_watch import Watched, fill_event, watched
from exchange.kraken_wire import placed
from exchange.rates import cancel_cost
from risk import PLACING_STATUSES

log = logging.getLogger("kraken")

SEND_MARGIN_SEC = 8.0
RETRY_SEC = 5.0
WAIT_STEP_SEC = 0.25
AFTER_CANCEL_SEC = 1.0
LOST_SEC = 600.0  # an order that Kraken does not tell for so long takes a person
DAY_SEC = 86_400.0
FIRST_SWEEP_SEC = 600.0  # after the start, when there is room: all of the last two days


class DeskConfig(Record, frozen=True, kw_only=True):
    """How the desk works; seconds."""

    poll_sec: float = 20.0
    settle_sec: float = 10.0  # after its deadline an order may still become visible for so long
    again_sec: float = 6.0  # between two looks that find nothing: more than reads may lag
    offset_error_max_sec: float = 2.0
    flows_sec: float = 300.0
    has_ledger: bool = False


class Desk:
    """Follows the orders of one account and pair; see the module."""

    doubts_class = Doubts

    def __init__(
        self,
        client: Client,
        budget: Budget,
        facts: PairFacts,
        *,
        tag: int,
        epoch: int,
        config: DeskConfig,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        post: Callable[[e.Event], None],
        booked: Callable[[Collection[str]], set[str]],
    ) -> None:
        self.reader = Reader(client, budget, clock=clock, pause=self._wait, halt=self.halt)
        self._pause = pause  # true when the wait has to end: the daemon stops
        self.facts, self.config = facts, config
        self.known: Mapping[str, Watched] = {}
        self.own = (ZERO, ZERO)  # base and quote by our own books
        self._fills = 0  # executions booked, ever
        self.status = "online"  # the exchange's, as last read
        self.offset_error_sec = math.inf
        self.is_ready = self._is_halting = self._is_halted = False
        self.tag, self.epoch = tag, epoch
        self.clock, self.post, self.booked = clock, post, booked
        self._inbox: queue.SimpleQueue[PlaceOrderAction | CancelOrderAction | RequestReconcile] = (
            queue.SimpleQueue()
        )
        self._jobs: list[Job] = []
        self._numbered = 0
        self._terms: dict[str, tuple[Decimal, Decimal]] = {}  # of orders that were amended
        self._told: dict[str, dict[str, TradeView]] = {}  # by client id: executions by their ids
        self._before: dict[str, Decimal] = {}  # by txid: what of a ghost was booked before
        self._synced: dict[str, float] = {}  # by client id: when its executions last added up
        self._closed: set[str] = set()  # told to be over
        self._lost: dict[str, float] = {}  # by client id: not told by Kraken since then
        self.failing: dict[str, str] = {}  # by kind of job: why it failed last
        self._asked: set[str] = set()
        self._cancelled: set[str] = set()  # and not looked at since
        self._unready: set[str] = set()
        self._halted_for: set[str] = set()
        self.doubts = self.doubts_class(self)
        self.account = Account(self)
        self.strangers = Strangers(self)
        self.restorer = Restorer(self)

    # ---- what the main thread asks ------------------------------------------------------------

    def watch(self, state: BotState) -> None:
        """Take note of the orders that live; called before any action of the same step is put."""
        self.known = watched(state)
        self.restorer.watch(state)
        self._is_halted = state.mode is Mode.HALTED
        if self._is_halted:
            self._is_halting = False
        self.own = (state.balances.base, state.balances.quote)
        self._fills = state.counters.get("fills", 0)

    def resume_from(self, state: BotState) -> None:
        """Take note of how far the last run, if there was one, surely heard of everything."""
        self.watch(state)
        self.account.begin_at(state)
        self.strangers.heard_at = state.balances.reported_at or state.started_at or None

    def put(self, action: PlaceOrderAction | CancelOrderAction | RequestReconcile) -> None:
        """Queue a request; safe from any thread."""
        self._inbox.put(action)

    def hold(self) -> None:
        """Place nothing until `begin` has been called and all is read."""
        self._unready.add("begin")
        self.is_ready = False

    def begin(self) -> None:
        """Read everything anew before anything is placed: at the start and after an outage."""
        self.is_ready = False
        self._unready = {"sweep", "balances"}
        self.strangers.plan_sweep(is_deep=False)
        for kind in ("balances", "sweep", "fees"):  # with balances orders are read
            self.schedule(kind, self.clock(), Priority.EXECUTIONS)
        self.schedule("poll", self.clock() + self.config.poll_sec)
        self.schedule("deep sweep", self.clock() + FIRST_SWEEP_SEC)

    # ---- the work -----------------------------------------------------------------------------

    def step(self) -> float:
        """Do the most urgent job that is due and for which there is room.

        Returns the time at which to come again (now: there may be more to do at once).
        """
        if (again_at := self.restorer.step()) is not None:
            return again_at
        self._take_in()
        now = self.clock()
        best: Job | None = None
        again = math.inf
        for job in self._jobs:
            at = self._runnable_at(job, now)
            if at > now:
                again = min(again, at)
            elif best is None or urgency(job, now) < urgency(best, now):
                best = job
        if best is None:
            return again
        self._jobs.remove(best)
        self._run(best)
        self._mark_ready()
        return now

    def _wait(self, seconds: float) -> None:
        """Wait for room in the limit of reads; orders and cancels, which need none, go on."""
        until = self.clock() + seconds
        while (left := until - self.clock()) > 0:
            self._take_in()
            now = self.clock()
            urgent = [x for x in self._jobs if x.action and self._runnable_at(x, now) <= now]
            if urgent:
                job = min(urgent, key=lambda x: urgency(x, now))
                self._jobs.remove(job)
                self._run(job)
            elif self._pause(min(left, WAIT_STEP_SEC)):
                raise CallFailed("the daemon stops", is_stop=True)

    def _take_in(self) -> None:
        while not self._inbox.empty():
            action = self._inbox.get_nowait()
            now = self.clock()
            match action:
                case PlaceOrderAction():
                    is_entry = action.order.role is Role.ENTRY
                    priority = Priority.ENTRY if is_entry else Priority.EXIT
                    self.schedule("place", now, priority, action=action)
                case CancelOrderAction():
                    same = action.client_order_id
                    self._jobs = [x for x in self._jobs if (x.kind, x.key) != ("cancel", same)]
                    self.schedule("cancel", now, Priority.CANCEL, key=same, action=action)
                case RequestReconcile():
                    for order_id in action.client_order_ids:
                        self.ask(order_id)
                    self.schedule("balances", now)

    def ask(self, client_order_id: str) -> None:
        """Find out what became of an order: by its exchange id, or as one in doubt."""
        order = self.known.get(client_order_id)
        if order is not None and order.txid is None:
            self.doubts.add(client_order_id)
        elif order is not None:
            self._asked.add(client_order_id)
            self.schedule("query", self.clock(), Priority.EXECUTIONS)

    def schedule(
        self,
        kind: str,
        due: float,
        priority: Priority | None = None,
        *,
        key: str = "",
        action: PlaceOrderAction | CancelOrderAction | None = None,
        tries: int = 0,
    ) -> None:
        """Plan a job; of those without an action one of a kind and key is kept, the earlier."""
        if action is None:
            same = [x for x in self._jobs if x.kind == kind and x.key == key]
            if any(x.due <= due for x in same):
                return
            self._jobs = [x for x in self._jobs if x not in same]
        self._numbered += 1
        usual = Priority.TELEMETRY if kind in ("balances", "fees") else Priority.EXECUTIONS
        self._jobs.append(
            Job(
                kind=kind,
                due=due,
                priority=usual if priority is None else priority,
                number=self._numbered,
                key=key,
                action=action,
                tries=tries,
            )
        )

    def _runnable_at(self, job: Job, now: float) -> float:
        if job.due > now:
            return job.due
        budget = self.reader.budget
        if isinstance(job.action, PlaceOrderAction):
            latest = job.action.deadline - SEND_MARGIN_SEC
            return min(now + budget.wait(0.0, 1.0, job.priority, now), max(now, latest))
        if isinstance(job.action, CancelOrderAction):
            cost = self._cancel_cost(job.action, now)
            return now + budget.wait(0.0, cost, job.priority, now)
        return now + budget.wait(1.0, 0.0, priority_of(job, now), now)

    def take_due(self, kind: str) -> list[str]:
        """Take all jobs of a kind that are due off the list; return their keys."""
        now = self.clock()
        due = [x for x in self._jobs if x.kind == kind and x.due <= now]
        self._jobs = [x for x in self._jobs if x not in due]
        return [x.key for x in due]

    def _run(self, job: Job) -> None:
        priority, is_done = priority_of(job, self.clock()), True
        try:
            match job.kind:
                case "place" if isinstance(job.action, PlaceOrderAction):
                    self._place(job.action)
                case "cancel" if isinstance(job.action, CancelOrderAction):
                    self._cancel(job.action)
                case "resolve":
                    self.doubts.look(job.key)
                case "poll":
                    self._poll()
                    self.schedule("poll", self.clock() + self.config.poll_sec)
                case "query":
                    self._query()
                case "sweep" | "deep sweep":
                    if not self.strangers.sweep(is_deep=job.kind == "deep sweep"):
                        self.schedule(job.kind, self.clock(), job.priority, tries=job.tries)
                        return  # polls and orders go on between its pages
                    if job.kind == "deep sweep":
                        self.schedule(job.kind, self.clock() + DAY_SEC)
                case "balances":
                    self._poll()  # what has executed is told before what it has left
                    is_done = self.account.read_money(priority)
                case "fees":
                    self.account.read_fees(priority)
                    self.schedule("fees", self.clock() + DAY_SEC)
                case _:
                    raise AssertionError(f"no job of the kind {job.kind}")
            if is_done:
                self._unready.discard(job.kind)
            self.failing.pop(job.kind, None)
        except CallFailed as error:
            pause = max(error.pause_sec, RETRY_SEC * min(2**job.tries, 12))
            self.failing[job.kind] = str(error)
            level = logging.INFO if job.tries or error.is_stop else logging.WARNING
            log.log(level, "%s failed: %s, again in %.0f s", job.kind, error, pause)
            self.schedule(
                job.kind, self.clock() + pause, job.priority, key=job.key, tries=job.tries + 1
            )

    def _mark_ready(self) -> None:
        if not self.is_ready and not self._unready and not self.doubts.unseen:
            self.is_ready = True

    def halt(self, reason: str) -> None:
        """Stop trading until a person has looked; from now on, not from when the loop hears it."""
        self._is_halting = True
        self.post(e.TradingHalted(time=self.clock(), reason=reason[:300]))

    def halt_once(self, reason: str) -> None:
        """Halt for what a person may leave as it is: resumed, the bot goes on without it."""
        if reason not in self._halted_for:
            self._halted_for.add(reason)
            self.halt(reason)

    # ---- placing and cancelling ---------------------------------------------------------------

    def obstacle(self, deadline: float) -> str | None:
        """Return why an order may not be sent now, or None."""
        if self._is_halting:
            return "trading is being halted"
        if not self.is_ready:
            return "what the exchange holds has not been read yet"
        if self.status not in PLACING_STATUSES:
            return f"the exchange is in {self.status}"
        left = deadline - self.clock()
        if left < SEND_MARGIN_SEC:
            return f"{left:.1f} s are left to its deadline"
        return None

    def _place(self, action: PlaceOrderAction) -> None:
        order_id = action.order.client_order_id
        is_entry = action.order.role is Role.ENTRY
        obstacle = self.obstacle(action.deadline)
        if is_entry and self._is_halted:  # meanwhile: it has waited here for room
            obstacle = "trading is halted"
        if obstacle is not None:
            self.reject(order_id, RejectReason.NOT_SENT, obstacle)
            return
        wait = self.reader.room(0.0, 1.0, Priority.ENTRY if is_entry else Priority.EXIT)
        if wait:
            self.reject(
                order_id, RejectReason.NOT_SENT, f"no room in the rate limit for {wait:.1f} s"
            )
            return
        answer, judgement = self.reader.call("AddOrder", self.order(action), Purpose.PLACE)
        if not answer.was_sent:
            self.reject(order_id, RejectReason.NOT_SENT, answer.fault or "")
        elif judgement is None:
            try:
                txid = placed(answer.result)
            except WireError as error:
                self._uncertain(order_id, str(error))
                return
            self.post(e.OrderAccepted(time=self.clock(), client_order_id=order_id, txid=txid))
        elif judgement.verdict is Verdict.REJECT:
            self.reject(order_id, judgement.reason, "; ".join(answer.errors))
        else:
            self._uncertain(order_id, answer.fault or "; ".join(answer.errors))

    def order(self, action: PlaceOrderAction) -> dict[str, object]:
        """Return the parameters of AddOrder for an order."""
        order = action.order
        until = datetime.fromtimestamp(action.deadline + self.reader.offset_sec, UTC)
        return {
            "pair": self.facts.instrument.symbol,
            "type": order.side.value,
            "ordertype": "limit",
            "price": order.price,
            "volume": order.volume,
            "oflags": "post,fciq",
            "cl_ord_id": order.client_order_id,
            "deadline": until.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def reject(self, order_id: str, reason: RejectReason, detail: str) -> None:
        self.post(
            e.OrderRejected(
                time=self.clock(), client_order_id=order_id, reason=reason, detail=detail[:200]
            )
        )

    def _uncertain(self, order_id: str, detail: str) -> None:
        self.post(
            e.OrderUncertain(time=self.clock(), client_order_id=order_id, detail=detail[:200])
        )
        self.doubts.add(order_id)

    def _cancel_cost(self, action: CancelOrderAction, now: float) -> float:
        order = self.known.get(action.client_order_id)
        return 0.0 if order is None else cancel_cost(now - order.placed_at)

    def _cancel(self, action: CancelOrderAction) -> None:
        """Ask for the end of an order. The answer proves nothing: the order is queried."""
        order, now = self.known.get(action.client_order_id), self.clock()
        if order is None or order.client_order_id in self._cancelled:
            return  # what the last one did is looked at first: it may have ended the order
        txid = order.txid or action.txid
        if wait := self.reader.room(0.0, self._cancel_cost(action, now), Priority.CANCEL):
            due, key = now + min(wait, RETRY_SEC), action.client_order_id
            self.schedule("cancel", due, Priority.CANCEL, key=key, action=action)
            return
        params: dict[str, object] = {"txid": txid} if txid else {"cl_ord_id": order.client_order_id}
        self.reader.call("CancelOrder", params, Purpose.CANCEL)
        if txid:
            self._cancelled.add(order.client_order_id)
            self._asked.add(order.client_order_id)
            self.schedule("query", now + AFTER_CANCEL_SEC, Priority.EXECUTIONS)

    # ---- following ----------------------------------------------------------------------------

    def _poll(self) -> None:
        asked_at = self.clock()
        views = self.reader.open_orders(Priority.EXECUTIONS)
        shown = {x.client_order_id: x for x in views if x.client_order_id}
        self.strangers.note(views, asked_at)
        here = [shown[x] for x in self.known if x in shown]
        # One so young may not be shown anywhere yet, and asking for it fails for all the others.
        grown = self.clock() - self.config.again_sec
        gone = {
            x.txid: x.client_order_id
            for x in self.known.values()
            if x.txid and x.client_order_id not in shown and x.placed_at <= grown
        }
        try:
            there = self.reader.orders(list(gone), Priority.EXECUTIONS)
        except CallFailed:
            self.learn(here)
            raise
        told = {x.txid for x in there}
        self._note_lost({x: txid for txid, x in gone.items() if txid not in told})
        if gone and not here and not told:
            raise CallFailed(
                f"Kraken tells of none of our {len(gone)} orders: is it another account, or a "
                "sandbox that began anew?"
            )
        self.learn([*here, *there])
        self.strangers.complete(views, asked_at)

    def _note_lost(self, lost: Mapping[str, str]) -> None:
        """Take note of orders that Kraken took and does not tell; halt once for each that stays."""
        now, before = self.clock(), self._lost
        self._lost = {x: before.get(x, now) for x in lost}
        ripe = [x for x, since in self._lost.items() if since <= now - LOST_SEC]
        if ripe:
            self._lost.update(dict.fromkeys(ripe, math.inf))
            more = f" and {len(ripe) - 1} more" if len(ripe) > 1 else ""
            self.halt(
                f"Kraken took order {lost[ripe[0]]}{more} and has not told of it for "
                f"{LOST_SEC / 60:.0f} min: look for it in Kraken's own list of orders. Its leg "
                "waits; is the key still that of the account that placed it?"
            )

    def _query(self) -> None:
        asked, self._asked = self._asked, set()
        self._closed -= asked  # asked again: told again
        known = self.known  # the loop may put another in its place meanwhile
        orders = [known[x] for x in sorted(asked) if x in known]
        try:
            views = self.reader.orders([x.txid for x in orders if x.txid], Priority.EXECUTIONS)
            self._cancelled -= asked
            self.learn(views)
        except CallFailed:
            self._asked |= asked
            raise

    def learn(self, views: Sequence[OrderView]) -> None:
        """Tell what is new about our orders: executions first, then what became of them."""
        mine = []
        for view in views:
            order = self.known.get(view.client_order_id or "")
            if order is not None and self.is_same(order, view):
                mine.append((order, view))
        behind = [(o, v) for o, v in mine if v.executed > self.told(o)]
        now = self.clock()
        self._synced.update((o.client_order_id, now) for o, v in mine if v.executed == self.told(o))
        if behind:
            self._tell_executions(behind)
        for order, view in mine:
            self._tell_amendment(order, view)
            self._tell_status(order, view)
        self._told = {x: told for x, told in self._told.items() if x in self.known}
        self._terms = {x: terms for x, terms in self._terms.items() if x in self.known}
        self._synced = {x: at for x, at in self._synced.items() if x in self.known}
        self._closed &= self.known.keys()
        self.strangers.strike({x.txid for x in views if x.is_over})

    def _tell_amendment(self, order: Watched, view: OrderView) -> None:
        """Tell, once, of a working order that somebody has given another price or volume."""
        order_id, terms = order.client_order_id, (view.price, view.volume)
        is_known = order.is_ghost or terms == self._terms.get(order_id, (order.price, order.volume))
        if is_known or view.is_over:
            return
        self._terms[order_id] = terms
        self.post(
            e.OrderAmended(
                time=self.clock(), client_order_id=order_id, price=view.price, volume=view.volume
            )
        )

    def told(self, order: Watched) -> Decimal:
        """Return the volume of an order's executions that the bot knows or has been told."""
        fresh = self._told.get(order.client_order_id, {})
        return order.filled + sum(
            (x.volume for x in fresh.values() if x.execution_id not in order.execution_ids), ZERO
        )

    def expects(self, *, base: Decimal, quote: Decimal) -> bool:
        """Tell whether these balances are, but for rounding, those of our own books.

        Executions that are told but not booked yet are allowed for.
        """
        known, count = self.known, self._fills
        base, quote = base - self.own[0], quote - self.own[1]
        for order_id, told in self._told.items():
            order = known.get(order_id)
            fresh = () if order is None else told.keys() - set(order.execution_ids)
            for trade in map(told.__getitem__, fresh):
                way = 1 if trade.side is Side.BUY else -1
                base, quote = base - way * trade.volume, quote + way * trade.cost + trade.fee
                count += 1
        most_base, most_quote = self.facts.instrument.rounding(count)
        return abs(base) <= most_base and abs(quote) <= most_quote

    def is_same(self, order: Watched, view: OrderView) -> bool:
        """Tell whether the exchange's order is the one we meant; halt where it is not."""
        differs = view.pair not in self.facts.names or order.differs_from(view)
        if differs:
            self.halt_once(
                f"order {view.txid} ({view.side} {view.volume:f} {view.pair} at {view.price:f}) "
                f"carries the id of another order of ours, {order.client_order_id}"
            )
        return not differs

    def _tell_executions(self, behind: Sequence[tuple[Watched, OrderView]]) -> None:
        since = (max(x.since, self._synced.get(x.client_order_id, 0.0)) for x, _ in behind)
        start = min(since) + self.reader.offset_sec - OVERLAP_SEC
        by_txid = {view.txid: order for order, view in behind}
        trades = [x for x in self.reader.trades(start, Priority.EXECUTIONS) if x.txid in by_txid]
        ghosts = {x.execution_id for x in trades if by_txid[x.txid].is_ghost}
        booked = self.booked(ghosts) if ghosts else set()
        for trade in trades:
            order = by_txid[trade.txid]
            told = self._told.setdefault(order.client_order_id, {})
            if trade.execution_id in order.execution_ids or trade.execution_id in told:
                continue
            told[trade.execution_id] = trade
            if trade.execution_id in booked:  # before it was lost sight of
                self._before[trade.txid] = self._before.get(trade.txid, ZERO) + trade.volume
                continue
            offset, now = self.reader.offset_sec, self.clock()
            self.post(fill_event(order.client_order_id, trade, now=now, offset_sec=offset))

    def _tell_status(self, order: Watched, view: OrderView) -> None:
        """Tell that an order is over once its executions add up; that it works, if in doubt."""
        order_id, told = order.client_order_id, self.told(order)
        if view.is_over:
            if view.executed == told and order_id not in self._closed:
                self._closed.add(order_id)
                self.doubts.settled(order_id)
                reason = ending(view)
                if reason == RejectReason.POST_ONLY:
                    self.reader.budget.note_post_only(self.clock())
                self.post(
                    e.OrderClosed(
                        time=self.clock(),
                        client_order_id=order_id,
                        reason=reason,
                        executed=view.executed - self._before.get(view.txid, ZERO),
                    )
                )
        elif order.status in (OrderStatus.PENDING, OrderStatus.UNCERTAIN):
            self.doubts.settled(order_id)
            self.post(
                e.OrderFound(
                    time=self.clock(),
                    client_order_id=order_id,
                    txid=view.txid,
                    executed=view.executed,
                )
            )
