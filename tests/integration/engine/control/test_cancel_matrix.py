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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from bridge.emulator import Emulator
from tests.support.helpers import COMMAND_S, eventually
from tests.support.house import API_KEY, ROOT, House

Answers = dict[str, dict[str, Any]]
LONG = {"mock_delay": 120}
#: Seconds that a passing phase is held: longer than a busy machine takes for all cancels of a house.
HOLDS = {"redis": 25, "rabbitmq": 10}
#: Stands for them in the table of phases.
HOLD = "hold"


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

    @property
    def passes(self) -> bool:
        """Whether it lasts for some seconds only."""
        return self.fault is not None or self.ends == "completed"


PHASES = {
    "unknown": Phase("demo", "unknown", called=False),
    "accepted": Phase("held", "cancelled", there=lambda r: r.phase == "ACCEPTED", called=False),
    "submitting": Phase(
        "slow", "requested", fault=("run", "hang", {"seconds": HOLD}), there=lambda r: r.phase == "SUBMITTING"
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
        fault=("retry", "hang", {"seconds": HOLD, "before": True}),
        there=lambda r: r.phase == "RETRYING" and r.retried_at > 0,
    ),
    "ended": Phase(
        "demo", "already_ended", {"a": 1}, there=lambda r: r.phase == "CLOSED", called=False, ends="completed"
    ),
    "completes meanwhile": Phase(
        "deaf", "requested", {"mock_delay": HOLD}, there=lambda r: r.status == "IN_PROGRESS", called=False,
        ends="completed",
    ),
    "RunPod is down": Phase("down", "requested", there=lambda r: r.status == "IN_PROGRESS"),
}  # fmt: skip


def by_task(house: House, ids: list[str]) -> Answers:
    """`bridge.cancel`."""
    return {one: house.ask("cancel", id=one, by="ann") for one in ids}


#: A command line that has loaded what it needs and waits for its word, so that a busy machine changes no phase.
READY = "import sys, bridge.app, {module}; print('ready', flush=True); sys.stdin.readline(); {module}.main()"
COMMANDS = {
    "cli": ("bridge.cli", ["cancel", "--json"]),
    "control": ("celery.__main__", ["-A", "bridge.app", "control", "--json", "bridge_cancel"]),
}


def _said(house: House, door: str) -> str:
    """What the door's command has written, once it has its word."""
    process: subprocess.Popen[str] = house.commands[door]  # type: ignore[attr-defined]
    out, _ = process.communicate("go\n", timeout=COMMAND_S)
    assert process.returncode == 0
    return out


def by_cli(house: House, _ids: list[str]) -> Answers:
    """`bridge cancel ID ID ...`."""
    return {answer["id"]: answer for answer in json.loads(_said(house, "cli"))}


def by_control(house: House, _ids: list[str]) -> Answers:
    """`celery control bridge_cancel ID ID ...`."""
    said = _said(house, "control")
    told, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
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


def _command(request_id: str) -> str:
    return json.dumps({"op": "cancel", "id": request_id, "by": "billing", "reply_to": "matrix"})


def by_stream(house: House, ids: list[str]) -> Answers:
    """JSON commands on the stream `bridge:commands`, answered on `bridge:reply:matrix`."""
    for one in ids:
        house.client.xadd("bridge:commands", {"data": _command(one)})

    def answers() -> Answers:
        entries: Any = house.client.xrange("bridge:reply:matrix")
        told = [json.loads(entry["data"])["data"] for _, entry in entries]
        return {data["id"]: data["result"] for data in told}

    return eventually(lambda: len(found := answers()) == len(ids) and found, timeout=20) or {}


def by_amqp(house: House, ids: list[str]) -> Answers:
    """JSON commands on the queue `bridge.commands`, answered on the caller's queue."""
    found: Answers = {}
    with house.app.connection_for_write() as connection:
        queue = connection.SimpleQueue("matrix")
        producer = connection.Producer()
        for one in ids:
            producer.publish(_command(one), routing_key="bridge.commands", content_type="application/json")
        while len(found) < len(ids):
            message = queue.get(timeout=20)
            data = json.loads(message.body)["data"]
            found[data["id"]] = data["result"]
            message.ack()
        queue.close()
    return found


#: door -> how it cancels, and what its events say of who and which door
DOORS: dict[str, tuple[Callable[[House, list[str]], Answers], str, str]] = {
    "task": (by_task, "ann", "celery"),
    "cli": (by_cli, getpass.getuser(), "cli"),
    "control": (by_control, "control", "celery"),
    "revoke": (by_revoke, "revoke", "celery"),
    "revoke terminate": (by_revoke_terminate, "revoke", "celery"),
    "terminate": (by_terminate, "revoke", "celery"),
    "stamp": (by_stamp, "revoke_by_stamped_headers", "celery"),
    "stream": (by_stream, "billing", "stream"),
    "amqp": (by_amqp, "billing", "amqp"),
    "revoke over amqp": (by_revoke, "revoke", "celery"),
}
#: The doors that need RabbitMQ have a house of their own.
ON_RABBITMQ = ("amqp", "revoke over amqp")


def id_of(door: str, phase: str) -> str:
    """The request of a cell."""
    return f"{door}.{phase}".replace(" ", "_").replace(",", "")


def endpoint_of(door: str, phase: str) -> str:
    """Where answers are lost or hang, the next calls of their endpoint are held back: there each has its own."""
    name = PHASES[phase].endpoint
    return f"{name}-{list(DOORS).index(door)}" if name in {"mute", "slow", "twice"} else name


class Matrix:
    """The house, and what each door was answered."""

    def __init__(self, house: House, doors: list[str], hold_s: int) -> None:
        """Brings every request into its phase, and cancels them all."""
        self.house = house
        self._hold_s = hold_s
        self._doors = doors
        house.commands = {door: self._command(door) for door in doors if door in COMMANDS}  # type: ignore[attr-defined]
        self._set_up()
        with ThreadPoolExecutor(len(doors)) as pool:
            cancels = {door: pool.submit(self._cancel, door) for door in doors}
        self.answers = {door: future.result() for door, future in cancels.items()}
        for door in doors:  # what was cancelled before it came
            self._send(door, "unknown")

    def _command(self, door: str) -> subprocess.Popen[str]:
        module, words = COMMANDS[door]
        command = [sys.executable, "-c", READY.format(module=module), *words, *[id_of(door, name) for name in PHASES]]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.house.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _set_up(self) -> None:
        house, emulator = self.house, self.house.emulator
        house.send({"a": 1}).get(timeout=20)
        house.ask("pause", endpoint="held", reason="matrix", by="test")
        emulator.fault("paused", endpoint="full", times=None)
        emulator.fault("429", op="retry", endpoint="again", times=None, retry_after=120)
        emulator.fault("429", op="cancel", endpoint="deaf", times=None, retry_after=120)
        # Those that do not stay where they are come last: the time until the cancels is theirs.
        passing = [name for name, phase in PHASES.items() if phase.passes]
        for names in ([name for name in PHASES if name not in {*passing, "unknown"}], passing):
            if names is passing:
                for process in house.commands.values():  # type: ignore[attr-defined]
                    assert process.stdout.readline() == "ready\n"
            cells = [(door, name) for name in names for door in self._doors]
            for door, name in cells:
                if (fault := PHASES[name].fault) is not None:
                    op, kind, arguments = fault
                    emulator.fault(kind, op=op, endpoint=endpoint_of(door, name), **self.held(arguments))
                self._send(door, name)
            for door, name in cells:
                eventually(partial(self._is_there, door, name), timeout=30)
        emulator.fault("reset", endpoint="down", times=5)

    def held(self, values: dict[str, Any]) -> dict[str, Any]:
        """With this house's time in place of HOLD."""
        return {name: self._hold_s if value == HOLD else value for name, value in values.items()}

    def _is_there(self, door: str, name: str) -> str:
        """Says which and where it is, when it never gets there."""
        held = self.house.ledger.load(id_of(door, name))
        assert held is not None
        assert PHASES[name].there(held.record), (door, name, held.record)
        return name

    def _send(self, door: str, name: str) -> None:
        phase = PHASES[name]
        kwargs = {"input": self.held(phase.input), "endpoint": endpoint_of(door, name), **phase.arguments}
        signature = self.house.app.signature("bridge.run", kwargs=kwargs, queue="bridge.run")
        if door == "stamp":
            signature.stamp(batch="by stamp")
        signature.apply_async(task_id=id_of(door, name))

    def _cancel(self, door: str) -> Answers:
        return DOORS[door][0](self.house, [id_of(door, name) for name in PHASES])


@contextmanager
def _house(request: pytest.FixtureRequest, directory: Path, broker: str) -> Iterator[Matrix]:
    redis = broker == "redis"
    url = request.getfixturevalue("redis_server").start().fresh_url()
    broker_url = url if redis else request.getfixturevalue("rabbitmq_server").start().fresh_url()
    doors = [door for door in DOORS if (door in ON_RABBITMQ) is not redis]
    endpoints = sorted({endpoint_of(door, name) for door in doors for name in PHASES})
    settings = {"endpoints": ",".join(endpoints), "unanswered_grace_s": str(HOLDS[broker]), "read_timeout_s": "40"}
    with (
        Emulator(endpoints=endpoints, api_keys=[API_KEY]) as emulator,
        House(directory, broker=broker_url, redis_url=url, emulator=emulator, **settings) as house,
    ):
        house.worker()
        yield Matrix(house, doors, HOLDS[broker])


@pytest.fixture(scope="module")
def matrices(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Matrix]]:
    """One house for all cells of a broker, made when it is first needed."""
    made: dict[str, Matrix] = {}
    with ExitStack() as stack:

        def of(broker: str) -> Matrix:
            if broker not in made:
                made[broker] = stack.enter_context(_house(request, tmp_path_factory.mktemp(broker), broker))
            return made[broker]

        yield of


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("door", DOORS)
def test_a_cancel_by_this_door_in_this_phase(matrices: Callable[[str], Matrix], door: str, phase: str) -> None:
    """See PHASES: the outcome, the end with who and which door, Celery's state, and RunPod's calls."""
    matrix = matrices("rabbitmq" if door in ON_RABBITMQ else "redis")
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
        assert result.get(timeout=5) == matrix.held(cell.input)
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


def test_two_callers_at_once_are_one_cancel(matrices: Callable[[str], Matrix]) -> None:
    """The first wish counts, the second finds it; RunPod hears once, and one end is told."""
    house = matrices("redis").house
    sent = house.send(LONG)
    eventually(lambda: "started" in house.names_of(sent.id))
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda who: house.ask("cancel", id=sent.id, by=who), ["ann", "bob"]))
    assert {answer["outcome"] for answer in answers} <= {"requested", "already_ended"}
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    assert house.names_of(sent.id).count("cancelled") == 1
    job_id = house.events(sent.id)[-1]["data"]["job_id"]
    assert [call["op"] for call in house.emulator.calls("demo") if call["job_id"] == job_id].count("cancel") == 1
    assert house.ask("cancel", id=sent.id)["outcome"] == "already_ended"


def test_nothing_leaves_for_what_was_cancelled_before(matrices: Callable[[str], Matrix]) -> None:
    """Accepted or not yet known: RunPod never hears of them."""
    assert not [call for call in matrices("redis").house.emulator.calls("held") if call["op"] == "run"]
