"""A real HTTP/1.1 server on loopback whose answers a test makes, for the time of a `with`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


class Said(NamedTuple):
    """Its answer; a Content-Length among the headers is sent as it is."""

    code: int
    body: bytes
    headers: Mapping[str, str]


class Loopback:
    """Connections are kept; each has a thread of its own."""

    def __init__(self, answer: Callable[[Asked], Said]) -> None:
        """On a port of its own; nothing is answered before the `with`."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                said = answer(Asked(self.command, self.path, body, dict(self.headers)))
                self.send_response(said.code)
                for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said.body)

            do_GET = do_POST = _any

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
