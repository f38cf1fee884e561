"""Tells a chord of one member's end, as Celery's tracer does once the end is stored, without the tracer."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack

from bridge.doors.celery.finish.task import Telling
from bridge.doors.celery.send_follow_ups import sending_behind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from celery.app.task import Context

    from bridge.doors.celery.finish.finish_lease import FinishLease


def tell_chord(app: Celery, turn: FinishLease, request: Context) -> None:
    """Celery's backend counts the member, `request`, and sends the chord's body behind its last.

    What goes wrong gives the turn back.
    """
    record = turn.held.record
    turn.mark_continued()
    with (
        sending_behind(Telling(record.id, record.round, record.nonce, turn=turn)),
        _at_work(app.tasks["bridge.run"], request),
    ):
        try:
            app.backend.on_chord_part_return(request, turn.end.state, turn.end.result)
        except Exception as error:  # noqa: BLE001  (Celery's words for it are many; the turn tells outages apart)
            turn.could_not(request, error)


@contextmanager
def _at_work(task: Any, request: Context) -> Iterator[None]:
    """Celery takes the root and the parent of what is sent from the task at work."""
    _task_stack.push(task)
    task.request_stack.push(request)
    try:
        yield
    finally:
        task.request_stack.pop()
        _task_stack.pop()
