"""Daemon and sandbox under attack: killed, misled and cut off, round after round, while it trades.

Real processes, real sockets, real files. Whatever the rounds did: no order twice, no execution lost
or doubled, balances equal to the last digit, as the exchange's own file tells it.
"""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from exchange.sandbox_file import read_truth
from tests.attack import (
    Daemon,
    Sandbox,
    come_to_rest,
    in_doubt,
    wait_until,
    write_lively_market,
    wrong,
)

PLACING = ("AddOrder",)
READING = ("OpenOrders", "ClosedOrders", "QueryOrders", "TradesHistory")
KINDS = (
    "lost_request", "lost_response", "replayed", "error_before", "error_after", "html",
    "truncated", "null_result", "unavailable_before", "unavailable_after", "nonce",
    "rate_limit", "delayed",  # after these the daemon is silent, or hangs, for many seconds
)  # fmt: skip
PLACED = " placing"  # of a round that waits for an order to be placed
SPEED = 240
LAG_SEC = 4.0
DELAYS_SEC = (0.5, 3.0, 9.5, 14.0)
CHOOSY_SEC = 6.0  # so long a fault waits for a request of the wanted methods, then it takes any
BEFALL_SEC = 120.0  # within which it must have befallen one


class Attack:
    """The rounds against one daemon and one sandbox."""

    def __init__(self, folder: Path, seed: int) -> None:
        write_lively_market(folder / "market.csv", seed=seed)
        self.rng = random.Random(seed)
        self.sandbox = Sandbox(
            folder, "--market", f"replay:{folder / 'market.csv'}", "--speed", str(SPEED),
            "--lag", str(LAG_SEC), "--start-quote", "2000", "--start-base-usd", "2000",
        )  # fmt: skip
        self.daemon = Daemon(folder, self.sandbox)
        self.rounds: Counter[str] = Counter()

    def begin(self) -> None:
        """Start both and let orders be placed and filled."""
        self.sandbox.start()
        self.sandbox.ask(lags={"": LAG_SEC}, is_lag_random=True)
        self.daemon.start()
        assert self.daemon.wait_ready(), self.daemon.said()
        assert wait_until(lambda: len(read_truth(self.sandbox.file).orders) > 5, BEFALL_SEC), (
            self.daemon.said()
        )

    def round(self, kind: str) -> None:
        """Carry out one attack, and start again what it has killed; it counts once it is done."""
        match kind:
            case "kill daemon":
                self.daemon.kill()
            case "kill sandbox":
                self.sandbox.kill()
            case "kill daemon placing":  # the order is there, its answer on the way
                self._befall("slow", PLACING, is_choosy=True, seconds=0.6)
                time.sleep(self.rng.random() * 0.1)
                self.daemon.kill()
            case "kill sandbox placing":
                self._befall("delayed", PLACING, is_choosy=True, seconds=0.6)
                time.sleep(self.rng.random() * 0.1)
                self.sandbox.kill()
            case _:
                name = kind.removesuffix(PLACED)
                more = {"seconds": self.rng.choice(DELAYS_SEC)} if name == "delayed" else {}
                methods = PLACING if name != kind else READING
                self._befall(name, methods, is_choosy=name != kind, **more)
        self.rounds[kind] += 1
        time.sleep(self.rng.random() * 0.3)
        self._start_again(kind)
        self.daemon.operate()

    def _befall(
        self, kind: str, methods: tuple[str, ...], *, is_choosy: bool = False, **more: float
    ) -> None:
        """Let a fault befall one request: of `methods`; if none comes of any, unless choosy."""
        before = self.sandbox.drawn[kind]
        deadline = time.monotonic() + BEFALL_SEC

        def is_drawn() -> bool:
            self.sandbox.ask()
            return self.sandbox.drawn[kind] > before

        self.sandbox.fault(kind, *methods, **more)
        while not wait_until(is_drawn, CHOOSY_SEC, 0.02):
            assert time.monotonic() < deadline, f"{kind}: {in_doubt(self.daemon)}"
            self.daemon.operate()
            self.sandbox.ask(clear=True)
            if not is_drawn():
                self.sandbox.fault(kind, *(methods if is_choosy else ()), **more)

    def _start_again(self, kind: str) -> None:
        if not self.sandbox.is_running:
            self.sandbox.start()
        if kind.startswith("kill daemon"):
            assert not self.daemon.is_running
            self.daemon.start()
        assert self.daemon.is_running, self.daemon.said()[-3000:]

    def report(self) -> str:
        """Return the figures."""
        daemon, sandbox = self.daemon, self.sandbox
        truth, kind = read_truth(sandbox.file), "json_extract(event, '$.type')"
        told = dict(daemon.rows(f"SELECT {kind}, count(*) FROM journal GROUP BY 1"))
        absent = daemon.rows("SELECT count(*) FROM orders WHERE detail LIKE 'never_arrived%'")
        rounds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.rounds.items()))
        drawn = ", ".join(f"{n} {kind}" for kind, n in sorted(sandbox.drawn.items()))
        return (
            f"rounds: {rounds}; befell requests: {drawn}; killed: daemon {daemon.kills}, sandbox "
            f"{sandbox.kills}; orders {len(truth.orders)}, executions {len(truth.trades)}; in "
            f"doubt {told.get('order_uncertain', 0)}, found {told.get('order_found', 0)}, absent "
            f"{absent[0][0]}; resumes {daemon.resumes}\n"
        )


@contextmanager
def attacked(folder: Path, seed: int) -> Iterator[Attack]:
    """Yield an attack that has begun; nothing of it is left running."""
    attack = Attack(folder, seed)
    try:
        attack.begin()
        yield attack
    finally:
        attack.daemon.kill()
        attack.sandbox.kill()


def plan(rounds: int, rng: random.Random) -> list[str]:
    """Return the kinds of the rounds: five and five alike.

    A fault befalls the placing of an order, sandbox and daemon are killed one after the other, and
    two faults befall the daemon while it reads what the exchange holds.
    """
    made: list[str] = []
    while len(made) < rounds:
        first, second, third = rng.sample(KINDS, 3)
        sandbox, daemon = (rng.choice(("", PLACED)) for _ in range(2))
        made += [first + PLACED, "kill sandbox" + sandbox, "kill daemon" + daemon, second, third]
    return made[:rounds]


def fight(folder: Path, rounds: int, seed: int) -> tuple[str, list[str], int]:
    """Attack, come to rest; return the figures, everything that is wrong, how many trades."""
    folder.mkdir()
    began = time.monotonic()
    with attacked(folder, seed) as attack:
        daemon, sandbox = attack.daemon, attack.sandbox
        for kind in plan(rounds, attack.rng):
            attack.round(kind)
        fought = time.monotonic()
        come_to_rest(daemon, sandbox)
        rested = time.monotonic()
        assert daemon.stop() == 0
        verified = daemon.run("verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert sandbox.stop() == 0
        took = f"{fought - began:.0f} s of attack, {rested - fought:.0f} s to rest"
        trades = len(read_truth(sandbox.file).trades)
        return f"{took}; {attack.report()}", wrong(daemon, sandbox), trades


def run_attacks(folder: Path, worlds: int, rounds: int, seed: int) -> None:
    """Attack several worlds at a time, of which each mostly waits; nothing may be wrong in any."""
    with ThreadPoolExecutor(worlds) as pool:
        fights = [pool.submit(fight, folder / str(n), rounds, seed + n) for n in range(worlds)]
        made = [x.result() for x in fights]
    for figures, found, _ in made:
        sys.stdout.write(figures)
        assert found == []
    assert sum(trades for *_, trades in made) > 0, "nothing was filled in any world"


@pytest.mark.slow(seconds=60)
def test_twelve_rounds(tmp_path: Path) -> None:
    """Four worlds with three rounds each."""
    run_attacks(tmp_path, 4, 3, 10)


@pytest.mark.long
def test_two_hundred_rounds(tmp_path: Path) -> None:
    """Five worlds with forty rounds each."""
    run_attacks(tmp_path, 5, 40, 20)
