"""Kombu's Redis transport without its hole and two of its costs, for the connection that a bridge worker consumes from.

Kombu takes a message off its list (BRPOP) and notes it as unacked in a second call: who is killed between the two, or
while the answer is on its way, takes the message along. Here one script does both, so that a message is in the queue or
noted, whenever anybody dies (I1). A script cannot wait, so Redis rings: the keys of the queues are tracked (CLIENT
TRACKING, broadcasting), and any word on that connection means that it is worth looking. Where the server does not ring
(a proxy, an ACL), kombu's own way is used, and told.

Kombu builds a Redis client anew for each message it notes and for each one it acks, and acks them one transaction at a
time: together a quarter of a worker's CPU (docs/performance.md). Here a channel keeps its client, and acks that fall
into one turn of the event loop leave in one transaction. An ack that dies on the way means a message that comes again,
which changes nothing (I2).

Redis may be up and refuse what it is asked (`bridge/redis/outage.py`). What is done here is then tried again in place;
kombu and Celery, which know broken connections alone, are told of one (`Away`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis

from bridge.doors.celery.consumer.redis_transport.channel import Channel

if TYPE_CHECKING:
    from kombu import Connection

    from bridge.doors.celery.consumer.refuse import Refusals


class Transport(kombu_redis.Transport):
    """Kombu's, with the channel above."""

    Channel = Channel
    #: The event loop that turns this connection; None with gevent. Kombu's global one is none after a lost connection.
    loop: Any = None

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Celery calls it each time it has connected."""
        self.loop = loop
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same on whichever server is the master when it connects."""


class SentinelTransport(Transport, kombu_redis.SentinelTransport):
    """Kombu's, with the channel above."""

    Channel = SentinelChannel


_LEAN = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}
_SCHEMES = {Transport: "redis", SentinelTransport: "sentinel"}


def lean(connection: Connection, refusals: Refusals | None = None) -> Connection:
    """The same connection over this transport, where it is Redis; before it is opened."""
    _make_lean(connection)
    celerys: Any = connection.switch

    def switch(address: str) -> None:
        """To the next of several addresses, which Celery does whenever one does not answer; over kombu's transport."""
        celerys(address)
        _make_lean(connection)

    celerys_uri: Any = connection.as_uri

    def as_uri(include_password: bool = False, mask: str = "**") -> str:
        """As Celery logs it: by its scheme, where kombu would write the transport's class."""
        return str(celerys_uri(include_password, mask, _named))

    setattr(connection, "as_uri", as_uri)  # noqa: B010  (of this connection alone)
    setattr(connection, "switch", switch)  # noqa: B010  (the same)
    setattr(connection, "refusals", refusals)  # noqa: B010  (where the channel finds it)
    return connection


def _named(info: dict[str, Any]) -> tuple[Any, ...]:
    """The parts of an address."""
    transport = info["transport"]
    parts = (info[name] for name in ("port", "userid", "password", "virtual_host"))
    return (*parts, _SCHEMES.get(transport, transport))


def _make_lean(connection: Connection) -> None:
    connection.transport_cls = _LEAN.get(connection.transport_cls, connection.transport_cls)
