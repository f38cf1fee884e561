"""The first half of a Celery-born request, without the price of Celery's tracer for a task that ends with Ignore.

Celery answers `Ignore` by building a picklable traceback of its own tracer, twice: 1.5 ms of CPU for nothing that
anybody sees, more than all the rest of taking a request in (docs/performance.md). So the plain case is traced here:
the request is accepted, and the worker hears "ignored". Everything else goes through Celery's own tracer, which runs
the body: a refusal is raised there, a fault met again; accepting twice is accepting once (I2). Who listens around tasks
(`task_prerun`, Sentry, OpenTelemetry) hears of the end alone (`finish/task.py`): one task, one span.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.app.task import Context
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore
from celery.states import IGNORED

from bridge.doors.celery.results.known_ids import GuardedTask
from bridge.errors import JobRejected

#: Under which a request that is refused comes to the task's body, by the tracer.
_REFUSED = "bridge_refused"


class Ignored:
    """What the worker is told instead of an ExceptionInfo: it reads `exception` alone, and acks."""

    exception = Ignore()
    traceback = ""
    internal = True


_IGNORED = Ignored()


def ignored() -> Any:
    """What a tracer answers for a task that is to be acked, and nothing else."""
    return trace_ok_t(_IGNORED, TraceInfo(IGNORED, _IGNORED.exception), 0.0, None)


class OwnTraceTask(GuardedTask):
    """Base of tasks whose messages go to their own `_trace`, with Celery's tracer at hand."""

    _tracer: Any = None

    @property
    def __trace__(self) -> Any:
        """What the worker calls for a message; None until it has built its own."""
        return None if self._tracer is None else self._trace

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        self._take_tracer(tracer)

    def _take_tracer(self, tracer: Any) -> None:
        self._tracer = tracer

    def _trace(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        raise NotImplementedError


class AcceptTask(OwnTraceTask):
    """Base of `bridge.run`. `accept(context, args, kwargs)` raises Ignore when the ledger holds the request."""

    accept: Callable[[Context, tuple[Any, ...], dict[str, Any]], None]

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The body, for Celery's tracer."""
        refused = self.request.get(_REFUSED)
        if isinstance(refused, JobRejected):
            raise refused
        self.accept(self.request, args, kwargs)

    def _trace(self, uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        try:
            context = Context(request or {}, args=args, called_directly=False, kwargs=kwargs)
            self.accept(context, args, kwargs)
        except Ignore:
            return ignored()
        except JobRejected as refused:  # looked at and kept: the tracer tells it
            return self._tracer(uuid, args, kwargs, {**(request or {}), _REFUSED: refused})
        except Exception:  # noqa: BLE001  (told by Celery's own tracer, which meets it again)
            return self._tracer(uuid, args, kwargs, request)
        return self._tracer(uuid, args, kwargs, request)
