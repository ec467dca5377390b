"""Text for people at a terminal: the start banner and the summary of a finished run."""

from collections.abc import Iterator
from decimal import Decimal

from accounting import benchmarks, breakdown, equity
from core.domain import HUNDRED, FeeRates, Instrument
from core.params import Params
from core.record import Record
from core.state import BotState
from grid_strategy import RISK_MULTIPLIER, break_even_pct, net_per_cycle_pct

_WIDTH = 26


def _line(name: str, value: str) -> str:
    return f"  {name:<{_WIDTH}}{value}"


class BannerFacts(Record, frozen=True, kw_only=True):
    """What the banner says besides parameters and pair facts."""

    mode: str
    market: str
    speed: str
    dashboard: str
    database: str
    price: Decimal
    base: Decimal
    quote: Decimal
    version: str


def banner(params: Params, instrument: Instrument, fees: FeeRates, facts: BannerFacts) -> str:
    """Return the start banner: what runs, what a cycle earns, and what to try next."""
    net = net_per_cycle_pct(params.profit_pct, fees.maker)
    size = params.order_size_usd
    gross = params.profit_pct
    fee_share = (gross - net) / gross * HUNDRED
    least = instrument.least_volume(facts.price) * facts.price
    lines = [
        f"grid daemon {facts.version}: {facts.mode}",
        _line("market", f"{facts.market}, {facts.speed}"),
        _line("pair", f"{instrument.pair} at {facts.price} {instrument.quote}"),
        _line(
            "balances",
            f"{facts.base:f} {instrument.base}, {facts.quote:f} {instrument.quote}",
        ),
        _line(
            "fees",
            f"maker {fees.maker * HUNDRED:.2f} %, taker {fees.taker * HUNDRED:.2f} %; "
            f"break-even {break_even_pct(fees.maker):.3f} %",
        ),
        _line(
            "a cycle",
            f"target {gross} %, nets {net:.3f} % or {size * net / HUNDRED:.3f} USD; "
            f"fees take {fee_share:.0f} % of the gross",
        ),
        _line(
            "order size",
            f"{size} USD in each of {params.slot_count} slots, both sides; "
            f"the least workable is {least:.2f} USD",
        ),
        _line("risk multipliers", _floors(params, instrument)),
    ]
    if 2 * params.entry_pct < break_even_pct(fees.maker):
        lines.append(
            _line(
                "warning",
                f"two entries earn {2 * params.entry_pct} %, less than a round trip of "
                f"{break_even_pct(fees.maker):.3f} % in fees",
            )
        )
    lines += [
        _line("database", facts.database),
        _line("page", facts.dashboard),
        _line("next", "open the page; python bot.py status; docs/CONFIGURATION.md"),
    ]
    return "\n".join(lines)


def _floors(params: Params, instrument: Instrument) -> str:
    texts = []
    for level, factor in RISK_MULTIPLIER.items():
        if 0 < factor < 1:
            ceiling = params.order_size_usd * factor / instrument.order_min
            texts.append(f"{level} × {factor} below minimum above {ceiling:.4f} USD")
    return "; ".join(texts)


def summary(state: BotState, *, wall_sec: float, cpu_sec: float) -> str:
    """Return the summary of a run, from the state alone."""
    return "\n".join(_summary_lines(state, wall_sec, cpu_sec))


def _summary_lines(state: BotState, wall_sec: float, cpu_sec: float) -> Iterator[str]:
    counters = state.counters
    span = state.now - state.started_at
    yield f"summary: {span / 86_400:.2f} days of {state.instrument.pair} in {wall_sec:.1f} s"
    yield _line("CPU", f"{cpu_sec:.1f} s")
    yield _line(
        "cycles",
        f"{counters.get('cycles', 0)} ({counters.get('wins', 0)} won, "
        f"{counters.get('losses', 0)} lost), {counters.get('orphans', 0)} orphans",
    )
    yield from _money_lines(state)
    yield _line(
        "orders",
        f"{counters.get('orders', 0)} placed, {counters.get('fills', 0)} executions "
        f"({counters.get('partial_fills', 0)} partial), "
        f"{sum(n for name, n in counters.items() if name.startswith('cancels:'))} cancels, "
        f"{sum(n for name, n in counters.items() if name.startswith('rejected:'))} refused",
    )
    vetoes = {k.split(":")[1]: n for k, n in counters.items() if k.startswith("veto:")}
    listed = ", ".join(f"{k} {n}" for k, n in sorted(vetoes.items(), key=lambda x: -x[1]))
    yield _line("vetoes", listed or "none")
    yield from _stint_lines(state, span)
    yield _line("violations", str(counters.get("violations", 0)))


def _money_lines(state: BotState) -> Iterator[str]:
    parts, others, value = breakdown(state), benchmarks(state), equity(state)
    if parts is None or others is None or value is None:
        yield _line("equity", "there was no price")
        return
    yield _line("grid profit", f"{parts.grid_profit:+.4f} USD gross")
    yield _line("inventory P&L", f"{parts.inventory_pnl:+.4f} USD")
    yield _line("fees", f"{parts.fees:+.4f} USD")
    yield _line("external flows", f"{parts.flows:+.4f} USD")
    yield _line("unexplained", f"{parts.unexplained:+.4f} USD")
    yield _line(
        "equity",
        f"{value:.4f} USD, change {parts.change:+.4f}; selling the base would cost "
        f"{parts.liquidation_cost:.4f}",
    )
    for name, held in (
        ("starting balances", others.hold),
        ("USD", others.usd),
        (state.instrument.base, others.doge),
        ("half and half", others.half),
    ):
        yield _line(
            f"against {name}", f"{value - held:+.4f} USD ({(value / held - 1) * 100:+.3f} %)"
        )


def _stint_lines(state: BotState, span: float) -> Iterator[str]:
    shares: dict[str, list[str]] = {}
    parked_sec = 0.0
    for name, stint in sorted(state.stints.items()):
        total = stint.total_sec + (state.now - stint.since if stint.since is not None else 0.0)
        kind, _, what = name.partition(":")
        if kind == "parked":
            parked_sec += total
        elif span > 0:
            shares.setdefault(kind, []).append(f"{what} {total / span * 100:.1f} %")
    slots = max(1, len(state.slots))
    if span > 0:
        yield _line("slot time parked", f"{parked_sec / span / slots * 100:.1f} %")
    for kind in ("level", "lock", "band", "mode"):
        yield _line(f"time by {kind}", ", ".join(shares.get(kind, [])) or "none")
    locks = {k.split(":")[1]: n for k, n in state.counters.items() if k.startswith("lock:")}
    if locks:
        yield _line("locks set", ", ".join(f"{k} {n}" for k, n in locks.items()))
    yield _line("risk peak resets", str(state.risk.peak_resets))
