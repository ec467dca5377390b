"""Settings: the only reader of the environment.

Each variable has a name, a kind, bounds, a default and one line of meaning in `VARIABLES`; all
problems are reported at once. `python config.py --write` generates `.env.example` and
`docs/CONFIGURATION.md` from the same table. Only programs may import this module.
"""

import io
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from dotenv.parser import parse_stream

from core.advice import AdviceParams
from core.domain import HUNDRED, FeeRates
from core.hosts import host_of, is_here
from core.kelly import KellyConfig
from core.params import Params, PausePolicy, RegimeSource, RiskBasis
from core.ports import ConfigError
from core.record import Record, parse_regime
from settings.checks import CHECKS, Check, Known, hmm_enabled, idle, market_of, tier_of
from settings.names import meant_by, suggestion
from settings.table import (
    BY_NAME,
    DEMO_KEY,
    DEMO_SECRET,
    OPEN_ORDER_LIMITS,
    VARIABLES,
)
from settings.variable import Variable, value_of

__all__ = [
    "BY_NAME", "VARIABLES", "Setting", "Settings", "Variable", "generate_env_example",
    "generate_markdown", "load",
]  # fmt: skip

PREFIXES = (
    "AI_", "CAPITAL_", "CONSENSUS_", "DASHBOARD_", "ENTRY_BACKOFF_", "HMM_",
    "JOURNAL_RETENTION_", "KELLY_", "KRAKEN_", "LOSS_", "MODEL_LATENCY_", "NOTIFY_WEBHOOK_",
    "ORPHAN_", "PAIR_",
    "PAPER_", "REBALANCE_", "REENTRY_", "REGIME_",
    "REPLAY_", "S1_ORPHAN_", "S2_ORPHAN_", "SLOT_", "STALE_PRICE_", "SYNTHETIC_",
    "TELEGRAM_",
)  # fmt: skip


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
    ai_history_size: int
    ai_prefer_reasoning: bool
    nvidia_api_key: str | None
    groq_api_key: str | None
    ai_kimi_model: str
    ai_llama_70b_model: str
    ai_llama_8b_model: str
    ai_base_url: str | None
    ai_model: str | None
    ai_api_key: str | None
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


def environment() -> dict[str, str]:
    """Return the environment of this process."""
    return dict(os.environ)


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
    for check in (*CHECKS, *further_checks):
        found.problems.extend(check(Known(values)))
    if found.problems:
        raise ConfigError(found.problems)
    found.warnings.extend(idle(values, sources))
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
    where = found.problems if is_live else found.warnings
    with suppress(OSError, ValueError):  # what cannot be read has been reported
        if path.is_symlink():
            where.append(f"{what} is a link; it must be the file itself")
        file = path.stat()
        if file.st_uid not in (0, os.getuid()):
            where.append(f"{what} belongs to another user; chown it to this one")
        if file.st_mode & 0o077:
            where.append(f"{what} is open to other users; chmod 600 it")


def _keys(values: Mapping[str, Any]) -> dict[str, str | None]:
    """Return key and private key; without any, a sandbox on this machine gets its demo keys."""
    key, secret = values["kraken_api_key"], values["kraken_api_secret"]
    if values["mode"] == "live" and key is None and is_here(host_of(values["kraken_api_url"])):
        key, secret = DEMO_KEY, DEMO_SECRET
    return {"kraken_api_key": key, "kraken_api_secret": secret}


def _settings(
    values: dict[str, Any], effective: tuple[Setting, ...], warnings: tuple[str, ...]
) -> Settings:
    is_live = values["mode"] == "live"
    market = market_of(values)
    chosen = {k.removeprefix("params."): v for k, v in values.items() if k.startswith("params.")}
    chosen["pause_policy"] = PausePolicy(chosen["pause_policy"])
    chosen["risk_basis"] = RiskBasis(chosen["risk_basis"])
    source = RegimeSource(chosen["hmm_multi_timeframe_source"])
    chosen["hmm_multi_timeframe_source"] = source
    hmm = {k.removeprefix("hmm."): v for k, v in values.items() if k.startswith("hmm.")}
    kelly = {k.removeprefix("kelly."): v for k, v in values.items() if k.startswith("kelly.")}
    advice = {k.removeprefix("advice."): v for k, v in values.items() if k.startswith("advice.")}
    params = Params(
        **chosen,
        kelly=KellyConfig(**kelly),
        advice=AdviceParams(**advice),
        hmm_enabled=hmm_enabled(Known(values)),
        regime_manual_override=parse_regime(values["regime_manual_override"]),
        rebalance_target=values["rebalance_target_pct"] / HUNDRED,
        rebalance_band=values["rebalance_band_pct"] / HUNDRED,
        open_order_limit=OPEN_ORDER_LIMITS[tier_of(values)],
        is_simulated=market != "kraken",
    )
    own: dict[str, Any] = {
        "market_data": market,
        "kraken_tier": tier_of(values),
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
        "secret may also come from a file, named by `<NAME>_FILE`. A file that holds one, `.env`",
        "too, must be this user's own, closed to others (mode 0600) and no link: else it is",
        "refused with `MODE=live`, and a warning on paper. A relative path in `.env`, or by",
        "default, is relative to the folder of `bot.py`; one given in the environment to the",
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
