"""docs/from-the-sdk.md: both columns as they stand there, RunPod's own package and the bridge; the same outcome."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.house import ROOT, House
from tests.support.servers import RedisServer

TEXT = (ROOT / "docs" / "from-the-sdk.md").read_text()
BLOCKS = {
    (column, name): code
    for column, name, code in re.findall(r"```python\n# (sdk|bridge): (\S+)\n(.*?)```", TEXT, re.DOTALL)
}
NAMES = [name for column, name in BLOCKS if column == "sdk" and name != "set-up"]
#: What RunPod's documentation shows of an endpoint.
SHOWN = {"run_sync", "run", "poll", "asyncio", "stream", "status", "health", "cancel", "timeout", "policy", "purge"}

RUNNER = """
import json, sys
names = {}
for name, code in json.load(open(sys.argv[1])):
    names.pop("output", None)
    try:
        exec(compile(code, name, "exec"), names)
    except BaseException as error:
        print(json.dumps({name: f"{type(error).__name__}: {error}"}), flush=True)
    else:
        print(json.dumps({name: names.get("output")}), flush=True)
"""


@pytest.fixture(scope="module")
def ended(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What each block of each column left in `output`: the columns run side by side, each in a process of its own."""
    url, folder = redis_server.start().fresh_url(), tmp_path_factory.mktemp("sdk")
    with House(folder, broker=url, redis_url=url) as house:
        house.worker()
        processes = {}
        for column in ("sdk", "bridge"):
            file = folder / f"{column}.json"
            file.write_text(json.dumps([(name, BLOCKS[column, name]) for name in ("set-up", *NAMES)]))
            processes[column] = house.start(column, sys.executable, "-W", "ignore", "-c", RUNNER, str(file))
        eventually(lambda: not any(process.running for process in processes.values()), timeout=100)
        yield {column: _outputs(process.said()) for column, process in processes.items()}


def _outputs(said: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in said.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def test_the_page_shows_everything_that_runpod_shows() -> None:
    """Each example has both columns, and no block is left out by the pattern above."""
    assert set(NAMES) == SHOWN
    assert {name for column, name in BLOCKS if column == "bridge"} == {*SHOWN, "set-up"}
    assert len(BLOCKS) == TEXT.count("```python")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_both_columns_end_with_the_same(ended: dict[str, dict[str, Any]], name: str) -> None:
    """The bridge's way gives what RunPod's gives."""
    theirs, ours = ended["sdk"].get(name), ended["bridge"].get(name)
    assert theirs, f"RunPod's column brought nothing: {ended['sdk']}"
    assert ours == theirs
