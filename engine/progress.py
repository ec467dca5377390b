"""A progress line with ETA for long replays, rewritten in place on a terminal."""

from typing import TextIO

from core.state import BotState
from engine.clock import monotonic

EVERY_SEC = 0.5
EVERY_SEC_PLAIN = 10.0


class ProgressLine:
    """Shows how far a replay has come; silent when the market is endless or not in a hurry."""

    def __init__(
        self, out: TextIO, *, start: float | None, end: float | None, enabled: bool
    ) -> None:
        self._out = out
        self._start, self._end = start, end
        self._is_on = enabled and start is not None and end is not None and end > start
        self._is_terminal = out.isatty()
        self._began = monotonic()
        self._shown = self._began

    def step(self, state: BotState) -> None:
        """Show the progress at most every half second (10 s where lines cannot be rewritten)."""
        if not self._is_on or self._start is None or self._end is None:
            return
        now = monotonic()
        if now - self._shown < (EVERY_SEC if self._is_terminal else EVERY_SEC_PLAIN):
            return
        self._shown = now
        share = min(1.0, max(0.0, (state.now - self._start) / (self._end - self._start)))
        eta = (now - self._began) / share * (1 - share) if share > 0 else 0.0
        filled = int(share * 30)
        text = (
            f"[{'#' * filled}{'.' * (30 - filled)}] {share * 100:5.1f} %  "
            f"cycles {state.counters.get('cycles', 0)}  {eta:.0f} s left"
        )
        self._out.write(f"\r{text}   " if self._is_terminal else f"{text}\n")
        self._out.flush()

    def end(self) -> None:
        """Leave the line behind."""
        if self._is_on and self._is_terminal:
            self._out.write("\n")
            self._out.flush()
