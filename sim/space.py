"""The space that a sweep searches: settings of the daemon, each with bounds or choices.

It is written as TOML, one table for each setting by its name in the environment:

    [PAIR_ENTRY_PCT]        # a number: low and high; step, or log = true for equal ratios
    low = 0.2
    high = 3.0
    log = true

    [PAUSE_POLICY]          # anything else, or single numbers
    choices = ["withdraw", "stay"]
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.ports import ConfigError
from core.record import Record, exact
from settings.names import meant_by, suggestion
from settings.table import BY_NAME, VARIABLES
from settings.variable import Variable, value_of

if TYPE_CHECKING:
    from optuna import Trial

SECTIONS = ("Grid", "Size", "Risk", "Regime models", "Regime tiers", "Kelly sizing")
NUMBERS = ("decimal", "integer", "float", "seconds")
WHOLE = ("integer", "seconds")
DIGITS = 6  # of a number that is tried
# How the market is simulated: given by --set, never searched for.
SIMULATED = ("SEED", "KRAKEN_TIER", "STALE_PRICE_MAX_AGE_SEC", "PRICE_JUMP_MAX_PCT",
             "MAX_SPREAD_PCT", "MODEL_LATENCY_SEC")  # fmt: skip
SEARCHED = tuple(
    v.name for v in VARIABLES
    if v.section in SECTIONS and v.kind in (*NUMBERS, "flag", "choice") and not v.is_simulation
)  # fmt: skip
SET = tuple(
    v.name for v in VARIABLES
    if v.section in (*SECTIONS, "Paper exchange") or v.name in SIMULATED
)  # fmt: skip
DEFAULT = """\
[PAIR_ENTRY_PCT]
low = 0.2
high = 3.0
log = true

[PAIR_PROFIT_PCT]
low = 1.0
high = 8.0
log = true

[PAIR_REFRESH_PCT]
low = 0.5
high = 6.0
log = true

[SLOT_COUNT]
low = 1
high = 8

[SLOT_STAGGER_PCT]
low = 0.0
high = 2.0

[ORDER_SIZE_USD]
low = 10
high = 100
log = true

[S1_ORPHAN_AFTER_SEC]
low = 1800
high = 172800
log = true

[S2_ORPHAN_AFTER_SEC]
low = 3600
high = 345600
log = true

[MAX_RECOVERY_SLOTS]
low = 0
high = 4
"""


class Span(Record, frozen=True, kw_only=True):
    """Numbers from `low` to `high`; `step` None: any (whole ones, where `is_whole`)."""

    low: float
    high: float
    step: float | None
    is_log: bool
    is_whole: bool


class Options(Record, frozen=True, kw_only=True):
    """Single values, as they stand in the environment."""

    choices: tuple[str, ...]


Space = dict[str, Span | Options]


def read_space(path: Path | None) -> Space:
    """Return the space of a file, or the one built in. Raises ConfigError with every problem."""
    try:
        text = DEFAULT if path is None else path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError([f"{path}: cannot be read as TOML: {error}"]) from None
    problems: list[str] = []
    space: Space = {}
    for name, table in tables.items():
        try:
            space[name] = _dimension(name, table)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not tables:
        problems.append(f"{path}: there is nothing to search; name a setting with its bounds")
    if problems:
        raise ConfigError(problems)
    return space


def check_set(names: Iterable[str], space: Mapping[str, object]) -> None:
    """Raise ConfigError for what cannot be given by --set, or is searched for."""
    problems = [f"{name}: {_unknown(name)}" for name in names if name not in BY_NAME]
    problems += [
        f"{name}: has no part in a backtest; settings of these sections have: "
        f"{', '.join((*SECTIONS, 'Paper exchange'))}; and {', '.join(SIMULATED)}"
        for name in names
        if name in BY_NAME and name not in SET
    ]
    problems += [f"{name}: stands in --set and in the space; keep one" for name in names
                 if name in space]  # fmt: skip
    if problems:
        raise ConfigError(problems)


def suggest(space: Space, trial: "Trial") -> dict[str, str]:
    """Return the settings that a trial tries, as texts, in the order of the space."""
    return {name: _suggested(name, x, trial) for name, x in space.items()}


def _suggested(name: str, dimension: Span | Options, trial: "Trial") -> str:
    match dimension:
        case Options():
            return trial.suggest_categorical(name, dimension.choices)
        case Span(is_whole=True):
            step = 1 if dimension.step is None else int(dimension.step)
            low, high = int(dimension.low), int(dimension.high)
            return str(trial.suggest_int(name, low, high, step=step, log=dimension.is_log))
        case Span():
            found = trial.suggest_float(
                name, dimension.low, dimension.high, step=dimension.step, log=dimension.is_log
            )
            return exact(Decimal(f"{found:.{DIGITS}g}"))


def _dimension(name: str, table: Any) -> Span | Options:
    """Return one part of the space. Raises ValueError with what is allowed."""
    if name not in BY_NAME:
        raise ValueError(_unknown(name))
    variable = BY_NAME[name]
    if name not in SEARCHED:
        raise ValueError(
            "is not what a backtest searches for; numbers, flags and choices of these sections "
            f"are: {', '.join(SECTIONS)}"
        )
    if not isinstance(table, dict):
        raise ValueError("must be a table with low and high, or choices")
    if "choices" in table:
        _check_keys(table, {"choices"})
        return Options(choices=tuple(_choices(variable, table["choices"])))
    if variable.kind not in NUMBERS:
        raise ValueError(f"needs choices = [...], each {variable.allowed()}")
    _check_keys(table, {"low", "high", "step", "log"})
    return _span(variable, table)


def _check_keys(table: Mapping[str, Any], allowed: set[str]) -> None:
    unknown = sorted(set(table) - allowed)
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: unknown here; allowed: {', '.join(sorted(allowed))}"
        )


def _choices(variable: Variable, found: Any) -> Iterator[str]:
    if not isinstance(found, list) or not found:
        raise ValueError("choices must be a list of values")
    made = [_checked(variable, x, "choice") for x in found]
    if len(set(made)) < len(made):
        raise ValueError("choices: one stands there twice")
    yield from made


def _span(variable: Variable, table: Mapping[str, Any]) -> Span:
    log = table.get("log", False)
    if not isinstance(log, bool):
        raise ValueError("log must be true or false")
    missing = [x for x in ("low", "high") if x not in table]
    if missing:
        raise ValueError(f"{' and '.join(missing)} is missing; {variable.allowed()}")
    low, high = (Decimal(_checked(variable, table[x], x)) for x in ("low", "high"))
    step = None if "step" not in table else _step(table["step"])
    is_whole = variable.kind in WHOLE
    if low >= high:
        raise ValueError(f"low {low} must be below high {high}")
    if log and (step is not None or low <= 0):
        raise ValueError("log = true needs low above 0, and has no step")
    if step is not None and (high - low) % step:
        raise ValueError(f"step {step}: high must be low and a whole number of steps")
    if is_whole and any(x % 1 for x in (low, high, step or Decimal(1))):
        raise ValueError("low, high and step must be whole numbers")
    return Span(
        low=float(low), high=float(high), step=None if step is None else float(step),
        is_log=log, is_whole=is_whole,
    )  # fmt: skip


def _step(found: Any) -> Decimal:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e12:
        raise ValueError("step must be a number above 0")
    return Decimal(str(found))


def _checked(variable: Variable, found: Any, what: str) -> str:
    """Return a value of the file as text, as it would stand in the environment."""
    if isinstance(found, bool):
        text = "true" if found else "false"
    elif isinstance(found, int | float):
        text = format(Decimal(str(found)), "f")
    else:
        text = str(found)
    try:
        value = value_of(variable, text, Path())
    except ValueError as error:
        raise ValueError(f"{what} {text[:80]!r}: {error}") from None
    if value is None or (what != "choice" and text == variable.word):
        raise ValueError(f"{what} {text[:80]!r}: must be {variable.allowed()}")
    return text


def _unknown(name: str) -> str:
    meant = meant_by(name, frozenset(BY_NAME))
    return "unknown setting" + (f"; did you mean {meant}?" if meant else suggestion(name, BY_NAME))
