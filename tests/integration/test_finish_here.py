"""An end is told in the process that found it, and goes by message where it cannot or where somebody watches events."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import chain

from tests.helpers import eventually
from tests.house import House


def received(tmp_path: Path, redis_url: str, *args: str, pool: str = "threads") -> int:
    """How many messages the worker takes for one request in a chain (a finish bears the request's name and id)."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.foreign_worker()
        worker = house.worker(*args, pool=pool)
        app = house.app
        job = chain(
            app.signature("bridge.run", kwargs={"input": {"value": 2}}, queue="bridge.run"),
            app.signature("tests.foreign.tail"),
        ).apply_async()
        assert job.get(timeout=30) == {"tail": {"value": 2}}
        eventually(lambda: house.phase(job.parent.id) == "CLOSED")
        return worker.said().count(f"Task bridge.run[{job.parent.id}] received")


def test_an_end_needs_no_message_where_the_engine_runs_beside_the_threads(tmp_path: Path, redis_url: str) -> None:
    """Only the request itself is received."""
    assert received(tmp_path, redis_url) == 1


@pytest.mark.parametrize(("args", "pool"), [(["-E"], "threads"), ([], "prefork")])
def test_an_end_goes_by_message_where_events_are_watched_or_tasks_run_elsewhere(
    tmp_path: Path, redis_url: str, args: list[str], pool: str
) -> None:
    """Flower and the like see the finish as they see any task."""
    assert received(tmp_path, redis_url, *args, pool=pool) == 2
