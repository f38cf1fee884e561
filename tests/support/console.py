"""A house whose worker serves the console, and what a browser does with its forms."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.helpers import COMMAND_S, free_port
from tests.support.house import House

_FORM = re.compile(r'name="form" value="([0-9a-f]{64})"')


@contextmanager
def console_house(folder: Path, redis_url: str, **settings: str) -> Iterator[tuple[House, httpx.Client]]:
    """A house with a worker, and a client of its pages."""
    port = free_port()
    settings = {"console": "on", "http_bind": f"127.0.0.1:{port}", **settings}
    with House(folder, broker=redis_url, redis_url=redis_url, backend=None, emulator=None, **settings) as house:
        house.worker()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/console", timeout=COMMAND_S) as client:
            yield house, client


def look(client: httpx.Client, path: str) -> str:
    """A page that is there."""
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code, answer.text[:2_000])
    return answer.text


def token(page: str) -> str:
    """That of a page's form."""
    found = _FORM.search(page)
    assert found, page[:2_000]
    return found[1]


def do(client: httpx.Client, path: str, **fields: str) -> str:
    """Read the question, say yes; the page that follows."""
    question = look(client, path)
    assert "<form" in question
    answer = client.post(path, data={"form": token(question), **fields})
    assert answer.status_code == 303, (answer.status_code, answer.text[:2_000])
    return look(client, answer.headers["location"].removeprefix("/console"))
