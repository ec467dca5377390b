"""What a start asks of the exchange, without one."""

from decimal import Decimal

import pytest

from core.domain import FeeRates, Instrument
from core.params import Params
from core.ports import Venue
from engine.books import Check
from engine.start_check import start_checks
from risk import PLACING_STATUSES


def pair_check(status: str) -> Check:
    """Return the check on the pair while the exchange tells `status`."""
    venue = Venue(
        instrument=Instrument(),
        fees=FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008")),
        base=Decimal(5000),
        quote=Decimal(500),
        system_status=status,
    )
    (found,) = [x for x in start_checks(Params(), venue, Decimal("0.1")) if x.name == "pair"]
    return found


@pytest.mark.parametrize("status", PLACING_STATUSES)
def test_a_start_needs_no_more_than_that_orders_are_taken(status: str) -> None:
    """Ours are limit orders and post-only: those statuses take them."""
    assert pair_check(status).is_ok


@pytest.mark.parametrize("status", ["maintenance", "cancel_only", "unknown"])
def test_a_start_that_has_to_wait_says_why(status: str) -> None:
    """The status, what it means, and what is allowed."""
    found = pair_check(status)
    assert not found.is_ok
    assert found.detail == (
        f"DOGE/USD at 0.1; exchange {status}: orders are not taken; "
        "wait until it is online, limit_only or post_only"
    )
