"""Run a Kraken-compatible exchange on this machine: `python -m sim.sandbox`.

A program: it reads its arguments, opens the market, the venue and the server, and waits for the
signal to stop. Play money only; the demo key is public.
"""

import argparse
import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path

from core.domain import HUNDRED, FeeRates, Instrument
from core.market import Candle
from core.ports import MarketError, StoreError
from engine.clock import wall_now
from exchange.matching import MatchingConfig
from exchange.rates import ENGINE_LIMITS
from exchange.sandbox import Sandbox
from exchange.sandbox_account import STATUSES
from exchange.sandbox_feed import SPEED_MAX, SPEED_MIN
from exchange.sandbox_records import ALL_PERMISSIONS, HISTORY_SEC, TRADING_PERMISSIONS, ApiKey
from exchange.sandbox_venue import SandboxConfig, SandboxVenue
from market.replay import ReplaySource
from market.synthetic import SyntheticSource
from settings.table import DEMO_KEY, DEMO_SECRET
from sim.arguments import NAMES, number, whole

OPEN_ORDERS = {"starter": 60, "intermediate": 80, "pro": 225}
GRACE_MAX_SEC = 5.0
OFFSET_MAX_SEC = 3600.0
SEED_MAX = 2**31 - 1
USAGE, FAILED = 2, 4


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the arguments; a bad one ends the program with what is allowed."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.sandbox",
        description="A Kraken-compatible spot exchange with play money, on this machine only.",
    )
    add = parser.add_argument
    add(
        "--market",
        type=_market,
        default=("synthetic", "1"),
        metavar="KIND",
        help="synthetic, synthetic:SEED or replay:FILE (candles or trades; default synthetic)",
    )
    add("--symbol", help="which symbol of a replayed file with several")
    add(
        "--speed",
        type=number(SPEED_MIN, SPEED_MAX),
        default=60.0,
        help="how many times as lively the market is (default 60)",
    )
    add("--loop", action="store_true", help="begin the market anew at its end")
    add("--port", type=whole(0, 65_535), default=8090, help="0: any free one (default 8090)")
    add("--db", type=Path, metavar="FILE", help="keep the account here (default: in memory)")
    add("--tier", choices=sorted(ENGINE_LIMITS), default="starter", help="rate limits of")
    add("--start-quote", type=_money, default=Decimal(500), help="USD to begin with (500)")
    add("--start-base-usd", type=_money, default=Decimal(500), help="DOGE for so many USD (500)")
    add(
        "--lag",
        type=number(0, HISTORY_SEC),
        default=0.0,
        metavar="SEC",
        help="reads show the account as it was up to so long ago",
    )
    add(
        "--clock-offset",
        type=number(-OFFSET_MAX_SEC, OFFSET_MAX_SEC),
        default=0.0,
        metavar="SEC",
        help="its clock is so far ahead of this machine's (default 0)",
    )
    add("--faults", action="store_true", help="open POST /sandbox/faults for tests")
    add("--fees", type=_fees, metavar="MAKER,TAKER", help="flat, in percent (default: by volume)")
    add("--status", choices=STATUSES, default="online", help="the market's status")
    add("--key", default=DEMO_KEY, help="the API key (default: the demo key)")
    add("--secret-file", type=Path, metavar="FILE", help="its secret, base64")
    add(
        "--permissions",
        type=_permissions,
        default=TRADING_PERMISSIONS,
        metavar="A,B",
        help="of the key (default: what a trading bot needs)",
    )
    add("--nonce-window", type=whole(0, 2**31), default=0, help="of the key (default 0)")
    return parser.parse_args(argv)  # fmt: skip


def main(argv: list[str]) -> int:
    """Run until a signal; return the exit code."""
    args = parse(argv)

    def clock() -> float:
        return wall_now() + float(args.clock_offset)

    try:
        source = open_source(args)
        venue = open_venue(args, source, clock)
    except (MarketError, StoreError, ValueError) as error:
        print(f"the sandbox cannot start: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ValueError) else FAILED
    try:
        sandbox = Sandbox(venue, clock=clock, port=args.port, has_door=args.faults, log=_say)
    except OSError as error:
        venue.close()
        taken = error.errno == errno.EADDRINUSE
        why = error.strerror
        if taken:
            why = "another program uses it; choose one with --port (make: SANDBOX_PORT=)"
        print(f"the sandbox cannot start: port {args.port}: {why}", file=sys.stderr)
        return FAILED
    stop = sandbox.stopped
    asked = threading.Event()
    for caught in (signal.SIGTERM, signal.SIGINT):
        signal.signal(caught, lambda *_: asked.set())
    with sandbox:
        _say(greeting(args, source.name, sandbox.url))
        while not asked.is_set() and not stop.is_set():
            asked.wait(0.2)
    if sandbox.failure is not None:
        return FAILED
    _say("the sandbox has stopped")
    return 0


def open_source(args: argparse.Namespace) -> ReplaySource | SyntheticSource:
    """Return the market. Raises MarketError."""
    kind, what = args.market
    if kind == "replay":
        return ReplaySource(Path(what), symbol=args.symbol, names=NAMES)
    return SyntheticSource(int(what), instrument=Instrument())


def open_venue(
    args: argparse.Namespace,
    source: ReplaySource | SyntheticSource,
    clock: Callable[[], float] = wall_now,
) -> SandboxVenue:
    """Return the venue over a market. Raises MarketError, StoreError, ValueError."""
    instrument = Instrument()
    interval = source.price_interval / args.speed
    matching = MatchingConfig(
        seed=int(args.market[1]) if args.market[0] == "synthetic" else 1,
        tier=args.tier,
        open_order_limit=OPEN_ORDERS[args.tier],
        flat_fees=args.fees,
        bar_grace_sec=min(GRACE_MAX_SEC, interval / 12),
    )
    config = SandboxConfig(
        start_base=instrument.volume_down(args.start_base_usd / source.first_price()),
        start_quote=args.start_quote,
        speed=args.speed,
        is_looping=args.loop,
        lags={"": args.lag} if args.lag else {},
        is_lag_random=bool(args.lag),
        status=args.status,
    )
    history: Iterable[Candle] = source.history() if isinstance(source, SyntheticSource) else ()
    now = clock()
    key = ApiKey(
        name="sandbox",
        key=args.key,
        secret=_secret(args),
        permissions=args.permissions,
        nonce_window=args.nonce_window,
        created_at=int(now),
    )
    return SandboxVenue(
        source,
        instrument,
        matching,
        (key,),
        now=now,
        config=config,
        path=":memory:" if args.db is None else args.db,
        history=history,
    )


def greeting(args: argparse.Namespace, market: str, url: str) -> str:
    """Return in plain words what runs, and what to put into .env."""
    where = "in memory: gone when it stops (--db FILE keeps it)"
    if args.db is not None:
        where = f"in {args.db}"
    lines = [
        "This is a sandbox exchange: it speaks as Kraken's spot REST API does, with play money.",
        f"Market: {market}, {args.speed:g} times as fast as real. Status: {args.status}.",
        f"Account: {args.start_quote:f} USD and DOGE for {args.start_base_usd:f} USD at its first "
        f"start, kept {where}.",
        f"Address: {url} (this machine only). Stop it with Ctrl-C.",
    ]
    if args.faults:
        lines.append(f"Faults can be switched on: POST {url}/sandbox/faults")
    lines += ["", "Lines for .env, to run the daemon against it:", "MODE=live"]
    lines.append(f"KRAKEN_API_URL={url}")
    if args.key != DEMO_KEY or args.secret_file is not None:
        lines += [f"KRAKEN_API_KEY={args.key}", f"KRAKEN_API_SECRET_FILE={args.secret_file}"]
    if args.tier != "starter":
        lines.append(f"KRAKEN_TIER={args.tier}")
    return "\n".join(lines)


def _secret(args: argparse.Namespace) -> str:
    if args.secret_file is None:
        return DEMO_SECRET
    try:
        text: str = args.secret_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--secret-file {args.secret_file} cannot be read: {error}") from None
    return text


def _say(text: str) -> None:
    print(text, flush=True)


def _market(text: str) -> tuple[str, str]:
    kind, _, what = text.partition(":")
    if kind == "replay" and what:
        return kind, what
    seed = what or "1"
    if kind == "synthetic" and seed.isascii() and seed.isdigit() and int(seed) <= SEED_MAX:
        return kind, seed
    raise argparse.ArgumentTypeError(
        f"{text!r} must be synthetic, synthetic:SEED (0 to {SEED_MAX}) or replay:FILE"
    )


def _money(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= 10**9 or value != round(value, 2):
        raise argparse.ArgumentTypeError(f"{text!r} must be an amount from 0 to 1000000000")
    return value


def _fees(text: str) -> FeeRates:
    parts = text.split(",")
    try:
        rates = [Decimal(part) for part in parts]
    except InvalidOperation:
        rates = []
    if len(rates) != 2 or not all(rate.is_finite() and 0 <= rate <= 10 for rate in rates):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be maker and taker in percent, from 0 to 10, such as 0.40,0.80"
        )
    return FeeRates(maker=rates[0] / HUNDRED, taker=rates[1] / HUNDRED)


def _permissions(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(set(found) - set(ALL_PERMISSIONS))
    if unknown or not found:
        raise argparse.ArgumentTypeError(f"{text!r} must be some of {', '.join(ALL_PERMISSIONS)}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
