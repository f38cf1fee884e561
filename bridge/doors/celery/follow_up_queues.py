"""What follows requests, as this worker sends it: into which queue it goes, and that the queue is used as it is found.

Celery's tracer publishes links, chains, errbacks and chord bodies by the bridge's app, which knows none of their tasks.
They go to the queue that they name (`queue`, or `exchange` and `routing_key`: all that a message tells of another app's
routes), else by the bridge's own routes, else to BRIDGE_DEFAULT_QUEUE.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP, Queues
from celery.signals import after_task_publish
from kombu import Queue
from kombu.exceptions import OperationalError

from bridge.doors.celery import servers
from bridge.doors.celery.consumer.queues import exists
from bridge.engine.tell.follow_up_readers import Depth
from bridge.errors import LedgerError, ServerUnavailable
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery import Celery

    from bridge.ledger.stores.follow_up_queues import FollowUps

#: Seconds between two notes of one queue.
NOTED_S = 10.0
NAMES_MAX = 1_000


def depths(app: Celery, queues: Iterable[str]) -> dict[str, Depth]:
    """As the broker has them; a queue that does not exist has nothing. Raises ServerUnavailable."""
    found = {}
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=5)
            counts_readers = connection.transport.driver_type == "amqp"
            for queue in queues:
                channel: Any = connection.channel()  # its own: one that met a fault is closed
                try:
                    told = channel.queue_declare(queue=queue, passive=True)
                except connection.channel_errors:
                    found[queue] = Depth(0, 0 if counts_readers else None)
                    continue
                channel.close()
                found[queue] = Depth(told.message_count, told.consumer_count if counts_readers else None)
    except (OSError, OperationalError) as error:
        raise servers.explained(error) or ServerUnavailable(f"{servers.BROKER}: {error}") from None
    return found


class FoundQueue(Queue):
    """One that may be another team's: declared only where there is none, whatever its type and arguments are."""

    def declare(self, nowait: bool = False, channel: Any = None) -> str:
        """Once for each connection; kombu remembers."""
        bound: Any = channel or self.channel
        connection = bound.connection.client
        if connection.transport.driver_type == "amqp" and exists(connection, self.name):
            return str(self.name)
        return str(super().declare(nowait=nowait, channel=channel))  # type: ignore[no-untyped-call]


class _Queues(Queues):  # type: ignore[misc]
    """Queues that are only sent to stay apart from those that are read, also when the worker connects anew."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._apart: dict[str, Queue] = {}

    def __missing__(self, name: str) -> Queue:
        if not self.create_missing:
            raise KeyError(name)
        if name not in self._apart:
            if len(self._apart) >= NAMES_MAX:
                self._apart.clear()
            made = self.new_missing(name)
            arguments = dict(made.queue_arguments or {})
            if self.max_priority is not None:
                arguments.setdefault("x-max-priority", self.max_priority)
            self._apart[name] = FoundQueue(  # type: ignore[no-untyped-call]
                name, made.exchange, made.routing_key, queue_arguments=arguments or None
            )
        return self._apart[name]


class BridgeAMQP(AMQP):  # type: ignore[misc]
    """The app's `amqp`."""

    queues_cls = _Queues


class Noticing:
    """Notes the queues of what follows; kept by the worker's step, because Celery's signals hold nothing."""

    def __init__(self, kept: Callable[[], FollowUps], default_queue: str) -> None:
        """`kept` is this process' own. Before the pool forks, so that its children do the same."""
        self._kept = kept
        self._default_queue = default_queue
        self._noted: dict[str, float] = {}
        self._told: set[str] = set()
        after_task_publish.connect(self._sent)

    def _sent(self, sender: str | None = None, routing_key: str | None = None, **_kwargs: Any) -> None:
        task, queue = str(sender), str(routing_key or "")
        if task.startswith("bridge.") or not queue:
            return
        if queue == self._default_queue and task not in self._told and len(self._told) < NAMES_MAX:
            self._told.add(task)
            tell("followup.unrouted", task=task, queue=queue)
        now = time.monotonic()
        if now - self._noted.get(queue, -NOTED_S) < NOTED_S:
            return
        if len(self._noted) >= NAMES_MAX:
            self._noted.clear()
        self._noted[queue] = now
        with suppress(LedgerError):  # told by whoever works on it; the next message notes it again
            self._kept().sent(queue)
