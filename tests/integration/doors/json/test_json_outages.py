"""The doors for plain JSON while something is away: messages are held or wait, none is lost, none is taken twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from bridge.engine.accept.accept import Accept, Origin
from bridge.job.request import RunRequest
from bridge.ledger import Names, connect
from bridge.ledger.streams.inbox import GROUP, Inbox
from bridge.settings import load
from bridge.settings.config_file import EndpointBook
from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.proxy import FaultProxy
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import AmqpService, StreamService, doors_are_open
from tests.support.slow import slow


@pytest.fixture
def house(amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A fresh vhost and database; entries of dead consumers are adopted after a second."""
    with House(tmp_path_factory.mktemp("outage"), broker=amqp_url, redis_url=redis_url, stream_idle_s="1") as made:
        yield made


@pytest.fixture
def stream(house: House) -> Iterator[StreamService]:
    """A service on Redis."""
    made = StreamService(house.environment["BRIDGE_REDIS_URL"])
    yield made
    made.close()


@pytest.fixture
def amqp(house: House) -> Iterator[AmqpService]:
    """A service on RabbitMQ."""
    made = AmqpService(house.broker)
    yield made
    made.close()


def engine(house: House, **more: str) -> Process:
    """A process whose doors are open."""
    process = house.engine(**more)
    eventually(lambda: doors_are_open(house.broker) and "ready" in process.said(), timeout=30, every=0.1)
    return process


def all_closed(house: House, ids: list[str]) -> bool:
    """Whether every one of them has ended and was told."""
    return all(phase is not None and phase.value == "CLOSED" for phase in house.ledger.phases(ids))


@pytest.mark.slow
def test_messages_are_held_while_the_ledger_is_away(house: House, redis_server: RedisServer, amqp: AmqpService) -> None:
    """Unacked, without a hot loop; they are taken when it is back, each once."""
    url = house.environment["BRIDGE_REDIS_URL"]
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        away = url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        process = engine(house, BRIDGE_REDIS_URL=away, CELERY_RESULT_BACKEND=away)
        proxy.refuse()
        amqp.own("held")
        for n in range(20):
            amqp.send({"id": f"held-{n}", "input": {"n": n}, "reply_to": "held"})
        eventually(lambda: process.said().count("door.held") >= 3, timeout=30)
        assert process.said().count("door.held") < 30
        assert not any(house.ledger.phases([f"held-{n}" for n in range(20)]))
        proxy.restore()
        assert len(amqp.replies("held", 20)) == 20
        eventually(lambda: all_closed(house, [f"held-{n}" for n in range(20)]), timeout=30)
        assert house.submits() == 20
        eventually(lambda: amqp.left("bridge.requests") == 0)
        assert process.stop() == 0


def test_the_doors_come_back_after_the_brokers_death(
    house: House, rabbitmq_server: RabbitServer, stream: StreamService
) -> None:
    """What was persistent is taken after it; the stream's door does not notice."""
    process = engine(house)
    before = AmqpService(house.broker)
    for n in range(20):
        before.send({"id": f"before-{n}", "input": {"mock_delay": 1}}, delivery_mode=2)
    before.close()
    rabbitmq_server.kill()
    stream.send({"id": "meanwhile", "input": {"a": 1}})
    eventually(lambda: house.phase("meanwhile") is not None, timeout=20)
    rabbitmq_server.start()
    after = eventually(lambda: AmqpService(house.broker), timeout=60, every=0.5)
    after.send({"id": "after", "input": {"a": 1}})
    ids = [f"before-{n}" for n in range(20)]
    eventually(lambda: all(house.ledger.phases(ids)), timeout=20)
    eventually(lambda: all_closed(house, [*ids, "after"]), timeout=40)
    assert process.running
    assert house.submits() == 22
    after.close()


def test_entries_of_a_dead_process_are_adopted_and_its_name_goes(house: House) -> None:
    """It had taken them and never said that they are held."""
    client: Any = redis.Redis.from_url(house.environment["BRIDGE_REDIS_URL"])
    names = Names()
    dead = Inbox(client, names.requests, "dead-process")
    assert dead.read(1, 1_000_000, 1) == []  # makes the group
    for n in range(5):
        client.xadd(names.requests, {"data": json.dumps({"id": f"orphan-{n}", "input": {"n": n}})})
    assert len(dead.read(100, 1_000_000, 1)) == 5
    engine(house)
    eventually(lambda: all_closed(house, [f"orphan-{n}" for n in range(5)]), timeout=20)
    eventually(lambda: client.xlen(names.requests) == 0)

    def consumers() -> set[str]:
        return {found["name"].decode() for found in client.xinfo_consumers(names.requests, GROUP)}

    eventually(lambda: "dead-process" not in consumers(), timeout=20)
    assert len(consumers()) == 1
    client.close()


def test_entries_that_a_stranger_took_under_a_name_of_any_bytes_are_adopted(house: House) -> None:
    """Whoever looks into the stream as a consumer of the bridge's group keeps nothing from it, and stops no reader."""
    client: Any = redis.Redis.from_url(house.environment["BRIDGE_REDIS_URL"])
    names = Names()
    assert Inbox(client, names.requests, "maker").read(1, 1_000_000, 1) == []
    client.xadd(names.requests, {"data": json.dumps({"id": "looked-at", "input": {"n": 1}})})
    assert client.xreadgroup(GROUP, b"\xff", {names.requests: ">"})
    process = engine(house)
    eventually(lambda: all_closed(house, ["looked-at"]), timeout=10)
    eventually(lambda: {one["name"] for one in client.xinfo_consumers(names.requests, GROUP)} & {b"\xff"} == set())
    assert "loop.failed" not in process.said()
    process.stop()
    client.close()


def test_a_batch_of_large_entries_is_read_in_parts(redis_url: str) -> None:
    """A consumer never asks for more than fits; what it did not ask for stays."""
    client = connect(redis_url, decode=False)
    inbox = Inbox(client, "bridge:requests", "reader")
    assert inbox.read(10, 1_000_000, 1) == []
    for _ in range(10):
        client.xadd("bridge:requests", {"data": b"x" * 1_000_000})
    assert 1 <= len(inbox.read(10, 3_000_000, 1)) <= 3
    inbox.done([entry_id for entry_id, _ in inbox.read(10, 500_000, 1)])
    assert client.xlen("bridge:requests") == 9
    client.close()


def test_a_made_id_is_the_same_when_its_message_comes_again(house: House) -> None:
    """A second id would be a second job; two messages of the same words have one each."""
    ledger = house.ledger
    assert ledger.made_ids.make([("digest", "one", False), ("digest", "two", False)]) == ["one", "two"]
    assert ledger.made_ids.make([("digest", "x", True), ("digest", "y", True)]) == ["one", "two"]
    ledger.made_ids.forget([("digest", "one"), ("digest", "two")])
    assert ledger.made_ids.make([("digest", "x", True)]) == ["x"]


def test_a_killed_process_leaves_no_message_behind_and_makes_no_second_job(
    house: House, amqp: AmqpService, stream: StreamService
) -> None:
    """Killed with -9 in the middle of a flood without ids, on both doors: every message is one job."""
    process = engine(house, BRIDGE_WAITING_MAX="100000")
    for n in range(300):
        amqp.send({"id": f"amqp-{n}", "input": {"n": n}}, delivery_mode=2)
        stream.send({"input": {"s": n}})
    eventually(lambda: len(house.events()) > 50, timeout=20)
    process.kill(signal.SIGKILL)
    second = engine(house)

    def accepted() -> list[str]:
        return [event["subject"] for event in house.events() if event["type"] == "bridge.job.accepted"]

    eventually(lambda: len(set(accepted())) >= 600, timeout=60, every=0.2)
    eventually(lambda: stream.left("bridge:requests") == 0)
    assert second.stop() == 0  # what it had and did not hold would be back in the queue
    assert amqp.left("bridge.requests") == 0
    assert len(accepted()) == 600


def test_closed_by_back_pressure_a_door_takes_nothing_and_opens_by_itself(
    house: House, amqp: AmqpService, stream: StreamService
) -> None:
    """What is not taken waits on the broker; commands come in all the while."""
    process = engine(house, BRIDGE_WAITING_MAX="50")
    stream.send({"op": "pause", "endpoint": "demo", "reply_to": "office"}, "commands")
    stream.replies("office", 1)
    ids = [f"flood-{n}" for n in range(60)]
    for request_id in ids:
        amqp.send({"id": request_id, "input": {"a": 1}})
    eventually(lambda: process.said().count("door.closed") == 2, timeout=20)  # both: neither waits in a read
    late = [f"late-{n}" for n in range(60)]
    for n, request_id in enumerate(late):
        (amqp if n % 2 else stream).send({"id": request_id, "input": {"a": 1}})
    amqp.own("office")
    amqp.send({"op": "status", "id": "flood-0", "reply_to": "office"}, "commands")
    assert amqp.replies("office", 1)[0]["data"]["result"]["phase"] == "ACCEPTED"
    assert not any(house.ledger.phases(late))
    assert stream.left("bridge:requests") == 30
    stream.send({"op": "resume", "endpoint": "demo"}, "commands")
    eventually(lambda: all_closed(house, ids + late), timeout=60)
    eventually(lambda: "door.opened" in process.said())


def test_a_process_that_is_told_to_stop_gives_back_what_it_has_and_takes_its_name_away(
    house: House, amqp: AmqpService, stream: StreamService
) -> None:
    """Exit code 0; no consumer is left in the group; the queue has no reader."""
    process = engine(house)
    client: Any = redis.Redis.from_url(house.environment["BRIDGE_REDIS_URL"])
    stream.send({"id": "now", "input": {"a": 1}})
    eventually(lambda: all_closed(house, ["now"]), timeout=20)
    assert len(client.xinfo_consumers("bridge:requests", GROUP)) == 1
    assert process.stop() == 0
    assert client.xinfo_consumers("bridge:requests", GROUP) == []
    amqp.send({"id": "later", "input": {"a": 1}})
    eventually(lambda: amqp.left("bridge.requests") == 1)
    client.close()


def test_queues_are_used_as_they_are_found_and_made_again_when_they_go(house: House, amqp: AmqpService) -> None:
    """A quorum queue, and one with priorities, that somebody else declared first; and one that is deleted later."""
    amqp.channel.queue_declare("bridge.requests", durable=True, arguments={"x-queue-type": "quorum"})
    amqp.channel.queue_declare("bridge.commands", durable=True, arguments={"x-max-priority": 10})
    process = engine(house)
    eventually(lambda: binding_works(house, amqp, "quorum-1"), timeout=20)
    amqp.own("office")
    amqp.send({"op": "status", "id": "quorum-1", "reply_to": "office"}, "commands", priority=5)
    assert amqp.replies("office", 1)[0]["type"] == "bridge.command.answered"
    amqp.channel.queue_delete("bridge.requests")
    eventually(lambda: doors_are_open(house.broker), timeout=20, every=0.1)
    eventually(lambda: binding_works(house, amqp, "made-again"), timeout=20)
    assert process.running


@pytest.mark.slow
def test_exchange_and_binding_are_made_again_while_they_are_used(house: House, amqp: AmqpService) -> None:
    """Whoever deletes them cuts producers off for seconds, and is told of."""
    process = engine(house)
    amqp.channel.queue_unbind("bridge.requests", "bridge.jobs", "job.submit.#")
    eventually(lambda: binding_works(house, amqp, "bound-again"), timeout=20)
    amqp.channel.exchange_delete("bridge.jobs")
    eventually(lambda: "topology.gone" in process.said(), timeout=20)
    eventually(lambda: binding_works(house, amqp, "made-again"), timeout=20)
    assert "loop.failed" not in process.said()


def binding_works(house: House, amqp: AmqpService, request_id: str) -> bool:
    """Whether a request goes through the exchange and ends. Sent until it does: an unbound exchange drops it."""
    amqp.send({"id": request_id, "input": {"a": 1}})
    return all_closed(house, [request_id])


def test_accepting_a_batch_again_is_accepting_it_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that was lost on the way is asked for again; the same id twice in one batch is one record."""
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "demo")
    settings = load(bridge_redis_url=house.environment["BRIDGE_REDIS_URL"])
    accept = Accept(house.ledger, EndpointBook(settings), settings)
    origin = Origin(door="stream")
    batch = [accept.prepare(f"batch-{n}", RunRequest(input={"n": n}), origin) for n in (1, 2)]
    batch += [
        accept.prepare("batch-1", RunRequest(input={"n": 1}), origin),
        accept.prepare("batch-2", RunRequest(input={"n": 0}), origin),
    ]
    for _ in range(2):
        assert [verdict.kind for verdict in accept.many(batch)] == ["accepted", "accepted", "repeat", "conflict"]
    assert [event["type"] for event in house.events()] == ["bridge.job.accepted"] * 2
    house.ledger.wish("batch-3", {"by": "anna", "door": "amqp"})
    accept.many([accept.prepare("batch-3", RunRequest(input={"n": 3}), origin)])
    assert house.names_of("batch-3")[-1] == "cancelled"


def test_the_doors_can_be_off(house: House) -> None:
    """BRIDGE_JSON_DOORS=off: a process that only runs the engine, or only Celery."""
    process = house.engine(BRIDGE_JSON_DOORS="off")
    eventually(lambda: "ready" in process.said(), timeout=20)
    assert not doors_are_open(house.broker)
    assert not house.client.exists("bridge:requests")


@pytest.mark.parametrize("program", ["engine", slow("threads"), slow("prefork")])
def test_a_process_that_is_told_to_end_does_though_the_broker_is_frozen(
    house: House, rabbitmq_server: RabbitServer, program: str
) -> None:
    """Its messages are the broker's still; no farewell is waited for without end.

    With gevent it takes up to three minutes: remote control has a connection of its own there, which waits for itself.
    """
    soon: dict[str, Any] = {"BRIDGE_STOP_GRACE_S": "1"}
    process = engine(house, **soon) if program == "engine" else house.worker(pool=program, **soon)
    rabbitmq_server.freeze()
    try:
        process.kill(signal.SIGTERM)
        eventually(lambda: not process.running, timeout=20)
    finally:
        rabbitmq_server.thaw()
    assert "engine.stopped" in process.said()
