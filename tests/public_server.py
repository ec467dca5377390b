"""A real HTTP server that answers Kraken's public methods about a market that a test moves."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from core.domain import Instrument, Side
from core.market import Book, Trade
from exchange.sandbox_errors import SandboxError
from exchange.sandbox_market import MarketView
from exchange.venue import Quote

D = Decimal
HALF_SPREAD = D("0.0002")
SIZE = D(5_000)


class PublicServer:
    """Kraken's public side on a loopback port; it may go away and come back on the same port."""

    def __init__(self, price: str = "0.1", instrument: Instrument | None = None) -> None:
        self.status = "online"
        self.error: str | None = None  # answered to everything, if set
        self.asked: list[str] = []
        self.instrument = instrument or Instrument()
        self.pair_status: str | None = None
        self._view = MarketView(self.instrument)
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.price = D(price)
        self.move(price)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def move(self, price: str, volume: str = "200000") -> float:
        """Print a buy and a sell at `price` and show a book around it; return when."""
        with self._lock:
            self.price, at = D(price), time.time()
            for side in Side:
                self._feed(Trade(time=at, price=self.price, volume=D(volume), side=side))
            self._feed(self._book(at))
            return at

    def up(self) -> None:
        """Begin, or begin again, to answer."""
        market = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = market.answer(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = server.server_port
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Answer no more: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str) -> bytes:
        """Return the body for a path with its query."""
        parts = urlsplit(path)
        method = parts.path.rsplit("/", maxsplit=1)[-1]
        with self._lock:
            self.asked.append(method)
            try:
                if self.error is not None:
                    raise SandboxError(self.error)
                query = dict(parse_qsl(parts.query))
                status = self.pair_status if method == "AssetPairs" else None
                result = self._view.answer(method, query, time.time(), status or self.status)
            except SandboxError as error:
                return json.dumps({"error": [str(error)]}).encode()
        return json.dumps({"error": [], "result": result}).encode()

    def _feed(self, evidence: Trade | Book) -> None:
        quote = None
        if isinstance(evidence, Book):
            quote = Quote(bid=evidence.bids[0][0], ask=evidence.asks[0][0], last=self.price)
        self._view.feed(evidence, quote, evidence if isinstance(evidence, Book) else None)

    def _book(self, at: float) -> Book:
        steps = [HALF_SPREAD * n for n in range(1, 11)]
        down, up = self.instrument.price_down, self.instrument.price_up
        return Book(
            time=at,
            bids=tuple((down(self.price * (1 - x)), SIZE) for x in steps),
            asks=tuple((up(self.price * (1 + x)), SIZE) for x in steps),
        )


@contextmanager
def serving(price: str = "0.1") -> Iterator[PublicServer]:
    """Yield a server that answers."""
    server = PublicServer(price)
    server.up()
    try:
        yield server
    finally:
        server.down()
