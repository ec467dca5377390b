"""Kraken's public market data of one pair, in our words: what the feed of live prices asks.

Adapts `KrakenClient` and the parsers to `core.ports.PublicData`: whatever is wrong with an answer
becomes `Unavailable` with the reason and the pause that it calls for. Look next at
`market/public.py`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from core.domain import Instrument
from core.market import Book, Candle, Trade
from core.ports import Unavailable
from exchange import kraken_public as wire
from exchange.kraken_errors import judge_answer
from exchange.kraken_records import Answer, PairFacts, Purpose, Trouble, WireError

UNKNOWN_PAIR = "EQuery:Unknown asset pair"
RATE_PAUSE_SEC = 60.0  # least silence after Kraken has said that it is asked too often


class PublicClient(Protocol):
    """Asks public methods; total."""

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Return what `method` answers."""
        ...


class _UnknownPair(Unavailable):
    """Kraken does not know the pair."""


class KrakenMarket:
    """`PublicData` of the pair of that name (BASE/QUOTE), over a client. From any one thread."""

    def __init__(self, client: PublicClient, pair: str) -> None:
        self._client = client
        self._pair = pair
        self._instrument = Instrument(pair=pair)
        self._names: frozenset[str] = frozenset()

    def trades(self, since_ns: int) -> tuple[tuple[Trade, ...], int]:
        """Return prints after the cursor, up to 1000, and the next cursor. Raises Unavailable."""
        result = self._ask("Trades", {"pair": self._symbol(), "since": since_ns})
        try:
            return wire.public_trades(result, self._names)
        except WireError as error:
            raise Unavailable(str(error)) from None

    def depth(self, count: int) -> Book:
        """Return the displayed book, of time 0.

        Raises Unavailable, also for a book that is crossed, out of order or empty on a side.
        """
        result = self._ask("Depth", {"pair": self._symbol(), "count": count})
        try:
            return wire.depth(result, self._names, 0.0)
        except WireError as error:
            raise Unavailable(str(error)) from None

    def candles(self, interval_sec: float, since: float) -> tuple[Candle, ...]:
        """Return committed candles that opened after `since`, the newest 720 at most.

        The one still forming is left out. `interval_sec` is one of Kraken's, from 60 on. Raises
        Unavailable.
        """
        minutes = int(interval_sec // 60)
        params = {"pair": self._symbol(), "interval": minutes, "since": int(since)}
        result = self._ask("OHLC", params)
        try:
            found = wire.candles(result, self._names, interval_sec)
        except WireError as error:
            raise Unavailable(str(error)) from None
        return tuple(x for x in found if x.time > since)

    def system_status(self) -> str:
        """Return the exchange's status. Raises Unavailable."""
        try:
            return wire.system_status(self._ask("SystemStatus", {}))
        except WireError as error:
            raise Unavailable(str(error)) from None

    def server_time(self) -> float:
        """Return the exchange's clock, rounded down to the second. Raises Unavailable."""
        try:
            return wire.server_time(self._ask("Time", {}))
        except WireError as error:
            raise Unavailable(str(error)) from None

    def pair(self) -> tuple[Instrument, str]:
        """Return the pair's limits and its status. Raises Unavailable.

        A pair that Kraken does not know is delisted; its limits are those known last.
        """
        try:
            facts = self._own(wire.pair_facts(self._ask("AssetPairs", {"pair": self._pair})))
        except WireError as error:
            raise Unavailable(str(error)) from None
        except _UnknownPair:
            return self._instrument, "delisted"
        self._instrument, self._names = facts.instrument, facts.names
        return facts.instrument, facts.status

    def _own(self, pairs: tuple[PairFacts, ...]) -> PairFacts:
        found = [x for x in pairs if x.instrument.pair == self._pair]
        if len(found) != 1:
            raise WireError(f"AssetPairs: {self._pair} is expected once, it is there {len(found)}×")
        return found[0]

    def _symbol(self) -> str:
        """Return the name to ask by; AssetPairs has told by which names answers may call it."""
        if not self._names:
            self.pair()
        if not self._names:
            raise Unavailable(UNKNOWN_PAIR)
        return self._instrument.symbol

    def _ask(self, method: str, params: Mapping[str, object]) -> Any:
        answer = self._client.public(method, params)
        judgement = judge_answer(answer, Purpose.READ)
        if judgement is None:
            return answer.result
        if answer.fault is None and answer.errors == (UNKNOWN_PAIR,):
            raise _UnknownPair(UNKNOWN_PAIR)
        why = answer.fault or "; ".join(answer.errors)
        pause_sec = judgement.pause_sec
        if judgement.trouble in (Trouble.RATE, Trouble.LOCKOUT):
            pause_sec = max(pause_sec, RATE_PAUSE_SEC)
        raise Unavailable(f"{method}: {why} ({judgement.advice})", pause_sec)
