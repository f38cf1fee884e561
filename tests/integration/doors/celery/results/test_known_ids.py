"""Results under a request's id are the request's own, whatever else comes under that id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord

from tests.support.helpers import eventually
from tests.support.house import House


@pytest.fixture
def house(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker on Redis."""
    with House(tmp_path_factory.mktemp("known"), broker=redis_url, redis_url=redis_url) as made:
        made.worker()
        yield made


def conflicts(house: House, count: int) -> list[dict[str, Any]]:
    """So many dead letters of what came under the id of a request."""

    def found() -> list[dict[str, Any]]:
        return [letter for letter in house.ledger.dead.newest() if letter["reason"] in {"id_conflict", "unknown_kind"}]

    eventually(lambda: len(found()) >= count, timeout=20)
    return found()


def test_what_comes_under_a_requests_id_stores_nothing_there(house: House) -> None:
    """Neither answer nor failure: a command, an expired one, a task that nobody has. The victim gets its own end."""
    victim = house.send({"mock_delay": 3})
    eventually(lambda: house.phase(victim.id) is not None, timeout=20)
    app = house.app
    app.send_task("bridge.status", kwargs={"id": victim.id}, task_id=victim.id, queue="bridge.control")
    app.send_task("bridge.cancel", kwargs={}, task_id=victim.id, queue="bridge.control")
    app.send_task("bridge.nothing", task_id=victim.id, queue="bridge.control")
    letters = conflicts(house, 3)
    assert {letter["request_id"] for letter in letters} == {victim.id}
    assert victim.get(timeout=30) is not None
    assert victim.state == "SUCCESS"
    late = app.send_task("bridge.status", kwargs={}, task_id=victim.id, queue="bridge.control")
    conflicts(house, 4)
    app.send_task("bridge.status", kwargs={}, task_id=victim.id, queue="bridge.control", expires=-10)
    assert house.ask("status", id=victim.id)["status"] == "COMPLETED"  # the expired one has been thrown away by now
    assert late.state == "SUCCESS"


def test_celerys_own_tasks_under_a_requests_id_store_nothing_there(house: House) -> None:
    """Nor does a chain whose tail bears it, or a chord whose body does; most of them are none that this worker has."""
    victim = house.send({"mock_delay": 3, "mock_return": "mine"})
    eventually(lambda: house.phase(victim.id) is not None, timeout=20)
    app, job = house.app, {"input": {"mock_error": "x"}}
    own: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "accumulate": ([1], {}),
        "backend_cleanup": ([], {}),
        "chord_unlock": (["g", {"task": "x"}], {"result": []}),
        "map": ([{"task": "celery.accumulate"}, [[2]]], {}),
        "starmap": ([{"task": "celery.accumulate"}, [[2]]], {}),
        "chunks": ([{"task": "celery.accumulate"}, [[2]], 1], {}),
        "group": ([[], [None, []], "g", []], {}),
        "chain": ([], {}),
        "chord": ([[], {"task": "x"}], {}),
    }
    for queue in ("bridge.run", "bridge.control"):
        for name, (args, kwargs) in own.items():
            app.send_task(f"celery.{name}", args, kwargs, task_id=victim.id, queue=queue)
    conflicts(house, 2 * len(own))
    failing = app.signature("bridge.run", kwargs=job, queue="bridge.run")
    (failing | app.signature("x", task_id=victim.id)).apply_async()
    body = app.signature("x").set(task_id=victim.id)
    first = chord([failing.clone()], body).apply_async().parent[0]
    eventually(lambda: house.phase(first.id) == "CLOSED", timeout=20)
    assert victim.get(timeout=30) == "mine"
    assert victim.state == "SUCCESS"
