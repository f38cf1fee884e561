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

from bridge.engine.control import Asker
from bridge.errors import BridgeError
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.wiring import Bridge

#: How many requests `bridge_jobs` lists at most.
JOBS_MAX = 200


def register(bridge: Callable[[], Bridge]) -> None:
    """Put the commands on Celery's panel. They run in the worker's main loop: the ledger is asked, never RunPod."""
    original: dict[str, Callable[..., Any]] = {name: Panel.data[name] for name in ("revoke", "terminate")}
    by_headers = Panel.data.get("revoke_by_stamped_headers")

    def mine(ids: Sequence[str], why: str) -> list[str]:
        """Cancel those that are requests of the bridge; the ids that are not."""
        others = []
        here = bridge()
        for request_id in ids:
            try:
                known = here.ledger.load(request_id) is not None
                if known:
                    here.control.cancel(id=request_id, asker=Asker(by=why, door="celery"))
                else:
                    others.append(request_id)
            except BridgeError as error:
                tell("remote.failed", request_id=request_id, error=str(error))
                others.append(request_id)
        return others

    def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
        """Revoke task by task id (or list of ids)."""
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        others = mine(ids, "revoke")
        if not others:
            return ok(f"tasks {ids} cancelled by the bridge")
        return original["revoke"](state, others, terminate=terminate, signal=signal, **kwargs)

    def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
        """Terminate task by task id (or list of ids)."""
        return revoke(state, task_id, terminate=True, signal=signal, **kwargs)

    def revoke_by_stamped_headers(
        state: Any, headers: Mapping[str, Any], terminate: bool = False, signal: Any = None, **kwargs: Any
    ) -> Any:
        """Revoke tasks by header (or list of headers)."""
        found = bridge().control.find_stamped({k: [v] if isinstance(v, str) else list(v) for k, v in headers.items()})
        mine(found, "revoke_by_stamped_headers")
        assert by_headers is not None  # noqa: S101  (registered only where Celery has it)
        return by_headers(state, headers, terminate=terminate, signal=signal, **kwargs)

    _replace("revoke", revoke)
    _replace("terminate", terminate)
    if by_headers is not None:
        _replace("revoke_by_stamped_headers", revoke_by_stamped_headers)
    _asking(bridge)
    _changing(bridge)


def _replace(name: str, command: Callable[..., Any]) -> None:
    """Under Celery's own name and form; other modules of Celery look it up there."""
    before = Panel.meta[name]
    Panel.data[name] = command
    Panel.meta[name] = before
    setattr(celery_control, name, command)


def _asking(bridge: Callable[[], Bridge]) -> None:
    @inspect_command(args=[("id", str)], signature="<request id>")  # type: ignore[untyped-decorator]
    def bridge_status(_state: Any, id: str, **_kwargs: Any) -> Any:
        """The document of a request, in a list: Celery takes a bare one for a fault, because it has a field `error`."""
        return _answer(lambda: [bridge().control.status(id=id)])

    @inspect_command(args=[("endpoint", str)], signature="[endpoint]")  # type: ignore[untyped-decorator]
    def bridge_health(_state: Any, endpoint: str | None = None, **_kwargs: Any) -> Any:
        """What the bridge knows of its endpoints, without asking RunPod."""
        return _answer(lambda: bridge().control.known(endpoint))

    @inspect_command(args=[("limit", int)], signature="[how many]")  # type: ignore[untyped-decorator]
    def bridge_jobs(_state: Any, limit: int = JOBS_MAX, **_kwargs: Any) -> Any:
        """Requests that have not ended."""
        return _answer(lambda: bridge().control.jobs(min(int(limit), JOBS_MAX)))


def _changing(bridge: Callable[[], Bridge]) -> None:
    @control_command(variadic="ids", signature="<request id> ...")  # type: ignore[untyped-decorator]
    def bridge_cancel(_state: Any, ids: Sequence[str], **_kwargs: Any) -> Any:
        """Cancel requests."""
        asker = Asker(by="control", door="celery")
        return _answer(lambda: [bridge().control.cancel(id=request_id, asker=asker) for request_id in ids])

    @control_command(args=[("endpoint", str)], signature="<endpoint>")  # type: ignore[untyped-decorator]
    def bridge_purge(state: Any, endpoint: str, **_kwargs: Any) -> Any:
        """Purge an endpoint's queue at RunPod: sent as a task, because it calls RunPod."""
        sent = state.app.send_task(
            "bridge.purge", kwargs={"endpoint": endpoint, "by": "control"}, queue="bridge.control"
        )
        return ok(f"sent as task {sent.id}")


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BridgeError as error:
        return nok(str(error))
