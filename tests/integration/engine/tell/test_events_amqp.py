"""What leaves on RabbitMQ: events on the topic exchange, replies, results; heard by a plain AMQP client."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from tests.support.helpers import eventually, free_port
from tests.support.house import House


@pytest.fixture
def house(amqp_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A worker on RabbitMQ, the ledger on Redis."""
    more: dict[str, Any] = {"results": "all", "reply_patience_s": "3", "inline_limit": "4096"}
    with House(tmp_path_factory.mktemp("events"), broker=amqp_url, redis_url=redis_url, **more) as made:
        made.worker()
        yield made


@pytest.fixture
def channel(amqp_url: str) -> Iterator[Any]:
    """Another team's client."""
    connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
    yield connection.channel()
    connection.close()


def heard(channel: Any, queue: str, count: int) -> list[tuple[Any, Any, dict[str, Any]]]:
    """So many messages of a queue."""
    found: list[tuple[Any, Any, dict[str, Any]]] = []

    def take() -> bool:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is not None:
            found.append((method, properties, json.loads(body)))
        return len(found) >= count

    eventually(take, timeout=20)
    return found


def test_events_leave_in_order_on_the_topic_exchange(house: House, channel: Any) -> None:
    """CloudEvents by routing key job.<event>.<endpoint>, 1, 2, 3 ... per request."""
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.exchange_declare("bridge.events", "topic", durable=True)
    channel.queue_bind(queue, "bridge.events", "job.*.demo")
    sent = house.send({"a": 1})
    sent.get(timeout=20)
    told = heard(channel, queue, 5)
    assert told[0][0].routing_key == "job.accepted.demo"
    assert [event["sequence"] for _, _, event in told] == [f"{n:010d}" for n in range(1, len(told) + 1)]
    assert told[-1][2]["type"] == "bridge.job.completed"
    assert {properties.content_type for _, properties, _ in told} == {"application/cloudevents+json"}


def test_a_reply_and_a_result_are_confirmed_before_the_record_closes(house: House, channel: Any) -> None:
    """The reply carries the caller's correlation id; ends go to bridge.results when they are asked for."""
    channel.queue_declare("billing", durable=True)
    sent = house.send({"a": 1}, reply_to="billing", task_id="order-9")
    sent.get(timeout=20)
    (_, _, event) = heard(channel, "billing", 1)[0]
    assert (event["type"], event["subject"]) == ("bridge.job.completed", "order-9")
    (_, _, result) = heard(channel, "bridge.results", 1)[0]
    assert result["data"]["output"] == {"a": 1}
    eventually(lambda: house.phase("order-9") == "CLOSED")


def test_a_reply_carries_a_large_output_whole_and_everything_else_its_reference(house: House, channel: Any) -> None:
    """The outbox holds only the reference; the relay joins the output when it sends."""
    large = {"text": "x" * 10_000}
    channel.queue_declare("caller", durable=True)
    house.send(large, reply_to="caller", task_id="big").get(timeout=20)
    (_, _, event) = heard(channel, "caller", 1)[0]
    assert event["data"]["output"] == large
    (_, _, result) = heard(channel, "bridge.results", 1)[0]
    assert (result["data"]["output_ref"]["size"], "output" in result["data"]) == (len('{"text":""}') + 10_000, False)
    assert result["id"] == event["id"]


def test_a_reply_whose_queue_is_gone_is_kept_as_a_dead_letter(house: House) -> None:
    """Never silent."""
    sent = house.send({"a": 1}, reply_to="nobody-there")
    sent.get(timeout=20)
    letter = eventually(house.ledger.dead.newest, timeout=20)[0]
    assert letter["reason"] == "undeliverable"
    assert "nobody-there" in letter["detail"]


def test_readyz_says_when_the_relay_is_behind(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    """Degraded, with the number of entries: here nobody relays at all."""
    port = free_port()
    settings: dict[str, Any] = {"engine": "off", "outbox_max": "2", "http_bind": f"127.0.0.1:{port}"}
    with House(tmp_path, broker=amqp_url, redis_url=redis_url, **settings) as house:
        house.worker()
        for _ in range(3):
            house.send({"a": 1})
        eventually(lambda: len(house.events()) == 3)
        with pytest.raises(urllib.error.HTTPError) as answer:  # no engine, so not ready
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
        assert [one["outbox"] for one in json.load(answer.value)["degraded"]] == [3]
        answer.value.close()
