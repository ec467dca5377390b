"""The order protocol in a storm, on a virtual clock: the full one holds, broken ones are caught.

Lost, late, slow, repeated, stalled and falsely refused requests, stale reads, a clock that drifts,
a machine that sleeps, an exchange that closes, a person on the same account, and crashes between
any two steps; then everything heals and the venue's own truth is asked. Real processes:
`test_attack.py`.
"""

import logging
import sys
from collections.abc import Iterator

import pytest

from core.record import replace
from tests.kraken_mutants import worlds
from tests.kraken_world import World
from tests.storm_line import CALM, STORM, Faults
from tests.storm_weather import draw

CHAOS_SEC = 1800.0
ECHOES = replace(CALM, echoed=0.5)
# What catches a variant best; most fall to the storm.
CRASHES = replace(STORM, crash=0.04)
WEATHER = {
    "nonce window": ECHOES,
    "no deadline and a nonce window": ECHOES,
    "pending was not sent": CRASHES,
}
SEEDS_MAX = 24
EVERYTHING = {
    *(x for x in Faults.__struct_fields__ if x != "crash"),
    *("starter", "intermediate", "pro", "drifts", "sleeps", "closes", "operates", "trades"),
}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Keep the log of many simulated hours out of the output."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def storm(world: World, faults: Faults = STORM) -> list[str]:
    """Run a world through half an hour of chaos, let it heal, and return what is wrong."""
    world.line.faults = faults
    world.run(CHAOS_SEC)
    world.settle()
    return world.wrong()


def check_full_protocol(seeds: range) -> set[str]:
    """Nothing may be wrong in any seed, and the storm must have been one; return what was on."""
    crashes = orders = cycles = 0
    seen: dict[str, int] = {}
    for seed in seeds:
        world = World(seed, weather=draw(seed))
        assert storm(world, world.weather.faults) == [], f"seed {seed}"
        crashes += world.crashes
        orders += len(world.venue.truth().orders)
        cycles += world.runtime.state.counters.get("cycles", 0)
        drift = {"drifts": 1} if world.weather.drifts else {}
        for some in (world.line.seen, world.events.seen, {world.weather.tier: 1}, drift):
            for name, count in some.items():
                seen[name] = seen.get(name, 0) + count
    sys.stdout.write(
        f"{len(seeds)} seeds, {crashes} crashes, {orders} orders, {cycles} cycles, {seen}\n"
    )
    assert min(crashes, orders, cycles) > len(seeds)
    return set(seen)


@pytest.mark.slow
def test_full_protocol_holds_in_the_storm() -> None:
    """Some half hours, each with a weather of its own."""
    check_full_protocol(range(2))


@pytest.mark.slow
def test_full_protocol_holds_where_every_other_request_is_repeated() -> None:
    """With a nonce window of 0 the copies are refused, whenever they arrive."""
    world = World(3, lag=4.0, step_pct=0.4)
    assert storm(world, ECHOES) == []
    assert world.line.seen["echoed"] > 100


@pytest.mark.long
def test_full_protocol_holds_in_many_storms() -> None:
    """Sixteen half hours more; everything there is has happened in one of them."""
    seen = check_full_protocol(range(100, 116))
    assert seen == EVERYTHING


@pytest.mark.long
def test_full_protocol_holds_in_a_thousand_storms() -> None:
    """A thousand half hours."""
    check_full_protocol(range(1000, 2000))


@pytest.mark.slow
@pytest.mark.parametrize("faults", [STORM, ECHOES, CRASHES])
def test_nothing_is_caught_where_the_protocol_is_whole(faults: Faults) -> None:
    """In the weather in which broken variants are caught; else that would prove nothing."""
    for seed in range(1):
        assert storm(World(seed, lag=4.0), faults) == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("name", worlds())
def test_a_broken_variant_is_caught(name: str) -> None:
    """Within a few seeds the venue's truth shows what the variant has done."""
    faults = WEATHER.get(name, STORM)
    for seed in range(SEEDS_MAX):
        wrong = storm(worlds()[name](seed), faults)
        if wrong:
            sys.stdout.write(f"caught at seed {seed}: {wrong[0]}\n")
            return
    pytest.fail(f"{SEEDS_MAX} storms have not caught: {name}")
