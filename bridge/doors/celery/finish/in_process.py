"""Runs `bridge.finish` in the process that found the end, without a message to itself.

The ledger already sends a finish until it is delivered (I8), so the broker adds nothing to its safety: where the engine
lives in a bridge worker with the threads pool, Celery's own tracer is called right here, with what the message would
have carried. Everywhere else, and while somebody listens to task events (which belong to messages), it goes by message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.concurrency.thread import TaskPool

from bridge.doors.celery.finish.plain import PlainEnds
from bridge.doors.celery.listeners import task_events_wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.worker import WorkController

    from bridge.job.document import Held


class InProcessFinish:
    """Called by the finish loop, in a thread of its own for each end."""

    def __init__(self, task: Any, plain: PlainEnds, listened_to: Callable[[], bool]) -> None:
        """`task` is `bridge.finish`; `listened_to` says whether task events are wanted now."""
        self._task = task
        self._listened_to = listened_to
        self._plain = plain

    def ready(self) -> bool:
        """Whether ends may be told here now."""
        return self._task.__trace__ is not None and not self._listened_to()

    def plain(self, held: Held) -> bool:
        """Whether `store` takes this end."""
        return self._plain.ready() and self._plain.takes(held)

    def store(self, batch: Sequence[Held]) -> Sequence[Held]:
        """Plain ends, together. Returns those that must be traced all the same."""
        return self._plain(batch)

    def __call__(self, request_id: str, message: Any, headers: dict[str, Any] | None) -> None:
        """Trace one finish, as the worker would that had taken its message."""
        args, kwargs, embed = message.body
        request = {
            **(headers or {}),
            **message.headers,
            "properties": message.properties,
            "reply_to": message.properties.get("reply_to"),
            "correlation_id": message.properties.get("correlation_id"),
            "delivery_info": {},
            "args": args,
            "kwargs": kwargs,
            "is_eager": False,
            **embed,
        }
        self._task.__trace__(request_id, args, kwargs, request)


def in_process_finish(worker: WorkController, plain: PlainEnds) -> InProcessFinish | None:
    """For this worker; None where tasks do not run in the engine's own process."""
    if not isinstance(worker.pool, TaskPool):
        return None

    def listened_to() -> bool:
        return task_events_wanted(getattr(getattr(worker, "consumer", None), "event_dispatcher", None))

    return InProcessFinish(worker.app.tasks["bridge.finish"], plain, listened_to)
