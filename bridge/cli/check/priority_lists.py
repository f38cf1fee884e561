"""What `bridge check` says of a Redis broker's lists for priorities: messages in one that no worker reads.

Celery's Redis transport has a list for each step of priority. Producers whose `priority_steps` or `sep` are others than
the worker's put messages with a priority into lists of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge.errors import ServerUnavailable

if TYPE_CHECKING:
    from celery import Celery

    from bridge.cli.terminal.findings import Finding

#: AMQP has priorities up to so high, and Celery's producers send no higher ones.
HIGHEST = 255
QUEUES = ("bridge.run", "bridge.control")


def of_priority_lists(app: Celery) -> list[Finding]:
    """Nothing where nothing waits in such a list. Raises BridgeError."""
    from bridge.doors.celery import servers  # noqa: PLC0415  (heavy)

    with app.connection_for_write() as connection:
        if connection.transport.driver_type != "redis":
            return []
        channel: Any = connection.default_channel
        read = {channel._q_for_pri(queue, step) for queue in QUEUES for step in channel.priority_steps}  # noqa: SLF001
        lists = [
            (key, queue, priority)
            for queue in QUEUES
            for separator in sorted({channel.sep, type(channel).sep})
            for priority in range(1, HIGHEST + 1)
            if (key := f"{queue}{separator}{priority}") not in read
        ]
        try:
            with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                for key, *_ in lists:
                    pipe.llen(key)
                counts = pipe.execute(raise_on_error=False)
        except connection.connection_errors as error:
            raise servers.explained(error) or ServerUnavailable(f"{servers.BROKER}: {error}") from None
    says = (
        "{} messages wait in {}'s list of priority {}, which no worker reads: give the workers the `priority_steps` "
        "and `sep` that the producers have, as broker_transport_options in the module that BRIDGE_CELERY_CONFIG names"
    )
    return [
        ("FAULT", "queues", says.format(count, queue, priority))
        for (_, queue, priority), count in zip(lists, counts, strict=True)
        if isinstance(count, int) and count
    ]
