"""Results under a request's id are the request's own: nothing else that comes under that id is stored there.

Whoever sends `bridge.status`, or a task that nobody has, under somebody else's task id would else end that one's
`get()`. Such a command is not carried out: its message is kept as a dead letter (`id_conflict`), and nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore

from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.errors import LedgerError
from bridge.telemetry import tell

if TYPE_CHECKING:
    from celery.app.task import Context

    from bridge.ledger import Ledger

#: What stores something under a task's id.
_STORES = frozenset(
    {"mark_as_done", "mark_as_failure", "mark_as_revoked", "mark_as_retry", "mark_as_started", "store_result"}
)


def refuse_known(ledger: Ledger, context: Context, kwargs: dict[str, Any], task: str) -> None:
    """Raise Ignore for a command that came under the id of a request, once it is kept where an operator finds it."""
    if context.is_eager or context.called_directly or not wait_for_ledger(lambda: ledger.knows(str(context.id))):
        return
    kept_apart(ledger, str(context.id), kwargs, task)
    raise Ignore


def kept_apart(ledger: Ledger, task_id: str, kwargs: dict[str, Any], task: str) -> None:
    """A dead letter of what came under a request's id."""
    tell("request.conflict", request_id=task_id, endpoint="", door="celery")
    detail = f"{task} came under the id of a request: it was not carried out, and no result was stored"
    wait_for_ledger(lambda: keep(ledger, "id_conflict", task_id, kwargs, detail, task))


#: Arguments that are kept in no dead letter: keys of a store, and an address that may hold a password or a token.
SECRETS = ("s3Config", "callback")


def keep(ledger: Ledger, reason: str, task_id: str, arguments: Mapping[str, Any], detail: str, task: str) -> None:
    """Keep what a task asked for and was refused without a record (I12): arguments as JSON, no secrets (I11)."""
    kept = {**arguments, **{name: "***" for name in SECRETS if isinstance(arguments.get(name), Mapping)}}
    body = json.dumps(kept, default=str)
    ledger.dead.keep(reason, door="celery", body=body, request_id=task_id, source=task, detail=detail)


class GuardedBackend:
    """Celery's result backend, which stores nothing under the id of a request."""

    def __init__(self, app: Any, ledger_of: Callable[[], Ledger]) -> None:
        """Everything else is the backend's own. Each thread may have another one: it is looked up at each call."""
        self._app, self._ledger_of = app, ledger_of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._app.backend, name)
        return self._guarded(found, name) if name in _STORES else found

    def _guarded(self, store: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guarded(task_id: str, *args: Any, **kwargs: Any) -> Any:
            request = kwargs.get("request")
            if not getattr(request, "is_eager", False) and self._is_known(task_id, name):
                tell("request.conflict", request_id=task_id, endpoint="", door="celery")
                return None
            return store(task_id, *args, **kwargs)

        return guarded

    def _is_known(self, task_id: str, name: str) -> bool:
        ledger = self._ledger_of()
        if name != "mark_as_revoked":
            return wait_for_ledger(lambda: ledger.knows(task_id))
        try:  # an expired message: asked by the consumer's own thread, which must not wait
            return ledger.knows(task_id)
        except LedgerError:
            return True


class GuardedTask(Task):  # type: ignore[misc]
    """Base of the control tasks."""

    ledger_of: Callable[[], Ledger]
    _guarded_backend: GuardedBackend | None = None

    @property
    def backend(self) -> Any:
        """The app's backend, guarded."""
        if self._guarded_backend is None:
            self._guarded_backend = GuardedBackend(self._get_app(), self.ledger_of)
        return self._guarded_backend


class OthersTask(GuardedTask):
    """Base of every task that is none of the bridge's: Celery's own, and those of a team's settings."""

    abstract = True

    def before_start(self, _task_id: str, args: Any, kwargs: dict[str, Any]) -> None:
        """Called by Celery's tracer."""
        refuse_known(self.ledger_of(), self.request, {**kwargs, **({"args": args} if args else {})}, self.name)


def base_of_others(ledger_of: Callable[[], Ledger]) -> type[Task]:
    """For one app."""
    return type("BoundOthersTask", (OthersTask,), {"abstract": True, "ledger_of": staticmethod(ledger_of)})
