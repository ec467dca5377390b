"""The six Kelly views for other programs: from the published status and from history, read-only.

Nothing here decides anything: multipliers and reasons are those of the daemon's own statistics;
what is computed here are shares with their intervals, comparisons and ages.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Protocol

from core.interval import Z, wilson
from core.kelly import AGGREGATE, Bank, KellyConfig, KellyResult, sizing
from kelly_samples import n_effective, newest_first, number, recency_weights
from web.message import number as whole

DAY_SEC = 86_400.0
EACH_WAY_MIN = 5  # cycles that Kelly has made better, and worse, before there is a verdict
LABELS = ("bearish", "ranging", "bullish")
SIDES = {"A": "sell", "B": "buy"}
Status = Mapping[str, Any]


class KellyHistory(Protocol):
    """What the views read; every method is safe from any thread."""

    def kelly_params(self) -> dict[str, Any]:
        """Return the decision parameters in force."""
        ...

    def recent_cycles(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest cycles of each regime, and of all, oldest first."""
        ...

    def sized_cycles(self, since: float) -> list[dict[str, Any]]:
        """Return cycles ended since then, oldest first, with the chain of their entry."""
        ...

    def transitions(self, kind: str, limit: int) -> list[dict[str, Any]]:
        """Return the newest recorded changes of a kind, newest first."""
        ...


def recommendations(status: Status, history: KellyHistory) -> dict[str, Any]:
    """Return for each side and regime the win rate with its interval, and what sizes make of it."""
    kelly, cfg = status["kelly"], _config(history)
    cycles = history.recent_cycles(cfg.lookback_cycles)
    sizes = _sizes(status, history.kelly_params(), cfg)
    made = []
    for leg, side in SIDES.items():
        for tag, label in [*enumerate(LABELS), (None, AGGREGATE)]:
            own = [
                c for c in cycles
                if c["trade_id"] == leg and (tag is None or c["regime_at_entry"] == tag)
            ]  # fmt: skip
            made.append({"side": side, "regime": label, **_rates(own, cfg), **sizes[label]})
    return {
        "enabled": kelly["enabled"],
        "as_of": kelly.get("updated_at"),
        "active_regime": kelly.get("active_regime"),
        "note": "p, payoff and n are of the side; f, multiplier and reason of both together",
        "recommendations": made,
    }


def _rates(cycles: Sequence[Mapping[str, Any]], cfg: KellyConfig) -> dict[str, Any]:
    """Return p with its Wilson interval on n effective, and b."""
    recent = newest_first(cycles, cfg.lookback_cycles)
    weighted = list(zip((x for x, _ in recent), recency_weights(len(recent), cfg), strict=True))
    won, lost = [x for x in weighted if x[0] > 0], [x for x in weighted if x[0] < 0]
    n = n_effective([w for _, w in (*won, *lost)])
    weight_w, weight_l = (math.fsum(w for _, w in part) for part in (won, lost))
    if weight_w + weight_l <= 0:
        p, interval = None, None
    else:
        p = weight_w / (weight_w + weight_l)
        interval = wilson(p, n)
    payoff = None
    if weight_w > 0 and weight_l > 0:
        mean_w = math.fsum(x * w for x, w in won) / weight_w
        mean_l = -math.fsum(x * w for x, w in lost) / weight_l
        payoff = round(min(mean_w / mean_l, 1e6), 4)
    return {
        "p": None if p is None else round(p, 4),
        "p_interval": interval,
        "payoff": payoff,
        "n": len(recent),
        "n_effective": round(n, 1),
    }


def _sizes(
    status: Status, params: Mapping[str, Any], cfg: KellyConfig
) -> dict[str, dict[str, Any]]:
    """Return for each label what an order of the base size entered in it would be made of."""
    kelly, names = status["kelly"], (*LABELS, AGGREGATE)
    if not kelly["enabled"]:
        off = {"f_raw": None, "f_shrunk": None, "f_fractional": None, "multiplier": 1.0,
               "reason": "disabled", "sized_by": None}  # fmt: skip
        return dict.fromkeys(names, off)
    results = {x: KellyResult.from_dict(kelly[x]) for x in names}
    worth, share = number(status["equity"]["equity"]), number(params["max_equity_share"])
    bank = None
    if worth is not None and share is not None:
        bank = Bank(equity_usd=worth, equity_share=share, slots=len(status["slots"]))
    base = number(params["order_size_usd"]) or 0.0
    told = {}
    for name, found in results.items():
        made = sizing(results, name, cfg, base_usd=base, bank=bank)
        told[name] = {
            "f_raw": found.f_star,
            "f_shrunk": None if found.bankroll is None else found.bankroll.f_shrunk,
            "f_fractional": found.f_fractional,
            "multiplier": round(made.multiplier, 6),
            "reason": found.reason,
            "sized_by": made.bucket,
        }
    return told


def performance(status: Status, history: KellyHistory, days: float) -> dict[str, Any]:
    """Return what the sizes by Kelly have brought against base sizes, on the same cycles.

    A cycle's profit at base size is its profit over the multiplier in the entry's chain; what later
    stages have cut is not undone. The interval is of the sum of differences (normal, 95 %). Without
    cycles of both kinds there is no verdict.
    """
    rows = history.sized_cycles(status["bot"]["now"] - days * DAY_SEC)
    made, differences, factors = 0.0, [], []
    for row in rows:
        factor, net = _factor(row["chain"]), number(row["net_profit"])
        if factor is None or net is None:
            continue
        factors.append(factor)
        made += net
        differences.append(net - net / factor)
    count = len(differences)
    total = math.fsum(differences)
    half = Z * stdev(differences) * math.sqrt(count) if count > 1 else None
    interval = None if half is None else [round(total - half, 4), round(total + half, 4)]
    lost = sum(x < 0 for x in differences)
    if interval is None or min(lost, count - lost) < EACH_WAY_MIN:
        # A larger size always looks better on a sample whose losers are still open.
        verdict = "cannot tell"
    elif interval[0] <= 0.0 <= interval[1]:
        verdict = "not distinguishable"
    else:
        verdict = "better" if total > 0 else "worse"
    return {
        "window_days": days,
        "cycles": count,
        "cycles_without_kelly": len(rows) - count,
        "net_usd": round(made, 4),
        "net_at_base_usd": round(made - total, 4),
        "difference_usd": round(total, 4),
        "difference_interval_usd": interval,
        "mean_multiplier": round(fmean(factors), 4) if factors else None,
        "verdict": verdict,
        "note": "closed cycles only; what is open may turn it round",
    }


def _factor(chain: Sequence[Mapping[str, Any]]) -> float | None:
    """Return what Kelly has multiplied a size by, None where it was off."""
    before = None
    for step in chain:
        if step["stage"] == "kelly":
            after = number(step["amount_usd"])
            is_used = before and after and step["reason"] != "off"
            return after / before if is_used and after is not None and before is not None else None
        before = number(step["amount_usd"])
    return None


def risk(status: Status, history: KellyHistory) -> dict[str, Any]:
    """Return the bounds of a size, how much of them is used, the risk level, and why."""
    kelly, params = status["kelly"], history.kelly_params()
    worth = number(status["equity"]["equity"])
    base = number(params["order_size_usd"])
    wanted = None if base is None else base * kelly.get("multiplier_now", 1.0)
    used = None if not worth or wanted is None else round(wanted / worth, 6)
    return {
        "level": status["risk"]["level"],
        "locks": [x["name"] for x in status["risk"]["locks"]],
        "caps": {
            "floor_mult": kelly.get("floor_mult"),
            "ceiling_mult": kelly.get("ceiling_mult"),
            "max_order_usd": params["max_order_usd"],
            "max_equity_share_of_an_order": _config(history).max_equity_share,
            "max_equity_share": params["max_equity_share"],
            "portfolio_room": status["risk"]["portfolio_room"],
        },
        "use": {
            "order_usd": None if wanted is None else round(wanted, 4),
            "share_of_equity": used,
            "share_of_sizes_at_a_cap": kelly.get("capped_share"),
        },
        "why": kelly.get("reason_now", "disabled"),
        "open_losers": kelly.get("open_losers"),
    }


def health(status: Status) -> dict[str, Any]:
    """Return whether statistics and the label they are chosen by are there and fresh, with ages."""
    kelly, hmm, pipeline = status["kelly"], status["hmm_regime"], status["hmm_data_pipeline"]
    now = status["bot"]["now"]
    model = hmm.get("model")
    found = {
        "enabled": kelly["enabled"],
        "last_label": kelly.get("active_regime"),
        "label_age_sec": _age(now, hmm.get("heard_at")),
        "model_age_sec": _age(now, None if model is None else model["until"]),
        "data_age_sec": pipeline.get("newest_age_sec"),
        "statistics_age_sec": _age(now, kelly.get("updated_at")),
        "cycles": kelly.get("last_update_n"),
    }
    problems = []
    if kelly["enabled"]:
        due = kelly.get("next_update")
        if found["statistics_age_sec"] is None:
            problems.append("the sizer has not been heard of yet")
        elif due is not None and now - due > 60.0:
            problems.append("the sizer is late")
        if hmm["enabled"] and hmm.get("regime") is None:
            problems.append(f"no regime: {hmm.get('why') or 'unknown'}")
        elif hmm["enabled"] and not hmm.get("is_trained"):
            problems.append(hmm.get("why") or "the models are not trained")
        elif not hmm["enabled"]:
            problems.append("the models are off: the aggregate alone counts")
    state = "off" if not kelly["enabled"] else "degraded" if problems else "ok"
    return {"state": state, "problems": problems, **found}


def _age(now: float, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, now - at), 1)


def changes(history: KellyHistory, limit: int) -> dict[str, Any]:
    """Return when a bucket's verdict has changed, newest first."""
    return {"history": history.transitions("kelly", limit)}


def configuration(history: KellyHistory) -> dict[str, Any]:
    """Return the effective configuration; it is changed in the environment only."""
    params = history.kelly_params()
    own = KellyConfig.from_dict(params.get("kelly", {}))
    return {"enabled": bool(params.get("kelly_enabled", False)), **own.to_dict()}


def _config(history: KellyHistory) -> KellyConfig:
    return KellyConfig.from_dict(history.kelly_params().get("kelly", {}))


Query = Mapping[str, Sequence[str]]
KELLY_VIEWS: Mapping[str, Callable[[Status, KellyHistory, Query], dict[str, Any]]] = {
    "current-recommendations": lambda s, h, _: recommendations(s, h),
    "performance-metrics": lambda s, h, q: performance(s, h, whole(q, "window_days", 30, 3650)),
    "risk-status": lambda s, h, _: risk(s, h),
    "service-health": lambda s, _h, _q: health(s),
    "history": lambda _, h, q: changes(h, whole(q, "limit", 100, 1000)),
    "config": lambda _s, h, _q: configuration(h),
}
