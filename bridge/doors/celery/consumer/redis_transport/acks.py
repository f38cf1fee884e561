"""Which messages are noted as unacked, and which of them are done."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps

from bridge.doors.celery.consumer.redis_transport import scripts
from bridge.doors.celery.consumer.redis_transport.outages import LOOK_S, Away, ResponseError, broken


class QoS(kombu_redis.QoS):
    """Acks of one turn of the event loop together; what could not be written is kept, and written later."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's."""
        self._untold: list[str] = []
        self._unnoted: dict[str, Any] = {}
        self.noted: set[str] = set()
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def append(self, message: Any, delivery_tag: str) -> None:
        """What the script has noted needs no second note."""
        if delivery_tag in self.noted:
            self.noted.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except Away:  # BRPOP takes what nobody can note
            self._unnoted[delivery_tag] = message
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Note it now, tell Redis at the end of this turn; at once where no event loop turns (gevent)."""
        virtual.QoS.ack(self, delivery_tag)
        connection = self.channel.connection
        if connection is None:  # lost, and closed: the message comes again (I2)
            return
        hub = connection.loop
        self._unnoted.pop(delivery_tag, None)
        self._untold.append(delivery_tag)
        if hub is None:
            self.tell()
        elif len(self._untold) == 1:
            hub.call_soon(self.tell)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Back to its queue, or as acked; what cannot be put back now comes back by its note."""
        if not requeue:
            self.ack(delivery_tag)
            return
        with suppress(Away):
            self.restore_by_tag(delivery_tag, leftmost=True)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Those that a worker gives back as it ends; where Redis is away they come back by their notes."""
        with suppress(Away):
            super().restore_unacked(client)  # type: ignore[no-untyped-call]
        self._delivered.clear()

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """In one step; one that cannot be read goes to those, and must not keep the others from coming back."""
        channel = self.channel
        with channel.conn_or_acquire(client) as found:
            note = found.hget(self.unacked_key, tag)
        try:
            keys, message = channel.way_back(note) if note else ([], "")
        except MemoryError:  # it comes back with a later look
            return
        except broken(channel.connection_errors):
            raise
        except (LookupError, ValueError, TypeError, RecursionError):
            channel.set_aside(tag=tag)
            return
        names = [channel.named(key) for key in (self.unacked_index_key, self.unacked_key, *keys)]
        with channel.conn_or_acquire() as found:
            scripts.restore(found, names, tag, note or b"", message, leftmost=leftmost)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Before it, see that nothing stands in its way. What Redis refuses must not end the worker."""
        try:
            self.channel.tidy()
            super().restore_visible(*args, **kwargs)  # type: ignore[no-untyped-call]
        except Away:
            return
        except ResponseError as error:
            self.channel.outage("rest", error)

    def tell(self) -> None:
        """Take the acked messages off Redis, and note what could not be noted."""
        tags, self._untold = self._untold, []
        unnoted, self._unnoted = self._unnoted, {}
        if not tags and not unnoted:
            return
        try:
            with self.channel.outages("ack"), self.channel.own_client.pipeline() as pipe:
                if tags:
                    pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags)
                for tag, message in unnoted.items():
                    info = message.delivery_info
                    note = dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001
                    pipe.zadd(self.unacked_index_key, {tag: time.time()}).hset(self.unacked_key, tag, note)
                pipe.execute()
        except Away:
            self._untold, self._unnoted = tags + self._untold, unnoted | self._unnoted
            connection = self.channel.connection  # None once the channel is closed
            if connection is not None and (hub := connection.loop) is not None:
                hub.call_later(LOOK_S, self.tell)
        except broken(self.channel.connection_errors):
            if not self.channel.closed:
                raise
        else:
            self.channel.outage_is_over("ack")
