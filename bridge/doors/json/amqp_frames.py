"""Reads what py-amqp cannot: headers of types it does not know, dates beyond its calendar, names that are no UTF-8.

RabbitMQ passes such messages on. py-amqp fails in the middle of a frame: the connection is useless, the message comes
first again on the next one, and one stranger's header stops the door for ever (I12). Here such properties become none,
and the message says so in a header of ours; so it is read, refused and kept like any other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from amqp.basic_message import Message
from amqp.method_framing import frame_handler
from amqp.serialization import dumps, loads

#: In the headers of a message whose own could not be read.
UNREADABLE = "bridge-unreadable"
_METHOD, _HEADER = 1, 2
_DELIVER = (60, 60)
_CLASS_AND_SIZE = 12  # bytes before the properties

Frame = tuple[int, int, Any]


def reading_frames(connection: Any, callback: Callable[..., Any]) -> Callable[[Frame], Any]:
    """py-amqp's `frame_handler`, which never fails on what a message says of itself."""
    inner = frame_handler(connection, callback)

    def on_frame(frame: Frame) -> Any:
        kind, channel, payload = frame
        if kind == _HEADER:
            try:
                return inner(frame)
            except Exception:
                readable = _readable_header(payload)
                if readable is payload:
                    raise
                return inner((kind, channel, readable))  # it failed at the header, before it noted anything
        if kind == _METHOD and struct.unpack_from(">HH", payload, 0) == _DELIVER:
            frame = (kind, channel, _readable_delivery(payload))
        return inner(frame)

    return on_frame


def _readable_header(payload: Any) -> Any:
    try:
        Message().inbound_header(payload)
    except Exception as error:  # noqa: BLE001  (struct, calendar, recursion, decimal: whatever a stranger has found)
        said = Message(application_headers={UNREADABLE: f"{type(error).__name__}: {error}"[:200]})
        return bytes(payload[:_CLASS_AND_SIZE]) + said._serialize_properties()  # noqa: SLF001  (its only spelling)
    return payload


def _readable_delivery(payload: Any) -> Any:
    """Consumer tag, delivery tag, redelivered, exchange, routing key: the last two are a stranger's."""
    try:
        loads("sLbss", payload, 4)
    except (UnicodeDecodeError, struct.error, IndexError):
        (tag, number, again), _ = loads("sLb", payload, 4)
        return bytes(payload[:4]) + dumps("sLbss", [tag, number, again, "", ""])
    return payload
