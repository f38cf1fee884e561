"""An end is told in the process that found it, and goes by message where it cannot."""

from __future__ import annotations

import json
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import chain, chord, group

from bridge.doors.celery.finish import in_bulk
from bridge.doors.celery.finish.finish_lease import Finishing, chord_claim_s
from bridge.doors.celery.finish.in_bulk import CHORDS_S, PlainEnds
from bridge.engine.notifier import Notifier
from bridge.errors import JobFailed
from bridge.job.enums import Phase, Step
from bridge.job.record import Long
from bridge.ledger import Ledger, connect
from bridge.ledger.records.read import COMMON
from bridge.settings import Settings
from tests.support.ended import ended
from tests.support.helpers import eventually
from tests.support.house import House, foreign_app
from tests.support.servers import RedisServer
from tests.support.slow import slow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.control import Control
    from bridge.engine.tell.celery_states import States
    from bridge.job.document import Held


def received(tmp_path: Path, redis_url: str, *args: str, pool: str = "threads") -> int:
    """How many messages the worker takes for one request in a chain (a finish bears the request's name and id)."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.foreign_worker()
        worker = house.worker(*args, pool=pool)
        app = house.app
        job = chain(
            app.signature("bridge.run", kwargs={"input": {"value": 2}}, queue="bridge.run"),
            app.signature("tests.foreign.tail"),
        ).apply_async()
        assert job.get(timeout=30) == {"tail": {"value": 2}}
        eventually(lambda: house.phase(job.parent.id) == "CLOSED")
        return worker.said().count(f"Task bridge.run[{job.parent.id}] received")


@pytest.mark.parametrize("args", [[], ["-E"]])
def test_an_end_needs_no_message_where_the_engine_runs_beside_the_threads(
    tmp_path: Path, redis_url: str, args: list[str]
) -> None:
    """Only the request itself is received, also while somebody watches task events."""
    assert received(tmp_path, redis_url, *args) == 1


def test_an_end_goes_by_message_where_tasks_run_elsewhere(tmp_path: Path, redis_url: str) -> None:
    """In children of the worker."""
    assert received(tmp_path, redis_url, pool="prefork") == 2


def stored(house: House, request_id: str) -> dict[str, Any]:
    """What Celery's backend keeps of a request, without the moment."""
    eventually(lambda: house.phase(request_id) == "CLOSED")
    found: dict[str, Any] = json.loads(str(house.client.get(f"celery-task-meta-{request_id}")))
    assert found.pop("date_done")
    return found


def test_ends_that_nothing_follows_are_stored_as_the_tracer_stores_them(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """A success, a failure, a document, a task with a parent, a group: with prefork by the tracer, else together."""

    def ends(pool: str) -> list[dict[str, Any]]:
        url, directory = redis_server.start().fresh_url(), tmp_path / pool
        directory.mkdir()
        with House(directory, broker=url, redis_url=url) as house:
            worker = house.worker(pool=pool)
            sent = [
                house.send({"value": 1}, task_id="p1"),
                house.send({"mock_error": "boom"}, task_id="p2"),
                house.send({"value": 3}, task_id="p3", result="document"),
                house.app.send_task(
                    "bridge.run", kwargs={"input": {}}, queue="bridge.run", task_id="p4", parent_id="parent"
                ),
            ]
            one = house.app.signature("bridge.run", kwargs={"input": {"n": 1}}, queue="bridge.run")
            members = group([one, one]).apply_async()
            assert sent[0].get(timeout=30) == {"value": 1}
            with pytest.raises(JobFailed):
                sent[1].get(timeout=30)
            assert members.get(timeout=30) == [{"n": 1}, {"n": 1}]
            found = [stored(house, request.id) for request in (*sent, members.results[0])]
            assert worker.said().count("Task bridge.run[p1] received") == 1 + (pool == "prefork")
            return found

    plain, traced = ends("threads"), ends("prefork")
    for one, other in zip(plain, traced, strict=True):
        assert one.keys() == other.keys()
        for name in ("status", "traceback", "children", "parent_id"):
            assert one.get(name) == other.get(name)
    assert "group_id" in plain[4]
    assert plain[0] == traced[0]
    assert plain[1]["result"]["exc_type"] == traced[1]["result"]["exc_type"]
    assert plain[2]["result"].keys() == traced[2]["result"].keys()


def test_an_end_that_celery_cannot_store_with_others_goes_its_own_way(tmp_path: Path, redis_url: str) -> None:
    """The result store refuses one of a batch: the others are told, and it is told once the store takes it."""
    backend = redis_url.replace("redis://", "redis://storer:word@")
    with House(tmp_path, broker=redis_url, redis_url=redis_url, finish_resend_s="1") as house:
        may = ("ACL", "SETUSER", "storer", "on", ">word", "+@all", "allchannels", "resetkeys")
        house.client.execute_command(*may, "~celery-task-meta-s[02-9]", "~celery-task-meta-bridge:probe")
        try:
            worker = house.worker(CELERY_RESULT_BACKEND=backend)
            sent = [house.send({"n": n}, task_id=f"s{n}") for n in range(5)]
            others = [one for one in sent if one.id != "s1"]
            assert [one.get(timeout=30)["n"] for one in others] == [0, 2, 3, 4]
            eventually(lambda: "finish.failed" in worker.said())
            assert house.phase("s1") == "SETTLED"
            house.client.execute_command(*may, "~*")
            assert sent[1].get(timeout=30) == {"n": 1}
            eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent))
        finally:
            house.client.execute_command("ACL", "DELUSER", "storer")


@pytest.mark.parametrize("pool", ["threads", slow("prefork")])
def test_a_completed_job_keeps_its_result_while_the_store_is_full_however_often_it_is_tried(
    tmp_path: Path, redis_server: RedisServer, pool: str
) -> None:
    """An outage uses up no turn: with one alone to give, the end is still told as it was, and nothing is dead."""
    url = redis_server.start().fresh_url()
    with RedisServer(tmp_path / "results") as store:
        backend = store.fresh_url()
        full = connect(backend)
        with House(tmp_path, broker=url, redis_url=url, backend=backend, finish_turns_max="1") as house:
            worker = house.worker(pool=pool)
            full.execute_command("CONFIG", "SET", "maxmemory", "1")
            sent = [house.send({"n": n}) for n in range(3)]

            def least_tries() -> int:
                failed = [line for line in worker.said().splitlines() if "finish.failed" in line]
                return min(sum(f"request_id={one.id}" in line for line in failed) for one in sent)

            eventually(lambda: least_tries() >= 3, timeout=60)
            full.execute_command("CONFIG", "SET", "maxmemory", "0")
            assert [one.get(timeout=60)["n"] for one in sent] == [0, 1, 2]
            assert not house.ledger.dead.newest(10)
            # Each try has its line; for Celery's tracer, and for who watches tasks (Sentry), no job has failed.
            for noise in ("Traceback", "raised unexpected", "outside body"):
                assert noise not in worker.said()
        full.close()


def told_together(app: Celery, ledger: Ledger, ends: Sequence[Held], **settings: Any) -> list[str]:
    """The ids of those that are left to the tracer."""
    urls = {"celery_broker_url": app.conf.broker_url, "celery_result_backend": app.conf.result_backend}
    notifier = Notifier(ledger, cast("Pressure", None), lambda: cast("States", None))
    uses = Finishing(Settings(**urls, **settings), ledger, cast("Control", None), notifier)
    return [held.record.id for held in PlainEnds(app, uses)(ends)]


def claimed(ledger: Ledger, count: int) -> Sequence[Held]:
    """Ends as the loop that tells them takes them."""
    return ledger.claim(Step.FINISH, {"demo": count}, lease_ms=30_000, long=(*COMMON, Long.CANVAS)).records


@pytest.mark.parametrize("meanwhile", [False, True])
def test_only_the_very_end_that_was_claimed_is_stored_together(
    redis_url: str, ledger: Ledger, *, meanwhile: bool
) -> None:
    """One that changed since it was claimed may have another output by now: it gets its turn back, for the tracer."""
    ended(ledger, "a", {"n": 1})
    ends = claimed(ledger, 1)
    if meanwhile:
        ledger.change(ends[0], partial(ledger.table.finish_sent, delay_ms=0))
    left = told_together(foreign_app(redis_url, redis_url), ledger, ends)
    kept = ledger.load("a")
    assert kept is not None
    assert left == (["a"] if meanwhile else [])
    assert (kept.record.phase, kept.record.turn) == (Phase.SETTLED if meanwhile else Phase.CLOSED, "")
    meta = ledger.client.get("celery-task-meta-a")
    assert meta is None if meanwhile else json.loads(str(meta))["result"] == {"n": 1}


@pytest.fixture
def members(redis_url: str, ledger: Ledger) -> Celery:
    """The app of a chord whose two members, "a" and "b", have ended; it has heard of neither."""
    app = foreign_app(redis_url, redis_url)

    @app.task(name="bridge.run", shared=False)
    def _run() -> None:
        """The parent of what follows."""

    app.backend.set_chord_size("g", 2)
    body = app.signature("tests.foreign.collect", queue="bodies")
    for n, name in enumerate(("a", "b")):
        ended(ledger, name, {"n": n}, {"group": "g", "group_index": n, "chord": body})
    return app


def test_a_chord_that_hears_of_its_members_together_sends_the_same_body(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """With prefork by the tracer, else without: the same root, parent, trace and priority, and each result once."""
    inputs = [{"n": n, "mock_delay": 2 * (n == 2)} for n in range(3)]  # the last one ends last

    def body(pool: str) -> dict[str, Any]:
        url, directory = redis_server.start().fresh_url(), tmp_path / pool
        directory.mkdir()
        with House(directory, broker=url, redis_url=url) as house:
            house.worker(pool=pool)
            jobs = [
                house.app.signature(
                    "bridge.run", args=(inputs[n],), queue="bridge.run", task_id=f"m{n}",
                    headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, priority=3,
                )
                for n in range(3)
            ]  # fmt: skip
            chord(jobs, app=house.app)(house.app.signature("tests.foreign.collect", queue="bodies", task_id="body"))
            eventually(lambda: set(house.ledger.phases(["m0", "m1", "m2"])) == {"CLOSED"})
            assert house.client.llen("bodies") == 1
            message = json.loads(str(house.client.lindex("bodies", 0)))
            own = {"origin", "group"}  # of the process, and of each send
            told = {name: value for name, value in message["headers"].items() if name not in own}
            priority, args = message["properties"]["priority"], json.loads(b64decode(message["body"]))[0]
            return {**told, "priority": priority, "args": args}

    plain, traced = body("threads"), body("prefork")
    assert plain == traced
    assert plain["args"] == [inputs]
    assert (plain["id"], plain["parent_id"]) == ("body", "m2")
    assert plain["traceparent"]


def test_a_member_whose_chord_has_waited_too_long_for_others_is_left_to_a_turn_of_its_own(
    members: Celery, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn would not outlast what Celery keeps of its chord. The one that was taken for it does not count."""
    monkeypatch.setattr(in_bulk, "CHORDS_S", -1.0)
    assert told_together(members, ledger, claimed(ledger, 2), bridge_finish_turns_max=1) == ["a", "b"]
    for name in ("a", "b"):
        kept = ledger.load(name)
        assert kept is not None
        assert (kept.record.phase, kept.record.turn, kept.record.turns) == (Phase.SETTLED, "", 0)
    assert not ledger.client.exists("bodies")


def test_each_turn_outlasts_what_celery_keeps_of_a_chord_however_late_it_is_told_in_its_batch(
    members: Celery, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who follows after a death would find Celery's claim, send nothing, and the chord would wait for ever."""
    until = []

    def part(request: Any, *_: Any, **__: Any) -> None:
        held = ledger.load(request.id)
        until.append(0 if held is None else held.record.turn_until - ledger.now())

    monkeypatch.setattr(members.backend, "on_chord_part_return", part)
    assert told_together(members, ledger, claimed(ledger, 2), bridge_finish_turn_s=1.0) == []
    assert min(until) / 1000 > chord_claim_s(members) + CHORDS_S - 1.0


def test_an_outage_while_a_chord_hears_of_a_member_costs_that_one_its_turn_and_no_other(
    members: Celery, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes again by itself; what else was in the batch is told."""
    ended(ledger, "alone", {"n": 2})
    counts = members.backend.on_chord_part_return

    def part(request: Any, *args: Any, **more: Any) -> None:
        if request.id == "a":
            raise ConnectionError("the broker is away")
        counts(request, *args, **more)

    monkeypatch.setattr(members.backend, "on_chord_part_return", part)
    assert told_together(members, ledger, claimed(ledger, 3)) == []
    assert ledger.phases(["a", "b", "alone"]) == ["SETTLED", "CLOSED", "CLOSED"]
    due = ledger.load("a")
    assert due is not None
    assert (due.record.turn, due.record.due) == ("", Step.FINISH)
