"""Celery's result backend with the ledger's word between publishing what follows and storing the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import states
from celery.exceptions import Reject

from bridge.doors.celery.finish.finish_lease import FinishLease
from bridge.doors.celery.results.known_ids import GuardedBackend
from bridge.doors.celery.send_follow_ups import is_outage
from bridge.engine.tell.rpc_results import answers_senders, askers
from bridge.errors import JobError


class ComesAgain(Reject):  # type: ignore[misc]  # Celery has no types
    """An outage: the end is told in another turn, and `finish.failed` has said so.

    Celery's tracer passes a Reject on; of anything else it makes a failed task, for logs, signals and Sentry.
    """


class LedgerBackend:
    """Only an end that the ledger has is stored under a request's id."""

    def __init__(self, app: Any, guarded: GuardedBackend) -> None:
        """What is no end goes by `guarded`, which stores nothing under the id of a request."""
        self._app = app
        self._guarded = guarded

    @property
    def inner(self) -> Any:
        """Celery's own. Each thread may have another one: it is looked up at each call."""
        return self._app.backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guarded, name)

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, *args: Any, **kwargs: Any) -> None:
        """Called by the tracer after link and chain are out."""
        turn = turn_of(request)
        if turn is None:
            self._guarded.mark_as_done(task_id, result, request, *args, **kwargs)
            return
        turn.mark_continued()
        with _in_an_outage(turn, request):
            self.inner.mark_as_done(task_id, result, request, *args, **kwargs)
            self.tell_others(turn, states.SUCCESS, result)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, request: Any = None, **kwargs: Any) -> None:
        """Only the ledger's own end is stored: a fault of publishing or storing is no end of the request."""
        turn = turn_of(request)
        if turn is None:
            self._guarded.mark_as_failure(task_id, exc, *args, request=request, **kwargs)
            return
        if exc is not turn.end.result and not isinstance(exc, JobError):
            turn.could_not(request, exc)
            if is_outage(exc):
                raise ComesAgain(exc) from exc
            return
        del args  # the traceback of our own raise says nothing about the job
        with _in_an_outage(turn, request):
            self.inner.mark_as_failure(task_id, exc, None, request=request, **kwargs)
            self.tell_others(turn, states.FAILURE, exc)
        turn.mark_continued()

    def tell_others(self, turn: FinishLease, state: str, result: Any) -> None:
        """Those who sent the request again and wait at queues of their own."""
        backend = self.inner
        if answers_senders(backend):
            for asker in askers({"also": turn.canvas.get("also", ())}):
                backend.store_result(turn.held.record.id, result, state, request=asker)


@contextmanager
def _in_an_outage(turn: FinishLease, request: Any) -> Iterator[None]:
    """The turn is given back for what an outage interrupts; anything else is for Celery's tracer to tell."""
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise
        turn.could_not(request, error)
        raise ComesAgain(error) from error


def turn_of(request: Any) -> FinishLease | None:
    """The turn under way, where an end is told."""
    return getattr(request, "bridge_turn", None) if request is not None else None
