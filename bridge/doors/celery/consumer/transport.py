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

Redis may be up and refuse what it is asked (`bridge/outage.py`). What is done here is then tried again in place; kombu
and Celery, which know broken connections alone, are told of one (`Away`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from queue import Empty
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps, loads

from bridge.doors.celery.consumer import redis_scripts
from bridge.doors.celery.consumer.doorbell import Doorbell
from bridge.doors.celery.consumer.refuse import NotKept, of_envelope
from bridge.doors.celery.consumer.unpack import ENVELOPE_MAX
from bridge.outage import is_outage, said
from bridge.telemetry import redact, tell

if TYPE_CHECKING:
    from kombu import Connection

    from bridge.doors.celery.consumer.refuse import Refusals

ResponseError, NoScriptError = kombu_redis.exceptions.ResponseError, kombu_redis.exceptions.NoScriptError
#: Messages taken in one call at most.
TAKE_MAX = 16
#: Seconds between looks that nobody has rung for, as long as kombu's own BRPOP waits; and between tries in an outage.
LOOK_S = 1.0
#: Messages that cannot be read wait here until the dead letters hold them; the newest so many.
UNREADABLE, UNREADABLE_MAX = "bridge.unreadable", 1_000


class Away(kombu_redis.exceptions.ConnectionError):
    """Redis cannot do now what it was asked (`bridge/outage.py`): to kombu and Celery this is a broken connection."""


def broken(errors: tuple[type[BaseException], ...]) -> tuple[type[BaseException], ...]:
    """Those of kombu's connection errors that mean a broken connection: on Redis it counts any KeyError as one."""
    return tuple(error for error in errors if not issubclass(error, LookupError))


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
        except broken(channel.connection_errors):
            raise
        except (LookupError, ValueError, TypeError, RecursionError):
            channel.set_aside(tag=tag)
            return
        names = [channel.named(key) for key in (self.unacked_index_key, self.unacked_key, *keys)]
        with channel.conn_or_acquire() as found:
            redis_scripts.restore(found, names, tag, note or b"", message, leftmost=leftmost)

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
    #: What cannot be done while Redis is away (of "take", "ack", "rest"), and until when nothing is taken.
    _away: frozenset[str] = frozenset()
    _rests_until = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As kombu's, which asks Redis something."""
        #: Items that are no messages, and could not be kept yet: they are in no list of Redis any more.
        self._unkept: list[bytes] = []
        with self.outages():
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client; all that kombu does passes here. Raises Away for what another try may do."""
        with self.outages(), super().conn_or_acquire(client) as found:
            yield found

    @contextmanager
    def outages(self, what: str = "rest") -> Iterator[None]:
        """What Redis refuses, as Away; "take", "ack" or "rest"."""
        try:
            yield
        except ResponseError as error:
            if is_outage(error):
                self.outage(what, error)
            elif said(error).startswith("WRONGTYPE"):
                self.tidy()
            else:
                raise
            raise Away(said(error)) from error

    def outage(self, what: str, error: BaseException) -> None:
        """Redis is up, and does not do what it was asked: told once, and tried again with pauses."""
        if not self._away:
            tell("broker.unavailable", error=f"{type(error).__name__}: {redact('', said(error))}")
        self._away |= {what}

    def outage_is_over(self, what: str) -> None:
        """It was done."""
        self._away -= {what}

    def tidy(self, queues: Iterable[str] = ()) -> None:
        """Set aside what stands where the transport's keys are to be. Raises Away when Redis does not write."""
        lists = [self._q_for_pri(queue, pri) for queue in {*queues, *self.active_queues} for pri in self.priority_steps]  # type: ignore[no-untyped-call]
        kinds = {self.unacked_key: "hash", **dict.fromkeys([*lists, UNREADABLE], "list")}
        for exchange in {*queues, *self.state.exchanges}:
            kinds[self.keyprefix_queue % exchange] = "set"
        try:
            redis_scripts.tidy(
                self.own_client,
                self.named(self.unacked_index_key),
                self.named(self.unacked_mutex_key),
                self.unacked_mutex_expire,
                {self.named(key): kind for key, kind in kinds.items()},
            )
        except ResponseError as error:
            self.outage("rest", error)
            raise Away(said(error)) from error
        self.outage_is_over("rest")

    def ring(self) -> None:
        """A queue has changed."""
        self._worth_looking = True

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages when it is worth it; kombu calls this each turn of its event loop while there is room."""
        now = time.monotonic()
        if now < self._rests_until:
            return
        self._keep_unkept()
        hub = self.connection.loop
        if hub is None or not self._rings:  # gevent: kombu's own way
            self._pop(timeout)
            return
        if not self._worth_looking and now - self._looked_at < LOOK_S:
            return
        if not self._hung_up(hub):  # next turn
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._worth_looking, self._looked_at, self._taking = False, now, True
        keys = [self.named(self._q_for_pri(queue, pri)) for pri in self.priority_steps for queue in queues]  # type: ignore[no-untyped-call]
        room = self.qos.can_consume_max_estimate()
        wanted = TAKE_MAX if room is None else max(1, min(TAKE_MAX, room))
        connection = self.client.connection
        self._in_poll, self._brpop_sent_at = connection, now  # type: ignore[assignment]
        keys = [*self._noted_in, *keys]
        arguments = [wanted, repr(time.time()), UNREADABLE_MAX, uuid.uuid4().hex]
        connection.send_command("EVALSHA", redis_scripts.TAKE_SHA, len(keys), *keys, *arguments)

    def _pop(self, timeout: float | None) -> None:
        self._taking = False
        self.qos.tell()
        super()._brpop_start(timeout)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> bool:
        """The answer: hand every message on."""
        if not self._taking:
            return self._popped(**options)
        connection = self.client.connection
        try:
            found = connection.read_response()
        except NoScriptError:
            with suppress(Away), self.outages():
                self.own_client.script_load(redis_scripts.TAKE)
            self._worth_looking = True
            return False
        except ResponseError as error:
            self._rest("take", error)
            return False
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._taking = False
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        taken, unreadable, asides, fault = found
        redis_scripts.told_asides(asides)
        if unreadable:
            self._told_unreadable(int(unreadable))
        if fault:
            self._rest("take", ResponseError(fault.decode()))
        else:
            self.outage_is_over("take")
        self._worth_looking = self._worth_looking or bool(taken)
        for key, item, tag in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
            self._hand_on(self._queue_of(key.decode()), item, tag.decode())
        return bool(taken)

    def _rest(self, what: str, error: Exception) -> None:
        self.outage(what, error)
        self._rests_until, self._worth_looking = time.monotonic() + LOOK_S, True

    def _popped(self, **options: Any) -> bool:
        """The answer of BRPOP, as kombu reads it; it ends the worker with the first item that is no message."""
        connection = self.client.connection
        try:
            found = self.client.parse_response(connection, "BRPOP", **options)
        except ResponseError as error:
            if said(error).startswith("WRONGTYPE"):
                with suppress(Away):
                    self.tidy()
            else:
                self._rest("take", error)
            raise Empty from error
        except self.connection_errors:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]
        self.outage_is_over("take")
        if not found:
            raise Empty
        self._hand_on(bytes(found[0]).decode().rsplit(self.sep, 1)[0], found[1])
        return True

    def _hand_on(self, queue: str, item: bytes, noted: str | None = None) -> None:
        """One message to who consumes the queue, under the tag it is noted by; what is none is set aside."""
        tag = noted or uuid.uuid4().hex
        try:
            if len(item) > ENVELOPE_MAX:
                raise ValueError("too large")  # noqa: TRY301  (as what cannot be read)
            message = loads(item)
            properties = message["properties"]
            if not isinstance(properties["delivery_tag"], str) or not isinstance(message.get("headers") or {}, dict):
                raise TypeError("not kombu's form")  # noqa: TRY301
            properties["delivery_tag"] = tag
            if noted:
                self.qos.noted.add(tag)
            self._queue_cycle.rotate(queue)
            self.connection._deliver(message, queue)  # noqa: SLF001
        except broken(self.connection_errors):
            raise
        except Exception:  # noqa: BLE001  (I12: whatever it is, it ends with this item)
            self.qos.noted.discard(tag)
            try:
                self.set_aside(item, noted or "")
            except Away:
                if not noted:  # what is noted comes again
                    self._unkept.append(item)
                return
            self._told_unreadable(1)

    def set_aside(self, item: bytes = b"", tag: Any = "") -> None:
        """To the list of those that cannot be read, in one step; without an item the one noted by the tag."""
        with self.conn_or_acquire() as client:
            redis_scripts.set_aside(client, self._noted_in, item, tag, UNREADABLE_MAX)

    def _keep_unkept(self) -> None:
        while self._unkept:
            try:
                self.set_aside(self._unkept[-1])
            except Away:
                return
            self._unkept.pop()
            self._told_unreadable(1)

    def _told_unreadable(self, count: int) -> None:
        tell("message.unreadable", count=count, kept_in=self.named(UNREADABLE))
        self.bury()

    def bury(self) -> None:
        """Have the dead letters take what could not be read."""
        refusals: Refusals | None = getattr(self.connection.client, "refusals", None)
        if refusals is not None:
            refusals.soon(lambda: self._bury(refusals))

    def _bury(self, refusals: Refusals) -> None:
        """One after the other; it leaves the list once its letter is written. In a thread of its own."""
        key, client = self.named(UNREADABLE), self.own_client
        left = False
        try:
            for _ in range(client.llen(key)):
                if (item := client.execute_command("LINDEX", key, -1)) is None:
                    break
                try:
                    refusals.keep(of_envelope(bytes(item), UNREADABLE))
                except NotKept:  # behind the others
                    left = True
                    client.execute_command("RPOPLPUSH", key, key)
                else:
                    client.execute_command("LREM", key, -1, item)
            if left:
                refusals.later(lambda: self._bury(refusals))
        except broken((ResponseError, *self.connection_errors, Reject)):  # the next worker that starts does it
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

    def way_back(self, note: bytes) -> tuple[list[str], str]:
        """The lists that a noted message goes back to, and the message. Raises ValueError or its like for none.

        Kombu prints a message that it cannot put back, and loses it.
        """
        message, exchange, routing_key = loads(note)
        if not _may_return(message) or not isinstance(routing_key, str):
            return [UNREADABLE], dumps(message)
        message["headers"]["redelivered"] = True
        message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        priority = self._get_message_priority(message, reverse=False)  # type: ignore[no-untyped-call]
        queues = self._lookup(exchange, routing_key)  # type: ignore[no-untyped-call]
        if not queues:
            raise LookupError(routing_key)
        return [self._q_for_pri(queue, priority) for queue in queues], dumps(message)  # type: ignore[no-untyped-call]

    def _hung_up(self, hub: Any) -> bool:
        """See that the doorbell hangs for every queue: Celery adds them one by one. Whether the server rings."""
        keys = frozenset(self.named(queue) for queue in self.active_queues)
        if self._doorbell is not None and self._doorbell.hangs and self._doorbell.keys == keys:
            return True
        if self._doorbell is not None:
            self._doorbell.close()
        try:
            self._doorbell = Doorbell(self.pool, hub, keys, self.ring)
        except ResponseError as error:
            if is_outage(error) and not isinstance(error, kombu_redis.exceptions.NoPermissionError):
                self._rest("take", error)
                return False
            self._rings = False
            tell("broker.not_tracked", error=str(error))
        return self._rings

    @property
    def _noted_in(self) -> list[str]:
        return [self.named(key) for key in (self.unacked_index_key, self.unacked_key, UNREADABLE)]

    def named(self, key: str) -> str:
        """The key as Redis has it."""
        return f"{self.global_keyprefix}{key}"

    def _queue_of(self, key: str) -> str:
        return key.removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]

    @cached_property
    def own_client(self) -> Any:
        """For as long as the channel lives."""
        return super()._create_client()  # type: ignore[no-untyped-call]

    def _create_client(self, asynchronous: bool = False) -> Any:
        return super()._create_client(asynchronous=True) if asynchronous else self.own_client  # type: ignore[no-untyped-call]

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
