"""Streams: every chunk once, in order, numbered, and the end after the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import eventually
from tests.house import House
from tests.servers import RedisServer


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
