"""Kombu's Redis transport without two of its costs, for the connection that a bridge worker consumes from.

Kombu builds a Redis client anew for each message it notes and for each one it acks, and acks them one transaction at a
time: together a quarter of a worker's CPU (docs/performance.md). Here a channel keeps its client, and acks that fall
into one turn of the event loop leave in one transaction. An ack that dies on the way means a message that comes again,
which changes nothing (I2).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.asynchronous import get_event_loop
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

if TYPE_CHECKING:
    from kombu import Connection


class QoS(kombu_redis.QoS):
    """Acks of one turn of the event loop together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's."""
        self._untold: list[str] = []
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Note it now, tell Redis at the end of this turn; at once where no event loop turns (gevent)."""
        hub = get_event_loop()
        if hub is None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
            return
        virtual.QoS.ack(self, delivery_tag)
        self._untold.append(delivery_tag)
        if len(self._untold) == 1:
            hub.call_soon(self.tell)

    def tell(self) -> None:
        """Take the acked messages off Redis."""
        tags, self._untold = self._untold, []
        if tags:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()


class Channel(kombu_redis.Channel):
    """One client for as long as the channel lives."""

    QoS = QoS

    @cached_property
    def _own_client(self) -> Any:
        return super()._create_client()  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._own_client  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Nothing that was acked is given back to the queue."""
        if not self.closed and self._qos is not None:
            self._qos.tell()
        super().close()  # type: ignore[no-untyped-call]


class Transport(kombu_redis.Transport):
    """Kombu's, with the channel above."""

    Channel = Channel


def lean(connection: Connection) -> Connection:
    """The same connection over this transport, where it is plain Redis; before it is opened."""
    if connection.transport_cls in {"redis", "rediss"}:
        connection.transport_cls = Transport
    return connection
