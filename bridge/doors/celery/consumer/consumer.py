"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them.

Every message passes through `create_task_handler`, and whatever Celery or kombu cannot do with one comes to `refuse`:
what one message does wrong ends with that message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from bridge.doors.celery.consumer.check import Unreadable, check, fault_of
from bridge.doors.celery.consumer.queues import find_queues
from bridge.doors.celery.consumer.refuse import logger, of_message
from bridge.doors.celery.consumer.transport import LOOK_S, Away, Channel, broken, lean
from bridge.doors.celery.consumer.unpack import bound
from bridge.job.words import DeadReason

if TYPE_CHECKING:
    from bridge.doors.celery.consumer.refuse import Refusals

#: Celery's own tasks that run other tasks right here, in a thread of the pool, or are kept for Celery 3. Of the rest
#: `chord_unlock` belongs to results that cannot count a chord's members, `accumulate` to tasks that become a group.
_NONE_OF_OURS = ("map", "starmap", "chunks", "group", "chain", "chord")


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    #: Set by `refuse.RefuseStep`, before anything connects.
    refusals: Refusals
    reading_frames: Callable[..., Any]
    #: Whether its Redis has ever done what it was asked.
    _served = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Celery builds it."""
        super().__init__(*args, **kwargs)
        self._celerys_loop: Any = self.loop
        self.loop: Any = self._loop

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport, or with frames read that py-amqp cannot."""
        bound()
        connection = lean(self.app.connection_for_read(heartbeat=heartbeat), self.refusals)
        if connection.transport.driver_type == "amqp":
            options = connection.transport_options or {}
            connection.transport_options = {**options, "frame_handler": self.reading_frames}
        return self.ensure_connected(connection)

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Celery's own, which its events leave on; without confirms, which nobody waits for without harm.

        With the gevent pool several greenlets read from this connection: one took the confirm that another waited for,
        and a heartbeat under way kept the worker from stopping until RabbitMQ's next word, half a minute later.
        """
        options = {"confirm_publish": False} if "confirm_publish" in self.app.conf.broker_transport_options else {}
        made = self.app.connection_for_write(url=url, heartbeat=heartbeat, transport_options=options)
        return self.ensure_connected(made)

    def connect(self) -> Any:
        """A queue may have come or gone since the last connection."""
        connection = super().connect()
        find_queues(self.app, connection)
        channel = connection.default_channel
        if isinstance(channel, Channel):
            self._tidy(channel)
            channel.bury()  # what a worker that died has left there
        return connection

    def _tidy(self, channel: Channel) -> None:
        """Where Redis does not write, a worker that starts ends and says why; one that has worked waits."""
        while True:
            try:
                channel.tidy(self.app.amqp.queues)
            except Away as away:
                if not self._served and away.__cause__ is not None:
                    raise away.__cause__ from None
                maybe_shutdown()
                time.sleep(LOOK_S)
            else:
                self._served = True
                return

    def _loop(self, consumer: Any, connection: Any, *args: Any) -> None:
        """A channel that RabbitMQ closes under a running worker is a lost connection, and no reason to end.

        It closes one whose message was not acked within `consumer_timeout` (30 min), and messages are held for as long
        as the ledger is away (I1). All of them come again on the next connection.
        """
        closed: tuple[type[Exception], ...] = ()
        if connection.transport.driver_type == "amqp":
            closed = connection.channel_errors
        try:
            self._celerys_loop(consumer, connection, *args)
        except closed as error:
            raise ConnectionResetError(str(error)) from error

    def update_strategies(self) -> None:
        """A message for one of those is as one for a task that nobody has."""
        super().update_strategies()
        for name in _NONE_OF_OURS:
            self.strategies.pop(f"celery.{name}", None)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's own handler, for messages that can be read."""
        celerys = super().create_task_handler(*args, **kwargs)

        def read(message: Any) -> None:
            check(message)
            celerys(message)

        return lambda message: self.guarded(message, lambda: read(message))

    def guarded(self, message: Any, call: Callable[[], Any]) -> None:
        """Do what is to be done with a message; what goes wrong is its fault, unless the broker went away."""
        try:
            call()
        except broken(self.connection_errors):
            raise
        except Exception as error:  # noqa: BLE001  (I12: one of them must not stop the others)
            self.refuse(message, fault_of(error))

    def refuse(self, message: Any, fault: Unreadable) -> None:
        """Set a message aside: it is acked once the dead letters hold it."""
        if getattr(message, "acknowledged", False):
            return
        refused = of_message(message, fault)
        errors = self.connection_errors
        refused = replace(
            refused,
            done=lambda: self.call_soon_ack(message.ack_log_error, logger, errors),
            give_back=lambda: self.call_soon_ack(message.reject_log_error, logger, errors, True),
        )
        self.refusals.put(refused)

    # What Celery does with such messages prints them, and forgets them.

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """It names no task."""
        self.refuse(
            message, Unreadable(DeadReason.UNKNOWN_KIND, "task: is named neither by the headers nor by the body")
        )

    def on_unknown_task(self, _body: Any, message: Any, _exc: BaseException) -> None:
        """It names one that this app does not have."""
        self.refuse(message, Unreadable(DeadReason.UNKNOWN_KIND, "task: is none that this worker has"))

    def on_invalid_task(self, _body: Any, message: Any, exc: BaseException) -> None:
        """Celery's own rules."""
        self.refuse(message, fault_of(exc))

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Neither unpacked nor decoded."""
        self.refuse(message, fault_of(exc))
