"""Celery's remote control on a request: revoke in all its forms, and the bridge's own commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator

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
    assert house.names_of(sent.id)[-1] == "cancelled"
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


def test_the_celery_command_speaks_to_the_bridge(house: House) -> None:
    """`celery -A bridge.app inspect bridge_status ID`, and `control bridge_cancel ID`."""
    sent = house.send({"mock_delay": 60})
    eventually(lambda: "started" in house.names_of(sent.id))

    def celery(*words: str) -> str:
        process = house.start("command", sys.executable, "-m", "celery", "-A", "bridge.app", *words)
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
