"""What can go wrong in a storm, and what of it does in one seed.

Every kind of fault has a name here and a usual rate; a seed draws which are on and how often they
come, so that a rare meeting of two is not hidden by ten others. Values only: what a kind does is in
`storm_line.py` (requests), `storm_disk.py` (the store) and `storm_events.py` (everything else).
"""

import random

import msgspec

from core.record import Record
from exchange.sandbox_venue import LAGGING

LAG_MAX_SEC = 5.0  # what the daemon takes for granted
DAY_HOURS, HOURS = 24.0, 1.0
CALMER = 12.0  # a day has that many times fewer faults an hour, or it would never get anywhere

# Chances for each request of the account.
REQUESTS = {
    "lost_request": 0.02,
    "lost_response": 0.03,
    "replayed": 0.02,  # by something in between: both copies arrive, the second answers
    "echoed": 0.05,  # a copy of it arrives some seconds later
    "late": 0.02,  # it waits before the exchange, longer than the client does
    "stalled": 0.02,  # it has passed the gate and waits inside the exchange
    "slow": 0.03,  # the answer is good and takes seconds
    "error_before": 0.01,  # 502, not executed
    "error_after": 0.01,  # 520, executed
    "html": 0.01,  # executed, a page instead of JSON
    "truncated": 0.005,  # executed, half of the JSON
    "null_result": 0.005,  # executed, no error and no result
    "odd_result": 0.005,  # executed, two ids, none, or one that is no text
    "unknown_error": 0.005,  # executed, an error string nobody knows
    "unavailable_before": 0.01,
    "unavailable_after": 0.02,
    "rate_limit": 0.003,
    "nonce_error": 0.003,
    "lockout": 0.0003,
    "ended": 0.02,  # the exchange takes the order and ends it for what others are refused for
    "post_only_reject": 0.02,
    "insufficient_funds": 0.01,
    "below_minimum": 0.005,
    "shuffled": 0.02,  # rows of a list in another order
    "page_shift": 0.01,  # the rows of a page are those of the one before
}
# Chances for each request of the market's data.
MARKET = {
    "market_lost": 0.02,
    "market_error": 0.01,
    "stale_price": 0.02,  # begins a span in which nothing moves
    "crossed_book": 0.01,
    "one_sided_book": 0.005,
    "zero_price": 0.005,
    "absurd_price": 0.01,
    "candle_gap": 0.02,
    "candle_correction": 0.02,
}
# Chances at each point of input and output.
POINTS = {
    "crash": 0.004,
    "torn_write": 0.001,  # a crash while a commit is being written
    "power_cut": 0.001,  # a crash that takes with it what was not synced
}
# Mean seconds between two events.
EVENTS = {
    "disk_full": 900.0,
    "locked": 600.0,  # another program holds the database
    "sleep": 400.0,  # the machine
    "clock_jump": 600.0,  # the machine's time of day
    "maintenance": 700.0,
    "cancel_only": 900.0,
    "post_only": 900.0,
    "limit_only": 900.0,
    "restart": 600.0,  # it is told to stop, and started again
    "operator": 300.0,
    "stranger": 90.0,  # orders of others on the account
    "deposit": 300.0,
    "meddling": 200.0,  # somebody cancels or amends an order of ours
    "venue_cancel": 300.0,
    "venue_expiry": 300.0,
    "flash_crash": 600.0,
    "fill_during_cancel": 60.0,  # one that arrives finds the market at the order's price
    "new_minimum": 900.0,
    "flood": 300.0,  # of commands, by HTTP
    "replica_down": 300.0,
    "advisor_hangs": 300.0,
}
SWITCHES = ("drift", "lag", "trainer_crash", "absurd_advice")
KINDS = (*REQUESTS, *MARKET, *POINTS, *EVENTS, *SWITCHES)


class Weather(Record, frozen=True, kw_only=True):
    """One world: what is on with its rate (KINDS), and how daemon and venue are set up.

    `rates` are chances for requests and points, mean seconds for events, 1 for switches.
    """

    rates: dict[str, float] = msgspec.field(default_factory=dict)
    hours: float = HOURS
    tier: str = "pro"
    poll_sec: float = 5.0
    price_sec: float = 5.0  # between two looks at the market
    page_rows: int = 50
    down_sec: float = 6.0  # at most, until a process that has died is started again
    lags: dict[str, float] = msgspec.field(default_factory=dict)
    is_lag_random: bool = True  # else each answer is as old as that
    has_ledger: bool = False
    nonce_window: int = 0
    step_pct: float = 0.25  # standard deviation of a quarter of a candle
    candle_sec: float = 5.0
    env: dict[str, str] = msgspec.field(default_factory=dict)  # of the daemon's settings

    def rate(self, kind: str) -> float:
        """Return how often a kind comes, 0 where it is off."""
        return self.rates.get(kind, 0.0)


CALM = Weather()


def draw(seed: int, *, is_day: bool = False) -> Weather:
    """Return the weather of a seed: each kind is on with some chance, and in its own strength."""
    rng = random.Random(f"weather {seed}")
    calmer = CALMER if is_day else 1.0
    rates: dict[str, float] = {}
    for name, rate in {**REQUESTS, **MARKET, **POINTS}.items():
        if rng.random() < 0.5:
            rates[name] = round(rate * rng.uniform(0.5, 2.0) / calmer, 6)
    if not is_day and rng.random() < 0.1:
        rates["slow"] = round(rng.uniform(0.3, 1.0), 6)
    for name, mean in EVENTS.items():
        if rng.random() < 0.5:
            rates[name] = round(mean * rng.uniform(0.5, 2.0) * calmer, 1)
    for name in SWITCHES:
        if rng.random() < 0.5:
            rates[name] = 1.0
    tier = rng.choice(("starter", "intermediate", "pro"))
    lags = {x: round(rng.uniform(0.0, LAG_MAX_SEC), 3) for x in LAGGING if rng.random() < 0.7}
    poll_sec = 20.0 if tier == "starter" else rng.choice((20.0, 30.0, 60.0))
    return Weather(
        rates=rates,
        hours=DAY_HOURS if is_day else HOURS,
        tier=tier,
        poll_sec=120.0 if is_day else poll_sec,
        price_sec=60.0 if is_day else rng.choice((20.0, 30.0, 60.0)),
        down_sec=rng.choice((6.0, 6.0, 60.0)),
        page_rows=50 if tier == "starter" else rng.choice((10, 25, 50)),
        lags=lags if "lag" in rates else {},
        is_lag_random=rng.random() < 0.7,
        has_ledger=rng.random() < 0.7,
        step_pct=rng.choice((0.15, 0.25, 0.4)),
        candle_sec=60.0 if is_day else 10.0,
        env=_settings(rng),
    )


def _settings(rng: random.Random) -> dict[str, str]:
    """Draw settings of the daemon, of those that change what it does with orders."""
    env = {
        "SLOT_COUNT": str(rng.randint(1, 4)),
        "PAIR_ENTRY_PCT": rng.choice(("0.3", "0.5")),
        "PAIR_PROFIT_PCT": rng.choice(("1.0", "1.2", "2.0")),
        "ORDER_SIZE_USD": rng.choice(("12", "20", "40")),
        "PAUSE_POLICY": rng.choice(("withdraw", "stay")),
        "KELLY_ENABLED": rng.choice(("true", "false")),
        "HMM_ENABLED": rng.choice(("true", "false")),
    }
    if env["HMM_ENABLED"] == "true":
        env["REGIME_DIRECTIONAL_ENABLED"] = rng.choice(("true", "false"))
        env["AI_REGIME_ADVISOR_ENABLED"] = rng.choice(("true", "false"))
    if env["KELLY_ENABLED"] == "true":
        env["KELLY_MODE"] = rng.choice(("tilt", "bankroll"))
    return env
