"""A loop with 30 slots on a fast market, in a thread of its own: what benchmarks lead into trouble.

How late each price is taken up is what the page and the operator would feel.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import config
from benchmarks.regimes import Late
from core import events as e
from engine.clock import LiveClock
from engine.loop import Loop
from engine.runtime import Runtime
from engine.wiring import Parts, attach, begin, open_run, open_source

ENV = {
    "SLOT_COUNT": "30", "SLOT_STAGGER_PCT": "0.1", "ORDER_SIZE_USD": "20",
    "PAPER_START_QUOTE": "5000", "PAPER_START_BASE_USD": "5000",
}  # fmt: skip


class Busy:
    """The run of a daemon but for its page; it goes on until closed."""

    def __init__(self, folder: Path, env: Mapping[str, str], speed: float) -> None:
        folder.mkdir()
        database = {"STATE_DB": str(folder / "bot.db")}
        self.settings = config.load(ENV | database | dict(env), folder / ".env")
        parts = open_run(
            self.settings, open_source(self.settings), LiveClock(), threading.Event(),
            lambda _: None,
        )  # fmt: skip
        if parts is None:
            raise RuntimeError("nothing stops it")
        self.parts: Parts = parts
        self.folder, self.pacer = folder, Late(speed)
        self.runtime = Runtime(parts.store, parts.exchange, None)
        self.loop = Loop(self.runtime, parts.exchange, pacer=self.pacer)
        attach(parts, self.runtime, self.loop, self.settings)
        venue = parts.exchange.describe()
        self.runtime.start(venue, self.settings.params, now=parts.exchange.now(), bot_tag=1)
        begin(parts, self.runtime, None)
        self.runtime.on_step = self._look
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def _look(self, event: e.Event, _actions: object) -> None:
        if isinstance(event, e.PriceTick):
            self.pacer.note(event.time)

    def close(self) -> float:
        """End; return the seconds that the clean stop took."""
        self.loop.stop()
        self.thread.join()
        began = time.monotonic()
        self.parts.close()
        return time.monotonic() - began
