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
"""

from __future__ import annotations

import hashlib
import time
from functools import cached_property
from queue import Empty
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from bridge.doors.celery.consumer.refuse import of_envelope
from bridge.doors.celery.consumer.unpack import ENVELOPE_MAX
from bridge.telemetry import tell

if TYPE_CHECKING:
    from kombu import Connection

    from bridge.doors.celery.consumer.refuse import Refusals

#: Messages taken in one call at most.
TAKE_MAX = 16
#: Seconds between looks that nobody has rung for: as long as kombu's own BRPOP waits.
LOOK_S = 1.0
#: Messages that cannot be read wait here until the dead letters hold them; the newest so many.
UNREADABLE, UNREADABLE_MAX = "bridge.unreadable", 1_000

# take: move messages from their lists to the unacked ones, in one step.
# KEYS 1 unacked index  2 unacked  3 unreadable, then the lists in the order they are looked at
# ARGV 1 how many at most  2 time of the note, in s  3 unreadable ones kept at most
# Returns {list, message, list, message, ..., "unreadable", how many}
_TAKE = """
local answer, left, unreadable = {}, tonumber(ARGV[1]), 0
for i = 4, #KEYS do
  while left > 0 do
    local item = redis.call('RPOP', KEYS[i])
    if not item then break end
    local ok, tag, exchange, key = pcall(function()
      local properties = cjson.decode(item)['properties']
      local info = properties['delivery_info']
      return properties['delivery_tag'], cjson.encode(info['exchange']), cjson.encode(info['routing_key'])
    end)
    if ok and type(tag) == 'string' then
      redis.call('ZADD', KEYS[1], ARGV[2], tag)
      redis.call('HSET', KEYS[2], tag, '[' .. item .. ', ' .. exchange .. ', ' .. key .. ']')
      answer[#answer + 1] = KEYS[i]
      answer[#answer + 1] = item
      left = left - 1
    else
      redis.call('LPUSH', KEYS[3], item)
      redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
      unreadable = unreadable + 1
    end
  end
end
answer[#answer + 1] = 'unreadable'
answer[#answer + 1] = unreadable
return answer
"""
# set aside: what was taken, and is no message after all, goes to the unreadable ones in one step.
# KEYS 1 unacked index  2 unacked  3 unreadable
# ARGV 1 the item, "" where only its tag is known  2 its tag, "" where only the item is  3 unreadable ones kept at most
_SET_ASIDE = """
local item, tag, known = ARGV[1], ARGV[2], ARGV[2] ~= ''
if not known then
  local ok, found = pcall(function() return cjson.decode(item)['properties']['delivery_tag'] end)
  tag = ok and type(found) == 'string' and found or nil
end
local note = tag and redis.call('HGET', KEYS[2], tag)
if known then item = note end
if note and (item == note or string.sub(note, 2, #item + 1) == item) then
  redis.call('ZREM', KEYS[1], tag)
  redis.call('HDEL', KEYS[2], tag)
end
if item then
  redis.call('LPUSH', KEYS[3], item)
  redis.call('LTRIM', KEYS[3], 0, ARGV[3] - 1)
end
"""
_TAKE_SHA = hashlib.sha1(_TAKE.encode()).hexdigest()  # noqa: S324  (Redis names scripts so)


def broken(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Those of kombu's connection errors that mean a broken connection: on Redis it counts any KeyError as one."""
    return tuple(error for error in errors if not issubclass(error, LookupError))


class QoS(kombu_redis.QoS):
    """Acks of one turn of the event loop together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's."""
        self._untold: list[str] = []
        self.noted: set[str] = set()
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    def append(self, message: Any, delivery_tag: str) -> None:
        """What the script has noted needs no second note."""
        if delivery_tag in self.noted:
            self.noted.discard(delivery_tag)
            virtual.QoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Note it now, tell Redis at the end of this turn; at once where no event loop turns (gevent)."""
        hub = self.channel.connection.loop
        if hub is None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
            return
        virtual.QoS.ack(self, delivery_tag)
        self._untold.append(delivery_tag)
        if len(self._untold) == 1:
            hub.call_soon(self.tell)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """One that cannot be read must not keep the others from coming back."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)  # type: ignore[no-untyped-call]
        except broken(self.channel.connection_errors):
            raise
        except (LookupError, ValueError, TypeError, RecursionError):
            self.channel.set_aside(tag=tag)

    def tell(self) -> None:
        """Take the acked messages off Redis."""
        tags, self._untold = self._untold, []
        if tags:
            with self.pipe_or_acquire() as pipe:
                pipe.zrem(self.unacked_index_key, *tags).hdel(self.unacked_key, *tags).execute()


class Doorbell:
    """A connection on which Redis says that one of the queues has changed; what it says is not read."""

    def __init__(self, channel: Channel, hub: Any, keys: frozenset[str]) -> None:
        """Raises RedisError or OSError when the server does not ring."""
        pool = channel.pool
        self.keys = keys
        self._hub = hub
        self._channel = channel
        self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        try:
            self._connection.connect()
            # What begins like another one is rung with it; the server refuses to be asked for both.
            heads = [key for key in keys if not any(key != other and key.startswith(other) for other in keys)]
            prefixes = [part for key in heads for part in ("PREFIX", key)]
            self._connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", *prefixes)
            self._connection.read_response()
        except BaseException:
            self._connection.disconnect()
            raise
        self._socket = self._connection._sock  # noqa: SLF001
        hub.add_reader(self._socket.fileno(), self._rung)

    def _rung(self) -> None:
        self._channel.ring()
        try:
            said = self._socket.recv(65_536)
        except OSError:
            said = b""
        if not said:
            self.close()

    def close(self) -> None:
        """Safe to call twice. The channel opens another one when it next looks."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._socket.fileno() >= 0:
            self._hub.remove(self._socket.fileno())
        connection.disconnect()
        self._channel.unhook(self)


class Channel(kombu_redis.Channel):
    """One client for as long as the channel lives; messages are taken and noted in one step."""

    QoS = QoS
    #: Cleared where the server does not ring.
    _rings = True
    _doorbell: Doorbell | None = None
    _worth_looking = True
    #: Whether the answer under way is the script's, and not BRPOP's.
    _taking = False
    _looked_at = 0.0

    def ring(self) -> None:
        """A queue has changed."""
        self._worth_looking = True

    def unhook(self, doorbell: Doorbell) -> None:
        """The doorbell is broken or closed."""
        if self._doorbell is doorbell:
            self._doorbell = None

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages when it is worth it; kombu calls this each turn of its event loop while there is room."""
        hub = self.connection.loop
        if hub is None or not self._rings:  # gevent: kombu's own way
            self._pop(timeout)
            return
        now = time.monotonic()
        if not self._worth_looking and now - self._looked_at < LOOK_S:
            return
        if not self._hung_up(hub):
            self._pop(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._worth_looking, self._looked_at, self._taking = False, now, True
        keys = [self._named(self._q_for_pri(queue, pri)) for pri in self.priority_steps for queue in queues]  # type: ignore[no-untyped-call]
        noted = [self._named(key) for key in (self.unacked_index_key, self.unacked_key, UNREADABLE)]
        room = self.qos.can_consume_max_estimate()
        wanted = TAKE_MAX if room is None else max(1, min(TAKE_MAX, room))
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, now  # type: ignore[assignment]
        arguments = [wanted, repr(time.time()), UNREADABLE_MAX]
        connection.send_command("EVALSHA", _TAKE_SHA, len(noted) + len(keys), *noted, *keys, *arguments)

    def _pop(self, timeout: float | None) -> None:
        self._taking = False
        super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> bool:
        """The answer: hand every message on."""
        if not self._taking:
            return self._popped(**options)
        connection = self.client.connection
        try:
            found = connection.read_response()
        except kombu_redis.exceptions.NoScriptError:
            self._own_client.script_load(_TAKE)
            self._worth_looking = True
            return False
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._taking = False
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        taken = [(found[i].decode(), found[i + 1]) for i in range(0, len(found) - 2, 2)]
        if found[-1]:
            self._told_unreadable(int(found[-1]))
        self._worth_looking = self._worth_looking or bool(taken)
        for key, item in taken:
            self._hand_on(self._queue_of(key), item, noted=True)
        return bool(taken)

    def _popped(self, **options: Any) -> bool:
        """The answer of BRPOP, as kombu reads it; it ends the worker with the first item that is no message."""
        connection = self.client.connection
        try:
            found = self.client.parse_response(connection, "BRPOP", **options)
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        if not found:
            raise Empty
        self._hand_on(bytes(found[0]).decode().rsplit(self.sep, 1)[0], found[1], noted=False)
        return True

    def _hand_on(self, queue: str, item: bytes, *, noted: bool) -> None:
        """One message to who consumes the queue; what is none is set aside."""
        tag = None
        try:
            if len(item) > ENVELOPE_MAX:
                raise ValueError("too large")  # noqa: TRY301  (as what cannot be read)
            message = loads(item)
            tag = message["properties"]["delivery_tag"]
            if not isinstance(tag, str) or not isinstance(message.get("headers") or {}, dict):
                raise TypeError("not kombu's form")  # noqa: TRY301
            if noted:
                self.qos.noted.add(tag)
            self._queue_cycle.rotate(queue)
            self.connection._deliver(message, queue)  # noqa: SLF001
        except broken(self.connection_errors):
            raise
        except Exception:  # noqa: BLE001  (I12: whatever it is, it ends with this item)
            if isinstance(tag, str):
                self.qos.noted.discard(tag)
            self.set_aside(item)
            self._told_unreadable(1)

    def set_aside(self, item: bytes = b"", tag: Any = "") -> None:
        """To the list of those that cannot be read, in one step."""
        noted = [self._named(key) for key in (self.unacked_index_key, self.unacked_key, UNREADABLE)]
        self._own_client.execute_command("EVAL", _SET_ASIDE, len(noted), *noted, item, tag, UNREADABLE_MAX)

    def _told_unreadable(self, count: int) -> None:
        tell("message.unreadable", count=count, kept_in=self._named(UNREADABLE))
        self.bury()

    def bury(self) -> None:
        """Have the dead letters take what could not be read."""
        refusals: Refusals | None = getattr(self.connection.client, "refusals", None)
        if refusals is not None:
            refusals.soon(lambda: self._bury(refusals))

    def _bury(self, refusals: Refusals) -> None:
        """One after the other; it leaves the list once its letter is written. In a thread of its own."""
        key, client = self._named(UNREADABLE), self._own_client
        try:
            while (item := client.execute_command("LINDEX", key, -1)) is not None:
                refusals.keep(of_envelope(bytes(item), UNREADABLE))
                client.execute_command("LREM", key, -1, item)
        except broken((*self.connection_errors, Reject)):  # the next worker that starts does it
            return

    def _receive(self) -> Any:
        """A broadcast that is none ends with itself: kombu prints it, or lets it end the worker."""
        try:
            return super()._receive()  # type: ignore[no-untyped-call]
        except broken((*self.connection_errors, Empty)):
            raise
        except Exception as error:
            tell("call.failed", call="broadcast", error=type(error).__name__)
            raise Empty from error

    def _do_restore_message(
        self, payload: Any, exchange: Any, routing_key: Any, pipe: Any, leftmost: bool = False
    ) -> None:
        """Kombu prints a message that it cannot put back, and loses it."""
        if not _may_return(payload):
            pipe.lpush(UNREADABLE, dumps(payload))
            return
        super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)  # type: ignore[no-untyped-call]

    def _hung_up(self, hub: Any) -> bool:
        """See that the doorbell hangs for every queue: Celery adds them one by one. Whether the server rings."""
        keys = frozenset(self._named(queue) for queue in self.active_queues)
        if self._doorbell is not None and self._doorbell.keys == keys:
            return True
        if self._doorbell is not None:
            self._doorbell.close()
        try:
            self._doorbell = Doorbell(self, hub, keys)
        except (kombu_redis.exceptions.ResponseError, kombu_redis.exceptions.NoPermissionError) as error:
            self._rings = False
            tell("broker.not_tracked", error=str(error))
        return self._rings

    def _named(self, key: str) -> str:
        return f"{self.global_keyprefix}{key}"

    def _queue_of(self, key: str) -> str:
        return key.removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]

    @cached_property
    def _own_client(self) -> Any:
        return super()._create_client()  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self._own_client  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Nothing that was acked is given back to the queue."""
        if self._doorbell is not None:
            self._doorbell.close()
        if not self.closed and self._qos is not None:
            self._qos.tell()
        super().close()  # type: ignore[no-untyped-call]


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


def _may_return(payload: Any) -> bool:
    """Whether kombu can note in a message that it has been delivered before."""
    properties = payload.get("properties") if isinstance(payload, dict) else None
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_info", {}), dict):
        return False
    if payload.get("headers") is None:
        payload["headers"] = {}
    return isinstance(payload["headers"], dict)


def lean(connection: Connection, refusals: Refusals | None = None) -> Connection:
    """The same connection over this transport, where it is Redis; before it is opened."""
    _make_lean(connection)
    celerys: Any = connection.switch

    def switch(address: str) -> None:
        """To the next of several addresses, which Celery does whenever one does not answer; over kombu's transport."""
        celerys(address)
        _make_lean(connection)

    setattr(connection, "switch", switch)  # noqa: B010  (of this connection alone)
    setattr(connection, "refusals", refusals)  # noqa: B010  (where the channel finds it)
    return connection


def _make_lean(connection: Connection) -> None:
    connection.transport_cls = _LEAN.get(connection.transport_cls, connection.transport_cls)
