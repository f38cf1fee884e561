"""Requests for later: the ledger holds them, no message waits in a worker, and each is submitted at its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.engine.accept.accept import Accept, Origin
from bridge.errors import JobRejected
from bridge.job.enums import Step
from bridge.job.request import RunRequest
from bridge.settings import load
from bridge.settings.config_file import EndpointBook
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RedisServer
from tests.support.slow import slow

#: Far enough ahead that nothing comes due while a test looks.
LATER_S = 3_600


@pytest.fixture(scope="module")
def house(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker that accepts and runs the engine."""
    url = redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("schedule"), broker=url, redis_url=url) as made:
        made.worker()
        yield made


def in_s(seconds: float) -> str:
    """RFC 3339."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def held_by_workers(house: House) -> int:
    """Messages on Redis that were taken and not acked."""
    return sum(house.client.hlen(key) for key in house.client.scan_iter("*unacked"))


def record(house: House, request_id: str) -> Any:
    """The ledger's row."""
    found: Any = eventually(lambda: house.ledger.load(request_id))
    return found.record


def test_a_request_is_submitted_no_earlier_than_it_says_and_then_at_once(house: House) -> None:
    """By RFC 3339, which takes small letters too; by epoch milliseconds. Its clocks start at that time."""
    sent = [
        house.send({"n": 1}, not_before=in_s(1.5), timeout=60_000),
        house.send({"n": 2}, not_before=int((time.time() + 1.5) * 1000)),
        house.send({"n": 3}, not_before=in_s(1.5).replace("+00:00", "Z").lower()),
    ]
    waiting = [record(house, one.id) for one in sent]
    assert [one.due for one in waiting] == ["scheduled"] * 3
    assert waiting[0].deadline == waiting[0].not_before + 60_000
    assert [one.get(timeout=30)["n"] for one in sent] == [1, 2, 3]
    for one in sent:
        ran = record(house, one.id)
        assert ran.sent_at >= ran.not_before > ran.accepted_at


def test_what_is_scheduled_costs_a_row_and_counts_apart_from_what_waits(house: House) -> None:
    """Acked at once; no due submit, no input that counts as waiting; cancel and purge reach it."""
    sent = [house.send({"n": n}, not_before=in_s(LATER_S), endpoint="demo") for n in range(20)]
    eventually(lambda: house.ledger.scheduled("demo") == 20)
    counts = house.ledger.counts("demo")
    assert counts["ACCEPTED"] == 20
    assert counts.get("waiting_bytes", 0) == 0 < counts["scheduled_bytes"]
    assert house.client.llen("bridge.run") == 0
    # The ack follows the record, in a batch: held by the ledger first, let go by the broker after.
    eventually(lambda: not held_by_workers(house))
    document = house.ask("status", id=sent[0].id)
    assert document["phase"] == "ACCEPTED"
    assert datetime.fromisoformat(document["not_before"]) > datetime.now(UTC) + timedelta(seconds=LATER_S / 2)
    assert house.ask("cancel", id=sent[0].id)["outcome"] == "cancelled"
    assert house.ask("purge", endpoint="demo", pending=True)["settled"] == 19
    assert (house.ledger.scheduled("demo"), house.ledger.counts("demo").get("scheduled_bytes", 0)) == (0, 0)


def test_a_deadline_reaches_a_request_whose_time_has_not_come(house: House) -> None:
    """Celery's `expires` is a point in time, whatever else is asked."""
    sent = house.send({"n": 1}, not_before=in_s(LATER_S), expires=1)
    eventually(lambda: house.phase(sent.id) == "CLOSED", timeout=20)
    assert record(house, sent.id).status == "TIMED_OUT"


@pytest.mark.parametrize(
    "given", ["tomorrow", "2026-12-24", "2026-12-24T18:00:00", 1_800_000_000, True, 10**15, [], "9999-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused_by_name(house: House, given: Any) -> None:
    """Seconds instead of milliseconds, a day without a time, a time without its offset."""
    with pytest.raises(JobRejected) as fault:
        house.send({"n": 1}, not_before=given).get(timeout=20)
    assert fault.value.document["field"] == "not_before"


def test_scheduled_requests_outlive_every_process(redis_url: str, tmp_path: Any) -> None:
    """Killed while they wait: another worker submits each once."""
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        worker = house.worker()
        sent = [house.send({"n": n}, not_before=in_s(4)) for n in range(10)]
        eventually(lambda: house.ledger.scheduled("demo") == 10)
        worker.kill()
        assert house.submits() == 0
        house.worker()
        assert sorted(one.get(timeout=60)["n"] for one in sent) == list(range(10))
        assert house.submits() == 10


def command(house: House, name: str, countdown: float, **kwargs: Any) -> Any:
    """A control task for later."""
    return house.app.send_task(f"bridge.{name}", kwargs=kwargs, queue="bridge.control", countdown=countdown)


@pytest.mark.parametrize(
    ("broker", "pool", "protocol"),
    [("redis", "threads", 2), slow("redis", "prefork", 1), ("amqp", "threads", 1), slow("amqp", "solo", 2)],
)
def test_celerys_countdown_and_eta_wait_in_the_ledger(
    request: pytest.FixtureRequest, tmp_path: Any, redis_url: str, broker: str, pool: str, protocol: int
) -> None:
    """No message of either protocol is held in a worker: each is acked, and others pass by those that wait."""
    url = request.getfixturevalue("amqp_url") if broker == "amqp" else redis_url
    with House(tmp_path, broker=url, redis_url=redis_url) as house:
        house.app.conf.task_protocol = protocol
        worker = house.worker(pool=pool)
        commands = [command(house, "status", LATER_S, id=f"n{n}") for n in range(20)]
        later = [house.send({"n": n}, countdown=LATER_S) for n in range(40)]
        soon = house.send({"n": 99}, eta=datetime.now(UTC) + timedelta(seconds=2))
        eventually(lambda: house.ledger.scheduled("demo") >= 40)
        assert house.send({"n": 100}).get(timeout=30)["n"] == 100
        assert soon.get(timeout=30)["n"] == 99
        ran = record(house, soon.id)
        assert ran.sent_at >= ran.not_before > ran.accepted_at
        assert later[0].state == "ACCEPTED"
        assert later[0].info["waiting_for"] == "not_before"
        cancel = command(house, "cancel", 3, id=later[1].id)
        eventually(lambda: house.ledger.later.count() == 21)
        worker.kill()  # what it held unacked would come again
        house.worker(pool=pool)
        assert house.send({"n": 101}).get(timeout=60)["n"] == 101
        assert cancel.get(timeout=60)["outcome"] == "cancelled"
        assert house.ledger.scheduled("demo") == 39
        assert house.names_of(later[0].id) == ["accepted"]
        commands[0].revoke()
        eventually(lambda: house.ledger.later.count() == 19)


def test_a_command_for_later_is_checked_as_it_comes(house: House) -> None:
    """Whoever sends a wrong one hears of it now, not at its time; a time that has passed is now."""
    with pytest.raises(JobRejected, match="nonsense"):
        command(house, "cancel", LATER_S, nonsense=1).get(timeout=20)
    with pytest.raises(JobRejected, match="within a year"):
        command(house, "cancel", 400 * 86_400, id="x").get(timeout=20)
    assert command(house, "cancel", -5, id="never-sent").get(timeout=20)["outcome"] == "unknown"


def test_a_year_is_counted_by_the_ledgers_clock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """I17: a machine whose own clock is wrong refuses nothing that another takes."""
    settings = load(bridge_redis_url=house.environment["BRIDGE_REDIS_URL"], runpod_endpoint_id="demo")
    accept, origin = Accept(house.ledger, EndpointBook(settings), settings), Origin(door="stream")
    house.ledger.claim(Step.SUBMIT, {"elsewhere": 1}, lease_ms=1)  # it has heard what time it is
    now = house.ledger.wall()
    monkeypatch.setattr(time, "time", lambda: now / 1000 - 800 * 86_400)
    accept.prepare("soon", RunRequest(input={"n": 1}, not_before=now + 60_000), origin)
    monkeypatch.setattr(time, "time", lambda: now / 1000 + 800 * 86_400)
    with pytest.raises(JobRejected, match="within a year"):
        accept.prepare("late", RunRequest(input={"n": 1}, not_before=now + 400 * 86_400_000), origin)


def test_a_copy_of_a_command_for_later_does_nothing(house: House) -> None:
    """A worker that dies before it acks gives the message back, perhaps after its time. Here the copy tells itself."""
    first, other = house.send({"mock_delay": 300}), house.send({"mock_delay": 300})
    eta = datetime.now(UTC) + timedelta(seconds=2)

    def cancel(request_id: str) -> Any:
        options = {"queue": "bridge.control", "task_id": f"once-{first.id}", "eta": eta}
        return house.app.send_task("bridge.cancel", kwargs={"id": request_id}, **options)

    assert cancel(first.id).get(timeout=30)["outcome"] in {"requested", "cancelled"}
    cancel(other.id)
    eventually(lambda: not house.client.llen("bridge.control") and not held_by_workers(house))
    assert not record(house, other.id).wish
    house.ask("cancel", id=other.id)


def test_a_command_for_later_goes_on_in_its_chain(house: House) -> None:
    """What follows it comes with it; it acts no earlier than it was asked to."""
    job, began = house.send({"n": 1}), time.time()
    job.get(timeout=20)
    follows = house.app.signature("bridge.status", kwargs={"id": job.id}, queue="bridge.control", immutable=True)
    first = house.app.signature("bridge.status", kwargs={"id": job.id}, queue="bridge.control", countdown=1.5)
    assert (first | follows).apply_async().get(timeout=30)["status"] == "COMPLETED"
    assert time.time() >= began + 1.5
