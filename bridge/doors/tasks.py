"""The Celery tasks: each unpacks, calls one function, and answers; only health and purge call RunPod (HARDENING 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore

from bridge.doors import inline
from bridge.doors.accepting import AcceptTask
from bridge.doors.canvas import canvas_of, clocks_of, continues
from bridge.doors.finishing import FinishTask, finish
from bridge.doors.hold import hold
from bridge.doors.known import GuardedTask, refuse_known
from bridge.doors.together import STRATEGY, Together
from bridge.engine.accept import Origin, Verdict
from bridge.engine.control import Asker
from bridge.errors import JobError, JobRejected, LedgerFault
from bridge.job.request import check_request_id, parse_run, rejected

if TYPE_CHECKING:
    from celery import Celery

    from bridge.engine.accept import Prepared
    from bridge.wiring import Bridge

_OPTIONS: dict[str, Any] = {
    "shared": False,  # this app's alone: every other Celery app of the process would get them too
    "bind": True,
    "typing": False,  # the models name the field; a bare TypeError would not
    "acks_late": True,
    "reject_on_worker_lost": True,
    "throws": (JobError,),
    "Request": "bridge.doors.redact:RedactedRequest",
    "max_retries": 0,
}


def register(app: Celery, bridge: Callable[[], Bridge]) -> None:
    """Put the tasks on the app. `bridge` gives this process' own instance, built after any fork."""

    def accept(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _accept(context, bridge(), args, kwargs, ignores=context.__dict__.get("ignore_result", run.ignore_result))

    def prepare(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prepared:
        here = bridge()
        origin = _origin(context, here, ignores=context.__dict__.get("ignore_result", run.ignore_result))
        return here.accept.prepare(context.id, parse_run(bind_input(args, kwargs)), origin)

    # Given as options: to set them on the task would make Celery read the settings as this module is imported.
    own = {
        "accept": staticmethod(accept),
        "bridge_of": staticmethod(bridge),
        "together": Together(bridge, prepare),
        "Strategy": STRATEGY,
    }

    @app.task(name="bridge.run", base=AcceptTask, **own, **_OPTIONS)
    def run(self: AcceptTask, *args: Any, **kwargs: Any) -> Any:
        """Run a job on RunPod; the result is its output. See docs/quickstart-celery.md."""
        if self.request.is_eager or self.request.called_directly:
            return inline.run(bridge(), bind_input(args, kwargs))
        return self.accept(self.request, args, kwargs)

    @app.task(name="bridge.finish", base=FinishTask, **{**_OPTIONS, "track_started": False})
    def bridge_finish(self: FinishTask, **kwargs: Any) -> Any:
        """Tell Celery the end of a request. Sent by the bridge alone; without the ledger's nonce it does nothing."""
        here = bridge()
        round_, nonce = kwargs.get("round"), kwargs.get("nonce")
        if not isinstance(round_, int) or not isinstance(nonce, str):
            raise Ignore
        return finish(self, round_, nonce, lambda: here, cancel_is_failure=here.settings.bridge_cancel_is_failure)

    for name, (ask, allowed) in _CONTROL.items():
        _control_task(app, bridge, name, ask, allowed)


def bind_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`input` alone may come as the one positional (the previous result of a chain, or a chord's list)."""
    arguments = dict(kwargs)
    if len(args) > 1:
        raise rejected("input", "input: at most one positional argument, and it is input; name the others")
    if args:
        if "input" in arguments:
            raise rejected(
                "input", "input: given twice: as the positional (the previous result of a chain?) and by name"
            )
        arguments["input"] = args[0]
    if isinstance(arguments.get("input"), list):
        raise rejected(
            "input", "input: must be an object, not a list (a chord's body gets the list of its header's results)"
        )
    return arguments


def _accept(context: Context, bridge: Bridge, args: tuple[Any, ...], kwargs: dict[str, Any], *, ignores: bool) -> None:
    """Ends with Ignore: the message is acked once the ledger holds the request, and the slot is free (I1)."""
    fault: JobRejected | None = None
    try:
        arguments = bind_input(args, kwargs)
    except JobRejected as error:
        arguments, fault = kwargs, error
    origin = _origin(context, bridge, ignores=ignores)
    try:
        verdict: Verdict = hold(lambda: bridge.accept(context.id, arguments, origin, fault=fault))
    except LedgerFault as error:  # whoever tries: it is kept where an operator finds it, and its caller hears of it
        bridge.dead("malformed", context.id, arguments, str(error), "bridge.run")
        raise rejected("arguments", f"arguments: the ledger cannot keep them: {error}") from error
    bridge.accepted(verdict)
    if verdict.kind == "conflict" and verdict.fault is not None:
        # The first request of this id goes on untouched; its state in Celery is not ours to overwrite.
        detail = f"id {context.id} has been used for another request"
        bridge.dead("id_conflict", context.id, arguments, detail, "bridge.run")
    raise Ignore


def _origin(context: Context, bridge: Bridge, *, ignores: bool) -> Origin:
    """What the message says beside its arguments."""
    canvas = canvas_of(context, ignore_result=bool(ignores))
    expires_at, time_limit_ms = clocks_of(context, bridge.ledger.now())
    return Origin(
        door="celery",
        via="amqp" if bridge.settings.amqp else "redis",
        canvas=canvas,
        silent=bool(ignores),
        tells_celery=not ignores or continues(canvas),
        correlation_id=context.correlation_id if context.correlation_id != context.id else None,
        trace=(context.headers or {}).get("traceparent"),
        expires_at=expires_at,
        time_limit_ms=time_limit_ms,
    )


def _asker(kwargs: dict[str, Any]) -> Asker:
    by = kwargs.pop("by", None)
    return Asker(by=str(by)[:200] if by is not None else None, door="celery")


def _control_task(
    app: Celery, bridge: Callable[[], Bridge], name: str, ask: Callable[..., Any], allowed: frozenset[str]
) -> None:
    def checked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asker:
        if len(args) == 1 and "id" in allowed and "id" not in kwargs:
            kwargs["id"] = args[0]
        elif len(args) == 1 and "endpoint" in allowed and "endpoint" not in kwargs:
            kwargs["endpoint"] = args[0]
        elif args:
            raise rejected("arguments", f"{name} takes named arguments: {', '.join(sorted(allowed))}")
        asker = _asker(kwargs)
        for unknown in kwargs.keys() - allowed:
            raise rejected(unknown, f"{unknown}: unknown argument; {name} takes {', '.join(sorted(allowed))}")
        for field, value in kwargs.items():
            check_argument(field, value)
        return asker

    def body(task: Task, *args: Any, **kwargs: Any) -> Any:
        here = bridge()
        refuse_known(here, task.request, kwargs, name)
        try:
            asker = checked(args, kwargs)
            return hold(lambda: ask(here, kwargs, asker))
        except JobRejected as error:
            if task.request.ignore_result:  # nobody will hear of it (I12)
                here.dead("rejected", task.request.id, kwargs, error.message, name)
            raise

    body.__doc__ = ask.__doc__
    body.__name__ = name.rpartition(".")[2]
    own = {"bridge_of": staticmethod(bridge), "track_started": False}
    app.task(name=name, base=GuardedTask, **own, **_OPTIONS)(body)


def check_argument(field: str, value: object) -> None:
    """The type of one argument of a control task. Raises JobRejected."""
    if field == "where":
        _check_where(value)
    elif field in {"refresh", "pending", "content"}:
        if not isinstance(value, bool):
            raise rejected(field, f"{field}: must be true or false")
    elif value is not None and not isinstance(value, str):
        raise rejected(field, f"{field}: must be a string")
    if field == "id":
        check_request_id(value)


def _check_where(value: object) -> None:
    if not isinstance(value, Mapping) or not value:
        raise rejected("where", "where: must be an object of metadata names and values, at least one")
    if not all(isinstance(name, str) and isinstance(item, str | int | float) for name, item in value.items()):
        raise rejected("where", "where: its values must be strings or numbers")


def _cancel(bridge: Bridge, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Cancel a request (`id`), a bare job (`job_id` and `endpoint`), a Celery `group`, or `where` metadata says so."""
    where, group = kwargs.get("where"), kwargs.get("group")
    if where is None and group is None:
        kwargs = {name: value for name, value in kwargs.items() if name in _JOB}
        if kwargs.get("id") is not None and kwargs.get("job_id") is not None:
            raise rejected("id", "id: name either id, or job_id with endpoint")
        return bridge.control.cancel(**kwargs, asker=asker)
    if len([value for value in kwargs.values() if value is not None]) > 1:
        raise rejected("id", "id: name one of id, job_id with endpoint, group, where")
    return bridge.control.cancel_all(asker, where=where, group=group)


def _status(bridge: Bridge, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """The document of a request."""
    return bridge.control.status(**kwargs)


def _retry(bridge: Bridge, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Another round of a failed request."""
    return bridge.control.retry(**kwargs, asker=asker)


def _stream(bridge: Bridge, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """Turn streaming on for a request that is under way."""
    if not kwargs.get("id"):
        raise rejected("id", "id: is required")
    return bridge.control.stream(id=kwargs["id"])


def _health(bridge: Bridge, kwargs: dict[str, Any], _asker: Asker) -> Any:
    """RunPod's counters and the bridge's own, with a verdict; all endpoints when none is named."""
    return bridge.control.health(**kwargs)


def _purge(bridge: Bridge, kwargs: dict[str, Any], asker: Asker) -> Any:
    """RunPod's purge-queue of one endpoint; running jobs go on."""
    if not kwargs.get("endpoint"):
        raise rejected("endpoint", "endpoint: is required: a purge clears the queue for everyone on the endpoint")
    return bridge.control.purge(kwargs["endpoint"], asker, pending=bool(kwargs.get("pending")))


def _pause(bridge: Bridge, kwargs: dict[str, Any], asker: Asker) -> Any:
    """No submit leaves for the endpoint until it is resumed."""
    return bridge.control.pause(_endpoint_of(kwargs), kwargs.get("reason"), asker)


def _resume(bridge: Bridge, kwargs: dict[str, Any], asker: Asker) -> Any:
    """Submits leave again."""
    return bridge.control.resume(_endpoint_of(kwargs), asker, kwargs.get("reason"))


def _endpoint_of(kwargs: dict[str, Any]) -> str:
    endpoint = kwargs.get("endpoint")
    if not endpoint:
        raise rejected("endpoint", "endpoint: is required")
    return str(endpoint)


_JOB = frozenset({"id", "job_id", "endpoint"})
_CONTROL: dict[str, tuple[Callable[..., Any], frozenset[str]]] = {
    "bridge.cancel": (_cancel, _JOB | {"group", "where"}),
    "bridge.status": (_status, _JOB | {"refresh", "content"}),
    "bridge.retry": (_retry, _JOB),
    "bridge.stream": (_stream, frozenset({"id"})),
    "bridge.health": (_health, frozenset({"endpoint"})),
    "bridge.purge": (_purge, frozenset({"endpoint", "pending"})),
    "bridge.pause": (_pause, frozenset({"endpoint", "reason"})),
    "bridge.resume": (_resume, frozenset({"endpoint", "reason"})),
}
