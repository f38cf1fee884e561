"""A request that was just submitted is known to every other client, though commands overtake requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge.client import Client
from bridge.doors.json import command_order
from bridge.doors.json.command_order import Ahead, Queues
from bridge.ledger import Ledger
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import AmqpService, doors_are_open

CLIENTS, EACH = 12, 5
BURST = 1_500
OPS = ("status", "result", "stream", "cancel")


@pytest.fixture(scope="module")
def house(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """A worker with both doors."""
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("just"), broker=amqp, redis_url=redis_url) as made:
        made.worker()
        eventually(lambda: doors_are_open(amqp), timeout=20, every=0.1)
        yield made


def asked(client: Client, op: str, request_id: str) -> Any:
    """One of the four ways to ask for a request; what it says must show that the request is known."""
    if op == "status":
        return client.status(request_id, timeout=60).id == request_id
    if op == "result":
        return client.result(request_id, timeout=120) == {"n": 1}
    if op == "stream":
        return list(client.stream(request_id, timeout=120)) == []
    return client.cancel(request_id, timeout=60)["outcome"] in {"cancelled", "requested", "already_ended"}


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """All of them at the same time."""
    gate = threading.Barrier(len(calls))

    def call(one: Callable[[], Any]) -> Any:
        gate.wait(60)
        return one()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))


def test_many_clients_on_redis_ask_right_behind_a_submit(house: House) -> None:
    """Each by a client that has not submitted it, in the same moment: none is told that nobody knows it."""
    url = house.environment["BRIDGE_REDIS_URL"]

    def one(n: int) -> list[bool]:
        with Client(url) as mine, Client(url) as other:
            return [
                asked(other, OPS[(n + turn) % 4], mine.submit({"n": 1}, id=f"redis-{n}-{turn}")) for turn in range(EACH)
            ]

    told = at_once([lambda n=n: one(n) for n in range(CLIENTS)])  # type: ignore[misc]
    assert sum(map(sum, told)) == CLIENTS * EACH


def test_behind_a_burst_the_last_one_is_known_as_well(house: House) -> None:
    """And a cancel of it: the request is born cancelled, or its job is."""
    url = house.environment["BRIDGE_REDIS_URL"]
    with Client(url) as mine, Client(url) as other:
        with house.client.pipeline(transaction=False) as pipe:
            for n in range(BURST):
                pipe.xadd("bridge:requests", {"data": f'{{"id": "burst-{n}", "input": {{"n": 1}}}}'})
            pipe.execute()
        last = mine.submit({"mock_delay": 600}, id="burst-last")
        waited = house.client.xlen("bridge:requests")
        told = at_once([lambda op=op: asked(other, op, last) for op in ("status", "cancel")])  # type: ignore[misc]
        assert told == [True, True]
        assert waited > 100, "the burst was over before anybody asked"
        eventually(lambda: house.phase(last) in {"SETTLED", "CLOSED"}, timeout=30)
        assert other.status(last).status == "CANCELLED"


def test_many_services_on_rabbitmq_ask_right_behind_a_submit(house: House) -> None:
    """A status and a cancel behind each request, on the queue of commands."""

    def one(n: int) -> list[str]:
        service = AmqpService(house.broker)
        try:
            service.own(f"asks-{n}")
            for turn in range(EACH):
                service.send({"id": f"amqp-{n}-{turn}", "input": {"mock_delay": 60}})
                service.send({"op": "status", "id": f"amqp-{n}-{turn}", "reply_to": f"asks-{n}"}, "commands")
                service.send({"op": "cancel", "id": f"amqp-{n}-{turn}", "reply_to": f"asks-{n}"}, "commands")
            told = service.replies(f"asks-{n}", 2 * EACH, timeout=60)
        finally:
            service.close()
        return [
            one["data"]["op"]
            for one in told
            if one["type"] == "bridge.command.answered" and one["data"]["result"].get("outcome") != "unknown"
        ]

    heard = [op for each in at_once([lambda n=n: one(n) for n in range(CLIENTS)]) for op in each]  # type: ignore[misc]
    assert (heard.count("status"), heard.count("cancel")) == (CLIENTS * EACH, CLIENTS * EACH)


def test_a_request_of_a_celery_producer_is_known_as_well(house: House) -> None:
    """Its message stands in another queue: it is looked into too."""
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client:
        for n in range(10):
            sent = house.send({"n": n})
            assert client.status(sent.id, timeout=60).id == sent.id


def test_an_id_that_nobody_has_sent_is_told_so_soon(house: House) -> None:
    """Nothing waits, so nothing is waited for but what a door may have in its hand."""
    with Client(house.environment["BRIDGE_REDIS_URL"]) as client:
        began = time.monotonic()
        assert client.cancel("never-sent")["outcome"] == "unknown"
        assert time.monotonic() - began < command_order.WAIT_MAX_S
        client.submit({"n": 1}, id="never-sent")
        eventually(lambda: house.phase("never-sent") in {"SETTLED", "CLOSED"})
        assert client.status("never-sent").status == "CANCELLED"


def test_a_wait_ends_when_all_that_came_before_has_gone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when something that came later is left; and not for ever: nobody can tell yet, it says then."""
    monkeypatch.setattr(command_order, "GRACE_S", 0.0)
    ready = [0]
    waits = Ahead(ledger, Queues(lambda: ready[0]))
    first: Any = ledger.client.xadd("bridge:requests", {"data": "{}"})
    wait = waits.wait("r-1")
    for _ in range(20):
        ledger.client.xadd("bridge:requests", {"data": "{}"})
    assert [waits.look([wait])[0] for _ in range(10)] == ["waits"] * 10
    ledger.client.xdel("bridge:requests", first)
    eventually(lambda: waits.look([wait]) == ["passed"])
    ready[0] = 1
    monkeypatch.setattr(command_order, "COUNT_S", 0.0)
    eventually(lambda: waits.look([waits.wait("r-2")]) == ["waits"])
    late = waits.wait("r-3")
    monkeypatch.setattr(command_order, "WAIT_MAX_S", 0.2)
    eventually(lambda: waits.look([late]) == ["late"])


def test_a_broker_that_is_away_is_not_taken_for_an_empty_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its queues hold cannot be known."""
    monkeypatch.setattr(command_order, "GRACE_S", 0.0)
    monkeypatch.setattr(command_order, "WAIT_MAX_S", 0.3)

    def away() -> int:
        raise ConnectionError("away")

    waits = Ahead(ledger, Queues(away))
    wait = waits.wait("r-1")
    assert waits.look([wait]) == ["waits"]
    eventually(lambda: waits.look([wait]) == ["late"])
