"""Whether what is to follow a request can be sent: looked at as the request comes, before anything is paid for it.

A job may take hours, and only then would Celery find that its link names a codec that nobody here has. So everything
that sending reads of a signature is checked by type, and all that it carries inside: groups, chains, chords, links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery.canvas import Signature
from kombu import compression
from kombu.serialization import registry

from bridge.doors.celery.consumer.value_types import flag, moment, number, object_, seconds, text, texts, whole


class Unfit(Exception):
    """`place` is where in the signature, `rule` what it breaks; neither quotes anything of it."""

    def __init__(self, place: str, rule: str) -> None:
        super().__init__(place, rule)
        self.place = place
        self.rule = rule


def _codec(value: Any) -> bool:
    try:
        compression.get_encoder(value)
    except (KeyError, TypeError):
        return False
    return True


def _serializer(value: Any) -> bool:
    return text(value) and value in registry._encoders  # noqa: SLF001


def _priority(value: Any) -> bool:
    return whole(value) and value < 256  # noqa: PLR2004  (a byte)


def _mode(value: Any) -> bool:
    return value in (1, 2, "persistent", "transient") and not isinstance(value, bool)


#: name -> (what it must be, in words). Each may be absent or null; what stands nowhere here is a stamp or a property.
_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("queue", "exchange", "routing_key", "exchange_type", "task_id", "group_id", "root_id", "parent_id", "shadow",
         "reply_to", "route_name", "origin", "content_type", "content_encoding", "correlation_id", "message_id",
         "argsrepr", "kwargsrepr"),
        (text, "must be a text"),
    ),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting"), (whole, "must be a whole number")),
    "countdown": (number, "must be a number of seconds"),
    **dict.fromkeys(("time_limit", "soft_time_limit", "expiration", "timeout", "confirm_timeout"),
                    (seconds, "must be a number of seconds")),
    **dict.fromkeys(("ignore_result", "add_to_parent", "mandatory", "immediate", "retry"),
                    (flag, "must be true or false")),
    **dict.fromkeys(("headers", "retry_policy"), (object_, "must be an object")),
    "eta": (moment, "must be a time in ISO 8601"),
    "expires": (lambda value: number(value) or moment(value), "must be a number of seconds, or a time in ISO 8601"),
    "priority": (_priority, "must be a whole number from 0 to 255"),
    "delivery_mode": (_mode, "must be 1 or 2"),
    "serializer": (_serializer, "must be a serializer that this worker has"),
    "compression": (_codec, "must be a compression that this worker has"),
    "stamped_headers": (texts, "must be a list of texts"),
    # Names that Celery's own calls have, and objects of a process.
    **dict.fromkeys(
        ("name", "args", "kwargs", "task", "app", "self", "subtask_type", "producer", "publisher", "connection",
         "router", "result_cls", "task_type", "event_dispatcher", "declare", "message", "body", "now", "timezone",
         "create_sent_event", "callbacks", "errbacks"),
        (lambda _: False, "is no option of a message"),
    ),
}  # fmt: skip
#: Options that hold what follows the follow-up.
_BEHIND = ("link", "link_error", "chain")


def check_signature(value: Any, place: str) -> None:
    """Raises Unfit. As Celery writes one: a task with a name, its arguments and its options."""
    if not isinstance(value, dict) or not text(value.get("task")) or not value["task"]:
        raise Unfit(place, "must be a signature")
    for name, kinds in (("args", list | tuple), ("kwargs", dict), ("options", dict)):
        if not isinstance(value.get(name), kinds):
            raise Unfit(f"{place}.{name}", "must be a list" if name == "args" else "must be an object")
    _check_options(value["options"], f"{place}.options")
    _check_inside(value.get("subtask_type"), value["kwargs"], place)


def check_signatures(value: Any, place: str) -> None:
    """Raises Unfit. A list of them."""
    if not isinstance(value, list | tuple):
        raise Unfit(place, "must be a list of signatures")
    for index, signature in enumerate(value):
        check_signature(signature, f"{place}[{index}]")


def _check_options(options: Mapping[str, Any], place: str) -> None:
    for name, (fits, rule) in _OPTIONS.items():
        if options.get(name) is not None and not fits(options[name]):
            raise Unfit(f"{place}.{name}", rule)
    for name in options.get("stamped_headers") or ():
        if name not in options or name in _OPTIONS:
            raise Unfit(f"{place}.stamped_headers", "names what is no stamp")
    for name in _BEHIND:
        behind = options.get(name)
        if behind is not None:
            check_signatures([behind] if isinstance(behind, dict) else behind, f"{place}.{name}")
    if options.get("chord") is not None:
        check_signature(options["chord"], f"{place}.chord")


def _check_inside(kind: Any, kwargs: Mapping[str, Any], place: str) -> None:
    if not kind:
        return
    if not text(kind) or kind not in Signature.TYPES:
        raise Unfit(f"{place}.subtask_type", "must be one of Celery's")
    place = f"{place}.kwargs"
    match kind:
        case "group" | "chain":
            check_signatures(kwargs.get("tasks"), f"{place}.tasks")
        case "chord":
            header = kwargs.get("header")
            (check_signature if isinstance(header, dict) else check_signatures)(header, f"{place}.header")
            check_signature(kwargs.get("body"), f"{place}.body")
        case _:  # xmap, xstarmap, chunks
            check_signature(kwargs.get("task"), f"{place}.task")
            if not isinstance(kwargs.get("it"), list | tuple):
                raise Unfit(f"{place}.it", "must be a list")
            if kind == "chunks" and not (whole(kwargs.get("n")) and kwargs["n"]):
                raise Unfit(f"{place}.n", "must be a whole number above 0")
