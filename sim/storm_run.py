"""One seed of the storm, from its first event to the verdict, and sums over many.

Values in, values out: what a seed does depends on its number, its weather and the code alone.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from core.record import Record, replace
from engine.clock import cpu_seconds
from engine.version import storm_version
from sim.storm_clock import START
from sim.storm_weather import Weather, draw
from sim.storm_world import World

SHARED_MEMORY = Path("/dev/shm")  # files that need no disk: a crash is simulated anyway
MakeWorld = Callable[..., World]


class Result(Record, frozen=True, kw_only=True):
    """What became of one seed; `wrongs` empty means that all held."""

    seed: int
    hours: float
    code: str
    trace: str = ""  # SHA-256 of everything that happened, in order
    wrongs: tuple[str, ...] = ()
    sim_sec: float = 0.0
    cpu_sec: float = 0.0
    steps: int = 0
    calls: int = 0
    orders: int = 0
    executions: int = 0
    cycles: int = 0
    lives: dict[str, int] = msgspec.field(default_factory=dict)  # how they began and ended
    faults: dict[str, int] = msgspec.field(default_factory=dict)
    sometimes: dict[str, int] = msgspec.field(default_factory=dict)


def weather_of(seed: int, *, days: bool) -> Weather:
    """Return the weather of a seed; every tenth lasts a day, where days are wanted."""
    return draw(seed, is_day=days and seed % 10 == 9)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the log of many simulated hours out of the output."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def run_seed(seed: int, weather: Weather, make: MakeWorld = World) -> Result:
    """Live through a seed: chaos, then all heals, then the verdict."""
    began = cpu_seconds()
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with quiet(), tempfile.TemporaryDirectory(prefix="storm-", dir=folder) as name:
        world = make(seed, weather, folder=Path(name))
        wrongs = verdict(world, weather.hours * 3600.0)
    return replace(_result(world, weather), wrongs=tuple(wrongs), cpu_sec=cpu_seconds() - began)


def verdict(
    world: World, seconds: float, *, calm_sec: float = 300.0, still_sec: float = 400.0
) -> list[str]:
    """Let a world live for so long and come to rest; return what was or is wrong."""
    try:
        world.run(seconds)
        world.settle(calm_sec, still_sec)
        return world.oracle.judge()
    except Exception as error:  # noqa: BLE001 - whatever ends the daemon is a finding
        return [*world.oracle.wrongs, f"the daemon ends with {type(error).__name__}: {error}"]
    finally:
        world.close()


def _result(world: World, weather: Weather) -> Result:
    truth, counters = world.venue.truth(), {}
    if hasattr(world, "runtime"):
        counters = world.runtime.state.counters
    return Result(
        seed=world.seed,
        hours=weather.hours,
        code=storm_version(),
        trace=world.trace.hexdigest(),
        sim_sec=round(world.clock.there() - START, 3),
        steps=world.runtime.seq if hasattr(world, "runtime") else 0,
        calls=world.line.count,
        orders=len(truth.orders),
        executions=len(truth.trades),
        cycles=counters.get("cycles", 0),
        lives=world.counts,
        faults=summed([
            world.line.seen, world.events.seen, world.beside.seen, world.beside.models.seen,
            {x: world.counts[x] for x in ("crash", "torn_write", "power_cut") if x in world.counts},
            {"lag": 1} if weather.lags else {},
        ]),
        sometimes=world.oracle.sometimes,
    )  # fmt: skip


def summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sums of counts by name."""
    total: dict[str, int] = {}
    for some in counts:
        for name, count in some.items():
            total[name] = total.get(name, 0) + count
    return total
