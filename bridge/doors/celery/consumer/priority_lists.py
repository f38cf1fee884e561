"""A Redis broker's lists for priorities: messages in one that no worker reads.

Celery's Redis transport has a list for each step of priority. Producers whose `priority_steps` are others than the
worker's put messages with a priority into lists of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bridge.doors.celery import servers
from bridge.errors import ServerUnavailable

if TYPE_CHECKING:
    from celery import Celery

#: Priorities of AMQP end there, and Celery's producers send no higher ones.
HIGHEST = 255


def unread_lists(app: Celery, queues: Iterable[str]) -> dict[tuple[str, int], int]:
    """Messages by queue and priority, of lists that hold some and are not this app's. Raises ServerUnavailable."""
    with app.connection_for_write() as connection:
        if connection.transport.driver_type != "redis":
            return {}
        channel: Any = connection.default_channel
        lists = {
            f"{queue}{separator}{priority}": (queue, priority)
            for queue in queues
            for separator in (type(channel).sep, channel.sep)
            for priority in range(1, HIGHEST + 1)
            if separator != channel.sep or priority not in channel.priority_steps
        }
        try:
            with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                for key in lists:
                    pipe.llen(key)
                counts = pipe.execute(raise_on_error=False)  # a key of another type is somebody else's
        except connection.connection_errors as error:
            raise servers.explained(error) or ServerUnavailable(f"{servers.BROKER}: {error}") from None
    found = zip(lists.values(), counts, strict=True)
    return {place: count for place, count in found if isinstance(count, int) and count}
