"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

from bridge.doors.topology import find_queues
from bridge.doors.transport import lean


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport."""
        return self.ensure_connected(lean(self.app.connection_for_read(heartbeat=heartbeat)))

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
