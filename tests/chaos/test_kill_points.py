"""The worker is killed before and after calls that leave it; another goes on. Judged from the outside alone.

A sample of the points here; `pytest -m chaos_full tests/chaos` walks every one of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import chain
from celery.exceptions import TaskRevokedError

from bridge.errors import JobFailed
from tests.helpers import eventually
from tests.house import House, Process

#: Short clocks, so that a dead worker's leases and messages come back within seconds.
CLOCKS = {
    "connect_timeout_s": "1",
    "read_timeout_s": "1",
    "lease_s": "8",
    "unanswered_grace_s": "1",
    "finish_resend_s": "2",
}
OVERLAY = {
    "broker_transport_options": {
        "visibility_timeout": 3,
        "unacked_key": "bridge.unacked",
        "unacked_index_key": "bridge.unacked_index",
        "unacked_mutex_key": "bridge.unacked_mutex",
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
}
#: How many points the workload has at least (counted by a run that kills nothing).
POINTS = 60


def killed_house(tmp_path: Path, redis_url: str, **clocks: str) -> House:
    """A house whose workers forget quickly."""
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(OVERLAY))
    settings: dict[str, Any] = {**CLOCKS, "finish_turn_s": "4", "celery_config": str(overlay), **clocks}
    return House(tmp_path, broker=redis_url, redis_url=redis_url, **settings)


def doomed(house: House, at: int, when: str, **more: str) -> Process:
    """A worker that dies at one point."""
    command = ["-P", "threads", "-c", "4", "-l", "WARNING", "-n", "doomed@test", "--without-gossip", "--without-mingle"]
    return house.start(
        "doomed", sys.executable, "-m", "tests.chaos.worker", *command, KILL_AT=str(at), KILL_WHEN=when, **more
    )


class Work:
    """One request of each kind, all at once."""

    def __init__(self, house: House) -> None:
        """Sent before any worker runs, so that the order of points is much the same each time."""
        app = house.app
        self.house = house
        link = app.signature("tests.foreign.note", args=["linked"])
        self.linked = house.send({"value": 1, "mock_delay": 0.4}, link=link)
        self.failing = house.send({"mock_error": "boom"})
        self.chained = chain(
            app.signature("bridge.run", kwargs={"input": {"value": 2}}, queue="bridge.run"),
            app.signature("tests.foreign.tail"),
        ).apply_async()
        self.cancelled = house.send({"mock_delay": 60}, task_id="to-be-cancelled")
        self.streamed = house.send(
            {"mock_stream": ["a", "b", "c"], "mock_delay": 0.2, "mock_aggregate": True}, stream=True
        )

    def cancel(self) -> None:
        """Through the queue, so that it outlives the worker as well."""
        self.house.app.send_task("bridge.cancel", kwargs={"id": self.cancelled.id}, queue="bridge.control")

    def ids(self) -> list[str]:
        """Every request of the bridge."""
        return [self.linked.id, self.failing.id, self.chained.parent.id, self.cancelled.id, self.streamed.id]

    def check(self) -> None:
        """Each ended once, told once, paid once."""
        assert self.linked.get(timeout=60)["value"] == 1
        assert self.chained.get(timeout=60) == {"tail": {"value": 2}}
        assert self.streamed.get(timeout=60) == ["a", "b", "c"]
        with pytest.raises(JobFailed):
            self.failing.get(timeout=60)
        with pytest.raises(TaskRevokedError):
            self.cancelled.get(timeout=60)
        house = self.house
        eventually(lambda: all(house.phase(i) == "CLOSED" for i in self.ids()), timeout=60)
        for request_id in self.ids():
            told = house.events(request_id)
            assert [int(e["sequence"]) for e in told] == list(range(1, len(told) + 1))
            ends = [e for e in told if e["data"].get("completed")]
            assert len(ends) == 1
            assert told[-1] is ends[0]
            self._paid(ends[0]["data"])
        notes = house.client.lrange("noted:linked", 0, -1)
        assert len(notes) == 1, notes

    def _paid(self, end: dict[str, Any]) -> None:
        if end["job_id"] is None:  # cancelled before anything left
            return
        jobs = [j for j in self.house.emulator.jobs("demo") if j["id"] == end["job_id"]]
        assert len(jobs) == 1
        if not end["possible_duplicate"]:
            assert len(end["jobs"]) == 1


def survive(tmp_path: Path, redis_url: str, at: int, when: str) -> None:
    """Kill at the point, go on with another worker, and look."""
    with killed_house(tmp_path, redis_url) as house:
        house.foreign_worker()
        work = Work(house)
        first = doomed(house, at, when)
        eventually(lambda: house.phase(work.cancelled.id) is not None or not first.running, timeout=30)
        work.cancel()
        eventually(lambda: not first.running or all(house.phase(i) == "CLOSED" for i in work.ids()), timeout=40)
        first.kill()
        house.worker()
        work.check()
        submits = house.submits()
        marked = sum(1 for i in work.ids() if house.events(i)[-1]["data"]["possible_duplicate"])
        assert submits <= len(work.ids()) + marked


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("at", "when"), [(3, "after"), (9, "before"), (14, "after"), (22, "before"), (31, "after"), (45, "before")]
)
def test_a_worker_killed_at_a_point_loses_nothing(at: int, when: str, tmp_path: Path, redis_url: str) -> None:
    """SIGKILL beside one call; every request still ends exactly once."""
    survive(tmp_path, redis_url, at, when)


@pytest.mark.chaos_full
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(1, POINTS + 1))
def test_a_worker_killed_at_any_point_loses_nothing(at: int, when: str, tmp_path: Path, redis_url: str) -> None:
    """The same, at each of them."""
    survive(tmp_path, redis_url, at, when)


@pytest.mark.chaos
def test_redis_killed_under_load_loses_nothing(tmp_path: Path, redis_server: Any) -> None:
    """Broker, results and ledger at once: killed, restarted from its append-only file, frozen; the worker stays up.

    Killed once all are accepted: a message that Celery's Redis transport has just popped is in nobody's hands
    (docs/operations.md).
    """
    redis_url = redis_server.start().fresh_url()
    with killed_house(tmp_path, redis_url) as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 2.0}) for n in range(30)]
        eventually(lambda: all(house.phase(one.id) is not None for one in sent))
        redis_server.restart()
        eventually(house.client.ping)
        redis_server.freeze()
        try:
            with pytest.raises(AssertionError):
                eventually(lambda: not worker.running, timeout=3)
        finally:
            redis_server.thaw()
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=80, every=0.2)
        assert sorted(one.get(timeout=20)["n"] for one in sent) == list(range(30))
        marked = sum(1 for one in sent if house.events(one.id)[-1]["data"]["possible_duplicate"])
        assert house.submits() <= 30 + marked
        assert worker.stop() == 0


@pytest.mark.chaos
def test_rabbitmq_killed_under_load_loses_nothing(tmp_path: Path, rabbitmq_server: Any, redis_url: str) -> None:
    """The broker is killed and comes back: messages, finishes and events go on without a restart of the worker."""
    amqp_url = rabbitmq_server.start().fresh_url()
    with House(tmp_path, broker=amqp_url, redis_url=redis_url, finish_resend_s="2") as house:
        worker = house.worker()
        sent = [house.send({"n": n, "mock_delay": 2.0}) for n in range(20)]
        eventually(lambda: house.submits() == 20, timeout=20)
        rabbitmq_server.restart()
        eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=80, every=0.2)
        late = house.send({"n": 99})
        assert late.get(timeout=30)["n"] == 99
        assert sorted(one.get(timeout=20)["n"] for one in sent) == list(range(20))
        assert house.submits() == 21
        assert worker.stop() == 0
