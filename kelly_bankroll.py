"""Kelly sizes from returns on capital, with the losers that are still open: mode bankroll.

Closed grid cycles are nearly all wins, because losers stay open; so old open positions count at
mark, no win rate is believed as it is, and a loss never seen is expected all the same. Pure
computation; `kelly_sizer.py` partitions the cycles and applies floor and ceiling.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from core.kelly import (
    AGGREGATE,
    ALL_WINS,
    NO_EDGE,
    OK,
    PAYOFF_MAX,
    BankrollFacts,
    Book,
    KellyConfig,
    KellyResult,
    OpenPosition,
    target_usd,
)
from core.record import replace
from kelly_samples import Cycle, n_effective, newest_first, number, recency_weights

RUIN_SHARE = 0.9999  # of the bet at which the worst outcome ruins
LOSSES_MIN = 5  # below so many seen, one of structural size is added
OVERLAPS_MIN, RHO_UNKNOWN = 30, 0.8
P_LOW = 0.05
RETURN_MAX = 1e3  # of a capital: what is beyond is no return of a grid cycle
_STEPS = 60  # of a bisection


class Outcome(NamedTuple):
    """The return of one cycle on the capital that it tied up."""

    r: float
    weight: float = 1.0
    is_censored: bool = False


def bankroll_results(
    parts: Mapping[str, list[Cycle]], cfg: KellyConfig, book: Book
) -> dict[str, KellyResult]:
    """Return what each label's returns, and those of all, say of size.

    A regime is pooled towards the aggregate with the strength of the prior, which is why no bucket
    is ever insufficient: with few cycles of its own it says what the aggregate says.
    """
    rho = correlation(newest_first_cycles(parts[AGGREGATE], cfg))
    total = _result(_outcomes(parts[AGGREGATE], book.positions, cfg, book), cfg, book, rho, None)
    results = {AGGREGATE: total}
    for tag, label in cfg.regime_labels.items():
        held = [x for x in book.positions if x.regime_at_entry == tag]
        results[label] = _result(_outcomes(parts[label], held, cfg, book), cfg, book, rho, total)
    return results


def newest_first_cycles(cycles: Iterable[Cycle], cfg: KellyConfig) -> list[Cycle]:
    """Return the cycles within the look-back, newest first."""
    return [cycle for _, cycle in newest_first(cycles, cfg.lookback_cycles)]


def _outcomes(
    cycles: Iterable[Cycle], held: Sequence[OpenPosition], cfg: KellyConfig, book: Book
) -> list[Outcome]:
    """Return the returns, newest first: positions open for longer than the horizon, then cycles."""
    marked = [
        (x.marked_usd / x.capital_usd, True)
        for x in sorted(held, key=lambda x: -x.opened_at)
        if x.capital_usd > 0 and book.now - x.opened_at > book.horizon_sec
    ]
    closed = [
        (net / tied, False)
        for net, cycle in newest_first(cycles, cfg.lookback_cycles)
        if (tied := capital(cycle)) is not None
    ]
    returns = [(r, is_censored) for r, is_censored in (*marked, *closed) if math.isfinite(r)]
    weights = recency_weights(len(returns), cfg)
    return [
        Outcome(min(max(r, -RETURN_MAX), RETURN_MAX), weight, is_censored)
        for (r, is_censored), weight in zip(returns, weights, strict=True)
    ]


def _result(
    outcomes: list[Outcome],
    cfg: KellyConfig,
    book: Book,
    rho: float,
    total: KellyResult | None,
) -> KellyResult:
    """Return what a sample says; `total` is the aggregate that a regime is pooled towards."""
    if not outcomes:
        return KellyResult()
    wins = [x for x in outcomes if x.r > 0]
    losses = [x for x in outcomes if x.r < 0]
    weight_w, avg_win = _mean(wins)
    weight_l, avg_loss = _mean(losses)
    facts = _facts(outcomes, losses, avg_win, book)
    facts = _shrunk(facts, cfg, None if total is None else total.bankroll)
    f_slot = per_slot(facts.f_shrunk, slots=book.bank.slots, rho=rho)
    facts = replace(facts, f_slot=f_slot, rho=rho)
    decided = weight_w + weight_l
    reason = NO_EDGE if f_slot <= 0 else OK if losses else ALL_WINS
    has_size = f_slot > 0 and book.base_usd > 0
    return KellyResult(
        f_star=facts.f_raw,
        f_fractional=cfg.kelly_fraction * f_slot,
        multiplier=target_usd(f_slot, cfg, book.bank) / book.base_usd if has_size else 1.0,
        win_rate=weight_w / decided if decided > 0 else 0.0,
        avg_win=avg_win,
        avg_loss=abs(avg_loss),
        payoff_ratio=min(avg_win / abs(avg_loss), PAYOFF_MAX) if losses else PAYOFF_MAX,
        n_total=len(outcomes),
        n_wins=len(wins),
        n_losses=len(losses),
        edge=facts.mean_return,
        sufficient_data=True,
        reason=reason,
        bankroll=facts,
    )


def _mean(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Return the sum of weights and the weighted mean return; (0, 0) of nothing."""
    total = math.fsum(x.weight for x in outcomes)
    return total, math.fsum(x.weight * x.r for x in outcomes) / total if total > 0 else 0.0


def _facts(
    outcomes: list[Outcome],
    losses: list[Outcome],
    avg_win: float,
    book: Book,
) -> BankrollFacts:
    """Return f and growth of a sample, with what stands in for losses that were not seen.

    Without any: the one-sided 95 % bound of the win rate, 0.05^(1/n), and the structural loss.
    With few: one more of structural size, as heavy as the mean.
    """
    n = n_effective([x.weight for x in outcomes])
    censored = sum(x.is_censored for x in outcomes)
    p_low, loss = None, book.structural_loss
    if losses:
        sample = list(outcomes)
        if len(losses) < LOSSES_MIN:
            mean_weight = math.fsum(x.weight for x in outcomes) / len(outcomes)
            sample.append(Outcome(-loss, mean_weight))
        f_raw, growth = growth_optimal(sample)
    else:
        p_low = P_LOW ** (1.0 / n)
        f_raw, growth = _two_point(p_low, avg_win, loss)
    return BankrollFacts(
        n_effective=n,
        mean_return=_mean(outcomes)[1],
        growth=growth,
        f_raw=f_raw,
        p_low=p_low,
        structural_loss=loss if len(losses) < LOSSES_MIN else None,
        censored=censored,
        censored_share=censored / len(outcomes),
    )


def _two_point(p: float, win: float, loss: float) -> tuple[float, float]:
    """Return the growth-optimal f and its growth where `win` comes with p and `loss` else."""
    if win <= 0.0 or loss <= 0.0:
        return 0.0, 0.0
    f = min(p / loss - (1.0 - p) / win, RUIN_SHARE / loss)
    if f <= 0.0:
        return 0.0, 0.0
    return f, p * math.log1p(f * win) + (1.0 - p) * math.log1p(-f * loss)


def _shrunk(facts: BankrollFacts, cfg: KellyConfig, total: BankrollFacts | None) -> BankrollFacts:
    """Return the facts with f shrunk once: towards break-even, a regime towards the aggregate.

    A win rate that is a bound already is not shrunk again.
    """
    own, n, m = facts.f_raw, facts.n_effective, cfg.prior_strength
    if total is not None:
        share = shrinkage(n, m)
        return replace(facts, f_shrunk=share * own + (1.0 - share) * total.f_shrunk)
    return replace(facts, f_shrunk=own if facts.p_low is not None else own * shrinkage(n, m))


def growth_optimal(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Return (f, growth): the f that maximises Σ w·ln(1 + f·r)/Σ w, 0 ≤ f < 1/max(−r).

    Without a loss there is no such f: the largest finite bet would be right. Raises ValueError
    then. f is 0 where the mean return is not positive.
    """
    total = math.fsum(x.weight for x in outcomes)
    worst = max((-x.r for x in outcomes if x.weight > 0), default=0.0)
    if worst <= 0.0:
        raise ValueError("a sample without a loss has no growth-optimal bet")
    if math.fsum(x.weight * x.r for x in outcomes) <= 0.0:
        return 0.0, 0.0
    low, high = 0.0, RUIN_SHARE / worst
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if math.fsum(x.weight * x.r / (1.0 + middle * x.r) for x in outcomes) > 0.0:
            low = middle
        else:
            high = middle
    growth = math.fsum(x.weight * math.log1p(low * x.r) for x in outcomes) / total
    return low, growth


def shrinkage(n: float, strength: float) -> float:
    """Return n/(n + m): what a Beta prior of strength m, centred on break-even, leaves of f."""
    return n / (n + strength) if n + strength > 0 else 0.0


def per_slot(f: float, *, slots: int, rho: float) -> float:
    """Return the share of `f` for each of `slots` whose outcomes correlate by `rho`."""
    return f / (1.0 + max(0, slots - 1) * rho)


def capital(cycle: Cycle) -> float | None:
    """Return what a cycle tied up: a buy's cost with its fee, or the value of what was sold."""
    price, volume, fee = (number(cycle.get(x)) for x in ("entry_price", "volume", "entry_fee"))
    if price is None or volume is None:
        return None
    value = price * volume
    tied = value + max(0.0, fee or 0.0) if str(cycle.get("trade_id")) == "B" else value
    return tied if value > 0.0 and tied < math.inf else None


def correlation(cycles: Iterable[Cycle]) -> float:
    """Return how the returns of cycles that overlap in time, of different slots, correlate.

    0 to 1; RHO_UNKNOWN where fewer than OVERLAPS_MIN pairs are known. Each cycle is compared with
    the one that was opened next before it ended.
    """
    known = sorted(
        (begun, ended, slot, float(net) / tied)
        for c in cycles
        if (tied := capital(c)) is not None
        and (net := number(c.get("net_profit"))) is not None
        and (begun := number(c.get("entry_time"))) is not None
        and (ended := number(c.get("exit_time"))) is not None
        and (slot := number(c.get("slot_id"))) is not None
    )
    pairs = []
    for n, (_, ended, slot, r) in enumerate(known):
        for begun, _, other, r_other in known[n + 1 : n + 21]:
            if begun >= ended:
                break
            if other != slot:
                pairs.append((r, r_other))
                break
    if len(pairs) < OVERLAPS_MIN:
        return RHO_UNKNOWN
    return _pearson(pairs)


def _pearson(pairs: list[tuple[float, float]]) -> float:
    count = len(pairs)
    mean_x, mean_y = (math.fsum(p[i] for p in pairs) / count for i in (0, 1))
    xy = math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs)
    xx = math.fsum((x - mean_x) ** 2 for x, _ in pairs)
    yy = math.fsum((y - mean_y) ** 2 for _, y in pairs)
    if xx <= 0.0 or yy <= 0.0:
        return RHO_UNKNOWN
    return min(1.0, max(0.0, xy / math.sqrt(xx * yy)))
