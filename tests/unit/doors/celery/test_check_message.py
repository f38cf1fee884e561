"""What a refused Celery message is told: its place, and the rule."""

from __future__ import annotations

import bz2
import re
from typing import Any

import pytest
from kombu import compression
from kombu.exceptions import DecodeError
from kombu.message import Message
from kombu.serialization import registry

from bridge.doors.celery.consumer.check_message import MessageFault, check
from bridge.doors.whose_fault import is_own
from tests.support.foul import FOUL, Foul, good_headers

SAYS = {
    "body cut": r"body: is not JSON: [A-Z][\w ']+ \(character \d+\)",
    "invalid UTF-8": r"body: is not UTF-8 \(byte 14\)",
    "5,000 levels": "body: is nested too deep",
    "a number of 5,000 digits": "body: holds a number with more digits than Python reads",
    "a uuid that is none": "body: holds a __type__ whose __value__ is none of that type",
    "compression unknown": "headers.compression: is none that is taken; send one of .*application/x-gzip.*, or none",
    "compression a list": "headers.compression: is none that is taken; send one of .*application/x-gzip.*, or none",
    "compression that does not unpack": "body: cannot be unpacked by what headers.compression names",
    "compression cut": "body: cannot be unpacked by what headers.compression names",
    "a Decimal that is none": "body: holds a __type__ whose __value__ is none of that type",
}
MORE = {
    "a Decimal that is none": Foul(b'[[],{"input":{"__type__":"decimal","__value__":"x"}},{}]', good_headers()),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_celery_message_that_cannot_be_read_is_refused_by_its_place_and_the_rule(name: str) -> None:
    """In words, where it was the name of a class of Python's."""
    foul = (FOUL | MORE)[name]
    message = Message(
        foul.body,
        content_type=foul.content_type,
        content_encoding=foul.content_encoding,
        headers=dict(foul.headers),
        properties={},
        delivery_info={"exchange": "", "routing_key": "bridge.run"},
        accept={"application/json"},
    )
    with pytest.raises(MessageFault) as refused:
        check(message)
    assert re.fullmatch(SAYS[name], refused.value.text)


@pytest.mark.parametrize("place", ["json", "gzip"])
def test_a_message_is_not_to_blame_that_there_was_no_memory_to_read_it(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Kombu wraps what its decoders raise, and keeps what went wrong as a message was unpacked."""

    def full(_: Any) -> Any:
        raise MemoryError

    headers = good_headers()
    if place == "json":
        monkeypatch.setitem(registry._decoders, "application/json", full)
    else:
        headers["compression"] = "application/x-full"
        monkeypatch.setitem(compression._decoders, "application/x-full", full)
    message = Message(
        b"[[],{},{}]", content_type="application/json", content_encoding="utf-8", headers=headers, properties={},
        delivery_info={"exchange": "", "routing_key": "bridge.run"}, accept={"application/json"},
    )  # fmt: skip
    with pytest.raises((MemoryError, DecodeError)) as met:
        check(message)
    assert is_own(met.value)


def test_damaged_data_is_the_messages_fault_though_the_error_is_one_of_files() -> None:
    """Bzip2 says so with an OSError."""
    with pytest.raises(OSError, match="Invalid") as met:
        bz2.decompress(b"no such stream")
    assert not is_own(met.value)
