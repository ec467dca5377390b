"""A client of Kraken's interface before a server that does as it is told, and what both share."""

import ssl
import time
from decimal import Decimal

from exchange.kraken import KrakenClient
from exchange.kraken_records import Answer
from exchange.nonce import Nonces
from tests.bad_server import BadServer, Manner

KEY = "KEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKEYKE"
SECRET = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
NONCE = 1_790_000_000_000_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT_SEC = 0.4  # the time of a call that is to run out of it


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def nonces() -> Nonces:
    """Return nonces from NONCE on."""
    found = Nonces(lambda: NONCE, 0)
    found.extend(NONCE + 10**9)
    return found


class KrakenServer(BadServer):
    """A server with clients, which it closes at its end."""

    def __init__(self, *manners: Manner, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(*manners, tls=tls)
        self._clients: list[KrakenClient] = []

    def client(self, **changes: object) -> KrakenClient:
        """Return a client of this server; `changes` go to KrakenClient."""
        values: dict[str, object] = {
            "url": self.url,
            "key": KEY,
            "secret": SECRET,
            "nonces": nonces(),
            "clock": time.monotonic,
        }
        client = KrakenClient(**{**values, **changes})  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def __exit__(self, *error: object) -> None:
        for client in self._clients:
            client.close()
        super().__exit__(*error)


def assert_good(told: Answer) -> None:
    """Check that the server's good answer came through, exactly."""
    assert told.fault is None
    assert told.is_good
    assert told.result == {"price": "0.1", "number": Decimal("0.30000000000000001")}
