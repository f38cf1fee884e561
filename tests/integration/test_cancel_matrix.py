"""A cancel by every door, in every phase: what is answered, what leaves for RunPod, what Celery sees, who is told.

All requests of all doors stand in their phases at once; each door then cancels its own, in one go. A cell is a test.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from bridge.emulator import Emulator
from tests.helpers import eventually
from tests.house import API_KEY, ROOT, House
from tests.servers import RedisServer

Answers = dict[str, dict[str, Any]]
LONG = {"mock_delay": 120}


@dataclass(frozen=True)
class Phase:
    """How a request gets there, how one knows, and what a cancel comes to."""

    endpoint: str
    outcome: str
    input: dict[str, Any] = field(default_factory=lambda: dict(LONG))
    arguments: dict[str, Any] = field(default_factory=dict)
    #: (operation, fault, its arguments): one for each request
    fault: tuple[str, str, dict[str, Any]] | None = None
    there: Callable[[Any], bool] = lambda record: record.phase == "TRACKED"
    #: whether RunPod's /cancel is called for the job
    called: bool = True
    ends: str = "cancelled"


PHASES = {
    "unknown": Phase("demo", "unknown", called=False),
    "accepted": Phase("held", "cancelled", there=lambda r: r.phase == "ACCEPTED", called=False),
    "submitting": Phase(
        "slow", "requested", fault=("run", "hang", {"seconds": 22}), there=lambda r: r.phase == "SUBMITTING"
    ),
    "unanswered": Phase(
        "mute", "requested", fault=("run", "lost_reply", {}), there=lambda r: r.phase == "UNANSWERED", called=False
    ),
    "queued": Phase("full", "requested", there=lambda r: r.status == "IN_QUEUE"),
    "running": Phase("demo", "requested", there=lambda r: r.status == "IN_PROGRESS"),
    "streaming": Phase(
        "demo", "requested", {"mock_stream": 500, "mock_delay": 0.5}, {"stream": True}, there=lambda r: r.chunks > 0
    ),
    "retrying, before it leaves": Phase(
        "again", "cancelled", {"mock_error": "x"}, {"retries": 3}, there=lambda r: r.phase == "RETRYING", called=False
    ),
    "retrying, under way": Phase(
        "twice", "requested", {"mock_error": "x", "mock_delay": 2}, {"retries": 3},
        fault=("retry", "hang", {"seconds": 22, "before": True}),
        there=lambda r: r.phase == "RETRYING" and r.retried_at > 0,
    ),
    "ended": Phase(
        "demo", "already_ended", {"a": 1}, there=lambda r: r.phase == "CLOSED", called=False, ends="completed"
    ),
    "completes meanwhile": Phase(
        "deaf", "requested", {"mock_delay": 25}, there=lambda r: r.status == "IN_PROGRESS", called=False,
        ends="completed",
    ),
    "RunPod is down": Phase("down", "requested", there=lambda r: r.status == "IN_PROGRESS"),
}  # fmt: skip


def by_task(house: House, ids: list[str]) -> Answers:
    """`bridge.cancel`."""
    return {one: house.ask("cancel", id=one, by="ann") for one in ids}


def by_cli(house: House, ids: list[str]) -> Answers:
    """`bridge cancel ID ID ...`."""
    command = [sys.executable, "-m", "bridge.cli", "cancel", *ids, "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=house.environment, capture_output=True, text=True, timeout=60, check=True
    )
    return {answer["id"]: answer for answer in json.loads(done.stdout)}


def by_control(house: House, ids: list[str]) -> Answers:
    """`celery control bridge_cancel ID ID ...`."""
    command = [sys.executable, "-m", "celery", "-A", "bridge.app", "control", "--json", "bridge_cancel", *ids]
    done = subprocess.run(
        command, cwd=ROOT, env=house.environment, capture_output=True, text=True, timeout=60, check=True
    )
    told, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
    (answers,) = told.values()
    return {answer["id"]: answer for answer in answers}


def by_revoke(house: House, ids: list[str]) -> Answers:
    """`AsyncResult.revoke()`."""
    for one in ids:
        house.app.AsyncResult(one).revoke()
    return {}


def by_revoke_terminate(house: House, ids: list[str]) -> Answers:
    """`AsyncResult.revoke(terminate=True)`."""
    for one in ids:
        house.app.AsyncResult(one).revoke(terminate=True, signal="SIGKILL")
    return {}


def by_terminate(house: House, ids: list[str]) -> Answers:
    """`app.control.terminate`, of many at once."""
    house.app.control.terminate(ids)
    return {}


def by_stamp(house: House, _ids: list[str]) -> Answers:
    """`app.control.revoke_by_stamped_headers`."""
    house.app.control.revoke_by_stamped_headers({"batch": ["by stamp"]})
    return {}


#: door -> how it cancels, and what its events say of who and which door
DOORS: dict[str, tuple[Callable[[House, list[str]], Answers], str, str]] = {
    "task": (by_task, "ann", "celery"),
    "cli": (by_cli, getpass.getuser(), "cli"),
    "control": (by_control, "control", "celery"),
    "revoke": (by_revoke, "revoke", "celery"),
    "revoke terminate": (by_revoke_terminate, "revoke", "celery"),
    "terminate": (by_terminate, "revoke", "celery"),
    "stamp": (by_stamp, "revoke_by_stamped_headers", "celery"),
}


def id_of(door: str, phase: str) -> str:
    """The request of a cell."""
    return f"{door}.{phase}".replace(" ", "_").replace(",", "")


def endpoint_of(door: str, phase: str) -> str:
    """Answers that are lost in a row space the next calls of their endpoint: there each request has its own."""
    name = PHASES[phase].endpoint
    return f"{name}-{list(DOORS).index(door)}" if name == "mute" else name


class Matrix:
    """The house, and what each door was answered."""

    def __init__(self, house: House) -> None:
        """Brings every request into its phase, and cancels them all."""
        self.house = house
        self._set_up()
        self.answers: dict[str, Answers] = {}
        with ThreadPoolExecutor(len(DOORS)) as pool:
            cancels = {door: pool.submit(self._cancel, door) for door in DOORS}
        self.answers = {door: future.result() for door, future in cancels.items()}
        for door in DOORS:  # what was cancelled before it came
            self._send(door, "unknown")

    def _set_up(self) -> None:
        house, emulator = self.house, self.house.emulator
        house.send({"a": 1}).get(timeout=20)
        house.ask("pause", endpoint="held", reason="matrix", by="test")
        emulator.fault("paused", endpoint="full", times=None)
        emulator.fault("429", op="retry", endpoint="again", times=None, retry_after=120)
        emulator.fault("429", op="cancel", endpoint="deaf", times=None, retry_after=120)
        for door in DOORS:
            for name, phase in PHASES.items():
                if phase.fault is not None:
                    op, kind, arguments = phase.fault
                    emulator.fault(kind, op=op, endpoint=endpoint_of(door, name), **arguments)
                if name != "unknown":
                    self._send(door, name)
        for door in DOORS:
            for name in PHASES:
                if name != "unknown":
                    eventually(partial(self._is_there, door, name), timeout=20)
        emulator.fault("reset", endpoint="down", times=5)

    def _is_there(self, door: str, name: str) -> str:
        """Says which and where it is, when it never gets there."""
        held = self.house.ledger.load(id_of(door, name))
        assert held is not None
        assert PHASES[name].there(held.record), (door, name, held.record)
        return name

    def _send(self, door: str, name: str) -> None:
        phase = PHASES[name]
        kwargs = {"input": phase.input, "endpoint": endpoint_of(door, name), **phase.arguments}
        signature = self.house.app.signature("bridge.run", kwargs=kwargs, queue="bridge.run")
        if door == "stamp":
            signature.stamp(batch="by stamp")
        signature.apply_async(task_id=id_of(door, name))

    def _cancel(self, door: str) -> Answers:
        return DOORS[door][0](self.house, [id_of(door, name) for name in PHASES])


@pytest.fixture(scope="module")
def matrix(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """One house for all cells."""
    url = redis_server.start().fresh_url()
    endpoints = sorted({endpoint_of(door, name) for door in DOORS for name in PHASES})
    with (
        Emulator(endpoints=endpoints, api_keys=[API_KEY]) as emulator,
        House(
            tmp_path_factory.mktemp("matrix"),
            broker=url,
            redis_url=url,
            emulator=emulator,
            endpoints=",".join(endpoints),
            unanswered_grace_s="22",
            read_timeout_s="40",
        ) as house,
    ):
        house.worker()
        yield Matrix(house)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("door", DOORS)
def test_a_cancel_by_this_door_in_this_phase(matrix: Matrix, door: str, phase: str) -> None:
    """See PHASES: the outcome, the end with who and which door, Celery's state, and RunPod's calls."""
    house, cell, request_id = matrix.house, PHASES[phase], id_of(door, phase)
    _, by, through = DOORS[door]
    result = house.app.AsyncResult(request_id)
    if door == "stamp" and phase == "unknown":
        # Nobody can look for the stamps of what has not come yet: Celery's own list of stamps stops it.
        eventually(lambda: result.state == "REVOKED", timeout=30)
        assert house.ledger.load(request_id) is None
        return
    if matrix.answers[door]:
        assert matrix.answers[door][request_id]["outcome"] == cell.outcome
    eventually(lambda: house.phase(request_id) == "CLOSED", timeout=60)
    end = house.events(request_id)[-1]
    assert end["type"] == f"bridge.job.{cell.ends}"
    job_id = end["data"]["job_id"]
    cancels = [call for call in house.emulator.calls(endpoint_of(door, phase)) if call["op"] == "cancel"]
    landed = [call for call in cancels if call["job_id"] == job_id and call["code"] == 200]
    assert bool(landed) is cell.called
    if cell.ends == "completed":
        assert result.get(timeout=5) == cell.input
        if phase == "completes meanwhile":  # the result is kept, and the document says that a cancel came
            assert end["data"]["wish"] == {"cause": "cancel", "by": by, "door": through}
            assert house.ask("cancel", id=request_id)["outcome"] == "already_ended"
        return
    assert (end["data"]["by"], end["data"]["door"], end["data"]["reason"]) == (by, through, "cancelled")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=5)
    assert result.state == "REVOKED"
    if phase in {"unknown", "accepted"}:
        assert job_id is None
    assert bool(end["data"].get("may_run")) is (phase == "unanswered")


def test_nothing_leaves_for_what_was_cancelled_before(matrix: Matrix) -> None:
    """Accepted or not yet known: RunPod never hears of them."""
    assert not [call for call in matrix.house.emulator.calls("held") if call["op"] == "run"]
