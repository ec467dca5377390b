"""What must be read of Kraken before a run with real orders may begin; places no order.

Reads only, in an order in which the first answer that makes a start impossible is told first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from core.domain import ZERO
from core.order_id import decode
from core.ports import AccountFacts, StartRefused, Unavailable, Venue
from core.record import Record, replace
from exchange.kraken_errors import is_unknown_order, judge_answer
from exchange.kraken_public import (
    asset_names,
    asset_units,
    pair_facts,
    server_time,
    suffixed,
    system_status,
    ticker,
)
from exchange.kraken_records import (
    Answer,
    KeyFacts,
    OrderView,
    PairFacts,
    Purpose,
    Verdict,
    WireError,
)
from exchange.kraken_wire import balances, fee_rates, key_facts, open_orders, queried_orders

T = TypeVar("T")
CLOCK_SAMPLES = 3
# The clock told is a whole second, so that half of one more is not known.
CLOCK_STEP_SEC = 1.0


class Caller(Protocol):
    """What makes the calls; total: whatever happens, there is an Answer."""

    def private(self, method: str, params: Mapping[str, object]) -> Answer:
        """Call a private method."""
        ...

    def public(self, method: str, params: Mapping[str, object]) -> Answer:
        """Call a public method."""
        ...


class Start(Record, frozen=True, kw_only=True):
    """All that was read."""

    pair: PairFacts
    venue: Venue
    account: AccountFacts
    key: KeyFacts
    price: Decimal  # the bid


def read_start(
    caller: Caller,
    symbol: str,
    *,
    tag: int,
    epochs: Collection[int],
    clock: Callable[[], float],
    placed: Sequence[str] = (),
) -> Start:
    """Read clock, status, pair, key, fees, balances and open orders.

    `epochs` of the database's orders, none where there is none yet; `placed` are orders of it, of
    which the account must know one. Raises StartRefused where asking again cannot help, Unavailable
    where it can.
    """
    offset, error = read_clock(caller, clock)
    status = _public(caller, "SystemStatus", {}, system_status)
    pair = read_pair(caller, symbol)
    key = _private(caller, "GetApiKeyInfo", {}, key_facts)
    fees = _private(caller, "TradeVolume", {"pair": symbol}, lambda x: fee_rates(x, pair.names))
    is_known = _knows_one(caller, placed) if placed else None
    amounts = _private(caller, "Balance", {}, balances)
    orders = _private(caller, "OpenOrders", {}, open_orders)
    bid, _, _ = _public(caller, "Ticker", {"pair": symbol}, lambda x: ticker(x, pair.names))
    ids = {"asset": f"{pair.base_id},{pair.quote_id}"}
    names, units = _public(caller, "Assets", ids, lambda x: (asset_names(x), asset_units(x)))
    pair = _with_units(pair, units)
    ours, others = _ours(orders, tag)
    return Start(
        pair=pair,
        key=key,
        price=bid,
        venue=Venue(
            instrument=pair.instrument,
            fees=fees,
            base=amounts.get(pair.base_id, ZERO),
            quote=amounts.get(pair.quote_id, ZERO),
            system_status=status,
        ),
        account=AccountFacts(
            clock_offset_sec=offset,
            clock_error_sec=error,
            pair_status=pair.status,
            permissions=key.permissions,
            nonce_window=key.nonce_window,
            key_valid_until=key.valid_until,
            bound=suffixed(amounts, names),
            own_orders=sum(x in epochs for x in ours),
            other_epochs=tuple(x for x in ours if x not in epochs),
            foreign_orders=others,
            is_known=is_known,
        ),
    )


def read_clock(caller: Caller, clock: Callable[[], float]) -> tuple[float, float]:
    """Return exchange time less ours, and how far that may be wrong, in seconds.

    The best of a few samples. Raises StartRefused or Unavailable.
    """
    best: tuple[float, float] | None = None
    for _ in range(CLOCK_SAMPLES):
        before = clock()
        told = _public(caller, "Time", {}, server_time)
        after = clock()
        error = (after - before) / 2 + CLOCK_STEP_SEC / 2
        offset = told + CLOCK_STEP_SEC / 2 - (before + after) / 2
        if best is None or error < best[1]:
            best = (offset, error)
    if best is None:
        raise AssertionError("no sample of the clock")
    return best


def read_pair(caller: Caller, symbol: str) -> PairFacts:
    """Return the facts of one pair. Raises StartRefused where there is no such pair."""
    pairs = _public(caller, "AssetPairs", {"pair": symbol}, pair_facts)
    found = [x for x in pairs if symbol in x.names]
    if len(found) != 1:
        raise StartRefused(f"Kraken knows no pair {symbol}")
    return found[0]


def _with_units(pair: PairFacts, units: Mapping[str, Decimal]) -> PairFacts:
    """Return the pair with the units of its assets. Raises Unavailable where one is not told."""
    if not {pair.base_id, pair.quote_id} <= units.keys():
        raise Unavailable(f"Assets: {pair.base_id} and {pair.quote_id} were asked for")
    instrument = replace(
        pair.instrument, base_unit=units[pair.base_id], quote_unit=units[pair.quote_id]
    )
    return replace(pair, instrument=instrument)


def _knows_one(caller: Caller, txids: Sequence[str]) -> bool:
    """Tell whether the account has made one of these orders."""
    for txid in txids:
        answer = caller.private("QueryOrders", {"txid": txid})
        if is_unknown_order(answer):
            continue
        if any(x.txid == txid for x in _read("QueryOrders", answer, queried_orders)):
            return True
    return False


def _ours(orders: tuple[OrderView, ...], tag: int) -> tuple[list[int], int]:
    """Return the epochs of open orders with our tag, and the number of the others."""
    places = [decode(x.client_order_id or "") for x in orders]
    ours = [x.epoch for x in places if x is not None and x.tag == tag]
    return ours, len(places) - len(ours)


def _public(
    caller: Caller, method: str, params: Mapping[str, object], parse: Callable[[Any], T]
) -> T:
    return _read(method, caller.public(method, params), parse)


def _private(
    caller: Caller, method: str, params: Mapping[str, object], parse: Callable[[Any], T]
) -> T:
    return _read(method, caller.private(method, params), parse)


def _read(method: str, answer: Answer, parse: Callable[[Any], T]) -> T:
    judgement = judge_answer(answer, Purpose.READ)
    if judgement is None:
        try:
            return parse(answer.result)
        except WireError as error:
            raise Unavailable(f"{method}: the answer cannot be read: {error}") from None
    words = answer.fault or ", ".join(answer.errors)
    if judgement.verdict in (Verdict.HALT, Verdict.REJECT):
        raise StartRefused(f"Kraken answers {words} to {method}. {judgement.advice}".strip())
    raise Unavailable(f"{method}: {words} ({judgement.advice})", judgement.pause_sec)
