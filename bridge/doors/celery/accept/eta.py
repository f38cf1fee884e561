"""Celery's `countdown` and `eta`: the ledger knows best of time, and no message waits unacked in a worker's memory.

The time goes by another name, which Celery lets through to the task. `bridge.run` takes it as its `not_before`; a
control task is kept in the ledger, and sent on when its time has come.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore
from celery.worker.strategy import default

from bridge.doors.celery.send_follow_ups import is_outage
from bridge.doors.celery.wait_for_ledger import wait_for_ledger
from bridge.engine.tell.kombu_json import dumps, load
from bridge.errors import BUSY, ServerUnavailable
from bridge.job.request import SCHEDULE_MAX_MS, rejected
from bridge.ledger.stores.scheduled_commands import BYTES_MAX

if TYPE_CHECKING:
    from celery import Celery

    from bridge.ledger import Ledger

#: Where Celery finds `strategy`.
STRATEGY = "bridge.doors.celery.accept.eta:strategy"
#: The header by which a message's `eta` reaches the ledger.
NOT_BEFORE = "bridge_not_before"


def moment(given: str | datetime) -> datetime:
    """A time as Celery's messages have it; one without an offset is UTC."""
    found = datetime.fromisoformat(given) if isinstance(given, str) else given
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def not_before_of(request: Context) -> int:
    """Celery's `eta` or `countdown` as epoch ms; 0 for none."""
    eta = request.__dict__.get(NOT_BEFORE)
    return int(moment(eta).timestamp() * 1000) if eta else 0


def keep_eta_apart(message: Any, app: Celery) -> None:
    """Take `eta` from a message, and leave it under NOT_BEFORE. Protocol 2 says it in the headers, 1 in the body."""
    body = message.payload if isinstance(message.payload, dict) else {}
    eta = message.headers.get("eta") or body.get("eta")
    if not eta:
        return
    at = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
    if at.tzinfo is None and not body.get("utc", True):
        at = at.replace(tzinfo=app.timezone)
    told = {"eta": None, NOT_BEFORE: at.isoformat()}
    message.headers = {**message.headers, **told}
    if body:  # Celery takes of it what it knows, or all
        body.update(told)


def at_once(celerys: Callable[..., None], app: Celery) -> Callable[..., None]:
    """Celery's own way, for messages of any time."""

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
        keep_eta_apart(message, app)
        celerys(message, body, ack, reject, callbacks)

    return handle


def strategy(task: Any, app: Any, consumer: Any, **_options: Any) -> Callable[..., None]:
    """Celery's entry for each message of a control task."""
    return at_once(default(task, app, consumer), app)


def hold(ledger: Ledger, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Keep a command whose time has not come, and raise Ignore: it is acked. Raises JobRejected where none can wait."""
    request = task.request
    if request.is_eager or request.called_directly or not (at := not_before_of(request)):
        return
    now, at = ledger.now(), at + ledger.clock.offset
    if at <= now:
        if wait_for_ledger(lambda: ledger.later.holds(str(request.id))):
            raise Ignore  # a copy, whose ack was lost, of what is kept; that one has no time any more
        return
    if at > now + SCHEDULE_MAX_MS:
        raise rejected("eta", "eta: must be within a year")
    signature = task.signature_from_request(request, args, kwargs, queue="bridge.control", retries=request.retries)
    headers = {k: v for k, v in (signature.options.get("headers") or {}).items() if k != NOT_BEFORE}
    message = dumps({**signature, "options": {**signature.options, "headers": headers}})
    if len(message) > BYTES_MAX:
        raise rejected("eta", f"eta: a command for later may have {BYTES_MAX} bytes, with all that follows it")
    if not wait_for_ledger(lambda: ledger.later.keep(str(request.id), at, message)):
        raise rejected("eta", "eta: too many commands wait for their time already; send it again later", reason=BUSY)
    raise Ignore


def send(app: Celery, message: str) -> None:
    """A message whose time has come. Raises ServerUnavailable while the broker is away."""
    try:
        app.signature(load(message)).apply_async(retry=False)
    except Exception as error:
        if not is_outage(error):
            raise
        raise ServerUnavailable(f"CELERY_BROKER_URL: {type(error).__name__}: {error}") from None
