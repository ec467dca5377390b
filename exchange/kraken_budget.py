"""How many private calls may be made, and when: models of both of Kraken's counters, and back-off.

Pure and single-threaded: time is passed in. The models are kept well below the exchange's limits,
with a part that only cancels and the resolving of unknown orders may use. Limits, decay and
cancel costs are in `exchange/rates.py`, what an error calls for in `exchange/kraken_errors.py`.
"""

import math
from collections.abc import Mapping
from enum import IntEnum, StrEnum

from core.domain import RejectReason
from core.record import Record, replace
from exchange.kraken_records import Judgement, Trouble, Verdict
from exchange.rates import ENGINE_LIMITS, REST_LIMITS, RateCounter, cancel_cost

USED_SHARE = 0.7  # of the exchange's maximum
REST_PAUSE_SEC, HALVED_SEC = 15.0, 600.0
DOWN_FIRST_SEC, DOWN_MOST_SEC = 5.0, 60.0
LOCKOUT_SEC, PROBE_SEC = 900.0, 30.0
UNTIL_MOST_SEC = 3600.0
CALM_SHARE = 0.5  # the engine's counter must fall to this share after it has refused
POST_ONLY_COST = 8.0  # reported by others, not documented: assumed
_TINY_SEC = 1e-9

_FREE = (
    "Time", "SystemStatus", "Assets", "AssetPairs", "Ticker", "OHLC", "Depth", "Trades", "Spread",
    "AddOrder", "AddOrderBatch", "AmendOrder", "EditOrder", "CancelOrder", "CancelOrderBatch",
)  # fmt: skip
_ONE = (
    "Balance", "BalanceEx", "TradeBalance", "TradeVolume", "OpenOrders", "QueryOrders",
    "GetApiKeyInfo", "GetWebSocketsToken", "CancelAll", "CancelAllOrdersAfter",
)  # fmt: skip
_REST_COSTS: Mapping[str, float] = dict.fromkeys(_FREE, 0.0) | dict.fromkeys(_ONE, 1.0)
_REST_COST_MOST = 2.0  # ledgers, closed orders, trades, and whatever is not listed
_NOT_MODELLED = (
    "AddOrderBatch", "EditOrder", "CancelOrderBatch", "CancelAll", "CancelAllOrdersAfter",
)  # fmt: skip
_AMEND_COSTS = ((5, 3), (10, 2), (15, 1))


class Priority(IntEnum):
    """What a call is for, most urgent first."""

    RESOLVE = 0  # find out what became of an order
    EXECUTIONS = 1
    EXIT = 2
    CANCEL = 3
    ENTRY = 4
    TELEMETRY = 5


# The part of the budget that a priority may fill. A quarter is kept for exits, cancels and for
# resolving; entries and telemetry stop earlier. An exit costs one point where a cancel costs up to
# eight: with less of the budget than cancels have it would wait as long as there are any.
_SHARES = {
    Priority.RESOLVE: 1.0,
    Priority.EXIT: 1.0,
    Priority.CANCEL: 1.0,
    Priority.EXECUTIONS: 0.75,
    Priority.ENTRY: 0.65,
    Priority.TELEMETRY: 0.5,
}


class _Probe(StrEnum):
    NONE = "none"
    DUE = "due"
    OUT = "out"


class BudgetView(Record, frozen=True, kw_only=True):
    """What the status page shows: modelled counters, what we allow ourselves, and any pause."""

    tier: str
    rest_used: float
    rest_most: float
    rest_max: float
    engine_used: float
    engine_most: float
    engine_max: float
    blocked_until: float | None
    why: str


def rest_cost(method: str) -> float:
    """Return what a call of `method` adds to the key's counter; an unknown method counts most."""
    return _REST_COSTS.get(method, _REST_COST_MOST)


def engine_cost(method: str, age_sec: float = 0.0) -> float:
    """Return what a call adds to the pair's counter; `age_sec` is the order's age.

    Raises ValueError for a method that moves orders in a way that is not modelled (batches, edits).
    """
    if method == "AddOrder":
        return 1.0
    if method == "CancelOrder":
        return cancel_cost(age_sec)
    if method == "AmendOrder":
        return 1.0 + next((cost for limit, cost in _AMEND_COSTS if age_sec < limit), 0)
    if method in _NOT_MODELLED:
        raise ValueError(f"{method} is not modelled: place, amend and cancel orders one by one")
    return 0.0


class Budget:
    """Both counters of one key and one pair, and the pauses that errors call for.

    `now` is everywhere seconds of one clock that does not go back. Ask `wait`, then `charge` at the
    same `now`, then send; tell `forgive` of a good answer and `punish` of any other.
    """

    def __init__(self, tier: str, *, rest_used: float = 0.0, engine_used: float = 0.0) -> None:
        """Start with counters at these values at time 0. Raises ValueError naming what is wrong."""
        if tier not in REST_LIMITS:
            raise ValueError(f"tier {tier!r} is not one of {', '.join(REST_LIMITS)}")
        self.tier = tier
        self._rest_max, self._rest_decay = REST_LIMITS[tier]
        self._engine_max, self._engine_decay = ENGINE_LIMITS[tier]
        for name, used, most in (
            ("rest_used", rest_used, self._rest_max),
            ("engine_used", engine_used, self._engine_max),
        ):
            if not 0 <= used <= most:
                raise ValueError(f"{name} {used} is not from 0 to {most:g}")
        self._rest = RateCounter(value=rest_used)
        self._engine = RateCounter(value=engine_used)
        self._blocked_until = self._engine_until = self._place_until = -math.inf
        self._halved_until = -math.inf
        self._why = self._engine_why = self._place_why = ""
        self._downs = 0
        self._probe, self._probe_at = _Probe.NONE, -math.inf

    def take_over(self, now: float, *, quiet_sec: float) -> None:
        """Start at `now` where another may have called until `quiet_sec` ago.

        What the exchange has counted is not told: the most we ever allow ourselves is assumed.
        """
        left = max(0.0, self._rest_max * USED_SHARE - quiet_sec * self._rest_decay)
        self._rest = RateCounter(value=left, at=now)

    def forward(self, seconds: float) -> None:
        """Take note that the clock `now` is read from has been moved on by so much at once.

        Nothing has decayed and no pause has passed meanwhile, as far as is known.
        """
        self._rest = replace(self._rest, at=self._rest.at + seconds)
        self._engine = replace(self._engine, at=self._engine.at + seconds)
        self._blocked_until += seconds
        self._engine_until += seconds
        self._place_until += seconds
        self._halved_until += seconds
        self._probe_at += seconds

    def spend(self, cost: float, now: float) -> None:
        """Count calls, `cost` points of the key's counter, that are made without asking."""
        room = self._rest_max - self._rest.now(now, self._rest_decay)
        self._rest = self._rest.add(min(cost, max(0.0, room)), now, self._rest_decay)

    # ---- asking and spending ----

    def wait(self, cost: float, engine_cost: float, priority: Priority, now: float) -> float:
        """Return the seconds until such a call is allowed: 0 if it is, infinity if it never is.

        Costs are points (`rest_cost`, `engine_cost`). Raises ValueError if one is negative.
        """
        if not (cost >= 0 and engine_cost >= 0):
            raise ValueError(f"costs {cost}, {engine_cost}: both must be 0 or more")
        share = _SHARES[priority]
        rest_most, engine_most = self._rest_most(now) * share, self._engine_most() * share
        if cost > rest_most or engine_cost > engine_most:
            return math.inf
        waits = [0.0, self._blocked_until - now, self._probe_wait(engine_cost, now)]
        if cost:
            decay = self._rest_decay
            waits.append(self._rest.wait(cost, now, most=rest_most, decay=decay))
        if engine_cost:
            decay = self._engine_decay
            waits.append(self._engine.wait(engine_cost, now, most=engine_most, decay=decay))
            waits.append(self._engine_until - now)
            if priority in (Priority.EXIT, Priority.ENTRY):
                waits.append(self._place_until - now)
        longest = max(waits)
        return longest if longest > _TINY_SEC else 0.0

    def charge(self, cost: float, engine_cost: float, priority: Priority, now: float) -> None:
        """Count a call that is about to be sent. Raises ValueError if it has to wait."""
        left = self.wait(cost, engine_cost, priority, now)
        if left > 0:
            raise ValueError(f"a call for {priority.name} is not allowed for another {left:.3f} s")
        self._rest = self._rest.add(cost, now, self._rest_decay)
        self._engine = self._engine.add(engine_cost, now, self._engine_decay)
        if self._probe is not _Probe.NONE:
            self._probe, self._probe_at = _Probe.OUT, now

    def _rest_most(self, now: float) -> float:
        half = 0.5 if now < self._halved_until else 1.0
        return self._rest_max * USED_SHARE * half

    def _engine_most(self) -> float:
        return self._engine_max * USED_SHARE

    def _probe_wait(self, engine_cost: float, now: float) -> float:
        """Return what the probe after a lockout costs others; an order is never the probe."""
        if self._probe is _Probe.NONE:
            return 0.0
        if self._probe is _Probe.OUT and now < self._probe_at + PROBE_SEC:
            return self._probe_at + PROBE_SEC - now
        return PROBE_SEC if engine_cost else 0.0

    # ---- learning ----

    def forgive(self) -> None:
        """Learn that a call was answered well: back-off begins anew, a probe has succeeded."""
        self._downs = 0
        if self._probe is _Probe.OUT:
            self._probe = _Probe.NONE

    def punish(
        self, judgement: Judgement, now: float, *, exchange_now: float | None = None
    ) -> None:
        """Learn from an answer that was not good, and pause as its trouble calls for.

        `exchange_now` is the exchange's time, by which it may name the end of a pause; without it
        such a pause is taken for a minute.
        """
        pause = max(0.0, judgement.pause_sec, _named_pause(judgement, exchange_now))
        if judgement.verdict is Verdict.REJECT and judgement.reason is RejectReason.POST_ONLY:
            self.note_post_only(now)
        match judgement.trouble:
            case Trouble.NONE:
                self.forgive()
            case Trouble.MARKET_MODE:
                self.forgive()
                self._place_until = max(self._place_until, now + pause)
                self._place_why = "the market takes no orders"
            case Trouble.ENGINE_RATE:
                self.forgive()
                self._fill_engine(self._engine_max, now)
                calm = (1 - CALM_SHARE) * self._engine_max / self._engine_decay
                self._engine_until = max(self._engine_until, now + max(pause, calm))
                self._engine_why = "the pair's rate limit was reached"
            case Trouble.RATE:
                self.spend(self._rest_max, now)
                self._halved_until = max(self._halved_until, now + HALVED_SEC)
                self._block(max(pause, REST_PAUSE_SEC), "a rate limit was reached", now)
            case Trouble.LOCKOUT:
                self._block(max(pause, LOCKOUT_SEC), "Kraken has locked the key out", now)
                self._probe = _Probe.DUE
            case Trouble.DOWN:
                backoff = min(DOWN_MOST_SEC, DOWN_FIRST_SEC * 2 ** min(self._downs, 10))
                self._downs += 1
                self._block(max(pause, backoff), "Kraken does not answer", now)
            case Trouble.KEY:
                self._block(pause, "Kraken refuses the key or the account", now)
            case Trouble.NONCE:
                self._block(pause, "Kraken refused a nonce", now)

    def note_post_only(self, now: float) -> None:
        """Learn that a post-only order would have taken: told at once, or by its end."""
        self._fill_engine(POST_ONLY_COST, now)

    def _block(self, pause: float, why: str, now: float) -> None:
        if self._probe is _Probe.OUT:
            self._probe = _Probe.DUE
        if now + pause > self._blocked_until:
            self._blocked_until, self._why = now + pause, why

    def _fill_engine(self, cost: float, now: float) -> None:
        room = self._engine_max - self._engine.now(now, self._engine_decay)
        self._engine = self._engine.add(min(cost, max(0.0, room)), now, self._engine_decay)

    # ---- showing ----

    def blocked_until(self, now: float) -> float | None:
        """Return until when no private call at all is made, None if there is no such pause."""
        return self._blocked_until if self._blocked_until > now else None

    def view(self, now: float) -> BudgetView:
        """Return what the status page shows at `now`."""
        reasons = [
            why
            for why, until in (
                (self._why, self._blocked_until),
                (self._engine_why, self._engine_until),
                (self._place_why, self._place_until),
            )
            if until > now
        ]
        if self._probe is not _Probe.NONE and self._blocked_until <= now:
            reasons.insert(0, "after the lockout one call is tried before the others")
        return BudgetView(
            tier=self.tier,
            rest_used=self._rest.now(now, self._rest_decay),
            rest_most=self._rest_most(now),
            rest_max=self._rest_max,
            engine_used=self._engine.now(now, self._engine_decay),
            engine_most=self._engine_most(),
            engine_max=self._engine_max,
            blocked_until=self.blocked_until(now),
            why="; ".join(reasons),
        )


def _named_pause(judgement: Judgement, exchange_now: float | None) -> float:
    if judgement.until is None:
        return 0.0
    if exchange_now is None:
        return DOWN_MOST_SEC
    return min(UNTIL_MOST_SEC, judgement.until - exchange_now)
