"""Queues as they are found: another producer may have declared one first, with another type or other arguments.

A queue that exists is consumed as it is (and the finding told once); one that does not is declared exactly as
`send_task(queue=NAME)` of a plain Celery app declares it, or as BRIDGE_QUEUE_TYPE says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection


def find_queues(app: Celery, connection: Connection) -> None:
    """Look at each queue that will be consumed, and keep Celery from declaring those that exist."""
    if connection.transport.driver_type != "amqp":
        return
    for name, queue in app.amqp.queues.items():
        exists = _exists(connection, name)
        queue.no_declare = exists
        tell("topology.found" if exists else "topology.missing", queue=name)


def _exists(connection: Connection, name: str) -> bool:
    channel: Any = connection.channel()
    try:
        channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors:
        return False
    else:
        channel.close()
        return True
