"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

from bridge.doors.celery.consumer.queues import find_queues
from bridge.doors.celery.consumer.transport import lean


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport."""
        return self.ensure_connected(lean(self.app.connection_for_read(heartbeat=heartbeat)))

    def connect(self) -> Any:
        """A queue may have come or gone since the last connection."""
        connection = super().connect()
        find_queues(self.app, connection)
        return connection
