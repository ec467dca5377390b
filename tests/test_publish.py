"""The thread that publishes the status: swaps bytes, keeps a pace, survives failures."""

import gzip
import threading
import time

import msgspec

from core.params import Params
from core.record import replace
from core.state import BotState, Mode
from core.status import Published, Status
from engine.publish import Publisher, publication
from engine.status_view import Facts, build_status
from tests.test_status import EVENTS, sample_facts, sample_state, sample_status


def wait_for(publisher: Publisher, version: int) -> Published:
    """Return the published status of `version`; fail after half a minute."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        published = publisher.published()
        if published is not None and published.version == version:
            return published
        time.sleep(0.002)
    raise AssertionError(f"version {version} was not published")


def test_publisher_swaps_bytes_with_content_etag() -> None:
    """The bytes are the status, compressed alike, and the ETag follows the content."""
    publisher = Publisher(recent_events=lambda limit: list(EVENTS[:limit]))
    publisher.start()
    publisher.offer(sample_state(), Params(), sample_facts())
    first = wait_for(publisher, 18_102)
    assert gzip.decompress(first.gzip_body) == first.body
    assert msgspec.json.decode(first.body, type=Status) == sample_status()
    assert publication(sample_status()).etag == first.etag
    publisher.offer(sample_state(), Params(), replace(sample_facts(), state_seq=1), at_once=True)
    assert wait_for(publisher, 1).etag != first.etag
    publisher.stop()


def test_publisher_paces_but_never_loses_the_last() -> None:
    """A thousand offers in a row make few publications, and the last of them is published."""
    built = []

    def build(state: BotState, params: Params, facts: Facts) -> Status:
        built.append(facts.state_seq)
        return build_status(state, params, facts)

    publisher = Publisher(build=build, interval_sec=0.05)
    publisher.start()
    for version in range(1, 1001):
        publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=version))
    wait_for(publisher, 1000)
    assert len(built) < 20
    publisher.stop()


def test_publisher_hurries_after_a_command() -> None:
    """An offer at once does not wait for the interval."""
    publisher = Publisher(interval_sec=30.0)
    publisher.start()
    publisher.offer(BotState(), Params(), sample_facts())
    wait_for(publisher, 18_102)
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=2), at_once=True)
    wait_for(publisher, 2)
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=3))
    publisher.stop()  # publishes what was offered last
    wait_for(publisher, 3)


def test_what_keeps_the_bot_is_published_in_constant_words() -> None:
    """Halted comes before a price that is too old; a pause is what somebody wants."""
    state, facts, params = sample_state(), sample_facts(), Params(stale_price_max_age_sec=60.0)
    assert state.market is not None
    fresh = replace(state, now=state.market.time + 59)
    halted = {"mode": Mode.HALTED, "mode_reason": "canary"}
    for made, expected in (
        (fresh, None),
        (replace(fresh, mode=Mode.PAUSED), None),
        (replace(fresh, now=state.market.time + 61), "no fresh price"),
        (replace(fresh, market=None), "no fresh price"),
        (replace(fresh, **halted), "halted"),
        (replace(fresh, market=None, **halted), "halted"),
    ):
        assert publication(build_status(made, params, facts)).obstacle == expected


def test_publisher_survives_failures() -> None:
    """A build that raises is counted, the old bytes stay, and the next one works."""
    fails = threading.Event()

    def build(state: BotState, params: Params, facts: Facts) -> Status:
        if fails.is_set():
            raise RuntimeError("no")
        return build_status(state, params, facts)

    publisher = Publisher(build=build, interval_sec=0.01)
    publisher.start()
    publisher.offer(BotState(), Params(), sample_facts())
    wait_for(publisher, 18_102)
    fails.set()
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=2))
    until = time.monotonic() + 30
    while not publisher.errors and time.monotonic() < until:
        time.sleep(0.002)
    assert publisher.errors == 1
    assert wait_for(publisher, 18_102)
    fails.clear()
    publisher.offer(BotState(), Params(), replace(sample_facts(), state_seq=3))
    wait_for(publisher, 3)
    publisher.stop()
