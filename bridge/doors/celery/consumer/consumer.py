"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import logger

from bridge.doors.celery.consumer.queues import find_queues
from bridge.doors.celery.consumer.transport import lean
from bridge.doors.celery.known_ids import kept_apart
from bridge.errors import LedgerError

#: Seconds until a message whose id could not be looked up is looked at again.
HELD_S = 2.0


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Celery builds it."""
        super().__init__(*args, **kwargs)
        self._celerys_loop: Any = self.loop
        self.loop: Any = self._loop

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport."""
        return self.ensure_connected(lean(self.app.connection_for_read(heartbeat=heartbeat)))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery stores a failure under the message's id: not where that id is a request's."""
        task_id, name = message.headers.get("id"), message.headers.get("task")
        try:
            known = isinstance(task_id, str) and self._ledger().knows(task_id)
            if known:
                kept_apart(self._ledger(), str(task_id), {}, str(name)[:200])
        except LedgerError:  # the message is held
            self.timer.call_after(HELD_S, self.on_unknown_task, (body, message, exc))
            return
        if known:
            message.ack_log_error(logger, self.connection_errors)
        else:
            super().on_unknown_task(body, message, exc)

    def _ledger(self) -> Any:
        return self.app.tasks["bridge.status"].ledger_of()

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
        return connection

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
