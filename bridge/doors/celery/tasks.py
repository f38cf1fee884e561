"""The Celery tasks: each unpacks, calls one function, and answers; only health and purge call RunPod (HARDENING 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject

from bridge.doors.celery import eager
from bridge.doors.celery.accept import eta
from bridge.doors.celery.accept.in_bulk import STRATEGY, BatchAccept
from bridge.doors.celery.canvas import another, canvas_of, clocks_of, continues, fail_followers, replaced_by
from bridge.doors.celery.finish.finish_lease import Finishing
from bridge.doors.celery.finish.repeats import answer_again, store_again
from bridge.doors.celery.finish.task import FinishTask, RunTask, Telling, finish
from bridge.doors.celery.results.known_ids import GuardedTask, keep, refuse_known
from bridge.doors.celery.wait_for_ledger import wait_for_ledger, wait_for_means, wait_for_verdict
from bridge.doors.commands import COMMANDS, check_argument
from bridge.doors.whose_fault import WhoseFault
from bridge.engine.accept.accept import Origin, Verdict
from bridge.engine.control import Asker
from bridge.engine.tell.kombu_json import dumps
from bridge.errors import ApiError, JobError, JobRejected
from bridge.job.enums import Reason
from bridge.job.record import Long
from bridge.job.request import parse_run, rejected

if TYPE_CHECKING:
    from celery import Celery

    from bridge.engine.accept.accept import Accept, Prepared
    from bridge.engine.control import Control
    from bridge.engine.notifier import Notifier
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient
    from bridge.settings import Settings
    from bridge.settings.config_file import EndpointBook

_OPTIONS: dict[str, Any] = {
    "shared": False,  # this app's alone: every other Celery app of the process would get them too
    "bind": True,
    "typing": False,  # the models name the field; a bare TypeError would not
    "acks_late": True,
    "reject_on_worker_lost": True,
    "Request": "bridge.doors.celery.worker.redacted_request:RedactedRequest",
    "max_retries": 0,
    "ignore_result": False,  # whose result nobody wants, its message says: never the settings of this worker
    "track_started": False,  # whatever the settings say: what has started is the job
}


@dataclass(frozen=True, slots=True)
class Uses:
    """What the tasks use of their process."""

    settings: Settings
    ledger: Ledger
    accept: Accept
    notifier: Notifier
    control: Control
    book: EndpointBook
    client_of: Callable[[str], RunPodClient]

    @property
    def finishing(self) -> Finishing:
        """What `bridge.finish` alone uses."""
        return Finishing(self.settings, self.ledger, self.control, self.notifier)


def register(app: Celery, uses: Callable[[], Uses]) -> None:
    """Put the tasks on the app. `uses` gives this process' own, built after any fork."""
    whose = WhoseFault()

    def accept(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _accept(app, context, uses, args, kwargs, ignores=_ignores(context, run), whose=whose)

    def prepare(context: Context, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prepared:
        here = uses()
        origin = _origin(context, here, ignores=_ignores(context, run), extended=app.conf.result_extended)
        return here.accept.prepare(context.id, parse_run(bind_input(args, kwargs)), origin)

    def into() -> tuple[Accept, Notifier]:
        here = uses()
        return here.accept, here.notifier

    def ledger() -> Ledger:
        return uses().ledger

    # Given as options: to set them on the task would make Celery read the settings as this module is imported.
    own = {
        "accept": staticmethod(accept),
        "ledger_of": staticmethod(ledger),
        "batch_accept": BatchAccept(into, prepare, whose.passed),
        "Strategy": STRATEGY,
    }

    # Without `throws`: a job that has failed is news to whoever watches tasks (docs/monitoring.md).
    @app.task(name="bridge.run", base=RunTask, **own, **_OPTIONS)
    def run(self: RunTask, *args: Any, **kwargs: Any) -> Any:
        """Run a job on RunPod; the result is its output. See docs/quickstart-celery.md."""
        if self.request.is_eager or self.request.called_directly:
            here = uses()
            return eager.run(here.book, here.client_of, bind_input(args, kwargs))
        telling = self.request.get("bridge_telling")
        if isinstance(telling, Telling):
            return self.answer(finish(self, telling, uses().finishing))
        return self.take(args, kwargs)

    # Its message is no task of anybody's: the request has been received before, and `task_events` tells its end.
    @app.task(name="bridge.finish", base=FinishTask, ledger_of=staticmethod(ledger), send_events=False, **_OPTIONS)
    def bridge_finish(self: FinishTask, **_kwargs: Any) -> None:
        """Tell Celery the end of a request. Sent by the bridge alone; without the ledger's nonce it does nothing."""
        del self

    for name, (ask, allowed) in COMMANDS.items():
        _control_task(app, uses, name, ask, allowed)


def _ignores(context: Context, task: Task) -> bool:
    """Whether nobody wants the result: what the message says, else what the task does."""
    return bool(context.__dict__.get("ignore_result", task.ignore_result))


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


def _accept(
    app: Celery,
    context: Context,
    uses_of: Callable[[], Uses],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    ignores: bool,
    whose: WhoseFault,
) -> None:
    """Ends with Ignore: the message is acked once the ledger holds the request, and the slot is free (I1)."""
    fault: JobRejected | None = None
    try:
        arguments = bind_input(args, kwargs)
    except JobRejected as error:
        arguments, fault = kwargs, error

    def hold() -> tuple[Uses, Origin, Verdict]:
        uses = uses_of()
        origin = _origin(context, uses, ignores=ignores, extended=app.conf.result_extended)
        return uses, origin, uses.accept(context.id, arguments, origin, fault=fault)

    try:
        uses, origin, verdict = wait_for_verdict(hold, whose)
    except (JobRejected, Reject):
        raise
    except Exception as error:  # noqa: BLE001  (no record tells of it: it ends with this message, which is kept, I12)
        refused = rejected("message", f"message: cannot be accepted: {type(error).__name__}")
        keep(uses_of().ledger, "malformed", context.id, arguments, refused.message, "bridge.run")
        raise refused from None
    uses.notifier.accepted(verdict)
    refusal = (
        verdict.fault
        if verdict.kind == "conflict"
        else wait_for_ledger(lambda: _another_canvas(context, uses, origin, verdict))
    )
    if verdict.kind in {"repeat", "conflict"} and origin.answered:
        wait_for_ledger(lambda: answer_again(app.backend, uses.ledger, context, uses.settings.celery_limit, refusal))
    elif verdict.kind in {"repeat", "conflict"} and not ignores:
        fault = refusal if verdict.kind == "conflict" else None
        wait_for_ledger(lambda: store_again(app.backend, uses.ledger, context, uses.settings.celery_limit, fault))
    if refusal is not None:
        # The first request of this id goes on untouched; its state in Celery is not ours to overwrite.
        keep(uses.ledger, "id_conflict", context.id, arguments, refusal.message, "bridge.run")
        fail_followers(app.backend, context, refusal, _kept_canvas(context, uses) or {})
    raise Ignore


def _another_canvas(context: Context, uses: Uses, origin: Origin, verdict: Verdict) -> JobRejected | None:
    """A known request, sent again with something else to follow it: only the first send's canvas is followed."""
    if verdict.kind != "repeat" or not origin.continues:
        return None
    sent = canvas_of(context, ignore_result=False)
    if not another(sent, _kept_canvas(context, uses)):
        return None
    return rejected(
        "id",
        f"id: {context.id} is the id of an earlier request, and what followed that one is followed; "
        "read its result by that id, or send this chain, chord or link with an id of its own",
        reason=Reason.ID_CONFLICT.value,
    )


def _kept_canvas(context: Context, uses: Uses) -> dict[str, Any] | None:
    """Of the first send of this id."""
    known = uses.ledger.load(context.id, wanted=(Long.CANVAS,))
    found = known.json(Long.CANVAS) if known is not None else None
    return found if isinstance(found, dict) else None


def _origin(context: Context, uses: Uses, *, ignores: bool, extended: bool) -> Origin:
    """What the message says beside its arguments."""
    canvas = canvas_of(context, ignore_result=ignores, extended=extended)
    expires_at, time_limit_ms = clocks_of(context, uses.ledger.clock.offset)
    return Origin(
        door="celery",
        via="amqp" if uses.settings.amqp else "redis",
        canvas=dumps(canvas),
        continues=continues(canvas),
        silent=ignores,
        tells_celery=not ignores or continues(canvas),
        answered=not ignores and bool(context.reply_to) and uses.settings.result_backend_url.startswith("rpc"),
        correlation_id=context.correlation_id if context.correlation_id != context.id else None,
        trace=(context.headers or {}).get("traceparent"),
        expires_at=expires_at,
        time_limit_ms=time_limit_ms,
        not_before_ms=eta.not_before_of(context),
        replaces=replaced_by(context),
    )


def _asker(kwargs: dict[str, Any]) -> Asker:
    by = kwargs.pop("by", None)
    return Asker(by=str(by)[:200] if by is not None else None, door="celery")


def _control_task(
    app: Celery, uses: Callable[[], Uses], name: str, ask: Callable[..., Any], allowed: frozenset[str]
) -> None:
    def body(task: Task, *args: Any, **kwargs: Any) -> Any:
        here = uses()
        refuse_known(here.ledger, task.request, kwargs, name)
        try:
            asked = dict(kwargs)
            asker = _checked(name, allowed, args, asked)
            eta.hold(here.ledger, task, args, kwargs)
            return wait_for_means(lambda: ask(here.control, dict(asked), asker))
        except (Ignore, Reject, ApiError):
            raise
        except Exception as error:
            if task.request.ignore_result:  # nobody will hear of it (I12)
                told = error.message if isinstance(error, JobRejected) else f"{name} failed: {type(error).__name__}"
                keep(here.ledger, "rejected", task.request.id, kwargs, told, name)
            raise

    body.__doc__ = ask.__doc__
    body.__name__ = name.rpartition(".")[2]
    own = {"ledger_of": staticmethod(lambda: uses().ledger), "throws": (JobError,), "Strategy": eta.STRATEGY}
    app.task(name=name, base=GuardedTask, **own, **_OPTIONS)(body)


def _checked(name: str, allowed: frozenset[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Asker:
    """Who asks; the arguments are checked in place. Raises JobRejected."""
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
