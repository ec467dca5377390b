"""What the operator is told in whole paragraphs: the daily report and the short status, as text.

The texts are pure functions of the published status and of a day's rows; `ReportClock` watches bot
time and reads the rows. Nothing here sends, decides or asks the machine for the time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

from msgspec import UNSET, UnsetType

from core.advisor_status import OpinionBlock
from core.domain import ZERO
from core.ports import StoreError
from core.record import Record
from core.status import Comparison, Status

DAY_SEC = 86_400
REPORT_AT_SEC = 300.0  # after UTC midnight
_EVENTS_MAX = 2_000
_POINTS_MAX = 10_000  # hourly ones since the day began: none is left out
_LOCKS_SHOWN = 5


class ReportHistory(Protocol):
    """What a daily report reads; safe from any thread."""

    def recent_events(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest operator-visible events, newest first: time, kind, level, text."""
        ...

    def equity_curve(self, since: float | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return equity points, oldest first, and whether they were thinned."""
        ...

    def cycles_ended(self, since: float, until: float) -> Iterable[dict[str, Any]]:
        """Return completed cycles that ended from `since` on and before `until`."""
        ...


class Day(Record, frozen=True, kw_only=True):
    """What one UTC day brought; amounts in quote, `net` after and `gross` before fees.

    `fees` and `change` (of equity) are None where the day has no two equity points.
    """

    start: float
    cycles: int
    gross: Decimal
    net: Decimal
    fees: Decimal | None
    change: Decimal | None
    locks: tuple[str, ...]


def day_of(
    start: float,
    *,
    cycles: Iterable[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> Day:
    """Return the UTC day that begins at `start` from rows of the store.

    `points` are equity points, oldest first, cumulative since the start of the run; `events` and
    `cycles` come in any order and may reach beyond the day.
    """
    end = start + DAY_SEC
    own = [x for x in cycles if start <= x["exit_time"] < end]
    opening = next((x for x in points if start <= x["time"] < end), None)
    closing = next((x for x in points if x["time"] >= end), None)
    if closing is None and points and points[-1] is not opening:
        closing = points[-1]
    has_both = opening is not None and closing is not None

    def rise(name: str) -> Decimal | None:
        if opening is None or closing is None or not has_both:
            return None
        return Decimal(closing[name]) - Decimal(opening[name])

    locks = [str(x["text"]) for x in events if x["kind"] == "lock" and start <= x["time"] < end]
    return Day(
        start=start,
        cycles=len(own),
        gross=sum((Decimal(x["gross_profit"]) for x in own), ZERO),
        net=sum((Decimal(x["net_profit"]) for x in own), ZERO),
        fees=rise("fees"),
        change=rise("equity"),
        locks=tuple(locks),
    )


def daily_report(status: Status, day: Day) -> str:
    """Return the report on `day`, with the present state of things; several lines."""
    quote = status.market.quote
    date = datetime.fromtimestamp(day.start, UTC).strftime("%Y-%m-%d")
    lines = [f"report for {date} UTC, {status.bot.exchange_mode}, {status.market.pair}"]
    lines += _money_lines(status)
    if day.change is not None:
        lines.append(f"equity over the day: {day.change:+.2f} {quote}")
    lines.append(
        f"cycles of the day: {day.cycles}, grid profit {day.gross:+.4f} {quote}, "
        f"after their fees {day.net:+.4f}"
    )
    if day.fees is not None:
        lines.append(f"fees of the day: {day.fees:.4f} {quote}")
    shown = [f"  {text}" for text in day.locks[:_LOCKS_SHOWN]]
    lines += [f"locks set that day: {len(day.locks) or 'none'}", *shown]
    return "\n".join([*lines, *_state_lines(status)])


def status_text(status: Status) -> str:
    """Return the state of things in a few lines, as a chat shows it."""
    bot, market = status.bot, status.market
    lines = [f"{bot.exchange_mode}, {market.pair}: {bot.mode}, {bot.condition}"]
    lines += [f"  {reason}" for reason in bot.reasons]
    if market.bid is not None:
        age = " (not fresh)" if market.is_stale else ""
        lines.append(f"bid {market.bid}, ask {market.ask} {market.quote}{age}")
    lines += _money_lines(status)
    room, economics = status.capacity_fill_health, status.equity.economics
    lines.append(f"cycles: {economics.cycles}; open orders: {room.open_orders} of {room.limit}")
    return "\n".join([*lines, *_state_lines(status)])


def _state_lines(status: Status) -> list[str]:
    parts = (_risk_lines, _regime_lines, _kelly_lines, _advisor_lines)
    return [line for part in parts for line in part(status)]


def _money_lines(status: Status) -> list[str]:
    block, quote = status.equity, status.market.quote
    if block.equity is None or block.holding is None:
        return ["equity: there was no price yet"]
    held = block.holding
    named = {
        "the starting balances": held.start,
        f"all in {quote}": held.usd,
        f"all in {status.market.base}": held.doge,
        "half and half": held.half,
    }
    lines = [f"equity: {Decimal(block.equity):.2f} {quote}"]
    return lines + [f"against {name}: {_ahead(x, quote)}" for name, x in named.items()]


def _ahead(comparison: Comparison, quote: str) -> str:
    share = "" if comparison.ahead_pct is None else f" ({Decimal(comparison.ahead_pct):+.2f} %)"
    return f"{Decimal(comparison.ahead):+.2f} {quote}{share}"


def _risk_lines(status: Status) -> list[str]:
    risk = status.risk
    held = ", ".join(str(lock.name) for lock in risk.locks) or "none"
    return [f"drawdown: {risk.drawdown_pct} %, level {risk.level}", f"locks now: {held}"]


def _regime_lines(status: Status) -> list[str]:
    """Return what the models say and what follows; nothing where they are off."""
    models, tiers = status.hmm_regime, status.regime_directional
    if not models.enabled and tiers.shadow is UNSET:
        return []
    confidence = tiers.confidence if isinstance(tiers.confidence, float) else 0.0
    acts = "in shadow, nothing acts" if tiers.shadow else "acting"
    return [
        f"regime: {tiers.regime}, {100 * confidence:.0f} % sure ({tiers.agreement}); tier "
        f"{tiers.tier_effective} {acts}: {tiers.hint}"
    ]


def _kelly_lines(status: Status) -> list[str]:
    kelly = status.kelly
    if not kelly.enabled or not isinstance(kelly.multiplier_now, float):
        return []
    return [f"Kelly: sizes × {kelly.multiplier_now:.3f}, {kelly.fallback}"]


def _advisor_lines(status: Status) -> list[str]:
    """Return how the second opinion stands, and whether it has been worth it."""
    block = status.ai_regime_advisor
    score, opinion = block.score, block.opinion
    if not block.enabled or isinstance(score, UnsetType):
        return []
    said = "no opinion yet"
    if isinstance(opinion, OpinionBlock):
        said = (
            opinion.error
            or f"tier {opinion.recommended_tier} {opinion.recommended_direction}, conviction "
            f"{opinion.conviction} ({opinion.agreement})"
        )
    own, rate = score.advised, "not scored yet"
    if own.hit_rate is not None and own.low is not None and own.high is not None:
        rate = (
            f"right {own.right} of {own.right + own.wrong} ({100 * own.hit_rate:.0f} %, 95 % "
            f"interval {100 * own.low:.0f} to {100 * own.high:.0f})"
        )
    return [f"advisor: {block.state}; {said}; {rate}"]


class ReportClock:
    """Tells when a daily report is due, in bot time, and returns it once.

    A day whose 00:05 UTC passed while nothing watched is not reported.
    """

    def __init__(
        self, status: Callable[[], Status | None], history: Callable[[], ReportHistory | None]
    ) -> None:
        self._status = status
        self._history = history
        self._day: int | None = None

    def due(self) -> str | None:
        """Return the report if 00:05 UTC has passed since the last call, else None."""
        status, history = self._status(), self._history()
        if status is None or history is None or status.market.time is None:
            return None  # bot time means nothing before the first price
        day = int((status.bot.now - REPORT_AT_SEC) // DAY_SEC)
        known, self._day = self._day, day
        if known is None or day <= known:
            return None
        start = float((day - 1) * DAY_SEC)
        try:
            rows = day_of(
                start,
                cycles=history.cycles_ended(start, start + DAY_SEC),
                points=history.equity_curve(start, _POINTS_MAX)[0],
                events=history.recent_events(_EVENTS_MAX),
            )
        except StoreError:
            return "report: the day's history cannot be read\n" + status_text(status)
        return daily_report(status, rows)
