"""On RabbitMQ: what one message or one queue does wrong ends with it; nobody else waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.engine.tell.test_publish import channel, ended, ledger, relay, relay_of
from tests.support.helpers import eventually
from tests.support.house import House
from tests.support.services import AmqpService, doors_are_open

__all__ = ["channel", "ledger", "relay"]

FULL = {"x-max-length": 1, "x-overflow": "reject-publish"}


@pytest.fixture
def house(amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A fresh vhost and database."""
    with House(tmp_path_factory.mktemp("faults"), broker=amqp_url, redis_url=redis_url) as made:
        yield made


def fill(channel: Any, name: str) -> None:
    """A queue that holds all that it may, and refuses the rest."""
    channel.queue_declare(name, durable=True, arguments=FULL)
    channel.basic_publish("", name, b"full")


def taken(channel: Any, queue: str) -> list[dict[str, Any]]:
    """What the queue holds, read once."""
    found = []
    while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append(json.loads(message[2]))
    return found


def test_a_full_reply_queue_that_refuses_jams_the_amqp_door_for_nobody(house: House) -> None:
    """Its answers become dead letters; those of others arrive."""
    process = house.engine()
    eventually(lambda: doors_are_open(house.broker) and "ready" in process.said(), timeout=30, every=0.1)
    service = AmqpService(house.broker)
    fill(service.channel, "full")
    service.own("mine")
    for n in range(3):
        service.send({"id": f"bad-{n}", "input": {}, "reply_to": "full"})
    service.send({"id": "bad-mine", "input": {}, "reply_to": "mine"})
    service.send({"op": "status", "id": "nobody", "reply_to": "full"}, kind="commands")
    service.send({"op": "status", "id": "nobody", "reply_to": "mine"}, kind="commands")
    assert len(service.replies("mine", 2)) == 2
    eventually(lambda: len(_undeliverable(house)) == 4, timeout=10)
    letters = _undeliverable(house)
    assert all("full" in letter["detail"] for letter in letters)
    service.close()
    assert process.stop() == 0


def _undeliverable(house: House) -> list[dict[str, Any]]:
    return [letter for letter in house.ledger.dead.newest() if letter["reason"] == "undeliverable"]


def test_a_message_that_cannot_be_sent_and_what_strangers_wrote_hold_no_other_up(
    ledger: Any, channel: Any, relay: Any, amqp_url: str
) -> None:
    """Found by halving, refused alone, and told; entries that are none of the bridge's are passed over."""
    channel.queue_declare("mine", durable=True)
    event = {"specversion": "1.0", "id": "long:1", "subject": "long", "data": {"completed": False}}
    names, raw = ledger.names, ledger.client
    ended(ledger, "first", "mine")
    raw.xadd(names.events, {"x": "no data"})
    raw.xadd(names.events, {"data": "no json", "key": "job.x", "result": "1"})
    reply = json.dumps({"to": "mine", "correlation_id": "c" * 300})
    raw.xadd(names.events, {"data": json.dumps(event), "key": "job.end.demo", "reply": reply, "result": ""})
    raw.xadd(names.dead, {"x": "no letter"})
    ended(ledger, "last", "mine")
    relay.once()
    assert [reply["subject"] for reply in taken(channel, "mine")][-1] == "last"
    assert {"first", "long", "last"} <= {event["subject"] for event in taken(channel, "all")}
    assert ledger.outbox.lag().entries == 0
    impatient = relay_of(ledger, amqp_url, patience_s=0.0)
    relay.close()
    eventually(lambda: impatient.once() and _letters(ledger), timeout=10, every=0.2)
    assert "cannot be sent" in _letters(ledger)[0]["detail"]
    impatient.close()


def _letters(ledger: Any) -> list[dict[str, Any]]:
    return [letter for letter in ledger.dead.newest() if letter["reason"] == "undeliverable"]
