"""Accepts plain messages of `bridge.run` many in one round trip, without a Celery request and a pool task for each.

Celery hands every message to the task's strategy, which makes a request of it and sends that through the pool: 2 ms of
CPU before anything of ours runs (docs/performance.md). Nearly all messages need none of that, because accepting is one
write. So where the tasks run in threads beside us, plain messages are gathered here and accepted together; each is
acked once the ledger holds it (I1). Whatever is not plain (an expiry, a revoked id, task events, a signal),
and whatever is refused, goes Celery's own way; accepting twice is accepting once (I2).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app import trace
from celery.app.task import Context
from celery.concurrency.thread import TaskPool
from celery.exceptions import Reject
from celery.worker import state
from celery.worker.strategy import default, logger

from bridge.doors.celery.accept.eta import at_once, keep_eta_apart
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.doors.celery.worker.listeners import heard, task_events_wanted
from bridge.doors.celery.worker.redacted_request import shown, shown_args
from bridge.runtime.queue_thread import QueueThread
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.accept.accept import Accept, Prepared, Verdict
    from bridge.engine.notifier import Notifier

#: Where Celery finds `strategy`.
STRATEGY = "bridge.doors.celery.accept.in_bulk:strategy"
#: Messages in one round trip; the broker hands out no more than the worker's prefetch count anyway.
BATCH = 64
#: Makes a record of a message's context, args and kwargs. Raises JobRejected.
Prepare = Callable[[Context, tuple[Any, ...], dict[str, Any]], "Prepared"]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A message, and what Celery gave with it."""

    message: Any
    ack: Callable[..., None]
    reject: Callable[..., None]
    alone: Callable[[], None]
    hostname: str
    errors: tuple[type[Exception], ...]


class BatchAccept:
    """One per app; its thread starts with the first message."""

    def __init__(
        self, into: Callable[[], tuple[Accept, Notifier]], prepare: Prepare, passed: Callable[[], None]
    ) -> None:
        """`into` gives what this process accepts into; `prepare` writes nothing; `passed` hears that one was."""
        self._into = into
        self._passed = passed
        self._prepare = prepare
        self._background = QueueThread("bridge-accept", self._work, at_once=BATCH)

    def put(self, taken: _Taken) -> None:
        """Have a message accepted soon."""
        self._background.put(taken)

    def _work(self, batch: list[_Taken]) -> None:
        ready: list[tuple[_Taken, Prepared]] = []
        for taken in batch:
            try:
                ready.append((taken, self._read(taken)))
            except Exception:  # noqa: BLE001  (refused, or unreadable: Celery's own way tells it)
                taken.alone()
        if not ready:
            return
        # What went its own way is in none of what follows: it would be refused, and tell its errbacks, twice.
        try:
            self._accept(ready)
        except Reject:  # told to stop while the ledger is away
            for taken, _ in ready:
                taken.reject(logger, taken.errors, True)
        except Exception as error:  # noqa: BLE001  (one of them must not stop the others: each alone, told by Celery)
            tell("call.failed", call="accept", error=f"{type(error).__name__}: {error}")
            for taken, _ in ready:
                taken.alone()

    def _accept(self, ready: list[tuple[_Taken, Prepared]]) -> None:
        accept, notifier = self._into()
        verdicts: list[Verdict] = wait_for_ledger(lambda: accept.many([prepared for _, prepared in ready]))
        self._passed()
        notifier.accepted(*verdicts)
        for (taken, prepared), verdict in zip(ready, verdicts, strict=True):
            if verdict.kind == "conflict" or (verdict.kind == "repeat" and prepared.origin.tells_celery):
                taken.alone()
            else:
                taken.ack(logger, taken.errors)

    def _read(self, taken: _Taken) -> Prepared:
        args, kwargs, embed = taken.message.payload
        context = context_of(taken.message, taken.hostname, args, kwargs, embed)
        if logger.isEnabledFor(logging.INFO):
            told = {
                "id": context.id,
                "name": context.shadow or context.task,
                "args": shown_args(args),
                "kwargs": shown(kwargs),
                "eta": None,
            }
            logger.info(trace.LOG_RECEIVED, told, extra={"data": told})
        return self._prepare(context, args, kwargs)


def context_of(message: Any, hostname: str, args: Any, kwargs: Any, embed: Mapping[str, Any] | None) -> Context:
    """What a task would see as `self.request`, from its message (`celery.worker.request.Request`)."""
    properties, delivery_info = message.properties or {}, message.delivery_info or {}
    return Context(
        {
            **message.headers,
            "properties": properties,
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id"),
            "hostname": hostname,
            "delivery_info": {
                "exchange": delivery_info.get("exchange"),
                "routing_key": delivery_info.get("routing_key"),
                "priority": properties.get("priority"),
                "redelivered": delivery_info.get("redelivered", False),
            },
            "is_eager": False,
            **(embed or {}),
        },
        args=args,
        kwargs=kwargs,
        called_directly=False,
    )


def strategy(task: Any, app: Any, consumer: Any, **_options: Any) -> Callable[..., None]:
    """Celery's entry for each message of the task."""
    celerys = at_once(default(task, app, consumer), app)
    hub = consumer.hub
    if hub is None or not isinstance(consumer.pool, TaskPool):
        return celerys
    batch_accept: BatchAccept = task.batch_accept
    hostname, errors = consumer.hostname, consumer.connection_errors

    def plain(message: Any) -> bool:
        headers = message.headers
        return not (
            headers.get("expires")
            or headers.get("stamped_headers")
            or headers["id"] in state.revoked
            or (task.send_events and task_events_wanted(consumer.event_dispatcher))
            or consumer.task_buckets[task.name]
            or heard(signals.task_received)
        )

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        keep_eta_apart(message, app)
        if body is not None or callbacks or not plain(message):
            celerys(message, body, ack, reject, callbacks)
            return

        def alone() -> None:  # the loop calls it outside of the consumer's own handler
            hub.call_soon(consumer.guarded, message, lambda: celerys(message, body, ack, reject, callbacks))

        batch_accept.put(_Taken(message, ack, reject, alone, hostname, errors))

    return handle
