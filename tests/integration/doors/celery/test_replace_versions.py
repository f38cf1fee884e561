"""Old tasks that replace themselves by jobs, in workers of the first and the last Celery 5.6; the lock has another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from celery import chain

from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module", params=["5.6.0", "5.6.3"])
def house(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A bridge worker of this environment, and the other team's with a Celery of its own."""
    environment = tmp_path_factory.mktemp("celery") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=300)
    wanted = [f"celery=={request.param}", "redis", "packaging", "kombu>=5.6,<5.7"]
    subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", *wanted], check=True, timeout=600)
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("replace"), broker=url, redis_url=url) as made:
        made.worker()
        worker = made.foreign_worker(python=str(environment / "bin" / "python"))
        assert f"v{request.param} " in worker.said()
        yield made


@pytest.mark.parametrize(
    ("name", "value"), [("becomes_a_job", 5), ("becomes_jobs", [7])], ids=["job first", "behind a task of its own"]
)
@pytest.mark.parametrize("place", ["alone", "begins a chain", "in the middle"])
def test_the_old_id_shows_and_cancels_the_job(house: House, name: str, value: object, place: str) -> None:
    """Wherever the old task stands, whatever stands before the job in its place."""
    old_id = f"{name}-{place.replace(' ', '-')}-{id(house)}"
    old = house.app.signature(
        f"tests.foreign.{name}", args=[value], kwargs={"mock_delay": 300}, immutable=True, task_id=old_id
    )
    before, after = house.app.signature("tests.foreign.make", args=[0]), house.app.signature("tests.foreign.tail")
    steps = {"alone": [old], "begins a chain": [old, after], "in the middle": [before, old, after]}[place]
    chain(*steps).apply_async()
    eventually(lambda: house.ask("status", id=old_id)["status"] == "IN_PROGRESS", timeout=20)
    eventually(lambda: house.app.AsyncResult(old_id).state == "IN_PROGRESS")
    assert house.ask("cancel", id=old_id)["outcome"] == "requested"
    eventually(lambda: house.app.AsyncResult(old_id).state == "REVOKED", timeout=20)
    assert house.ask("status", id=old_id)["status"] == "CANCELLED"
