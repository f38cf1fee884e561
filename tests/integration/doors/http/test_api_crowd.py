"""`/v1` under load and when what it needs is away: many followers, slow ones, a full bridge, a ledger that is gone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bridge.runtime.open_files import at_least
from tests.support.api import all_events, api_house, events, submit
from tests.support.helpers import COMMAND_S, eventually, free_port
from tests.support.house import House, Process
from tests.support.servers import RedisServer

FOLLOWERS = 1_000
Api = tuple[House, httpx.Client]


@pytest.fixture(scope="module")
def api(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One worker for all of them; no chunk is too large for an event."""
    url = redis_server.start().fresh_url()
    with api_house(tmp_path_factory.mktemp("crowd"), url, waiting_max="40") as found:
        yield found


def threads_of(worker: Process) -> int:
    """How many there are in the process."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])


def test_a_thousand_follow_at_once_without_a_thread_each(redis_server: RedisServer, tmp_path: Path) -> None:
    """All hear the end, health is answered meanwhile, and one more is told to come again."""
    if at_least(4 * FOLLOWERS) < 2 * FOLLOWERS:
        pytest.skip(f"LOUDLY: this machine lets a process open under {2 * FOLLOWERS} files (ulimit -Hn)")
    url = redis_server.start().fresh_url()
    port = free_port()
    with (
        House(tmp_path, broker=url, redis_url=url, api="on", http_bind=f"127.0.0.1:{port}") as house,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=COMMAND_S) as client,
    ):
        process = house.worker()
        client.post("/v1/endpoints/demo/pause")
        names = [f"r{number}" for number in range(20)]
        for name in names:
            submit(client, {"a": 1}, id=name)
        before = threads_of(process)

        async def follow(name: str, ready: asyncio.Semaphore) -> list[str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /v1/requests/{name}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            heard: list[str] = []
            while line := await reader.readline():
                if line.startswith(b"event: "):
                    heard.append(line[7:].decode().strip())
                    if len(heard) == 1:
                        ready.release()
                if line == b"0\r\n":
                    break
            writer.close()
            return heard

        async def crowd() -> list[list[str]]:
            ready = asyncio.Semaphore(0)
            tasks = [asyncio.create_task(follow(names[n % len(names)], ready)) for n in range(FOLLOWERS)]
            for _ in tasks:
                await ready.acquire()
            assert threads_of(process) - before < 40
            loop = asyncio.get_running_loop()
            assert (await loop.run_in_executor(None, client.get, "/healthz")).status_code == 200
            more = await loop.run_in_executor(None, client.get, "/v1/requests/r0/events")
            assert (more.status_code, more.json()["reason"]) == (503, "busy")
            assert int(more.headers["retry-after"]) > 0
            await loop.run_in_executor(None, client.post, "/v1/endpoints/demo/resume")
            return await asyncio.gather(*tasks)

        heard = asyncio.run(asyncio.wait_for(crowd(), COMMAND_S))
        assert len(heard) == FOLLOWERS
        assert {(one[0], one[-1]) for one in heard} == {("accepted", "completed")}
        assert len({tuple(one) for one in heard}) <= len(names)
        eventually(lambda: client.get("/v1/requests/r0/events").status_code == 200)


def test_who_takes_nothing_hurts_nobody_and_who_is_slow_misses_nothing(api: Api) -> None:
    """A dead follower, a slow one and a quick one of the same 9 MB of chunks."""
    client = api[1]
    chunks = ["x" * 45_000 for _ in range(200)]
    port = client.base_url.port
    assert port is not None
    submit(client, {"a": 1}, id="other")
    submit(client, {"mock_stream": chunks, "mock_delay": 0.01}, id="wide", stream=True)
    with socket.create_connection(("127.0.0.1", port)) as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.sendall(b"GET /v1/requests/wide/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with events(client, "wide") as following:
            slow = []
            for event in following:
                slow.append(event)
                if len(slow) < 20:
                    time.sleep(0.05)  # so that what is held for it overflows
        quick = all_events(client, "wide")
        assert all_events(client, "other")[-1].name == "completed"
    for told in (slow, quick):
        assert [event.data["data"]["index"] for event in told if event.name == "chunk"] == list(range(200))
        assert told[-1].name == "completed"


def test_a_full_bridge_says_so_and_keeps_nothing(api: Api) -> None:
    """503 with Retry-After; what was taken before is answered all the same, and a cancel still comes in."""
    house, client = api
    client.post("/v1/endpoints/demo/pause")
    taken = []
    for number in range(200):
        answer = client.post("/v1/requests", json={"id": f"full{number}", "input": {"a": 1}})
        if answer.status_code != 202:
            break
        taken.append(f"full{number}")
    else:
        pytest.fail("the bridge took 200 requests with BRIDGE_WAITING_MAX=40")
    assert (answer.status_code, answer.json()["reason"]) == (503, "full")
    assert int(answer.headers["retry-after"]) > 0
    assert client.get(f"/v1/requests/full{len(taken)}").status_code == 404
    assert client.post("/v1/requests", json={"id": taken[0], "input": {"a": 1}}).status_code == 202
    assert client.post(f"/v1/requests/{taken[0]}/cancel").json()["outcome"] == "cancelled"
    client.post("/v1/endpoints/demo/resume")
    for name in taken[1:]:
        assert all_events(client, name)[-1].name == "completed"
    assert house.phase(taken[-1]) in {"SETTLED", "CLOSED"}


@pytest.mark.slow
def test_while_the_ledger_is_away_nothing_is_promised_and_followers_go_on(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """503, in time; afterwards the same request is taken once, and who followed hears its end."""
    url = redis_server.start().fresh_url()
    with api_house(tmp_path, url) as (house, client):
        submit(client, {"mock_delay": 4.0}, id="long")
        with events(client, "long") as following:
            assert "started" in (event.name for event in following)
            redis_server.freeze()
            try:
                began = time.monotonic()
                answer = client.post("/v1/requests", json={"id": "held", "input": {"a": 1}})
                assert time.monotonic() - began < 30
                assert (answer.status_code, answer.json()["reason"]) == (503, "ledger_unavailable")
                assert int(answer.headers["retry-after"]) > 0
            finally:
                redis_server.thaw()
            eventually(
                lambda: client.post("/v1/requests", json={"id": "held", "input": {"a": 1}}).json().get("id") == "held"
            )
            assert list(following)[-1].name == "completed"
        assert [event.name for event in all_events(client, "held")].count("accepted") == 1
        assert house.submits() == 2
