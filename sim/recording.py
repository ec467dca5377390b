"""Recorded data as a command line names them: what they cannot answer is refused in its words."""

from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # noqa: F401 - else pyarrow loses a Ctrl-C

from core.ports import MarketError
from market.columns import ColumnSource
from sim.arguments import NAMES


def opened(path: Path, *, symbol: str | None, start: float | None) -> ColumnSource:
    """Return the market of a file. Raises MarketError, also where no order could ever fill."""
    source = ColumnSource(path, symbol=symbol, start=start, names=NAMES)
    if source.columns is not None and bool(np.isinf(source.columns.low).all()):
        raise MarketError(
            f"{path} has no volume in any bar; orders fill against volume, so none ever would"
        )
    return source
