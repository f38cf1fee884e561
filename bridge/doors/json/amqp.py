"""The AMQP door: plain JSON on `bridge.requests` and `bridge.commands`, read by a connection and a loop of its own.

Not by Celery's consumer: no byte that a stranger sends may stop a Celery worker. Queues and exchange are used as they
are found, and declared where they are not, now and then also while they are used. A message is acked when the ledger
or the dead letters hold it. Answers leave on a second connection, because a broker that is short of memory stops
reading from those that publish.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kombu import Connection
from kombu.exceptions import OperationalError

from bridge.doors.json.amqp_frames import reading_frames
from bridge.doors.json.command_order import WAITING_MAX
from bridge.doors.json.consumer import BATCH, BATCH_BYTES, Consumer, undeliverable
from bridge.doors.json.handler import Answer, Delivery, Handler, Item
from bridge.engine.tell.amqp_publisher import is_fault
from bridge.job.document import CONTENT_TYPE
from bridge.runtime import broker_connection
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.accept.back_pressure import Pressure
    from bridge.ledger import Ledger

EXCHANGE = "bridge.jobs"
#: Queue and key of each kind of message.
QUEUES = {"requests": ("bridge.requests", "job.submit.#"), "commands": ("bridge.commands", "job.command.#")}
HEARTBEAT_S, CONNECT_S, CONFIRM_S = 30, 5.0, 30.0
#: Seconds between looks whether exchange, queue and binding still stand: so long do producers meet their 404.
LOOK_S = 5.0
#: Not 0: py-amqp turns without a pause on a socket that does not wait, until the rest of a frame is there.
AT_ONCE_S = 0.001
_PROPERTIES = (
    "content_type", "content_encoding", "message_id", "correlation_id", "reply_to", "type", "app_id", "user_id",
    "expiration",
)  # fmt: skip


class AmqpConsumer(Consumer):
    """One queue."""

    def __init__(self, handler: Handler, ledger: Ledger, pressure: Pressure, url: str, *, quorum: bool) -> None:
        super().__init__(handler, ledger, pressure)
        self._queue, self._key = QUEUES[handler.kind]
        self._url = url
        self._quorum = quorum
        self._connection: Any = None
        self._channel: Any = None
        self._buffer: list[Any] = []
        self._answers: Any = None
        self._answering: Any = None
        self._returned: list[str] = []
        self._look_at = 0.0
        self._refused = ""

    # Taking

    def _receive(self, wait_s: float) -> Sequence[Delivery]:
        self._connected()
        self._declared_again()
        if not self._buffer:
            self._drain(wait_s)
        size = _bytes_of(self._buffer)
        while self._buffer and len(self._buffer) < BATCH and size < BATCH_BYTES and self._drain(AT_ONCE_S):
            size += len(self._buffer[-1].body)
        messages, self._buffer = self._buffer, []
        self._connection.heartbeat_check()
        return [_delivery(message) for message in messages]

    def _drain(self, wait_s: float) -> bool:
        """Read one more message; whether there was one."""
        before = len(self._buffer)
        try:
            self._connection.drain_events(timeout=wait_s)
        except (TimeoutError, BlockingIOError):
            return False
        return len(self._buffer) > before

    def _pulse(self) -> None:
        """Hold what has come, and keep both sides from believing the other dead."""
        if self._connection is not None:
            if _bytes_of(self._buffer) < BATCH_BYTES:
                self._drain(AT_ONCE_S)
            self._connection.heartbeat_check()

    def _pause(self) -> None:
        """Whatever was handed out and is not held goes back to its place in the queue."""
        if self._channel is not None:
            channel, self._channel, self._buffer = self._channel, None, []
            channel.close()
        if self._connection is not None:
            self._declared_again()
            self._drain(AT_ONCE_S)
            self._connection.heartbeat_check()

    def _connected(self) -> None:
        if self._connection is None:
            connection = Connection(
                self._url,
                heartbeat=HEARTBEAT_S,
                connect_timeout=CONNECT_S,
                transport_options={**broker_connection.DEADLINES, "frame_handler": reading_frames},
            )
            connection.ensure_connection(max_retries=1, timeout=CONNECT_S)
            self._connection = connection
        if self._channel is None:
            declare(self._connection, self._handler.kind, quorum=self._quorum)
            self._look_at = time.monotonic() + LOOK_S
            channel = self._connection.channel()
            channel.auto_decode = False  # bytes, whatever a content encoding claims
            # What waits for its request is not acked meanwhile, and must not keep the next ones away.
            channel.basic_qos(0, 2 * BATCH + (WAITING_MAX if self._handler.kind == "commands" else 0), False)
            channel.basic_consume(self._queue, callback=self._buffer_one)
            self._channel = channel

    def _declared_again(self) -> None:
        """See that what producers send to still leads here. A binding is made anew unseen: nobody can ask for one."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_S
        refused = ""
        try:
            declare(self._connection, self._handler.kind, quorum=self._quorum, again=True)
        except self._connection.channel_errors as error:  # what is consumed goes on
            refused = f"{type(error).__name__}: {error}"
        if refused and refused != self._refused:
            tell("broker.unavailable", error=refused, door=self._handler.source)
        self._refused = refused

    def _buffer_one(self, message: Any) -> None:
        self._buffer.append(message)

    # Letting go

    def _release(self, items: Sequence[Item]) -> None:
        """A batch of requests is acked whole; commands end in any order."""
        if self._handler.kind == "requests":
            self._channel.basic_ack(items[-1].tag, multiple=True)
        else:
            for item in items:
                self._channel.basic_ack(item.tag)
        made = [(item.taken.digest, item.made_id) for item in items if item.made_id]
        if made:
            self._channel.basic_qos(0, 2 * BATCH, False)  # answered behind the acks: those messages come no more
            self._ledger.made_ids.forget(made)

    # Answering

    def _answer(self, answers: Sequence[Answer]) -> None:
        """One by one, each confirmed; a queue that is not there is noticed."""
        from amqp import Message  # noqa: PLC0415  (only where the broker speaks AMQP)
        from amqp.exceptions import MessageNacked  # noqa: PLC0415

        channel = self._answering_channel()
        for answer in answers:
            self._returned.clear()
            try:
                channel.basic_publish(
                    Message(
                        answer.body,
                        content_type=CONTENT_TYPE,
                        content_encoding="utf-8",
                        delivery_mode=2,
                        correlation_id=answer.correlation_id,
                    ),
                    exchange="",
                    routing_key=answer.to,
                    mandatory=True,
                    confirm_timeout=CONFIRM_S,
                )
            except MessageNacked:  # the queue is full, and refuses: as if it were not there
                self._returned.append("the queue refused it: it is full")
            except Exception as error:
                self._hang_up()
                if is_fault(error):  # of this answer: its size, a property's form
                    undeliverable(self._handler, self._ledger, answer, f"it cannot be sent: {type(error).__name__}")
                    channel = self._answering_channel()
                    continue
                if not isinstance(error, self._broken()):
                    raise
                tell("broker.unavailable", error=f"{type(error).__name__}: {error}", door=self._handler.source)
                raise
            if self._returned:
                undeliverable(self._handler, self._ledger, answer, self._returned[0])

    def _answering_channel(self) -> Any:
        if self._answering is None:
            self._answers = Connection(
                self._url,
                connect_timeout=CONNECT_S,
                transport_options={**broker_connection.DEADLINES, "confirm_publish": True},
            )
            self._answers.ensure_connection(max_retries=1, timeout=CONNECT_S)
            self._answering = self._answers.channel()
            self._answering.events["basic_return"].add(self._on_return)
        return self._answering

    def _on_return(self, fault: Exception, _exchange: str, _routing_key: str, _message: Any) -> None:
        self._returned.append(str(fault))

    # Breaking

    def _broken(self) -> tuple[type[Exception], ...]:
        known = self._connection or self._answers
        more = (*known.connection_errors, *known.channel_errors) if known is not None else ()
        return (OperationalError, OSError, *more)

    def _hurt(self, error: Exception) -> bool:
        if not isinstance(error, self._broken()):
            return False
        self._disconnect()
        return True

    def _disconnect(self) -> None:
        connection, self._connection, self._channel, self._buffer = self._connection, None, None, []
        broker_connection.close(connection)
        self._hang_up()

    def _hang_up(self) -> None:
        connection, self._answers, self._answering = self._answers, None, None
        broker_connection.close(connection)

    def close(self) -> None:
        """What is not acked goes back to the queue."""
        self._disconnect()


def look(connection: Any) -> dict[str, bool]:
    """Which of the queues exist; nothing is changed."""
    return {
        name: _exists(connection, lambda channel, name=name: channel.queue_declare(name, passive=True))
        for name, _ in QUEUES.values()
    }


def declare(connection: Any, kind: str, *, quorum: bool = False, again: bool = False) -> None:
    """Exchange, queue and binding of one kind; those that exist are used as they are, whatever their arguments.

    `again`: all of it has been there.
    """
    queue, key = QUEUES[kind]
    arguments = {"x-queue-type": "quorum"} if quorum else None
    if not _exists(connection, lambda channel: channel.exchange_declare(EXCHANGE, "topic", passive=True)):
        if again:
            tell("topology.gone", exchange=EXCHANGE)
        with connection.channel() as channel:
            channel.exchange_declare(EXCHANGE, "topic", durable=True, auto_delete=False)
    found = _exists(connection, lambda channel: channel.queue_declare(queue, passive=True))
    if not again:
        tell("topology.found" if found else "topology.missing", queue=queue)
    elif not found:
        tell("topology.gone", queue=queue)
    with connection.channel() as channel:
        if not found:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_bind(queue, EXCHANGE, key)


def _exists(connection: Any, ask: Any) -> bool:
    channel = connection.channel()
    try:
        ask(channel)
    except connection.channel_errors:
        return False
    channel.close()
    return True


def _delivery(message: Any) -> Delivery:
    body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
    said = message.properties
    properties = {name: said[name] for name in _PROPERTIES if said.get(name) is not None}
    properties["routing_key"] = message.delivery_info.get("routing_key", "")
    headers = said.get("application_headers") or {}
    again = bool(message.delivery_info.get("redelivered"))
    return Delivery(message.delivery_tag, body, headers if isinstance(headers, dict) else {}, properties, again=again)


def _bytes_of(messages: Sequence[Any]) -> int:
    return sum(len(message.body) for message in messages)
