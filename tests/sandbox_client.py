"""A caller of the sandbox for tests: signs by code of its own, talks to the venue in process."""

import base64
import hashlib
import hmac
import json
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from core.domain import ONE, FeeRates, Instrument, Side
from core.market import Trade
from exchange.matching import MatchingConfig
from exchange.sandbox_feed import ManualSource
from exchange.sandbox_records import ApiKey
from exchange.sandbox_venue import SandboxConfig, SandboxVenue

SECRET = base64.b64encode(b"a secret of the tests, 32 bytes!").decode()
KEY = ApiKey(name="tests", key="key-of-the-tests", secret=SECRET)
START = 1_790_000_000.0
PRICE = Decimal("0.1000000")
UUID = "6d1b345e-2821-40e2-ad83-4ecb18a06876"


def make_venue(**options: Any) -> SandboxVenue:
    """Return a venue whose market is fed by hand: 1,000 USD, 5,000 DOGE, quote around 0.1."""
    config = SandboxConfig(
        start_base=Decimal(5000),
        start_quote=Decimal(1000),
        **{k: v for k, v in options.items() if k in SandboxConfig.__struct_fields__},
    )
    own = {
        "tier": "pro",
        "flat_fees": FeeRates(maker=Decimal("0.004"), taker=Decimal("0.008")),
        "participation": ONE,
        "assumed_queue": Decimal(0),
    }
    own |= {k: v for k, v in options.items() if k in MatchingConfig.__struct_fields__}
    return SandboxVenue(
        ManualSource(PRICE),
        Instrument(),
        MatchingConfig(**own),
        options.get("keys", (KEY,)),
        now=options.get("now", START),
        config=config,
        path=options.get("path", ":memory:"),
    )


def sign(secret: str, path: str, nonce: str, body: bytes) -> str:
    """Return the signature of a private call, base64."""
    inner = hashlib.sha256(nonce.encode() + body).digest()
    mac = hmac.new(base64.b64decode(secret), path.encode() + inner, hashlib.sha512)
    return base64.b64encode(mac.digest()).decode()


class Caller:
    """One client with one key; `now` is the venue's time of the next call."""

    def __init__(self, venue: SandboxVenue, key: ApiKey = KEY, *, now: float = START) -> None:
        self.venue, self.key, self.now, self.nonce = venue, key, now, 0

    def request(self, method: str, *, is_json: bool = False, **params: Any) -> Any:
        """Return path, headers and body of a private call, signed."""
        path = f"/0/private/{method}"
        self.nonce += 1
        fields = {"nonce": str(self.nonce), **params}
        body = (json.dumps(fields) if is_json else urlencode(fields)).encode()
        kind = "application/json" if is_json else "application/x-www-form-urlencoded"
        headers = {
            "api-key": self.key.key,
            "api-sign": sign(self.key.secret, path, str(self.nonce), body),
            "content-type": kind,
        }
        return path, headers, body

    def raw(self, method: str, *, is_json: bool = False, **params: Any) -> tuple[int, bytes]:
        """Return HTTP status and body of a private call."""
        path, headers, body = self.request(method, is_json=is_json, **params)
        return self.venue.answer("POST", path, headers, body, self.now)

    def ask(self, method: str, *, is_json: bool = False, **params: Any) -> Any:
        """Return the result of a private call that must succeed."""
        _, body = self.raw(method, is_json=is_json, **params)
        told = json.loads(body)
        assert told["error"] == [], told
        return told["result"]

    def refusal(self, method: str, *, is_json: bool = False, **params: Any) -> list[str]:
        """Return the error strings of a private call that must fail."""
        _, body = self.raw(method, is_json=is_json, **params)
        told = json.loads(body)
        assert told["error"], told
        errors: list[str] = told["error"]
        return errors

    def public(self, method: str, query: str = "") -> Any:
        """Return the result of a public call that must succeed."""
        _, body = self.venue.answer("GET", f"/0/public/{method}{query}", {}, b"", self.now)
        told = json.loads(body)
        assert told["error"] == [], told
        return told["result"]

    def order(self, side: str = "buy", price: str = "0.0900000", **more: Any) -> dict[str, Any]:
        """Return the parameters of a post-only limit order."""
        return {
            "ordertype": "limit",
            "type": side,
            "pair": "XDGUSD",
            "volume": "100",
            "price": price,
            "oflags": "post,fciq",
            **more,
        }

    def place(self, side: str = "buy", price: str = "0.0900000", **more: Any) -> str:
        """Place an order and return its txid."""
        result = self.ask("AddOrder", **self.order(side, price, **more))
        txid: str = result["txid"][0]
        return txid

    def trade(self, price: str, volume: str = "100000", side: str = "sell") -> None:
        """Have a print of the market, one second later."""
        self.now += 1.0
        taker = Side(side)
        self.venue.feed(
            Trade(time=self.now, price=Decimal(price), volume=Decimal(volume), side=taker)
        )
