"""Equity at other prices, were today's open orders all there is: from the published status alone.

The price leaves today's bid once, downwards through our buys and upwards through our sells. Nothing
is placed anew, nothing comes back. Look at `core/status.py` for what is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Any, NamedTuple

from core.domain import HUNDRED, ONE, ZERO
from core.record import exact, rounded

RANGE_PCT = 50
_STEP = Decimal("1e-8")
NOTE = (
    "the price moves once from today's bid: buys fill on its way down, sells on its way up, each "
    "at its limit for the maker fee and as far as cash or base suffice; nothing new is placed. "
    "Orders in doubt or being cancelled count as open: beyond its price an execution is always the "
    "worse case. Exits that are owed and orders of others are left out"
)
Status = Mapping[str, Any]


class _Order(NamedTuple):
    price: Decimal
    volume: Decimal  # what is not filled yet


class _Owned(NamedTuple):
    """Cash and base on the way, and the price of the order at which one of them ran out."""

    cash: Decimal
    base: Decimal
    exhausted_at: str | None = None


def payoff(status: Status) -> dict[str, Any]:
    """Return equity from −50 % to +50 %, and where cash or base run out; null where they do not.

    Money, prices and volumes are decimal text. Points stand at each order's price, after it has
    executed, and every percent. Without a price there are none.
    """
    market, equity = status["market"], status["equity"]
    if market["bid"] is None:
        return _told(None, [], None, None)
    mark, fee = Decimal(market["bid"]), Decimal(status["exchange"]["maker_pct"]) / HUNDRED
    now = _Owned(Decimal(equity["cash"]), Decimal(equity["base"]))
    held = None
    if equity["holding_base"] is not None:
        held = Decimal(equity["holding_quote"]), Decimal(equity["holding_base"])
    buys = sorted(_resting(status, "buy"), reverse=True)
    sells = sorted(_resting(status, "sell"))
    down, bought = _sweep(mark, -ONE, now, buys, fee)
    up, sold = _sweep(mark, ONE, now, sells, fee)
    path = [*reversed(down), (mark, now), *up]
    return _told(mark, [_point(mark, price, own, held) for price, own in path], bought, sold)


def _told(
    mark: Decimal | None, points: Sequence[object], bought: _Owned | None, sold: _Owned | None
) -> dict[str, Any]:
    return {
        "mark": None if mark is None else exact(mark),
        "points": points,
        "cash_exhausted_at": None if bought is None else bought.exhausted_at,
        "all_sold_at": None if sold is None else sold.exhausted_at,
        "cash_after_all_buys": None if bought is None else rounded(bought.cash, 8),
        "base_after_all_sells": None if sold is None else rounded(sold.base, 8),
        "note": NOTE if mark is not None else "there is no price yet",
    }


def _resting(status: Status, side: str) -> Iterator[_Order]:
    """Yield what is left of each open order of one side."""
    for slot in status["slots"]:
        for holder in (*slot["legs"], *slot["recoveries"]):
            order = holder["order"]
            if order is not None and order["side"] == side:
                left = Decimal(order["volume"]) - Decimal(order["filled"])
                if left > 0:
                    yield _Order(Decimal(order["price"]), left)


def _sweep(
    mark: Decimal, way: Decimal, own: _Owned, orders: Sequence[_Order], fee: Decimal
) -> tuple[list[tuple[Decimal, _Owned]], _Owned]:
    """Return the points of one way (−1 down, +1 up) from the mark, and what is owned at its end.

    `orders` are in the order in which the price meets them; those beyond the range count for the
    end only.
    """
    most = mark * (ONE + way * RANGE_PCT / HUNDRED)
    grid = {mark * (ONE + way * n / HUNDRED) for n in range(1, RANGE_PCT + 1)}
    stops = grid | {x.price for x in orders if way * mark < way * x.price <= way * most}
    points, met = [], 0
    for price in sorted(stops, reverse=way < 0):
        while met < len(orders) and way * orders[met].price <= way * price:
            own = _executed(own, orders[met], way, fee)
            met += 1
        points.append((price, own))
    return points, _after(own, orders[met:], way, fee)


def _after(own: _Owned, orders: Iterable[_Order], way: Decimal, fee: Decimal) -> _Owned:
    for order in orders:
        own = _executed(own, order, way, fee)
    return own


def _executed(own: _Owned, order: _Order, way: Decimal, fee: Decimal) -> _Owned:
    """Return what is owned after an order, a buy on the way down or a sell on the way up."""
    if own.exhausted_at is not None:
        return own
    price, volume = order
    if way < 0:
        most = (max(ZERO, own.cash) / (price * (ONE + fee))).quantize(_STEP, ROUND_DOWN)
    else:
        most = max(ZERO, own.base)
    done = min(volume, most)
    cash = own.cash + way * price * done - fee * price * done
    base = own.base - way * done
    is_out = done < volume or (cash if way < 0 else base) <= 0
    return _Owned(cash, base, exact(price) if is_out else None)


def _point(
    mark: Decimal, price: Decimal, own: _Owned, held: tuple[Decimal, Decimal] | None
) -> dict[str, str | None]:
    return {
        "price": rounded(price, 12),
        "change_pct": rounded((price / mark - ONE) * HUNDRED, 4),
        "equity": rounded(own.cash + own.base * price, 8),
        "cash": rounded(own.cash, 8),
        "base": rounded(own.base, 8),
        "holding": None if held is None else rounded(held[0] + held[1] * price, 8),
    }
