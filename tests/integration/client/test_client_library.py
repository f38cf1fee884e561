"""`bridge.client` against a house: what a Python service does without Celery."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bridge.client import AsyncClient, Client, JobFailed, JobRejected, Refused, UnknownRequest
from bridge.ledger import connect
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("client"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    """A caller in another process would make the same."""
    with Client(house.environment["BRIDGE_REDIS_URL"]) as made:
        yield made


def test_submit_and_result(client: Client) -> None:
    """The output; a second caller who knows the id gets it too; the same id again is the same request."""
    request_id = client.submit({"a": 1}, metadata={"team": "x"})
    assert client.result(request_id, timeout=20) == {"a": 1}
    assert client.result(request_id, timeout=20) == {"a": 1}
    again = client.submit({"a": 1}, id=request_id)
    assert client.result(again, timeout=20) == {"a": 1}
    document = client.status(request_id)
    assert (document.status, document.succeeded, document.metadata) == ("COMPLETED", True, {"team": "x"})


def test_an_output_larger_than_what_travels_inline_comes_whole(client: Client) -> None:
    """It was asked for."""
    request_id = client.submit({"mock_return": {"x": "y" * 1_000_000}})
    assert len(client.result(request_id, timeout=20)["x"]) == 1_000_000


def test_a_failure_is_raised_with_its_document(client: Client) -> None:
    """As AsyncResult.get would."""
    request_id = client.submit({"mock_error": "boom"})
    with pytest.raises(JobFailed, match="boom") as raised:
        client.result(request_id, timeout=20)
    assert raised.value.document["reason"] == "handler_error"


def test_chunks_come_live_late_and_from_a_number(client: Client) -> None:
    """While they are made; again after the end; and from where somebody stopped."""
    words = ["one", "two", "three", "four"]
    request_id = client.submit({"mock_stream": words, "mock_delay": 0.4}, stream=True)
    live = client.stream(request_id, timeout=30)
    first = next(live)
    assert (first.index, first.output) == (0, "one")
    assert client.status(request_id).completed is False  # it is followed while it runs
    assert [chunk.output for chunk in live] == words[1:]
    assert [chunk.output for chunk in client.stream(request_id, timeout=30)] == words
    assert [chunk.index for chunk in client.stream(request_id, start=2, timeout=30)] == [2, 3]
    assert list(client.stream(request_id, start=4, timeout=30)) == []


def test_a_stream_that_fails_raises_behind_its_last_chunk(client: Client) -> None:
    """Nobody takes half an answer for a whole one."""
    request_id = client.submit({"mock_stream": ["a", "b"], "mock_delay": 0.1, "mock_error": "broke"}, stream=True)
    seen: list[object] = []
    with pytest.raises(JobFailed, match="broke"):
        seen.extend(chunk.output for chunk in client.stream(request_id, timeout=30))
    refused = client.submit({"mock_return": 1}, endpoint="demo", id="never", stream=True, queue_timeout=60_000)
    assert client.result(refused, timeout=20) == 1


def test_an_id_that_another_request_has_is_refused_to_who_used_it_again(house: House, client: Client) -> None:
    """Whoever comes first goes on untouched and hears the own end; the other never gets an output that is not his."""
    with Client(house.environment["BRIDGE_REDIS_URL"]) as other:
        for n in range(5):
            client.submit({"animal": "fox", "mock_delay": 0.3}, id=f"twice-{n}")
            other.submit({"animal": "cat"}, id=f"twice-{n}")
            with pytest.raises(JobRejected):
                other.result(f"twice-{n}", timeout=20)
            assert client.result(f"twice-{n}", timeout=20)["animal"] == "fox"


def test_a_request_that_was_refused_and_is_sent_again_has_the_new_end_and_not_the_old_refusal(
    redis_url: str, tmp_path: Path
) -> None:
    """What it lacked is there now; id and content are the same."""
    file = tmp_path / "bridge.toml"
    file.write_text("")
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house, Client(redis_url) as client:
        house.worker(BRIDGE_CONFIG_FILE=str(file), BRIDGE_ENDPOINTS="demo")

        def sent() -> object:
            client.submit({"a": 1}, id="again", endpoint="later")
            with suppress(JobRejected):
                return client.result("again", timeout=30)
            return None

        client.submit({"a": 1}, id="again", endpoint="later")
        with pytest.raises(JobRejected, match="'later' is not allowed"):
            client.result("again", timeout=30)
        file.write_text('[endpoints.later]\nid = "demo"\n')
        assert eventually(sent) == {"a": 1}
        assert sent() == {"a": 1}, "it has ended: the same end again"


def test_a_sender_too_many_of_one_request_is_told_that_it_hears_nothing(house: House, client: Client) -> None:
    """The tenth place of reply is one more than a request can have; who knows that can ask."""
    for n in range(10):
        client.submit({"mock_delay": 2}, id="crowd", reply_to=f"place.{n}")
    names = [f"bridge:reply:place.{n}" for n in range(10)]
    eventually(lambda: house.client.exists(*names) == len(names))
    ends: list[Any] = [house.client.xrevrange(name, count=1) for name in names]
    told = [json.loads(found[0][1]["data"]) for found in ends]
    assert [one["type"] for one in told[:9]] == ["bridge.job.completed"] * 9
    assert (told[9]["type"], told[9]["data"]["reason"]) == ("bridge.job.rejected", "rejected")
    assert "at most 8 further addresses" in told[9]["data"]["error"]


def test_a_request_of_another_process_is_waited_for_by_its_id(house: House, client: Client) -> None:
    """While it runs: its end is heard, not asked for again and again."""
    sent = house.send({"a": 1, "mock_delay": 1.5})
    eventually(lambda: house.phase(sent.id) == "TRACKED")
    assert client.result(sent.id, timeout=20)["a"] == 1


def test_following_a_request_of_another_door_turns_its_stream_on(house: House, client: Client) -> None:
    """A Celery producer sent it without `stream`; whoever knows the id may follow."""
    sent = house.send({"mock_stream": ["x", "y", "z"], "mock_delay": 1.0})
    eventually(lambda: "started" in house.names_of(sent.id))
    assert [chunk.output for chunk in client.stream(sent.id, timeout=30)] == ["x", "y", "z"]
    assert client.result(sent.id, timeout=30) == ["x", "y", "z"]


def test_events_of_ones_own_and_of_others(house: House, client: Client) -> None:
    """From the request's own replies, or out of all events; resumed by sequence."""
    mine = client.submit({"mock_delay": 0.3}, events=True)
    names = [event.name for event in client.events(mine, timeout=30)]
    assert (names[0], names[-1]) == ("accepted", "completed")
    own = list(house.client.scan_iter(house.ledger.names.reply(f"client.{mine}.*"), count=1000))
    assert [house.client.xlen(name) for name in own] == [len(names)]
    theirs = house.send({"mock_delay": 0.3})
    told = list(client.events(theirs.id, timeout=30))
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    assert [event.sequence for event in client.events(theirs.id, after=2, timeout=30)] == list(range(3, len(told) + 1))


def test_cancel_reaches_the_gpu(house: House, client: Client) -> None:
    """And says what came of it."""
    request_id = client.submit({"mock_delay": 60})
    eventually(lambda: house.phase(request_id) == "TRACKED")
    assert client.cancel(request_id, by="alice")["outcome"] == "requested"
    with pytest.raises(Exception, match="CANCELLED"):
        client.result(request_id, timeout=20)
    assert client.cancel(request_id)["outcome"] == "already_ended"
    assert client.cancel("nobody-knows-me")["outcome"] == "unknown"


def test_what_cannot_be_done_is_said(client: Client) -> None:
    """Unknown ids, refused commands, and time that runs out."""
    with pytest.raises(UnknownRequest):
        client.status("no-such-request")
    with pytest.raises(UnknownRequest):
        client.result("no-such-request", timeout=20)
    request_id = client.submit({"mock_delay": 30})
    with pytest.raises(TimeoutError, match=request_id):
        client.result(request_id, timeout=0.3)
    with pytest.raises(Refused):
        client.command("retry", id=request_id)
    assert client.command("health", endpoint="demo")["endpoint"] == "demo"
    client.cancel(request_id)


def test_what_is_only_remembered_is_still_answered(house: House, client: Client) -> None:
    """The record is gone, the id is not: its end, and no output that could be taken for the job's."""
    request_id = client.submit({"a": 1})
    client.result(request_id, timeout=20)
    eventually(lambda: house.phase(request_id) == "CLOSED")
    names = house.ledger.names
    house.client.delete(names.row(request_id), names.long(request_id), names.output(request_id))
    told = client.status(request_id)
    assert (told.status, told.succeeded, told.started, told.phase) == ("COMPLETED", True, True, "CLOSED")
    with Client(house.environment["BRIDGE_REDIS_URL"]) as other, pytest.raises(UnknownRequest, match="not kept"):
        other.result(request_id, timeout=20)


def test_async_callers_wait_side_by_side(house: House) -> None:
    """Twenty streams and results on one loop, and every chunk in its place."""

    async def one(client: AsyncClient, n: int) -> list[str]:
        request_id = await client.submit({"mock_stream": [f"{n}a", f"{n}b"], "mock_delay": 0.2}, stream=True)
        chunks = [chunk.output async for chunk in client.stream(request_id, timeout=60)]
        assert await client.result(request_id, timeout=60) == chunks
        assert (await client.status(request_id)).succeeded
        return chunks

    async def all_of_them() -> list[list[str]]:
        async with AsyncClient(house.environment["BRIDGE_REDIS_URL"]) as client:
            return await asyncio.gather(*(one(client, n) for n in range(20)))

    assert asyncio.run(all_of_them()) == [[f"{n}a", f"{n}b"] for n in range(20)]


def test_threads_share_a_client(client: Client) -> None:
    """Each wait has a connection of its own."""
    with ThreadPoolExecutor(16) as threads:
        ids = list(threads.map(lambda n: client.submit({"n": n, "mock_delay": 0.2}), range(16)))
        found = list(threads.map(lambda request_id: client.result(request_id, timeout=30)["n"], ids))
    assert found == list(range(16))


def test_following_goes_on_after_lost_connections(redis_url: str) -> None:
    """Every connection is cut while a chunk is waited for: the next ones come, none of them twice."""
    admin, key = connect(redis_url), "bridge:chunks:x"
    with Client(redis_url) as client, ThreadPoolExecutor(1) as thread:
        admin.xadd(key, {"data": '{"index":0,"output":"a"}'}, id="1-0")
        following = client.stream("x", timeout=30)
        assert next(following).output == "a"
        waiting = thread.submit(next, following)
        eventually(lambda: any(one["cmd"] == "xread" for one in admin.client_list()))
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.xadd(key, {"data": '{"index":1,"output":"b"}'}, id="2-0")
        admin.execute_command("XADD", key, "2-*", "data", '{"end":true,"status":"COMPLETED"}')
        assert waiting.result(20).output == "b"
        assert list(following) == []
    admin.close()


def test_events_come_to_an_end_though_that_event_is_trimmed_or_was_read_before(house: House, client: Client) -> None:
    """Told from the request's document, with sequence 0; others' events meanwhile change nothing."""
    sent = house.send({"mock_delay": 0.2})
    told = list(client.events(sent.id, timeout=30))
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    (again,) = client.events(sent.id, after=told[-1].sequence, timeout=30)
    house.client.xtrim("bridge:events", maxlen=0)
    house.send({"mock_delay": 60})
    (end,) = client.events(sent.id, timeout=30)
    for event in (again, end):
        assert (event.name, event.sequence, event.ends) == ("completed", 0, True)
        assert event.data["output"] == told[-1].data["output"]


def test_events_of_a_request_that_has_not_come_yet_are_waited_for(house: House, client: Client) -> None:
    """Whoever follows may be faster than whoever sends."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(lambda: [event.name for event in client.events("to-come", timeout=60)])
        with pytest.raises(FutureTimeout):
            following.result(timeout=2)
        house.send({"mock_delay": 0.1}, task_id="to-come")
        assert following.result(timeout=60)[-1] == "completed"
