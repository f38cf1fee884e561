"""Two services in tests, one on each door for plain JSON; they know names and documents, and nothing of the bridge."""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

import pika
import pika.exceptions
import redis

from tests.support.helpers import eventually

#: Seconds within which a queue that has just been made is bound, on a busy machine.
BOUND_S = 20.0


class Service(Protocol):
    """What both can do. A queue named to `replies` is one of the service's own."""

    def send(self, document: Any, kind: str = "requests", **properties: Any) -> None:
        """A document as JSON, or bytes as they are."""

    def own(self, name: str) -> None:
        """Make the queue."""

    def replies(self, name: str, count: int, timeout: float = 20) -> list[dict[str, Any]]:
        """So many documents of it, in order."""


class AmqpService:
    """By pika."""

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: Any = self.connection.channel()
        self.channel.confirm_delivery()  # what was sent is in the queue
        self._heard: dict[str, list[dict[str, Any]]] = {}
        self.properties: list[Any] = []

    def send(self, document: Any, kind: str = "requests", **properties: Any) -> None:
        """To the exchange, by its keys; again where no queue takes it, as docs/services.md has it."""
        key = properties.pop("key", "job.submit.demo" if kind == "requests" else "job.command")
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        if self.channel.is_closed:  # by the broker: the exchange was not there
            self.channel = self.connection.channel()
            self.channel.confirm_delivery()
        ends = time.monotonic() + BOUND_S
        while True:
            try:
                self.channel.basic_publish("bridge.jobs", key, body, pika.BasicProperties(**properties), mandatory=True)
            except pika.exceptions.UnroutableError:  # a queue stands before it is bound
                if time.monotonic() > ends:
                    raise
                time.sleep(0.02)
            else:
                return

    def own(self, name: str) -> None:
        """A queue of this service."""
        self.channel.queue_declare(name, durable=True)

    def replies(self, name: str, count: int, timeout: float = 20) -> list[dict[str, Any]]:
        """What it holds, so many at least."""
        found = self._heard.setdefault(name, [])

        def take() -> bool:
            method, properties, body = self.channel.basic_get(name, auto_ack=True)
            if method is not None:
                self.properties.append(properties)
                found.append(json.loads(body))
            return len(found) >= count

        eventually(take, timeout=timeout)
        return found

    def left(self, queue: str) -> int:
        """Messages that are ready in a queue."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def close(self) -> None:
        """Go."""
        if self.connection.is_open:
            self.connection.close()


def doors_are_open(url: str) -> bool:
    """Whether exchange and queues of both kinds are there: a passive declare that fails closes its channel."""
    service = AmqpService(url)
    try:
        for queue in ("bridge.requests", "bridge.commands"):
            service.left(queue)
        service.channel.exchange_declare("bridge.jobs", passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    finally:
        service.close()
    return True


class StreamService:
    """By redis-py."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url, decode_responses=True)

    def send(self, document: Any, kind: str = "requests", **properties: Any) -> None:
        """Field `data`; other fields beside it."""
        body = document if isinstance(document, bytes) else json.dumps(document)
        self.client.xadd(f"bridge:{kind}", {"data": body, **properties})

    def own(self, name: str) -> None:
        """Streams come by themselves."""

    def replies(self, name: str, count: int, timeout: float = 20) -> list[dict[str, Any]]:
        """What `bridge:reply:<name>` holds."""

        def look() -> list[dict[str, Any]]:
            found = [json.loads(entry["data"]) for _, entry in self.client.xrange(f"bridge:reply:{name}")]
            return found if len(found) >= count else []

        return eventually(look, timeout=timeout)

    def left(self, stream: str) -> int:
        """Entries that are still there."""
        return int(self.client.xlen(stream))

    def close(self) -> None:
        """Go."""
        self.client.close()
