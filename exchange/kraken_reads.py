"""Reading Kraken's private API within its limits: one call, and whole walks over pages.

A read that fails raises, it never returns nothing. Every call passes here, so that rate budget,
errors and halts are counted in one place. Look next at `exchange/kraken_desk.py`.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from exchange.kraken_budget import Budget, Priority, rest_cost
from exchange.kraken_errors import is_unknown_order, judge_answer
from exchange.kraken_records import (
    Answer,
    Judgement,
    LedgerView,
    OrderView,
    Page,
    Purpose,
    TradeView,
    Trouble,
    Verdict,
    WireError,
)
from exchange.kraken_wire import (
    closed_orders,
    ledgers,
    open_orders,
    queried_orders,
    queried_trades,
    trades_history,
)

log = logging.getLogger("kraken")

T = TypeVar("T")
WALKS_MAX = 3
PAGES_MAX = 200
IDS_PER_QUERY = 50
TRADE_IDS_PER_QUERY = 20
OVERLAP_SEC = 300.0  # windows of history overlap by this much
NONCE_ERRORS_MAX, NONCE_WINDOW_SEC = 3, 300.0
END_MARGIN_SEC = 2.0  # the exchange's time may be known no better
WAIT_MIN_SEC = 0.01  # a shorter wait may be no step of the clock at all
WAIT_MAX_SEC = 60.0  # a walk waits this long for room before it gives up


class Client(Protocol):
    """What makes the calls; total: whatever happens, there is an Answer."""

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Call a private method."""
        ...


class CallFailed(Exception):
    """A read did not give what it should; nothing is known. Ask again after `pause_sec`."""

    def __init__(
        self, what: str, pause_sec: float = 0.0, *, is_refused: bool = False, is_stop: bool = False
    ) -> None:
        super().__init__(what)
        self.is_stop = is_stop  # not failed: the daemon ends
        self.pause_sec = pause_sec
        self.is_refused = is_refused  # Kraken has answered, and will not tell this


class Reader:
    """Makes calls for the private thread; `halt` is told what only a person may decide."""

    def __init__(
        self,
        client: Client,
        budget: Budget,
        *,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        halt: Callable[[str], None],
    ) -> None:
        self.budget = budget
        self.errors = 0  # failed calls in a row
        self.last_error = ""
        self.offset_sec = 0.0  # exchange time less ours
        self._client = client
        self._clock = clock
        self._pause = pause
        self._halt = halt
        self._nonce_errors: list[float] = []

    # ---- one call -----------------------------------------------------------------------------

    def call(
        self, method: str, params: Mapping[str, object], purpose: Purpose
    ) -> tuple[Answer, Judgement | None]:
        """Make a call for which there is room; return the answer and what it means."""
        answer = self._client.private(method, params)
        judgement = judge_answer(answer, purpose)
        now = self._clock()
        if judgement is None:
            self.errors = 0
            self.budget.forgive()
            return answer, None
        self._note(method, answer, judgement, now, purpose)
        return answer, judgement

    def _note(
        self, method: str, answer: Answer, judgement: Judgement, now: float, purpose: Purpose
    ) -> None:
        words = answer.fault or ", ".join(answer.errors)
        self.last_error = f"{method}: {words}"[:200]
        # An order that is over cannot be cancelled: no error of the connection.
        is_cancel = purpose is Purpose.CANCEL and judgement.trouble is Trouble.NONE
        is_word = is_unknown_order(answer) or (is_cancel and answer.errors)
        if judgement.verdict is not Verdict.REJECT and answer.was_sent and not is_word:
            self.errors += 1
        self.budget.punish(judgement, now, exchange_now=now + self.offset_sec)
        if judgement.verdict is not Verdict.REJECT:
            pause = (self.budget.blocked_until(now) or now) - now
            is_news = self.errors == 1 and judgement.trouble is not Trouble.NONE
            level = logging.WARNING if is_news else logging.INFO
            log.log(level, "%s, %s in a row, next in %.0f s", self.last_error, self.errors, pause)
        if judgement.trouble is Trouble.NONCE:
            recent = [x for x in self._nonce_errors if x > now - NONCE_WINDOW_SEC]
            self._nonce_errors = [*recent, now]
            if len(self._nonce_errors) >= NONCE_ERRORS_MAX:
                self._nonce_errors = []
                self._halt(
                    f"{NONCE_ERRORS_MAX} nonce errors in five minutes: is another program using "
                    "this API key? Give each program a key of its own"
                )
        elif judgement.verdict is Verdict.HALT:
            self._halt(f"Kraken answered {words} to {method}: {judgement.advice}")

    def read(self, method: str, params: Mapping[str, object], priority: Priority) -> Any:
        """Return the result of a read; waits for room. Raises CallFailed."""
        self._make_room(method, priority)
        answer, judgement = self.call(method, params, Purpose.READ)
        if judgement is not None and judgement.trouble is Trouble.NONCE:
            self._make_room(method, priority)
            answer, judgement = self.call(method, params, Purpose.READ)
        if judgement is not None:
            is_refused = bool(answer.errors) and judgement.trouble is Trouble.NONE
            raise CallFailed(self.last_error, judgement.pause_sec, is_refused=is_refused)
        return answer.result

    def _make_room(self, method: str, priority: Priority) -> None:
        cost, waited = rest_cost(method), 0.0
        while wait := self.room(cost, 0.0, priority):
            if waited + wait > WAIT_MAX_SEC:
                raise CallFailed(f"{method}: no room in the rate limit for {wait:.0f} s", wait)
            wait = max(wait, WAIT_MIN_SEC)
            self._pause(wait)
            waited += wait

    def room(self, cost: float, engine_cost: float, priority: Priority) -> float:
        """Count a call that is about to be sent and return 0, or return how long it must wait."""
        now = self._clock()
        wait = self.budget.wait(cost, engine_cost, priority, now)
        if not wait:
            self.budget.charge(cost, engine_cost, priority, now)
        return wait

    def parsed(self, parse: Callable[[Any], T], result: object) -> T:
        """Return `parse(result)`; an answer of another shape than documented is a failure."""
        try:
            return parse(result)
        except WireError as error:
            self.errors += 1
            self.last_error = str(error)[:200]
            raise CallFailed(self.last_error) from None

    # ---- orders and trades --------------------------------------------------------------------

    def open_orders(
        self, priority: Priority, client_order_id: str | None = None
    ) -> tuple[OrderView, ...]:
        """Return all open orders of the account, or those of one client id."""
        params = {"trades": True, "cl_ord_id": client_order_id}
        return self.parsed(open_orders, self.read("OpenOrders", params, priority))

    def closed_orders(
        self,
        start: float,
        priority: Priority,
        client_order_id: str | None = None,
        *,
        end: float | None = None,
    ) -> list[OrderView]:
        """Return the orders closed from `start` to `end` (None: now), or those of one client id."""
        if client_order_id is None:
            until = self._end() if end is None else end
            return self._walk(
                lambda offset: self.closed_page(start, until, offset, priority), lambda x: x.txid
            )

        def page(offset: int) -> Page[OrderView]:
            params = {
                "trades": True,
                "cl_ord_id": client_order_id,
                "start": int(start),
                "ofs": offset,
            }
            return self.parsed(closed_orders, self.read("ClosedOrders", params, priority))

        return self._walk(page, lambda x: x.txid)

    def closed_page(
        self, start: float, end: float, offset: int, priority: Priority
    ) -> Page[OrderView]:
        """Return one page of the orders closed from `start` to `end`, in the exchange's time."""
        params = {
            "trades": True,
            "start": int(start),
            "end": math.ceil(end),
            "closetime": "close",
            "ofs": offset,
        }
        return self.parsed(closed_orders, self.read("ClosedOrders", params, priority))

    def orders(self, txids: list[str], priority: Priority) -> list[OrderView]:
        """Return the orders of these exchange ids; those that Kraken will not tell are left out."""
        views: list[OrderView] = []
        for first in range(0, len(txids), IDS_PER_QUERY):
            views.extend(self._some_orders(txids[first : first + IDS_PER_QUERY], priority))
        return views

    def _some_orders(self, txids: list[str], priority: Priority) -> list[OrderView]:
        """Ask for all at once; where that is refused, for each half, down to the one it is."""
        params = {"txid": ",".join(txids), "trades": True}
        try:
            return list(self.parsed(queried_orders, self.read("QueryOrders", params, priority)))
        except CallFailed as error:
            if not error.is_refused:
                raise
        half = len(txids) // 2
        if not half:
            return []
        return [
            *self._some_orders(txids[:half], priority),
            *self._some_orders(txids[half:], priority),
        ]

    def trades(
        self, start: float, priority: Priority, *, end: float | None = None
    ) -> list[TradeView]:
        """Return the account's executions from `start` to `end` (None: now), oldest first."""
        until = self._end() if end is None else math.ceil(end)

        def page(offset: int) -> Page[TradeView]:
            params = {
                "start": int(start),
                "end": until,
                "ofs": offset,
                "consolidate_taker": "false",
            }
            return self.parsed(trades_history, self.read("TradesHistory", params, priority))

        return sorted(self._walk(page, lambda x: x.execution_id), key=lambda x: x.time)

    def trades_of(self, ids: list[str], priority: Priority) -> list[TradeView]:
        """Return the executions of these ids."""
        views: list[TradeView] = []
        for first in range(0, len(ids), TRADE_IDS_PER_QUERY):
            some = ",".join(ids[first : first + TRADE_IDS_PER_QUERY])
            result = self.read("QueryTrades", {"txid": some}, priority)
            views.extend(self.parsed(queried_trades, result))
        return views

    def ledger(self, start: float, priority: Priority) -> list[LedgerView]:
        """Return the ledger's lines since `start`, oldest first."""
        end = self._end()

        def page(offset: int) -> Page[LedgerView]:
            params = {"start": int(start), "end": end, "ofs": offset}
            return self.parsed(ledgers, self.read("Ledgers", params, priority))

        return sorted(self._walk(page, lambda x: x.ledger_id), key=lambda x: x.time)

    def _end(self) -> int:
        """Return the present instant: what comes later must not shift the pages of a walk."""
        return math.ceil(self._clock() + self.offset_sec + END_MARGIN_SEC)

    def _walk(self, page: Callable[[int], Page[T]], key: Callable[[T], str]) -> list[T]:
        """Walk pages until an empty one; begin anew where rows have shifted away meanwhile."""
        for _ in range(WALKS_MAX):
            rows: dict[str, T] = {}
            offset, count = 0, 0
            for _ in range(PAGES_MAX):
                some = page(offset)
                count = max(count, some.count or 0)
                if not some.rows:
                    break
                rows.update((key(row), row) for row in some.rows)
                offset += len(some.rows)
            else:
                raise CallFailed(f"a walk over pages has not ended after {PAGES_MAX}")
            if len(rows) >= count:
                return list(rows.values())
        raise CallFailed(f"pages hold {len(rows)} of {count} rows, {WALKS_MAX} times")
