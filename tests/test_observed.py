"""What is told of a finished run follows from its books."""

import numpy as np
import pytest

from market.columns import ColumnSource
from sim.arms import compare
from sim.observed import Observed, observed, spacing
from sim.report_tables import liquidated
from sim.run import Outcome, live_through
from tests.helpers import write_candles
from tests.test_skipping import LIVELY, settings_of


@pytest.fixture(name="run", scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Observed, ColumnSource]:
    """Run two slots over three days of a lively market."""
    folder = tmp_path_factory.mktemp("observed")
    path = folder / "market.csv"
    write_candles(path, bars=4_400, seed=21)
    settings = settings_of(folder, path, SLOT_COUNT="2", **LIVELY)
    source = ColumnSource(path)
    outcome = live_through(settings, source, folder=folder)
    return outcome, observed(outcome), source


def test_marks_are_the_start_the_days_ends_and_the_end(
    run: tuple[Outcome, Observed, ColumnSource],
) -> None:
    """Three midnights lie between; equity is what the store has booked."""
    _, seen, source = run
    times = seen.fills.mark_times
    assert np.all(np.diff(times) > 0)
    assert sum(x % 86_400 < 60 for x in times) == 3
    assert times[0] < source.start_time() + 3_700
    assert times[-1] > source.end_time() - 3_700
    assert len(seen.days["equity"]) == len(times) == 5


def test_fixed_sizes_make_the_runs_own_equity(
    run: tuple[Outcome, Observed, ColumnSource],
) -> None:
    """At liquidation it is the booked equity less the taker fee on the coin that is held then."""
    outcome, seen, _ = run
    rows = outcome.store.export()["executions"]
    fills = seen.fills
    at = fills.mark_times[-1]
    signs = {"buy": 1, "sell": -1}
    base = fills.base + sum(
        signs[x["side"]] * float(x["volume"]) for x in rows if x["executed_at"] <= at
    )
    wanted = seen.days["equity"][-1] - base * fills.bids[-1] * fills.taker
    fixed = compare(fills, outcome.params).fixed
    assert fixed.equity[-1] == pytest.approx(wanted, abs=1e-6)
    # An order that is filling at a mark is booked in parts, in frozen fills at once.
    assert liquidated(seen) == pytest.approx(fixed.equity, abs=0.2)
    assert liquidated(seen)[-1] == pytest.approx(wanted, abs=1e-6)


def test_diagnostics_are_those_of_orders_and_executions(
    run: tuple[Outcome, Observed, ColumnSource],
) -> None:
    """Counted again from the books."""
    outcome, seen, _ = run
    history, found = outcome.store.export(), seen.diagnostics
    assert found.placed == len(history["orders"]) > 20
    assert found.executions == len(history["executions"]) == seen.counters["fills"]
    assert found.filled == sum(x["status"] == "filled" for x in history["orders"])
    assert found.maker_share == 1.0
    assert found.wait_p50_sec is not None
    assert found.wait_p95_sec is not None
    assert 0 < found.wait_p50_sec <= found.wait_p95_sec
    assert len(seen.fills.cycles) == seen.counters["cycles"] > 5
    assert 0 < seen.deepest["equity"] < 1
    assert seen.deepest["usd"] == 0


def test_spacing_is_in_deviations_of_a_bar(run: tuple[Outcome, Observed, ColumnSource]) -> None:
    """A walk of 0.3 % a bar: an exit of 1.2 % is four of them, an entry of 0.5 % less than two."""
    outcome, _, source = run
    found = spacing(source, outcome)
    assert found is not None
    assert found.deviation_pct == pytest.approx(0.3, rel=0.05)
    assert found.to_exit == pytest.approx(4.0, rel=0.05)
    assert found.to_entry == pytest.approx(1.67, rel=0.05)
    assert found.word == ""
