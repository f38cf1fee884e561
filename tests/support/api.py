"""A house whose worker serves `/v1`, and a reader of server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.helpers import COMMAND_S, free_port
from tests.support.house import House


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    name: str
    data: dict[str, Any]


@contextmanager
def api_house(folder: Path, redis_url: str, **settings: str) -> Iterator[tuple[House, httpx.Client]]:
    """A house with a worker, and a client of its `/v1`."""
    port = free_port()
    broker, bind = settings.pop("broker", redis_url), settings.pop("http_bind", f"127.0.0.1:{port}")
    settings |= {"api": "on", "http_bind": bind}
    with House(folder, broker=broker, redis_url=redis_url, backend=None, emulator=None, **settings) as house:
        house.worker()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=COMMAND_S) as client:
            yield house, client


@contextmanager
def events(client: httpx.Client, request_id: str, after: str = "", **headers: str) -> Iterator[Iterator[Event]]:
    """A request's events as they come."""
    sent = {**headers, **({"Last-Event-ID": after} if after else {})}
    with client.stream("GET", f"/v1/requests/{request_id}/events", headers=sent) as response:
        assert response.status_code in {200, 204}, response.read()  # 204: all was told
        yield _events(response.iter_lines())


def all_events(client: httpx.Client, request_id: str, after: str = "", **headers: str) -> list[Event]:
    """To the end of the answer."""
    with events(client, request_id, after, **headers) as found:
        return list(found)


def submit(client: httpx.Client, input: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A request that is taken."""
    headers = more.pop("headers", {})
    response = client.post("/v1/requests", json={"input": dict(input), **more}, headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/requests/{response.json()['id']}"
    told: dict[str, Any] = response.json()
    return told


def _events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            if "data" in fields:
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}
