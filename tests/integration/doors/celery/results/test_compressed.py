"""Results that Celery compresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.helpers import eventually
from tests.support.house import House


@pytest.mark.locked  # only Celery 5.7 and later compress results
def test_states_are_shown_where_results_are_compressed(redis_url: str, tmp_path: Path) -> None:
    """`result_compression` is for ends: a state that the next one cannot cover would be shown until the end."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text('{"result_compression": "gzip"}')
    with House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config=str(overlay)) as house:
        house.worker()
        sent = house.send({"mock_delay": 300})
        eventually(lambda: sent.state == "IN_PROGRESS")
        house.ask("cancel", id=sent.id)
        eventually(lambda: sent.state == "REVOKED")
        done = house.send({"a": 1})
        assert done.get(timeout=20) == {"a": 1}
        backend = house.app.backend
        assert backend.client.get(backend.get_key_for_task(done.id)).startswith(b"\x00celery-compressed\x00")
