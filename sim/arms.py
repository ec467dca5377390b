"""Sizings compared on the same fills: what each would have made of the cycles of one base run.

Fills are frozen and only sizes differ, which holds while orders are small against the market. A
sizing decides at an entry, from cycles that were closed before, in its own account; where cash does
not suffice the size is cut. Nothing here draws conclusions: `sim/verdict.py` does.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from core.kelly import BANKROLL, TILT
from core.params import Params
from core.record import replace
from sim.kelly_walk import KellyWalk, Noted
from sim.metrics import CycleFigures, Floats, cycle_figures

DAY_SEC = 86_400.0
EQUITY_PART = 0.1  # of equity, in each order of arm B
SHUFFLES = 200
LEVEL_MAX = 2.0
PLACED, ENTERED, CLOSED = range(3)
HOUR_SEC = 3_600.0
ROUNDING = 1e-9  # of a multiplier, relative


class Held(NamedTuple):
    """A position open at the end of the base run. Times in UTC seconds, money in quote."""

    slot_id: int
    leg: str  # "A" sold first, "B" bought first
    entry_time: float
    entry_price: float
    volume: float
    entry_fee: float
    regime_at_entry: int | None
    placed_at: float  # when the entry was sized
    regime_placed: int | None  # what the policy said then


class Cycle(NamedTuple):
    """A completed cycle of the base run."""

    slot_id: int
    leg: str
    entry_time: float
    exit_time: float
    entry_price: float
    exit_price: float
    volume: float
    entry_fee: float
    exit_fee: float
    net_profit: float  # after both fees
    regime_at_entry: int | None
    placed_at: float
    regime_placed: int | None


class Fills(NamedTuple):
    """What the base run did, and the market it did it in."""

    cycles: Sequence[Cycle]
    held: Sequence[Held]
    mark_times: Floats  # the start of the run, the end of each UTC day, the end of the data
    bids: Floats  # at these times
    base: float  # balances at the start
    quote: float
    taker: float  # fee rate, a fraction
    slots: int
    days: frozenset[int]  # UTC days since 1970 that have prices
    least_usd: float = 0.0  # the venue's minimum of an order

    @property
    def whole_days(self) -> npt.NDArray[np.intp]:
        """Return n of each whole UTC day with prices: it lasts from mark n to mark n + 1."""
        day = self.mark_times // DAY_SEC
        is_midnight = self.mark_times % DAY_SEC < HOUR_SEC
        is_day = is_midnight[:-1] & is_midnight[1:] & (np.diff(day) == 1)
        return np.flatnonzero(is_day & np.isin(day[:-1], list(self.days)))

    def spliced(self, equity: Floats) -> Floats:
        """Return what 1 becomes by `equity`, one at each mark, in whole days: (days + 1,).

        Days that do not count are cut out; nan from where equity was not above 0.
        """
        at, worth = self.whole_days, np.where(equity > 0, equity, np.nan)
        return np.cumprod(np.concatenate([[1.0], worth[at + 1] / worth[at]]))

    @property
    def elapsed_days(self) -> float:
        """Return the time from the first mark to the last."""
        times = self.mark_times
        return float(times[-1] - times[0]) / DAY_SEC if len(times) else 0.0


class Arm(NamedTuple):
    """One sizing: its multipliers, those of the completed cycles first, and what followed."""

    name: str
    multipliers: Floats
    equity: Floats  # at each mark, at liquidation: bid less taker fee
    cycles: CycleFigures
    mean_notional: float | None  # of an entry
    exposure: float | None  # open notional over time ÷ mean equity
    long_mean: float | None  # value of base ÷ equity at the marks
    long_max: float | None
    turnover: float | None  # notional of entries and exits a day ÷ mean equity
    fees: float
    at_bounds: float | None  # share of Kelly's sizes that floor, ceiling or a cap decided
    cut: int  # sizes that cash did not suffice for


class Measured(NamedTuple):
    """A Kelly sizing, fixed sizes of its mean notional, and its shuffles' log growth a day."""

    arm: Arm
    matched: Arm
    placebo: Floats


class Comparison(NamedTuple):
    """All sizings of one base run."""

    fixed: Arm
    equity_part: Arm
    tested: tuple[Measured, ...]


SIZINGS = (  # name, mode, by regime
    ("Kelly aggregate", TILT, False),
    ("Kelly by regime, tilt", TILT, True),
    ("Kelly by regime, bankroll", BANKROLL, True),
)


def compare(fills: Fills, params: Params, *, shuffles: int = SHUFFLES, seed: int = 0) -> Comparison:
    """Return what each sizing made of the fills; Kelly as `params` has it, in each of its modes.

    `seed` is that of the placebos.
    """
    replay = Replay(fills)
    tested = tuple(
        replay.tested(name, params, mode=mode, by_regime=by_regime, shuffles=shuffles, seed=seed)
        for name, mode, by_regime in SIZINGS
    )
    return Comparison(replay.fixed(), replay.equity_part(), tested)


class _Sizing(Protocol):
    """What decides at entries; multipliers are one number an account."""

    def wanted(self, i: int, equity: Floats, /) -> Floats: ...

    def entered(self, i: int, made: Floats) -> None: ...

    def closed(self, i: int) -> None: ...


class _Given:
    """Multipliers known from the start: (positions, accounts)."""

    def __init__(self, multipliers: Floats) -> None:
        self._multipliers = multipliers

    def wanted(self, i: int, _equity: Floats, /) -> Floats:
        found: Floats = self._multipliers[i]
        return found

    def entered(self, i: int, made: Floats) -> None:
        """Nothing depends on it."""

    def closed(self, i: int) -> None:
        """Nothing depends on it."""


class _EquityPart(_Given):
    """A fixed share of equity in each order; given are the multipliers of one unit of quote."""

    def wanted(self, i: int, equity: Floats, /) -> Floats:
        return super().wanted(i, equity) * EQUITY_PART * np.maximum(equity, 0.0)


class Replay:
    """The positions of a base run as columns, played through accounts with other sizes."""

    def __init__(self, fills: Fills) -> None:
        everything: list[Cycle | Held] = [*fills.cycles, *fills.held]
        missing = len(fills.held)
        self.fills, self.count, self._everything = fills, len(everything), everything
        self._sign = np.array([1.0 if x.leg == "B" else -1.0 for x in everything])
        self._placed_at = _column(min(x.placed_at, x.entry_time) for x in everything)
        self._entry_time = _column(x.entry_time for x in everything)
        self._price = _column(x.entry_price for x in everything)
        self._volume = _column(x.volume for x in everything)
        self._entry_fee = _column(x.entry_fee for x in everything)
        self._exit_time = _column((x.exit_time for x in fills.cycles), missing, np.inf)
        self._exit_price = _column((x.exit_price for x in fills.cycles), missing)
        self._exit_fee = _column((x.exit_fee for x in fills.cycles), missing)
        self._net = _column((x.net_profit for x in fills.cycles), missing)
        self.notional = self._price * self._volume
        self._paid = -self._sign * self.notional - self._entry_fee  # into quote, at the entry

    # ---- arms ----------------------------------------------------------------------------------

    def fixed(self) -> Arm:
        """Return the base run itself."""
        return self._arm("fixed", np.ones(self.count))

    def equity_part(self) -> Arm:
        """Return the arm with a tenth of equity in each order."""
        made, cut = self._play(_EquityPart(1.0 / self.notional[:, None]), 1)
        return self._arm("10 % of equity", made[:, 0], cut=cut)

    def tested(
        self, name: str, params: Params, *, mode: str, by_regime: bool, shuffles: int, seed: int
    ) -> Measured:
        """Return a Kelly sizing with what it is measured against."""
        params = replace(params, kelly=replace(params.kelly, mode=mode))
        walk = KellyWalk(self._noted(), params, slots=self.fills.slots, by_regime=by_regime,
                         least_usd=self.fills.least_usd)  # fmt: skip
        made, cut = self._play(walk, 1)
        arm = self._arm(name, made[:, 0], cut=cut, at_bounds=walk.at_bounds())
        return Measured(arm, self.matched(arm), self.placebo(walk.said, shuffles, seed))

    def given(self, name: str, multipliers: Floats) -> Arm:
        """Return the arm with these multipliers, as far as cash allows."""
        made, cut = self._play(_Given(multipliers[:, None]), 1)
        return self._arm(name, made[:, 0], cut=cut)

    def matched(self, arm: Arm) -> Arm:
        """Return fixed sizes with the mean notional of `arm`.

        Where cash cuts them they are raised until as much is traded, if less than LEVEL_MAX times
        as large ones reach it.
        """
        target = float(arm.multipliers @ self.notional)
        level = target / float(self.notional.sum()) if self.count else 1.0

        def fixed(level: float) -> Arm:
            return self.given(f"fixed, as large as {arm.name}", np.full(self.count, level))

        def missing(level: float) -> float:
            return target - float(fixed(level).multipliers @ self.notional)

        if missing(level) > target * ROUNDING and missing(LEVEL_MAX * level) < 0.0:
            level = float(brentq(missing, level, LEVEL_MAX * level, rtol=ROUNDING))
        return fixed(level)

    def placebo(self, multipliers: Floats, shuffles: int, seed: int) -> Floats:
        """Return the log growth a day of each shuffle of `multipliers`; −inf where all is lost."""
        made, _ = self._play(_Given(self.shuffled(multipliers, shuffles, seed)), shuffles)
        days = self.fills.whole_days
        growth = np.zeros(shuffles)
        first, last = np.setdiff1d(days, days + 1), np.setdiff1d(days + 1, days)
        for begin, end in zip(first, last, strict=True):  # a stretch of days without a break
            before, after = self._worth(begin, made), self._worth(end, made)
            with np.errstate(divide="ignore", invalid="ignore"):
                growth += np.where((before > 0) & (after > 0), np.log(after / before), -np.inf)
        return growth / max(1, len(days))

    def shuffled(self, multipliers: Floats, shuffles: int, seed: int) -> Floats:
        """Return (positions, shuffles): `multipliers` shuffled within the UTC month of entry."""
        rng = np.random.default_rng(seed)
        months = self._entry_time.astype("datetime64[s]").astype("datetime64[M]")
        found = np.tile(multipliers[:, None], (1, shuffles))
        for month in np.unique(months):
            rows = months == month
            found[rows] = rng.permuted(found[rows], axis=0)
        return found

    # ---- the account ---------------------------------------------------------------------------

    def _play(self, sizing: _Sizing, accounts: int) -> tuple[Floats, int]:
        """Return (positions, accounts) of multipliers that were made, and how many cash has cut.

        A size is decided when the entry is placed, and cut when it is filled. What an open position
        has bought, or got for what it sold, is kept for its exit. Of one instant a placement comes
        first, then an entry, then an exit.
        """
        after_tax, least = 1.0 - self.fills.taker, self.fills.least_usd
        free_quote, free_base = (
            np.full(accounts, self.fills.quote),
            np.full(accounts, self.fills.base),
        )
        kept_quote, kept_base = np.zeros(accounts), np.zeros(accounts)
        made, cuts = np.zeros((self.count, accounts)), 0
        volume, paid, net = self._volume.tolist(), self._paid.tolist(), self._net.tolist()
        price, is_buy = self._price.tolist(), (self._sign > 0).tolist()
        sized: dict[int, Floats] = {}
        for i, kind in self._events():
            if kind == PLACED:
                value = price[i] * after_tax
                equity = free_quote + kept_quote + (free_base + kept_base) * value
                sized[i] = sizing.wanted(i, equity)
                continue
            if kind == ENTERED:
                wanted = sized.pop(i)
                room = free_quote / -paid[i] if is_buy[i] else free_base / volume[i]
                size = np.minimum(wanted, np.maximum(room, 0.0))
                is_cut = size < wanted * (1.0 - ROUNDING)
                if is_cut.any():
                    cuts += int(is_cut.sum())
                    size = np.where(is_cut & (size * self.notional[i] < least), 0.0, size)
                made[i] = size
                sizing.entered(i, size)
                flow = size
            else:
                free_quote += made[i] * net[i]
                sizing.closed(i)
                flow = -made[i]
            if is_buy[i]:
                free_quote += flow * paid[i]
                kept_base += flow * volume[i]
            else:
                free_base -= flow * volume[i]
                kept_quote += flow * paid[i]
        return made, cuts

    def _events(self) -> list[tuple[int, int]]:
        """Return (position, what happens to it) in the order of time."""
        closed = np.flatnonzero(np.isfinite(self._exit_time))
        every = np.arange(self.count)
        times = np.concatenate([self._placed_at, self._entry_time, self._exit_time[closed]])
        which = np.concatenate([every, every, closed])
        kinds = np.repeat([PLACED, ENTERED, CLOSED], [self.count, self.count, len(closed)])
        order = np.lexsort((kinds, times))
        return list(zip(which[order].tolist(), kinds[order].tolist(), strict=True))

    def _noted(self) -> list[Noted]:
        """Return the positions as the sizer reads them."""
        outcomes = zip(self._exit_time.tolist(), self._net.tolist(), strict=True)
        return [
            {
                "slot_id": x.slot_id, "trade_id": x.leg, "regime_at_entry": x.regime_at_entry,
                "placed_at": min(x.placed_at, x.entry_time), "regime_placed": x.regime_placed,
                "entry_time": x.entry_time, "exit_time": exit_time, "entry_price": x.entry_price,
                "volume": x.volume, "entry_fee": x.entry_fee, "net_profit": net,
            }
            for x, (exit_time, net) in zip(self._everything, outcomes, strict=True)
        ]  # fmt: skip

    # ---- what followed -------------------------------------------------------------------------

    def _worth(self, at: int, made: Floats) -> Floats:
        """Return equity at one mark of each account of `made`."""
        time, value = self.fills.mark_times[at], self.fills.bids[at] * (1.0 - self.fills.taker)
        open_worth = self._paid + self._sign * self._volume * value
        worth = np.where(self._exit_time <= time, self._net, open_worth)
        worth = np.where(self._entry_time <= time, worth, 0.0)
        total: Floats = self.fills.quote + self.fills.base * value + worth @ made
        return total

    def _balances(self, made: Floats) -> tuple[Floats, Floats]:
        """Return quote and base at each mark."""
        marks = self.fills.mark_times
        entries, exits = (np.searchsorted(marks, x) for x in (self._entry_time, self._exit_time))
        bought = self._sign * self._volume * made

        def sums(days: npt.NDArray[np.intp], amounts: Floats) -> Floats:
            return np.cumsum(np.bincount(days, amounts, len(marks) + 1)[:-1])

        quote = sums(entries, self._paid * made) + sums(exits, (self._net - self._paid) * made)
        base = sums(entries, bought) - sums(exits, bought)
        return self.fills.quote + quote, self.fills.base + base

    def _arm(self, name: str, made: Floats, *, cut: int = 0, at_bounds: float | None = None) -> Arm:
        fills = self.fills
        quote, base = self._balances(made)
        equity = quote + base * fills.bids * (1.0 - fills.taker)
        start, end = fills.mark_times[0], fills.mark_times[-1]
        mean = float(equity.mean()) if end > start else 0.0
        open_sec = np.clip(self._exit_time, start, end) - np.clip(self._entry_time, start, end)
        traded = made @ (self.notional + self._exit_price * self._volume)
        long = base * fills.bids / equity if (equity > 0).all() else None
        closed = np.flatnonzero(made[: len(fills.cycles)] > 0)
        return Arm(
            name=name,
            multipliers=made,
            equity=equity,
            cycles=cycle_figures(
                (made * self._net)[closed], (self._exit_time - self._entry_time)[closed]
            ),
            mean_notional=float(made @ self.notional) / self.count if self.count else None,
            exposure=float(made @ (self.notional * open_sec)) / (end - start) / mean
            if mean > 0
            else None,
            long_mean=None if long is None else float(long.mean()),
            long_max=None if long is None else float(long.max()),
            turnover=float(traded) / ((end - start) / DAY_SEC) / mean if mean > 0 else None,
            fees=float(made @ (self._entry_fee + self._exit_fee)),
            at_bounds=at_bounds,
            cut=cut,
        )


def _column(values: Iterable[float], missing: int = 0, filler: float = 0.0) -> Floats:
    return np.array([*values, *[filler] * missing], dtype=np.float64)
