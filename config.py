"""Settings: the only reader of the environment.

Each variable has a name, a kind, bounds, a default and one line of meaning in `VARIABLES`; all
problems are reported at once. `python config.py --write` generates `.env.example` and
`docs/CONFIGURATION.md` from the same table. Only programs may import this module.
"""

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dotenv.parser import parse_stream

from core.domain import HUNDRED, FeeRates
from core.kelly import KellyConfig
from core.params import Params, PausePolicy, RegimeSource, RiskBasis
from core.ports import ConfigError
from core.record import Record, parse_regime
from grid_strategy import break_even_pct
from risk import slots_max
from settings.names import meant_by, suggestion
from settings.table import (
    BY_NAME,
    DEMO_KEY,
    DEMO_SECRET,
    LIVE_PHRASE,
    OPEN_ORDER_LIMITS,
    VARIABLES,
)
from settings.variable import LOOPBACK, Variable, path_is, value_of

__all__ = [
    "BY_NAME", "VARIABLES", "Setting", "Settings", "Variable", "generate_env_example",
    "generate_markdown", "load",
]  # fmt: skip

PAPER_POLL_MAX_SEC = 10.0  # prices twice as old are no prices any more
VENUE_HOST = "api.kraken.com"
FIRST_TIER = FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008"))
PREFIXES = (
    "AI_", "CAPITAL_", "CONSENSUS_", "DASHBOARD_", "ENTRY_BACKOFF_", "HMM_",
    "JOURNAL_RETENTION_", "KELLY_", "KRAKEN_", "LOSS_", "MODEL_LATENCY_", "NOTIFY_WEBHOOK_",
    "ORPHAN_", "PAIR_",
    "PAPER_", "REBALANCE_", "REENTRY_", "REGIME_",
    "REPLAY_", "S1_ORPHAN_", "S2_ORPHAN_", "SLOT_", "STALE_PRICE_", "SYNTHETIC_",
    "TELEGRAM_",
)  # fmt: skip
_BOT_TOKEN = re.compile(r"\d{3,20}:[\w-]{20,256}", re.ASCII)
_CHAT_ID = re.compile(r"-?[1-9]\d{0,17}", re.ASCII)
_HOST_NAME = re.compile(r"[\w.:-]{1,253}", re.ASCII)


class Setting(Record, frozen=True, kw_only=True):
    """One effective setting; secrets are masked."""

    name: str
    value: str
    source: str  # default, .env, environment, file


class HmmSettings(Record, frozen=True, kw_only=True):
    """How the regime models are trained and read; what decisions need of them is in Params.

    Candles are rows before the warm-up is dropped; the least numbers to train on are in Params.
    """

    training_candles: int
    secondary_training_candles: int
    starts: int
    label_z: float
    bias_gain: float
    deep_decay_enabled: bool
    deep_decay_halflife: int


class Settings(Record, frozen=True, kw_only=True):
    """The effective configuration."""

    params: Params
    hmm: HmmSettings
    mode: str
    pair: str
    bot_name: str
    state_db: Path
    journal_retention_days: int
    history_retention_days: int
    seed: int
    kraken_tier: str
    kraken_api_key: str | None
    kraken_api_secret: str | None
    live_trading: str | None
    kraken_api_url: str
    kraken_api_url_allow: tuple[str, ...]
    poll_sec: float
    market_data: str
    replay_file: Path | None
    replay_symbol: str | None
    replay_from: float | None  # seconds since the epoch
    speed: float | None  # None: as fast as possible
    stale_price_max_age_sec: float | None  # None: see stale_after
    paper_start_quote: Decimal
    paper_start_base_usd: Decimal
    paper_preset: str
    paper_touch_prob: float
    paper_queue_model: str
    paper_spread_bps: Decimal
    paper_fees: FeeRates | None
    host: str
    port: int
    dashboard_token: str | None
    dashboard_read_only: bool
    dashboard_allowed_hosts: tuple[str, ...]
    log_level: str
    log_format: str
    notify_webhook_url: str | None
    telegram_bot_token: str | None
    telegram_chat_id: str | None
    telegram_commands: bool
    telegram_api_url: str
    supabase_url: str | None
    supabase_key: str | None
    supabase_candles: bool
    effective: tuple[Setting, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the effective settings, secrets masked: a traceback must not print a token."""
        return "Settings(" + ", ".join(f"{s.name}={s.value!r}" for s in self.effective) + ")"

    def describe(self) -> list[tuple[str, str, str]]:
        """Return (name, effective value, source) of each setting, secrets masked."""
        return [(setting.name, setting.value, setting.source) for setting in self.effective]

    def secrets(self) -> tuple[str, ...]:
        """Return the values that may stand in no log line."""
        found = (getattr(self, v.target) for v in VARIABLES if v.is_secret)
        return tuple(value for value in found if value)

    def page_url(self, port: int) -> str:
        """Return the address of the page for a browser on this machine."""
        bound = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}
        host = bound.get(self.host, self.host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def paper_db(self) -> Path:
        """Return the file of the paper exchange that belongs to the database."""
        return paper_db(self.state_db)

    def stale_after(self, price_interval: float) -> float:
        """Return the age in seconds from which a price is stale, given the market's interval."""
        return max(self.stale_price_max_age_sec or 60.0, 2 * price_interval)


class _Findings(NamedTuple):
    """What was found while reading: problems stop the start, warnings are logged."""

    problems: list[str]
    warnings: list[str]


def paper_db(state_db: Path) -> Path:
    """Return the file of the paper exchange beside a database: bot.db has bot.paper.db."""
    return state_db.with_name(state_db.name.removesuffix(".db") + ".paper.db")


Check = Callable[[Mapping[str, Any]], Iterable[str]]


def load(
    env: Mapping[str, str], dotenv_path: Path, further_checks: Iterable[Check] = ()
) -> Settings:
    """Return the settings from `env` over the file `dotenv_path`, which stands beside the program.

    Relative paths in the file, and defaults, are relative to its folder; those in `env` to the
    current one. `further_checks` yield what adapters would refuse; they are given the values, by
    the names of Settings, that could be read. Raises ConfigError with every problem found.
    """
    found = _Findings([], [])
    file_values = _dotenv(dotenv_path, found)
    _check_names(env, file_values, found)
    texts, sources = _texts(env, file_values, dotenv_path, found)
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        try:
            folder = Path() if sources[variable.name] == "environment" else dotenv_path.parent
            values[variable.target] = value_of(variable, texts[variable.name], folder)
        except ValueError as error:
            shown = "***" if variable.is_secret else repr(texts[variable.name][:80])
            found.problems.append(f"{variable.name}={shown}: {error}")
    checks = (
        _market_checks, _poll_checks, _live_checks, _fee_checks, _size_checks, _page_checks,
        _notify_checks, _model_checks, _tier_checks, _kelly_checks, _replica_checks,
        *further_checks,
    )  # fmt: skip
    for check in checks:
        found.problems.extend(check(_Known(values)))
    if found.problems:
        raise ConfigError(found.problems)
    found.warnings.extend(_idle(values, sources))
    for v in VARIABLES:
        if v.is_secret and texts[v.name]:
            texts[v.name] = "***"
    effective = tuple(Setting(name=n, value=texts[n], source=sources[n]) for n in BY_NAME)
    return _settings(values, effective, tuple(found.warnings))


def _dotenv(path: Path, found: _Findings) -> dict[str, str]:
    """Return the names and texts of a .env file; none if there is no file.

    `${NAME}` stays as written: a value must not depend on what else the process was given.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        found.problems.append(f"{path}: cannot be read: {error}")
        return {}
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            where = f"{path} line {binding.original.line}"
            found.problems.append(f"{where}: cannot be read; write NAME=value")
        elif binding.key is not None:
            if binding.key in values:
                found.problems.append(f"{binding.key}: given twice in {path}")
            values[binding.key] = binding.value or ""
    return values


def _check_names(env: Mapping[str, str], file_values: Mapping[str, str], found: _Findings) -> None:
    known = frozenset(BY_NAME) | {f"{v.name}_FILE" for v in VARIABLES if v.is_secret}
    for name in file_values:
        if name not in known:
            text = f"{name}: unknown setting in the .env file{suggestion(name, known)}"
            found.problems.append(text)
    for name in env:
        if name not in known:
            meant = meant_by(name, known)
            if meant is not None or name.startswith(PREFIXES):
                guess = f"; did you mean {meant}?" if meant else suggestion(name, known)
                found.warnings.append(f"{name}: unknown setting, ignored{guess}")


def _texts(
    env: Mapping[str, str], file_values: Mapping[str, str], dotenv_path: Path, found: _Findings
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the text and the source of each variable; the environment wins over the file."""
    is_live = (env.get("MODE", "").strip() or file_values.get("MODE", "")).strip().lower() == "live"
    texts = {v.name: v.default for v in VARIABLES}
    sources = {v.name: "default" for v in VARIABLES}
    folder = dotenv_path.parent
    for values, where, base in ((file_values, ".env", folder), (env, "environment", Path())):
        for name, variable in BY_NAME.items():
            text = values.get(name, "").strip()
            is_secret = variable.is_secret
            path = values.get(f"{name}_FILE", "").strip() if is_secret else ""
            if text and path:
                found.problems.append(f"{name}, {name}_FILE: both are set; set one")
            if text:
                texts[name], sources[name] = text, where
            elif path:
                texts[name], sources[name] = _secret_file(name, base / path, found), "file"
                _check_access(f"{name}_FILE: {path}", base / path, found, is_live=is_live)
            if text and is_secret and where == ".env":
                shown = f"{dotenv_path} (it holds {name})"
                _check_access(shown, dotenv_path, found, is_live=is_live)
    return texts, sources


def _secret_file(name: str, path: Path, found: _Findings) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        found.problems.append(f"{name}_FILE: {str(path)!r} cannot be read: {error}")
        return ""
    if not text:
        found.problems.append(f"{name}_FILE: {str(path)!r} is empty")
    return text


def _check_access(what: str, path: Path, found: _Findings, *, is_live: bool) -> None:
    with suppress(OSError, ValueError):  # what cannot be read has been reported
        if path.stat().st_mode & 0o077:
            where = found.problems if is_live else found.warnings
            where.append(f"{what} is open to other users; chmod 600 it")


class _Known(dict[str, Any]):
    """The values that could be read; a check on one that could not is left out."""

    def has(self, *targets: str) -> bool:
        return self.keys() >= set(targets)


def _market_checks(values: _Known) -> Iterator[str]:
    if values.get("mode") == "live" and values.get("market_data") not in (None, "kraken"):
        yield f"MARKET_DATA={values['market_data']}: MODE=live needs MARKET_DATA=kraken"
    if values.get("market_data") == "replay" and "replay_file" in values:
        file = values["replay_file"]
        if file is None:
            yield "REPLAY_FILE: MARKET_DATA=replay needs a file of candles or trades"
        elif not path_is(file, "file"):
            yield f"REPLAY_FILE={str(file)!r}: there is no such file"
    if values.get("paper_start_quote") == 0 == values.get("paper_start_base_usd"):
        yield "PAPER_START_QUOTE, PAPER_START_BASE_USD: both are 0; there is nothing to trade with"


_OF_A_FILE = ("REPLAY_FILE", "REPLAY_SYMBOL", "REPLAY_FROM")


def _idle(values: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """Yield warnings that name what is set for another market or mode than this run's."""
    names = [v.name for v in VARIABLES if sources[v.name] != "default"]
    if values["mode"] == "live":
        idle = [x for x in names if BY_NAME[x].is_simulation]
        why = "MODE=live, which is no simulation"
    else:
        market = _market(values)
        idle = [x for x in names if x in _OF_A_FILE and market != "replay"]
        why = f"MARKET_DATA={market}"
    if idle:
        yield f"{', '.join(idle)}: no effect with {why}"
    is_on = _hmm_enabled(_Known(values)) or values["regime_manual_override"] is not None
    if values["params.regime_directional_enabled"] and not is_on:
        yield (
            "REGIME_DIRECTIONAL_ENABLED=true: no effect, there is no regime to act on without "
            "HMM_ENABLED=true or REGIME_MANUAL_OVERRIDE"
        )
    if values["supabase_candles"]:
        if _market(values) != "kraken":
            yield f"SUPABASE_CANDLES=true: no effect with MARKET_DATA={_market(values)}"
        elif not _hmm_enabled(_Known(values)):
            yield "SUPABASE_CANDLES=true: no effect without HMM_ENABLED=true"


def _fee_checks(values: _Known) -> Iterator[str]:
    if not values.has("paper_maker_fee_pct", "paper_taker_fee_pct"):
        return
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    if (maker is None) != (taker is None):
        yield "PAPER_MAKER_FEE_PCT, PAPER_TAKER_FEE_PCT: set both or neither"
    if not values.has("mode", "params.min_net_profit_pct", "params.profit_pct"):
        return
    if values["mode"] == "live":
        return  # the start reads the account's fees, and measures the target against them
    rate = FIRST_TIER.maker if maker is None else maker / HUNDRED
    margin, target = values["params.min_net_profit_pct"], values["params.profit_pct"]
    least = break_even_pct(rate) + margin
    if target <= least:
        yield (
            f"PAIR_PROFIT_PCT={target}: must be above {least:.3f}: break-even at "
            f"{rate * HUNDRED:.2f} % maker is {break_even_pct(rate):.3f} %, plus "
            f"MIN_NET_PROFIT_PCT {margin}"
        )


def _size_checks(values: _Known) -> Iterator[str]:
    if values.has("params.max_order_usd", "params.order_size_usd"):
        most_usd, size = values["params.max_order_usd"], values["params.order_size_usd"]
        if most_usd < size:
            yield f"MAX_ORDER_USD={most_usd}: must not be below ORDER_SIZE_USD {size}"
    if values.has("kraken_tier", "mode", "params.slot_count"):
        tier = _tier(values)
        limit = OPEN_ORDER_LIMITS[tier]
        most = slots_max(Params(open_order_limit=limit))
        if values["params.slot_count"] > most:
            yield (
                f"SLOT_COUNT={values['params.slot_count']}: an open-order limit of {limit} "
                f"(KRAKEN_TIER={tier}) carries at most {most}"
            )


def _model_checks(values: _Known) -> Iterator[str]:
    for least, target in (
        ("params.hmm_min_train_samples", "hmm.training_candles"),
        ("params.hmm_secondary_min_train_samples", "hmm.secondary_training_candles"),
    ):
        if values.has(least, target) and values[least] > values[target]:
            yield (
                f"{_named(least)}={values[least]}: must not be above {_named(target)} "
                f"{values[target]}: nothing would ever be trained"
            )


def _tier_checks(values: _Known) -> Iterator[str]:
    for low, high in (
        ("params.regime_tier1_confidence", "params.regime_tier2_confidence"),
        ("params.regime_tier1_bias", "params.regime_tier2_bias"),
        ("params.regime_hysteresis", "params.regime_tier1_confidence"),
    ):
        if values.has(low, high) and values[low] >= values[high]:
            yield (
                f"{_named(low)}={values[low]:g}: must not reach {_named(high)}, which is "
                f"{values[high]:g}"
            )


def _kelly_checks(values: _Known) -> Iterator[str]:
    most = "kelly.lookback_cycles"
    for least in ("kelly.min_samples_total", "kelly.min_samples_per_regime"):
        if values.has(least, most) and values[least] > values[most]:
            yield (
                f"{_named(least)}={values[least]}: must not be above {_named(most)} "
                f"{values[most]}: there would never be enough"
            )


def _named(target: str) -> str:
    """Return the name of the variable that sets the field `target`."""
    return next(v.name for v in VARIABLES if v.target == target)


def _market(values: Mapping[str, Any]) -> str:
    market: str = values["market_data"] or ("kraken" if values["mode"] == "live" else "synthetic")
    return market


def _hmm_enabled(values: _Known) -> bool:
    """Tell whether the models run; unset, they do where nothing is at stake and data is at hand."""
    chosen: bool | None = values["hmm_enabled"]
    if chosen is None:
        return values.has("market_data", "mode") and _market(values) == "synthetic"
    return chosen


def is_loopback(url: str) -> bool:
    """Tell whether `url` is one of this machine."""
    return urlsplit(url).hostname in {x.strip("[]") for x in LOOPBACK}


def _keys(values: Mapping[str, Any]) -> dict[str, str | None]:
    """Return key and private key; without any, a sandbox on this machine gets its demo keys."""
    key, secret = values["kraken_api_key"], values["kraken_api_secret"]
    if values["mode"] == "live" and key is None and is_loopback(values["kraken_api_url"]):
        key, secret = DEMO_KEY, DEMO_SECRET
    return {"kraken_api_key": key, "kraken_api_secret": secret}


def _tier(values: Mapping[str, Any]) -> str:
    tier: str = values["kraken_tier"] or ("starter" if values["mode"] == "live" else "pro")
    return tier


def _poll_checks(values: _Known) -> Iterator[str]:
    """Yield a poll that is too rare for prices; those of a live run are asked for by themselves."""
    poll = values.get("poll_sec")
    if values.get("mode") == "paper" and poll is not None and poll > PAPER_POLL_MAX_SEC:
        yield f"POLL_INTERVAL_SECONDS={poll:g}: on paper from 1 to {PAPER_POLL_MAX_SEC:g}"


def _live_checks(values: _Known) -> Iterator[str]:
    """Yield what a run with orders at Kraken, or at a sandbox, lacks."""
    if values.get("mode") != "live" or not values.has("kraken_api_url", "live_trading"):
        return
    names = {"kraken_api_key": "KRAKEN_API_KEY", "kraken_api_secret": "KRAKEN_API_SECRET"}
    missing = [name for target, name in names.items() if values.get(target, "") is None]
    if missing and (len(missing) == 1 or not is_loopback(values["kraken_api_url"])):
        yield f"{', '.join(missing)}: MODE=live needs both"
    is_real = urlsplit(values["kraken_api_url"]).hostname == VENUE_HOST
    if is_real and values["live_trading"] != LIVE_PHRASE:
        yield f"LIVE_TRADING: MODE=live trades real money; set it to {LIVE_PHRASE} if you mean it"


def _page_checks(values: _Known) -> Iterator[str]:
    host = values.get("host")
    if host is not None and not _HOST_NAME.fullmatch(host):
        yield f"HOST={host[:80]!r}: must be an address or a host name"
    elif host is not None and host not in LOOPBACK and values.get("dashboard_token", "") is None:
        yield f"HOST={host}: reachable from other machines; set DASHBOARD_TOKEN first"
    for name in values.get("dashboard_allowed_hosts", ()):
        if not _HOST_NAME.fullmatch(name):
            yield f"DASHBOARD_ALLOWED_HOSTS: {name!r} is no host name"


def _notify_checks(values: _Known) -> Iterator[str]:
    if not values.has("telegram_bot_token", "telegram_chat_id"):
        return
    token, chat = values["telegram_bot_token"], values["telegram_chat_id"]
    if (token is None) != (chat is None):
        yield "TELEGRAM_BOT_TOKEN, TELEGRAM_CHAT_ID: set both or neither"
    if token is not None and not _BOT_TOKEN.fullmatch(token):
        yield "TELEGRAM_BOT_TOKEN=***: must look as BotFather gives it: digits, a colon, letters"
    if chat is not None and not _CHAT_ID.fullmatch(chat):
        yield f"TELEGRAM_CHAT_ID={chat[:80]!r}: must be the chat's number, such as 12345 or -10012"


def _replica_checks(values: _Known) -> Iterator[str]:
    if values.has("supabase_url", "supabase_key"):
        url, key = values["supabase_url"], values["supabase_key"]
        if (url is None) != (key is None):
            yield "SUPABASE_URL, SUPABASE_KEY: set both or neither"
        if values.get("supabase_candles") and url is None is key:
            yield "SUPABASE_CANDLES=true: set SUPABASE_URL and SUPABASE_KEY, for there is no copy"


def _settings(
    values: dict[str, Any], effective: tuple[Setting, ...], warnings: tuple[str, ...]
) -> Settings:
    is_live = values["mode"] == "live"
    market = _market(values)
    chosen = {k.removeprefix("params."): v for k, v in values.items() if k.startswith("params.")}
    chosen["pause_policy"] = PausePolicy(chosen["pause_policy"])
    chosen["risk_basis"] = RiskBasis(chosen["risk_basis"])
    source = RegimeSource(chosen["hmm_multi_timeframe_source"])
    chosen["hmm_multi_timeframe_source"] = source
    hmm = {k.removeprefix("hmm."): v for k, v in values.items() if k.startswith("hmm.")}
    kelly = {k.removeprefix("kelly."): v for k, v in values.items() if k.startswith("kelly.")}
    params = Params(
        **chosen,
        kelly=KellyConfig(**kelly),
        hmm_enabled=_hmm_enabled(_Known(values)),
        regime_manual_override=parse_regime(values["regime_manual_override"]),
        rebalance_target=values["rebalance_target_pct"] / HUNDRED,
        rebalance_band=values["rebalance_band_pct"] / HUNDRED,
        open_order_limit=OPEN_ORDER_LIMITS[_tier(values)],
        is_simulated=market != "kraken",
    )
    own: dict[str, Any] = {
        "market_data": market,
        "kraken_tier": _tier(values),
        "poll_sec": values["poll_sec"] or (20.0 if is_live else 5.0),
        **_keys(values),
    }
    speeds = {"replay": values["replay_speed"], "synthetic": values["synthetic_speed"]}
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    fees = None if maker is None else FeeRates(maker=maker / HUNDRED, taker=taker / HUNDRED)
    return Settings(
        params=params,
        hmm=HmmSettings(**hmm),
        speed=speeds.get(market, 1.0),
        paper_fees=fees,
        effective=effective,
        warnings=warnings,
        **{x: values[x] for x in Settings.__struct_fields__ if x in values and x not in own},
        **own,
    )


def generate_env_example() -> str:
    """Return the text of `.env.example`: every setting, commented out at its default."""
    lines = [
        "# Copy to .env beside bot.py and uncomment what you change. Relative paths are relative",
        "# to the folder of bot.py. Generated by: python config.py --write",
    ]
    section = ""
    for v in VARIABLES:
        if v.section != section:
            section = v.section
            lines += ["", f"# ---- {section}"]
        lines += [f"# {v.meaning} ({v.allowed()})", f"#{v.name}={v.default}"]
    return "\n".join(lines) + "\n"


def generate_markdown() -> str:
    """Return the text of `docs/CONFIGURATION.md`."""
    lines = [
        "# Configuration",
        "",
        "Settings come from the environment, or from a file `.env` beside `bot.py` (the",
        "environment wins). All problems are reported at once, before anything starts (exit 2).",
        "An unknown name in `.env` is an error; one in the environment that is near a setting's is",
        "a warning, at the start and in `check`. Percent is written as percent: `0.5` is 0.5 %. A",
        "secret may also come from a file, named by `<NAME>_FILE`. A relative path in `.env`, or",
        "by default, is relative to the folder of `bot.py`; one given in the environment to the",
        "current directory. This page is generated by `python config.py --write`.",
    ]
    section = ""
    for v in VARIABLES:
        if v.section != section:
            section = v.section
            lines += ["", f"## {section}", "", "| name | default | meaning | allowed |",
                      "|---|---|---|---|"]  # fmt: skip
        default = f"`{v.default}`" if v.default else "unset"
        lines.append(f"| `{v.name}` | {default} | {v.meaning} | {v.allowed()} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    root = Path(__file__).parent
    if sys.argv[1:] == ["--write"]:
        (root / ".env.example").write_text(generate_env_example(), encoding="utf-8")
        (root / "docs" / "CONFIGURATION.md").write_text(generate_markdown(), encoding="utf-8")
    else:
        sys.stdout.write(generate_markdown())
