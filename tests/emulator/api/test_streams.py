"""/stream: destructive reads, pages, holds."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.support.helpers import eventually


def outputs(page: dict[str, Any]) -> list[Any]:
    """Return the chunks of one answer."""
    return [chunk["output"] for chunk in page["stream"]]


def test_each_read_drains_what_is_buffered(call: Any) -> None:
    """Chunks come once; the last page is empty and COMPLETED."""
    job = call.run({"mock_stream": ["a", {"b": 1}, 3], "mock_delay": 0.05})
    got: list[Any] = []
    while True:
        page = call.stream(job)
        got += outputs(page)
        if page["status"] == "COMPLETED" and not page["stream"]:
            break
    assert got == ["a", {"b": 1}, 3]
    assert call.stream(job)["stream"] == []


def test_a_page_holds_at_most_200_chunks_though_the_job_has_ended(call: Any) -> None:
    """A client that stops at the first terminal answer loses the tail."""
    job = call.run({"mock_stream": 450})
    eventually(lambda: call.status(job)["status"] == "COMPLETED")
    pages = [call.stream(job) for _ in range(4)]
    assert [len(page["stream"]) for page in pages] == [200, 200, 50, 0]
    assert {page["status"] for page in pages} == {"COMPLETED"}


def test_an_empty_stream_is_held_and_ends_with_the_first_chunk(call: Any) -> None:
    """No polling in a tight loop: the hold is 10 s, or `wait`."""
    job = call.run({"mock_stream": 1, "mock_delay": 0.4})
    began = time.monotonic()
    assert outputs(call.stream(job, wait="300000")) == ["chunk 1"]
    assert time.monotonic() - began < 60  # of the five minutes that it would be held


def test_a_hold_ends_after_wait_with_an_empty_page(call: Any) -> None:
    """`wait` is in ms, at least 1000."""
    job = call.run({"mock_delay": 600})
    began = time.monotonic()
    assert call.stream(job, wait="1000") | {"delayTime": 0} == {
        "id": job,
        "status": "IN_PROGRESS",
        "stream": [],
        "delayTime": 0,
    }
    assert 0.9 < time.monotonic() - began < 9


def test_the_default_hold_is_ten_virtual_seconds(calling: Any) -> None:
    """At sixty times the speed it is over in a sixth of a second."""
    call = calling(speed=60)
    job = call.run({"mock_delay": 500})
    began = time.monotonic()
    assert call.stream(job)["status"] == "IN_PROGRESS"
    assert 0.1 < time.monotonic() - began < 9


def test_cancel_ends_a_hold(call: Any) -> None:
    """A held /stream answers as soon as its job is over."""
    job = call.run({"mock_delay": 600})
    pages: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: pages.append(call.stream(job)))
    reader.start()
    eventually(lambda: call.emulator.counts()["demo"]["inProgress"] == 1)
    call.post(f"cancel/{job}")
    reader.join(5)
    assert pages[0]["status"] == "CANCELLED"


def test_the_output_of_a_generator_is_empty_unless_it_aggregates(calling: Any) -> None:
    """`return_aggregate_stream` decides; reading the stream does not take from the output."""
    call = calling()
    assert call.runsync({"mock_stream": 3})["output"] == []
    call = calling(aggregate_streams=True)
    job = call.run({"mock_stream": 3})
    eventually(lambda: call.status(job)["status"] == "COMPLETED")
    call.stream(job)
    assert call.status(job)["output"] == ["chunk 1", "chunk 2", "chunk 3"]


def test_the_final_output_beside_an_empty_page_is_a_setting(calling: Any) -> None:
    """Some live answers carry it; the default does not."""
    for setting in (False, True):
        call = calling(stream_final_output=setting)
        job = call.runsync({"mock_return": "end"})["id"]
        assert ("output" in call.stream(job)) is setting


def test_a_second_run_starts_its_stream_afresh(call: Any) -> None:
    """After /retry no chunk of the first run is left."""
    job = call.runsync({"mock_stream": ["old"], "mock_error": 1})["id"]
    call.post(f"retry/{job}")
    eventually(lambda: call.status(job)["status"] == "COMPLETED")
    assert outputs(call.stream(job)) == ["old"]
    assert outputs(call.stream(job)) == []
