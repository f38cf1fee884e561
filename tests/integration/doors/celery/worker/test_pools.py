"""The same road under every pool that is offered, with the engine apart from the worker, and counted whole."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest
from celery import chain, chord
from prometheus_client.parser import text_string_to_metric_families

from tests.support.helpers import eventually, free_port
from tests.support.house import House

#: What the worker's banner says of each pool.
POOLS = {"threads": "thread", "prefork": "prefork", "gevent": "gevent", "solo": "solo"}
#: Children that end after three tasks, so that others count on where they stopped.
RENEWED = ("--max-tasks-per-child", "3")


@pytest.mark.parametrize("pool", list(POOLS))
def test_every_pool_carries_jobs_and_canvas(pool: str, redis_url: str, tmp_path: Path) -> None:
    """A plain job, a chain and a chord; the slots are free while the jobs run. All of it is counted."""
    bind = f"127.0.0.1:{free_port()}"
    with House(tmp_path, broker=redis_url, redis_url=redis_url, http_bind=bind) as house:
        worker = house.worker(*RENEWED if pool == "prefork" else (), pool=pool)
        assert f"concurrency: 4 ({POOLS[pool]})" in worker.said()
        house.foreign_worker()
        app = house.app
        many = [house.send({"n": n, "mock_delay": 1.0}) for n in range(12)]  # three times the slots
        job = app.signature("bridge.run", kwargs={"input": {"value": 1}}, queue="bridge.run")
        make = app.signature("tests.foreign.make", args=[2])
        linked = chain(make, app.signature("bridge.run", queue="bridge.run")).apply_async()
        header = chord([job, make], app.signature("tests.foreign.collect")).apply_async()
        assert linked.get(timeout=20) == {"value": 2}
        assert header.get(timeout=20) == {"collected": [{"value": 1}, {"value": 2}]}
        assert [sent.get(timeout=20)["n"] for sent in many] == list(range(12))
        eventually(lambda: all(house.phase(sent.id) == "CLOSED" for sent in many))
        assert house.submits() == 14
        assert counted(bind, "bridge_accepted_total") == 14
        assert counted(bind, "bridge_ended_total") == 14


def counted(bind: str, name: str) -> int:
    """The sum of a counter, as the worker's main process tells it."""
    with urllib.request.urlopen(f"http://{bind}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return int(sum(one.value for family in families for one in family.samples if one.name == name))


def test_the_counts_of_a_killed_worker_go_when_another_starts(redis_url: str, tmp_path: Path) -> None:
    """A worker that ends removes its files itself; one that was killed cannot. Those of workers that live stay."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def folders() -> set[str]:
        return {folder.name for folder in temporary.glob("bridge-counts-*")}

    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        killed = house.worker(pool="prefork", TMPDIR=str(temporary))
        (left,) = folders()
        living = house.worker(pool="prefork", TMPDIR=str(temporary))
        (lives,) = folders() - {left}
        killed.kill()
        eventually(lambda: not killed.running)
        house.worker(pool="prefork", TMPDIR=str(temporary))
        assert left not in folders()
        assert lives in folders()
        living.stop()
        assert lives not in folders()


def test_the_engine_runs_alone_beside_workers_without_one(redis_url: str, tmp_path: Path) -> None:
    """`BRIDGE_ENGINE=off` on the worker, one engine process: the same road, woken over Redis."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.worker(BRIDGE_ENGINE="off")
        sent = house.send({"a": 1})
        eventually(lambda: house.phase(sent.id) == "ACCEPTED")
        house.engine()
        assert sent.get(timeout=20) == {"a": 1}


def test_eager_mode_runs_inline(redis_url: str, tmp_path: Path) -> None:
    """`.apply()` in a process that imports the bridge returns the output, and raises the same errors."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        program = (
            "from bridge.app import app\n"
            "run = app.tasks['bridge.run']\n"
            "print('OUTPUT', run.apply(kwargs={'input': {'a': 1}}).get())\n"
            "failed = run.apply(kwargs={'input': {'mock_error': 'boom'}})\n"
            "print('STATE', failed.state, type(failed.result).__name__)\n"
            "refused = run.apply(kwargs={'input': {}})\n"
            "print('REFUSED', type(refused.result).__name__)\n"
            "app.conf.task_always_eager = True\n"
            "print('ALWAYS', run.delay(input={'b': 2}).get())\n"
        )
        process = house.start("eager", sys.executable, "-c", program)
        eventually(lambda: not process.running, timeout=30)
        said = process.said()
        assert "OUTPUT {'a': 1}" in said, said
        assert "STATE FAILURE JobFailed" in said
        assert "REFUSED JobRejected" in said
        assert "ALWAYS {'b': 2}" in said
