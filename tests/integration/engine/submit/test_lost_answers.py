"""The answer to a submit is late, cut or lost while two jobs may live: one end, the other is cancelled and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.errors import JobLost
from tests.support.helpers import eventually, free_port
from tests.support.house import House

#: RunPod's faults that leave a submit unanswered, with what they take.
LOST = [("hang", {"seconds": 30.0}), ("lost_reply", {}), ("502_after", {}), ("reset", {}), ("502", {})]


@pytest.mark.parametrize(("fault", "more"), LOST, ids=[name for name, _ in LOST])
def test_each_way_of_losing_an_answer_is_decided_by_delivery(
    fault: str, more: dict[str, Any], tmp_path: Path, redis_url: str
) -> None:
    """Late, cut, 502 after or before accepting: at_least_once goes on, marked; at_most_once never submits twice."""
    settings: dict[str, Any] = {"unanswered_grace_s": "1", "read_timeout_s": "1", "connect_timeout_s": "1"}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **settings) as house:
        house.worker()
        house.emulator.fault(fault, op="run", times=1, **more)
        told = house.send({"n": 1}, result="document").get(timeout=40)
        assert told["possible_duplicate"] is True
        assert told["output"] == {"n": 1}
        jobs = len(house.emulator.jobs("demo"))
        assert jobs == (2 if fault in {"hang", "lost_reply", "502_after"} else 1)
        house.emulator.fault(fault, op="run", times=1, **more)
        with pytest.raises(JobLost) as caught:
            house.send({"n": 2}, delivery="at_most_once").get(timeout=40)
        assert caught.value.document["reason"] == "unanswered"
        assert caught.value.document["may_run"] is True
        assert len([job for job in house.emulator.jobs("demo") if job["input"] == {"n": 2}]) <= 1


def test_of_two_live_jobs_the_first_to_complete_gives_the_result(tmp_path: Path, redis_url: str) -> None:
    """The first job calls back after the second was submitted: its output counts, the second is cancelled."""
    port = free_port()
    with House(
        tmp_path,
        broker=redis_url,
        redis_url=redis_url,
        unanswered_grace_s="2",
        http_bind=f"127.0.0.1:{port}",
        webhook_base_url=f"http://127.0.0.1:{port}",
    ) as house:
        house.worker()
        house.emulator.fault("lost_reply", op="run", times=1)
        sent = house.send({"mock_delay": 7}, result="document")
        eventually(lambda: len(house.emulator.jobs("demo")) == 2, timeout=20)
        told = sent.get(timeout=30)
        first, second = sorted(house.emulator.jobs("demo"), key=lambda job: job["created"])
        assert told["job_id"] == first["id"]
        assert told["possible_duplicate"] is True
        assert {job["job_id"] for job in told["jobs"]} == {first["id"], second["id"]}
        assert house.names_of(sent.id).count("completed") == 1
        eventually(
            lambda: {job["id"]: job["status"] for job in house.emulator.jobs("demo")}[second["id"]] == "CANCELLED",
            timeout=30,
        )


def test_the_batch_lane_goes_on_after_a_lost_answer_though_nothing_else_asks_the_endpoint(
    tmp_path: Path, redis_url: str
) -> None:
    """Submits wait for a sign of life then, and no other request is there whose calls would bring one."""
    settings: dict[str, Any] = {"unanswered_grace_s": "1", "read_timeout_s": "1", "batch_gather_s": "0.1"}
    with House(tmp_path, broker=redis_url, redis_url=redis_url, **settings) as house:
        house.worker()
        house.emulator.fault("hang", op="run", times=1, seconds=30.0)
        with pytest.raises(JobLost):
            house.send({"n": 1}, delivery="at_most_once").get(timeout=40)
        assert house.send({"n": 2}, lane="batch").get(timeout=10) == {"n": 2}
