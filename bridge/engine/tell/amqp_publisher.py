"""A confirming AMQP channel: many messages out, then the broker's word on each of them."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from bridge.job.document import CONTENT_TYPE
from bridge.runtime import broker_connection

if TYPE_CHECKING:
    from celery import Celery

    from bridge.job.enums import Sink
    from bridge.ledger.streams.outbox import Late

WEEK_MS = 7 * 24 * 3_600_000
EVENTS = Exchange("bridge.events", type="topic", durable=True)
RESULTS = Queue(
    "bridge.results",
    durable=True,
    queue_arguments={"x-max-length": 100_000, "x-message-ttl": WEEK_MS, "x-overflow": "drop-head"},
)
DEAD = Queue(
    "bridge.dead",
    durable=True,
    queue_arguments={"x-max-length": 10_000, "x-message-ttl": WEEK_MS, "x-overflow": "drop-head"},
)
#: Seconds until the broker must have confirmed a batch; with one that is blocked (memory, disk) nothing comes.
CONFIRM_S = 30.0
#: Seconds between two looks at the lease while confirms are waited for.
LOOK_S = 2.0
_ID = re.compile(r'"id":"([^"]+)"')


@dataclass(slots=True)
class Parcel:
    """One message on its way."""

    entry_id: str
    kind: str  # event | reply:<n> | result | dead
    body: str
    exchange: str
    key_name: str  # routing key, or the queue's name
    mandatory: bool = False
    correlation_id: str | None = None
    request_id: str = ""
    round: int = 1
    sink: Sink | None = None
    copies: int = 1  # how many callers get a reply of this entry
    late: Late | None = None

    @property
    def message_id(self) -> str:
        """The document's own id: `specversion` and `id` stand first in it."""
        found = _ID.search(self.body, 0, 400)
        return found.group(1) if found else self.entry_id

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others of a batch, also when it is returned."""
        return self.message_id, self.exchange, self.key_name


class Unsendable(Exception):
    """One of these messages cannot leave, however often it is sent: it is found by sending fewer."""


def is_fault(error: Exception) -> bool:
    """Whether the message is to blame (its size, a header's form), not the broker or the connection."""
    from amqp.exceptions import ContentTooLarge, FrameSyntaxError, PreconditionFailed  # noqa: PLC0415

    of_message = (ContentTooLarge, FrameSyntaxError, PreconditionFailed, TypeError, ValueError, struct.error)
    return isinstance(error, of_message)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that no queue took, and why."""

    parcel: Parcel
    fault: str


@dataclass(slots=True)
class Broker:
    """One connection and one channel, opened when they are needed. Not thread-safe."""

    app: Celery
    _connection: Any = field(default=None, init=False)
    _channel: Any = field(default=None, init=False)
    _tag: int = field(default=0, init=False)
    _open: dict[int, Parcel] = field(default_factory=dict, init=False)
    _refused: dict[tuple[str, str, str], str] = field(default_factory=dict, init=False)
    _blocked: bool = field(default=False, init=False)

    def publish(self, parcels: Sequence[Parcel], still_ours: Callable[[], bool]) -> list[Refusal] | None:
        """Send all and wait for every confirm; answers what no queue took. None when the turn was lost on the way.

        One that cannot leave is refused alone: the others are sent, in their order, some of them twice.
        Raises one of `errors` when the broker is away; nothing is known then of what was sent.
        """
        if not parcels:
            return []
        try:
            return self._publish(parcels, still_ours)
        except Unsendable as error:
            self.disconnect()
            if len(parcels) == 1:
                return [Refusal(parcels[0], str(error))]
        half = len(parcels) // 2
        first = self.publish(parcels[:half], still_ours)
        rest = self.publish(parcels[half:], still_ours) if first is not None else None
        return None if first is None or rest is None else [*first, *rest]

    def _publish(self, parcels: Sequence[Parcel], still_ours: Callable[[], bool]) -> list[Refusal] | None:
        self._connected()
        try:
            return self._send(parcels, still_ours)
        except Exception as error:
            if not is_fault(error):
                raise
            fault = f"it cannot be sent ({type(error).__name__}: {str(error)[:200]})"
            raise Unsendable(fault) from error

    def _send(self, parcels: Sequence[Parcel], still_ours: Callable[[], bool]) -> list[Refusal] | None:
        from amqp import Message  # noqa: PLC0415  (only where the broker speaks AMQP)

        channel = self._connected()
        self._open.clear()
        self._refused.clear()
        looked = time.monotonic()
        for parcel in parcels:
            if time.monotonic() - looked > LOOK_S:
                if not still_ours():
                    return None
                looked = time.monotonic()
            self._tag += 1
            self._open[self._tag] = parcel
            channel.basic_publish(
                Message(
                    parcel.body,
                    content_type=CONTENT_TYPE,
                    content_encoding="utf-8",
                    delivery_mode=2,
                    message_id=parcel.message_id,
                    correlation_id=parcel.correlation_id,
                ),
                exchange=parcel.exchange,
                routing_key=parcel.key_name,
                mandatory=parcel.mandatory,
            )
        return self._confirmed(parcels, still_ours)

    def _confirmed(self, parcels: Sequence[Parcel], still_ours: Callable[[], bool]) -> list[Refusal] | None:
        ends = time.monotonic() + CONFIRM_S
        while self._open:
            try:
                self._connection.drain_events(timeout=LOOK_S)
            except TimeoutError:
                if not still_ours():
                    return None
                if time.monotonic() >= ends:
                    fault = f"{len(self._open)} messages were not confirmed within {CONFIRM_S:.0f} s"
                    if self._blocked:
                        fault += ": RabbitMQ takes none from anybody now, for its memory or its disk is short"
                    raise TimeoutError(fault) from None
        return [Refusal(p, self._refused[p.key]) for p in parcels if p.key in self._refused]

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for one in self._tags(tag, multiple=multiple):
            self._open.pop(one, None)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        for one in self._tags(tag, multiple=multiple):
            parcel = self._open.pop(one, None)
            if parcel is not None:
                self._refused.setdefault(parcel.key, "the broker refused it: a queue is full or failing")

    def _tags(self, tag: int, *, multiple: bool) -> list[int]:
        return [one for one in self._open if one <= tag] if multiple else [tag]

    def _on_return(self, fault: Exception, exchange: str, routing_key: str, message: Any) -> None:
        """Comes before the ack of the same message."""
        self._refused[message.properties.get("message_id", ""), exchange, routing_key] = f"no such queue ({fault})"

    def _on_blocked(self, _reason: str) -> None:
        self._blocked = True

    def _on_unblocked(self) -> None:
        self._blocked = False

    def _connected(self) -> Any:
        if self._channel is None:
            # Not the library's own confirms, which wait for each message.
            self._connection = self.app.connection_for_write(transport_options={"confirm_publish": False})
            self._connection.ensure_connection(max_retries=1, timeout=5)
            self._on_unblocked()
            amqp = self._connection.connection
            amqp.on_blocked, amqp.on_unblocked = self._on_blocked, self._on_unblocked
            channel = self._connection.channel()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._tag = 0
            self._channel = channel
            EVENTS(channel).declare()
            for queue in (RESULTS, DEAD):
                self._declare(queue)
        return self._channel

    def _declare(self, queue: Queue) -> None:
        """A queue that exists is used as it is, whatever its arguments."""
        with self._connection.channel() as probe:
            try:
                queue(probe).queue_declare(passive=True)
            except self._connection.channel_errors:  # closes the channel that asked
                pass
            else:
                return
        queue(self._channel).declare()

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What a broker that goes away raises; the transport has words of its own."""
        known: tuple[type[Exception], ...] = (OperationalError, OSError)
        if self._connection is None:
            return known
        return (*known, *self._connection.connection_errors, *self._connection.channel_errors)

    def disconnect(self) -> None:
        """Give the connection back, whatever state it is in; the next publish opens another."""
        connection, self._connection, self._channel = self._connection, None, None
        broker_connection.close(connection)
