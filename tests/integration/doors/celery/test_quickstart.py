"""docs/quickstart-celery.md, block by block, as it stands there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.house import ROOT, House
from tests.support.servers import RedisServer

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


def test_the_page_has_a_block_for_each_use() -> None:
    """A block that the reader of the page looks for is not lost unnoticed, nor left out by the pattern above."""
    assert len(named_blocks()) == TEXT.count("```python") == len({heading for heading, _ in named_blocks()})
    assert len(named_blocks()) >= 12


@pytest.mark.parametrize(("heading", "code"), named_blocks(), ids=[heading for heading, _ in named_blocks()])
def test_each_block_runs_as_it_stands(house: House, heading: str, code: str) -> None:
    """A reader who copies it gets what the page says."""
    if "from bridge.app import" in code:  # the bridge's own app belongs in a process with its environment
        process = house.start("block", sys.executable, "-c", code, CELERY_BROKER_URL="redis://127.0.0.1:9/0")
        eventually(lambda: not process.running, timeout=60)
        assert process.stop() == 0, process.said()[-3000:]
        return
    names: dict[str, Any] = {"app": house.app}
    exec(compile(code, f"quickstart: {heading}", "exec"), names)  # noqa: S102  (our own page)
