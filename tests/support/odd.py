"""Sends AMQP messages whose properties no well-behaved client would spell: raw bytes into the content header."""

from __future__ import annotations

import struct
from typing import Any

import amqp

_HEADERS, _CONTENT_TYPE, _TIMESTAMP = 1 << 13, 1 << 15, 1 << 6


class Raw(amqp.Message):  # type: ignore[misc]
    """A message with its properties as bytes."""

    def __init__(self, body: bytes, properties: bytes) -> None:
        super().__init__(body)
        self._raw = properties

    def _serialize_properties(self) -> bytes:
        return self._raw


def table(*entries: tuple[bytes, bytes]) -> bytes:
    """Properties that are one table of headers: (name, type letter and value)."""
    items = b"".join(struct.pack("B", len(name)) + name + value for name, value in entries)
    return struct.pack(">HI", _HEADERS, len(items)) + items


#: Header tables and properties by what is odd about them.
ODD: dict[str, bytes] = {
    "short": table((b"k", b"s\x7f\xff")),
    "year 30000": table((b"k", b"T" + struct.pack(">Q", 884_541_351_600))),
    "time beyond all": table((b"k", b"T" + struct.pack(">Q", 2**64 - 1))),
    "name that is no UTF-8": table((b"\xff\xfe", b"S\x00\x00\x00\x01a")),
    "value that is no UTF-8": table((b"k", b"S\x00\x00\x00\x02\xff\xfe")),
    "bytes": table((b"k", b"x\x00\x00\x00\x03\x00\x01\x02")),
    "void": table((b"k", b"V")),
    "float": table((b"k", b"f" + struct.pack(">f", 1.5))),
    "decimal": table((b"k", b"D\xff\x7f\xff\xff\xff")),
    "array": table((b"k", b"A\x00\x00\x00\x02t\x01")),
    "nested": table((b"k", b"F\x00\x00\x00\x00")),
    "empty name": table((b"", b"I\x00\x00\x00\x01")),
    "the same name twice": table((b"k", b"I\x00\x00\x00\x01"), (b"k", b"I\x00\x00\x00\x02")),
    "CloudEvents version of a number": table((b"ce-specversion", b"I\x00\x00\x00\x01")),
    "content type that is no UTF-8": struct.pack(">HB", _CONTENT_TYPE, 2) + b"\xff\xfe",
    "timestamp beyond all": struct.pack(">HQ", _TIMESTAMP, 2**64 - 1),
}


def deep(levels: int) -> bytes:
    """Headers that are tables in tables."""
    value = b"I\x00\x00\x00\x01"
    for _ in range(levels):
        inner = b"\x01k" + value
        value = b"F" + struct.pack(">I", len(inner)) + inner
    return table((b"k", value))


ODD["1,000 levels"] = deep(1000)


def send_odd(url: str, body: bytes, properties: bytes, key: bytes = b"job.submit.demo") -> None:
    """One message; raises what the broker says when it does not take it."""
    from kombu import Connection  # noqa: PLC0415

    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        channel: Any = connection.channel()
        channel.basic_publish(Raw(body, properties), "bridge.jobs", key)
