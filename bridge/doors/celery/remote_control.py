"""Celery's remote control: `inspect bridge_status ID`, `control bridge_cancel ID`, and `revoke` on a request.

Remote control is broadcast and best effort; the truth is the ledger's. A revoke of a request becomes a cancel there,
and its id is kept out of the workers' own lists of revoked tasks: a worker that has it there would throw the finish of
the request away. All other ids go on to Celery's own command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.worker import control as celery_control
from celery.worker.control import Panel, control_command, inspect_command, nok, ok

from bridge.doors.celery.redact import unkept
from bridge.engine.control import Asker
from bridge.errors import BridgeError
from bridge.job.request import REQUEST_ID, check_request_id
from bridge.job.words import Outcome
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.control import Control

#: How many requests `bridge_jobs` lists at most.
JOBS_MAX = 200


def register(control: Callable[[], Control]) -> None:
    """Put the commands on Celery's panel. They run in the worker's main loop: the ledger is asked, never RunPod."""
    revoking = _Revoking(control, dict(Panel.data))
    for name in ("revoke", "terminate", "revoke_by_stamped_headers"):
        if name in Panel.data:
            _replace(name, getattr(revoking, name))
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
        wanted = {k: [str(v)] if isinstance(v, str | int | float) else [*map(str, v)] for k, v in headers.items()}
        try:
            self._mine(self._control().find_stamped(wanted), "revoke_by_stamped_headers")
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
