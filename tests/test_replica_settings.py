"""Where the replica is, and its key."""

from pathlib import Path

import pytest

import config
from core.ports import ConfigError

NOWHERE = Path("/nonexistent/.env")
SERVICE_KEY = "sb_0123456789abcdefghijklmnopqrstuvwxyz"


def test_the_replica_needs_address_and_key() -> None:
    """Both or neither; the key is masked; the address is safe or of this machine."""
    url = "https://abcdefgh.supabase.co"
    for env in ({"SUPABASE_URL": url}, {"SUPABASE_KEY": SERVICE_KEY}):
        with pytest.raises(ConfigError, match="SUPABASE_URL, SUPABASE_KEY: set both or neither"):
            config.load(env, NOWHERE)
    with pytest.raises(ConfigError, match="SUPABASE_URL"):
        config.load({"SUPABASE_URL": "http://10.0.0.1", "SUPABASE_KEY": SERVICE_KEY}, NOWHERE)
    for address in (url, "http://127.0.0.1:54321"):
        found = config.load({"SUPABASE_URL": address, "SUPABASE_KEY": SERVICE_KEY}, NOWHERE)
        assert (found.supabase_url, found.supabase_key) == (address, SERVICE_KEY)
        assert SERVICE_KEY not in repr(found)
        assert SERVICE_KEY in found.secrets()


def test_the_key_of_the_replica_comes_from_a_file(tmp_path: Path) -> None:
    """As every secret does."""
    file = tmp_path / "key"
    file.write_text(SERVICE_KEY)
    file.chmod(0o600)
    env = {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_KEY_FILE": str(file)}
    assert config.load(env, NOWHERE).supabase_key == SERVICE_KEY
