"""How messages are taken off Redis and noted in one step, and put back."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps, loads

from bridge.doors.celery.consumer.redis_transport import scripts
from bridge.doors.celery.consumer.redis_transport.acks import QoS
from bridge.doors.celery.consumer.redis_transport.doorbell import Doorbell
from bridge.doors.celery.consumer.redis_transport.foreign_messages import UNREADABLE_MAX, KeepingChannel
from bridge.doors.celery.consumer.redis_transport.outages import LOOK_S, UNREADABLE, Away, ResponseError, broken
from bridge.doors.celery.consumer.unpack import ENVELOPE_MAX
from bridge.doors.whose_fault import is_own
from bridge.redis.outage import is_outage, said
from bridge.telemetry import tell

NoScriptError = kombu_redis.exceptions.NoScriptError
#: Messages taken in one call at most.
TAKE_MAX = 16


class Channel(KeepingChannel):
    """Messages are taken and noted in one step."""

    QoS = QoS
    #: Cleared where the server does not ring.
    _rings = True
    _doorbell: Doorbell | None = None
    _worth_looking = True
    #: Whether the answer under way is the script's, and not BRPOP's.
    _taking = False
    _looked_at = 0.0
    #: Until when nothing is taken.
    _rests_until = 0.0

    def ring(self) -> None:
        """A queue has changed."""
        self._worth_looking = True

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for messages when it is worth it; kombu calls this each turn of its event loop while there is room."""
        now = time.monotonic()
        if now < self._rests_until:
            return
        self.keep_unkept()
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
        keys = [*self.noted_in, *keys]
        arguments = [wanted, repr(time.time()), UNREADABLE_MAX, uuid.uuid4().hex]
        connection.send_command("EVALSHA", scripts.TAKE_SHA, len(keys), *keys, *arguments)

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
                self.own_client.script_load(scripts.TAKE)
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
        scripts.told_asides(asides)
        if unreadable:
            self.told_unreadable(int(unreadable))
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
        except Exception as error:  # noqa: BLE001  (I12: whatever it is, it ends with this item)
            self.qos.noted.discard(tag)
            if noted and is_own(error):  # it comes again by its note
                tell("door.suspect", tries=1, error=type(error).__name__)
                return
            try:
                self.set_aside(item, noted or "")
            except Away:
                if not noted:  # what is noted comes again
                    self._unkept.append(item)
                return
            self.told_unreadable(1)

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
        if not queues and str(exchange).startswith("reply.") and str(exchange).endswith(".pidbox"):
            return [], ""  # an answer of a worker to one that asked and is gone: nobody waits for it
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

    def _queue_of(self, key: str) -> str:
        return key.removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]

    def close(self) -> None:
        """Nothing that was acked is given back to the queue."""
        if self._doorbell is not None:
            self._doorbell.close()
        if not self.closed and self._qos is not None:
            self._qos.tell()
        super().close()  # type: ignore[no-untyped-call]


def _may_return(payload: Any) -> bool:
    """Whether kombu can note in a message that it has been delivered before."""
    properties = payload.get("properties") if isinstance(payload, dict) else None
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_info", {}), dict):
        return False
    if payload.get("headers") is None:
        payload["headers"] = {}
    return isinstance(payload["headers"], dict)
