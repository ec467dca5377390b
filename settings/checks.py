"""What settings must fulfil together: problems that stop a start, and what has no effect.

Values are those of `config.load`, by the names of Settings.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from core.domain import HUNDRED, FeeRates
from core.hosts import host_of, is_here, is_link_local
from core.params import Params
from grid_strategy import break_even_pct
from risk import slots_max
from settings.table import BY_NAME, LIVE_PHRASE, OPEN_ORDER_LIMITS, VARIABLES
from settings.variable import path_is

PAPER_POLL_MAX_SEC = 10.0  # prices twice as old are no prices any more
VENUE_HOST = "api.kraken.com"
FIRST_TIER = FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008"))
_BOT_TOKEN = re.compile(r"\d{3,20}:[\w-]{20,256}", re.ASCII)
_CHAT_ID = re.compile(r"-?[1-9]\d{0,17}", re.ASCII)
_HOST_NAME = re.compile(r"[\w.:-]{1,253}", re.ASCII)
Check = Callable[[Mapping[str, Any]], Iterable[str]]


class Known(dict[str, Any]):
    """The values that could be read; a check on one that could not is left out."""

    def has(self, *targets: str) -> bool:
        return self.keys() >= set(targets)


def _market_checks(values: Known) -> Iterator[str]:
    if values.get("mode") == "live" and values.get("market_data") not in (None, "kraken"):
        yield f"MARKET_DATA={values['market_data']}: MODE=live needs MARKET_DATA=kraken"
    if values.get("market_data") == "replay" and "replay_file" in values:
        file = values["replay_file"]
        if file is None:
            yield "REPLAY_FILE: MARKET_DATA=replay needs a file of candles or trades"
        elif not path_is(file, "file"):
            yield f"REPLAY_FILE={str(file)!r}: there is no such file"
    if values.get("paper_start_quote") == 0 == values.get("paper_start_base_usd"):
        yield "PAPER_START_QUOTE, PAPER_START_BASE_USD: both are 0; there is nothing to trade with"


_OF_A_FILE = ("REPLAY_FILE", "REPLAY_SYMBOL", "REPLAY_FROM")


def idle(values: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """Yield warnings that name what is set for another market or mode than this run's."""
    names = [v.name for v in VARIABLES if sources[v.name] != "default"]
    if values["mode"] == "live":
        idle = [x for x in names if BY_NAME[x].is_simulation]
        why = "MODE=live, which is no simulation"
    else:
        market = market_of(values)
        idle = [x for x in names if x in _OF_A_FILE and market != "replay"]
        why = f"MARKET_DATA={market}"
    if idle:
        yield f"{', '.join(idle)}: no effect with {why}"
    is_on = hmm_enabled(Known(values)) or values["regime_manual_override"] is not None
    if values["params.regime_directional_enabled"] and not is_on:
        yield (
            "REGIME_DIRECTIONAL_ENABLED=true: no effect, there is no regime to act on without "
            "HMM_ENABLED=true or REGIME_MANUAL_OVERRIDE"
        )
    if values["advice.enabled"]:
        keys = ("nvidia_api_key", "groq_api_key", "ai_base_url")
        if not is_on:
            yield (
                "AI_REGIME_ADVISOR_ENABLED=true: no effect, there is no regime to have an opinion "
                "on without HMM_ENABLED=true or REGIME_MANUAL_OVERRIDE"
            )
        elif all(values[x] is None for x in keys):
            yield (
                "AI_REGIME_ADVISOR_ENABLED=true: there is nobody to ask; set NVIDIA_API_KEY, "
                "GROQ_API_KEY, or AI_BASE_URL with AI_MODEL"
            )
    if values["supabase_candles"]:
        if market_of(values) != "kraken":
            yield f"SUPABASE_CANDLES=true: no effect with MARKET_DATA={market_of(values)}"
        elif not hmm_enabled(Known(values)):
            yield "SUPABASE_CANDLES=true: no effect without HMM_ENABLED=true"


def _fee_checks(values: Known) -> Iterator[str]:
    if not values.has("paper_maker_fee_pct", "paper_taker_fee_pct"):
        return
    maker, taker = values["paper_maker_fee_pct"], values["paper_taker_fee_pct"]
    if (maker is None) != (taker is None):
        yield "PAPER_MAKER_FEE_PCT, PAPER_TAKER_FEE_PCT: set both or neither"
    if not values.has("mode", "params.min_net_profit_pct", "params.profit_pct"):
        return
    if values["mode"] == "live":
        return  # the start reads the account's fees, and measures the target against them
    rate = FIRST_TIER.maker if maker is None else maker / HUNDRED
    margin, target = values["params.min_net_profit_pct"], values["params.profit_pct"]
    least = break_even_pct(rate) + margin
    if target <= least:
        yield (
            f"PAIR_PROFIT_PCT={target}: must be above {least:.3f}: break-even at "
            f"{rate * HUNDRED:.2f} % maker is {break_even_pct(rate):.3f} %, plus "
            f"MIN_NET_PROFIT_PCT {margin}"
        )


def _size_checks(values: Known) -> Iterator[str]:
    if values.has("params.max_order_usd", "params.order_size_usd"):
        most_usd, size = values["params.max_order_usd"], values["params.order_size_usd"]
        if most_usd < size:
            yield f"MAX_ORDER_USD={most_usd}: must not be below ORDER_SIZE_USD {size}"
    if values.has("kraken_tier", "mode", "params.slot_count"):
        tier = tier_of(values)
        limit = OPEN_ORDER_LIMITS[tier]
        most = slots_max(Params(open_order_limit=limit))
        if values["params.slot_count"] > most:
            yield (
                f"SLOT_COUNT={values['params.slot_count']}: an open-order limit of {limit} "
                f"(KRAKEN_TIER={tier}) carries at most {most}"
            )


def _model_checks(values: Known) -> Iterator[str]:
    for least, target in (
        ("params.hmm_min_train_samples", "hmm.training_candles"),
        ("params.hmm_secondary_min_train_samples", "hmm.secondary_training_candles"),
    ):
        if values.has(least, target) and values[least] > values[target]:
            yield (
                f"{_named(least)}={values[least]}: must not be above {_named(target)} "
                f"{values[target]}: nothing would ever be trained"
            )


def _tier_checks(values: Known) -> Iterator[str]:
    for low, high in (
        ("params.regime_tier1_confidence", "params.regime_tier2_confidence"),
        ("params.regime_tier1_bias", "params.regime_tier2_bias"),
        ("params.regime_hysteresis", "params.regime_tier1_confidence"),
    ):
        if values.has(low, high) and values[low] >= values[high]:
            yield (
                f"{_named(low)}={values[low]:g}: must not reach {_named(high)}, which is "
                f"{values[high]:g}"
            )


def _kelly_checks(values: Known) -> Iterator[str]:
    most = "kelly.lookback_cycles"
    for least in ("kelly.min_samples_total", "kelly.min_samples_per_regime"):
        if values.has(least, most) and values[least] > values[most]:
            yield (
                f"{_named(least)}={values[least]}: must not be above {_named(most)} "
                f"{values[most]}: there would never be enough"
            )


def _named(target: str) -> str:
    """Return the name of the variable that sets the field `target`."""
    return next(v.name for v in VARIABLES if v.target == target)


def market_of(values: Mapping[str, Any]) -> str:
    """Return where prices come from; unset, that follows from the mode."""
    market: str = values["market_data"] or ("kraken" if values["mode"] == "live" else "synthetic")
    return market


def hmm_enabled(values: Known) -> bool:
    """Tell whether the models run; unset, they do where nothing is at stake and data is at hand."""
    chosen: bool | None = values["hmm_enabled"]
    if chosen is None:
        return values.has("market_data", "mode") and market_of(values) == "synthetic"
    return chosen


def tier_of(values: Mapping[str, Any]) -> str:
    """Return the account's tier; unset, the lowest where orders are sent."""
    tier: str = values["kraken_tier"] or ("starter" if values["mode"] == "live" else "pro")
    return tier


def _poll_checks(values: Known) -> Iterator[str]:
    """Yield a poll that is too rare for prices; those of a live run are asked for by themselves."""
    poll = values.get("poll_sec")
    if values.get("mode") == "paper" and poll is not None and poll > PAPER_POLL_MAX_SEC:
        yield f"POLL_INTERVAL_SECONDS={poll:g}: on paper from 1 to {PAPER_POLL_MAX_SEC:g}"


def _live_checks(values: Known) -> Iterator[str]:
    """Yield what a run with orders at Kraken, or at a sandbox, lacks."""
    if values.get("mode") != "live" or not values.has("kraken_api_url", "live_trading"):
        return
    names = {"kraken_api_key": "KRAKEN_API_KEY", "kraken_api_secret": "KRAKEN_API_SECRET"}
    missing = [name for target, name in names.items() if values.get(target, "") is None]
    if missing and (len(missing) == 1 or not is_here(host_of(values["kraken_api_url"]))):
        yield f"{', '.join(missing)}: MODE=live needs both"
    is_real = host_of(values["kraken_api_url"]) == VENUE_HOST
    if is_real and values["live_trading"] != LIVE_PHRASE:
        yield f"LIVE_TRADING: MODE=live trades real money; set it to {LIVE_PHRASE} if you mean it"


def _page_checks(values: Known) -> Iterator[str]:
    host = values.get("host")
    if host is not None and not _HOST_NAME.fullmatch(host):
        yield f"HOST={host[:80]!r}: must be an address or a host name"
    elif host is not None and not is_here(host) and values.get("dashboard_token", "") is None:
        yield f"HOST={host}: reachable from other machines; set DASHBOARD_TOKEN first"
    for name in values.get("dashboard_allowed_hosts", ()):
        if not _HOST_NAME.fullmatch(name):
            yield f"DASHBOARD_ALLOWED_HOSTS: {name!r} is no host name"


def _notify_checks(values: Known) -> Iterator[str]:
    if not values.has("telegram_bot_token", "telegram_chat_id"):
        return
    token, chat = values["telegram_bot_token"], values["telegram_chat_id"]
    if (token is None) != (chat is None):
        yield "TELEGRAM_BOT_TOKEN, TELEGRAM_CHAT_ID: set both or neither"
    if token is not None and not _BOT_TOKEN.fullmatch(token):
        yield "TELEGRAM_BOT_TOKEN=***: must look as BotFather gives it: digits, a colon, letters"
    if chat is not None and not _CHAT_ID.fullmatch(chat):
        yield f"TELEGRAM_CHAT_ID={chat[:80]!r}: must be the chat's number, such as 12345 or -10012"


def _replica_checks(values: Known) -> Iterator[str]:
    if values.has("supabase_url", "supabase_key"):
        url, key = values["supabase_url"], values["supabase_key"]
        if (url is None) != (key is None):
            yield "SUPABASE_URL, SUPABASE_KEY: set both or neither"
        if values.get("supabase_candles") and url is None is key:
            yield "SUPABASE_CANDLES=true: set SUPABASE_URL and SUPABASE_KEY, for there is no copy"


def _advisor_checks(values: Known) -> Iterator[str]:
    ttl, most = "advice.override_ttl_sec", "advice.override_max_ttl_sec"
    if values.has(ttl, most) and values[ttl] > values[most]:
        yield f"{_named(ttl)}={values[ttl]:g}: must not be above {_named(most)} {values[most]:g}"
    if values.has("ai_base_url", "ai_model", "ai_api_key"):
        url, model = values["ai_base_url"], values["ai_model"]
        if (url is None) != (model is None):
            yield "AI_BASE_URL, AI_MODEL: set both or neither"
        if url is not None and is_link_local(host_of(url)):
            yield f"AI_BASE_URL={url}: is no address of a model server but of this machine's host"
        if values["ai_api_key"] is not None and url is None:
            yield "AI_API_KEY=***: there is no AI_BASE_URL that it is for"


CHECKS = (
    _market_checks, _poll_checks, _live_checks, _fee_checks, _size_checks, _page_checks,
    _notify_checks, _model_checks, _tier_checks, _kelly_checks, _replica_checks,
    _advisor_checks,
)  # fmt: skip
