"""An end is told in the process that found it, and goes by message where it cannot."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import chain, group

from bridge.doors.celery.finish.in_bulk import PlainEnds
from bridge.engine.notifier import Notifier
from bridge.errors import JobFailed
from bridge.job.change import Rules
from bridge.job.enums import Phase, Step
from bridge.job.record import Long
from bridge.ledger import Ledger, Names, connect
from bridge.ledger.records.read import COMMON
from bridge.settings import Settings
from tests.support.ended import ended
from tests.support.helpers import eventually
from tests.support.house import House, foreign_app
from tests.support.servers import RedisServer
from tests.support.slow import slow

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.engine.tell.celery_states import States


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


@pytest.mark.parametrize("meanwhile", [False, True])
def test_only_the_very_end_that_was_claimed_is_stored_together(redis_url: str, *, meanwhile: bool) -> None:
    """One that changed since it was claimed may have another output by now: it gets its turn back, for the tracer."""
    client = connect(redis_url)
    ledger = Ledger(client, Names(), Rules())
    ended(ledger, "a", {"n": 1})
    ends = ledger.claim(Step.FINISH, {"demo": 1}, lease_ms=30_000, long=(*COMMON, Long.CANVAS)).records
    if meanwhile:
        ledger.change(ends[0], partial(ledger.table.finish_sent, delay_ms=0))
    settings = Settings(celery_broker_url=redis_url, celery_result_backend=redis_url)
    notifier = Notifier(ledger, cast("Pressure", None), lambda: cast("States", None))
    left = PlainEnds(foreign_app(redis_url, redis_url), ledger, notifier, settings)(ends)
    kept = ledger.load("a")
    assert kept is not None
    assert [held.record.id for held in left] == (["a"] if meanwhile else [])
    assert (kept.record.phase, kept.record.turn) == (Phase.SETTLED if meanwhile else Phase.CLOSED, "")
    meta = client.get("celery-task-meta-a")
    assert meta is None if meanwhile else json.loads(str(meta))["result"] == {"n": 1}
    client.close()
