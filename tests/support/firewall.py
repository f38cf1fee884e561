"""A server before RunPod that answers some calls in its place, as a firewall would; all others it passes on."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import urlsplit


class Page(NamedTuple):
    """An answer of its own."""

    code: int
    body: bytes = b"<!DOCTYPE html><html><style>p{}</style><body><h1>Access denied</h1> by policy 17</body></html>"
    kind: str = "text/html"


class Call(NamedTuple):
    """What it is asked."""

    method: str
    path: str
    body: bytes
    key: str


class Firewall:
    """In front of one base URL, for the time of a `with`."""

    def __init__(self, base_url: str) -> None:
        """It passes everything on until it has a `rule`."""
        self.rule: Callable[[Call], Page | None] = lambda _: None
        self.calls: list[tuple[Call, int]] = []
        behind = urlsplit(base_url)
        wall = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                call = Call(self.command, self.path, body, self.headers.get("Authorization", ""))
                page = wall.rule(call) or self._passed_on(body)
                wall.calls.append((call, page.code))
                self.send_response(page.code)
                self.send_header("Content-Type", page.kind)
                self.send_header("Content-Length", str(len(page.body)))
                self.end_headers()
                self.wfile.write(page.body)

            do_GET = do_POST = _any

            def _passed_on(self, body: bytes) -> Page:
                connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=30)
                try:
                    headers = {
                        name: self.headers[name] for name in ("Authorization", "Content-Type") if self.headers[name]
                    }
                    connection.request(self.command, self.path, body or None, headers)
                    answer = connection.getresponse()
                    return Page(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
                finally:
                    connection.close()

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}{behind.path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def submits(self, word: bytes) -> list[int]:
        """The codes that submits whose body holds this word were answered with."""
        return [code for call, code in self.calls if call.path.endswith("/run") and word in call.body]
