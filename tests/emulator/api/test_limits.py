"""RunPod's limits: calls per 10 s and calls at once."""

from __future__ import annotations

import threading
from typing import Any

from bridge.emulator import Limit
from tests.support.helpers import eventually


def test_calls_over_the_rate_are_429_text_and_empty_until_the_window_is_over(calling: Any) -> None:
    """Two purges in 10 s, as published."""
    call = calling()
    codes = [call.post("purge-queue").status_code for _ in range(3)]
    # A window may begin between two of the calls; a third one more is over the limit in any case.
    codes.append(call.post("purge-queue").status_code)
    assert codes.count(429) >= 1
    refused = call.post("purge-queue")
    assert refused.status_code == 429
    assert refused.content == b""
    assert refused.headers["content-type"].startswith("text/plain")
    assert "retry-after" not in refused.headers
    call.emulator.advance(10)
    assert call.post("purge-queue").status_code == 200


def test_retry_after_is_sent_when_the_setting_says_so(calling: Any) -> None:
    """Whether this host sends it is an open question."""
    call = calling(limits={"cancel": Limit(1)}, retry_after_s=7)
    assert [call.post("cancel/x").status_code for _ in range(3)][-1] == 429
    assert call.post("cancel/x").headers["retry-after"] == "7"


def test_status_and_status_sync_share_their_limit(calling: Any) -> None:
    """One row of the table for both."""
    call = calling(limits={"status": Limit(4)})
    codes = [call.get(f"{op}/x").status_code for op in ("status", "status-sync") * 5]
    assert codes.count(404) in {4, 8}


def test_calls_at_once_over_the_limit_are_429(calling: Any) -> None:
    """Held calls count; when they are answered there is room again."""
    call = calling(limits={"runsync": Limit(1000, 2)})
    held = [threading.Thread(target=call.runsync, args=({"mock_delay": 60},)) for _ in range(2)]
    for thread in held:
        thread.start()
    eventually(lambda: call.emulator.counts()["demo"]["inProgress"] == 2)
    assert call.post("runsync", json={"input": {"x": 1}}).status_code == 429
    call.emulator.advance(61)
    for thread in held:
        thread.join(10)
    assert call.runsync({"x": 1})["status"] == "COMPLETED"


def test_running_runpod_workers_raise_the_rate(calling: Any) -> None:
    """The effective limit is at least running RunPod workers times requests per worker."""
    call = calling(limits={"cancel": Limit(1)}, requests_per_worker=1000, workers_max=1)
    call.run({"mock_delay": 600})
    assert {call.post("cancel/x").status_code for _ in range(20)} == {404}


def test_the_old_queue_limit_can_be_switched_on(calling: Any) -> None:
    """429 when over 50 jobs wait and over RunPod workers x 500."""
    call = calling(workers_max=0, queue_limit=True)
    codes = [call.post("run", json={"input": {"x": 1}}).status_code for _ in range(53)]
    assert codes.count(200) == 51
    assert codes[-1] == 429


def test_no_limits_means_none(calling: Any) -> None:
    """For load tests of something else."""
    call = calling(enforced=False)
    assert {call.post("purge-queue").status_code for _ in range(20)} == {200}
