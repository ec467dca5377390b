"""The contract of the status's `kelly` block. Off, it says only so."""

from msgspec import UNSET, UnsetType

from core.kelly import KellyResult
from core.record import Record


class OpenLosersBlock(Record, frozen=True, kw_only=True):
    """Open positions under water, which completed cycles do not show; `marked_usd` after fees."""

    count: int
    marked_usd: str


class KellyBlock(Record, frozen=True, kw_only=True):
    """What completed cycles say of sizes, by the regime of their entry.

    `fallback` names the bucket that decides now and, if it is not the regime's own, why.
    `capped_share` is of the `sizes` so far, those that floor or ceiling decided.
    """

    enabled: bool
    mode: str | UnsetType = UNSET
    active_regime: str | UnsetType | None = UNSET
    kelly_fraction: float | UnsetType = UNSET
    floor_mult: float | UnsetType = UNSET
    ceiling_mult: float | UnsetType = UNSET
    negative_edge_mult: float | UnsetType = UNSET
    bearish: KellyResult | UnsetType = UNSET
    ranging: KellyResult | UnsetType = UNSET
    bullish: KellyResult | UnsetType = UNSET
    aggregate: KellyResult | UnsetType = UNSET
    unknown_count: int | UnsetType = UNSET
    fallback: str | UnsetType = UNSET
    multiplier_now: float | UnsetType = UNSET
    reason_now: str | UnsetType = UNSET
    last_update_n: int | UnsetType = UNSET
    updated_at: float | UnsetType | None = UNSET
    next_update: float | UnsetType | None = UNSET
    sizes: int | UnsetType = UNSET
    capped_share: float | UnsetType | None = UNSET
    open_losers: OpenLosersBlock | UnsetType = UNSET
