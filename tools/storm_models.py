"""Record what real models say, for the fault storm: `python -m tools.storm_models DATA`.

The storm tells these words again instead of training, so that a seed is the same on any machine.
Only estimates and facts about models are kept, nothing of the data.
"""

import argparse
import tempfile
from pathlib import Path

import msgspec

from core import actions as a
from core import events as e
from core.ports import MarketError
from engine.models import RegimeModels
from engine.runtime import Runtime
from market.columns import ColumnSource
from sim.run import live_through
from sim.score import settings_for
from sim.storm_beside import RECORDED, Recording

ESTIMATES, MODELS = 60, 6


class Recorder:
    """Keeps the words of the models of a run."""

    def __init__(self) -> None:
        self.estimates: list[e.RegimeEstimated] = []
        self.models: list[e.ModelTrained] = []

    def watch(self, runtime: Runtime, _models: RegimeModels | None) -> None:
        """Listen to a run."""

        def on_step(event: e.Event, _actions: tuple[a.Action, ...]) -> None:
            if isinstance(event, e.RegimeEstimated) and event.primary.is_trained:
                self.estimates.append(event)
            elif isinstance(event, e.ModelTrained):
                self.models.append(event)

        runtime.on_step = on_step


def main() -> None:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.storm_models")
    parser.add_argument("data", type=Path, help="recorded 1 min candles of a few weeks")
    args = parser.parse_args()
    try:
        source = ColumnSource(args.data)
    except MarketError as error:
        raise SystemExit(str(error)) from None
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(source, {"HMM_ENABLED": "true"}, Path(folder))
        live_through(settings, source, folder=Path(folder), watch=recorder.watch)
    every = max(1, len(recorder.estimates) // ESTIMATES)
    kept = Recording(
        estimates=tuple(recorder.estimates[::every][:ESTIMATES]),
        models=tuple(x.model for x in recorder.models[-MODELS:]),
    )
    RECORDED.write_bytes(msgspec.json.encode(kept) + b"\n")
    print(f"{len(kept.estimates)} estimates and {len(kept.models)} models written to {RECORDED}")


if __name__ == "__main__":
    main()
