"""How often the tiers follow nothing, and how often they follow what is there.

Random walks without drift must hardly ever move a tier; walks with planted drifts should. Both go
through the daemon's own chain (`sim/regimes.py`); tiers with and without the evidence gate come
from one pass. Seeds are spread over worker processes; a seed's result depends on it alone.
"""

import argparse
import logging
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, median, stdev
from typing import IO

import msgspec

from core.ports import ConfigError
from core.record import Record
from core.regime import BEARISH, BULLISH, RANGING
from core.tiers import Tiers
from engine.clock import monotonic
from engine.progress import ProgressLine
from engine.trainer import ENVIRONMENT, ROOT
from sim.arguments import assignment, number, whole
from sim.regimes import settings_of, study
from sim.walks import (
    DAILY_VOLATILITY,
    DAY_SEC,
    DRIFT_DAYS,
    DRIFT_SHARPE,
    MINUTE,
    START,
    TAIL_DEGREES,
    WalkSource,
    random_walk,
)

DRIFTLESS, PLANTED = "driftless", "planted"
NULL_MAX, POWER_LEAST = 0.05, 0.50  # the requirement, and the aim
WARM_UP_DAYS = 21.0
SEED_MAX = 2**32 - 1
# Freed arrays stay with the process: giving them back and asking anew costs a quarter of the time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}


class Held(Record, frozen=True, kw_only=True):
    """What tiers were held, as shares: of all evaluations, or of those that the drift is named in.

    Of a driftless walk only `tier1` and `tier2` say anything.
    """

    tier1: float  # tier 1 or 2
    tier2: float
    right: float = 0.0  # tier 1 or 2 in the planted direction, of planted time
    wrong: float = 0.0  # against it
    idle: float = 0.0  # in any direction, of time without a drift


class Outcome(Record, frozen=True, kw_only=True):
    """One walk."""

    kind: str
    seed: int
    evaluations: int
    planted: float  # share of evaluations with a drift
    gated: Held
    ungated: Held
    t_bearish: float | None  # at the end
    t_bullish: float | None
    trainings: int
    converged: int
    failures: int
    seconds: float


class Job(Record, frozen=True, kw_only=True):
    """One walk to be made."""

    kind: str
    seed: int
    days: float
    warm_up: float
    changes: dict[str, str]


def outcome(job: Job) -> Outcome:
    """Run the models over one walk; return what was held once the warm-up was over.

    The daemon starts with the walk, without history, and runs through the warm-up too. Raises
    ConfigError.
    """
    began = monotonic()
    length = job.warm_up + job.days
    walk = random_walk(job.seed, length, is_planted=job.kind == PLANTED)
    with tempfile.TemporaryDirectory() as folder:
        seen = study(
            settings_of(job.changes, Path(folder)),
            WalkSource(walk),
            start=START,
            until=START + length * DAY_SEC,
        )
    counted = [x for x in seen.evaluations if x.time >= START + job.warm_up * DAY_SEC]
    planted = walk.planted.tolist()
    drifts = [planted[int((x.time - START) // MINUTE)] for x in counted]
    last = {x.label: x.t for x in counted[-1].evidence}
    return Outcome(
        kind=job.kind,
        seed=job.seed,
        evaluations=len(counted),
        planted=sum(x != RANGING for x in drifts) / len(drifts),
        gated=_held([x.tiers for x in counted], drifts),
        ungated=_held([x.ungated for x in counted], drifts),
        t_bearish=last.get(BEARISH),
        t_bullish=last.get(BULLISH),
        trainings=len(seen.trainings),
        converged=sum(x.ref.is_converged for x in seen.trainings),
        failures=len(seen.failures),
        seconds=monotonic() - began,
    )


def _held(tiers: list[Tiers], drifts: list[int]) -> Held:
    acting = [x.direction if x.tier >= 1 else None for x in tiers]
    pairs = list(zip(acting, drifts, strict=True))
    drifting = [(a, d) for a, d in pairs if d != RANGING]
    still = [a for a, d in pairs if d == RANGING]
    return Held(
        tier1=_share(a is not None for a in acting),
        tier2=_share(x.tier == 2 for x in tiers),
        right=_share(a == d for a, d in drifting),
        wrong=_share(a is not None and a != d for a, d in drifting),
        idle=_share(a is not None for a in still),
    )


def _share(claims: Iterable[bool]) -> float:
    found = list(claims)
    return sum(found) / len(found) if found else 0.0


# ---- worker processes ---------------------------------------------------------------------------


class WorkerLost(Exception):
    """A worker process ended with a walk in hand; the message says how."""


def serve(jobs: IO[str], answers: IO[str]) -> None:
    """Make walk after walk, one line of JSON each, until there are no more."""
    for line in jobs:
        found = outcome(msgspec.json.decode(line, type=Job))
        answers.write(msgspec.json.encode(found).decode() + "\n")
        answers.flush()


def outcomes(jobs: Iterable[Job], processes: int) -> Iterator[Outcome]:
    """Yield the outcomes of all jobs as they come, from so many processes. Raises WorkerLost."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | WorkerLost] = queue.SimpleQueue()
    count = 0
    for job in jobs:
        waiting.put(job)
        count += 1
    workers = [
        subprocess.Popen(
            (sys.executable, "-m", "tools.regime_null", "--worker"),
            cwd=ROOT, env=ENVIRONMENT | MEMORY, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,
        )
        for _ in range(min(processes, count))
    ]  # fmt: skip
    threads = [threading.Thread(target=_drive, args=(x, waiting, done)) for x in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in range(count):
            found = done.get()
            if isinstance(found, WorkerLost):
                raise found
            yield found
    finally:
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()


def _drive(
    worker: "subprocess.Popen[str]",
    waiting: "queue.SimpleQueue[Job]",
    done: "queue.SimpleQueue[Outcome | WorkerLost]",
) -> None:
    """Give one worker job after job; tell of each outcome, or that it was lost."""
    with worker:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            line = ""
            try:
                if worker.stdin is not None and worker.stdout is not None:
                    worker.stdin.write(msgspec.json.encode(job).decode() + "\n")
                    worker.stdin.flush()
                    line = worker.stdout.readline()
            except OSError:
                line = ""
            if not line:
                code = worker.wait()
                text = f"the worker of seed {job.seed} ({job.kind}) ended with exit code {code}"
                done.put(WorkerLost(text))
                return
            done.put(msgspec.json.decode(line, type=Outcome))


# ---- what is said -------------------------------------------------------------------------------


def report(found: list[Outcome], args: argparse.Namespace) -> str:
    """Return the tables in words, shares in percent."""
    lines = [
        f"{args.seeds} seeds from {args.first_seed}, {args.days:g} days after {args.warm_up:g} "
        "days of warm-up, which the models run through too",
        f"one-minute log returns: {DAILY_VOLATILITY:.0%} a day in the long run, volatility of two "
        f"AR(1), Student's t with {TAIL_DEGREES} degrees; both timeframes, consensus",
        *(f"{name}={value}" for name, value in args.set),
    ]
    driftless = [x for x in found if x.kind == DRIFTLESS]
    if driftless:
        lines += ["", "Walks without drift: share of evaluations, %", *_driftless(driftless)]
    planted = [x for x in found if x.kind == PLANTED]
    if planted:
        share = 100 * fmean(x.planted for x in planted)
        lines += [
            "",
            f"Walks with drifts of {DRIFT_SHARPE:g} daily deviations a day, {DRIFT_DAYS:g} days "
            f"long in the mean ({share:.0f} % of the time): share of that time, %",
            *_planted(planted),
        ]
    trained = sum(x.trainings for x in found)
    converged = 100 * sum(x.converged for x in found) / max(1, trained)
    seconds = fmean(x.seconds for x in found)
    lines += [
        "",
        f"{trained:,} trainings, {converged:.1f} % converged, {sum(x.failures for x in found)} "
        f"without a model; {seconds:.0f} s a walk",
    ]
    return "\n".join(lines)


HEAD = f"{'':34}{'mean':>8}{'± s.e.':>8}{'median':>8}{'worst':>8}  seed"


def _driftless(found: list[Outcome]) -> list[str]:
    with_gate = {x.seed: x.gated.tier1 for x in found}
    mean = fmean(with_gate.values())
    verdict = "met" if mean <= NULL_MAX else "NOT met"
    return [
        HEAD,
        _row("tier 1 or 2, without the gate", {x.seed: x.ungated.tier1 for x in found}),
        _row("tier 2, without the gate", {x.seed: x.ungated.tier2 for x in found}),
        _row("tier 1 or 2, with the gate", with_gate),
        _row("tier 2, with the gate", {x.seed: x.gated.tier2 for x in found}),
        f"required with the gate: at most {NULL_MAX:.0%} in the mean: {verdict} "
        f"({100 * mean:.2f} %); {sum(x > NULL_MAX for x in with_gate.values())} of {len(found)} "
        f"seeds are above {NULL_MAX:.0%}, {sum(x > 0 for x in with_gate.values())} above 0",
    ]


def _planted(found: list[Outcome]) -> list[str]:
    right = {x.seed: x.gated.right for x in found}
    mean = fmean(right.values())
    verdict = "reached" if mean >= POWER_LEAST else "NOT reached"
    rows = [HEAD]
    for name in ("ungated", "gated"):
        word = "with the gate" if name == "gated" else "without the gate"
        held: dict[int, Held] = {x.seed: getattr(x, name) for x in found}
        rows += [
            _row(
                f"right direction, {word}",
                {n: x.right for n, x in held.items()},
                worst_is_least=True,
            ),
            _row(f"wrong direction, {word}", {n: x.wrong for n, x in held.items()}),
            _row(f"any, no drift, {word}", {n: x.idle for n, x in held.items()}),
        ]
    return [
        *rows,
        f"aim in the right direction with the gate: at least {POWER_LEAST:.0%} in the mean: "
        f"{verdict} ({100 * mean:.1f} %)",
    ]


def _row(name: str, shares: dict[int, float], worst_is_least: bool = False) -> str:
    values = list(shares.values())
    error = 100 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    worst = min if worst_is_least else max
    seed = worst(sorted(shares), key=lambda n: shares[n])
    doubt = "–" if error is None else f"{error:.2f}"
    mean, middle, last = (f"{100 * x:8.2f}" for x in (fmean(values), median(values), shares[seed]))
    return f"{name:<34}{mean}{doubt:>8}{middle}{last}  {seed}"


# ---- the program --------------------------------------------------------------------------------


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.regime_null",
        description="How often regime tiers act on random walks, without and with drift; with "
        "the defaults of all settings and the changes of --set; .env is not read.",
    )
    add = parser.add_argument
    add("--seeds", type=whole(1, 100_000), default=20, help="how many (default 20)")
    add("--first-seed", type=whole(0, SEED_MAX - 100_000), default=1, help="(default 1)")
    add("--days", type=number(0.25, 1000), default=60.0, help="days counted (default 60)")
    add("--warm-up", type=number(0, 1000), default=WARM_UP_DAYS, help="days before (default 21)")
    add("--jobs", type=whole(1, 64), default=2, help="processes (default 2)")
    add("--kind", choices=(DRIFTLESS, PLANTED, "both"), default="both", help="(default both)")
    meaning = "a setting of the regimes, such as REGIME_EVIDENCE_T=2.6; may be repeated"
    add("--set", type=assignment, action="append", default=[], metavar="NAME=VALUE", help=meaning)
    add("--json", type=Path, metavar="FILE", help="write every seed's outcome there too")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            settings_of(dict(args.set), Path(folder))
    except ConfigError as error:
        parser.error(str(error))
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no such folder")
    if args.json is not None and args.json.is_dir():
        parser.error(f"--json {args.json}: this is a folder; name a file")
    return args


def main(argv: list[str]) -> int:
    """Run the walks and print what came out; return the exit code."""
    logging.basicConfig(level=logging.ERROR)  # warnings are about trading; failures are counted
    args = arguments(argv)
    if args.worker:
        serve(sys.stdin, sys.stdout)
        return 0
    kinds = (DRIFTLESS, PLANTED) if args.kind == "both" else (args.kind,)
    jobs = [
        Job(kind=kind, seed=seed, days=args.days, warm_up=args.warm_up, changes=dict(args.set))
        for seed in range(args.first_seed, args.first_seed + args.seeds)
        for kind in kinds
    ]
    progress = ProgressLine(sys.stderr, start=0, end=len(jobs), enabled=True)
    found: list[Outcome] = []
    code = 0
    try:
        for one in outcomes(jobs, args.jobs):
            found.append(one)
            progress.show(len(found), f"{len(found)} of {len(jobs)} walks")
    except WorkerLost as error:
        print(f"\nno result: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        code = 130
    progress.end()
    if code:
        print(f"interrupted: {len(found)} of {len(jobs)} walks were done", file=sys.stderr)
    if found:
        print(report(_by_seed(found), args), flush=True)
    if found and args.json is not None:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(_by_seed(found))))
    return code


def _by_seed(found: list[Outcome]) -> list[Outcome]:
    return sorted(found, key=lambda x: (x.kind, x.seed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
