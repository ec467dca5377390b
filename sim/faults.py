"""The fault storm: `python -m sim.faults --seeds 200`.

Each seed is a simulated hour (every tenth a day) of the whole daemon under faults drawn from the
seed, then a calm until everything has come to rest, then the verdict of the exchange's own truth. A
failure prints the seed and the command that repeats it. Results add up in a file. What a seed lives
through is in `storm_world.py`, what must hold in `storm_oracle.py`; docs/STORM.md explains.
"""

if __name__ == "__main__":
    from sim.interrupt import end_at_once

    end_at_once("faults")

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import msgspec

from engine.clock import monotonic
from engine.progress import ProgressLine
from engine.version import storm_version
from sim import interrupt
from sim.arguments import whole
from sim.storm_points import Lived, around, case_of, cases, live_through
from sim.storm_run import Result, run_seed, summed, weather_of
from sim.storm_shrink import corpus, shrink
from sim.storm_weather import KINDS, Weather

OK, VIOLATED, USAGE = 0, 1, 2
SEED_MAX = 10**9
DAY_SEC = 86_400.0


def arguments(argv: list[str]) -> argparse.Namespace:
    """Return the command line; exits with 2 for one that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.faults",
        description="Run the whole daemon through simulated hours of every fault there is a name "
        "for, and hold it to the exchange's own truth. No network, no keys, no files but --out.",
    )
    add = parser.add_argument
    add("--seeds", type=whole(1, 1_000_000), default=200, help="how many (default 200)")
    add("--first", type=whole(0, SEED_MAX), default=0, help="the first seed (default 0)")
    add("--seed", type=whole(0, SEED_MAX), help="this one alone, with all that it met")
    add("--weather", type=Path, metavar="FILE", help="for --seed: as --shrink has written it")
    add("--shrink", type=Path, metavar="FILE", help="for --seed: find the least in which it still "
        "fails, and write that weather here")  # fmt: skip
    add("--mutants", type=whole(1, 10_000), metavar="N", help="run every deliberate bug through up "
        "to N seeds: each must be caught")  # fmt: skip
    add(
        "--points",
        type=whole(1, 10_000),
        metavar="N",
        help="give every call of one scene every "
        "outcome and let the process die at every point after it; N: every Nth of these, 1: all",
    )
    add("--case", metavar="CASE", help="one of these alone, as it is told where it is violated")
    add("--no-days", action="store_true", help="an hour each; else every tenth seed lasts a day")
    add(
        "--jobs", type=whole(1, 256), default=os.cpu_count() or 1, help="processes (default: cores)"
    )
    add("--out", type=Path, metavar="FILE", help="keep results here, a line for each seed: seeds "
        "that are there already are not run again, and all are reported together")  # fmt: skip
    args = parser.parse_args(argv)
    if args.out is not None and not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: must be a file in a folder that is there")
    if args.seed is None and (args.weather or args.shrink):
        parser.error("--weather and --shrink belong to --seed")
    return args


def known(path: Path | None) -> list[Result]:
    """Return the results that a file holds, of this code only. Raises ValueError."""
    if path is None or not path.exists():
        return []
    found = [msgspec.json.decode(x, type=Result) for x in path.read_bytes().splitlines() if x]
    return [x for x in found if x.code == storm_version()]


def _one(seed: int, weather: Weather) -> Result:
    return run_seed(seed, weather)


def run(seeds: Sequence[tuple[int, Weather]], *, jobs: int) -> Iterator[Result]:
    """Yield what became of each seed in its weather, as it is known."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_one, seed, weather) for seed, weather in seeds]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except KeyboardInterrupt:
            for one in waiting:
                one.cancel()
            raise


def failures(results: Iterable[Result]) -> list[str]:
    """Return what was wrong, each with the command that repeats it."""
    lines = []
    for x in sorted(results, key=lambda x: x.seed):
        if x.wrongs:
            short = "" if x.hours > 1 else " --no-days"
            lines.append(f"seed {x.seed}: {len(x.wrongs)} violations; repeat: "
                         f"python -m sim.faults --seed {x.seed}{short}")  # fmt: skip
            lines += [f"  {text}" for text in x.wrongs[:5]]
    return lines


def report(results: Sequence[Result], wall_sec: float) -> str:
    """Return the totals as text."""
    sim, cpu = sum(x.sim_sec for x in results), sum(x.cpu_sec for x in results)
    faults, lives = summed(x.faults for x in results), summed(x.lives for x in results)
    bad = sum(bool(x.wrongs) for x in results)
    ends = ", ".join(f"{count:,} {name}" for name, count in sorted(lives.items()))
    lines = [
        f"{len(results):,} seeds, {sim / DAY_SEC:,.1f} simulated days; "
        f"{sum(x.hours > 1 for x in results):,} of them lasted a day",
        f"{sum(x.calls for x in results):,} calls, {sum(x.orders for x in results):,} orders, "
        f"{sum(x.executions for x in results):,} executions, "
        f"{sum(x.cycles for x in results):,} cycles, {sum(x.steps for x in results):,} steps",
        f"lives of the process: {ends}",
        f"{sim / max(cpu, 1e-9):,.0f} simulated seconds a CPU second on one core; "
        f"{len(results) / max(wall_sec, 1e-9):.2f} seeds a second, {wall_sec:,.0f} s in all",
        "faults: " + ", ".join(f"{name} {faults.get(name, 0):,}" for name in KINDS),
        "rare states: " + ", ".join(
            f"{name} {count:,}"
            for name, count in sorted(summed(x.sometimes for x in results).items())
        ),
        *failures(results),
        f"violations: {bad} of {len(results):,} seeds" if bad else "violations: 0",
    ]  # fmt: skip
    return "\n".join(lines)


def _alone(args: argparse.Namespace) -> int:
    weather = weather_of(args.seed, days=not args.no_days)
    try:
        if args.weather is not None:
            weather = msgspec.json.decode(args.weather.read_bytes(), type=Weather)
        if args.shrink is not None:
            weather = shrink(args.seed, weather, tell=lambda text: print(text, flush=True))
            args.shrink.write_bytes(msgspec.json.format(msgspec.json.encode(weather), indent=1))
            print(f"repeat: python -m sim.faults --seed {args.seed} --weather {args.shrink}")
    except (OSError, ValueError) as error:
        print(f"faults: {error}", file=sys.stderr)
        return USAGE
    result = run_seed(args.seed, weather)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in weather.rates.items())
    print(f"weather: {rates}\nsettings: {weather.env}\ntrace {result.trace}")
    print(report([result], result.cpu_sec))
    for text in result.wrongs:
        print(f"WRONG {text}")
    return VIOLATED if result.wrongs else OK


def _many(args: argparse.Namespace, results: Sequence[Result]) -> int:
    """Run the corpus, and the seeds that have no result yet; print what came out."""
    days, hours = not args.no_days, {x.seed: x.hours for x in results}
    drawn = [(x, weather_of(x, days=days)) for x in range(args.first, args.first + args.seeds)]
    seeds = [(x, weather) for x, weather in drawn if hours.get(x) != weather.hours]
    past = [(x.seed, x.weather) for x in corpus()]
    began, made, is_cut = monotonic(), list[Result](), False
    line = ProgressLine(sys.stderr, start=0.0, end=len(past) + len(seeds) or 1, enabled=True)
    again = list[Result]()
    try:
        for result in run(past, jobs=args.jobs):
            again.append(result)
            line.show(len(again), f"{len(again)} of {len(past)} seeds of the corpus")
        for result in run(seeds, jobs=args.jobs):
            made.append(result)
            if args.out is not None:
                with args.out.open("ab") as handle:
                    handle.write(msgspec.json.encode(result) + b"\n")
            bad = sum(bool(x.wrongs) for x in made)
            text = f"{len(made)} of {len(seeds)} seeds, {bad} violated"
            line.show(len(past) + len(made), text)
    except KeyboardInterrupt:
        is_cut = True
    line.end()
    print(report([*results, *made], monotonic() - began))
    lost = [x for x in again if x.wrongs]
    print(f"corpus of past failures: {len(again)} of {len(past)} run, {len(lost)} violated")
    for x in lost:
        print(f"  seed {x.seed} of sim/storm_corpus.json: {x.wrongs[0]}")
    if is_cut:
        return interrupt.INTERRUPTED
    return VIOLATED if lost or any(x.wrongs for x in (*results, *made)) else OK


def _mutants(most: int, jobs: int) -> int:
    """Let the storm catch every deliberate bug, and print in how many seeds."""
    from sim.storm_mutants import catch, mutants  # noqa: PLC0415 - not needed otherwise

    names = [x.name for x in mutants()]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(catch, name, most) for name in names]
        found = []
        for done in as_completed(waiting):
            found.append(one := done.result())
            seen = "NOT CAUGHT" if one.seen is None else f"caught: {one.seen}"
            print(f"{one.name}: {one.seeds} seeds, {seen[:150]}", flush=True)
    lost = [x.name for x in found if x.seen is None]
    print(f"{len(found) - len(lost)} of {len(found)} deliberate bugs are caught")
    return VIOLATED if lost else OK


def _points(every: int, jobs: int) -> int:
    """Run every Nth outcome of a call of the scene, with every death after it, and report."""
    wanted = cases()[::every]
    line = ProgressLine(sys.stderr, start=0.0, end=len(wanted), enabled=True)
    lived: list[Lived] = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(around, case) for case in wanted]
        for count, done in enumerate(as_completed(waiting), 1):
            lived += done.result()
            line.show(count, f"{count} of {len(wanted)} outcomes, {len(lived)} lives")
    line.end()
    bad = [x for x in lived if x.wrongs]
    hows = summed({x.case.how: 1} for x in lived if x.case.point is not None)
    print(
        f"{len({x.case.call for x in lived}):,} calls, {len(wanted):,} outcomes, {len(lived):,} "
        f"lives; deaths: {', '.join(f'{n:,} {how}' for how, n in sorted(hows.items()))}"
    )
    for x in bad:
        print(f"case {x.case}: {x.wrongs[0]}; repeat: python -m sim.faults --case {x.case}")
    print(f"violations: {len(bad)} of {len(lived):,} lives" if bad else "violations: 0")
    return VIOLATED if bad else OK


def _case(text: str) -> int:
    """Run one case alone."""
    try:
        lived = live_through(case_of(text))
    except ValueError as error:
        print(f"faults: --case: {error}", file=sys.stderr)
        return USAGE
    print(f"calls: {', '.join(lived.calls)}\npoints: {', '.join(lived.points)}")
    for wrong in lived.wrongs:
        print(f"WRONG {wrong}")
    return VIOLATED if lived.wrongs else OK


def main(argv: list[str]) -> int:
    """Run what is asked for; return the exit code."""
    args = arguments(argv)
    if args.case is not None:
        return _case(args.case)
    if args.points is not None:
        return _points(args.points, args.jobs)
    if args.seed is not None:
        return _alone(args)
    if args.mutants is not None:
        return _mutants(args.mutants, args.jobs)
    try:
        results = known(args.out)
    except (ValueError, OSError) as error:
        print(f"faults: --out {args.out} cannot be read: {error}", file=sys.stderr)
        return USAGE
    return _many(args, results)


if __name__ == "__main__":
    interrupt.run("faults", main)
