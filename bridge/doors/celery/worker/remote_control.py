"""Celery's remote control: `inspect bridge_status ID`, `control bridge_cancel ID`, and `revoke` on a request.

Remote control is broadcast and best effort; the truth is the ledger's. A revoke of a request becomes a cancel there,
and its id is kept out of the workers' own lists of revoked tasks: a worker that has it there would throw the finish of
the request away. All other ids go on to Celery's own command.

Commands that have something done later, or to every later task, are looked at before: what they do wrong would be met
on the event loop, or by messages that have nothing to do with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.worker import control as celery_control
from celery.worker.control import Panel, control_command, inspect_command, nok, ok

from bridge.doors.celery.worker.node import fixed_pool
from bridge.doors.celery.worker.redacted_request import unkept
from bridge.engine.control import Asker
from bridge.errors import BridgeError
from bridge.job.enums import Outcome
from bridge.job.request import REQUEST_ID, check_request_id
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.control import Control

#: How many requests `bridge_jobs` lists at most.
JOBS_MAX = 200
#: By how many processes or threads a pool may grow at once.
POOL_GROWS_MAX = 1_000


def register(control: Callable[[], Control]) -> None:
    """Put the commands on Celery's panel. They run in the worker's main loop: the ledger is asked, never RunPod."""
    revoking = _Revoking(control, dict(Panel.data))
    for name in ("revoke", "terminate", "revoke_by_stamped_headers"):
        if name in Panel.data:
            _replace(name, getattr(revoking, name))
    for name in ("add_consumer", "cancel_consumer", "rate_limit", "time_limit", "pool_grow", "pool_shrink"):
        _replace(name, _looked_at(name, Panel.data[name]))
    _asking(control)
    _changing(control)


class _Revoking:
    """Celery's own commands, with the requests of the bridge taken out."""

    def __init__(self, control: Callable[[], Control], original: Mapping[str, Callable[..., Any]]) -> None:
        self._control = control
        self._original = original

    def revoke(self, state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        """Revoke task by task id (or list of ids)."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        others = self._mine(ids, "revoke")
        if not others:
            return ok(f"tasks {ids} cancelled by the bridge")
        return self._original["revoke"](state, others, terminate=terminate, signal=signal, **kwargs)

    def terminate(self, state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
        """Terminate task by task id (or list of ids)."""
        return self.revoke(state, task_id, terminate=True, signal=signal, **kwargs)

    def revoke_by_stamped_headers(
        self, state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
    ) -> Any:
        """Revoke tasks by header (or list of headers)."""
        if not isinstance(headers, Mapping):  # as the `celery` command gives them: NAME=VALUE each
            headers = dict(pair.partition("=")[::2] for pair in headers)
        try:
            self._mine(self._control().find_stamped(headers), "revoke_by_stamped_headers")
        except BridgeError as error:
            tell("remote.failed", request_id=str(headers), error=str(error))
        original = self._original["revoke_by_stamped_headers"]
        return original(state, headers, terminate=terminate, signal=signal, **kwargs)

    def _mine(self, ids: Sequence[str], why: str) -> list[str]:
        """Cancel those that are requests of the bridge; the ids that are not, or are not yet: those leave a wish."""
        possible = [request_id for request_id in ids if REQUEST_ID.fullmatch(str(request_id))]
        others = set(ids) - set(possible)
        try:
            answers = self._control().cancel_many(possible, Asker(by=why, door="celery"))
            others |= {answer["id"] for answer in answers if answer["outcome"] == Outcome.UNKNOWN}
            self._control().ledger.later.revoke(sorted(others))  # commands for later; Celery stores their REVOKED
        except BridgeError as error:
            tell("remote.failed", request_id=",".join(possible[:5]), error=str(error))
            for request_id in possible:
                unkept.add(request_id)
            return list(ids)
        return sorted(others)


def _replace(name: str, command: Callable[..., Any]) -> None:
    """Under Celery's own name and form; other modules of Celery look it up there."""
    before = Panel.meta[name]
    Panel.data[name] = command
    Panel.meta[name] = before
    setattr(celery_control, name, command)


#: What a task's own limits would do to the bridge's: hold messages that the ledger should have, or kill what saves one.
_LIMITS = {
    "rate_limit": (
        "rate_limit does not work for the bridge's tasks: they take milliseconds and call no GPU. How fast jobs are "
        "sent is bounded by the budgets and by max_in_flight of an endpoint or a tenant (docs/budget.md)"
    ),
    "time_limit": (
        "time_limit does not work for the bridge's tasks: they take milliseconds, and jobs run at RunPod. Give a "
        "request `timeout` or `queue_timeout`, or send it with soft_time_limit or time_limit (docs/control.md)"
    ),
}


def _looked_at(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Celery's command, for arguments that it can do something with; else an answer that says which."""

    def command(state: Any, **arguments: Any) -> Any:
        fault = _fault(name, arguments, state)
        return original(state, **arguments) if fault is None else nok(fault)

    command.__name__, command.__doc__ = name, original.__doc__
    return command


def _fault(name: str, arguments: Mapping[str, Any], state: Any) -> str | None:
    if name in _LIMITS:
        task = arguments.get("task_name")
        if not isinstance(task, str):
            return "task_name: must be a text"
        return _LIMITS[name] if task.startswith("bridge.") else None
    if name.startswith("pool_"):
        if fixed_pool(state.consumer.pool):
            return f"{name} does not work with this pool: its size is the worker's option -c (a job holds no thread)"
        size = state.consumer.pool.num_processes
        n, most = arguments.get("n", 1), size - 1 if name == "pool_shrink" else POOL_GROWS_MAX
        return None if type(n) is int and 1 <= n <= most else f"n: must be from 1 to {most}; the pool has {size}"
    for field in ("queue", "exchange", "exchange_type", "routing_key"):
        value = arguments.get(field)
        if not (isinstance(value, str) and value) and (value is not None or field == "queue"):
            return f"{field}: must be a text"
    return None


def _asking(control: Callable[[], Control]) -> None:
    @inspect_command(args=[("id", str)], signature="<request id>")  # type: ignore[untyped-decorator]
    def bridge_status(_state: Any, id: str | None = None, **_kwargs: Any) -> Any:
        """The document of a request, in a list: Celery takes a bare one for a fault, because it has a field `error`."""
        if id is None:
            return nok("id: is required: celery -A bridge.app inspect bridge_status ID")
        return _answer(lambda: [control().status(id=id)])

    @inspect_command(args=[("endpoint", str)], signature="[endpoint]")  # type: ignore[untyped-decorator]
    def bridge_health(_state: Any, endpoint: str | None = None, **_kwargs: Any) -> Any:
        """What the bridge knows of its endpoints, and what RunPod said lately; nobody asks it for this."""
        return _answer(lambda: control().known(endpoint))

    @inspect_command(args=[("limit", int)], signature="[how many]")  # type: ignore[untyped-decorator]
    def bridge_jobs(_state: Any, limit: int = JOBS_MAX, **_kwargs: Any) -> Any:
        """Requests that have not ended."""
        return _answer(lambda: control().jobs(min(int(limit), JOBS_MAX)))


def _changing(control: Callable[[], Control]) -> None:
    @control_command(variadic="ids", signature="<request id> ...")  # type: ignore[untyped-decorator]
    def bridge_cancel(_state: Any, ids: Sequence[str] = (), **_kwargs: Any) -> Any:
        """Cancel requests."""
        if not ids:
            return nok("id: is required: celery -A bridge.app control bridge_cancel ID ...")
        asker = Asker(by="control", door="celery")
        return _answer(lambda: list(control().cancel_many([*map(check_request_id, ids)], asker)))

    @control_command(args=[("endpoint", str)], signature="<endpoint>")  # type: ignore[untyped-decorator]
    def bridge_purge(state: Any, endpoint: str | None = None, **_kwargs: Any) -> Any:
        """Purge an endpoint's queue at RunPod: sent as a task, because it calls RunPod."""
        if endpoint is None:
            return nok("endpoint: is required: celery -A bridge.app control bridge_purge ENDPOINT")
        sent = state.app.send_task(
            "bridge.purge", kwargs={"endpoint": endpoint, "by": "control"}, queue="bridge.control"
        )
        return ok(f"sent as task {sent.id}")


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BridgeError as error:
        return nok(str(error))
