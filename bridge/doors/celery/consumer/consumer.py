"""Celery's consumer, which looks at the queues each time it has connected, before anything would declare them.

Every message passes through `create_task_handler`, and whatever Celery or kombu cannot do with one comes to `refuse`:
what one message does wrong ends with that message, and what may be no fault of its own is tried again (`whose_fault`).
What a broadcast has done later, on the event loop, passes through `call_soon`. And a broker that refuses a worker which
has once been ready is waited for, like one that is away.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery.concurrency.thread import TaskPool
from celery.exceptions import InvalidTaskError
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import MessageStateError

from bridge.doors.celery import servers
from bridge.doors.celery.consumer.check_message import MessageFault, check, fault_of
from bridge.doors.celery.consumer.queues import find_queues, take_delayed
from bridge.doors.celery.consumer.redis_transport.channel import Channel
from bridge.doors.celery.consumer.redis_transport.outages import LOOK_S, Away, broken
from bridge.doors.celery.consumer.redis_transport.transport import lean
from bridge.doors.celery.consumer.refuse import logger, of_message
from bridge.doors.celery.consumer.unpack import TooLarge, bound
from bridge.doors.celery.send_follow_ups import is_outage
from bridge.doors.celery.worker.thread_pool import take_with_what_there_is
from bridge.doors.whose_fault import Suspicion, WhoseFault, is_own
from bridge.errors import SettingsError
from bridge.job.enums import DeadReason
from bridge.runtime import broker_connection
from bridge.runtime.backoff import backoff
from bridge.telemetry import redact, tell

if TYPE_CHECKING:
    from bridge.doors.celery.consumer.refuse import Refusals

#: Celery's own tasks that run other tasks right here, in a thread of the pool, or are kept for Celery 3. Of the rest
#: `chord_unlock` belongs to results that cannot count a chord's members, `accumulate` to tasks that become a group.
_NONE_OF_OURS = ("map", "starmap", "chunks", "group", "chain", "chord")


#: What says that it is the message that is wrong.
_OF_MESSAGE = (MessageFault, TooLarge, InvalidTaskError, ContentDisallowed, DecodeError)
#: Seconds: a connection that has held so long was a good one; between tries where the broker refuses; between lines.
GOOD_S, TRY_S, TRY_MAX_S, TELL_S = 5.0, 0.5, 5.0, 60.0


class BridgeConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps; they end the worker with whatever the broker refuses."""

        def start(self, parent: BridgeConsumer) -> None:
            """Connect and consume, until the connection ends."""
            try:
                super().start(parent)
            except Exception as error:
                if not parent.waits_for(error):
                    raise
                raise ConnectionResetError(str(redact("", str(error)))) from error

    #: Set by `refuse.RefuseStep`, before anything connects.
    refusals: Refusals
    reading_frames: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Celery builds it."""
        self._added: set[str] = set()
        #: By task; one for all that this worker does not have.
        self._whose: defaultdict[str | None, WhoseFault] = defaultdict(WhoseFault)
        self._once_ready = False
        self._ready_at: float | None = None
        self._tries = 0
        self._tell_at = 0.0
        super().__init__(*args, **kwargs)
        if isinstance(self.pool, TaskPool):
            take_with_what_there_is(self.pool.executor)

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Over the bridge's own form of Celery's Redis transport, or with frames read that py-amqp cannot."""
        bound()
        connection = lean(self.app.connection_for_read(heartbeat=heartbeat), self.refusals)
        if connection.transport.driver_type == "amqp":
            options = connection.transport_options or {}
            connection.transport_options = {**options, "frame_handler": self.reading_frames}
        return broker_connection.bound(self.ensure_connected(connection))

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Celery's own, which its events leave on; without confirms, which nobody waits for without harm.

        With the gevent pool several greenlets read from this connection: one took the confirm that another waited for,
        and a heartbeat under way kept the worker from stopping until RabbitMQ's next word, half a minute later.
        """
        options = {"confirm_publish": False} if "confirm_publish" in self.app.conf.broker_transport_options else {}
        made = self.app.connection_for_write(url=url, heartbeat=heartbeat, transport_options=options)
        return broker_connection.bound(self.ensure_connected(made))

    def connect(self) -> Any:
        """A queue may have come or gone since the last connection."""
        connection = super().connect()
        find_queues(self.app, connection)
        channel = connection.default_channel
        if isinstance(channel, Channel):
            self._tidy(channel)
            channel.bury()  # what a worker that died has left there
        return connection

    def stop(self) -> None:
        """As Celery's, which says goodbye on every channel and waits for each answer without end."""
        for connection in (self.connection, getattr(self.event_dispatcher, "connection", None)):
            broker_connection.drop_if_silent(connection)
        super().stop()

    def _tidy(self, channel: Channel) -> None:
        """Where Redis does not write, a worker that starts ends and says why; one that has worked waits."""
        while True:
            try:
                channel.tidy(self.app.amqp.queues)
            except Away as away:
                if not self._once_ready and away.__cause__ is not None:
                    raise away.__cause__ from None
                state.maybe_shutdown()
                time.sleep(LOOK_S)
            else:
                return

    def on_ready(self) -> None:
        """It consumes."""
        super().on_ready()
        take_delayed(self.app, self.connection)
        self._once_ready, self._ready_at = True, time.monotonic()
        servers.standing.refused = None

    def waits_for(self, error: Exception) -> bool:
        """Whether the broker refuses what it has given before: then wait a moment, and connect anew.

        An operator has changed a password, a permission or a limit, and will mend it; or RabbitMQ has closed a channel
        whose message was not acked within `consumer_timeout` (30 min), and messages are held for as long as the ledger
        is away (I1). All of them come again on the next connection. Where Celery itself waits, it does.
        """
        known = servers.explained(error)
        if not (isinstance(error, self.channel_errors) or isinstance(known, SettingsError)):
            return False
        if not self._once_ready:
            return False
        good = self._ready_at is not None and time.monotonic() - self._ready_at > GOOD_S
        self._ready_at = None
        if good:  # what has happened is told by the next connection, if that fails
            self._tries, self._tell_at = 0, 0.0
            return True
        for queue in list(self._added):
            tell("call.failed", call=f"add_consumer {queue}", error=type(error).__name__)
            self._let_go_of(queue)
        self._tries += 1
        servers.standing.refused = str(known or servers.said(error))
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_S
            tell("broker.refused", error=servers.standing.refused, tries=self._tries)
        again_at = time.monotonic() + backoff(self._tries, TRY_S, TRY_MAX_S)
        while time.monotonic() < again_at:
            state.maybe_shutdown()
            time.sleep(0.1)
        return True

    # What a broadcast has done

    def call_soon(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As Celery's, but what goes wrong ends with the call: the loop would end the worker with it."""
        errors = self.connection_errors
        if self.app.connection_for_read().transport.driver_type == "amqp":
            errors = (*errors, *self.channel_errors)  # its channel is gone with it

        def call() -> None:
            try:
                p(*args, **kwargs)
            except broken(errors):
                raise
            except Exception as error:  # noqa: BLE001  (whatever somebody has broadcast)
                tell("call.failed", call=getattr(p, "__name__", "broadcast"), error=f"{type(error).__name__}: {error}")

        return super().call_soon(call)

    def call_soon_ack(self, p: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As Celery's, which ends the worker where a message that was tried again has been settled by its first try."""

        def settle() -> None:
            with contextlib.suppress(MessageStateError):
                p(*args, **kwargs)

        soon: Any = getattr(super(), "call_soon_ack", super().call_soon)  # Celery 5.6 has one for both
        return soon(settle)

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """As Celery's; one that cannot be consumed is forgotten, so that the next connection does without it."""
        known = queue in self.app.amqp.queues.consume_from
        try:
            super().add_task_queue(queue, *args, **options)
        except Exception:
            if not known:
                self._let_go_of(queue)
            raise
        if not known:
            self._added.add(queue)

    def _let_go_of(self, queue: str) -> None:
        self._added.discard(queue)
        queues = self.app.amqp.queues
        queues.deselect(queue)
        queues.pop(queue, None)
        with contextlib.suppress(Exception):  # it never was consumed, or its channel is gone
            self.task_consumer.cancel_by_queue(queue)

    def update_strategies(self) -> None:
        """A message for one of those is as one for a task that nobody has."""
        super().update_strategies()
        for name in _NONE_OF_OURS:
            self.strategies.pop(f"celery.{name}", None)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Celery's own handler, for messages that can be read."""
        celerys = super().create_task_handler(*args, **kwargs)

        def read(message: Any) -> None:
            check(message)
            celerys(message)

        return lambda message: self.guarded(message, lambda: read(message))

    def guarded(self, message: Any, call: Callable[[], Any], suspicion: Suspicion | None = None) -> None:
        """Do what is to be done with a message: what goes wrong ends with it, or is tried again if it may be good."""
        try:
            call()
        except broken(self.connection_errors):
            raise
        except Exception as error:  # noqa: BLE001  (I12: one of them must not stop the others)
            if isinstance(error, _OF_MESSAGE) and not is_own(error):
                self.refuse(message, fault_of(error))
            else:
                self._suspect(message, call, error, suspicion)
        else:
            self._way_of(message).passed()

    def _way_of(self, message: Any) -> WhoseFault:
        task = message.headers.get("task") if isinstance(message.headers, dict) else None
        return self._whose[task if isinstance(task, str) and task in self.strategies else None]

    def _suspect(self, message: Any, call: Callable[[], Any], error: Exception, before: Suspicion | None) -> None:
        """Hold a message that may be good, unacked, and try it again; set it aside once it is to blame."""
        if getattr(message, "acknowledged", False):
            return
        suspicion = self._way_of(message).met(error, before, own=is_outage(error))
        if suspicion is None:
            self.refuse(message, fault_of(error))
            return
        tell("door.suspect", tries=suspicion.tries, error=type(error).__name__)
        connection = self.connection

        def again() -> None:
            if self.connection is not connection or message.acknowledged:
                return  # the broker delivers it again
            if message.errors:  # unpacked as it was made, and never again
                message.reject_log_error(logger, self.connection_errors, requeue=True)
            else:
                self.guarded(message, call, suspicion)

        self.timer.call_after(suspicion.wait_s, lambda: self.call_soon(again))

    def refuse(self, message: Any, fault: MessageFault) -> None:
        """Set a message aside: it is acked once the dead letters hold it."""
        if getattr(message, "acknowledged", False):
            return
        refused = of_message(message, fault)
        errors = self.connection_errors
        refused = replace(
            refused,
            done=lambda: self.call_soon_ack(message.ack_log_error, logger, errors),
            give_back=lambda: self.call_soon_ack(message.reject_log_error, logger, errors, True),
        )
        self.refusals.put(refused)

    # What Celery does with such messages prints them, and forgets them.

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """It names no task."""
        self.refuse(
            message, MessageFault(DeadReason.UNKNOWN_KIND, "task: is named neither by the headers nor by the body")
        )

    def on_unknown_task(self, _body: Any, message: Any, _exc: BaseException) -> None:
        """It names one that this app does not have."""
        self.refuse(message, MessageFault(DeadReason.UNKNOWN_KIND, "task: is none that this worker has"))

    def on_invalid_task(self, _body: Any, message: Any, exc: BaseException) -> None:
        """Celery's own rules."""
        self.refuse(message, fault_of(exc))

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """Neither unpacked nor decoded."""
        self.refuse(message, fault_of(exc))
