"""The configuration: every bad value named, all at once, and the generated files up to date."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from core.ports import ConfigError

ROOT = Path(__file__).parent.parent
NOWHERE = Path("/nonexistent/.env")


def problems(env: dict[str, str], dotenv: Path = NOWHERE) -> str:
    """Return everything that is wrong with an environment."""
    with pytest.raises(ConfigError) as caught:
        config.load(env, dotenv)
    return "\n".join(caught.value.problems)


def test_defaults_are_valid_and_safe() -> None:
    """Without any setting: paper on the synthetic market, page on loopback."""
    made = config.load({}, NOWHERE)
    assert (made.mode, made.market_data, made.host, made.port) == (
        "paper", "synthetic", "127.0.0.1", 8080,
    )  # fmt: skip
    assert made.params.open_order_limit == 225
    assert made.speed == 600.0


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"PORT": "x"}, "PORT='x': must be a whole number from 0 to 65535"),
        ({"PORT": "80.5"}, "PORT"),
        ({"PAIR_ENTRY_PCT": "nan"}, "PAIR_ENTRY_PCT='nan'"),
        ({"PAIR_ENTRY_PCT": "-1"}, "from 0.05 to 20"),
        ({"MARKET_DATA": "moon"}, "one of synthetic, replay"),
        ({"MARKET_DATA": "replay"}, "REPLAY_FILE"),
        ({"REPLAY_SPEED": "fast"}, "or max"),
        ({"DAILY_LOSS_LIMIT_USD": "0"}, "or off"),
        ({"REBALANCE_ENABLED": "maybe"}, "true or false"),
        ({"PAIR_PROFIT_PCT": "0.5"}, "must be at least 0.903"),
        ({"PAPER_MAKER_FEE_PCT": "0.1"}, "set both or neither"),
        ({"SLOT_COUNT": "20", "KRAKEN_TIER": "starter"}, "carries at most 8"),
        ({"HOST": "0.0.0.0"}, "DASHBOARD_TOKEN"),
        ({"DASHBOARD_TOKEN": "short"}, "at least 32 characters"),
        ({"DASHBOARD_TOKEN": "x" * 40}, "placeholder"),
        ({"MODE": "live"}, "Kraken adapter"),
        ({"ORDER_SIZE_USD": "500"}, "MAX_ORDER_USD"),
    ],
)
def test_bad_values_say_what_is_wrong_and_allowed(env: dict[str, str], expected: str) -> None:
    """Each problem names its variable and what would do."""
    assert expected in problems(env)


def test_all_problems_are_reported_at_once() -> None:
    """Three mistakes, three lines."""
    text = problems({"PORT": "x", "SEED": "-1", "LOG_LEVEL": "LOUD"})
    assert len(text.splitlines()) == 3


def test_unknown_names_are_errors_in_the_file_and_warnings_outside(tmp_path: Path) -> None:
    """A typo in .env stops the start with a suggestion; in the environment it is a warning."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("PAIR_PROFT_PCT=3\n")
    assert "did you mean PAIR_PROFIT_PCT?" in problems({}, dotenv)
    made = config.load({"PAIR_PROFT_PCT": "3", "UNRELATED": "1"}, NOWHERE)
    assert [w.split(":")[0] for w in made.warnings] == ["PAIR_PROFT_PCT"]


def test_the_environment_wins_over_the_file_and_white_space_is_stripped(tmp_path: Path) -> None:
    """Sources are recorded."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("SEED= 5 \nPORT=9000\n")
    made = config.load({"SEED": " 7\n"}, dotenv)
    assert (made.seed, made.port) == (7, 9000)
    sources = {x.name: x.source for x in made.effective}
    assert (sources["SEED"], sources["PORT"], sources["HOST"]) == ("environment", ".env", "default")


def test_secrets_come_from_files_and_are_masked(tmp_path: Path) -> None:
    """A token file is read, a loose mode is a warning, the value is never shown."""
    token = "Zx81-qwerty-ASDFGH-0123456789-token"
    path = tmp_path / "token"
    path.write_text(token + "\n")
    path.chmod(0o644)
    made = config.load({"DASHBOARD_TOKEN_FILE": str(path), "HOST": "0.0.0.0"}, NOWHERE)
    assert made.dashboard_token == token
    assert "chmod 600" in made.warnings[0]
    assert token not in repr(made.effective)
    assert "shortie" not in problems({"DASHBOARD_TOKEN": "shortie"})


names = st.sampled_from([v.name for v in config.VARIABLES])
values = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40)


@given(st.dictionaries(names, values, max_size=4))
@settings(max_examples=300, deadline=None)
def test_load_is_total(env: dict[str, str]) -> None:
    """Whatever the text, load returns settings or raises ConfigError."""
    with suppress(ConfigError):
        assert config.load(env, NOWHERE).params.slot_count >= 1


def test_generated_files_are_up_to_date() -> None:
    """`.env.example` and the documentation follow the table; run config.py --write."""
    assert (ROOT / ".env.example").read_text() == config.env_example()
    assert (ROOT / "docs" / "CONFIGURATION.md").read_text() == config.markdown()


def test_every_setting_is_consumed() -> None:
    """Each field that a variable sets is read somewhere outside config.py."""
    text = "\n".join(
        path.read_text()
        for path in ROOT.rglob("*.py")
        if ".venv" not in path.parts and "tests" not in path.parts
        if path.name not in ("config.py", "params.py")
    )
    derived = {
        "replay_speed": "speed", "synthetic_speed": "speed", "paper_maker_fee_pct": "paper_fees",
        "paper_taker_fee_pct": "paper_fees", "rebalance_target_pct": "rebalance_target",
        "rebalance_band_pct": "rebalance_band", "daily_loss_limit": "daily_loss_limit_usd",
        "stale_price_max_age_sec": "stale_after", "mode": "exchange_mode",
    }  # fmt: skip
    unread = [
        v.name
        for v in config.VARIABLES
        if not re.search(rf"\.?{derived.get(v.target, v.target.removeprefix('params.'))}\b", text)
    ]
    assert unread == []
