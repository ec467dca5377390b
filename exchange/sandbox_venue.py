"""The sandbox without sockets: bytes of a request in, status and bytes of the answer out.

`SandboxVenue` owns account, keys, market and file. Before each answer the market comes up to the
time of the question, and everything that changed is committed. Time is whatever the caller says,
never going back. The server that carries it is `exchange/sandbox.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from core.domain import ZERO, Instrument
from core.market import Candle, Evidence, MarketSource, available_at
from core.record import Record, plain, replace
from exchange import sandbox_reads as reads
from exchange.matching import MatchingConfig, MatchingEngine
from exchange.rates import chance
from exchange.sandbox_account import Account
from exchange.sandbox_assets import find_asset
from exchange.sandbox_auth import Gate
from exchange.sandbox_books import Books, make_id
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_faults import Fault, FaultKind, Faults
from exchange.sandbox_feed import Feed
from exchange.sandbox_file import SandboxFile
from exchange.sandbox_market import MarketView
from exchange.sandbox_orders import ENTRIES
from exchange.sandbox_params import Params, read_body, read_query
from exchange.sandbox_records import HISTORY_SEC, ApiKey, KeyUse, Truth, VenueCursor
from exchange.venue import EngineState, Quote

PRIVATE, PUBLIC = "/0/private/", "/0/public/"
WARM_UP = 20_000  # pieces of evidence that the public view is fed again after a restart
COMMIT_EVERY = 2_000  # pieces of evidence without any change of the account
TOKEN_SEC = 900
HUGE_BYTES = 16 << 20
CLOSED = 0  # the status that stands for a connection closed without an answer
Read = Callable[[Account, Params, float], dict[str, Any]]
# By method: what reads it, and the endpoint whose lag it shares.
READS: dict[str, tuple[Read, str]] = {
    "OpenOrders": (reads.open_orders, "OpenOrders"),
    "ClosedOrders": (reads.closed_orders, "ClosedOrders"),
    "QueryOrders": (reads.query_orders, "QueryOrders"),
    "TradesHistory": (reads.trades_history, "TradesHistory"),
    "QueryTrades": (reads.query_trades, "TradesHistory"),
    "Balance": (reads.balance, "Balance"),
    "BalanceEx": (reads.balance_ex, "Balance"),
    "TradeBalance": (reads.trade_balance, "Balance"),
    "TradeVolume": (reads.trade_volume, "TradeVolume"),
    "Ledgers": (reads.ledgers, "Ledgers"),
    "QueryLedgers": (reads.query_ledgers, "Ledgers"),
}
LAGGING = ("OpenOrders", "ClosedOrders", "QueryOrders", "TradesHistory", "Balance", "Ledgers")
_HTML = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head><body></body></html>"


class SandboxConfig(Record, frozen=True, kw_only=True):
    """How the sandbox behaves. Lags in seconds by endpoint; "" stands for all others.

    With `is_lag_random` each answer lags by a seeded part of it. `page_rows` is how many rows
    a page of closed orders, executions or ledger entries has.
    """

    start_base: Decimal = ZERO
    start_quote: Decimal = Decimal(1000)
    speed: float = 1.0
    is_looping: bool = False
    lags: dict[str, float] = msgspec.field(default_factory=dict)
    is_lag_random: bool = False
    page_rows: int = 50
    lockout_sec: float = 900.0
    status: str = "online"


class SandboxVenue:
    """A Kraken-compatible venue for one account.

    Raises StoreError for the file, MarketError for the market, ValueError for settings.
    """

    def __init__(
        self,
        source: MarketSource,
        instrument: Instrument,
        matching: MatchingConfig,
        keys: tuple[ApiKey, ...],
        *,
        now: float,
        config: SandboxConfig | None = None,
        path: Path | str = ":memory:",
        history: Iterable[Candle] = (),
    ) -> None:
        self.config = config or SandboxConfig()
        check_lags(self.config.lags)
        self.faults = Faults(matching.seed)
        self.is_still = False  # the market stands still: what it would bring next waits
        self._source, self._matching = source, matching
        self._file = SandboxFile(path, self._facts(source, instrument, matching))
        try:
            self._resume(instrument, keys, now, history)
        except BaseException:
            self._file.close()
            raise

    def _facts(
        self, source: MarketSource, instrument: Instrument, matching: MatchingConfig
    ) -> dict[str, str]:
        config = self.config
        return {
            "market": source.name,
            "content of the market's file": source.fingerprint,
            "start": f"{plain(config.start_base)} base and {plain(config.start_quote)} quote",
            "speed": f"{config.speed:g}",
            "seed": str(matching.seed),
            "pair": instrument.pair,
        }

    def _resume(
        self,
        instrument: Instrument,
        keys: tuple[ApiKey, ...],
        now: float,
        history: Iterable[Candle],
    ) -> None:
        source, matching, stored = self._source, self._matching, self._file.load()
        uses: dict[str, KeyUse] = {}
        if stored is None:
            cursor = VenueCursor(now=now, lap_start=now, status=self.config.status)
            engine = EngineState(
                base=ZERO,
                quote=ZERO,
                inventory_cost=ZERO,
                quote_=first_quote(source, instrument, matching),
            )
            books = Books()
        else:
            engine, cursor, books, uses = stored
        self.gate = Gate(keys, uses, tier=matching.tier, lockout_sec=self.config.lockout_sec)
        self.account = Account(instrument, matching, engine=engine, books=books, cursor=cursor)
        self.account.page_rows = self.config.page_rows
        self.account.set_status(cursor.status)
        self._now, self._calls = cursor.now, cursor.calls
        self._feed = Feed(
            source,
            lap_start=cursor.lap_start,
            read=cursor.read,
            lap=cursor.lap,
            speed=self.config.speed,
            is_looping=self.config.is_looping,
        )
        self.view = MarketView(instrument)
        self._warm_up(history)
        self.view.show(self.account.engine.quote(), self.account.engine.book(), self._now)
        self._unstored = 0
        if stored is None:
            for asset, amount in (
                (self.account.pair.quote_id, self.config.start_quote),
                (self.account.pair.base_id, self.config.start_base),
            ):
                if amount:  # so long ago that every read shows it, and nobody waits for more
                    self.account.move_funds(asset, amount, now - HISTORY_SEC)
            self.account.engine.is_changed = True
        self._commit()
        self.advance(now)

    def _warm_up(self, history: Iterable[Candle]) -> None:
        """Feed the public view what has been, so that it can tell it."""
        empty = EngineState(base=ZERO, quote=ZERO, inventory_cost=ZERO)
        spare = MatchingEngine(self.account.instrument, self._matching, empty)
        if self._feed.lap == 0 and self._feed.read <= WARM_UP:
            for candle in history:
                self._show(spare, self._feed.retimed(candle))
        for evidence in self._feed.past(WARM_UP):
            self._show(spare, evidence)

    def _show(self, engine: MatchingEngine, evidence: Evidence) -> None:
        engine.on_evidence(evidence)
        self.view.feed(evidence, engine.quote(), engine.book())

    # ---- answering ----------------------------------------------------------------------------

    def answer(
        self, http_method: str, path: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> tuple[int, bytes]:
        """Return HTTP status and body for a request that arrives at `now`, all of it committed.

        `path` with its query; names of `headers` in lower case. Status 0 stands for a connection
        closed without an answer. Faults that take time are the carrier's: see `waits`.
        """
        self.advance(now)
        side, method = _named(path)
        fault = self.faults.draw(side, method)
        status, told = self._answer_with(fault, (http_method, path, headers, body))
        self._commit()
        return status, told

    def waits(self, path: str) -> tuple[float, float]:
        """Draw how long a request waits before it is processed, and its answer thereafter.

        To be called once for each request, before `answer`.
        """
        side, method = _named(path)
        fault = self.faults.draw(side, method, is_timed=True)
        if fault is None:
            return 0.0, 0.0
        is_delayed = fault.kind is FaultKind.DELAYED
        return (fault.seconds, 0.0) if is_delayed else (0.0, fault.seconds)

    def _answer_with(
        self, fault: Fault | None, request: tuple[str, str, Mapping[str, str], bytes]
    ) -> tuple[int, bytes]:
        kind = None if fault is None else fault.kind
        if fault is None:
            return 200, self._answer(*request)
        if kind is FaultKind.LOST_REQUEST:
            return CLOSED, b""
        if kind is FaultKind.ERROR_BEFORE:
            return fault.status, _HTML
        refusals = {
            FaultKind.UNAVAILABLE_BEFORE: "EService:Unavailable",
            FaultKind.RATE_LIMIT: "EAPI:Rate limit exceeded",
            FaultKind.NONCE: "EAPI:Invalid nonce",
            FaultKind.TEXT: fault.text,
        }
        if fault.kind in refusals:
            return 200, _refused((refusals[fault.kind],))
        if kind is FaultKind.LOCKOUT:
            key = request[2].get("api-key", "")
            self.gate.lock(key, self._now + self.config.lockout_sec)
        made = self.account.orders_made
        told = self._answer(*request)
        if kind is FaultKind.ENDED:
            self.account.end_since(made, self._now, fault.text)
        if kind is FaultKind.REPLAYED:
            told = self._answer(*request)
        if kind is FaultKind.LOST_RESPONSE:
            return CLOSED, b""
        if kind is FaultKind.ERROR_AFTER:
            return fault.status, _HTML
        changed = {
            FaultKind.HTML: _HTML,
            FaultKind.TRUNCATED: told[: len(told) // 2],
            FaultKind.NULL_RESULT: b'{"error":[],"result":null}',
            FaultKind.HUGE: told + b" " * HUGE_BYTES,
            FaultKind.UNAVAILABLE_AFTER: _refused(("EService:Unavailable",)),
        }
        return 200, changed.get(fault.kind, told)

    def _answer(
        self, http_method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        try:
            if path.startswith(PRIVATE):
                result = self._private(http_method, path, headers, body)
            elif path.startswith(PUBLIC):
                result = self._public(http_method, path)
            else:
                raise SandboxError("EGeneral:Unknown method")
        except SandboxError as refusal:
            return _refused(refusal.errors)
        return msgspec.json.encode({"error": [], "result": result})

    def _public(self, http_method: str, path: str) -> Any:
        if http_method != "GET":
            raise SandboxError("EGeneral:Unknown method")
        name, _, query = path.removeprefix(PUBLIC).partition("?")
        return self.view.answer(name, read_query(query).texts(), self._now, self.account.status)

    def _private(
        self, http_method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        if http_method != "POST":
            raise SandboxError("EGeneral:Unknown method")
        name, _, _ = path.removeprefix(PRIVATE).partition("?")
        params = read_body(headers.get("content-type", ""), body)
        key = self.gate.admit(path, headers, body, params, self._now)
        self.gate.allow(key, name, self._now)
        self._calls += 1
        if name == "GetApiKeyInfo":
            return self.gate.describe(key)
        if name in ENTRIES:
            return ENTRIES[name](self.account, params, self._now)
        if self.account.status == "maintenance":
            raise SandboxError("EService:Unavailable")
        if name == "GetWebSocketsToken":
            token = make_id(self._matching.seed, "W", self._calls)
            return {"token": token, "expires": TOKEN_SEC}
        read, endpoint = READS[name]
        return read(self.account, params, self._now - self._lag(endpoint))

    def _lag(self, endpoint: str) -> float:
        lags = self.config.lags
        lag = lags.get(endpoint, lags.get("", 0.0) if endpoint in LAGGING else 0.0)
        if lag and self.config.is_lag_random:
            lag *= chance(self._matching.seed, f"lag/{endpoint}/{self._calls}")
        return lag

    # ---- the market ---------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Return the time the venue has reached."""
        return self._now

    @property
    def has_ended(self) -> bool:
        """Tell whether the market has come to its end and stays at its last price."""
        return self._feed.has_ended

    def next_time(self) -> float | None:
        """Return when something happens next of itself: market or timer; None for nothing."""
        market_at = None if self.is_still else self._feed.next_at
        found = [x for x in (market_at, self.account.next_timer()) if x is not None]
        return min(found, default=None)

    def advance(self, now: float) -> None:
        """Have the market come up to `now`, committed where the account changed."""
        now = max(round(now, 6), self._now)
        while (at := self.next_time()) is not None and at <= now:
            if at == self.account.next_timer():
                self.account.on_time(max(at, self._now))
            else:
                self._take(self._feed.pop())
        self._now = now
        if self.account.books.is_changed or self._unstored >= COMMIT_EVERY:
            self._commit()

    def feed(self, evidence: Evidence) -> None:
        """Take evidence by hand, known at its own time, which must not be in the venue's past."""
        if available_at(evidence) < self._now:
            raise ValueError("evidence of the past cannot be fed")
        self.advance(available_at(evidence))
        self._take(evidence)
        self._commit(is_full=True)  # no source would tell it again

    def _take(self, evidence: Evidence) -> None:
        at = available_at(evidence)
        self._now = max(self._now, at)
        self.account.on_evidence(evidence, self._now)
        self.view.feed(evidence, self.account.engine.quote(), self.account.engine.book())
        self._unstored += 1

    # ---- by hand ------------------------------------------------------------------------------

    def set_status(self, status: str) -> None:
        """Set the market's status. Raises ValueError for one there is not."""
        self.account.set_status(status)
        self._commit(is_full=True)

    def set_order_min(self, volume: Decimal) -> None:
        """Have the venue ask for another least volume of an order, until it is opened anew."""
        instrument = replace(self.account.instrument, order_min=volume)
        self.account.list_as(instrument)
        self.view.list_as(instrument)

    def set_lags(self, lags: Mapping[str, float], *, is_random: bool = False) -> None:
        """Have endpoints lag. Raises ValueError for an unknown one or a lag out of bounds."""
        check_lags(lags)
        self.config = replace(self.config, lags=dict(lags), is_lag_random=is_random)

    def deposit(self, asset: str, amount: Decimal) -> None:
        """Book a deposit, or with a negative amount a withdrawal. Raises ValueError."""
        name = asset
        if "." not in asset:
            try:
                name = find_asset(asset).id
            except SandboxError:
                raise ValueError(f"the sandbox knows no asset {asset}") from None
        self.account.move_funds(name, amount, self._now)
        self._commit()

    def truth(self) -> Truth:
        """Return everything the venue knows, without any lag."""
        books = self.account.books
        return Truth(
            orders=tuple(books.orders.values()),
            trades=tuple(books.trades),
            ledger=tuple(books.ledger),
            balances=books.balances(self._now),
        )

    def close(self) -> None:
        """Commit and release the file; safe to call twice."""
        self._file.close()

    def _commit(self, *, is_full: bool = False) -> None:
        account, feed, engine = self.account, self._feed, self.account.engine
        is_changed = is_full or account.books.is_changed or engine.is_changed
        is_due = is_changed or self._unstored >= COMMIT_EVERY
        if not is_due and not self.gate.changed:
            return
        cursor = VenueCursor(
            now=self._now,
            lap_start=feed.lap_start,
            read=feed.read,
            lap=feed.lap,
            has_ended=feed.has_ended,
            status=account.status,
            cancel_at=account.cancel_at,
            calls=self._calls,
            orders_made=account.orders_made,
            trades_made=account.trades_made,
            ledgers_made=account.ledgers_made,
        )
        keys = {key: self.gate.uses[key] for key in self.gate.changed}
        # What is shown belongs to the engine, and the count of evidence read to what is shown.
        state = engine.state() if is_due or self._unstored else None
        self._file.commit(cursor, account.books, engine=state, keys=keys, is_full=is_changed)
        engine.is_changed = False
        self.gate.changed.clear()
        self._unstored = 0


def check_lags(lags: Mapping[str, float]) -> None:
    """Raise ValueError for an endpoint that has no lag, or one longer than the past kept."""
    for endpoint, lag in lags.items():
        if endpoint and endpoint not in LAGGING:
            raise ValueError(f"{endpoint} has no lag; allowed: {', '.join(LAGGING)}")
        if not 0.0 <= lag <= HISTORY_SEC:
            raise ValueError(f"a lag of {lag:g} s must be from 0 to {HISTORY_SEC:g}")


def first_quote(
    source: MarketSource, instrument: Instrument, matching: MatchingConfig
) -> Quote | None:
    """Return the quote before any evidence: around the source's opening price."""
    price = source.first_price()
    if not price:
        return None
    engine = MatchingEngine(
        instrument, matching, EngineState(base=ZERO, quote=ZERO, inventory_cost=ZERO)
    )
    engine.on_evidence(
        Candle(time=0.0, interval=1.0, open=price, high=price, low=price, close=price, volume=ZERO)
    )
    return engine.quote()


def _named(path: str) -> tuple[str, str]:
    """Return side and method of a path."""
    side = "private" if path.startswith(PRIVATE) else "public"
    return side, path.partition("?")[0].rpartition("/")[2]


def _refused(errors: tuple[str, ...]) -> bytes:
    return msgspec.json.encode({"error": list(errors)})
