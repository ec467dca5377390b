"""Fixtures of several test modules: a real PostgreSQL, and the door in front of it."""

from collections.abc import Iterator

import pytest

from tests.postgrest_shim import Postgres, Shim, door, why_not
from tools.supabase_schema import schema


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Yield a running server; without one on this machine the test is skipped and says so."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def shim(postgres: Postgres) -> Iterator[Shim]:
    """Yield a door to a fresh database with our schema."""
    with door(postgres, schema()) as opened:
        yield opened
