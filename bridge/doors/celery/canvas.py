"""What a Celery message says beside its arguments: kept in the ledger at accept, put back on the request at finish.

Celery's own tracer then goes on as if the task had run here and now. What is dropped, and why: `expires` and time
limits would hit the finish (they become the request's own clocks); task ids of follow-ups are given here, once, so
that a second copy of a finish publishes the same tasks (HARDENING 8).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from celery.app.task import Context
from kombu.utils.uuid import uuid

from bridge.doors.celery.accept.eta import moment
from bridge.engine.tell.kombu_json import dumps
from bridge.job.request import REQUEST_ID

#: What may follow a request.
_FOLLOWING = ("callbacks", "errbacks", "chain", "chord")
_OPTIONS = ("root_id", "parent_id", "shadow", "headers", "retries", "reply_to", "replaced_task_nesting", "origin")


def canvas_of(request: Context, *, ignore_result: bool, extended: bool = False) -> dict[str, Any]:
    """The part of a request's context that its end needs, as JSON; `extended`: what `result_extended` tells as well."""
    options = request.as_execution_options()
    kept = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
    kept["shadow"] = kept.get("shadow") or request.task
    if options.get("stamped_headers"):
        kept["stamped_headers"] = list(options["stamped_headers"])
        kept["stamps"] = {name: options[name] for name in options["stamped_headers"] if name in options}
    kept["ignore_result"] = ignore_result
    canvas: dict[str, Any] = {
        "options": kept,
        "task": request.task,
        "correlation_id": request.correlation_id,
        "delivery_info": {k: v for k, v in (request.delivery_info or {}).items() if _is_json(v)},
    }
    if extended:
        kwargs = dict(request.kwargs or {})
        veiled = {name: "***" for name in ("s3Config", "callback") if name in kwargs}
        canvas["called"] = [request.args or [], kwargs | veiled]
    if any(getattr(request, name, None) for name in _FOLLOWING):
        canvas["follows"] = hashlib.sha256(dumps(_what_follows(request)).encode()).hexdigest()[:16]
    for name in ("callbacks", "errbacks", "chain"):
        found = getattr(request, name, None)
        if found:
            canvas[name] = [_with_ids(signature) for signature in found]
    for name in ("chord", "group", "group_index"):
        if getattr(request, name, None) is not None:
            canvas[name] = getattr(request, name)
    return canvas


def plain_canvas(request: Context) -> dict[str, Any]:
    """The canvas of a request as if nothing followed it, in JSON's own types."""
    canvas = json.loads(dumps(canvas_of(request, ignore_result=False)))
    return {name: value for name, value in canvas.items() if name not in {*_FOLLOWING, "follows"}}


def continues(canvas: Mapping[str, Any]) -> bool:
    """Whether anything follows the request."""
    return any(canvas.get(name) for name in _FOLLOWING)


def continues_beside_chord(canvas: Mapping[str, Any]) -> bool:
    """Whether anything but a chord follows the request."""
    return continues({**canvas, "chord": None})


def another(sent: Mapping[str, Any], kept: Mapping[str, Any] | None) -> bool:
    """Whether a message with the id of a known request brings another canvas than the one that is kept.

    The same message that comes again brings the same. None: the request's record is gone, and with it what it kept.
    """
    if not continues(sent):
        return False
    if kept is None or not continues(kept):
        return True
    return bool(kept.get("follows", sent["follows"]) != sent["follows"])


def _what_follows(request: Context) -> list[Any]:
    """What makes two sends' canvases one: tasks, arguments and options, and the ids by which somebody may wait.

    A task that runs again, and with it a chain that it sends, brings new ids of the steps on the way, and the queue of
    another process for their replies. The last step's id is the one that callers have.
    """
    last, *before = list(request.chain or []) or [None]
    if isinstance(last, Mapping) and last.get("subtask_type") == "chord":
        kwargs = dict(last.get("kwargs") or {})
        body = _said(kwargs.pop("body", None), _OF_A_SEND)
        end = [_said({**last, "kwargs": kwargs}, _OF_A_STEP), body]
    else:
        end = [_said(last, _OF_A_SEND)]
    others = [_said(getattr(request, name, None), _OF_A_SEND) for name in ("callbacks", "errbacks", "chord")]
    return [*others, end, _said(before, _OF_A_STEP), request.group, request.group_index]


#: Options that differ each time the same is sent, and those of a step for whose result nobody waits.
_OF_A_SEND = frozenset({"reply_to", "parent_id", "root_id"})
_OF_A_STEP = _OF_A_SEND | {"task_id", "group_id"}


def _said(value: Any, left_out: frozenset[str]) -> Any:
    """A signature, or several, or what holds them, without these options."""
    if isinstance(value, list | tuple):
        return [_said(item, left_out) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: _said(item, left_out) for name, item in value.items()}
    if "task" in found and isinstance(options := found.get("options"), dict):
        found["options"] = {name: item for name, item in options.items() if name not in left_out}
    return found


def followed_by(canvas: Mapping[str, Any]) -> set[str]:
    """The ids of a chain's steps and of links."""
    return {step.id for step in followers([*(canvas.get("chain") or ()), *(canvas.get("callbacks") or ())]) if step.id}


def fail_followers(backend: Any, context: Context, fault: Exception, kept: Mapping[str, Any] | None = None) -> None:
    """Tell who waits for what would have followed that it will not: nobody waits for ever.

    What is stored under the request's own id is left alone. `kept`, where nothing of this send was sent: the canvas of
    the first send; what follows that one is left alone too.
    """
    chain, context.chain = context.chain, None
    links = (context.callbacks or ()) if kept is not None else ()
    first = followed_by(kept or {})
    for follower in followers([*(chain or ()), *links]):
        if follower.id in first:
            continue
        backend.mark_as_failure(follower.id, fault, request=follower, store_result=follower.id is not None)
    backend.mark_as_failure(context.id, fault, request=context, store_result=False)


def put_back(context: Context, canvas: Mapping[str, Any], *, continued: bool) -> None:
    """Make the finish's context that of the original request; once `continued`, only the store is left to do."""
    context.args, context.kwargs = canvas.get("called") or [(), {}]
    context.update(
        task=canvas.get("task"),
        correlation_id=canvas.get("correlation_id"),
        delivery_info=canvas.get("delivery_info") or context.delivery_info,
        group=canvas.get("group"),
        group_index=canvas.get("group_index"),
        chord=canvas.get("chord"),
        callbacks=None if continued else canvas.get("callbacks"),
        errbacks=None if continued else canvas.get("errbacks"),
        chain=None if continued else canvas.get("chain"),
    )


def original(task_id: str, canvas: Mapping[str, Any]) -> Context:
    """The request's context by its canvas alone, where no message brings its end."""
    options = dict(canvas.get("options") or {})
    headers = options.pop("headers", None) or {}
    context = Context({**headers, **options}, id=task_id, delivery_info={}, called_directly=False)
    put_back(context, canvas, continued=False)
    return context


def followers(chain: Any) -> list[Context]:
    """What would have followed in a chain, as contexts: each may be the member of a chord that waits for it."""
    found, left = [], list(chain or [])
    while left:
        signature = left.pop()
        context = Context(signature)
        context.update(context.options or {})
        context.id, context.group = context.options.get("task_id"), context.options.get("group_id")
        context.chord = context.options.get("chord")
        found.append(context)
        if signature.get("subtask_type") == "chord":  # the step after it waits for its body
            body = (signature.get("kwargs") or {}).get("body")
            left += [body] if body else []
    return found


def replaced_by(request: Context) -> str:
    """The id of the task that has replaced itself by this request and others (`Task.replace`); "" for none.

    The replaced task's id goes to the last of what stands in its place, so that it is found among what follows here,
    while it is also the parent of what it sent itself, or the root. Nothing else has such an id. Behind a task of its
    own in a replacement the message names it nowhere so; there it is the last of those steps which the same thread has
    frozen (`reply_to`) as this request, where steps of another thread, the first sender's, come behind.
    """
    if not request.replaced_task_nesting:
        return ""
    steps = [step.get("options") or {} for step in reversed(request.chain or ()) if isinstance(step, dict)]
    ids = {options.get("task_id") for options in steps}
    if request.chord:
        ids.add((request.chord.get("options") or {}).get("task_id"))
    for task_id in (request.parent_id, request.root_id):
        if task_id in ids and REQUEST_ID.fullmatch(str(task_id)):
            return str(task_id)
    own = list(takewhile(lambda options: options.get("reply_to") == request.reply_to, steps))
    if request.reply_to and own and len(own) < len(steps):
        task_id = str(own[-1].get("task_id"))
        return task_id if REQUEST_ID.fullmatch(task_id) else ""
    return ""


def clocks_of(request: Context, clock_offset: int) -> tuple[int, int]:
    """Celery's `expires` as a queue deadline (ledger ms) and its shorter time limit in ms; 0 for none.

    Whatever this process' own clock says.
    """
    expires_at = 0
    if request.expires:
        expires_at = int(moment(request.expires).timestamp() * 1000) + clock_offset
    limits = [limit for limit in (request.timelimit or ()) if limit]
    return expires_at, int(min(limits) * 1000) if limits else 0


def _with_ids(signature: Any) -> Any:
    if not isinstance(signature, dict):
        return signature
    options = dict(signature.get("options") or {})
    options.setdefault("task_id", uuid())
    signature = {**signature, "options": options}
    kwargs = signature.get("kwargs") or {}
    if isinstance(kwargs.get("tasks"), list):
        signature["kwargs"] = {**kwargs, "tasks": [_with_ids(task) for task in kwargs["tasks"]]}
    return signature


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
