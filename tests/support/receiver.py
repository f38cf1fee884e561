"""A receiver of callbacks on loopback, by HTTPS with a certificate of a private authority, as a team would run one."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + "c2VjcmV0cyBvZiB0ZXN0cyBhcmUgbm8gc2VjcmV0cw=="
OLD_SECRET = "whsec_" + "dGhlIG9uZSB0aGF0IHdhcyBpbiB1c2UgYmVmb3JlISE="


_SLOW = {"/drip-head", "/drip-body", "/never", "/endless"}
#: What comes before the answer to this path.
_EARLY = {
    "/early": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
}


class Call(NamedTuple):
    """One callback as it came."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    at: float

    @property
    def id(self) -> str:
        """What receivers tell repetitions by."""
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> dict[str, Any]:
        """The event; raises WebhookVerificationError unless the official library finds it genuine."""
        return dict(Webhook(secret).verify(self.body, dict(self.headers)))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    receiver: Receiver

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever hangs up in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the sender was killed in the middle: no call has come
            self.close_connection = True
            return
        call = Call(self.path, body, {k.lower(): v for k, v in self.headers.items()}, time.monotonic())
        receiver.calls.append(call)
        if self.path in _SLOW:
            self._slowly(receiver)
            return
        self.wfile.write(_EARLY.get(self.path, b""))
        said = receiver.answer(call)
        status, headers = said if isinstance(said, tuple) else (said, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def _slowly(self, receiver: Receiver) -> None:
        """As a receiver that means ill: a byte now and then, until the other side has gone."""
        self.close_connection = True
        if self.path in {"/drip-body", "/endless"}:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        if self.path == "/drip-head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        piece, pause = (b"x" * 65_536, 0.0) if self.path == "/endless" else (b"x", 0.1)
        for _ in range(400):
            if receiver.closing:
                return
            if self.path != "/never":
                self.wfile.write(piece)
            time.sleep(pause)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


class Receiver:
    """`answer` says what becomes of a call: a status, or (status, headers)."""

    def __init__(self, directory: Path, *names: str) -> None:
        """The certificate is for `names`; without any, for localhost."""
        self.calls: list[Call] = []
        self.closing = False
        self.answer: Callable[[Call], int | tuple[int, Mapping[str, str]]] = lambda _: 204
        import trustme  # noqa: PLC0415  (heavy: most test processes need none)

        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*(names or ("localhost",))).configure_cert(tls)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.receiver = self
        self.port = int(self._server.server_address[1])
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )  # fmt: skip
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def url(self, path: str = "/hook", host: str = "localhost") -> str:
        """Its address."""
        return f"https://{host}:{self.port}{path}"

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """What came of one request, in its order, each verified."""
        found = [call.verified() for call in self.calls]
        return [event for event in found if event["subject"] == request_id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
