"""`BRIDGE_CONFIG_FILE` under a process that runs."""

from __future__ import annotations

from pathlib import Path

from tests.support.helpers import eventually
from tests.support.house import House


def test_an_edit_is_taken_or_refused_in_the_log_also_while_nothing_comes(redis_url: str, tmp_path: Path) -> None:
    """Who edits in a quiet hour would else hear of the mistake with the first request, or never."""
    path = tmp_path / "bridge.toml"
    good = '[endpoints.more]\nid = "more"\n'
    path.write_text(good)
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        worker = house.worker(BRIDGE_CONFIG_FILE=str(path))
        path.write_text("[endpoints.more\n")
        eventually(lambda: "settings.not_taken" in worker.said())
        path.write_text(good + "max_in_flight = 3\n")
        eventually(lambda: "settings.taken" in worker.said())
        assert worker.stop() == 0
