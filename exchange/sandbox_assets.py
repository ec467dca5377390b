"""The sandbox's catalogue: which assets and pairs there are, and by what names they go.

Pure. The facts are those Kraken answered in September 2026; limits and precision of the pair come
from the instrument. Look next at `exchange/sandbox_market.py`.
"""

from decimal import Decimal
from typing import Any

from core.domain import ONE, Instrument
from core.record import Record, plain
from exchange.sandbox_errors import SandboxError

UNKNOWN_PAIR = "EQuery:Unknown asset pair"
UNKNOWN_ASSET = "EQuery:Unknown asset"
LEVERAGE = [2, 3, 4, 5, 6, 7, 8, 9, 10]
POSITION_LIMIT = 30_000_000
# Of the pair row, by what the parameter `info` asks for.
INFO_FIELDS = {
    "leverage": ("leverage_buy", "leverage_sell"),
    "fees": ("fees", "fees_maker", "fee_volume_currency"),
    "margin": ("margin_call", "margin_stop"),
}


class Asset(Record, frozen=True, kw_only=True):
    """One asset: its id, older and newer ticker, and decimals."""

    id: str  # XXDG: the key of balances
    altname: str  # XDG
    ticker: str  # DOGE
    decimals: int
    display_decimals: int
    collateral_value: float
    margin_rate: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """Return every name by which a request may call it."""
        return frozenset((self.id, self.altname, self.ticker))

    @property
    def row(self) -> dict[str, Any]:
        """Return it as Assets tells it."""
        told: dict[str, Any] = {
            "aclass": "currency",
            "altname": self.altname,
            "decimals": self.decimals,
            "display_decimals": self.display_decimals,
            "collateral_value": self.collateral_value,
            "status": "enabled",
        }
        return told if self.margin_rate is None else told | {"margin_rate": self.margin_rate}


def _asset(  # noqa: PLR0917 - one line of a table
    id_: str, altname: str, ticker: str, decimals: int, collateral: float, margin: str | None
) -> Asset:
    return Asset(
        id=id_,
        altname=altname,
        ticker=ticker,
        decimals=decimals,
        display_decimals=5 if decimals == 10 else 2,
        collateral_value=collateral,
        margin_rate=margin,
    )


ASSETS = (
    _asset("XXBT", "XBT", "BTC", 10, 0.99, "0.01"),
    _asset("XXDG", "XDG", "DOGE", 8, 0.925, "0.02"),
    _asset("XETH", "ETH", "ETH", 10, 0.99, "0.02"),
    _asset("ZUSD", "USD", "USD", 4, 1.0, "0.036"),
    _asset("ZEUR", "EUR", "EUR", 4, 1.0, "0.036"),
    _asset("SOL", "SOL", "SOL", 10, 0.925, "0.02"),
    _asset("USDT", "USDT", "USDT", 8, 0.95, None),
    _asset("USDC", "USDC", "USDC", 8, 1.0, None),
)


def find_asset(name: str) -> Asset:
    """Return the asset of that name. Raises SandboxError for a name the venue does not know."""
    found = next((asset for asset in ASSETS if name in asset.names), None)
    if found is None:
        raise SandboxError(UNKNOWN_ASSET)
    return found


def asset_decimals(name: str) -> int:
    """Return with how many decimals balances of an asset are told, its forms (XDG.F) included."""
    plain_name = name.partition(".")[0]
    return next((asset.decimals for asset in ASSETS if plain_name in asset.names), 10)


def asset_rows(names: str | None) -> dict[str, Any]:
    """Return Assets for a comma-separated list of names, or all. Raises SandboxError."""
    wanted = ASSETS if not names else tuple(find_asset(name) for name in names.split(","))
    return {asset.id: asset.row for asset in wanted}


class Pair:
    """The one pair that is traded here: its names and what AssetPairs says of it.

    `symbol` is the key of answers. A request may also use the tickers, joined or with a slash
    (DOGEUSD, DOGE/USD); the web socket name (XDG/USD) is refused, as at the venue. Raises
    ValueError for an instrument whose assets are not in the catalogue.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self.symbol = instrument.symbol
        self._base, self._quote = _known(instrument.base), _known(instrument.quote)
        self._slashed = f"{self._base.ticker}/{self._quote.ticker}"
        self.names = frozenset(
            (self.symbol, f"{self._base.ticker}{self._quote.ticker}", self._slashed)
        )
        self.price_decimals = _decimals(instrument.tick_size)
        self.lot_decimals = _decimals(instrument.lot_size)

    @property
    def base_id(self) -> str:
        """Return the base asset's id, such as XXDG."""
        return self._base.id

    @property
    def quote_id(self) -> str:
        """Return the quote asset's id, such as ZUSD."""
        return self._quote.id

    @property
    def base_unit(self) -> Decimal:
        """Return the unit in which balances of the base asset are kept."""
        return ONE.scaleb(-self._base.decimals)

    @property
    def quote_unit(self) -> Decimal:
        """Return the unit in which balances of the quote asset are kept."""
        return ONE.scaleb(-self._quote.decimals)

    def require(self, name: str) -> None:
        """Raise SandboxError unless `name` is a name of this pair."""
        if name not in self.names:
            raise SandboxError(UNKNOWN_PAIR)

    def key(self, name: str, asset_version: str | None = None) -> str:
        """Return the key of a market answer for a request by `name`. Raises SandboxError.

        Asked by the name with a slash, or for asset version 1, the venue answers with that name.
        """
        self.require(name)
        return self._slashed if name == self._slashed or asset_version == "1" else self.symbol

    def rows(self, names: str | None, info: str, status: str) -> dict[str, Any]:
        """Return AssetPairs: `names` separated by commas or all, `info` the part asked for.

        `status` is the market's. Raises SandboxError.
        """
        for name in names.split(",") if names else ():
            self.require(name)
        if info != "info" and info not in INFO_FIELDS:
            raise SandboxError("EGeneral:Invalid arguments:info")
        row = self._row(status)
        if info != "info":
            row = {field: row[field] for field in INFO_FIELDS[info]}
        return {self.symbol: row}

    def _row(self, status: str) -> dict[str, Any]:
        instrument = self._instrument
        return {
            "altname": self.symbol,
            "wsname": f"{self._base.altname}/{self._quote.altname}",
            "aclass_base": "currency",
            "base": self._base.id,
            "aclass_quote": "currency",
            "quote": self._quote.id,
            "lot": "unit",
            "cost_decimals": instrument.cost_decimals,
            "pair_decimals": self.price_decimals,
            "lot_decimals": self.lot_decimals,
            "lot_multiplier": 1,
            "leverage_buy": list(LEVERAGE),
            "leverage_sell": list(LEVERAGE),
            "fees": [],  # empty since September 2026, and not free: TradeVolume tells the rates
            "fees_maker": [],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": plain(instrument.order_min.normalize()),
            "costmin": plain(instrument.cost_min.normalize()),
            "tick_size": plain(instrument.tick_size.normalize()),
            # A pair has no maintenance of its own: nothing can be placed, so it says cancel_only.
            "status": "cancel_only" if status == "maintenance" else status,
            "execution_venue": "international",
            "long_position_limit": POSITION_LIMIT,
            "short_position_limit": POSITION_LIMIT,
        }


def _known(name: str) -> Asset:
    for asset in ASSETS:
        if name in asset.names:
            return asset
    known = ", ".join(asset.ticker for asset in ASSETS)
    raise ValueError(f"the sandbox knows no asset {name}; it knows {known}")


def _decimals(step: Decimal) -> int:
    """Return how many decimals a grid of that step needs; a step of 1 or more needs none."""
    exponent = (step % ONE).normalize().as_tuple().exponent
    return -exponent if isinstance(exponent, int) and step % ONE else 0
