"""Settings: the only reader of the environment.

Each variable has a name, a kind, bounds, a default and one line of meaning in `VARIABLES`; all
problems are reported at once. `python config.py --write` generates `.env.example` and
`docs/CONFIGURATION.md` from the same table.
"""

import difflib
import re
import stat
import sys
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from core.domain import HUNDRED, FeeRates
from core.params import Params, PausePolicy, RiskBasis
from core.ports import ConfigError
from core.record import Record
from grid_strategy import break_even_pct
from risk import slots_max

OPEN_ORDER_LIMITS = {"starter": 60, "intermediate": 80, "pro": 225}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_LENGTH_MIN = 32
FIRST_TIER = FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008"))
PREFIXES = (
    "AI_", "CAPITAL_", "CONSENSUS_", "DASHBOARD_", "ENTRY_BACKOFF_", "HMM_", "KELLY_", "KRAKEN_",
    "LOSS_", "PAIR_", "PAPER_", "REBALANCE_", "REGIME_", "REPLAY_", "SLOT_", "SYNTHETIC_",
)  # fmt: skip


class Variable(Record, frozen=True, kw_only=True):
    """One environment variable; `target` is the field it sets, `params.` a decision."""

    name: str
    kind: str  # decimal, integer, seconds, flag, choice, text, path, secret, list, special
    default: str
    meaning: str
    section: str
    target: str
    low: str | None = None
    high: str | None = None
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        """Return what is allowed, in plain words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bounds = ""
        if self.low is not None and self.high is not None:
            bounds = f" from {self.low} to {self.high}"
        elif self.low is not None:
            bounds = f" of at least {self.low}"
        return {
            "decimal": "a number" + bounds,
            "integer": "a whole number" + bounds,
            "seconds": "seconds" + bounds,
            "flag": "true or false",
            "list": "names separated by commas",
            "secret": f"at least {TOKEN_LENGTH_MIN} characters",
        }.get(self.kind, "text")


def _v(  # noqa: PLR0917 - a table reads better without the names of its columns
    section: str,
    name: str,
    kind: str,
    default: str,
    target: str,
    meaning: str,
    **more: Any,
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
    _v(_RUN, "STATE_DB", "path", "data/bot.db", "state_db", "the database; the paper exchange "
       "keeps its own file beside it"),
    _v(_RUN, "JOURNAL_RETENTION_DAYS", "integer", "30", "journal_retention_days",
       "days of journal kept at least", low="1", high="3650"),
    _v(_RUN, "SEED", "integer", "1", "seed", "seed of everything random in simulation", low="0",
       high="4294967295"),
    _v(_RUN, "KRAKEN_TIER", "choice", "pro", "kraken_tier", "account tier: open-order limit and "
       "rate counters", choices=tuple(OPEN_ORDER_LIMITS)),
    _v(_MARKET, "MARKET_DATA", "choice", "synthetic", "market_data", "where prices come from",
       choices=("synthetic", "replay")),
    _v(_MARKET, "REPLAY_FILE", "path", "", "replay_file", "recorded candles or trades: .csv, "
       ".csv.gz or .parquet"),
    _v(_MARKET, "REPLAY_SYMBOL", "text", "", "replay_symbol", "which symbol, where the file holds "
       "several"),
    _v(_MARKET, "REPLAY_SPEED", "special", "60", "replay_speed", "times real time, or max"),
    _v(_MARKET, "SYNTHETIC_SPEED", "special", "600", "synthetic_speed", "times real time, or max"),
    _v(_MARKET, "STALE_PRICE_MAX_AGE_SEC", "seconds", "60", "stale_price_max_age_sec",
       "older prices stop entries; with candles at least twice their interval", low="1",
       high="86400"),
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
    _v(_PAPER, "PAPER_TOUCH_PROB", "decimal", "0", "paper_touch_prob",
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
    _v(_RISK, "DAILY_LOSS_LIMIT_USD", "special", "", "daily_loss_limit",
       "loss since UTC midnight that locks buying; unset: 5 % of equity; off: no limit"),
    _v(_RISK, "RISK_BASIS", "choice", "strategy", "params.risk_basis",
       "drawdown against the starting balances held, or of the account", choices=("strategy",
       "account")),
    _v(_RISK, "MAX_EQUITY_SHARE", "decimal", "0.8", "params.max_equity_share",
       "share of equity committed to buying at most", low="0.01", high="1"),
    _v(_RISK, "EQUITY_STOP_USD", "decimal", "0", "params.equity_stop_usd",
       "below this equity buying stops; 0: off", low="0", high="1000000000"),
    _v(_RISK, "MAX_CONSECUTIVE_ERRORS", "integer", "25", "params.max_consecutive_errors",
       "exchange errors in a row that lock entries", low="1", high="1000"),
    _v(_RISK, "IMBALANCE_ALERT_MIN", "decimal", "60", "params.imbalance_alert_min",
       "minutes a side may be without an entry before it is reported", low="1", high="10000"),
    _v(_RISK, "RECON_INTERVAL_SEC", "seconds", "300", "params.recon_interval_sec",
       "how often balances are compared", low="10", high="86400"),
    _v(_PAGE, "HOST", "text", "127.0.0.1", "host", "address of the page; any other needs "
       "DASHBOARD_TOKEN"),
    _v(_PAGE, "PORT", "integer", "8080", "port", "port of the page", low="0", high="65535"),
    _v(_PAGE, "DASHBOARD_TOKEN", "secret", "", "dashboard_token", "password of the page; also "
       "DASHBOARD_TOKEN_FILE"),
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
    bot_name: str
    state_db: Path
    journal_retention_days: int
    seed: int
    kraken_tier: str
    market_data: str
    replay_file: Path | None
    replay_symbol: str | None
    speed: float | None  # None: as fast as possible
    stale_price_max_age_sec: float
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

    def paper_db(self) -> Path:
        """Return the file of the paper exchange that belongs to the database."""
        return self.state_db.with_name(self.state_db.stem + ".paper.db")

    def stale_after(self, price_interval: float) -> float:
        """Return the age in seconds from which a price is stale, given the market's interval."""
        return max(self.stale_price_max_age_sec, 2 * price_interval)


def load(env: Mapping[str, str], dotenv_path: Path) -> Settings:
    """Return the settings from `env` over the file `dotenv_path`.

    Raises ConfigError with every problem found.
    """
    file_values = {k: v or "" for k, v in dotenv_values(dotenv_path).items()}
    problems, warnings = _unknown_names(env, file_values)
    texts, sources = _texts(env, file_values, problems, warnings)
    values: dict[str, Any] = {}
    for variable in VARIABLES:
        try:
            values[variable.target] = _parse(variable, texts[variable.name])
        except ValueError as error:
            shown = "***" if variable.kind == "secret" else repr(texts[variable.name][:80])
            problems.append(f"{variable.name}={shown}: {error}")
    if not problems:
        problems = _cross_checks(values)
    if problems:
        raise ConfigError(problems)
    effective = tuple(
        Setting(
            name=v.name,
            value="***" if v.kind == "secret" and texts[v.name] else texts[v.name],
            source=sources[v.name],
        )
        for v in VARIABLES
    )
    return _settings(values, effective, tuple(warnings))


def _unknown_names(
    env: Mapping[str, str], file_values: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    known = set(BY_NAME) | {f"{v.name}_FILE" for v in VARIABLES if v.kind == "secret"}
    problems, warnings = [], []
    for name in file_values:
        if name not in known:
            problems.append(f"{name}: unknown setting in the .env file{_suggestion(name, known)}")
    for name in env:
        if name.startswith(PREFIXES) and name not in known:
            warnings.append(f"{name}: unknown setting, ignored{_suggestion(name, known)}")
    return problems, warnings


def _suggestion(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _texts(
    env: Mapping[str, str],
    file_values: Mapping[str, str],
    problems: list[str],
    warnings: list[str],
) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    for variable in VARIABLES:
        name, text, source = variable.name, variable.default, "default"
        for candidate, where in ((file_values, ".env"), (env, "environment")):
            if candidate.get(name, "").strip():
                text, source = candidate[name].strip(), where
        path = env.get(f"{name}_FILE", file_values.get(f"{name}_FILE", "")).strip()
        if variable.kind == "secret" and path and source == "default":
            text, source = _secret_file(name, Path(path), problems, warnings), "file"
        texts[name], sources[name] = text, source
    return texts, sources


def _secret_file(name: str, path: Path, problems: list[str], warnings: list[str]) -> str:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            warnings.append(f"{name}_FILE: {path} is readable by others; chmod 600 it")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}_FILE: {path} cannot be read: {error}")
        return ""


def _parse(variable: Variable, text: str) -> Any:
    match variable.kind:
        case "decimal" | "integer" | "seconds":
            return _number(variable, text) if text else None
        case "flag":
            if text.lower() not in ("true", "false"):
                raise ValueError(f"must be {variable.allowed()}")
            return text.lower() == "true"
        case "choice":
            found = next((c for c in variable.choices if c.lower() == text.lower()), None)
            if found is None:
                raise ValueError(f"must be {variable.allowed()}")
            return found
        case "list":
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case "secret":
            if text and (len(text) < TOKEN_LENGTH_MIN or len(set(text)) < 10):
                raise ValueError(
                    f"must have {variable.allowed()} and not be a placeholder; make one with: "
                    "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
            return text or None
        case "special":
            return _special(variable, text)
        case _:
            if "\0" in text or "\n" in text:
                raise ValueError("must be plain text on one line")
            return text or None


def _number(variable: Variable, text: str) -> Any:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"must be {variable.allowed()}") from None
    is_inside = (
        number.is_finite()
        and (variable.low is None or number >= Decimal(variable.low))
        and (variable.high is None or number <= Decimal(variable.high))
    )
    if not is_inside or (variable.kind == "integer" and number != number.to_integral_value()):
        raise ValueError(f"must be {variable.allowed()}")
    if variable.kind == "integer":
        return int(number)
    return float(number) if variable.kind == "seconds" else number


def _special(variable: Variable, text: str) -> Any:
    if variable.name == "DAILY_LOSS_LIMIT_USD":
        if text.lower() == "off":
            return Decimal(0)
        allowed = "unset (5 % of equity), a number from 0.01 to 1000000000, or off"
        low, high = "0.01", "1000000000"
    else:
        if text.lower() == "max":
            return None
        allowed, low, high = "a number from 0.01 to 1000000, or max", "0.01", "1000000"
    if not text:
        return None
    bounds = Variable(
        name=variable.name, kind="decimal", default="", meaning="", section="", target="",
        low=low, high=high,
    )  # fmt: skip
    try:
        return _number(bounds, text)
    except ValueError:
        raise ValueError(f"must be {allowed}") from None


def _cross_checks(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if values["mode"] == "live":
        problems.append(
            "MODE=live: live trading comes with the Kraken adapter; use MODE=paper for now"
        )
    file = values["replay_file"]
    if values["market_data"] == "replay" and file is None:
        problems.append("REPLAY_FILE: MARKET_DATA=replay needs a file of candles or trades")
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    if (maker is None) != (taker is None):
        problems.append("PAPER_MAKER_FEE_PCT, PAPER_TAKER_FEE_PCT: set both or neither")
    rate = FIRST_TIER.maker if maker is None else maker / HUNDRED
    margin, target = values["params.min_net_profit_pct"], values["params.profit_pct"]
    least = break_even_pct(rate) + margin
    if target < least:
        problems.append(
            f"PAIR_PROFIT_PCT={target}: must be at least {least:.3f}: break-even at "
            f"{rate * HUNDRED:.2f} % maker is {break_even_pct(rate):.3f} %, plus "
            f"MIN_NET_PROFIT_PCT {margin}"
        )
    if values["params.max_order_usd"] < values["params.order_size_usd"]:
        problems.append("MAX_ORDER_USD: must not be below ORDER_SIZE_USD")
    limit = OPEN_ORDER_LIMITS[values["kraken_tier"]]
    most = slots_max(Params(open_order_limit=limit))
    if values["params.slot_count"] > most:
        problems.append(
            f"SLOT_COUNT={values['params.slot_count']}: an open-order limit of {limit} "
            f"(KRAKEN_TIER={values['kraken_tier']}) carries at most {most}"
        )
    if values["host"] not in LOOPBACK and values["dashboard_token"] is None:
        problems.append(
            f"HOST={values['host']}: reachable from other machines; set DASHBOARD_TOKEN first"
        )
    if not re.fullmatch(r"[\w.:-]{1,253}", values["host"] or ""):
        problems.append("HOST: must be an address or a host name")
    return problems


def _settings(
    values: dict[str, Any], effective: tuple[Setting, ...], warnings: tuple[str, ...]
) -> Settings:
    limit = values["daily_loss_limit"]
    own = {k.removeprefix("params."): v for k, v in values.items() if k.startswith("params.")}
    own["pause_policy"] = PausePolicy(own["pause_policy"])
    own["risk_basis"] = RiskBasis(own["risk_basis"])
    own["imbalance_alert_min"] = float(own["imbalance_alert_min"])
    params = Params(
        **own,
        daily_loss_limit_usd=limit,
        rebalance_target=values["rebalance_target_pct"] / HUNDRED,
        rebalance_band=values["rebalance_band_pct"] / HUNDRED,
        open_order_limit=OPEN_ORDER_LIMITS[values["kraken_tier"]],
        is_simulated=True,
    )
    is_replay = values["market_data"] == "replay"
    speed = values["replay_speed"] if is_replay else values["synthetic_speed"]
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    fees = None if maker is None else FeeRates(maker=maker / HUNDRED, taker=taker / HUNDRED)
    plain_fields = (
        "mode", "bot_name", "journal_retention_days", "seed", "kraken_tier", "market_data",
        "replay_symbol", "stale_price_max_age_sec", "paper_start_quote", "paper_start_base_usd",
        "paper_preset", "paper_queue_model", "paper_spread_bps", "host", "port", "dashboard_token",
        "dashboard_read_only", "dashboard_allowed_hosts", "log_level", "log_format",
    )  # fmt: skip
    return Settings(
        params=params,
        state_db=Path(values["state_db"]),
        replay_file=Path(values["replay_file"]) if values["replay_file"] else None,
        speed=None if speed is None else float(speed),
        paper_touch_prob=float(values["paper_touch_prob"]),
        paper_fees=fees,
        effective=effective,
        warnings=warnings,
        **{name: values[name] for name in plain_fields},
    )


def env_example() -> str:
    """Return the text of `.env.example`: every setting, commented out at its default."""
    lines = ["# Copy to .env and uncomment what you change. Generated by: python config.py --write"]
    section = ""
    for v in VARIABLES:
        if v.section != section:
            section = v.section
            lines += ["", f"# ---- {section}"]
        lines += [f"# {v.meaning} ({v.allowed()})", f"#{v.name}={v.default}"]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """Return the text of `docs/CONFIGURATION.md`."""
    lines = [
        "# Configuration",
        "",
        "Settings come from the environment, or from a file `.env` beside `bot.py` (the",
        "environment wins). All problems are reported at once. Generated by: config.py --write.",
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
        (root / ".env.example").write_text(env_example())
        (root / "docs" / "CONFIGURATION.md").write_text(markdown())
    else:
        sys.stdout.write(markdown())
