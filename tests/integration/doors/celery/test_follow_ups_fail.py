"""What follows a request and cannot be sent ends alone: the request's own end is told, and nobody else waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import ChordError

from bridge.errors import JobRejected
from bridge.job.enums import DeadReason
from tests.support.foul import Foul, RedisSender, good_headers
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A bridge worker, and the other team's, on Redis."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("unsent"), broker=url, redis_url=url) as made:
        made.worker(BRIDGE_CELERY_CONFIG="tests.odd_codec")
        made.foreign_worker()
        yield made


def note(house: House, key: str, **options: Any) -> Signature:
    """A task of the other team's."""
    return house.app.signature("tests.foreign.mark", kwargs={"key": key}).set(**options)


def run(house: House, **kwargs: Any) -> Signature:
    """A job."""
    return house.app.signature("bridge.run", kwargs=kwargs, queue="bridge.run")


def undeliverable(house: House, request_id: str) -> list[str]:
    """What dead letters say of what followed a request."""
    found = [one for one in house.ledger.dead.newest() if one["request_id"] == request_id]
    return [one["detail"] for one in found if one["reason"] == DeadReason.UNDELIVERABLE]


def wrong_type(house: House, name: str) -> str:
    """A queue's name under which something else stands: no retry mends that, and no door can see it."""
    house.client.hset(name, "a", "b")
    return name


#: What no retry mends, as options of a follow-up that the door lets pass.
BROKEN = {"compression": "broken", "retry_policy": {"max_retries": 1_000, "interval_start": 5, "interval_max": 60}}


def test_follow_ups_that_cannot_be_sent_hold_nobody(house: House) -> None:
    """More of them than the pool has threads: each request's own end is told, its link fails, and others go on."""
    sent = [house.send({"n": n}, link=note(house, "never", task_id=f"broken-{n}", **BROKEN)) for n in range(40)]
    plain, followed = house.send({"plain": 1}), house.send({"plain": 2}, link=note(house, "goes", task_id="goes"))
    assert plain.get(timeout=20) == {"plain": 1}
    assert followed.get(timeout=20) == {"plain": 2}
    assert house.ask("health", timeout=20)
    assert [one.get(timeout=20) for one in sent] == [{"n": n} for n in range(40)]
    eventually(lambda: all(house.phase(one.id) == "CLOSED" for one in sent), timeout=20)
    for n, one in enumerate(sent):
        with pytest.raises(JobRejected, match=f"behind {one.id}: KeyError"):
            house.app.AsyncResult(f"broken-{n}").get(timeout=10)
        assert len(undeliverable(house, one.id)) == 1
    assert [child.id for child in sent[0].children] == ["broken-0"]
    assert eventually(lambda: house.client.lrange("noted:goes", 0, -1)) == ["goes"]


def test_one_of_several_that_cannot_be_sent_does_not_stop_the_others(house: House) -> None:
    """Two links go, the third one does not."""
    links = [note(house, "two", task_id="two-a"), note(house, "two", **BROKEN), note(house, "two", task_id="two-b")]
    sent = house.send({"n": 1}, link=links)
    assert sent.get(timeout=20) == {"n": 1}
    eventually(lambda: set(house.client.lrange("noted:two", 0, -1)) == {"two-a", "two-b"})
    assert len(eventually(lambda: undeliverable(house, sent.id))) == 1
    assert house.client.llen("noted:two") == 2


def test_who_waits_behind_what_cannot_be_sent_hears_of_it(house: House) -> None:
    """The rest of its chain, the chord that it is a member or the body of, and its errbacks."""
    behind = chain(
        run(house, input={"n": 1}),
        note(house, "no", queue=wrong_type(house, "no-queue")),
        note(house, "no"),
    ).apply_async()
    with pytest.raises(JobRejected, match="WRONGTYPE"):
        behind.get(timeout=20)
    first = behind.parent.parent
    # Stored at this very moment: get() does not wait until it has subscribed, and may miss it.
    eventually(first.ready)
    assert first.get() == {"n": 1}
    bodies = [
        chord([run(house, input={"n": 1})], note(house, "no", queue="no-queue")),
        chord([run(house, input={"n": 1}) | note(house, "no", queue="no-queue"), run(house)], note(house, "no")),
        chain(run(house, input={"n": 1}), group(note(house, "no"), note(house, "no", **BROKEN)), note(house, "no")),
    ]
    for body in bodies:
        with pytest.raises((JobRejected, ChordError)):
            body.apply_async().get(timeout=20)
    failing = note(house, "no", queue="no-queue", link_error=[note(house, "told", task_id="told-by-errback")])
    assert house.send({"n": 1}, link=failing).get(timeout=20) == {"n": 1}
    assert eventually(lambda: house.client.lrange("noted:told", 0, -1)) == ["told-by-errback"]


@pytest.mark.slow
def test_a_chords_body_waits_for_a_broker_that_is_away(
    redis_server: RedisServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Celery would fail it for good; the request beside it, whose link waits, is told."""
    url, broker = redis_server.start().fresh_url(), RedisServer(tmp_path_factory.mktemp("broker")).start()
    try:
        with House(tmp_path, broker=broker.fresh_url(), redis_url=url) as house:
            worker = house.worker()
            slow = run(house, input={"n": 1, "mock_delay": 3.0}).set(task_id="slow")
            body = note(house, "body", task_id="body", queue="theirs")
            chord([slow], body).apply_async()
            house.send({"n": 2, "mock_delay": 3.0}, task_id="linked", link=note(house, "x", queue="theirs"))
            eventually(lambda: all("started" in house.names_of(one) for one in ("slow", "linked")), timeout=20)
            broker.kill()
            eventually(lambda: house.phase("slow") == "CLOSED", timeout=30)
            assert house.app.AsyncResult("body").state == "PENDING"
            assert worker.running
            broker.start()
            eventually(lambda: house.phase("linked") == "CLOSED", timeout=60)
            theirs = redis.Redis.from_url(house.broker)
            eventually(lambda: theirs.llen("theirs") == 2, timeout=30)
            theirs.close()
            assert house.app.AsyncResult("body").state == "PENDING"
    finally:
        broker.stop()


def test_an_errback_that_cannot_be_sent_leaves_the_failure_as_it_is(house: House) -> None:
    """It is told once, and the request is closed."""
    sent = house.send({"mock_error": "boom"}, link_error=note(house, "no", task_id="errback", **BROKEN))
    with pytest.raises(Exception, match="boom"):
        sent.get(timeout=20)
    eventually(lambda: house.phase(sent.id) == "CLOSED")
    assert house.app.AsyncResult("errback").state == "FAILURE"


#: What is wrong with a link, and the field that is named.
UNFIT: dict[str, dict[str, Any]] = {
    "options.compression": {"options": {"compression": "snappy"}},
    "options.serializer": {"options": {"serializer": "nobody"}},
    "options.queue": {"options": {"queue": ["x"]}},
    "options.exchange": {"options": {"exchange": 7}},
    "options.routing_key": {"options": {"routing_key": {}}},
    "options.countdown": {"options": {"countdown": "soon"}},
    "options.eta": {"options": {"eta": "tomorrow"}},
    "options.expires": {"options": {"expires": [1]}},
    "options.priority": {"options": {"priority": "high"}},
    "options.stamped_headers": {"options": {"stamped_headers": ["a"]}},
    "options.producer": {"options": {"producer": 7}},
    "options.link[0].args": {"options": {"link": [{"task": "a"}]}},
    "subtask_type": {"subtask_type": "nobody"},
    "kwargs.tasks": {"task": "celery.group", "subtask_type": "group"},
    "kwargs.tasks[0]": {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [7]}},
    "kwargs.body": {"task": "celery.chord", "subtask_type": "chord", "kwargs": {"header": []}},
    "options": {"options": None},
}  # fmt: skip


def test_a_link_that_could_never_be_sent_is_refused_before_anything_is_paid(house: House) -> None:
    """With its field and its rule."""
    before, sender = house.submits(), RedisSender(house.broker)
    ids = {}
    for field, more in UNFIT.items():
        link = {"task": "billing.done", "args": [], "kwargs": {}, "options": {}, "subtask_type": None, **more}
        headers = good_headers()
        ids[field] = headers["id"]
        sender.send(Foul(json.dumps([[], {"input": {"n": 1}}, {"callbacks": [link]}]).encode(), headers))
    sender.close()
    for field, task_id in ids.items():
        with pytest.raises(JobRejected) as refused:
            house.app.AsyncResult(task_id).get(timeout=20)
        assert refused.value.document["field"] == f"body.callbacks[0].{field}"
        assert house.phase(task_id) is None
    assert house.submits() == before


def test_who_waits_behind_a_refused_request_hears_of_it(house: House) -> None:
    """Its chain and its chord; but a stranger's id among them answers nobody."""
    victim = house.send({"mock_delay": 3, "mock_return": "mine"})
    eventually(lambda: house.phase(victim.id) is not None, timeout=20)
    unfit = run(house, input={"n": 1}).set(link=note(house, "no", compression="snappy"))
    tail = chain(unfit.clone(), note(house, "no").set(task_id=victim.id), note(house, "no")).apply_async()
    with pytest.raises(JobRejected, match="compression"):
        tail.get(timeout=20)
    with pytest.raises((JobRejected, ChordError)):
        chord([run(house, input={"n": 1}), unfit.clone()], note(house, "no")).apply_async().get(timeout=20)
    assert victim.get(timeout=20) == "mine"


@pytest.mark.parametrize("linked", [True, False])
def test_whatever_stands_under_a_requests_result_is_written_over(house: House, *, linked: bool) -> None:
    """A key of another type, no JSON, no result, somebody's SUCCESS: with a link as without."""
    stands: dict[str, Any] = {
        "badjson": "{nope", "number": "7", "list": "[1]", "deep": "[" * 5_000, "nostatus": '{"result": null}',
        "status": '{"status": ["x"]}', "success": '{"status": "SUCCESS", "result": "somebody"}',
    }  # fmt: skip
    for name, value in stands.items():
        house.client.set(f"celery-task-meta-{name}-{linked}", value)
    house.client.lpush(f"celery-task-meta-wrong-{linked}", "x")
    link = {"link": note(house, f"over-{linked}")} if linked else {}
    sent = [house.send({"n": 1}, task_id=f"{name}-{linked}", **link) for name in (*stands, "wrong")]
    for one in sent:
        eventually(lambda one=one: house.phase(one.id) == "CLOSED", timeout=20)  # type: ignore[misc]
        assert house.app.AsyncResult(one.id).get(timeout=5) == {"n": 1}


def test_what_an_older_door_let_in_is_told_at_the_end(redis_url: str, tmp_path: Path) -> None:
    """A link that is no signature is in the ledger already: the end is told, and so is who waits for the chain."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        house.worker(BRIDGE_CELERY_CONFIG="tests.odd_door")
        sender = RedisSender(redis_url)
        tail = {"task": "x", "args": [], "kwargs": {}, "options": {"task_id": "behind"}, "subtask_type": "nobody"}
        ends = {"chain": {"n": 1}, "callbacks": {"n": 1}, "errbacks": {"mock_error": "boom"}}
        for where, asked in ends.items():
            sender.send(Foul(json.dumps([[], {"input": asked}, {where: [tail]}]).encode(), good_headers(id=where)))
        for where in ends:
            eventually(lambda where=where: house.phase(where) == "CLOSED", timeout=20)  # type: ignore[misc]
            assert len(undeliverable(house, where)) == 1
        assert house.app.AsyncResult("chain").get(timeout=5) == {"n": 1}
        assert house.app.AsyncResult("callbacks").get(timeout=5) == {"n": 1}
        assert house.app.AsyncResult("errbacks").state == house.app.AsyncResult("behind").state == "FAILURE"
        sender.close()
