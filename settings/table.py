"""The table of all environment variables: names, kinds, bounds, defaults and meanings.

Nothing is read here: `config.py` reads the environment by this table.
"""

import base64
from decimal import Decimal
from typing import Any

from settings.variable import Variable

OPEN_ORDER_LIMITS = {"starter": 60, "intermediate": 80, "pro": 225}
LIVE_PHRASE = "yes-real-money"
# Of the sandbox, and public: they open nothing but it.
DEMO_KEY = "SANDBOX-DEMO-KEY-" + "0" * 39
DEMO_SECRET = base64.b64encode(
    b"the sandbox's demo secret is public and opens nothing elsewhere."
).decode()


def _v(  # noqa: PLR0917 - a table reads better without the names of its columns
    section: str, name: str, kind: str, default: str, target: str, meaning: str, **more: Any
) -> Variable:
    return Variable(
        section=section, name=name, kind=kind, default=default, target=target, meaning=meaning,
        **more,
    )  # fmt: skip


_RUN, _MARKET, _KRAKEN = "Running", "Market", "Kraken"
_PAPER, _GRID = "Paper exchange", "Grid"
_SIZE, _RISK, _PAGE, _NOTIFY = "Size", "Risk", "Page and logs", "Notifications"
_HMM, _TIERS = "Regime models", "Regime tiers"
VARIABLES: tuple[Variable, ...] = (
    _v(_RUN, "MODE", "choice", "paper", "mode", "what orders are: paper, or live: sent to Kraken",
       choices=("paper", "live")),
    _v(_RUN, "BOT_NAME", "text", "grid", "bot_name", "name of this bot, part of its order ids"),
    _v(_RUN, "PAIR", "choice", "DOGE/USD", "pair", "what is traded; no other pair is known yet",
       choices=("DOGE/USD",)),
    _v(_RUN, "STATE_DB", "path", "data/bot.db", "state_db", "the database; the paper exchange "
       "keeps its own file beside it"),
    _v(_RUN, "JOURNAL_RETENTION_DAYS", "integer", "30", "journal_retention_days",
       "days of journal kept at least", low="1", high="3650"),
    _v(_RUN, "HISTORY_RETENTION_DAYS", "integer", "400", "history_retention_days",
       "days of events, ledger lines and hourly equity kept; executions, orders, cycles and daily "
       "equity stay for good", low="31", high="36500"),
    _v(_RUN, "SEED", "integer", "1", "seed", "seed of everything random in simulation", low="0",
       high="4294967295"),
    _v(_MARKET, "MARKET_DATA", "choice", "", "market_data", "where prices come from; unset: kraken "
       "live, synthetic on paper", choices=("synthetic", "replay", "kraken")),
    _v(_MARKET, "REPLAY_FILE", "path", "", "replay_file", "recorded candles or trades: .csv, "
       ".csv.gz or .parquet"),
    _v(_MARKET, "REPLAY_SYMBOL", "text", "", "replay_symbol", "which symbol, where the file holds "
       "several"),
    _v(_MARKET, "REPLAY_FROM", "time", "", "replay_from", "where in the file the market begins; "
       "what is before it is history for the models; unset: at the file's start"),
    _v(_MARKET, "REPLAY_SPEED", "float", "60", "replay_speed", "times real time",
       low="0.01", high="1000000", word="max"),
    _v(_MARKET, "SYNTHETIC_SPEED", "float", "600", "synthetic_speed", "times real time",
       low="0.01", high="1000000", word="max"),
    _v(_MARKET, "STALE_PRICE_MAX_AGE_SEC", "seconds", "", "stale_price_max_age_sec",
       "older prices stop entries; unset: 60; with candles at least twice their interval",
       low="1", high="86400"),
    _v(_MARKET, "PRICE_JUMP_MAX_PCT", "decimal", "10", "params.price_jump_max_pct",
       "a larger move needs a second sample, percent", low="0.1", high="90"),
    _v(_MARKET, "MAX_SPREAD_PCT", "decimal", "0.5", "params.max_spread_pct",
       "a wider spread stops entries, percent", low="0.01", high="20"),
    _v(_KRAKEN, "KRAKEN_API_KEY", "secret", "", "kraken_api_key", "the API key, or "
       "KRAKEN_API_KEY_FILE: a file that holds it; it may query funds and orders, modify and close "
       "trades, and nothing else (query-ledger may be added)"),
    _v(_KRAKEN, "KRAKEN_API_SECRET", "secret", "", "kraken_api_secret", "its private key, or "
       "KRAKEN_API_SECRET_FILE"),
    _v(_KRAKEN, "LIVE_TRADING", "text", "", "live_trading", f"must be {LIVE_PHRASE} for orders "
       "with real money"),
    _v(_KRAKEN, "KRAKEN_TIER", "choice", "", "kraken_tier", "account tier: open-order limit and "
       "rate counters; unset: starter live, pro in simulation", choices=tuple(OPEN_ORDER_LIMITS)),
    _v(_KRAKEN, "POLL_INTERVAL_SECONDS", "seconds", "", "poll_sec", "how often Kraken is asked for "
       "our orders, and on paper for prices; unset: 20 live, 5 on paper", low="1", high="300"),
    _v(_KRAKEN, "KRAKEN_API_URL", "url", "https://api.kraken.com", "kraken_api_url", "Kraken, or a "
       "sandbox that speaks its protocol"),
    _v(_KRAKEN, "KRAKEN_API_URL_ALLOW", "list", "", "kraken_api_url_allow", "further host names "
       "that KRAKEN_API_URL may name"),
    _v(_PAPER, "PAPER_START_QUOTE", "decimal", "500", "paper_start_quote", "USD at the start",
       low="0", high="1000000000"),
    _v(_PAPER, "PAPER_START_BASE_USD", "decimal", "500", "paper_start_base_usd",
       "DOGE at the start, worth this many USD at the first price", low="0", high="1000000000"),
    _v(_PAPER, "PAPER_PRESET", "choice", "default", "paper_preset", "how careful fills are",
       choices=("optimistic", "default", "pessimistic")),
    _v(_PAPER, "PAPER_TOUCH_PROB", "float", "0", "paper_touch_prob",
       "chance that a candle's touch fills", low="0", high="1"),
    _v(_PAPER, "PAPER_QUEUE_MODEL", "choice", "risk_averse", "paper_queue_model",
       "where what leaves a book stood: all behind us, or by share", choices=("risk_averse",
       "power", "log")),
    _v(_PAPER, "PAPER_SPREAD_BPS", "decimal", "5", "paper_spread_bps",
       "spread around a candle's close, basis points", low="0", high="500"),
    _v(_PAPER, "PAPER_MAKER_FEE_PCT", "decimal", "", "paper_maker_fee_pct",
       "flat maker fee, percent; unset: the volume tiers from 0.40", low="0", high="5"),
    _v(_PAPER, "PAPER_TAKER_FEE_PCT", "decimal", "", "paper_taker_fee_pct",
       "flat taker fee, percent; set both or neither", low="0", high="5"),
    _v(_GRID, "SLOT_COUNT", "integer", "3", "params.slot_count", "slots at the first start",
       low="1", high="39"),
    _v(_GRID, "SLOT_STAGGER_PCT", "decimal", "0.5", "params.slot_stagger_pct",
       "how much farther out each next slot enters, percent", low="0", high="20"),
    _v(_GRID, "SLOT_ALIAS_POOL", "list", "", "params.slot_aliases", "names for slots"),
    _v(_GRID, "PAIR_ENTRY_PCT", "decimal", "0.5", "params.entry_pct",
       "distance of entries from the market, percent", low="0.05", high="20"),
    _v(_GRID, "PAIR_PROFIT_PCT", "decimal", "2.0", "params.profit_pct",
       "profit target of a cycle, gross, percent", low="0.05", high="50"),
    _v(_GRID, "PAIR_REFRESH_PCT", "decimal", "1.5", "params.refresh_pct",
       "an entry farther away is placed anew, percent", low="0.1", high="50"),
    _v(_GRID, "MIN_NET_PROFIT_PCT", "decimal", "0.10", "params.min_net_profit_pct",
       "margin of the target above break-even, percent", low="0", high="10"),
    _v(_GRID, "ENTRIES_PER_SECOND", "integer", "2", "params.entries_per_second",
       "entries placed a second at most", low="1", high="20"),
    _v(_GRID, "PARTIAL_ENTRY_MAX_SEC", "seconds", "600", "params.partial_entry_max_sec",
       "how long a partly filled entry works on", low="1", high="86400"),
    _v(_GRID, "REENTRY_BASE_COOLDOWN_SEC", "seconds", "0", "params.reentry_cooldown_sec",
       "rest of a leg after a cycle", low="0", high="86400"),
    _v(_GRID, "ENTRY_BACKOFF_AFTER", "integer", "3", "params.backoff_after",
       "losses in a row before entries move out", low="1", high="100"),
    _v(_GRID, "ENTRY_BACKOFF_STEP", "decimal", "0.5", "params.backoff_step",
       "added to the distance factor per further loss", low="0", high="5"),
    _v(_GRID, "ENTRY_BACKOFF_MAX", "decimal", "5", "params.backoff_max",
       "largest distance factor", low="1", high="20"),
    _v(_GRID, "LOSS_STREAK_REST_AT", "integer", "5", "params.loss_streak_rest_at",
       "losses in a row after which a leg rests", low="1", high="100"),
    _v(_GRID, "LOSS_REST_SEC", "seconds", "900", "params.loss_rest_sec", "how long it rests",
       low="0", high="604800"),
    _v(_GRID, "S1_ORPHAN_AFTER_SEC", "seconds", "21600", "params.s1_orphan_after_sec",
       "age of a lone exit before it may become a recovery", low="60", high="31536000"),
    _v(_GRID, "S2_ORPHAN_AFTER_SEC", "seconds", "43200", "params.s2_orphan_after_sec",
       "the same while both legs hold", low="60", high="31536000"),
    _v(_GRID, "ORPHAN_MIN_ADVERSE_PCT", "decimal", "", "params.orphan_min_adverse_pct",
       "how far the market must stand against it, percent; unset: the profit target", low="0",
       high="90"),
    _v(_GRID, "MAX_RECOVERY_SLOTS", "integer", "1", "params.max_recovery_slots",
       "recoveries per slot", low="0", high="10"),
    _v(_GRID, "PAUSE_POLICY", "choice", "withdraw", "params.pause_policy",
       "what a pause does with resting entries", choices=("withdraw", "stay")),
    _v(_SIZE, "ORDER_SIZE_USD", "decimal", "40", "params.order_size_usd", "size of an entry, USD",
       low="0.01", high="1000000"),
    _v(_SIZE, "MAX_ORDER_USD", "decimal", "200", "params.max_order_usd",
       "no entry is larger, USD", low="0.01", high="1000000"),
    _v(_SIZE, "CAPITAL_LAYERS", "integer", "0", "params.layers_target",
       "layers added to every entry as funds allow", low="0", high="100"),
    _v(_SIZE, "CAPITAL_LAYER_DOGE_PER_ORDER", "decimal", "1", "params.layer_base_per_order",
       "DOGE a layer adds to an entry", low="0.00000001", high="1000000"),
    _v(_SIZE, "REBALANCE_ENABLED", "flag", "false", "params.rebalance_enabled",
       "grow the side that brings the balances back"),
    _v(_SIZE, "REBALANCE_TARGET_PCT", "decimal", "50", "rebalance_target_pct",
       "share of quote aimed at, percent", low="1", high="99"),
    _v(_SIZE, "REBALANCE_BAND_PCT", "decimal", "10", "rebalance_band_pct",
       "deviation that is left alone, percent", low="0", high="50"),
    _v(_RISK, "DAILY_LOSS_LIMIT_USD", "decimal", "", "params.daily_loss_limit_usd",
       "loss since UTC midnight that locks buying; unset: 5 % of the equity then", low="0.01",
       high="1000000000", word="off", word_value=Decimal(0)),
    _v(_RISK, "RISK_BASIS", "choice", "strategy", "params.risk_basis",
       "drawdown against the starting balances held, or of the account", choices=("strategy",
       "account")),
    _v(_RISK, "MAX_EQUITY_SHARE", "decimal", "0.8", "params.max_equity_share",
       "share of equity committed to buying at most", low="0.01", high="1"),
    _v(_RISK, "EQUITY_STOP_USD", "decimal", "0", "params.equity_stop_usd",
       "below this equity buying stops; 0: off", low="0", high="1000000000"),
    _v(_RISK, "MAX_CONSECUTIVE_ERRORS", "integer", "25", "params.max_consecutive_errors",
       "exchange errors in a row that lock entries", low="1", high="1000"),
    _v(_RISK, "IMBALANCE_ALERT_MIN", "float", "60", "params.imbalance_alert_min",
       "minutes a side may be without an entry before it is reported", low="1", high="10000"),
    _v(_RISK, "RECON_INTERVAL_SEC", "seconds", "300", "params.recon_interval_sec",
       "how often balances are compared", low="10", high="86400"),
    _v(_HMM, "HMM_ENABLED", "flag", "", "hmm_enabled",
       "regime models are trained and asked; unset: true on the synthetic market, else false"),
    _v(_HMM, "HMM_TRAINING_CANDLES", "integer", "4000", "hmm.training_candles",
       "candles of 1 min that a training aims at", low="200", high="100000"),
    _v(_HMM, "HMM_SECONDARY_TRAINING_CANDLES", "integer", "1440",
       "hmm.secondary_training_candles", "candles of 15 min that a training aims at", low="200",
       high="100000"),
    _v(_HMM, "HMM_MIN_TRAIN_SAMPLES", "integer", "500", "params.hmm_min_train_samples",
       "candles of 1 min below which nothing is trained", low="200", high="100000"),
    _v(_HMM, "HMM_SECONDARY_MIN_TRAIN_SAMPLES", "integer", "200",
       "params.hmm_secondary_min_train_samples", "candles of 15 min below which nothing is trained",
       low="200", high="100000"),
    _v(_HMM, "HMM_RETRAIN_INTERVAL_SEC", "seconds", "86400", "params.hmm_retrain_interval_sec",
       "age at which a model is trained anew", low="600", high="31536000"),
    _v(_HMM, "HMM_STARTS", "integer", "3", "hmm.starts",
       "seeded starts of a training, of which the likeliest is kept", low="1", high="20"),
    _v(_HMM, "HMM_LABEL_Z", "float", "2", "hmm.label_z",
       "standard errors by which a state's spread must differ from 0 to be bullish or bearish",
       low="0", high="10"),
    _v(_HMM, "HMM_BIAS_GAIN", "float", "1", "hmm.bias_gain",
       "factor on the bias, the bullish less the bearish probability", low="0", high="10"),
    _v(_HMM, "HMM_DEEP_DECAY_ENABLED", "flag", "false", "hmm.deep_decay_enabled",
       "newer blocks of a training window are drawn more often"),
    _v(_HMM, "HMM_DEEP_DECAY_HALFLIFE", "integer", "1440", "hmm.deep_decay_halflife",
       "age in candles at which a block counts half", low="60", high="1000000"),
    _v(_HMM, "HMM_MULTI_TIMEFRAME_ENABLED", "flag", "true", "params.hmm_multi_timeframe_enabled",
       "a second model, of 15 min, beside that of 1 min"),
    _v(_HMM, "HMM_MULTI_TIMEFRAME_SOURCE", "choice", "consensus",
       "params.hmm_multi_timeframe_source", "whose word decides where there are two",
       choices=("consensus", "primary")),
    _v(_HMM, "CONSENSUS_1M_WEIGHT", "float", "0.3", "params.consensus_1m_weight",
       "weight of the 1 min bias where both agree; both 0: the defaults", low="0", high="1"),
    _v(_HMM, "CONSENSUS_15M_WEIGHT", "float", "0.7", "params.consensus_15m_weight",
       "weight of the 15 min bias", low="0", high="1"),
    _v(_HMM, "CONSENSUS_DAMPEN_FACTOR", "float", "0.5", "params.consensus_dampen_factor",
       "what is left of a 15 min trend while 1 min ranges", low="0", high="1"),
    _v(_HMM, "MODEL_LATENCY_SEC", "seconds", "30", "params.model_latency_sec",
       "how long a training takes in simulated time", low="1", high="600"),
    _v(_TIERS, "REGIME_DIRECTIONAL_ENABLED", "flag", "false", "params.regime_directional_enabled",
       "tiers act on entries; false: they are computed and shown only"),
    _v(_TIERS, "REGIME_EVAL_INTERVAL_SEC", "seconds", "300", "params.regime_eval_interval_sec",
       "how often models are asked and tiers evaluated", low="30", high="3600"),
    _v(_TIERS, "REGIME_TIER1_CONFIDENCE", "float", "0.20", "params.regime_tier1_confidence",
       "effective confidence of tier 1, biased", low="0", high="1"),
    _v(_TIERS, "REGIME_TIER2_CONFIDENCE", "float", "0.50", "params.regime_tier2_confidence",
       "effective confidence of tier 2, directional", low="0", high="1"),
    _v(_TIERS, "REGIME_TIER1_BIAS", "float", "0.10", "params.regime_tier1_bias",
       "size of the bias that tier 1 needs", low="0", high="1"),
    _v(_TIERS, "REGIME_TIER2_BIAS", "float", "0.25", "params.regime_tier2_bias",
       "size of the bias that tier 2 needs", low="0", high="1"),
    _v(_TIERS, "REGIME_HYSTERESIS", "float", "0.05", "params.regime_hysteresis",
       "confidence may fall this far below its threshold before a tier is left", low="0",
       high="0.5"),
    _v(_TIERS, "REGIME_MIN_DWELL_SEC", "seconds", "300", "params.regime_min_dwell_sec",
       "how long a tier is kept at least, while its conditions hold", low="0", high="86400"),
    _v(_TIERS, "REGIME_SUPPRESSION_GRACE_SEC", "seconds", "60",
       "params.regime_suppression_grace_sec",
       "time in tier 2 before entries against the trend are withdrawn", low="0", high="86400"),
    _v(_TIERS, "REGIME_TIER2_COOLDOWN_SEC", "seconds", "600", "params.regime_tier2_cooldown_sec",
       "time before tier 2 may be entered again", low="0", high="86400"),
    _v(_TIERS, "REGIME_MAX_SUPPRESSION_SEC", "seconds", "1800",
       "params.regime_max_suppression_sec",
       "how long a side is suppressed before it is released for the same time", low="60",
       high="86400"),
    _v(_TIERS, "REGIME_MANUAL_OVERRIDE", "choice", "", "regime_manual_override",
       "the regime by your own word; unset: by the models", choices=("BULLISH", "BEARISH")),
    _v(_TIERS, "REGIME_MANUAL_CONFIDENCE", "float", "0.6", "params.regime_manual_confidence",
       "confidence and size of the bias of that word", low="0", high="1"),
    _v(_TIERS, "REGIME_EVIDENCE_GATE", "flag", "true", "params.regime_evidence_gate",
       "tiers above 0 need evidence that the market has followed the label before"),
    _v(_TIERS, "REGIME_EVIDENCE_T", "float", "2.3", "params.regime_evidence_t",
       "t-value from which evidence counts as present", low="0", high="10"),
    _v(_PAGE, "HOST", "text", "127.0.0.1", "host", "address of the page; any other needs "
       "DASHBOARD_TOKEN"),
    _v(_PAGE, "PORT", "integer", "8080", "port", "port of the page", low="0", high="65535"),
    _v(_PAGE, "DASHBOARD_TOKEN", "secret", "", "dashboard_token", "password of the page, or "
       "DASHBOARD_TOKEN_FILE: a file that holds it"),
    _v(_PAGE, "DASHBOARD_READ_ONLY", "flag", "false", "dashboard_read_only",
       "no commands from the page"),
    _v(_PAGE, "DASHBOARD_ALLOWED_HOSTS", "list", "", "dashboard_allowed_hosts",
       "further host names under which the page may be asked for"),
    _v(_PAGE, "LOG_LEVEL", "choice", "INFO", "log_level", "least level that is logged",
       choices=("DEBUG", "INFO", "WARNING", "ERROR")),
    _v(_PAGE, "LOG_FORMAT", "choice", "text", "log_format", "how lines look",
       choices=("text", "json")),
    _v(_NOTIFY, "NOTIFY_WEBHOOK_URL", "secret_url", "", "notify_webhook_url", "where messages are "
       "sent as JSON by POST, or NOTIFY_WEBHOOK_URL_FILE: a file that holds it"),
    _v(_NOTIFY, "TELEGRAM_BOT_TOKEN", "secret", "", "telegram_bot_token", "token of a Telegram bot "
       "that sends messages and takes commands, or TELEGRAM_BOT_TOKEN_FILE"),
    _v(_NOTIFY, "TELEGRAM_CHAT_ID", "text", "", "telegram_chat_id", "number of the chat it talks "
       "to; everybody in that chat may command the bot"),
    _v(_NOTIFY, "TELEGRAM_COMMANDS", "flag", "true", "telegram_commands", "commands from that chat "
       "are taken; false: messages only"),
    _v(_NOTIFY, "TELEGRAM_API_URL", "url", "https://api.telegram.org", "telegram_api_url",
       "Telegram, or a Bot API server of your own"),
)  # fmt: skip
BY_NAME = {variable.name: variable for variable in VARIABLES}
