"""Which processes stay on one CPU: those with an engine, where no code but the bridge's runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.helpers import eventually
from tests.support.house import House, Process

CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="NOT TESTED HERE: it takes Linux and two CPUs")


#: Other tests fill every CPU meanwhile, and then none would be held.
ROOMY = "import bridge.runtime.one_cpu as _one_cpu\n_one_cpu.CROWDED = float('inf')\nenable_utc = True\n"


def house_in(tmp_path: Path, redis_url: str) -> House:
    """Whose processes hold a CPU however little of it is left."""
    (tmp_path / "roomy.py").write_text(ROOMY)
    house = House(tmp_path, broker=redis_url, redis_url=redis_url, celery_config="roomy")
    house.environment["PYTHONPATH"] += f":{tmp_path}"
    return house


def cpus_of(process: Process) -> set[frozenset[int]]:
    """Those that each of its threads may use."""
    return {frozenset(os.sched_getaffinity(int(task.name))) for task in Path(f"/proc/{process.pid}/task").iterdir()}


def on_one(process: Process) -> bool:
    """Whether all of its threads are."""
    found = cpus_of(process)
    return len(found) == 1 and len(next(iter(found))) == 1


def test_a_worker_and_an_engine_stay_on_one(tmp_path: Path, redis_url: str) -> None:
    """And do their work there."""
    with house_in(tmp_path, redis_url) as house:
        worker, engine = house.worker(), house.engine(ready="ready")
        eventually(lambda: on_one(worker) and on_one(engine), timeout=10)
        assert house.send({"n": 1}).get(timeout=30) == {"n": 1}
        assert "cpu.held" in worker.said()


def test_a_worker_with_tasks_of_somebody_else_or_told_so_does_not(tmp_path: Path, redis_url: str) -> None:
    """A model's own code may use as many CPUs as it likes."""
    (tmp_path / "own_tasks.py").write_text("from celery import shared_task\n\n@shared_task\ndef own():\n    return 1\n")
    (tmp_path / "own_config.py").write_text(ROOMY + "imports = ('own_tasks',)\n")
    with house_in(tmp_path, redis_url) as house:
        with_own = house.worker(BRIDGE_CELERY_CONFIG="own_config")
        told = house.engine(ready="ready", BRIDGE_ONE_CPU="off")
        plain = house.engine(ready="ready")
        eventually(lambda: on_one(plain), timeout=10)
        assert cpus_of(with_own) == cpus_of(told) == {frozenset(CPUS)}


def test_a_pools_children_do_not(tmp_path: Path, redis_url: str) -> None:
    """Those that were there before, and one that replaces them."""
    with house_in(tmp_path, redis_url) as house:
        worker = house.worker("-c", "1", pool="prefork")
        eventually(lambda: on_one(worker), timeout=10)

        def children() -> list[int]:
            return [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]

        first = children()
        assert first
        for pid in first:
            os.kill(pid, 9)
        new = eventually(lambda: [pid for pid in children() if pid not in first], timeout=20)
        eventually(lambda: all(os.sched_getaffinity(pid) == CPUS for pid in new), timeout=5)
