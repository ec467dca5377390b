"""What must hold for a run to be able to trade: shown by `check`, warned of by `run`.

Pure, from the parameters, what the exchange says of itself, and a price.
"""

from decimal import Decimal

from core.domain import HUNDRED
from core.params import Params
from core.ports import AccountFacts, Venue
from engine.books import Check
from grid_strategy import break_even_pct
from risk import CLOCK_OFFSET_MAX_SEC, PLACING_STATUSES

NEEDED = frozenset(
    {"query-funds", "query-open-trades", "query-closed-trades", "modify-trades", "close-trades"}
)
NOT_TAKEN = "; orders are not taken, wait or trade another pair"
DELISTED = f"delisted{NOT_TAKEN}"
OPTIONAL = frozenset({"query-ledger"})
_WAIT = f"wait until it is {', '.join(PLACING_STATUSES[:-1])} or {PLACING_STATUSES[-1]}"


def start_checks(params: Params, venue: Venue, price: Decimal) -> list[Check]:
    """Return the checks on pair, balances, profit target and order size at `price`."""
    instrument, fees = venue.instrument, venue.fees
    least = instrument.least_volume(price) * price
    needed = break_even_pct(fees.maker) + params.min_net_profit_pct
    base_value = venue.base * price
    is_open = venue.system_status in PLACING_STATUSES
    closed = "" if is_open else f"; exchange {venue.system_status}: orders are not taken; {_WAIT}"
    return [
        Check(
            name="pair",
            is_ok=is_open,
            detail=f"{instrument.pair} at {price}{closed}",
        ),
        Check(
            name="balances",
            is_ok=venue.quote > 0 or venue.base > 0,
            detail=f"{venue.base:f} {instrument.base} ({base_value:.2f} {instrument.quote}), "
            f"{venue.quote:f} {instrument.quote}",
        ),
        Check(
            name="profit target",
            is_ok=params.profit_pct >= needed,
            detail=f"{params.profit_pct} %; break-even plus margin is {needed:.3f} % "
            f"at {fees.maker * HUNDRED:.2f} % maker",
        ),
        Check(
            name="order size",
            is_ok=params.order_size_usd >= least,
            detail=f"{params.order_size_usd} {instrument.quote}; the least workable is "
            f"{least:.2f} {instrument.quote}",
        ),
    ]


def account_checks(facts: AccountFacts, *, now: float) -> list[Check]:
    """Return the checks that only a run with real orders needs: clock, key, orders of others.

    `now` is seconds since the epoch. Where one fails a start is refused; the detail says what to
    do.
    """
    off, error = facts.clock_offset_sec, facts.clock_error_sec
    is_in_time = abs(off) < CLOCK_OFFSET_MAX_SEC and error < CLOCK_OFFSET_MAX_SEC
    is_tradable = facts.pair_status in PLACING_STATUSES
    others = len(facts.other_epochs)
    return [
        Check(
            name="clock",
            is_ok=is_in_time,
            detail=f"{off:+.1f} s from the exchange's, within {error:.1f} s"
            + ("" if is_in_time else "; both must be below 2 s: set the machine's clock (NTP)"),
        ),
        Check(
            name="pair status",
            is_ok=is_tradable,
            detail=facts.pair_status + ("" if is_tradable else NOT_TAKEN),
        ),
        _key_check(facts, now),
        Check(
            name="nonce window",
            is_ok=facts.nonce_window == 0,
            detail="0"
            if facts.nonce_window == 0
            else f"{facts.nonce_window} s: a replayed request would be accepted twice; set the "
            "key's custom nonce window to 0",
        ),
        _bound_check(facts),
        Check(
            name="account",
            is_ok=facts.is_known is not False,
            detail="it does not know the orders of this database: the key is another account's, or "
            "the sandbox began anew; set the key of the account that placed them, or STATE_DB to "
            "another file"
            if facts.is_known is False
            else "it knows the orders of this database"
            if facts.is_known
            else "no order of this database to look for there",
        ),
        Check(
            name="other database",
            is_ok=others == 0,
            detail="no order of this bot from another database"
            if others == 0
            else f"{others} open orders of this bot were placed from another database: put that "
            "database back (STATE_DB), cancel them at Kraken, or, where this database is an older "
            "copy of that one, start once with --adopt-epoch",
        ),
        Check(
            name="foreign orders",
            is_ok=True,
            detail=f"{facts.foreign_orders} open, never touched; {facts.own_orders} are ours",
        ),
    ]


def _key_check(facts: AccountFacts, now: float) -> Check:
    missing, extra = NEEDED - facts.permissions, facts.permissions - NEEDED - OPTIONAL
    until = facts.key_valid_until
    problems = []
    if "withdraw-funds" in extra:
        problems.append("it may WITHDRAW funds; make a key that may not")
    if missing:
        problems.append("it lacks " + ", ".join(sorted(missing)))
    if extra - {"withdraw-funds"}:
        problems.append("it has more than is needed: " + ", ".join(sorted(extra)))
    if until is not None and until <= now:
        problems.append("it has expired")
    has_ledger = "query-ledger" in facts.permissions
    plain = "exactly what is needed" + ("" if has_ledger else "; deposits are told by record_flow")
    return Check(name="API key", is_ok=not problems, detail="; ".join(problems) or plain)


def _bound_check(facts: AccountFacts) -> Check:
    words = ", ".join(f"{amount:f} {name}" for name, amount in sorted(facts.bound.items()))
    return Check(
        name="bound funds",
        is_ok=not facts.bound,
        detail=f"{words} earn or are staked: switch that off for this account, orders cannot "
        "draw on it"
        if words
        else "none of the pair's assets earn or are staked",
    )
