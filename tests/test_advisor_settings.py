"""The advisor's settings: keys, addresses, bounds, and what has no effect."""

from pathlib import Path

import pytest

import config
from core.advice import AdviceParams
from core.ports import ConfigError
from engine.second_opinion import advisor_checks

NOWHERE = Path("/nonexistent/.env")
LOCAL = {"AI_BASE_URL": "http://127.0.0.1:11434/v1", "AI_MODEL": "llama3.1:8b"}
ON = {"AI_REGIME_ADVISOR_ENABLED": "true"}


def problem(env: dict[str, str]) -> str:
    """Return why these settings are refused."""
    with pytest.raises(ConfigError) as refused:
        config.load(env, NOWHERE)
    return str(refused.value)


def test_defaults_are_those_of_the_parameters() -> None:
    """Off, and one home for each number."""
    found = config.load({}, NOWHERE)
    assert found.params.advice == AdviceParams()
    assert (found.ai_history_size, found.ai_prefer_reasoning) == (12, True)


def test_a_local_model_is_three_lines() -> None:
    """Without a key, and without a warning."""
    found = config.load({**ON, **LOCAL}, NOWHERE)
    assert (found.ai_base_url, found.ai_model) == (LOCAL["AI_BASE_URL"], LOCAL["AI_MODEL"])
    assert found.params.advice.enabled
    assert found.warnings == ()


def test_keys_lose_the_white_space_around_them_and_are_masked(tmp_path: Path) -> None:
    """As they come out of a clipboard; within, white space is refused. From a file too."""
    env = {"GROQ_API_KEY": "  gsk_0123456789 \n", "NVIDIA_API_KEY": "\tnvapi-abcdefgh"}
    found = config.load(env, NOWHERE)
    assert (found.groq_api_key, found.nvidia_api_key) == ("gsk_0123456789", "nvapi-abcdefgh")
    assert set(found.secrets()) == {"gsk_0123456789", "nvapi-abcdefgh"}
    assert "gsk_0123456789" not in repr(found)
    text = problem({"GROQ_API_KEY": "gsk_01234 56789"})
    assert text.startswith("GROQ_API_KEY=***: must have 4 to 1024 visible ASCII characters")
    file = tmp_path / "key"
    file.write_text("own-key\n")
    file.chmod(0o600)
    assert config.load({**LOCAL, "AI_API_KEY_FILE": str(file)}, NOWHERE).ai_api_key == "own-key"


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"AI_BASE_URL": LOCAL["AI_BASE_URL"]}, "AI_BASE_URL, AI_MODEL: set both or neither"),
        ({"AI_MODEL": "m"}, "AI_BASE_URL, AI_MODEL: set both or neither"),
        ({"AI_API_KEY": "own-key"}, "AI_API_KEY=***: there is no AI_BASE_URL that it is for"),
        ({**LOCAL, "AI_BASE_URL": "http://192.168.1.5/v1"}, "https://…, or http://… of this"),
        ({**LOCAL, "AI_BASE_URL": "https://169.254.169.254/v1"}, "is no address of a model server"),
        ({**LOCAL, "AI_BASE_URL": "file:///etc/passwd"}, "https://…, or http://… of this"),
        ({"AI_OVERRIDE_TTL_SEC": "3700"}, "must not be above AI_OVERRIDE_MAX_TTL_SEC 3600"),
        ({"AI_OVERRIDE_MIN_CONVICTION": "101"}, "a whole number from 0 to 100"),
        ({"AI_REGIME_INTERVAL_SEC": "1"}, "seconds from 30 to 86400"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(env: dict[str, str], why: str) -> None:
    """Before anything starts."""
    assert why in problem(env)


@pytest.mark.parametrize(
    ("env", "why"),
    [
        (ON, "there is nobody to ask"),
        ({**ON, **LOCAL, "HMM_ENABLED": "false"}, "there is no regime to have an opinion on"),
    ],
)
def test_what_has_no_effect_is_a_warning(env: dict[str, str], why: str) -> None:
    """At the start and in check."""
    (warning,) = config.load(env, NOWHERE).warnings
    assert warning.startswith("AI_REGIME_ADVISOR_ENABLED=true: ")
    assert why in warning


def test_check_names_who_would_be_asked(tmp_path: Path) -> None:
    """In their order, without asking; off there is no line, and nobody is a failure."""
    folder = {"STATE_DB": str(tmp_path / "bot.db")}
    assert advisor_checks(config.load(folder, NOWHERE)) == []
    (line,) = advisor_checks(
        config.load({**folder, **ON, **LOCAL, "GROQ_API_KEY": "gsk_1"}, NOWHERE)
    )
    assert line.is_ok
    assert line.detail.startswith("Llama 70B (llama-3.3-70b-versatile at api.groq.com), then Llama")
    assert line.detail.endswith("then own model (llama3.1:8b at 127.0.0.1)")
    (line,) = advisor_checks(config.load({**folder, **ON}, NOWHERE))
    assert not line.is_ok
    assert "nobody to ask" in line.detail
