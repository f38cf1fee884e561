"""A server before RunPod that answers some calls in its place, as a firewall would; all others it passes on."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.loopback import Asked, Loopback, Said


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


class Firewall(Loopback):
    """In front of one base URL, for the time of a `with`."""

    def __init__(self, base_url: str) -> None:
        """It passes everything on until it has a `rule`."""
        self.rule: Callable[[Call], Page | None] = lambda _: None
        self.calls: list[tuple[Call, int]] = []
        self._behind = urlsplit(base_url)
        super().__init__(self._answer)
        self.base_url = f"{self.origin}{self._behind.path}"

    def _answer(self, asked: Asked) -> Said:
        call = Call(asked.method, asked.path, asked.body, asked.headers.get("Authorization", ""))
        page = self.rule(call) or self._passed_on(asked)
        self.calls.append((call, page.code))
        return Said(page.code, page.body, {"Content-Type": page.kind})

    def _passed_on(self, asked: Asked) -> Page:
        connection = http.client.HTTPConnection(self._behind.hostname or "", self._behind.port, timeout=30)
        try:
            headers = {name: asked.headers[name] for name in ("Authorization", "Content-Type") if name in asked.headers}
            connection.request(asked.method, asked.path, asked.body or None, headers)
            answer = connection.getresponse()
            return Page(answer.status, answer.read(), answer.headers.get("Content-Type", ""))
        finally:
            connection.close()

    def submits(self, word: bytes) -> list[int]:
        """The codes that submits whose body holds this word were answered with."""
        return [code for call, code in self.calls if call.path.endswith("/run") and word in call.body]
