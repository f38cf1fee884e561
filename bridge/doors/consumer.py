"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.consumer.consumer import logger

from bridge.doors.known import kept_apart
from bridge.doors.topology import find_queues
from bridge.doors.transport import lean
from bridge.errors import LedgerError

#: Seconds until a message whose id could not be looked up is looked at again.
HELD_S = 2.0


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport."""
        return self.ensure_connected(lean(self.app.connection_for_read(heartbeat=heartbeat)))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery stores a failure under the message's id: not where that id is a request's."""
        task_id, name = message.headers.get("id"), message.headers.get("task")
        try:
            known = isinstance(task_id, str) and self._bridge().ledger.knows(task_id)
            if known:
                kept_apart(self._bridge(), str(task_id), {}, str(name)[:200])
        except LedgerError:  # the message is held
            self.timer.call_after(HELD_S, self.on_unknown_task, (body, message, exc))
            return
        if known:
            message.ack_log_error(logger, self.connection_errors)
        else:
            super().on_unknown_task(body, message, exc)

    def _bridge(self) -> Any:
        return self.app.tasks["bridge.status"].bridge_of()

    def connect(self) -> Any:
        """A queue may have come or gone since the last connection."""
        connection = super().connect()
        find_queues(self.app, connection)
        return connection
