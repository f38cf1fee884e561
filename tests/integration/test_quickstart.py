"""docs/quickstart-celery.md, block by block, as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.house import ROOT, House
from tests.servers import RedisServer

TEXT = (ROOT / "docs" / "quickstart-celery.md").read_text()
BLOCKS = re.findall(r"^## (.+?)$|```python\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)


def named_blocks() -> list[tuple[str, str]]:
    """Each block under its heading."""
    heading, found = "", []
    for title, code in BLOCKS:
        heading = title or heading
        if code:
            found.append((heading, code))
    return found


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A bridge worker, and the other team's own."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("quickstart"), broker=url, redis_url=url) as made:
        made.worker()
        made.foreign_worker()
        yield made


@pytest.mark.parametrize(("heading", "code"), named_blocks(), ids=[heading for heading, _ in named_blocks()])
def test_each_block_runs_as_it_stands(house: House, heading: str, code: str) -> None:
    """A reader who copies it gets what the page says."""
    names: dict[str, Any] = {"app": house.app}
    exec(compile(code, f"quickstart: {heading}", "exec"), names)  # noqa: S102  (our own page)
