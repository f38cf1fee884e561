"""Celery's result backend as this worker uses it: what stands under an id is not believed, and not taken from anybody.

Results are stored under more ids than the task's own: a member of a chain that will not run, a chord's body, a
follow-up that cannot be sent. Each of those ids comes out of a message, and a message may name anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery import group
from celery._state import get_current_task
from celery.backends.redis import RedisBackend
from celery.states import PENDING

from bridge.doors.celery.send_follow_ups import behind, is_outage
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.ledger import Ledger


#: Whether this thread stores a result: what stands there is then of no account, else it is what somebody waits for.
_storing: ContextVar[bool] = ContextVar("bridge_storing", default=False)


def _own_id() -> str | None:
    """Of the task at work in this thread; None where none is."""
    telling = behind()
    if telling is not None:
        return telling.request_id
    task = get_current_task()
    return None if task is None or task.request.is_eager else task.request.id


def used_by_tasks(backend: Any, ledger_of: Callable[[], Ledger]) -> Any:
    """The backend itself, with its two ways to a stored result and its way to errbacks changed."""
    store = backend.store_result

    def store_result(task_id: str, *args: Any, **kwargs: Any) -> Any:
        """Nothing under the id of a request, while a task of another id is at work."""
        own = _own_id()
        if own is not None and own != task_id:
            ledger = ledger_of()
            if wait_for_ledger(lambda: ledger.knows(str(task_id))):
                tell("request.conflict", request_id=task_id, endpoint="", door="celery")
                return None
        before = _storing.set(True)
        try:
            return store(task_id, *args, **kwargs)
        finally:
            _storing.reset(before)

    def get_task_meta_for(task_id: str) -> Any:
        """What is no result, or none that can be read, is written over; by the ledger's end whatever stands there.

        Once the end is stored it is read as it stands: a chord of chains and groups joins all its members' results.
        """
        telling = behind()
        if telling is not None and telling.request_id == task_id and _storing.get():
            return {"status": PENDING, "result": None}
        try:
            found = read(task_id)
        except Exception as error:
            if is_outage(error):
                raise
            found = None
        return found if isinstance(found, dict) and "status" in found else {"status": PENDING, "result": None}

    def call_task_errbacks(request: Any, _exc: Any, _traceback: Any) -> None:
        """All are sent, with the id of what failed.

        This worker has nobody's errbacks, only tasks of Celery's and the bridge's that take any arguments (a chain,
        say): Celery would call those with the request itself and its error, which no message carries.
        """
        app = backend.app
        errbacks = group([app.signature(errback) for errback in request.errbacks], app=app)
        is_eager = app.conf.task_always_eager or request.delivery_info.get("is_eager", False)
        send = errbacks.apply if is_eager else errbacks.apply_async
        send((request.id,), parent_id=request.id, root_id=request.root_id or request.id)

    backend.store_result = store_result
    backend._call_task_errbacks = call_task_errbacks  # noqa: SLF001
    if isinstance(backend, RedisBackend):
        read, backend._get_task_meta_for = backend._get_task_meta_for, get_task_meta_for  # noqa: SLF001
    return backend
