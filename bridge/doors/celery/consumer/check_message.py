"""Whether a message is one that Celery and the bridge can work with: looked at whole, before anybody does.

Celery reads a message in a dozen places, on several threads, and each takes for granted what the message says of
itself; one that lies ends the worker (I12). So the types of everything that will be read are checked here, once.
What a request may ask is not: that is told by the record that is made of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from celery.app.task import Context
from kombu import compression
from kombu.exceptions import ContentDisallowed, DecodeError

from bridge.doors.celery.consumer.check_signatures import Unfit, check_signature, check_signatures
from bridge.doors.celery.consumer.unpack import BODY_MAX, TooLarge
from bridge.doors.celery.consumer.value_types import flag, limits, moment, object_, text, texts, whole
from bridge.doors.whose_fault import is_own
from bridge.job.enums import DeadReason

#: Bytes of an id or a task's name.
_NAME_MAX = 1_000
#: What a header of the doors' own readers holds where the frame of an AMQP message could not be read.
UNREADABLE = "bridge-unreadable"
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


class MessageFault(Exception):
    """Why a message is set aside: `reason` is one of DeadReason, the text a sentence that quotes nothing of it."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text


def check(message: Any) -> None:
    """Raises MessageFault, or what this process lacks (`whose_fault.is_own`), and nothing else."""
    try:
        _check(message)
    except MessageFault:
        raise
    except Exception as error:
        if is_own(error):
            raise
        raise MessageFault(DeadReason.MALFORMED, f"message: cannot be read: {told(error)}") from error


def told(error: BaseException) -> str:
    """An error in words that hold nothing of the message: what it is, and for an MessageFault its own."""
    return error.text if isinstance(error, MessageFault) else type(error).__name__


def fault_of(error: BaseException) -> MessageFault:
    """Any error as the reason that a dead letter is given."""
    if isinstance(error, MessageFault):
        return error
    if isinstance(error, TooLarge) or isinstance(error.__cause__, TooLarge):
        return MessageFault(DeadReason.TOO_LARGE, f"body: {error}")
    if isinstance(error, ContentDisallowed):
        return MessageFault(DeadReason.MALFORMED, "content type: is not taken; send application/json")
    return MessageFault(DeadReason.MALFORMED, f"message: cannot be read: {told(error)}")


def _check(message: Any) -> None:
    headers = message.headers
    if not isinstance(headers, dict):
        raise _malformed("headers", "must be an object")
    if UNREADABLE in headers:
        raise _malformed("headers", "cannot be read")
    if message.errors:
        raise _packed_oddly(message.errors[0][1])
    _check_text(headers, "headers")
    if not isinstance(message.body, str | bytes | bytearray | memoryview):
        raise _malformed("body", "must be text")
    if len(message.body) > BODY_MAX:
        raise MessageFault(DeadReason.TOO_LARGE, f"body: {len(message.body)} bytes; at most {BODY_MAX} are taken")
    _check_delivery(message)
    _check_task(headers, _payload(message))


def _check_task(headers: dict[str, Any], payload: Any) -> None:
    if "task" in headers:
        _check_said(headers, "headers")
        if isinstance(payload, dict) and "args" in payload:  # a form between the two protocols
            _check_said({**payload, **headers}, "body")
            _check_call(payload.get("args", ()), payload.get("kwargs", {}), payload)
        elif isinstance(payload, list | tuple) and len(payload) == 3:  # noqa: PLR2004  (args, kwargs, what follows)
            _check_call(*payload)
            if _OWN & (payload[2] or {}).keys():  # it would be laid over what the headers say
                raise _malformed("body.embed", "holds what belongs into the headers")
        else:
            raise _malformed("body", "must be [args, kwargs, embed]")
    elif isinstance(payload, dict) and "task" in payload:
        _check_said(payload, "body")
        _check_call(payload.get("args", ()), payload.get("kwargs", {}), payload)
    else:
        raise MessageFault(DeadReason.UNKNOWN_KIND, "task: is named neither by the headers nor by the body")


def _payload(message: Any) -> Any:
    try:
        payload = message.payload
    except Exception as error:
        inner = error.args[0] if isinstance(error, DecodeError) and error.args else error
        if is_own(error):
            raise
        raise _body_fault(inner if isinstance(inner, Exception) else error) from error
    body = message.body
    if _HALF_PAIR.search(body.encode(errors="replace") if isinstance(body, str) else body):
        _check_text(payload, "body")
    return payload


def _packed_oddly(error: BaseException) -> MessageFault:
    """Kombu unpacks a message as it makes one, and keeps what went wrong."""
    if is_own(error):
        raise error
    if isinstance(error, TooLarge):
        return fault_of(error)
    if isinstance(error, KeyError | TypeError):
        taken = ", ".join(sorted(compression.encoders()))
        return _malformed("headers.compression", f"is none that is taken; send one of {taken}, or none")
    return _malformed("body", "cannot be unpacked by what headers.compression names")


def _body_fault(error: BaseException) -> MessageFault:
    """Why a body gives no value, in words that quote nothing of it."""
    match error:
        case RecursionError():
            return _malformed("body", "is nested too deep")
        case UnicodeDecodeError():
            return _malformed("body", f"is not {error.encoding.upper()} (byte {error.start})")
        case json.JSONDecodeError():
            return _malformed("body", f"is not JSON: {error.msg} (character {error.pos})")
        case ValueError() if "integer string conversion" in str(error):
            return _malformed("body", "holds a number with more digits than Python reads")
        case TypeError() | ArithmeticError() | ValueError():  # of a decoder that kombu has for the type
            return _malformed("body", "holds a __type__ whose __value__ is none of that type")
        case _:
            return fault_of(error)


def _check_text(value: Any, place: str) -> None:
    """No half of a surrogate pair: neither Redis nor RabbitMQ could be told of it. Nothing nested too deep for JSON."""
    try:
        json.dumps(value, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _malformed(place, "holds half of a surrogate pair, which UTF-8 cannot carry") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _malformed(place, f"is no JSON: {type(error).__name__}") from error


def _check_delivery(message: Any) -> None:
    properties, info = message.properties, message.delivery_info
    if not isinstance(properties, dict) or not isinstance(info, dict):
        raise _malformed("properties", "must be an object")
    _check_text({k: v for k, v in properties.items() if k != "application_headers"}, "properties")
    for name in ("reply_to", "correlation_id"):
        _must_be_text(properties, name, "properties")
    for name in ("exchange", "routing_key"):
        _must_be_text(info, name, "delivery_info")


#: name -> (what it must be, in words). Each may be absent or null.
_SAID: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("root_id", "parent_id", "group", "shadow", "reply_to", "correlation_id", "origin", "argsrepr", "kwargsrepr",
         "traceparent", "tracestate"),
        (text, "must be a text"),
    ),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting"), (whole, "must be a whole number")),
    **dict.fromkeys(("eta", "expires"), (moment, "must be a time in ISO 8601")),
    "timelimit": (limits, "must be two numbers of seconds, or null for none"),
    "ignore_result": (flag, "must be true or false"),
    "utc": (flag, "must be true or false"),
    "stamped_headers": (texts, "must be a list of texts"),
    "stamps": (object_, "must be an object"),
    "headers": (object_, "must be an object"),
    "properties": (object_, "must be an object"),
    "delivery_info": (object_, "must be an object"),
}  # fmt: skip
_FOLLOWS: Mapping[str, Callable[[Any, str], None]] = {
    **dict.fromkeys(("callbacks", "errbacks", "chain"), check_signatures),
    "chord": check_signature,
}


#: What Celery lays over a request from behind its arguments, without a look.
_OWN = {name for name in Context.__dict__ if not name.startswith("_")} - _FOLLOWS.keys() | {"task"}


def _check_said(said: Mapping[str, Any], place: str) -> None:
    task, task_id = said.get("task"), said.get("id")
    if not isinstance(task, str) or not 0 < len(task.encode()) <= _NAME_MAX:
        raise MessageFault(DeadReason.UNKNOWN_KIND, f"{place}.task: must be the name of a task")
    if task_id is None:
        raise _malformed(f"{place}.id", "is required")
    if not isinstance(task_id, str) or not 0 < len(task_id.encode()) <= _NAME_MAX:
        raise _malformed(f"{place}.id", f"must be a text of 1 to {_NAME_MAX} bytes")
    for name, (fits, rule) in _SAID.items():
        if said.get(name) is not None and not fits(said[name]):
            raise _malformed(f"{place}.{name}", rule)
    own = said.get("headers") or {}
    _must_be_text(own, "traceparent", f"{place}.headers")
    for name in said.get("stamped_headers") or ():
        if name not in said and name not in (said.get("stamps") or {}):
            continue
        if name in _SAID or name in _FOLLOWS or name in {"id", "task", "args", "kwargs"}:
            raise _malformed(f"{place}.stamped_headers", "names what is no stamp")


def _check_call(args: Any, kwargs: Any, embed: Any) -> None:
    if not isinstance(args, list | tuple):
        raise _malformed("body.args", "must be a list")
    if not isinstance(kwargs, dict):
        raise _malformed("body.kwargs", "must be an object")
    if embed is not None and not isinstance(embed, dict):
        raise _malformed("body.embed", "must be an object")
    for name, check_it in _FOLLOWS.items():
        value = (embed or {}).get(name)
        if value is not None:
            try:
                check_it(value, f"body.{name}")
            except Unfit as unfit:
                raise _malformed(unfit.place, unfit.rule) from None


def _must_be_text(said: Mapping[str, Any], name: str, place: str) -> None:
    if said.get(name) is not None and not text(said[name]):
        raise _malformed(f"{place}.{name}", "must be a text")


def _malformed(field: str, rule: str) -> MessageFault:
    return MessageFault(DeadReason.MALFORMED, f"{field}: {rule}")
