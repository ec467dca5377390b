"""The engines of the comparison: versions, what each does in it, and what it leaves out."""

from typing import NamedTuple


class Engine(NamedTuple):
    """One engine; its script is `peers_<name>`, its environment holds `pins`, or is ours."""

    name: str
    label: str
    pins: tuple[str, ...]
    does: str
    leaves_out: str


OURS = Engine(
    "ours", "grid daemon", (),
    "what trades live: reducer, risk review, entry vetoes, exact decimals on the tick grid, "
    "latencies, post-only, rate counters, funds reserved with fees, partial fills (a tenth of the "
    "volume beyond the limit), ledger, audit, equity, history in SQLite",
    "journal and state on disk; the place in the queue, which candles do not tell; bars that "
    "change nothing are skipped. News of a fill may come before the price of its bar, as both "
    "take about 50 ms; the next order is then made from the price before. Two refreshes in one "
    "direction are followed by a wait",
)  # fmt: skip
ENGINES = (
    OURS,
    Engine(
        "lean", "lean Python loop, quiet bars skipped", (),
        "finds the next bar that matters with numpy, then decides",
        "fees, amounts, accounting, equity, latency, volume, partial fills, tick grid, exchange "
        "limits, live trading: it is the limit, not a rival",
    ),
    Engine(
        "numba", "the same in numba, every bar", ("numba==0.68.1", "numpy==2.4.6"),
        "looks at every bar in machine code", "the same",
    ),
    Engine(
        "vectorbt", "vectorbt", ("vectorbt==1.2.0", "numba==0.68.1", "numpy==2.4.6"),
        "one compiled order function; cash, fees, order and trade records",
        "fills are decided by the strategy's own function; latency, volume, partial fills, tick "
        "grid, exchange limits; sells short instead of from a stock; compiles at each start; no "
        "live trading",
    ),
    Engine(
        "hftbacktest", "hftbacktest", ("hftbacktest==2.4.4", "numba==0.68.1"),
        "a Rust exchange with latency, queue position and post-only, fed with trades made of the "
        "candles; fees and balance",
        "no book was given to it, so that nobody stands ahead; whole fills, any volume; funds and "
        "exchange limits; records of single trades; to trade live it needs its connectors",
    ),
    Engine(
        "backtesting", "backtesting.py", ("backtesting==0.6.6", "numpy==2.4.6", "pandas==3.1.1"),
        "trades with take profits, hedged; commission, equity, statistics",
        "a touch is a fill, a gap fills at the open; latency, volume, partial fills, tick grid, "
        "post-only; sells short on margin instead of from a stock; no live trading",
    ),
    Engine(
        "nautilus_trader", "NautilusTrader", ("nautilus_trader==1.221.0",),
        "an event-driven exchange: fixed-point prices, post-only, cash account, fees, partial "
        "fills by the volume of a quarter bar, positions, checks before orders; the same strategy "
        "trades live",
        "latency (it has a model, not used here), a share of the volume, the place in the queue, "
        "an exchange's rate counters, risk rules of a grid",
    ),
    Engine(
        "freqtrade", "Freqtrade", ("freqtrade==2026.9",),
        "signals, entry prices, a return aimed at, wallet, fees; the same strategy trades live",
        "**the buy leg only**: one order rests, not two. A candle that holds the price fills all "
        "of it, and an entry and its exit may share one, which makes more cycles; prices on the "
        "grid of the data; latency, volume, partial fills, the place in the queue, post-only. "
        "Works without a network only because it is told its exchange's markets by hand",
    ),
)  # fmt: skip
BY_NAME = {x.name: x for x in ENGINES}
