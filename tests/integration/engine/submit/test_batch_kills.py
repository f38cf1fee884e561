"""The batch lane dies at every call that it makes, of Redis and of RunPod, before it and after it.

Filler and watcher run here one call after another. What dies makes no further call, whatever it would still like to
tidy up; then ten minutes pass, and another process goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery

from bridge.emulator import Emulator, EndpointConfig
from bridge.engine.accept.accept import Origin
from bridge.engine.submit import batch
from bridge.engine.submit.batch import BatchSubmit
from bridge.engine.watch.batch import BatchWatch
from bridge.job.document import Held
from bridge.job.observation import Observation
from bridge.process.components import Components
from bridge.redis import round_trips
from bridge.runpod import batches as api
from bridge.runpod.client import RunPodClient
from bridge.settings import load
from tests.support.house import API_KEY

#: More calls than one road of two requests takes, and rounds in which another process must have ended them.
CALLS_MAX, ROUNDS = 200, 40


class KilledError(BaseException):
    """SIGKILL, as far as the code that runs can tell: it catches no such thing."""


class Mortal:
    """Counts calls that leave, and dies at one of them; the dead make none."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = 0
        self.when = "before"
        self.dead = False

    def call(self, call: Callable[[], Any]) -> Any:
        """Make it, unless it is the last one."""
        if self.at == 0:
            return call()
        if self.dead:
            raise KilledError
        self.calls += 1
        if self.calls == self.at and self.when == "before":
            self._die()
        answer = call()
        if self.calls == self.at:
            self._die()
        return answer

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Calls of the test itself."""
        at, self.at = self.at, 0
        try:
            yield
        finally:
            self.at = at

    def _die(self) -> None:
        self.dead = True
        raise KilledError


class Here:
    """Callers and writes that do all at once, in this thread."""

    free, closing = 1, False

    def __init__(self, has: Components) -> None:
        self._has = has

    def start(self, call: Callable[..., None], *args: Any, owner: str = "") -> None:
        """As Callers."""
        assert owner
        call(*args)

    def put(self, held: Held, make: Callable[..., Any]) -> None:
        """As WriteQueue."""
        self._has.ledger.change(held, make)

    def room(self) -> int:
        """As WriteQueue."""
        return 100

    def observed(self, held: Held, heard: Observation, poll_ms: int) -> None:
        """As LargeOutputs without a store."""
        self._has.ledger.change(held, partial(self._has.ledger.table.observed, heard=heard, poll_ms=poll_ms))


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Mortal:
    """Every call to Redis and RunPod passes it."""
    made = Mortal()
    command: Any = redis.Redis.execute_command
    send = RunPodClient._send
    execute: Any = redis.client.Pipeline.execute
    scripts = round_trips.call_many
    monkeypatch.setattr(round_trips, "call_many", lambda *a: made.call(lambda: scripts(*a)))
    monkeypatch.setattr(redis.Redis, "execute_command", lambda *a, **k: made.call(lambda: command(*a, **k)))
    monkeypatch.setattr(redis.client.Pipeline, "execute", lambda *a, **k: made.call(lambda: execute(*a, **k)))
    monkeypatch.setattr(RunPodClient, "_send", lambda *a, **k: made.call(lambda: send(*a, **k)))
    return made


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Without limits, which so many lives would meet."""
    with Emulator({"demo": EndpointConfig(batches_active=10_000)}, api_keys=[API_KEY], limits=False) as made:
        yield made


@contextmanager
def process(emulator: Emulator, redis_url: str, namespace: str) -> Iterator[Components]:
    """What one process has."""
    settings = load(
        runpod_api_key=API_KEY, runpod_endpoint_id="demo", runpod_endpoint_base_url=emulator.base_url,
        bridge_redis_url=redis_url, celery_broker_url=redis_url, bridge_namespace=namespace,
    )  # fmt: skip
    has = Components(settings, Celery("none", set_as_current=False))
    has.endpoint_health.decides = True
    try:
        yield has
    finally:
        has.client_of("demo").close()
        has.client.close()


def loops(has: Components) -> tuple[BatchSubmit, BatchWatch]:
    """The lane's two."""
    here: Any = Here(has)
    fill = BatchSubmit(has.ledger, has.endpoint_health, has.book, here, has.client_of, lambda _: None, 30_000, 0.0)
    return fill, BatchWatch(has.ledger, here, has.endpoint_health, here, has.client_of, 30_000, here.observed)


def pass_ten_minutes(has: Components, names: list[str]) -> None:
    """Leases end, batches are to be looked at, and clocks that have run out are acted on."""
    ledger = has.ledger
    for name in names:
        held = ledger.load(name)
        if held is not None and held.record.lease:
            ledger.client.hset(ledger.names.row(name), "le", ledger.now() - 1)
            ledger.client.zadd(ledger.names.key("timer"), {name: 1})
    for held in ledger.timers()[0]:
        ledger.change(held, ledger.table.tick)
    for key in ledger.client.scan_iter(ledger.names.key("batch:*:turn")):
        ledger.client.delete(key)
    members: Any = ledger.client.zrange(ledger.names.key("batches"), 0, -1)
    for member in members:
        ledger.client.zadd(ledger.names.key("batches"), {member: 1})


def road(has: Components, names: list[str], mortal: Mortal, *, rounds: int) -> bool:
    """The lane works until all have ended; whether they have. Only its own calls are points."""
    fill, watch = loops(has)
    for _ in range(rounds):
        fill.once()
        watch.once()
        with mortal.aside():
            time.sleep(0.02)  # RunPod's side goes on
            if all(one.record.phase.ended for one in has.ledger.load_many(names).values()):
                return True
            pass_ten_minutes(has, names)
    return False


def lived(emulator: Emulator, redis_url: str, mortal: Mortal, at: int, when: str) -> bool:
    """One life that ends at its so-many-th call; another goes on. Whether the first lived to the end."""
    namespace = f"{when[0]}{at}"
    names = [f"{namespace}-{number}" for number in range(2)]
    with process(emulator, redis_url, namespace) as has:
        for name in names:
            has.accept(name, {"input": {"name": name}, "lane": "batch"}, Origin("cli"))
        mortal.calls, mortal.dead, mortal.at, mortal.when = 0, False, at, when
        try:
            road(has, names, mortal, rounds=ROUNDS)
        except KilledError:
            pass
        finally:
            mortal.at = 0
    with process(emulator, redis_url, namespace) as has:
        pass_ten_minutes(has, names)
        assert road(has, names, mortal, rounds=ROUNDS), (at, when, [has.ledger.load(name) for name in names])
        ends = [held.record for held in has.ledger.load_many(names).values()]
        assert [(one.status, one.possible_duplicate) for one in ends] == [("COMPLETED", 0)] * 2, (at, when)
        runs = [job["runs"] for job in emulator.jobs("demo") if job["input"]["name"] in names]
        assert runs == [1, 1], (at, when)
        events: Any = has.client.xrange(has.names.events)
        assert len([1 for _, one in events if "bridge.job.completed" in one["data"]]) == 2, (at, when)
        for _ in range(3):  # what nobody needs any more is forgotten, here and at RunPod
            pass_ten_minutes(has, names)
            loops(has)[1].once()
        assert has.ledger.batches.due(10) == ([], -1), (at, when)
        has.client.delete(has.names.events)
    return not mortal.dead


def walk(emulator: Emulator, redis_url: str, mortal: Mortal, points: Iterator[tuple[int, str]]) -> int:
    """Die at each point, until a life had no such call."""
    for count, (at, when) in enumerate(points):
        if lived(emulator, redis_url, mortal, at, when):
            return count
    raise AssertionError(f"more than {CALLS_MAX} calls")


def test_a_kill_at_any_call_runs_each_request_once_and_ends_it(
    emulator: Emulator, redis_url: str, mortal: Mortal
) -> None:
    """Every third call, before and after it in turn; `chaos_full` takes them all."""
    points = ((at, ("before", "after")[at // 3 % 2]) for at in range(1, CALLS_MAX, 3))
    assert walk(emulator, redis_url, mortal, points) >= 10


@pytest.mark.chaos_full
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_every_call_runs_each_request_once_and_ends_it(
    emulator: Emulator, redis_url: str, mortal: Mortal, when: str
) -> None:
    """All of them."""
    assert walk(emulator, redis_url, mortal, ((at, when) for at in range(1, CALLS_MAX))) >= 30


def test_drafts_whose_create_was_not_answered_do_not_take_all_of_an_endpoints_places(
    redis_url: str, mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten of them are RunPod's limit: then they are cancelled, and no draft of somebody else's with them."""
    monkeypatch.setattr(batch, "REST_S", 0.0)
    with (
        Emulator({"demo": EndpointConfig(batches_active=10)}, api_keys=[API_KEY], limits=False) as emulator,
        process(emulator, redis_url, "drafts") as has,
    ):
        fill, _ = loops(has)
        client = has.client_of("demo")
        others = api.create(client, "demo")
        api.append(client, "demo", others, b'{"input":{"name":"theirs"}}')
        has.accept("r1", {"input": {"name": "r1"}, "lane": "batch"}, Origin("cli"))
        emulator.fault("502_after", op="batch-create", times=9)
        for _ in range(9):
            has.endpoint_health.ok("demo")  # RunPod is tried again at once
            fill.once()
        fill.once()  # refused: ten are active, and those that nobody heard of are too young to be given up
        assert [one["status"] for one in emulator.batches("demo")] == ["DRAFT"] * 10
        monkeypatch.setattr(batch, "UNHEARD_MS", -1)
        fill.once()
        assert road(has, ["r1"], mortal, rounds=ROUNDS)
        assert [held.record.status for held in has.ledger.load_many(["r1"]).values()] == ["COMPLETED"]
        assert next(one["status"] for one in emulator.batches("demo") if one["id"] == others) == "DRAFT"
        assert has.ledger.batches.unheard("demo") == {}


def lives_that_end_in(
    call: str, has: Components, names: list[str], mortal: Mortal, monkeypatch: pytest.MonkeyPatch, *, name: str = ""
) -> None:
    """Fifteen lives that fill drafts, each of which dies in a call of the Batch API (for one request's input)."""
    real = getattr(api, call)

    def dies(*args: Any) -> Any:
        if name and name.encode() not in args[-1]:
            return real(*args)
        return mortal._die()

    with monkeypatch.context() as patch:
        patch.setattr(api, call, dies)
        for _ in range(15):
            mortal.dead, mortal.at, mortal.calls = False, CALLS_MAX * 1_000, 0
            try:
                loops(has)[0].once()
            except KilledError:
                pass
            finally:
                mortal.at = 0
            pass_ten_minutes(has, names)


def test_kills_of_processes_that_hold_a_full_draft_park_none_of_its_requests(
    emulator: Emulator, redis_url: str, mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft of thousands is filled for minutes: whoever dies meanwhile does not die of each of them."""
    names = ["held-1", "held-2"]
    with process(emulator, redis_url, "held") as has:
        for name in names:
            has.accept(name, {"input": {"name": name}, "lane": "batch"}, Origin("cli"))
        lives_that_end_in("finalize", has, names, mortal, monkeypatch)
        assert road(has, names, mortal, rounds=ROUNDS)
        assert [held.record.status for held in has.ledger.load_many(names).values()] == ["COMPLETED"] * 2


def test_a_request_of_which_each_process_dies_is_parked_and_the_others_of_its_draft_go_on(
    emulator: Emulator, redis_url: str, mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HARDENING 14: the one at work is to blame."""
    names = ["good-1", "poison", "good-2"]
    with process(emulator, redis_url, "poison") as has:
        for name in names:
            has.accept(name, {"input": {"name": name}, "lane": "batch"}, Origin("cli"))
        lives_that_end_in("append", has, names, mortal, monkeypatch, name='"poison"')
        assert road(has, ["good-1", "good-2"], mortal, rounds=ROUNDS)
        held = has.ledger.load("poison")
        assert held is not None
        assert (held.record.due, held.record.claims, held.record.phase.value) == ("parked", 10, "ACCEPTED")
