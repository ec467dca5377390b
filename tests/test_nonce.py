"""Nonces rise strictly over threads, restarts, crashes and clocks that are set back."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.nonce import SPAN_NS, SPARE, NonceExhausted, Nonces

NOW = 1_790_000_000 * 10**9
HOUR = 3600 * 10**9


class Disk:
    """What was committed, and a clock that goes where it is told."""

    def __init__(self) -> None:
        self.ceiling = 0
        self.now = NOW

    def run(self) -> Nonces:
        """Start anew from what is on disk."""
        return Nonces(lambda: self.now, self.ceiling)

    def commit(self, nonces: Nonces) -> None:
        """Do what the owner does on each round: commit first, then extend."""
        if (wanted := nonces.wanted()) is not None:
            assert wanted > self.ceiling
            self.ceiling = wanted
            nonces.extend(wanted)


def ready(disk: Disk) -> Nonces:
    """Return nonces with a committed ceiling."""
    nonces = disk.run()
    disk.commit(nonces)
    return nonces


class Yielding(int):
    """A time that gives the turn to another thread while it is compared."""

    def __lt__(self, other: int) -> bool:
        time.sleep(0)
        return int(self) < other


def test_eight_threads_never_share_a_nonce() -> None:
    """10,000 calls of 8 threads give 10,000 nonces, each thread's own strictly rising."""
    disk = Disk()
    disk.now = Yielding(NOW)
    nonces = ready(disk)
    gate = threading.Barrier(8)
    seen: list[list[int]] = [[] for _ in range(8)]

    def draw(mine: list[int]) -> None:
        gate.wait()
        mine.extend(nonces.next() for _ in range(1250))

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(mine == sorted(set(mine)) and len(mine) == 1250 for mine in seen)
    assert len(set().union(*seen)) == 10_000


def test_first_nonce_is_the_clock_or_the_ceiling() -> None:
    """A run begins at the clock, or at the last run's ceiling if the clock is behind it."""
    assert ready(Disk()).next() == NOW
    behind = Disk()
    behind.ceiling = NOW + HOUR
    assert ready(behind).next() == NOW + HOUR


def test_nothing_is_given_before_a_ceiling_is_committed() -> None:
    """A new run has no nonce at all, and asks for a ceiling 60 s ahead."""
    nonces = Disk().run()
    with pytest.raises(NonceExhausted, match="committed"):
        nonces.next()
    assert nonces.wanted() == NOW + SPAN_NS


def test_ceiling_is_never_reached() -> None:
    """The nonce below the ceiling is given, the ceiling itself is not, and time does not help."""
    disk = Disk()
    nonces = ready(disk)
    disk.now = disk.ceiling - 1
    assert nonces.next() == disk.ceiling - 1
    for _ in range(3):
        with pytest.raises(NonceExhausted):
            nonces.next()
        disk.now += HOUR
    disk.commit(nonces)
    assert nonces.next() == disk.now


def test_ceiling_is_asked_for_below_half_of_the_span() -> None:
    """With half of the span left none is asked for, with a nanosecond less one is."""
    disk = Disk()
    nonces = ready(disk)
    disk.now = NOW + SPAN_NS // 2
    assert nonces.wanted() is None
    disk.now += 1
    assert nonces.wanted() == disk.now + SPAN_NS


def test_clock_set_back_an_hour_changes_nothing() -> None:
    """Nonces go on rising by one, in this run and after a restart."""
    disk = Disk()
    nonces = ready(disk)
    first = nonces.next()
    disk.now -= HOUR
    assert nonces.next() == first + 1
    again = ready(disk)
    assert again.next() > first + 1


def test_crashes_do_not_carry_nonces_ahead_of_the_clock() -> None:
    """However often a run begins at the last one's ceiling, no ceiling is far ahead of the span."""
    disk = Disk()
    for _ in range(1000):
        ready(disk).next()
        assert disk.ceiling <= NOW + SPAN_NS + 1000 * SPARE
    assert ready(disk).next() < NOW + SPAN_NS + 1001 * SPARE


def test_a_run_that_ends_well_leaves_no_nonce_unused() -> None:
    """The next run goes on right after the last nonce; this one gives none any more."""
    disk = Disk()
    nonces = ready(disk)
    last = nonces.next()
    disk.ceiling = nonces.settle()
    assert disk.ceiling == last + 1
    with pytest.raises(NonceExhausted):
        nonces.next()
    assert ready(disk).next() == last + 1


def test_raised_above_what_the_exchange_has_seen() -> None:
    """A higher nonce of the exchange is passed, by way of a committed ceiling; a lower is not."""
    disk = Disk()
    nonces = ready(disk)
    nonces.raise_to(NOW - HOUR)
    assert nonces.next() == NOW
    nonces.raise_to(NOW + HOUR)
    with pytest.raises(NonceExhausted):
        nonces.next()
    disk.commit(nonces)
    assert nonces.next() == NOW + HOUR + 1


def test_ceiling_is_never_lowered() -> None:
    """An extension that comes late, from another thread, takes nothing back."""
    disk = Disk()
    nonces = ready(disk)
    nonces.extend(NOW)
    assert nonces.next() == NOW


@pytest.mark.parametrize("seen", [-1, 2**64 - 1, 2**64])
def test_nonce_that_leaves_none_above_is_refused(seen: int) -> None:
    """A key whose nonces are used up is refused in plain words."""
    with pytest.raises(ValueError, match="make a new API key"):
        Disk().run().raise_to(seen)


def test_last_nonce_of_all_is_within_64_bits() -> None:
    """At the end of the range the last nonce is given once, and no ceiling beyond is asked for."""
    disk = Disk()
    nonces = disk.run()
    nonces.raise_to(2**64 - 2)
    disk.commit(nonces)
    assert disk.ceiling == 2**64
    assert nonces.next() == 2**64 - 1
    with pytest.raises(NonceExhausted):
        nonces.next()
    assert nonces.wanted() is None


@pytest.mark.parametrize("ceiling", [-1, 2**64 + 1])
def test_ceiling_out_of_range_is_refused(ceiling: int) -> None:
    """Neither a start nor an extension takes a ceiling that is no 64-bit integer."""
    with pytest.raises(ValueError, match="nonce ceiling"):
        Nonces(lambda: NOW, ceiling)
    with pytest.raises(ValueError, match="nonce ceiling"):
        Disk().run().extend(ceiling)


STEPS = st.one_of(
    st.just(("next", 0)),
    st.just(("commit", 0)),
    st.just(("crash", 0)),
    st.just(("crash after commit", 0)),
    st.just(("end", 0)),
    st.tuples(st.just("clock"), st.integers(-2 * HOUR, 2 * HOUR)),
    st.tuples(st.just("seen"), st.integers(NOW - HOUR, NOW + HOUR)),
)


@given(st.lists(STEPS, max_size=60))
def test_any_life_gives_rising_nonces(steps: list[tuple[str, int]]) -> None:
    """Whatever the clock, the crashes and the exchange do, nonces rise and stay below the disk."""
    disk = Disk()
    nonces = ready(disk)
    given_out = [0]
    for step, amount in steps:
        match step:
            case "next":
                try:
                    nonce = nonces.next()
                except NonceExhausted:
                    continue
                assert given_out[-1] < nonce < disk.ceiling
                given_out.append(nonce)
            case "commit":
                disk.commit(nonces)
            case "crash":
                nonces = disk.run()
            case "crash after commit":
                disk.ceiling = nonces.wanted() or disk.ceiling
                nonces = disk.run()
            case "end":
                disk.ceiling = nonces.settle()
                nonces = disk.run()
            case "clock":
                disk.now += amount
            case "seen":
                nonces.raise_to(amount)
