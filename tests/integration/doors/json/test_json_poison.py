"""Whatever a stranger sends to the doors for plain JSON: it is kept with its reason, and the next request goes on."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.helpers import eventually
from tests.support.house import House, Process
from tests.support.odd import ODD, send_odd
from tests.support.servers import RabbitServer, RedisServer
from tests.support.services import AmqpService, StreamService, doors_are_open

DOORS = ("amqp", "stream")
DEEP = b'{"id": "x", "input": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001
POISON: dict[str, bytes] = {
    "truncated": b'{"id": "x", "input": {"a"',
    "empty": b"",
    "latin-1": '{"id":"x","input":{"a":"café"}}'.encode("latin-1"),
    "bytes": bytes(range(256)),
    "1,000 levels": DEEP,
    "100,000 levels": b"[" * 100_000,
    "NUL": b'{"id":"x","input":{"a":"\x00"}}',
    "only NUL": b"\x00" * 100,
    "duplicate keys": b'{"id":"x","id":"y","input":{"a":1}}',
    "huge number": b'{"id":"x","input":{"a":' + b"9" * 100_000 + b"}}",
    "infinite": b'{"id":"x","input":{"a":1e999}}',
    "NaN": b'{"id":"x","input":{"a":NaN}}',
    "wrong types": b'{"id":7,"input":"text","policy":[],"timeout":"1"}',
    "unknown kind": b'{"kind":"nobody knows"}',
    "a Celery task": b'[[], {"input": {"a": 1}}, {"callbacks": null}]',
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.",
}


@pytest.fixture(scope="module")
def house(
    redis_server: RedisServer, rabbitmq_server: RabbitServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """An engine without a Celery worker: its doors are the same."""
    amqp, redis_url = rabbitmq_server.start().fresh_url(), redis_server.start().fresh_url()
    with House(tmp_path_factory.mktemp("poison"), broker=amqp, redis_url=redis_url) as made:
        yield made


@pytest.fixture(scope="module")
def engine(house: House) -> Process:
    """The process under attack."""
    process = house.engine()
    eventually(lambda: doors_are_open(house.broker), timeout=30, every=0.2)
    return process


@pytest.fixture(params=DOORS)
def service(request: pytest.FixtureRequest, house: House, engine: Process) -> Iterator[Any]:
    """A client on each door."""
    url = house.environment["BRIDGE_REDIS_URL"]
    made = AmqpService(house.broker) if request.param == "amqp" else StreamService(url)
    yield made
    made.close()


def kept(house: House, body: bytes) -> list[dict[str, Any]]:
    """Dead letters with this original."""
    found = []
    for letter in house.ledger.dead.newest():
        text = letter["original"]
        original = base64.b64decode(text) if letter["encoding"] == "base64" else text.encode()
        if original == body[:65_536] and letter["size"] == len(body):
            found.append(letter)
    return found


def the_next_goes_on(house: House, engine: Process, service: Any, request_id: str) -> None:
    """A good request behind the bad one ends; the process lives; nothing is left in the queue."""
    service.send({"input": {"a": 1}, "id": request_id})
    eventually(lambda: house.phase(request_id) == "CLOSED", timeout=20)
    assert engine.running
    name = "bridge.requests" if isinstance(service, AmqpService) else "bridge:requests"
    eventually(lambda: service.left(name) == 0)


@pytest.mark.parametrize("kind", ["requests", "commands"])
def test_poison_becomes_a_dead_letter_with_its_original(house: House, engine: Process, service: Any, kind: str) -> None:
    """As it came, to the byte, with a reason; of both kinds."""
    before = {letter["id"] for letter in house.ledger.dead.newest()}
    for body in POISON.values():
        service.send(body, kind)
    source = f"bridge.{kind}" if isinstance(service, AmqpService) else f"bridge:{kind}"

    def all_kept() -> bool:
        letters = [letter for letter in house.ledger.dead.newest() if letter["id"] not in before]
        return len(letters) == len(POISON)

    eventually(all_kept, timeout=20)
    for name, body in POISON.items():
        letter = kept(house, body)[0]
        assert letter["source"] == source, name
        assert letter["reason"] in {"malformed", "too_large", "rejected", "unknown_kind"}, name
        assert letter["detail"], name
    the_next_goes_on(house, engine, service, f"after-{source.replace(':', '.')}")


def test_a_message_of_40_mb_is_kept_by_size_and_hash(house: House, engine: Process, service: Any) -> None:
    """64 KiB of it stay."""
    body = b'{"input": {"a": "' + b"a" * 40_000_000 + b'"}}'
    before = len(house.ledger.dead.newest())
    service.send(body)
    eventually(lambda: len(house.ledger.dead.newest()) > before, timeout=30)
    letter = kept(house, body)[0]
    assert (letter["reason"], letter["truncated"], letter["size"]) == ("too_large", True, len(body))
    the_next_goes_on(house, engine, service, f"after-40-{type(service).__name__}")


def test_a_large_request_that_is_within_the_bounds_is_taken(house: House, engine: Process, service: Any) -> None:
    """6 MB, and a batch of such: the process does not hold them all at once."""
    for n in range(3):
        service.send({"input": {"a": "a" * 6_000_000}, "id": f"large-{n}-{type(service).__name__}"})
    for n in range(3):
        eventually(lambda n=n: house.phase(f"large-{n}-{type(service).__name__}") == "CLOSED", timeout=60)  # type: ignore[misc]


def test_headers_of_odd_types_stop_nobody(house: House, engine: Process) -> None:
    """The client library fails on several of them in the middle of a frame."""
    bodies = {}
    for n, (name, properties) in enumerate(ODD.items()):
        bodies[name] = json.dumps({"id": f"odd-{n}", "input": {"n": name}}).encode()
        send_odd(house.broker, bodies[name], properties)
    for n, (name, body) in enumerate(bodies.items()):
        if name.startswith(("content type", "CloudEvents")):  # what says how to read the body: read, or refused
            eventually(lambda n=n, body=body: house.phase(f"odd-{n}") == "CLOSED" or kept(house, body), timeout=20)  # type: ignore[misc]
        else:  # what a request does not need is no fault of it
            eventually(lambda n=n: house.phase(f"odd-{n}") == "CLOSED", timeout=20)  # type: ignore[misc]
    service = AmqpService(house.broker)
    the_next_goes_on(house, engine, service, "after-odd")
    service.close()


def test_a_routing_key_that_is_no_text_stops_nobody(house: House, engine: Process) -> None:
    """It names no endpoint; the document or the default does."""
    send_odd(house.broker, b'{"id": "raw-key", "input": {"a": 1}}', b"\x00\x00", key=b"job.submit.\xff\xfe")
    eventually(lambda: house.phase("raw-key") == "CLOSED", timeout=20)
    assert engine.running


def test_stream_entries_of_any_form_stop_nobody(house: House, engine: Process) -> None:
    """No field `data`, fields that are no text, a stream that somebody deletes under the door."""
    client = redis.Redis.from_url(house.environment["BRIDGE_REDIS_URL"])
    service = StreamService(house.environment["BRIDGE_REDIS_URL"])
    before = len(house.ledger.dead.newest())
    client.xadd("bridge:requests", {"date": '{"input": {"a": 1}}'})
    client.xadd("bridge:requests", {b"\xff": b"\xfe"})
    eventually(lambda: len(house.ledger.dead.newest()) == before + 2, timeout=20)
    assert house.ledger.dead.newest()[0]["detail"].startswith("data: the entry has no field `data`")
    client.delete("bridge:requests")
    the_next_goes_on(house, engine, service, "after-delete")
    client.delete("bridge:commands")
    service.send({"op": "cancel", "id": "nobody", "reply_to": "deleted"}, "commands")
    assert service.replies("deleted", 1)
    service.close()
    client.close()
