"""The configuration: every bad value named, all at once, and the generated files up to date."""

import os
import re
import stat
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import config
from core.domain import FeeRates, Instrument
from core.params import Params, PausePolicy, RegimeSource, RiskBasis
from core.ports import ConfigError
from core.record import replace
from engine.live import venue_problems
from settings.table import DEMO_KEY, DEMO_SECRET

ROOT = Path(__file__).parent.parent
NOWHERE = Path("/nonexistent/.env")
TOKEN = "Zx81-qwerty-ASDFGH-0123456789-token"
LIVE = {"MODE": "live", "LIVE_TRADING": "yes-real-money"}
KEYS = {"KRAKEN_API_KEY": TOKEN, "KRAKEN_API_SECRET": TOKEN}
BOT_TOKEN = "123456789:AAh-0123456789_abcdefghijklmnopqrstu"


def problems(env: dict[str, str], dotenv: Path = NOWHERE) -> str:
    """Return everything that is wrong with an environment."""
    with pytest.raises(ConfigError) as caught:
        config.load(env, dotenv)
    return "\n".join(caught.value.problems)


def file_of(folder: Path, text: str, *, mode: int = 0o600) -> Path:
    """Return a file that holds `text`."""
    path = folder / "some.file"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_defaults_are_valid_and_safe() -> None:
    """Without any setting: paper on the synthetic market, page on loopback."""
    made = config.load({}, NOWHERE)
    assert (made.mode, made.market_data, made.host, made.port) == (
        "paper", "synthetic", "127.0.0.1", 8080,
    )  # fmt: skip
    assert made.speed == 600.0
    assert made.dashboard_token is None
    assert made.warnings == ()
    assert {source for _, _, source in made.describe()} == {"default"}


def test_defaults_are_those_of_the_parameters() -> None:
    """The table and the record of the decisions do not drift apart."""
    assert config.load({}, NOWHERE).params == replace(Params(), hmm_enabled=True)
    assert config.BY_NAME["PAIR"].default == Instrument().pair


def test_every_variable_sets_one_field_of_its_own() -> None:
    """No two variables share a name or a target, and numbers have both bounds."""
    targets = [v.target for v in config.VARIABLES]
    assert len(set(targets)) == len(targets) == len(config.BY_NAME)
    for v in config.VARIABLES:
        is_number = v.kind in ("decimal", "integer", "float", "seconds")
        assert is_number == (v.low is not None) == (v.high is not None), v.name
        assert (v.kind == "choice") == bool(v.choices), v.name
        assert v.meaning
        assert v.name.isupper()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PORT": "x"}, "PORT='x': must be a whole number from 0 to 65535"),
        ({"PORT": "80.5"}, "PORT='80.5'"),
        ({"PORT": "65536"}, "from 0 to 65535"),
        ({"PAIR_ENTRY_PCT": "nan"}, "PAIR_ENTRY_PCT='nan'"),
        ({"PAIR_ENTRY_PCT": "Infinity"}, "PAIR_ENTRY_PCT='Infinity'"),
        ({"PAIR_ENTRY_PCT": "-1"}, "from 0.05 to 20"),
        ({"PAIR_ENTRY_PCT": "0,5"}, "a number from 0.05 to 20"),
        ({"PAIR_ENTRY_PCT": "0.5" + "1" * 50}, "a number from 0.05 to 20"),
        ({"PAIR_ENTRY_PCT": "٢"}, "a number from 0.05 to 20"),
        ({"PORT": "8_080"}, "a whole number from 0 to 65535"),
        ({"PORT": "８０"}, "a whole number from 0 to 65535"),
        ({"SEED": "1e999999999"}, "a whole number from 0 to 4294967295"),
        ({"PAIR_ENTRY_PCT": "1_0"}, "a number from 0.05 to 20"),
        ({"PAIR_ENTRY_PCT": "1e999999999"}, "a number from 0.05 to 20"),
        ({"PAIR_ENTRY_PCT": "1e-999999999"}, "a number from 0.05 to 20"),
        ({"REPLAY_SPEED": "1e9999"}, "a number from 0.01 to 1000000, or max"),
        ({"LOSS_REST_SEC": "15m"}, "seconds from 0 to 604800"),
        ({"MARKET_DATA": "moon"}, "one of synthetic, replay"),
        ({"MARKET_DATA": "replay"}, "REPLAY_FILE: MARKET_DATA=replay needs a file"),
        ({"MARKET_DATA": "replay", "REPLAY_FILE": "/nonexistent.csv"}, "there is no such file"),
        ({"REPLAY_FROM": "yesterday"}, "a date, or date and time, as 2024-08-01"),
        ({"REPLAY_FROM": "2024-13-01"}, "a date, or date and time"),
        ({"REPLAY_FROM": "20240801"}, "or seconds since 1970, from 2009 to 2100"),
        ({"REPLAY_FROM": "2024-08-01 25:00"}, "a date, or date and time"),
        ({"REPLAY_FROM": "1999-01-01"}, "from 2009 to 2100"),
        ({"REPLAY_FROM": "1" * 39}, "from 2009 to 2100"),
        ({"REPLAY_SPEED": "fast"}, "a number from 0.01 to 1000000, or max"),
        ({"REPLAY_SPEED": "0"}, "or max"),
        ({"DAILY_LOSS_LIMIT_USD": "0"}, "or off"),
        ({"DAILY_LOSS_LIMIT_USD": "none"}, "or off"),
        ({"REBALANCE_ENABLED": "maybe"}, "true or false"),
        ({"PAIR": "XBT/USD"}, "PAIR='XBT/USD': must be one of DOGE/USD"),
        ({"SLOT_ALIAS_POOL": "a, b, a"}, "distinct names"),
        ({"SLOT_ALIAS_POOL": "x" * 65}, "at most 64 characters"),
        ({"BOT_NAME": "a\nb"}, "plain text on one line"),
        ({"BOT_NAME": "<name of your bot>"}, "not a placeholder"),
        ({"STATE_DB": "/"}, "the name of a file, not a folder"),
        ({"STATE_DB": "."}, "the name of a file, not a folder"),
        ({"STATE_DB": "data/.."}, "the name of a file, not a folder"),
        ({"PAIR_PROFIT_PCT": "0.5"}, "must be above 0.903: break-even at 0.40 % maker is 0.803 %"),
        ({"PAPER_MAKER_FEE_PCT": "0.1"}, "set both or neither"),
        ({"PAPER_TAKER_FEE_PCT": "0.1"}, "set both or neither"),
        ({"PAPER_START_QUOTE": "0", "PAPER_START_BASE_USD": "0.0"}, "nothing to trade with"),
        ({"SLOT_COUNT": "20", "KRAKEN_TIER": "starter"}, "carries at most 8"),
        ({"SLOT_COUNT": "13", "KRAKEN_TIER": "intermediate"}, "carries at most 12"),
        ({"HOST": "0.0.0.0"}, "DASHBOARD_TOKEN"),
        ({"HOST": "here and there"}, "an address or a host name"),
        ({"DASHBOARD_ALLOWED_HOSTS": "good.example, http://bad"}, "'http://bad' is no host name"),
        ({"DASHBOARD_TOKEN": "short"}, "at least 32 visible ASCII characters"),
        ({"DASHBOARD_TOKEN": "x" * 40}, "placeholder; make one: python3"),
        ({"KRAKEN_API_KEY": "x" * 40}, "copy it whole from where it was issued"),
        ({"DASHBOARD_TOKEN": "change-me-0123456789-abcdefghijklm"}, "placeholder"),
        ({"DASHBOARD_TOKEN": "<your token of 32 characters here>"}, "placeholder"),
        ({"DASHBOARD_TOKEN": "ümlaut" + TOKEN}, "visible ASCII characters"),
        ({"DASHBOARD_TOKEN": TOKEN, "DASHBOARD_TOKEN_FILE": "x"}, "both are set; set one"),
        ({"DASHBOARD_TOKEN_FILE": "/nonexistent/token"}, "cannot be read"),
        ({"DASHBOARD_TOKEN_FILE": "a\0b"}, "cannot be read"),
        ({"DASHBOARD_TOKEN_FILE": "/dev/null"}, "is empty"),
        (LIVE, "KRAKEN_API_KEY, KRAKEN_API_SECRET: MODE=live needs both"),
        ({**LIVE, "KRAKEN_API_KEY": TOKEN}, "KRAKEN_API_SECRET: MODE=live needs both"),
        ({**LIVE, **KEYS, "LIVE_TRADING": "yes"}, "set it to yes-real-money"),
        ({**LIVE, **KEYS, "MARKET_DATA": "synthetic"}, "needs MARKET_DATA=kraken"),
        ({**LIVE, **KEYS, "KRAKEN_API_URL": "http://example.com"}, "http://… of this machine"),
        ({"NOTIFY_WEBHOOK_URL": "http://example.com/x"}, "https://…, or http://… of this machine"),
        ({"NOTIFY_WEBHOOK_URL": "ftp://example.com/x"}, "https://…"),
        ({"NOTIFY_WEBHOOK_URL": "https://me:pw@example.com/x"}, "without a user name"),
        ({"NOTIFY_WEBHOOK_URL": "http://localhost@evil.example/x"}, "without a user name"),
        ({"NOTIFY_WEBHOOK_URL": "http://localhost.evil.example/x"}, "https://…"),
        ({"NOTIFY_WEBHOOK_URL": "https://example.com\\@x/"}, "https://…"),
        ({"NOTIFY_WEBHOOK_URL": "https://example.com:99999/x"}, "https://…"),
        ({"NOTIFY_WEBHOOK_URL": "https:///x"}, "https://…"),
        ({"NOTIFY_WEBHOOK_URL": "https://exämple.com/"}, "https://…"),
        ({"TELEGRAM_API_URL": "http://api.telegram.org"}, "https://…"),
        ({"TELEGRAM_BOT_TOKEN": BOT_TOKEN}, "TELEGRAM_CHAT_ID: set both or neither"),
        ({"TELEGRAM_CHAT_ID": "5"}, "TELEGRAM_CHAT_ID: set both or neither"),
        ({"TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_CHAT_ID": "5"}, "as BotFather gives it"),
        ({"TELEGRAM_BOT_TOKEN": BOT_TOKEN, "TELEGRAM_CHAT_ID": "@me"}, "the chat's number"),
        ({"TELEGRAM_BOT_TOKEN": BOT_TOKEN, "TELEGRAM_CHAT_ID": "0"}, "the chat's number"),
        ({"ORDER_SIZE_USD": "500"}, "MAX_ORDER_USD=200: must not be below ORDER_SIZE_USD 500"),
        ({"HMM_TRAINING_CANDLES": "400"}, "HMM_MIN_TRAIN_SAMPLES=500: must not be above HMM_TR"),
        (
            {"HMM_SECONDARY_MIN_TRAIN_SAMPLES": "1441"},
            "must not be above HMM_SECONDARY_TRAINING_CANDLES 1440: nothing would ever be trained",
        ),
        (
            {"REGIME_TIER1_CONFIDENCE": "0.5"},
            "REGIME_TIER1_CONFIDENCE=0.5: must not reach REGIME_TIER2_CONFIDENCE, which is 0.5",
        ),
        ({"REGIME_TIER2_BIAS": "0.1"}, "REGIME_TIER1_BIAS=0.1: must not reach REGIME_TIER2_BIAS"),
        ({"REGIME_HYSTERESIS": "0.2"}, "must not reach REGIME_TIER1_CONFIDENCE, which is 0.2"),
        ({"REGIME_MANUAL_OVERRIDE": "UP"}, "must be one of BULLISH, BEARISH"),
    ],
)
def test_bad_values_say_what_is_wrong_and_allowed(env: dict[str, str], expected: str) -> None:
    """Each problem names its variable and what would do."""
    text = problems(env)
    assert expected in text
    assert any(name in text for name in env)
    assert len(text.splitlines()) == 1


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Bad values, bad combinations, unknown names and unreadable lines, in one go."""
    dotenv = file_of(tmp_path, "PAIR_PROFT_PCT=3\nnot a setting\n")
    env = {"PORT": "x", "SEED": "-1", "LOG_LEVEL": "LOUD", "MODE": "live", "HOST": "0.0.0.0"}
    text = problems(env, dotenv)
    assert len(text.splitlines()) == 8
    for part in (*env, "PAIR_PROFT_PCT", "line 2"):
        assert part in text


def test_a_check_on_what_could_not_be_read_is_left_out() -> None:
    """A value with a problem of its own does not cause another one."""
    text = problems({"ORDER_SIZE_USD": "many", "SLOT_COUNT": "x", "PAIR_PROFIT_PCT": "y"})
    assert len(text.splitlines()) == 3


def test_the_profit_target_is_measured_against_the_fee_in_force() -> None:
    """A flat fee of 0.1 % admits a target that the first tier does not."""
    fees = {"PAPER_MAKER_FEE_PCT": "0.1", "PAPER_TAKER_FEE_PCT": "0.2"}
    made = config.load({"PAIR_PROFIT_PCT": "0.5", **fees}, NOWHERE)
    assert made.paper_fees == FeeRates(maker=Decimal("0.001"), taker=Decimal("0.002"))
    free = {"PAPER_MAKER_FEE_PCT": "0", "PAPER_TAKER_FEE_PCT": "0"}
    assert "must be above 0.100" in problems({"PAIR_PROFIT_PCT": "0.10", **free})
    assert config.load({"PAIR_PROFIT_PCT": "0.11", **free}, NOWHERE).params.profit_pct


def test_words_and_units_reach_the_parameters() -> None:
    """Percent stays percent, shares become fractions, words their values."""
    env = {
        "DAILY_LOSS_LIMIT_USD": "OFF", "SYNTHETIC_SPEED": "max", "REBALANCE_TARGET_PCT": "60",
        "REBALANCE_ENABLED": "True", "PAUSE_POLICY": "Stay", "RISK_BASIS": "account",
        "KRAKEN_TIER": "starter", "SLOT_ALIAS_POOL": "ada, bob,,", "IMBALANCE_ALERT_MIN": "5",
    }  # fmt: skip
    made = config.load(env, NOWHERE)
    assert made.speed is None
    assert made.params.daily_loss_limit_usd == 0
    assert made.params.rebalance_target == Decimal("0.6")
    assert made.params.rebalance_enabled is True
    assert made.params.pause_policy is PausePolicy.STAY
    assert made.params.risk_basis is RiskBasis.ACCOUNT
    assert made.params.open_order_limit == 60
    assert made.params.slot_aliases == ("ada", "bob")
    assert isinstance(made.params.imbalance_alert_min, float)
    assert config.load({"DAILY_LOSS_LIMIT_USD": "25"}, NOWHERE).params.daily_loss_limit_usd == 25


def test_the_models_run_by_themselves_on_the_synthetic_market_only() -> None:
    """What is unset follows the market; a set value holds everywhere."""
    for env, expected in (
        ({}, True),
        ({"HMM_ENABLED": "false"}, False),
        ({"MARKET_DATA": "kraken"}, False),
        ({"MARKET_DATA": "kraken", "HMM_ENABLED": "true"}, True),
        ({**LIVE, **KEYS}, False),
    ):
        assert config.load(env, NOWHERE).params.hmm_enabled is expected, env


def test_regime_settings_reach_decisions_and_models() -> None:
    """Decisions take theirs from the parameters, models from a record of their own."""
    env = {
        "REGIME_MANUAL_OVERRIDE": "bearish", "HMM_MULTI_TIMEFRAME_SOURCE": "primary",
        "HMM_TRAINING_CANDLES": "720", "HMM_DEEP_DECAY_ENABLED": "true", "HMM_ENABLED": "false",
        "REGIME_DIRECTIONAL_ENABLED": "true",
    }  # fmt: skip
    made = config.load(env, NOWHERE)
    assert made.params.regime_manual_override == 0
    assert made.params.hmm_multi_timeframe_source is RegimeSource.PRIMARY
    assert made.hmm == config.HmmSettings(
        training_candles=720, secondary_training_candles=1440, starts=3, label_z=2.0,
        bias_gain=1.0, deep_decay_enabled=True, deep_decay_halflife=1440,
    )  # fmt: skip


def test_a_replay_has_a_speed_of_its_own(tmp_path: Path) -> None:
    """REPLAY_SPEED counts with MARKET_DATA=replay, SYNTHETIC_SPEED else."""
    path = tmp_path / "candles.csv"
    path.write_text("")
    env = {"MARKET_DATA": "replay", "REPLAY_FILE": str(path), "REPLAY_SYMBOL": "XDGUSD"}
    made = config.load(env, NOWHERE)
    assert (made.speed, made.replay_file, made.replay_symbol) == (60.0, path, "XDGUSD")


@pytest.mark.parametrize(
    "text",
    ["2024-08-01", "2024-08-01 00:00", "2024-08-01T00:00:00Z", "2024-08-01T02:00+02:00",
     "1722470400", "1722470400.0"],
)  # fmt: skip
def test_a_time_is_a_date_in_utc_or_seconds(text: str) -> None:
    """A time zone may be named; unset is None."""
    assert config.load({"REPLAY_FROM": text}, NOWHERE).replay_from == 1_722_470_400.0
    assert config.load({}, NOWHERE).replay_from is None


def test_prices_grow_stale_with_the_interval_of_the_market() -> None:
    """Unset: 60 s for trades, twice the interval for candles; a set age is a least age."""
    made = config.load({}, NOWHERE)
    assert made.stale_price_max_age_sec is None
    assert (made.stale_after(1.0), made.stale_after(300.0)) == (60.0, 600.0)
    made = config.load({"STALE_PRICE_MAX_AGE_SEC": "90"}, NOWHERE)
    assert (made.stale_after(1.0), made.stale_after(300.0)) == (90.0, 600.0)


def test_unknown_names_are_errors_in_the_file_and_warnings_outside(tmp_path: Path) -> None:
    """A typo in .env stops the start with a suggestion; in the environment it is a warning."""
    for typo in ("PAIR_PROFT_PCT", "pair_profit_pct"):
        text = problems({}, file_of(tmp_path, f"{typo}=3\n"))
        assert "did you mean PAIR_PROFIT_PCT?" in text
    assert "did you mean" not in problems({}, file_of(tmp_path, "COLOUR=red\n"))
    made = config.load({"PAIR_PROFT_PCT": "3", "UNRELATED": "1", "PATH": "/bin"}, NOWHERE)
    assert [w.split(":")[0] for w in made.warnings] == ["PAIR_PROFT_PCT"]
    assert "did you mean PAIR_PROFIT_PCT?" in made.warnings[0]


def test_the_environment_wins_over_the_file_and_white_space_is_stripped(tmp_path: Path) -> None:
    """Sources are recorded; an empty value counts as unset."""
    dotenv = file_of(tmp_path, "SEED= 5 \nPORT=9000\nBOT_NAME=\n")
    made = config.load({"SEED": " 7\n", "PORT": " "}, dotenv)
    assert (made.seed, made.port, made.bot_name) == (7, 9000, "grid")
    shown = {name: (value, source) for name, value, source in made.describe()}
    assert shown["SEED"] == ("7", "environment")
    assert shown["PORT"] == ("9000", ".env")
    assert shown["BOT_NAME"] == ("grid", "default")
    assert list(shown) == [v.name for v in config.VARIABLES]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"SEED 5\n", "line 1: cannot be read; write NAME=value"),
        (b"PORT=9000\nSEED\n", "line 2: cannot be read"),
        (b"SEED=5\nSEED=6\n", "SEED: given twice"),
        (b"BOT_NAME='open\n", "line 1: cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_line_of_the_file_is_never_skipped_in_silence(
    tmp_path: Path, raw: bytes, expected: str
) -> None:
    """What cannot be read in .env stops the start."""
    path = tmp_path / ".env"
    path.write_bytes(raw)
    assert expected in problems({}, path)


def test_a_folder_is_no_env_file(tmp_path: Path) -> None:
    """A folder in its place (a container's mistaken mount) is a problem, a missing file is not."""
    assert "cannot be read" in problems({}, tmp_path)
    assert config.load({}, tmp_path / "missing").seed == 1


def test_the_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    """A byte-order mark, quotes, comments and `export` are understood; `${…}` is not expanded."""
    path = tmp_path / ".env"
    path.write_bytes(b"\xef\xbb\xbfSEED=3 # three\nexport PORT='81'\nBOT_NAME=${HOME}\n")
    made = config.load({}, path)
    assert (made.seed, made.port, made.bot_name) == (3, 81, "${HOME}")


def test_relative_paths_are_those_of_whoever_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `.env` and by default relative to its folder; in the environment to the current one."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
        (folder / "candles.csv").write_text("x")
        file_of(folder, TOKEN if folder is home else TOKEN[::-1])
    monkeypatch.chdir(elsewhere)
    dotenv = home / ".env"
    assert config.load({}, dotenv).state_db == home / "data" / "bot.db"
    dotenv.write_text("STATE_DB=a/b.db\nREPLAY_FILE=candles.csv\nDASHBOARD_TOKEN_FILE=some.file\n")
    made = config.load({}, dotenv)
    assert (made.state_db, made.replay_file) == (home / "a" / "b.db", home / "candles.csv")
    assert made.dashboard_token == TOKEN
    env = {"STATE_DB": "c/d.db", "REPLAY_FILE": "candles.csv", "DASHBOARD_TOKEN_FILE": "some.file"}
    made = config.load(env, dotenv)
    assert made.state_db.absolute() == elsewhere / "c" / "d.db"
    assert made.replay_file is not None
    assert made.replay_file.absolute() == elsewhere / "candles.csv"
    assert made.dashboard_token == TOKEN[::-1]
    assert config.load({"STATE_DB": str(tmp_path / "e.db")}, dotenv).state_db == tmp_path / "e.db"
    (home / "candles.csv").unlink()
    (home / "candles.csv").mkdir()
    assert "not a folder" in problems({}, dotenv)


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    """Not in what is described, printed or complained about."""
    made = config.load({"DASHBOARD_TOKEN": TOKEN, "HOST": "0.0.0.0"}, NOWHERE)
    assert made.dashboard_token == TOKEN
    assert ("DASHBOARD_TOKEN", "***", "environment") in made.describe()
    for text in (repr(made), str(made), f"{made}", repr(made.effective), repr(made.describe())):
        assert TOKEN not in text
    for bad in ("shortie", TOKEN + " " + TOKEN):
        assert bad not in problems({"DASHBOARD_TOKEN": bad})
        assert bad not in problems({"DASHBOARD_TOKEN_FILE": str(file_of(tmp_path, bad))})


def test_an_address_that_is_a_secret_is_masked_too(tmp_path: Path) -> None:
    """The address of a webhook and the token of a bot stand in no text."""
    path = file_of(tmp_path, "https://hooks.example/T0/B0/zzSECRETzz\n")
    env = {"TELEGRAM_BOT_TOKEN": BOT_TOKEN, "TELEGRAM_CHAT_ID": "-10012"}
    made = config.load({**env, "NOTIFY_WEBHOOK_URL_FILE": str(path)}, NOWHERE)
    assert made.secrets() == ("https://hooks.example/T0/B0/zzSECRETzz", BOT_TOKEN)
    assert ("NOTIFY_WEBHOOK_URL", "***", "file") in made.describe()
    for text in (repr(made), repr(made.describe())):
        assert "zzSECRETzz" not in text
        assert BOT_TOKEN not in text
    assert "zzSECRETzz" not in problems({"NOTIFY_WEBHOOK_URL": "http://hooks.example/zzSECRETzz"})
    assert BOT_TOKEN not in problems({"TELEGRAM_BOT_TOKEN": BOT_TOKEN + "/x", **{"SEED": "x"}})


def test_secrets_come_from_files(tmp_path: Path) -> None:
    """A token file is read; the environment's file wins over the value in .env."""
    path = file_of(tmp_path, f" {TOKEN}\n")
    made = config.load({"DASHBOARD_TOKEN_FILE": str(path)}, NOWHERE)
    assert made.dashboard_token == TOKEN
    assert made.warnings == ()
    assert ("DASHBOARD_TOKEN", "***", "file") in made.describe()
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"DASHBOARD_TOKEN={TOKEN[::-1]}\n")
    dotenv.chmod(0o600)
    assert config.load({"DASHBOARD_TOKEN_FILE": str(path)}, dotenv).dashboard_token == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_files_open_to_others_are_a_warning_on_paper_and_refused_live(
    tmp_path: Path, mode: int
) -> None:
    """The same for a token file and for a .env that holds the token."""
    path = file_of(tmp_path, TOKEN, mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    env = {"DASHBOARD_TOKEN_FILE": str(path)}
    assert "chmod 600" in config.load(env, NOWHERE).warnings[0]
    assert "chmod 600" in problems({**env, "MODE": "live"})
    dotenv = file_of(tmp_path, f"DASHBOARD_TOKEN={TOKEN}\n", mode=mode)
    assert "chmod 600" in config.load({}, dotenv).warnings[0]
    assert "chmod 600" in problems({"MODE": "live"}, dotenv)
    harmless = file_of(tmp_path, "SEED=2\n", mode=mode)
    assert config.load({}, harmless).warnings == ()


names = st.sampled_from(
    [v.name for v in config.VARIABLES] + ["DASHBOARD_TOKEN_FILE", "PAIR_X", "ANY"]
)
texts = st.text(max_size=40) | st.decimals().map(str) | st.integers().map(str)
files = st.binary(max_size=200) | st.dictionaries(names, texts, max_size=4).map(
    lambda found: "\n".join(f"{k}={v}" for k, v in found.items()).encode("utf-8", "replace")
)


@given(st.dictionaries(names, texts, max_size=4), files)
@example({"DASHBOARD_TOKEN_FILE": "\0"}, b"")
@example({"STATE_DB": "\ud800"}, b"")
@example({"STATE_DB": "a/" * 300 + "x" * 300, "REPLAY_FILE": "x" * 900}, b"")
@example({"PAIR_ENTRY_PCT": "sNaN", "SEED": "1" * 5000}, b"")
@settings(max_examples=400, deadline=None)
def test_load_is_total(
    tmp_path_factory: pytest.TempPathFactory, env: dict[str, str], raw: bytes
) -> None:
    """Whatever the text, load returns usable settings or raises ConfigError."""
    path = tmp_path_factory.getbasetemp() / "fuzz.env"
    path.write_bytes(raw)
    with suppress(ConfigError):
        made = config.load(env, path)
        assert made.params.slot_count >= 1
        assert made.paper_db() != made.state_db
        assert made.stale_after(60.0) >= 60.0


@pytest.mark.parametrize("variable", config.VARIABLES, ids=lambda v: v.name)
def test_documented_bounds_are_the_real_ones(variable: config.Variable) -> None:
    """The outer values pass the parser, one beyond does not."""
    if variable.low is None or variable.high is None:
        return
    for text, beyond in ((variable.low, -1), (variable.high, 1)):
        own = problem_of(variable, text)
        assert own == "", own
        assert f"from {variable.low} to {variable.high}" in problem_of(
            variable, format(Decimal(text) + beyond, "f")
        )


def problem_of(variable: config.Variable, text: str) -> str:
    """Return what is wrong with the text of one variable alone, cross-checks aside."""
    try:
        config.load({variable.name: text}, NOWHERE)
    except ConfigError as error:
        return "\n".join(p for p in error.problems if f"{variable.name}={text!r}: must be " in p)
    return ""


def test_generated_files_are_up_to_date() -> None:
    """`.env.example` and the documentation follow the table; run config.py --write."""
    assert (ROOT / ".env.example").read_text() == config.generate_env_example()
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text() == config.generate_markdown()


@pytest.mark.parametrize("variable", config.VARIABLES, ids=lambda v: v.name)
def test_every_setting_is_used(variable: config.Variable) -> None:
    """What can be set is read somewhere besides its own line and its default."""
    name = re.compile(rf"\b{variable.target.rpartition('.')[2]}\b")
    assert any(name.search(text) for text in _sources())


@cache
def _sources() -> tuple[str, ...]:
    found = [*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/*.py")]
    return tuple(
        x.read_text()
        for x in found
        if x.parent.name not in ("tests", "settings") and x.name != "params.py"
    )


def test_the_example_file_is_a_valid_env_file(tmp_path: Path) -> None:
    """Uncommented as it stands, it is the default configuration."""
    text = re.sub(r"(?m)^#(?=[A-Z])", "", config.generate_env_example())
    made = config.load({}, file_of(tmp_path, text))
    assert made.params == config.load({}, NOWHERE).params
    assert "#PORT=8080" in config.generate_env_example()


def test_the_module_prints_its_documentation() -> None:
    """`python config.py` shows the table."""
    command = [sys.executable, str(ROOT / "config.py")]
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert shown == config.generate_markdown()


def test_live_takes_prices_from_kraken_and_a_sandbox_of_this_machine_has_demo_keys() -> None:
    """What is unset follows the mode; no phrase is asked for where no money is."""
    real = config.load({**LIVE, **KEYS}, NOWHERE)
    assert (real.market_data, real.kraken_tier, real.poll_sec) == ("kraken", "starter", 20)
    assert not real.params.is_simulated
    assert real.params.open_order_limit == 60
    sandbox = config.load({"MODE": "live", "KRAKEN_API_URL": "http://127.0.0.1:8090"}, NOWHERE)
    assert (sandbox.kraken_api_key, sandbox.kraken_api_secret) == (DEMO_KEY, DEMO_SECRET)
    paper = config.load({}, NOWHERE)
    assert (paper.market_data, paper.kraken_tier, paper.poll_sec) == ("synthetic", "pro", 5)
    assert paper.kraken_api_key is None
    assert TOKEN not in repr(real)


def test_every_problem_is_told_at_once_those_of_address_and_keys_too() -> None:
    """What the exchange's client would refuse stands among the other problems, without the keys."""
    env = {
        **LIVE, **KEYS, "KRAKEN_API_SECRET": "this-is-no-base64-at-all!-this-is-no-base64",
        "KRAKEN_API_URL": "https://elsewhere.example", "PORT": "x", "SLOT_COUNT": "0",
    }  # fmt: skip
    with pytest.raises(ConfigError) as raised:
        config.load(env, NOWHERE, (venue_problems,))
    text = "\n".join(raised.value.problems)
    for words in (
        "PORT='x'", "SLOT_COUNT='0'", "not one that a key may be sent to", "is not base64 text",
    ):  # fmt: skip
        assert words in text
    assert env["KRAKEN_API_SECRET"] not in text
    assert list(venue_problems({})) == []


def test_what_is_for_simulation_only_is_a_warning_live() -> None:
    """Set and without effect: the names are told; on paper and by default nothing is."""
    idle = {"SEED": "3", "PAPER_PRESET": "optimistic", "PAPER_TOUCH_PROB": "0.1"}
    live = config.load({**LIVE, **KEYS, **idle, "REPLAY_SPEED": "max"}, NOWHERE)
    (warning,) = live.warnings
    names = "SEED, REPLAY_SPEED, PAPER_PRESET, PAPER_TOUCH_PROB"
    assert warning == f"{names}: no effect with MODE=live, which is no simulation"
    assert config.load({**LIVE, **KEYS}, NOWHERE).warnings == ()
    assert config.load({"SEED": "3", "PAPER_PRESET": "optimistic"}, NOWHERE).warnings == ()


def test_a_file_s_settings_without_the_file_are_a_warning() -> None:
    """Who sets where a file begins, and forgets MARKET_DATA=replay, is told."""
    env = {"REPLAY_FILE": __file__, "REPLAY_FROM": "2024-08-01"}
    (warning,) = config.load(env, NOWHERE).warnings
    assert warning == "REPLAY_FILE, REPLAY_FROM: no effect with MARKET_DATA=synthetic"
    assert config.load({**env, "MARKET_DATA": "replay"}, NOWHERE).warnings == ()


def test_tiers_without_a_regime_are_a_warning() -> None:
    """Models switched off in haste must not keep the daemon from starting."""
    env = {"REGIME_DIRECTIONAL_ENABLED": "true", "HMM_ENABLED": "false"}
    (warning,) = config.load(env, NOWHERE).warnings
    assert warning.startswith("REGIME_DIRECTIONAL_ENABLED=true: no effect, there is no regime")
    assert config.load({**env, "HMM_ENABLED": "true"}, NOWHERE).warnings == ()
    assert config.load({**env, "REGIME_MANUAL_OVERRIDE": "BULLISH"}, NOWHERE).warnings == ()


@pytest.mark.parametrize(
    ("host", "page"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("localhost", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("192.0.2.7", "http://192.0.2.7:80"),
    ],
)
def test_the_address_of_the_page_is_one_that_is_bound(host: str, page: str) -> None:
    """`localhost` may lead to ::1 first, where another program may listen: it is not printed."""
    made = config.load({"HOST": host, "DASHBOARD_TOKEN": TOKEN}, NOWHERE)
    assert made.page_url(80) == page
