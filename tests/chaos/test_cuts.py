"""Connections to Redis are cut, refused and hung; RunPod is away. It is told truly meanwhile, and nothing is lost."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.test_servers_fail import short_house
from tests.chaos.test_takeover import told_once
from tests.support.helpers import eventually, free_port
from tests.support.house import House, Process
from tests.support.proxy import FaultProxy
from tests.support.servers import RedisServer


def code(port: int, path: str) -> int:
    """What the HTTP door answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.chaos
@pytest.mark.slow
def test_redis_cut_refused_and_hung_loses_nothing_and_is_told(tmp_path: Path, redis_server: RedisServer) -> None:
    """Broker, results and ledger behind one proxy: the worker stays up, says how it is, and goes on by itself."""
    url = redis_server.start().fresh_url()
    port = free_port()
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        behind = url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        with short_house(tmp_path, url, http_bind=f"127.0.0.1:{port}") as house:
            for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "BRIDGE_REDIS_URL"):
                house.environment[name] = behind
            worker = house.worker()
            ids = [f"c{n}" for n in range(20)]
            for one in ids:
                house.send({"ref": one, "mock_delay": 1.0}, task_id=one)
            eventually(lambda: house.submits() > 5, timeout=20)
            proxy.cut()
            proxy.refuse()
            eventually(lambda: code(port, "/readyz") == 503, timeout=30)
            assert code(port, "/healthz") == 200
            proxy.restore()
            eventually(lambda: code(port, "/readyz") == 200, timeout=30)
            proxy.hang()
            late = house.send({"ref": "late"}, task_id="late")
            eventually(lambda: code(port, "/readyz") == 503, timeout=40)
            assert code(port, "/healthz") == 200
            proxy.restore()
            eventually(lambda: all(house.phase(one) == "CLOSED" for one in ids), timeout=60, every=0.2)
            assert late.get(timeout=40) == {"ref": "late"}
            told_once(house, [*ids, "late"])
            states = {json.loads(str(house.client.get(f"celery-task-meta-{one}")))["status"] for one in ids}
            assert states == {"SUCCESS"}
            assert worker.stop() == 0


@contextmanager
def runpod_behind_a_proxy(house: House) -> Iterator[tuple[FaultProxy, Process]]:
    """A proxy before the house's emulator, and a bridge worker that meets RunPod by way of it."""
    origin = house.emulator.origin
    with FaultProxy.before(origin) as proxy:
        behind = house.emulator.base_url.replace(origin, f"http://127.0.0.1:{proxy.port}")
        yield proxy, house.worker(RUNPOD_ENDPOINT_BASE_URL=behind)


@pytest.mark.chaos
def test_runpod_away_ends_no_request_and_is_no_reason_to_be_unready(tmp_path: Path, redis_url: str) -> None:
    """Nothing listens there: requests wait with `unreachable`, and go when it is back."""
    port = free_port()
    with (
        short_house(tmp_path, redis_url, http_bind=f"127.0.0.1:{port}") as house,
        runpod_behind_a_proxy(house) as (proxy, worker),
    ):
        assert house.send({"ref": "warm"}, task_id="warm").get(timeout=20) == {"ref": "warm"}
        proxy.refuse()
        ids = [f"a{n}" for n in range(10)]
        for one in ids:
            house.send({"ref": one}, task_id=one)
        eventually(lambda: house.ask("status", id="a0")["waiting_for"] == "unreachable", timeout=20)
        assert (code(port, "/readyz"), code(port, "/healthz")) == (200, 200)
        assert {house.phase(one) for one in ids} <= {"ACCEPTED", "SUBMITTING"}
        proxy.restore()
        eventually(lambda: all(house.phase(one) == "CLOSED" for one in ids), timeout=60, every=0.2)
        told_once(house, ["warm", *ids])
        assert worker.stop() == 0
