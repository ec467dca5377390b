"""The soak: its plan, its verdict on growth, and a short one with everything real."""

from pathlib import Path
from random import Random

import pytest

from benchmarks.soak import main, report, soak
from benchmarks.soak_watch import Sample, grown, too_large
from benchmarks.soak_world import EVENTS, KILLS_SHARE, plan
from tests.postgrest_shim import why_not

BEGIN, END = 120.0, 1380.0
CALM = Sample(
    at_sec=0.0, life=1, rss_mb=100.0, workers_mb=0.0, threads=10, descriptors=25,
    database_mb=1.0, wal_mb=4.0, log_mb=0.1, journal_rows=100, outbox_rows=0, status_kb=25.0,
    exchange="online", mode="running",
)  # fmt: skip


def test_a_plan_kills_early_and_brings_every_line_back() -> None:
    """Each kind happens, and happens again; the same seed draws the same plan."""
    for seed in range(50):
        made = plan(Random(seed), BEGIN, END)
        assert made == plan(Random(seed), BEGIN, END)
        assert made == sorted(made)
        assert all(BEGIN <= at <= END for at, _ in made)
        names = [name for _, name in made]
        assert all(names.count(x) >= 2 for x in EVENTS)
        last_kill = max(at for at, name in made if name == "kill")
        assert last_kill <= BEGIN + (END - BEGIN) * KILLS_SHARE
        for line in ("exchange", "replica"):
            outs = [at for at, name in made if name == f"{line} out"]
            backs = [at for at, name in made if name == f"{line} back"]
            assert len(outs) == len(backs)
            assert max(outs) < max(backs) <= END


def test_what_grows_and_what_was_not_seen_are_told() -> None:
    """A leak of descriptors is wrong, a larger database is not; no sample at the end is wrong."""
    first = [CALM._replace(at_sec=at) for at in (70.0, 90.0, 110.0)]
    last = [x._replace(at_sec=x.at_sec + 1260, database_mb=50.0, status_kb=None) for x in first]
    last[0] = last[0]._replace(status_kb=26.0)
    assert too_large(grown([*first, *last], 120.0, END)) == []
    leaky = [x._replace(descriptors=60) for x in last]
    assert too_large(grown([*first, *leaky], 120.0, END)) == [
        "descriptors grew from 25.0 to 60.0, allowed are 33.0"
    ]
    assert len(too_large(grown(first, 120.0, END))) == 5  # each that has a limit


def test_a_folder_that_is_not_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of another run is written over."""
    (tmp_path / "soak.txt").write_text("another")
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path)])
    assert caught.value.code == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.long
def test_a_short_soak_holds(tmp_path: Path) -> None:
    """Killed, frozen, flooded, cut off: all is booked once and copied, and the program ends."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    told = soak(tmp_path, minutes=0.75, speed=60.0, seed=1)
    assert told.wrongs == [], report(told)
    assert set(EVENTS) <= told.events.keys()
    assert told.lives > 1
    assert told.counts["executions booked"] > 0
    assert told.samples > 10
    assert any(sum(line.values()) > line["none"] for line in told.faults.values())
    assert told.flood["200"] > 0
    assert (tmp_path / "soak.svg").read_text().endswith("</svg>\n")
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == told.samples + 1
