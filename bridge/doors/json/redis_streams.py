"""The stream door: plain JSON in field `data` of `bridge:requests` and `bridge:commands`, in the ledger's own Redis.

A foreign byte on a Redis list of Celery's stops a worker; a stream that only the bridge reads cannot. Entries that a
dead consumer has taken are adopted; an entry is acked and deleted when the ledger or the dead letters hold it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bridge.doors.json.consumer import BATCH, BATCH_BYTES, Consumer
from bridge.doors.json.handler import Answer, Delivery, Handler, Item
from bridge.doors.parse import NO_DATA
from bridge.ledger.streams.inbox import Inbox

if TYPE_CHECKING:
    import redis

    from bridge.engine.accept.back_pressure import Pressure
    from bridge.ledger import Ledger

#: The space in which an entry's id makes a request's id: the same entry makes the same one.
_SPACE = uuid.UUID("7d1c5b0e-6f0d-4a58-9d43-2a4f0c1f9a10")


class StreamConsumer(Consumer):
    """One stream."""

    def __init__(
        self, handler: Handler, ledger: Ledger, pressure: Pressure, client: redis.Redis, *, idle_ms: int
    ) -> None:
        """`client` gives bytes. A consumer that has been silent for `idle_ms` is dead: its entries are adopted."""
        super().__init__(handler, ledger, pressure)
        consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._inbox = Inbox(client, handler.source, consumer, ledger.names.prefix)
        self._idle_ms = idle_ms
        self._look_at = 0.0

    def _receive(self, wait_s: float) -> Sequence[Delivery]:
        entries = self._orphans()
        entries = entries or self._inbox.read(BATCH, BATCH_BYTES, max(1, int(wait_s * 1000)))
        return [self._delivery(entry_id, fields) for entry_id, fields in entries]

    def _orphans(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Entries of dead consumers, looked for now and then; and such consumers are removed."""
        if time.monotonic() < self._look_at:
            return []
        found = self._inbox.adopt(self._idle_ms, BATCH, BATCH_BYTES)
        if self._inbox.looked_at_all:
            self._look_at = time.monotonic() + self._idle_ms / 2000
            if not found:  # what was adopted goes first: nothing may come between it and who has it now
                self._inbox.tidy(5 * self._idle_ms)
        return found

    def _delivery(self, entry_id: str, fields: Mapping[bytes, bytes]) -> Delivery:
        """Other fields than `data` serve as headers and properties, by the names that AMQP has for them."""
        others = {_text(name): _text(value) for name, value in fields.items() if name != b"data"}
        body = fields.get(b"data")
        if body is None:
            body = json.dumps({_text(name): _text(value) for name, value in fields.items()}).encode()
            others["content_type"] = NO_DATA  # refused for that, with all that there was
        if "id" in others:  # as a service would call it; `message_id` is AMQP's word
            others.setdefault("message_id", others["id"])
        made = uuid.uuid5(_SPACE, f"{self._handler.source}:{entry_id}").hex
        return Delivery(entry_id, body, others, others, made_id=made)

    def _answer(self, answers: Sequence[Answer]) -> None:
        self._ledger.replies.write([(answer.to, answer.body) for answer in answers])

    def _release(self, items: Sequence[Item]) -> None:
        self._inbox.done([item.tag for item in items])

    def _pause(self) -> None:
        """Entries that are not read stay in the stream."""

    def _pulse(self) -> None:
        """Nothing holds a connection open between two calls."""

    def close(self) -> None:
        """Take the consumer's name away, unless it holds something."""
        self._inbox.leave()


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")
