"""Tells AMQP what the event stream holds: events to the topic exchange, replies to who asked, ends to `bridge.results`.

The stream is the outbox (I3). One leased reader at a time goes through it with a cursor that moves only after the
broker has confirmed (I7); copies of older events may appear again after a takeover, so consumers drop a `sequence`
that is not above the last they saw. On a Redis broker nothing of this runs: there the stream itself is the door out.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from bridge.job.document import CONTENT_TYPE
from bridge.job.words import Sink
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery

    from bridge.job.change import Change
    from bridge.ledger import Ledger

BATCH = 200
IDLE_S = 0.25
LEASE_MS = 10_000
EVENTS = Exchange("bridge.events", type="topic", durable=True)
RESULTS = Queue(
    "bridge.results",
    durable=True,
    queue_arguments={"x-max-length": 100_000, "x-message-ttl": 7 * 24 * 3_600_000, "x-overflow": "drop-head"},
)


@dataclass(slots=True)
class Publish:
    """One `once()` publishes a batch and moves the cursor."""

    ledger: Ledger
    app: Celery
    noticed: Callable[[Change], None]
    _token: str = field(default_factory=lambda: secrets.token_hex(8), init=False)
    _connection: Any = field(default=None, init=False)
    _channel: Any = field(default=None, init=False)
    _returned: list[str] = field(default_factory=list, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        batch = self.ledger.relay_take(self._token, BATCH, lease_ms=LEASE_MS)
        if batch is None:  # another process has the turn
            return 2.0
        if not batch:
            return IDLE_S
        try:
            self._publish(batch)
        except self._errors() as error:
            self._disconnect()
            tell("broker.unavailable", error=f"{type(error).__name__}: {error}", waiting=len(batch))
            return 1.0
        self.ledger.relay_done(self._token, batch[-1][0])
        return 0.0 if len(batch) == BATCH else IDLE_S

    def cursor(self) -> str | None:
        """The last confirmed entry."""
        return self.ledger.relay_cursor()

    def _publish(self, batch: list[tuple[str, dict[str, str]]]) -> None:
        from amqp import Message  # noqa: PLC0415  (only where the broker speaks AMQP)

        channel = self._connected()
        told: list[tuple[str, Sink]] = []
        for _, entry in batch:
            body = entry["data"]
            request_id = json.loads(body)["subject"] if entry.get("reply") or entry.get("result") else ""

            def message(correlation_id: str | None = None, body: str = body) -> Message:
                return Message(
                    body,
                    content_type=CONTENT_TYPE,
                    content_encoding="utf-8",
                    delivery_mode=2,
                    correlation_id=correlation_id,
                )

            channel.basic_publish(message(), exchange=EVENTS.name, routing_key=entry["key"])
            if entry.get("reply"):
                found = json.loads(entry["reply"])
                for reply in found if isinstance(found, list) else [found]:
                    channel.basic_publish(
                        message(reply.get("correlation_id")), exchange="", routing_key=reply["to"], mandatory=True
                    )
                told.append((request_id, Sink.REPLY))
            if entry.get("result"):
                channel.basic_publish(message(), exchange="", routing_key=RESULTS.name)
                told.append((request_id, Sink.RESULTS))
        for request_id, sink in dict.fromkeys(told):
            self._delivered(request_id, sink)

    def _delivered(self, request_id: str, sink: Sink) -> None:
        held = self.ledger.load(request_id)
        if held is None or not held.record.phase.ended:
            return
        table, round_ = self.ledger.table, held.record.round
        self.noticed(self.ledger.change(held, lambda fresh, now: table.delivered(fresh, now, sink, round_=round_)))

    def _on_return(self, fault: Exception, _exchange: str, routing_key: str, message: Any) -> None:
        """The queue of a reply is not there (any more): told, and kept as a dead letter."""
        tell("reply.returned", reply_to=routing_key, error=str(fault))
        self.ledger.dead_letter(
            "undeliverable", door="publish", body=str(message.body), detail=f"reply_to {routing_key}: {fault}"
        )

    def _connected(self) -> Any:
        if self._channel is None:
            self._connection = self.app.connection_for_write(transport_options={"confirm_publish": True})
            self._connection.ensure_connection(max_retries=1, timeout=5)
            self._channel = self._connection.channel()
            self._channel.events["basic_return"].add(self._on_return)
            EVENTS(self._channel).declare()
            RESULTS(self._channel).declare()
        return self._channel

    def _errors(self) -> tuple[type[Exception], ...]:
        known: tuple[type[Exception], ...] = (OperationalError, OSError)
        if self._connection is None:
            return known
        return (*known, *self._connection.connection_errors, *self._connection.channel_errors)

    def _disconnect(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            # It is broken: nothing to give back.
            with contextlib.suppress(OSError, OperationalError, *connection.connection_errors):
                connection.release()

    def close(self) -> None:
        """Give the turn and the connection back."""
        self.ledger.relay_release(self._token)
        self._disconnect()
