"""docs/client.md, block by block, as it stands there: a reader who copies it gets what the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from tests.support.house import ROOT, House
from tests.support.servers import RedisServer

TEXT = (ROOT / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def house(redis_server: RedisServer, tmp_path: Path) -> Iterator[House]:
    """One worker."""
    url = redis_server.start().fresh_url()
    with House(tmp_path, broker=url, redis_url=url) as made:
        made.worker()
        yield made


def test_the_page_runs_from_top_to_bottom(house: House) -> None:
    """In one process, as a reader would try it; what it prints is what it promises."""
    assert len(BLOCKS) == TEXT.count("```python") == 7
    process = house.start("page", sys.executable, "-c", "\n".join(BLOCKS))
    eventually(lambda: not process.running, timeout=90)
    said = process.said()
    assert process.stop() == 0, said
    lines = said.splitlines()
    assert lines[0] == "{'prompt': 'a fox'}"
    assert lines[1].endswith("handler_error")
    assert "out of paint" in lines[1]
    assert lines[2:8] == ["0 Once ", "1 upon ", "2 a ", "3 time", "2 a ", "3 time"]
    assert lines[8].split()[:2] == ["1", "accepted"]
    assert any(line.split()[1:2] == ["completed"] for line in lines)
    assert lines[-3:] == ["a", "b", "['a', 'b']"]
