"""Runs `bridge.finish` in the process that found the end, without a message to itself.

The ledger already sends a finish until it is delivered (I8), so the broker adds nothing to its safety: where the engine
lives in a bridge worker with the threads pool, Celery's own tracer is called right here, with what the message would
have carried. Everywhere else it goes by message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.concurrency.thread import TaskPool

from bridge.doors.celery.finish.in_bulk import PlainEnds
from bridge.doors.celery.finish.task import KNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.worker import WorkController

    from bridge.job.document import Held


class InProcessFinish:
    """Called by the finish loop, in a thread of its own for each end."""

    def __init__(self, task: Any, plain: PlainEnds, hostname: str) -> None:
        """`task` is `bridge.finish`, `hostname` the worker's."""
        self._task = task
        self._hostname = hostname
        self._plain = plain

    def ready(self) -> bool:
        """Whether ends may be told here now."""
        return self._task.__trace__ is not None

    def plain(self, held: Held) -> bool:
        """Whether `store` takes this end."""
        return self._plain.ready() and self._plain.takes(held)

    def store(self, batch: Sequence[Held], *, whole: bool) -> Sequence[Held]:
        """Plain ends, together. Returns those that must be traced all the same."""
        return self._plain(batch, whole=whole)

    def __call__(
        self, request_id: str, message: Any, headers: dict[str, Any] | None, known: Held | None = None
    ) -> None:
        """Trace one finish, as the worker would that had taken its message; what is `known` is not read again."""
        args, kwargs, embed = message.body
        request = {
            **(headers or {}),
            **message.headers,
            "properties": message.properties,
            "reply_to": message.properties.get("reply_to"),
            "correlation_id": message.properties.get("correlation_id"),
            "hostname": self._hostname,
            "delivery_info": {},
            "args": args,
            "kwargs": kwargs,
            "is_eager": False,
            KNOWN: known,
            **embed,
        }
        self._task.__trace__(request_id, args, kwargs, request)


def in_process_finish(worker: WorkController, plain: PlainEnds) -> InProcessFinish | None:
    """For this worker; None where tasks do not run in the engine's own process."""
    if not isinstance(worker.pool, TaskPool):
        return None
    return InProcessFinish(worker.app.tasks["bridge.finish"], plain, worker.hostname)
