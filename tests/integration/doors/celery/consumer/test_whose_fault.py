"""A message that cannot be taken for want of memory, a thread or a file, or by a mistake of ours: held, never lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import StreamService

#: More often than a message without fault is given: what the process lacks is never laid to one.
LONG, SHORT = 6, 2
PASSING = {
    "taken": {"memory": LONG, "thread": LONG, "mistake": SHORT},
    "accepted": {"memory": LONG, "thread": LONG, "disk": LONG, "ledger": SHORT, "mistake": SHORT},
}


@pytest.fixture(params=["redis", "amqp"])
def house(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[House]:
    """One of each broker."""
    redis_url = redis_server.start().fresh_url()
    broker = redis_url
    if request.param == "amqp":
        rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
        broker = rabbit.start().fresh_url()
    with House(tmp_path, broker=broker, redis_url=redis_url, celery_config="tests.odd_process") as made:
        yield made


def letters(house: House) -> list[dict[str, Any]]:
    """All dead letters."""
    return house.ledger.dead.newest(1_000)


def a_bad_one_is_set_aside(house: House, worker: Process, request_id: str) -> None:
    """Once good ones have gone by; they are not kept waiting."""
    bad = house.send({"bad": 1}, task_id=request_id)
    eventually(lambda: house.send({"good": 1}).get(timeout=10) == {"good": 1} and letters(house), timeout=30)
    assert type(bad.get(timeout=10, propagate=False)).__name__ == "JobRejected"
    assert [letter["request_id"] for letter in letters(house)] == [request_id]
    assert worker.running


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_no_good_message_becomes_a_dead_letter_by_trouble_of_the_worker_itself(house: House, pool: str) -> None:
    """Each is held and tried again, and its job runs; others go on meanwhile."""
    worker = house.worker(pool=pool)
    sent = [
        house.send({"value": f"{place} {kind}"}, task_id=f"{place}.{kind}.{times}.x")
        for place, kinds in PASSING.items()
        for kind, times in kinds.items()
    ]
    assert house.send({"good": 1}).get(timeout=20) == {"good": 1}
    assert [job.get(timeout=30)["value"].split() for job in sent] == [job.id.split(".")[:2] for job in sent]
    assert letters(house) == []
    assert worker.running, worker.said()[-3000:]
    assert "door.suspect" in worker.said()


@pytest.mark.parametrize("place", PASSING)
def test_a_message_that_brings_about_a_mistake_of_ours_is_set_aside_while_others_go_on(
    house: House, place: str
) -> None:
    """It cannot be told from a good one by itself; by the others it can."""
    a_bad_one_is_set_aside(house, house.worker(), f"{place}.mistake.9999.x")


@pytest.mark.parametrize("house", ["redis"], indirect=True)
def test_no_good_document_becomes_a_dead_letter_by_trouble_of_the_worker_itself(house: House) -> None:
    """The same at the doors for plain JSON, where one that is held keeps nobody waiting."""
    house.worker()
    service = StreamService(house.environment["BRIDGE_REDIS_URL"])
    service.own("trouble")
    ids = [f"accepted.{kind}.{times}.y" for kind, times in PASSING["accepted"].items()]
    for request_id in [*ids, "accepted.mistake.9999.y", "good"]:
        service.send(f'{{"id": "{request_id}", "input": {{"a": 1}}, "reply_to": "trouble"}}'.encode())
    told = service.replies("trouble", len(ids) + 2)
    service.close()
    ends = {event["subject"]: event["type"].rpartition(".")[2] for event in told}
    assert ends == {**dict.fromkeys([*ids, "good"], "completed"), "accepted.mistake.9999.y": "rejected"}
    assert [letter["request_id"] for letter in letters(house)] == ["accepted.mistake.9999.y"]


@pytest.mark.parametrize("house", ["redis"], indirect=True)
def test_a_cancel_is_not_lost_by_trouble_of_the_worker_itself(house: House) -> None:
    """By task and by JSON, where nobody waits for an answer; what fails otherwise is kept, and may be sent again."""
    house.worker()
    task, document, fails = (house.send({"mock_delay": 300}, task_id=f"cancelled.{how}") for how in (
        f"memory.{LONG}.task", f"thread.{LONG}.json", "mistake.1.task"))  # fmt: skip
    eventually(lambda: all(job.state == "IN_PROGRESS" for job in (task, document, fails)))
    for job in (task, fails):
        house.app.send_task("bridge.cancel", kwargs={"id": job.id}, queue="bridge.control", ignore_result=True)
    service = StreamService(house.environment["BRIDGE_REDIS_URL"])
    service.send({"op": "cancel", "id": document.id}, "commands")
    service.close()
    eventually(lambda: (task.state, document.state) == ("REVOKED", "REVOKED"), timeout=30)
    (letter,) = letters(house)
    assert letter["reason"] == "rejected"
    assert "TypeError" in letter["detail"]
    assert fails.state == "IN_PROGRESS"
    assert house.bridge("dead", "replay", letter["id"]).returncode == 0
    eventually(lambda: fails.state == "REVOKED")
