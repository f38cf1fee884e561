"""Celery's remote control on a request: revoke in all its forms, and the bridge's own commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A bridge worker beside another team's worker: both hear each broadcast."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("remote"), broker=url, redis_url=url) as made:
        made.worker()
        made.foreign_worker()
        yield made


@pytest.mark.parametrize("how", ["revoke", "revoke terminate", "terminate"])
def test_a_revoke_reaches_the_gpu(house: House, how: str) -> None:
    """As a Celery user expects, and one step further: the job at RunPod is cancelled."""
    sent = house.send({"mock_delay": 60})
    eventually(lambda: "started" in house.names_of(sent.id))
    if how == "terminate":
        house.app.control.terminate(sent.id)
    else:
        sent.revoke(terminate=how.endswith("terminate"))
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=15)
    eventually(lambda: house.names_of(sent.id)[-1] == "cancelled")  # the other team's worker may tell it first
    assert any(call["op"] == "cancel" for call in house.emulator.calls())
    eventually(lambda: house.phase(sent.id) == "CLOSED")


def test_a_revoke_by_stamp_reaches_the_gpu(house: House) -> None:
    """Requests carry their stamps in the ledger."""
    signature = house.app.signature("bridge.run", kwargs={"input": {"mock_delay": 60}}, queue="bridge.run")
    signature.stamp(campaign="c42")
    sent = signature.apply_async()
    eventually(lambda: "started" in house.names_of(sent.id))
    house.app.control.revoke_by_stamped_headers({"campaign": ["c42"]})
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=15)


@pytest.mark.parametrize(("stamp", "asked"), [(7, [7]), (8, ["8"]), (9, 9), ([10, "a"], ["10"]), (True, ["true"])])
def test_a_stamp_that_is_no_text_is_found_and_hinders_no_other_revoke(house: House, stamp: Any, asked: Any) -> None:
    """Celery lets a stamp be of any type: one that could not be looked at ended every revoke by stamp."""
    signature = house.app.signature("bridge.run", kwargs={"input": {"mock_delay": 60}}, queue="bridge.run")
    one, other = signature.clone(), signature.clone()
    one.stamp(number=stamp)
    other.stamp(beside=f"of {stamp}")
    sent, beside = one.apply_async(), other.apply_async()
    eventually(lambda: "started" in house.names_of(sent.id) and "started" in house.names_of(beside.id))
    house.app.control.revoke_by_stamped_headers({"beside": [f"of {stamp}"]})
    assert type(beside.get(timeout=15, propagate=False)).__name__ == "TaskRevokedError"
    assert house.phase(sent.id) == "TRACKED"
    house.app.control.revoke_by_stamped_headers({"number": asked})
    assert type(sent.get(timeout=15, propagate=False)).__name__ == "TaskRevokedError"


@pytest.mark.slow
def test_the_celery_command_speaks_to_the_bridge(house: House) -> None:
    """`celery -A bridge.app inspect bridge_status ID`, and `control bridge_cancel ID`."""
    sent = house.send({"mock_delay": 60})
    eventually(lambda: "started" in house.names_of(sent.id))

    def celery(*words: str) -> str:
        process = house.fork("command", sys.executable, "-m", "celery", "-A", "bridge.app", *words)
        eventually(lambda: not process.running, timeout=20)
        return process.said()

    assert "IN_PROGRESS" in celery("inspect", "bridge_status", sent.id)
    assert sent.id in celery("inspect", "bridge_jobs")
    told = celery("inspect", "bridge_status")
    assert ("id: is required" in told, "TypeError" in told) == (True, False)
    assert "id: is required" in celery("control", "bridge_cancel")
    assert "endpoint: is required" in celery("control", "bridge_purge")
    assert "requested" in celery("control", "bridge_cancel", sent.id)
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=15)


WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("add_consumer", {"queue": ["x"]}),
    ("add_consumer", {"queue": 7}),
    ("add_consumer", {"queue": "x", "exchange_type": ["x"]}),
    ("add_consumer", {"queue": "x", "bindings": 7}),
    ("add_consumer", {"queue": "x", "exchange": "x2", "exchange_type": "nonsense"}),
    ("add_consumer", {"queue": "bridge:events"}),
    ("add_consumer", {"queue": "amq.x"}),
    ("add_consumer", {"queue": "amq.gen-x", "exchange": "amq.topic", "exchange_type": "direct"}),
    ("cancel_consumer", {"queue": {"x": 1}}),
    ("cancel_consumer", {"queue": 7}),
    ("cancel_consumer", {"queue": "nobody's"}),
    ("pool_grow", {"n": "x"}),
    ("pool_grow", {"n": -5}),
    ("pool_shrink", {"n": 100}),
    ("autoscale", {"max": "x", "min": 9}),
    ("rate_limit", {"task_name": ["x"], "rate_limit": "1/h"}),
    ("rate_limit", {"task_name": "bridge.run", "rate_limit": {}}),
    ("time_limit", {"task_name": "bridge.run", "soft": "x", "hard": "y"}),
    ("pool_restart", {}),
    ("election", {"id": 7, "topic": [], "action": 7}),
)


@pytest.mark.parametrize("broker", ["redis", "amqp"])
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_a_broadcast_does_wrong_ends_with_it(
    pool: str, broker: str, redis_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The worker lives, jobs and controls go on, and the bridge's own tasks are limited by nobody."""
    url = redis_url if broker == "redis" else request.getfixturevalue("amqp_url")
    with House(tmp_path, broker=url, redis_url=redis_url) as house:
        worker = house.worker(pool=pool)
        for name, arguments in WRONG:
            house.app.control.broadcast(name, arguments=arguments)
        assert house.send({"n": 1}).get(timeout=20) == {"n": 1}
        assert worker.running, worker.said()[-3000:]
        for name, says in (("rate_limit", "max_in_flight"), ("time_limit", "`timeout`")):
            asked = {"task_name": "bridge.run", name: "1/h"}
            ask = partial(house.app.control.broadcast, name, arguments=asked, reply=True, timeout=2, limit=1)
            (answer,) = eventually(ask)[0].values()  # asked again: on Redis a worker that connects anew hears nothing
            assert says in answer["error"]
        grown = partial(house.app.control.pool_grow, 1, reply=True, timeout=2, limit=1)
        (answer,) = eventually(grown)[0].values()
        assert "option -c" in answer["error"] if pool == "threads" else answer == {"ok": "pool will grow"}
        sent = [house.send({"n": n}) for n in range(3)]
        assert [one.get(timeout=20) for one in sent] == [{"n": n} for n in range(3)]
        house.app.control.add_consumer("bridge.more", destination=None)
        more = house.app.signature("bridge.run", kwargs={"input": {"n": 9}}, queue="bridge.more").apply_async()
        assert more.get(timeout=20) == {"n": 9}
        assert worker.running
        assert "worker.crashed" not in worker.said()
