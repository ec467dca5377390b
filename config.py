"""Settings: the only reader of the environment.

Each variable has a name, a kind, bounds, a default and one line of meaning in `VARIABLES`; all
problems are reported at once. `python config.py --write` generates `.env.example` and
`docs/CONFIGURATION.md` from the same table. Only programs may import this module.
"""

import io
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from dotenv.parser import parse_stream

from core.domain import HUNDRED, FeeRates
from core.params import Params, PausePolicy, RiskBasis
from core.ports import ConfigError
from core.record import Record
from grid_strategy import break_even_pct
from risk import slots_max
from settings.names import meant_by, suggestion
from settings.variable import Variable, path_is, value_of

__all__ = [
    "BY_NAME", "VARIABLES", "Setting", "Settings", "Variable", "generate_env_example",
    "generate_markdown", "load",
]  # fmt: skip

OPEN_ORDER_LIMITS = {"starter": 60, "intermediate": 80, "pro": 225}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FIRST_TIER = FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008"))
PREFIXES = (
    "AI_", "CAPITAL_", "CONSENSUS_", "DASHBOARD_", "ENTRY_BACKOFF_", "HMM_",
    "JOURNAL_RETENTION_", "KELLY_", "KRAKEN_", "LOSS_", "ORPHAN_", "PAIR_", "PAPER_",
    "REBALANCE_", "REENTRY_", "REGIME_",
    "REPLAY_", "S1_ORPHAN_", "S2_ORPHAN_", "SLOT_", "STALE_PRICE_", "SYNTHETIC_",
)  # fmt: skip
_HOST_NAME = re.compile(r"[\w.:-]{1,253}", re.ASCII)


def _v(  # noqa: PLR0917 - a table reads better without the names of its columns
    section: str, name: str, kind: str, default: str, target: str, meaning: str, **more: Any
) -> Variable:
    return Variable(
        section=section, name=name, kind=kind, default=default, target=target, meaning=meaning,
        **more,
    )  # fmt: skip


_RUN, _MARKET, _PAPER, _GRID = "Running", "Market", "Paper exchange", "Grid"
_SIZE, _RISK, _PAGE = "Size", "Risk", "Page and logs"
VARIABLES: tuple[Variable, ...] = (
    _v(_RUN, "MODE", "choice", "paper", "mode", "what orders are: paper (live comes with the "
       "Kraken adapter)", choices=("paper", "live")),
    _v(_RUN, "BOT_NAME", "text", "grid", "bot_name", "name of this bot, part of its order ids"),
    _v(_RUN, "PAIR", "choice", "DOGE/USD", "pair", "what is traded; no other pair is known yet",
       choices=("DOGE/USD",)),
    _v(_RUN, "STATE_DB", "path", "data/bot.db", "state_db", "the database; the paper exchange "
       "keeps its own file beside it"),
    _v(_RUN, "JOURNAL_RETENTION_DAYS", "integer", "30", "journal_retention_days",
       "days of journal kept at least", low="1", high="3650"),
    _v(_RUN, "HISTORY_RETENTION_DAYS", "integer", "400", "history_retention_days",
       "days of events, ledger lines and hourly equity kept; executions, orders, cycles and daily "
       "equity stay for good", low="31", high="36500"),
    _v(_RUN, "SEED", "integer", "1", "seed", "seed of everything random in simulation", low="0",
       high="4294967295"),
    _v(_RUN, "KRAKEN_TIER", "choice", "pro", "kraken_tier", "account tier: open-order limit and "
       "rate counters", choices=tuple(OPEN_ORDER_LIMITS)),
    _v(_MARKET, "MARKET_DATA", "choice", "synthetic", "market_data", "where prices come from",
       choices=("synthetic", "replay", "kraken")),
    _v(_MARKET, "POLL_INTERVAL_SECONDS", "seconds", "5", "poll_interval_sec",
       "MARKET_DATA=kraken: how often prices are asked for", low="2", high="20"),
    _v(_MARKET, "KRAKEN_API_URL", "text", "https://api.kraken.com", "kraken_api_url",
       "where Kraken answers; another host must be this machine or be allowed"),
    _v(_MARKET, "KRAKEN_API_URL_ALLOW", "list", "", "kraken_api_url_allow",
       "other hosts that KRAKEN_API_URL may name"),
    _v(_MARKET, "REPLAY_FILE", "path", "", "replay_file", "recorded candles or trades: .csv, "
       ".csv.gz or .parquet"),
    _v(_MARKET, "REPLAY_SYMBOL", "text", "", "replay_symbol", "which symbol, where the file holds "
       "several"),
    _v(_MARKET, "REPLAY_SPEED", "float", "60", "replay_speed", "times real time",
       low="0.01", high="1000000", word="max"),
    _v(_MARKET, "SYNTHETIC_SPEED", "float", "600", "synthetic_speed", "times real time",
       low="0.01", high="1000000", word="max"),
    _v(_MARKET, "STALE_PRICE_MAX_AGE_SEC", "seconds", "", "stale_price_max_age_sec",
       "older prices stop entries; unset: 60; with candles at least twice their interval",
       low="1", high="86400"),
    _v(_MARKET, "PRICE_JUMP_MAX_PCT", "decimal", "10", "params.price_jump_max_pct",
       "a larger move needs a second sample, percent", low="0.1", high="90"),
    _v(_MARKET, "MAX_SPREAD_PCT", "decimal", "0.5", "params.max_spread_pct",
       "a wider spread stops entries, percent", low="0.01", high="20"),
    _v(_PAPER, "PAPER_START_QUOTE", "decimal", "500", "paper_start_quote", "USD at the start",
       low="0", high="1000000000"),
    _v(_PAPER, "PAPER_START_BASE_USD", "decimal", "500", "paper_start_base_usd",
       "DOGE at the start, worth this many USD at the first price", low="0", high="1000000000"),
    _v(_PAPER, "PAPER_PRESET", "choice", "default", "paper_preset", "how careful fills are",
       choices=("optimistic", "default", "pessimistic")),
    _v(_PAPER, "PAPER_TOUCH_PROB", "float", "0", "paper_touch_prob",
       "chance that a candle's touch fills", low="0", high="1"),
    _v(_PAPER, "PAPER_QUEUE_MODEL", "choice", "risk_averse", "paper_queue_model",
       "where what leaves a book stood: all behind us, or by share", choices=("risk_averse",
       "power", "log")),
    _v(_PAPER, "PAPER_SPREAD_BPS", "decimal", "5", "paper_spread_bps",
       "spread around a candle's close, basis points", low="0", high="500"),
    _v(_PAPER, "PAPER_MAKER_FEE_PCT", "decimal", "", "paper_maker_fee_pct",
       "flat maker fee, percent; unset: the volume tiers from 0.40", low="0", high="5"),
    _v(_PAPER, "PAPER_TAKER_FEE_PCT", "decimal", "", "paper_taker_fee_pct",
       "flat taker fee, percent; set both or neither", low="0", high="5"),
    _v(_GRID, "SLOT_COUNT", "integer", "3", "params.slot_count", "slots at the first start",
       low="1", high="39"),
    _v(_GRID, "SLOT_STAGGER_PCT", "decimal", "0.5", "params.slot_stagger_pct",
       "how much farther out each next slot enters, percent", low="0", high="20"),
    _v(_GRID, "SLOT_ALIAS_POOL", "list", "", "params.slot_aliases", "names for slots"),
    _v(_GRID, "PAIR_ENTRY_PCT", "decimal", "0.5", "params.entry_pct",
       "distance of entries from the market, percent", low="0.05", high="20"),
    _v(_GRID, "PAIR_PROFIT_PCT", "decimal", "2.0", "params.profit_pct",
       "profit target of a cycle, gross, percent", low="0.05", high="50"),
    _v(_GRID, "PAIR_REFRESH_PCT", "decimal", "1.5", "params.refresh_pct",
       "an entry farther away is placed anew, percent", low="0.1", high="50"),
    _v(_GRID, "MIN_NET_PROFIT_PCT", "decimal", "0.10", "params.min_net_profit_pct",
       "margin of the target above break-even, percent", low="0", high="10"),
    _v(_GRID, "ENTRIES_PER_SECOND", "integer", "2", "params.entries_per_second",
       "entries placed a second at most", low="1", high="20"),
    _v(_GRID, "PARTIAL_ENTRY_MAX_SEC", "seconds", "600", "params.partial_entry_max_sec",
       "how long a partly filled entry works on", low="1", high="86400"),
    _v(_GRID, "REENTRY_BASE_COOLDOWN_SEC", "seconds", "0", "params.reentry_cooldown_sec",
       "rest of a leg after a cycle", low="0", high="86400"),
    _v(_GRID, "ENTRY_BACKOFF_AFTER", "integer", "3", "params.backoff_after",
       "losses in a row before entries move out", low="1", high="100"),
    _v(_GRID, "ENTRY_BACKOFF_STEP", "decimal", "0.5", "params.backoff_step",
       "added to the distance factor per further loss", low="0", high="5"),
    _v(_GRID, "ENTRY_BACKOFF_MAX", "decimal", "5", "params.backoff_max",
       "largest distance factor", low="1", high="20"),
    _v(_GRID, "LOSS_STREAK_REST_AT", "integer", "5", "params.loss_streak_rest_at",
       "losses in a row after which a leg rests", low="1", high="100"),
    _v(_GRID, "LOSS_REST_SEC", "seconds", "900", "params.loss_rest_sec", "how long it rests",
       low="0", high="604800"),
    _v(_GRID, "S1_ORPHAN_AFTER_SEC", "seconds", "21600", "params.s1_orphan_after_sec",
       "age of a lone exit before it may become a recovery", low="60", high="31536000"),
    _v(_GRID, "S2_ORPHAN_AFTER_SEC", "seconds", "43200", "params.s2_orphan_after_sec",
       "the same while both legs hold", low="60", high="31536000"),
    _v(_GRID, "ORPHAN_MIN_ADVERSE_PCT", "decimal", "", "params.orphan_min_adverse_pct",
       "how far the market must stand against it, percent; unset: the profit target", low="0",
       high="90"),
    _v(_GRID, "MAX_RECOVERY_SLOTS", "integer", "1", "params.max_recovery_slots",
       "recoveries per slot", low="0", high="10"),
    _v(_GRID, "PAUSE_POLICY", "choice", "withdraw", "params.pause_policy",
       "what a pause does with resting entries", choices=("withdraw", "stay")),
    _v(_SIZE, "ORDER_SIZE_USD", "decimal", "40", "params.order_size_usd", "size of an entry, USD",
       low="0.01", high="1000000"),
    _v(_SIZE, "MAX_ORDER_USD", "decimal", "200", "params.max_order_usd",
       "no entry is larger, USD", low="0.01", high="1000000"),
    _v(_SIZE, "CAPITAL_LAYERS", "integer", "0", "params.layers_target",
       "layers added to every entry as funds allow", low="0", high="100"),
    _v(_SIZE, "CAPITAL_LAYER_DOGE_PER_ORDER", "decimal", "1", "params.layer_base_per_order",
       "DOGE a layer adds to an entry", low="0.00000001", high="1000000"),
    _v(_SIZE, "REBALANCE_ENABLED", "flag", "false", "params.rebalance_enabled",
       "grow the side that brings the balances back"),
    _v(_SIZE, "REBALANCE_TARGET_PCT", "decimal", "50", "rebalance_target_pct",
       "share of quote aimed at, percent", low="1", high="99"),
    _v(_SIZE, "REBALANCE_BAND_PCT", "decimal", "10", "rebalance_band_pct",
       "deviation that is left alone, percent", low="0", high="50"),
    _v(_RISK, "DAILY_LOSS_LIMIT_USD", "decimal", "", "params.daily_loss_limit_usd",
       "loss since UTC midnight that locks buying; unset: 5 % of the equity then", low="0.01",
       high="1000000000", word="off", word_value=Decimal(0)),
    _v(_RISK, "RISK_BASIS", "choice", "strategy", "params.risk_basis",
       "drawdown against the starting balances held, or of the account", choices=("strategy",
       "account")),
    _v(_RISK, "MAX_EQUITY_SHARE", "decimal", "0.8", "params.max_equity_share",
       "share of equity committed to buying at most", low="0.01", high="1"),
    _v(_RISK, "EQUITY_STOP_USD", "decimal", "0", "params.equity_stop_usd",
       "below this equity buying stops; 0: off", low="0", high="1000000000"),
    _v(_RISK, "MAX_CONSECUTIVE_ERRORS", "integer", "25", "params.max_consecutive_errors",
       "exchange errors in a row that lock entries", low="1", high="1000"),
    _v(_RISK, "IMBALANCE_ALERT_MIN", "float", "60", "params.imbalance_alert_min",
       "minutes a side may be without an entry before it is reported", low="1", high="10000"),
    _v(_RISK, "RECON_INTERVAL_SEC", "seconds", "300", "params.recon_interval_sec",
       "how often balances are compared", low="10", high="86400"),
    _v(_PAGE, "HOST", "text", "127.0.0.1", "host", "address of the page; any other needs "
       "DASHBOARD_TOKEN"),
    _v(_PAGE, "PORT", "integer", "8080", "port", "port of the page", low="0", high="65535"),
    _v(_PAGE, "DASHBOARD_TOKEN", "secret", "", "dashboard_token", "password of the page, or "
       "DASHBOARD_TOKEN_FILE: a file that holds it"),
    _v(_PAGE, "DASHBOARD_READ_ONLY", "flag", "false", "dashboard_read_only",
       "no commands from the page"),
    _v(_PAGE, "DASHBOARD_ALLOWED_HOSTS", "list", "", "dashboard_allowed_hosts",
       "further host names under which the page may be asked for"),
    _v(_PAGE, "LOG_LEVEL", "choice", "INFO", "log_level", "least level that is logged",
       choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    _v(_PAGE, "LOG_FORMAT", "choice", "text", "log_format", "how lines look",
       choices=("text", "json")),
)  # fmt: skip
BY_NAME = {variable.name: variable for variable in VARIABLES}


class Setting(Record, frozen=True, kw_only=True):
    """One effective setting; secrets are masked."""

    name: str
    value: str
    source: str  # default, .env, environment, file


class Settings(Record, frozen=True, kw_only=True):
    """The effective configuration."""

    params: Params
    mode: str
    pair: str
    bot_name: str
    state_db: Path
    journal_retention_days: int
    history_retention_days: int
    seed: int
    kraken_tier: str
    market_data: str
    poll_interval_sec: float
    kraken_api_url: str
    kraken_api_url_allow: tuple[str, ...]
    replay_file: Path | None
    replay_symbol: str | None
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
    effective: tuple[Setting, ...] = ()
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the effective settings, secrets masked: a traceback must not print a token."""
        return "Settings(" + ", ".join(f"{s.name}={s.value!r}" for s in self.effective) + ")"

    def describe(self) -> list[tuple[str, str, str]]:
        """Return (name, effective value, source) of each setting, secrets masked."""
        return [(setting.name, setting.value, setting.source) for setting in self.effective]

    def page_url(self, port: int) -> str:
        """Return the address of the page for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return (
            f"http://[{host}]:{port}"
            if ":" in host and "[" not in host
            else f"http://{host}:{port}"
        )

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


def load(env: Mapping[str, str], dotenv_path: Path) -> Settings:
    """Return the settings from `env` over the file `dotenv_path`, which stands beside the program.

    Relative paths in the file, and defaults, are relative to its folder; those in `env` to the
    current one. Raises ConfigError with every problem found.
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
            shown = "***" if variable.kind == "secret" else repr(texts[variable.name][:80])
            found.problems.append(f"{variable.name}={shown}: {error}")
    for check in (_market_checks, _fee_checks, _size_checks, _page_checks):
        found.problems.extend(check(_Known(values)))
    if found.problems:
        raise ConfigError(found.problems)
    for v in VARIABLES:
        if v.kind == "secret" and texts[v.name]:
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
    known = frozenset(BY_NAME) | {f"{v.name}_FILE" for v in VARIABLES if v.kind == "secret"}
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
            is_secret = variable.kind == "secret"
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
    if values.get("mode") == "live":
        yield "MODE=live: live trading comes with the Kraken adapter; use MODE=paper for now"
    if values.get("market_data") == "replay" and "replay_file" in values:
        file = values["replay_file"]
        if file is None:
            yield "REPLAY_FILE: MARKET_DATA=replay needs a file of candles or trades"
        elif not path_is(file, "file"):
            yield f"REPLAY_FILE={str(file)!r}: there is no such file"
    if values.get("paper_start_quote") == 0 == values.get("paper_start_base_usd"):
        yield "PAPER_START_QUOTE, PAPER_START_BASE_USD: both are 0; there is nothing to trade with"


def _fee_checks(values: _Known) -> Iterator[str]:
    if not values.has("paper_maker_fee_pct", "paper_taker_fee_pct"):
        return
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    if (maker is None) != (taker is None):
        yield "PAPER_MAKER_FEE_PCT, PAPER_TAKER_FEE_PCT: set both or neither"
    if not values.has("params.min_net_profit_pct", "params.profit_pct"):
        return
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
    if values.has("kraken_tier", "params.slot_count"):
        limit = OPEN_ORDER_LIMITS[values["kraken_tier"]]
        most = slots_max(Params(open_order_limit=limit))
        if values["params.slot_count"] > most:
            yield (
                f"SLOT_COUNT={values['params.slot_count']}: an open-order limit of {limit} "
                f"(KRAKEN_TIER={values['kraken_tier']}) carries at most {most}"
            )


def _page_checks(values: _Known) -> Iterator[str]:
    host = values.get("host")
    if host is not None and not _HOST_NAME.fullmatch(host):
        yield f"HOST={host[:80]!r}: must be an address or a host name"
    elif host is not None and host not in LOOPBACK and values.get("dashboard_token", "") is None:
        yield f"HOST={host}: reachable from other machines; set DASHBOARD_TOKEN first"
    for name in values.get("dashboard_allowed_hosts", ()):
        if not _HOST_NAME.fullmatch(name):
            yield f"DASHBOARD_ALLOWED_HOSTS: {name!r} is no host name"


def _settings(
    values: dict[str, Any], effective: tuple[Setting, ...], warnings: tuple[str, ...]
) -> Settings:
    own = {k.removeprefix("params."): v for k, v in values.items() if k.startswith("params.")}
    own["pause_policy"] = PausePolicy(own["pause_policy"])
    own["risk_basis"] = RiskBasis(own["risk_basis"])
    params = Params(
        **own,
        rebalance_target=values["rebalance_target_pct"] / HUNDRED,
        rebalance_band=values["rebalance_band_pct"] / HUNDRED,
        open_order_limit=OPEN_ORDER_LIMITS[values["kraken_tier"]],
        is_simulated=True,
    )
    speeds = {"replay": values["replay_speed"], "synthetic": values["synthetic_speed"]}
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    fees = None if maker is None else FeeRates(maker=maker / HUNDRED, taker=taker / HUNDRED)
    return Settings(
        params=params,
        speed=speeds.get(values["market_data"], 1.0),
        paper_fees=fees,
        effective=effective,
        warnings=warnings,
        **{name: values[name] for name in Settings.__struct_fields__ if name in values},
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
