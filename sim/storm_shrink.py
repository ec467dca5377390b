"""Make a failing seed small: a shorter time, fewer kinds of fault, a simpler daemon.

What is left still fails; whatever could be taken away did not matter. The corpus keeps such seeds
with their weather, so that they stay what they are when the drawing of weather changes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from core.record import Record, replace
from sim.storm_run import Result, run_seed
from sim.storm_weather import Weather

CORPUS = Path(__file__).parent / "storm_corpus.json"
HOURS_MIN = 0.02


class Case(Record, frozen=True, kw_only=True):
    """A seed that failed once, with its weather, and what it was that it found."""

    seed: int
    weather: Weather
    found: str


def corpus(path: Path = CORPUS) -> tuple[Case, ...]:
    """Return the seeds that have failed in the past, smallest form. Raises OSError, ValueError."""
    return msgspec.json.decode(path.read_bytes(), type=tuple[Case, ...])


def keep(case: Case, path: Path = CORPUS) -> None:
    """Add a case to the corpus."""
    cases = (*(x for x in corpus(path) if x != case), case)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(cases), indent=1) + b"\n")


def shrink(
    seed: int,
    weather: Weather,
    *,
    run: Callable[[int, Weather], Result] = run_seed,
    tell: Callable[[str], None] = lambda _: None,
) -> Weather:
    """Return a smaller weather in which the seed still fails. Raises ValueError if it does not."""

    def fails(tried: Weather) -> bool:
        return bool(run(seed, tried).wrongs)

    if not fails(weather):
        raise ValueError(f"seed {seed} does not fail in this weather")
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for what, tried in _smaller(weather):
            if fails(tried):
                tell(f"{what}: still fails")
                weather, is_smaller = tried, True
                break
            tell(f"{what}: does not fail")
    return weather


def _smaller(weather: Weather) -> Iterator[tuple[str, Weather]]:
    """Yield weathers that are a little less, the greatest steps first."""
    if weather.hours / 2 >= HOURS_MIN:
        yield "half the time", replace(weather, hours=weather.hours / 2)
    names = sorted(weather.rates)
    if len(names) > 3:
        for part in (names[::2], names[1::2]):
            left = {x: rate for x, rate in weather.rates.items() if x not in part}
            yield f"without {len(part)} kinds", replace(weather, rates=left)
    for name in names:
        left = {x: rate for x, rate in weather.rates.items() if x != name}
        yield f"without {name}", replace(weather, rates=left)
    if weather.lags:
        yield "without lags", replace(weather, lags={})
    for name, plain in (("SLOT_COUNT", "1"), ("HMM_ENABLED", "false"), ("KELLY_ENABLED", "false")):
        if weather.env.get(name, plain) != plain:
            env = {x: v for x, v in weather.env.items() if not _belongs(x, name)}
            yield f"{name}={plain}", replace(weather, env={**env, name: plain})


def _belongs(setting: str, to: str) -> bool:
    """Tell whether a setting is of no use without another."""
    return (to == "HMM_ENABLED" and setting.startswith(("REGIME_", "AI_"))) or (
        to == "KELLY_ENABLED" and setting.startswith("KELLY_")
    )
