"""Fixtures of several test modules: a real PostgreSQL, and the door in front of it."""

import os
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


@pytest.hookimpl(trylast=True)  # after those that are not wanted have been left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process begin with some of the longest tests, so that none is left alone with one.

    A process is given the tests of its share of the list, in their order.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = sorted((x for x in items if _seconds(x)), key=_seconds, reverse=True)
    rest = [x for x in items if not _seconds(x)]
    share = -(-len(rest) // processes)
    items[:] = [
        item
        for n in range(processes)
        for item in (*long[n::processes], *rest[n * share : (n + 1) * share])
    ]


def _seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("slow")
    return 0.0 if mark is None else float(mark.kwargs.get("seconds", 0.0))
