"""Who may call: keys, signatures, nonces, permissions, the lockout and the REST counter.

Pure but for the books of key use it keeps. The signature is checked here with code of its own, so
that a client and this server cannot share a mistake.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

from core.record import replace
from exchange.rates import REST_LIMITS
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_params import Params
from exchange.sandbox_records import ALL_PERMISSIONS, ApiKey, KeyUse

FAILURES_MAX = 5
NONCE_MAX = 2**64 - 1
SECRET_MIN = 16
# By method: the permissions of which one is needed (none: any key may), and the counter's cost.
METHODS: dict[str, tuple[tuple[str, ...], float]] = {
    "Balance": (("query-funds",), 1),
    "BalanceEx": (("query-funds",), 1),
    "TradeBalance": (("query-funds", "query-open-trades"), 1),
    "TradeVolume": (("query-funds",), 1),
    "OpenOrders": (("query-open-trades",), 1),
    "ClosedOrders": (("query-closed-trades",), 2),
    "QueryOrders": (("query-open-trades", "query-closed-trades"), 1),
    "TradesHistory": (("query-closed-trades",), 2),
    "QueryTrades": (("query-closed-trades",), 1),
    "Ledgers": (("query-ledger",), 2),
    "QueryLedgers": (("query-ledger",), 1),
    "AddOrder": (("modify-trades",), 0),
    "AddOrderBatch": (("modify-trades",), 0),
    "AmendOrder": (("modify-trades",), 0),
    "EditOrder": (("modify-trades",), 0),
    "CancelOrder": (("close-trades", "modify-trades"), 0),
    "CancelOrderBatch": (("close-trades", "modify-trades"), 0),
    "CancelAll": (("close-trades", "modify-trades"), 1),
    "CancelAllOrdersAfter": (("close-trades", "modify-trades"), 1),
    "GetApiKeyInfo": ((), 0),
    "GetWebSocketsToken": (("create-ws-token",), 1),
}


class Gate:
    """The keys of the account and what became of them.

    Raises ValueError for a key that cannot be used, in words for whoever gave it.
    """

    def __init__(
        self, keys: tuple[ApiKey, ...], uses: Mapping[str, KeyUse], *, tier: str, lockout_sec: float
    ) -> None:
        if not keys:
            raise ValueError("the sandbox needs at least one API key")
        self.keys = {key.key: key for key in keys}
        if len(self.keys) != len(keys):
            raise ValueError("two API keys of the sandbox are the same text")
        self._secrets = {key.key: _secret(key) for key in keys}
        self.uses = dict(uses)
        self.changed: set[str] = set()
        self._limits = REST_LIMITS[tier]
        self._lockout_sec = lockout_sec

    def admit(
        self, path: str, headers: Mapping[str, str], body: bytes, params: Params, now: float
    ) -> str:
        """Return the key of a call that may go on, its nonce used up. Raises SandboxError."""
        name = headers.get("api-key", "")
        use = self.uses.get(name, KeyUse())
        if name and use.locked_until > now:
            self.lock(name, now + self._lockout_sec)  # asking again prolongs it
            raise SandboxError("EGeneral:Temporary lockout")
        key = self.keys.get(name)
        if key is None or 0 < key.valid_until <= now:
            raise self._failure(name, use, now, "EAPI:Invalid key")
        nonce = params.text("nonce") or ""
        if not _is_signed(self._secrets[name], path, nonce, body, headers.get("api-sign", "")):
            raise self._failure(name, use, now, "EAPI:Invalid signature")
        number = int(nonce) if nonce.isascii() and nonce.isdigit() and len(nonce) <= 20 else -1
        is_risen = number > use.nonce
        is_in_window = key.nonce_window > 0 and number >= use.nonce - key.nonce_window
        if not 0 <= number <= NONCE_MAX or not (is_risen or is_in_window):
            raise SandboxError("EAPI:Invalid nonce")
        used = replace(use, nonce=max(number, use.nonce), failures=0, used_at=now)
        self._set(name, used)
        return name

    def allow(self, name: str, method: str, now: float) -> None:
        """Check permission and charge the REST counter. Raises SandboxError."""
        if method not in METHODS:
            raise SandboxError("EGeneral:Unknown method")
        permissions, cost = METHODS[method]
        if permissions and not set(permissions) & set(self.keys[name].permissions):
            raise SandboxError("EGeneral:Permission denied")
        most, decay = self._limits
        use = self.uses[name]
        if cost and use.counter.wait(cost, now, most=most, decay=decay) > 0:
            raise SandboxError("EAPI:Rate limit exceeded")
        if cost:
            self._set(name, replace(use, counter=use.counter.add(cost, now, decay)))

    def lock(self, name: str, until: float) -> None:
        """Lock a key out until `until`."""
        use = self.uses.get(name, KeyUse())
        self._set(name, replace(use, locked_until=max(until, use.locked_until), failures=0))

    def describe(self, name: str) -> dict[str, object]:
        """Return what GetApiKeyInfo tells of a key."""
        key, use = self.keys[name], self.uses[name]
        return {
            "api_key_name": key.name,
            "api_key": key.key,
            "nonce": str(use.nonce),
            "nonce_window": str(key.nonce_window),
            "permissions": list(key.permissions),
            "iban": "",
            "valid_until": str(key.valid_until),
            "query_from": "0",
            "query_to": "0",
            "created_time": str(key.created_at),
            "modified_time": str(key.created_at),
            "ip_allowlist": [],
            "last_used": str(int(use.used_at)),
        }

    def _failure(self, name: str, use: KeyUse, now: float, text: str) -> SandboxError:
        failures = use.failures + 1
        self._set(name, replace(use, failures=failures))
        if failures >= FAILURES_MAX:
            self.lock(name, now + self._lockout_sec)
        return SandboxError(text)

    def _set(self, name: str, use: KeyUse) -> None:
        if name not in self.keys and len(self.uses) > 1000:  # invented keys must not fill memory
            return
        self.uses[name] = use
        self.changed.add(name)


def _secret(key: ApiKey) -> bytes:
    try:
        secret = base64.b64decode(key.secret, validate=True)
    except binascii.Error:
        raise ValueError(f"the secret of API key {key.name} is not base64 text") from None
    if len(secret) < SECRET_MIN:
        raise ValueError(f"the secret of API key {key.name} is shorter than {SECRET_MIN} bytes")
    unknown = sorted(set(key.permissions) - set(ALL_PERMISSIONS))
    if unknown:
        raise ValueError(
            f"API key {key.name} has unknown permissions {', '.join(unknown)}; allowed: "
            f"{', '.join(ALL_PERMISSIONS)}"
        )
    return secret


def _is_signed(secret: bytes, path: str, nonce: str, body: bytes, told: str) -> bool:
    inner = hashlib.sha256(nonce.encode() + body).digest()
    mac = hmac.new(secret, path.encode() + inner, hashlib.sha512).digest()
    return hmac.compare_digest(base64.b64encode(mac), told.encode("utf-8", "replace"))
