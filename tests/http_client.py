"""A client of the page's server: a request as a browser sends it, or bytes as they are."""

import http.client
import json
import socket
from typing import Any

HERE = "127.0.0.1"


class Client:
    """Asks the server at a port of this machine, from `source`, an address of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"{HERE}:{port}"

    def ask(
        self, method: str, path: str, body: object = None, *, source: str = HERE,
        **headers: str | None,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:  # fmt: skip
        """Send one request; JSON and same-origin by default, a header None is left out."""
        sent: dict[str, str | None] = {"Host": self.host}
        data = b""
        if method == "POST":
            sent |= {"Content-Type": "application/json", "Origin": f"http://{self.host}"}
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(
            HERE, self.port, timeout=30, source_address=(source, 0)
        )
        clean = {name: value for name, value in sent.items() if value is not None}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in clean.items():
            connection.putheader(name, value)
        if method == "POST":
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data or None)
        response = connection.getresponse()
        result = response.status, response.headers, response.read()
        connection.close()
        return result

    def act(self, body: object, **headers: Any) -> tuple[int, dict[str, Any]]:
        """Post an action; return status and answer."""
        status, _, answer = self.ask("POST", "/api/action", body, **headers)
        return status, json.loads(answer)

    def raw(self, data: bytes, *, timeout: float = 10.0) -> bytes:
        """Send bytes as they are; return everything until the server closes."""
        with self.connect(timeout) as sock:
            sock.sendall(data)
            return read_all(sock)

    def connect(self, timeout: float = 10.0) -> socket.socket:
        """Return a new connection on which nothing was said."""
        return socket.create_connection((HERE, self.port), timeout=timeout)


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    received = b""
    try:
        while chunk := sock.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def status_of(answer: bytes) -> int:
    """Return the status code of a raw answer, 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
