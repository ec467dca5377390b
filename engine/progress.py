"""A progress line with ETA for long replays, rewritten in place on a terminal."""

from typing import TextIO

from core.state import BotState
from engine.clock import monotonic

EVERY_SEC = 0.5
EVERY_SEC_PLAIN = 10.0


class ProgressLine:
    """Shows how far a replay has come; silent when the market is endless or not in a hurry."""

    def __init__(
        self,
        out: TextIO,
        *,
        start: float | None,
        end: float | None,
        enabled: bool,
        counted: str = "cycles",
    ) -> None:
        """Show the way from `start` to `end`, and the state's counter `counted`."""
        self._out, self._counted = out, counted
        self._start, self._end = start, end
        self._is_on = enabled and start is not None and end is not None and end > start
        self._is_terminal = out.isatty()
        self._began = monotonic()
        self._shown = self._began

    def step(self, state: BotState) -> None:
        """Show the progress at most every half second (10 s where lines cannot be rewritten)."""
        self.show(state.now, f"{self._counted} {state.counters.get(self._counted, 0)}")

    def show(self, at: float, text: str) -> None:
        """Show, as rarely, that `at` is reached, and a word on it."""
        if not self._is_on or self._start is None or self._end is None:
            return
        now = monotonic()
        if now - self._shown < (EVERY_SEC if self._is_terminal else EVERY_SEC_PLAIN):
            return
        self._shown = now
        share = min(1.0, max(0.0, (at - self._start) / (self._end - self._start)))
        eta = (now - self._began) / share * (1 - share) if share > 0 else 0.0
        filled = int(share * 30)
        line = (
            f"[{'#' * filled}{'.' * (30 - filled)}] {share * 100:5.1f} %  {text}  {eta:.0f} s left"
        )
        self._out.write(f"\r{line}   " if self._is_terminal else f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        """Leave the line behind."""
        if self._is_on and self._is_terminal:
            self._out.write("\n")
            self._out.flush()
