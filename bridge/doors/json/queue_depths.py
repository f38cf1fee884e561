"""How many messages are ready in the broker's queues of requests: JSON's where it speaks AMQP, and Celery's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bridge.runtime import broker_connection

if TYPE_CHECKING:
    from celery import Celery

#: Celery's queue of requests, and JSON's of an AMQP broker.
CELERYS, JSONS = "bridge.run", "bridge.requests"
CONNECT_S = 2.0
#: Of an AMQP connection: a broker that died without a word is noticed.
_PATIENCE = {"read_timeout": 5.0, "write_timeout": 5.0}


class Ready:
    """Counts over one connection of its own, opened at the first count. For one thread."""

    def __init__(self, app: Celery, *, amqp: bool) -> None:
        self._app = app
        self._queues = (JSONS, CELERYS) if amqp else (CELERYS,)
        self._options = _PATIENCE if amqp else {}
        self._connection: Any = None

    def __call__(self) -> int:
        """All of them together; raises what the broker's library raises when it is away."""
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_write(
                    connect_timeout=CONNECT_S, transport_options=self._options
                )
                self._connection.ensure_connection(max_retries=1, timeout=CONNECT_S)
            return sum(self._ready(queue) for queue in self._queues)
        except Exception:
            self.close()
            raise

    def _ready(self, queue: str) -> int:
        channel = self._connection.channel()
        try:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
        except self._connection.channel_errors:  # there is none, which is how Redis has an empty one
            return 0
        finally:
            with contextlib.suppress(*self._connection.connection_errors, *self._connection.channel_errors):
                channel.close()

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        broker_connection.close(connection)
