"""Streams: every chunk once, in order, numbered, and the end after the last of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for all."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("stream"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


def chunks(house: House, request_id: str) -> list[Any]:
    """The chunk events of a request."""
    return [event["data"] for event in house.events(request_id) if event["type"] == "bridge.job.chunk"]


def test_chunks_come_in_order_and_the_end_comes_last(house: House) -> None:
    """Numbered from 0, none twice, none missing; the aggregate is the result."""
    words = ["one ", "two ", "three ", "four "]
    sent = house.send({"mock_stream": words, "mock_delay": 0.3}, stream=True)
    assert sent.get(timeout=30) == words
    told = chunks(house, sent.id)
    assert [chunk["output"] for chunk in told] == words
    assert [chunk["index"] for chunk in told] == [0, 1, 2, 3]
    names = house.names_of(sent.id)
    assert names[-1] == "completed"
    events = house.events(sent.id)
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))


def test_more_chunks_than_one_read_brings(house: House) -> None:
    """RunPod hands out 200 a read; all of them arrive."""
    sent = house.send({"mock_stream": 450, "mock_delay": 0.001}, stream=True)
    assert len(sent.get(timeout=40)) == 450
    assert [chunk["index"] for chunk in chunks(house, sent.id)] == list(range(450))


def test_a_lost_page_is_marked(house: House) -> None:
    """I13: a page in transit is lost upstream; the end says so, and the aggregate has it all."""
    house.emulator.fault("lost_reply", op="stream", times=1)
    given = {"mock_stream": ["a", "b", "c"], "mock_delay": 0.4, "mock_aggregate": True}
    sent = house.send(given, stream=True, result="document")
    told = sent.get(timeout=40)
    assert told["stream_incomplete"] == "possible"
    assert told["output"] == ["a", "b", "c"]


def test_streaming_can_be_turned_on_later(house: House) -> None:
    """`bridge.stream` attaches to a request that is already running."""
    sent = house.send({"mock_stream": ["x", "y", "z"], "mock_delay": 1.0})
    eventually(lambda: "started" in house.names_of(sent.id))
    assert house.ask("stream", id=sent.id)["outcome"] == "streaming"
    sent.get(timeout=30)
    assert [chunk["output"] for chunk in chunks(house, sent.id)] == ["x", "y", "z"]


def kept(house: House, request_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The request's own stream of chunks, entry by entry."""
    found: Any = house.client.xrange(house.ledger.names.chunks(request_id))
    return [(entry, json.loads(fields["data"])) for entry, fields in found]


def test_a_requests_own_stream_holds_its_chunks_by_number_and_its_end(house: House) -> None:
    """`bridge:chunks:<id>`: chunk n is entry n+1, the last one tells the end; kept until the output is forgotten."""
    sent = house.send({"mock_stream": ["a", "b", "c"], "mock_delay": 0.05}, stream=True)
    sent.get(timeout=30)
    entries = kept(house, sent.id)
    assert [(entry, told["output"]) for entry, told in entries[:-1]] == [("1-0", "a"), ("2-0", "b"), ("3-0", "c")]
    assert entries[-1][1] == {"end": True, "status": "COMPLETED", "reason": None, "chunks": 3}
    eventually(lambda: house.client.pttl(house.ledger.names.chunks(sent.id)) > 0)


def test_a_lost_page_is_repaired(house: House) -> None:
    """The read that was cut took chunks with it; the aggregate gives them back, by their numbers."""
    words = [f"word {n}" for n in range(12)]
    sent = house.send({"mock_stream": words, "mock_delay": 0.2, "mock_aggregate": True}, stream=True, result="document")
    eventually(lambda: len(kept(house, sent.id)) >= 2)
    house.emulator.fault("lost_reply", op="stream", times=2)
    told = sent.get(timeout=40)
    assert told["stream_incomplete"] == "possible"
    assert told["stream_repaired"] > 0
    by_number = {chunk["index"]: chunk["output"] for chunk in chunks(house, sent.id)}
    assert [by_number[n] for n in range(12)] == words
    assert [chunk["output"] for chunk in house.ledger.chunks(sent.id)] == words
    names = house.names_of(sent.id)
    assert names[-1] == "completed"


def test_chunks_of_a_megabyte_arrive_whole(house: House) -> None:
    """RunPod's largest, several of them in one page."""
    big = [letter * 1_000_000 for letter in "abc"]
    sent = house.send({"mock_stream": big, "mock_delay": 0.01}, stream=True, ignore_result=True)
    eventually(lambda: house.phase(sent.id) == "CLOSED", timeout=30)
    told = [entry for _, entry in kept(house, sent.id)[:-1]]
    assert [chunk["output"] == whole for chunk, whole in zip(told, big, strict=True)] == [True] * 3
    # The stream of all events carries what fits, and of the rest its size and hash.
    assert [chunk["output_ref"]["size"] for chunk in chunks(house, sent.id)] == [1_000_002] * 3


def test_a_killed_engine_loses_no_chunk_outside_a_read(redis_url: str, tmp_path: Path) -> None:
    """I13: what was recorded stays, what was not read stays at RunPod; nothing comes twice."""
    with House(
        tmp_path, broker=redis_url, redis_url=redis_url, lease_s="9", read_timeout_s="2", connect_timeout_s="1"
    ) as house:
        first = house.worker()
        sent = house.send({"mock_stream": 40, "mock_delay": 0.1}, stream=True)
        eventually(lambda: len(kept(house, sent.id)) >= 3)
        house.emulator.fault("reset", op="stream", times=None)  # no read brings anything: none is hit with a page
        eventually(lambda: house.emulator.calls()[-1]["op"] == "stream" and house.emulator.calls()[-1]["code"] != 200)
        first.kill()
        house.emulator.clear_faults()
        house.worker()
        whole = [f"chunk {n}" for n in range(1, 41)]
        assert sent.get(timeout=60) == whole
        assert [chunk["output"] for chunk in chunks(house, sent.id)] == whole
