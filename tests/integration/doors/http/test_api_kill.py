"""What `/v1` has answered holds, whoever dies: kill -9 under many clients at once, and the next worker goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.api import Event, all_events, events, submit
from tests.support.helpers import COMMAND_S, eventually, free_ports
from tests.support.house import House

CLIENTS, EACH = 20, 15
#: So that what the killed worker had under way is due soon.
QUICK = {"lease_s": "9", "read_timeout_s": "2", "connect_timeout_s": "1", "unanswered_grace_s": "1"}


@pytest.fixture
def clients() -> Iterator[list[httpx.Client]]:
    """Of two workers that run one after the other."""
    made = [httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=COMMAND_S) for port in free_ports(2)]
    yield made
    for client in made:
        client.close()


def bind(client: httpx.Client) -> str:
    """Where its worker is to listen."""
    return f"{client.base_url.host}:{client.base_url.port}"


def test_what_was_answered_202_is_held_though_the_worker_is_killed(
    redis_url: str, tmp_path: Path, clients: list[httpx.Client]
) -> None:
    """Each is known at once, and run once, however often it is sent again."""
    first, second = clients
    settings = {"api": "on", "waiting_max": "10000"} | QUICK
    with House(tmp_path, broker=redis_url, redis_url=redis_url, backend=None, emulator=None, **settings) as house:
        worker = house.worker(BRIDGE_HTTP_BIND=bind(first))
        enough = threading.Semaphore(0)

        def send(number: int) -> list[str]:
            taken = []
            with httpx.Client(base_url=first.base_url, timeout=COMMAND_S) as client:
                for one in range(EACH):
                    name = f"c{number}-{one}"
                    try:
                        submit(client, {"name": name}, id=name)
                        taken.append(name)
                        enough.release()
                        assert client.get(f"/v1/requests/{name}").status_code == 200
                    except httpx.HTTPError:
                        return taken
            return taken

        with ThreadPoolExecutor(CLIENTS) as pool:
            sending = [pool.submit(send, number) for number in range(CLIENTS)]
            for _ in range(CLIENTS * EACH // 3):
                assert enough.acquire(timeout=COMMAND_S)
            worker.kill(signal.SIGKILL)
            taken = [name for future in sending for name in future.result()]
        assert len(taken) < CLIENTS * EACH, "the worker was killed too late to tell anything"
        assert all(house.phase(name) for name in taken)
        house.worker(BRIDGE_HTTP_BIND=bind(second))
        names = [f"c{number}-{one}" for number in range(CLIENTS) for one in range(EACH)]
        for name in names:
            assert second.post("/v1/requests", json={"id": name, "input": {"name": name}}).status_code in {200, 202}
        eventually(lambda: set(house.ledger.phases(names)) == {"CLOSED"}, timeout=60)
        jobs = [job["input"]["name"] for job in house.emulator.jobs("demo")]
        assert set(jobs) == set(names)
        # By a submit whose answer died with the worker, which is marked, and by nothing that was sent again.
        held = house.ledger.load_many(names)
        assert all(held[name].record.possible_duplicate for name in names if jobs.count(name) > 1)


def test_a_follower_goes_on_at_another_worker(redis_url: str, tmp_path: Path, clients: list[httpx.Client]) -> None:
    """With the id of the last event: nothing is missed, nothing is told twice."""
    first, second = clients
    with House(tmp_path, broker=redis_url, redis_url=redis_url, api="on") as house:
        worker = house.worker(BRIDGE_HTTP_BIND=bind(first))
        house.worker(BRIDGE_HTTP_BIND=bind(second))
        submit(first, {"mock_stream": 60, "mock_delay": 0.05}, id="long", stream=True)
        told: list[Event] = []
        with suppress(httpx.HTTPError), events(first, "long") as following:
            for event in following:
                told.append(event)
                if len(told) == 12:
                    worker.kill(signal.SIGKILL)
        assert told[-1].name != "completed"
        told += all_events(second, "long", told[-1].id)
        indices = [event.data["data"]["index"] for event in told if event.name == "chunk"]
        assert told[-1].name == "completed"
        assert len(indices) == len(set(indices))
        lost = told[-1].data["data"].get("stream_incomplete")  # a page on its way when its reader died (I13)
        assert lost or indices == list(range(60))
