"""Queues as they are found: another producer may have declared one first, with another type or other arguments.

A queue that exists is consumed as it is (and the finding told); one that does not is declared exactly as
`send_task(queue=NAME)` of a plain Celery app declares it, or as BRIDGE_QUEUE_TYPE says.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.transport.native_delayed_delivery import CELERY_DELAYED_DELIVERY_EXCHANGE

from bridge.doors.celery import servers
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery
    from kombu import Connection


def find_queues(app: Celery, connection: Connection) -> dict[str, bool]:
    """Look at each queue that will be consumed, and keep Celery from declaring those that exist. Name -> existed."""
    if connection.transport.driver_type != "amqp":
        return {}
    found = {}
    for name, queue in app.amqp.queues.items():
        found[name] = queue.no_declare = exists(connection, name)
        if found[name]:
            # Nobody can ask a queue for its type. Celery counts prefetch per consumer where it believes in a quorum
            # queue, which is right for classic ones too; the other way round the broker would refuse to deliver.
            queue.queue_arguments = {**(queue.queue_arguments or {}), "x-queue-type": "quorum"}
        tell("topology.found" if found[name] else "topology.missing", queue=name)
    return found


def take_delayed(app: Celery, connection: Connection) -> None:
    """Have what RabbitMQ itself has delayed come into the queues that exist now, for producers that leave `eta` to it.

    Celery 5.5 and later does so where a queue's exchange is no direct one and the app has quorum queues. Its workers
    then bind the exchange that such messages leave by to each of their queues' exchanges; a message for a queue that no
    worker of theirs reads would be dropped. The exchange is made as kombu makes it, which does not if it is there.
    """
    if connection.transport.driver_type != "amqp":
        return
    channel: Any = connection.channel()
    for name in app.amqp.queues.consume_from:
        try:
            channel.exchange_declare(CELERY_DELAYED_DELIVERY_EXCHANGE, "topic", durable=True, auto_delete=False)
            channel.queue_bind(name, CELERY_DELAYED_DELIVERY_EXCHANGE, f"#.{name}")
        except connection.channel_errors as error:  # no right to: such producers' messages do not come
            tell("topology.unbound", queue=name, exchange=CELERY_DELAYED_DELIVERY_EXCHANGE, error=servers.said(error))
            return
    channel.close()


def use_as_found(app: Celery, name: str) -> None:
    """Keep Celery from declaring one of the bridge's queues that it is about to send to, if that queue exists."""
    queue = app.amqp.queues.get(name)
    if queue is None or queue.no_declare or not _speaks_amqp(app):  # none of ours, or looked at before
        return
    with app.connection_for_write() as connection:
        queue.no_declare = exists(connection, name)


@cache
def _speaks_amqp(app: Celery) -> bool:
    """Asked once: a connection takes a millisecond to make, and every follow-up would."""
    with app.connection_for_write() as connection:
        return bool(connection.transport.driver_type == "amqp")


def exists(connection: Connection, name: str) -> bool:
    """A passive declare: it changes nothing, and fails where there is no such queue."""
    channel: Any = connection.channel()
    try:
        channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors:
        return False
    channel.close()
    return True


def queues_read(app: Celery) -> set[str]:
    """The queues that any worker says it reads. Raises SettingsError or ServerUnavailable."""
    try:
        replies = app.control.inspect(timeout=1.0).active_queues() or {}
    except Exception as error:
        if (known := servers.explained(error)) is None:
            raise
        raise known from None
    return {queue["name"] for queues in replies.values() for queue in queues}


def broker_answers(app: Celery) -> None:
    """Raises OSError when the broker does not answer, or refuses this process."""
    if servers.standing.refused is not None:
        raise ConnectionError(servers.standing.refused)
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
    except OperationalError as error:
        raise ConnectionError(str(error)) from error
    except Exception as error:
        if (known := servers.explained(error)) is None:
            raise
        raise ConnectionError(str(known)) from None
