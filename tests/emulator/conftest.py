"""Fixtures: an emulator for each test, and a plain HTTP caller."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import httpx
import pytest

from bridge.emulator import Emulator, EndpointConfig


class Caller:
    """Calls one endpoint over HTTP as any client would; answers are httpx responses or their documents."""

    def __init__(self, emulator: Emulator, endpoint: str = "demo", key: str = "Bearer test-key") -> None:
        self.emulator = emulator
        self.http = httpx.Client(
            base_url=f"{emulator.base_url}/{endpoint}/",
            headers={"Authorization": key},
            timeout=60,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # it speaks plain HTTP: certificates take 40 ms to read
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def run(self, input: Any = None, **more: Any) -> str:
        """POST /run; return the job's id."""
        answer = self.http.post("run", json={"input": input or {"x": 1}, **more})
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "IN_QUEUE"
        return str(answer.json()["id"])

    def runsync(self, input: Any, wait: int | None = None, **more: Any) -> dict[str, Any]:
        """POST /runsync; return the document."""
        query = {} if wait is None else {"wait": str(wait)}
        return dict(self.http.post("runsync", json={"input": input, **more}, params=query).json())

    def status(self, job: str, **query: str) -> dict[str, Any]:
        """GET /status; return the document."""
        return dict(self.http.get(f"status/{job}", params=query).json())

    def stream(self, job: str, **query: str) -> dict[str, Any]:
        """GET /stream; return the document."""
        return dict(self.http.get(f"stream/{job}", params=query).json())

    def post(self, what: str, **more: Any) -> httpx.Response:
        """POST to an operation."""
        return self.http.post(what, **more)

    def get(self, what: str, **more: Any) -> httpx.Response:
        """GET an operation."""
        return self.http.get(what, **more)

    def health(self) -> dict[str, dict[str, int]]:
        """GET /health; return the document."""
        return dict(self.http.get("health").json())


@pytest.fixture
def calling() -> Iterator[Callable[..., Caller]]:
    """Start an emulator with one endpoint, "demo", of the settings given; return its caller."""
    with ExitStack() as stack:

        def start(*, speed: float = 1.0, enforced: bool = True, **settings: Any) -> Caller:
            emulator = Emulator({"demo": EndpointConfig(**settings)}, speed=speed, limits=enforced)
            return stack.enter_context(Caller(stack.enter_context(emulator)))

        yield start


@pytest.fixture
def call(calling: Callable[..., Caller]) -> Caller:
    """The caller of an emulator with default settings."""
    return calling()
