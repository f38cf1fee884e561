"""What a stranger's bytes mean: a request, a command, or a typed refusal; and never anything else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.doors.messages import Command, Refused, Request, take
from bridge.doors.strict import BODY_MAX
from bridge.errors import JobRejected
from bridge.job.request import parse_run


def request(document: Any, **properties: str) -> Any:
    """As the requests' door reads it."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return take(body, {}, "amqp", properties)


def command(document: Any, **properties: str) -> Any:
    """As the commands' door reads it."""
    return take(json.dumps(document).encode(), {}, "amqp", properties, "commands")


def test_bare_json_is_a_request_whatever_was_not_said_about_it() -> None:
    """No content type means JSON; a byte order mark is no fault."""
    for properties in ({}, {"content_type": "application/json; charset=utf-8"}, {"content_encoding": "utf-8"}):
        found = request({"id": "order-1", "input": {"a": 1}, "correlation_id": "c"}, **properties)
        assert (found.id, found.run.input, found.correlation_id) == ("order-1", {"a": 1}, "c")
    assert request(b'\xef\xbb\xbf{"id": "bom", "input": {"a": 1}}').id == "bom"


def test_the_id_is_the_documents_else_the_brokers_else_the_events_else_none() -> None:
    """In this order; the door makes one where there is none."""
    event = {"specversion": "1.0", "id": "event-1", "source": "/shop", "type": "job"}
    assert request({"id": "mine", "input": {"a": 1}}, message_id="broker").id == "mine"
    assert request({"input": {"a": 1}}, message_id="broker").id == "broker"
    assert request({**event, "data": {"input": {"a": 1}}}, message_id="broker").id == "broker"
    assert request({**event, "data": {"input": {"a": 1}}}).id == "event-1"
    assert request({"input": {"a": 1}}).id is None


def test_the_endpoint_is_the_documents_else_the_keys_third_word() -> None:
    """job.submit.<endpoint>, and for commands about endpoints job.command.<endpoint>."""
    assert request({"input": {"a": 1}, "endpoint": "b"}, routing_key="job.submit.a").run.endpoint == "b"
    assert request({"input": {"a": 1}}, routing_key="job.submit.a.urgent").run.endpoint == "a"
    assert request({"input": {"a": 1}}, routing_key="bridge.requests").run.endpoint is None
    assert command({"op": "pause"}, routing_key="job.command.a").arguments == {"endpoint": "a"}
    assert command({"op": "cancel", "id": "x"}, routing_key="job.command.a").arguments == {"id": "x"}
    assert request({"input": {"a": 1}}, routing_key="job.submit.a b").field == "endpoint"


@pytest.mark.parametrize("prefix", ["ce-", "cloudEvents:", "cloudEvents_"])
def test_cloud_events_in_binary_mode_by_any_prefix(prefix: str) -> None:
    """The attributes are headers, the body is the request."""
    trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    headers = {f"{prefix}specversion": "1.0", f"{prefix}id": "e-1", "traceparent": trace, f"{prefix}n": 5}
    found = take(b'{"input": {"a": 1}}', headers, "amqp", {"content_type": "application/json"})
    assert isinstance(found, Request)
    assert (found.id, found.trace) == ("e-1", trace)


def test_cloud_events_in_structured_mode() -> None:
    """By content type, or by specversion in the body; the data may be base64."""
    data = {"input": {"a": 1}, "id": "r-1"}
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "job", "data": data}
    assert request(event, content_type="application/cloudevents+json").id == "r-1"
    assert request(event).id == "r-1"
    coded = {k: v for k, v in event.items() if k != "data"} | {
        "data_base64": base64.b64encode(json.dumps(data).encode()).decode()
    }
    assert request(coded).id == "r-1"
    told = {**event, "data": {"op": "cancel", "id": "r-1"}}
    assert command(told) == Command(digest=command(told).digest, op="cancel", arguments={"id": "r-1"})
    for broken in ({**event, "specversion": "0.3"}, {**event, "data": "text"}, {**coded, "data_base64": "%"}):
        assert request(broken).reason == "malformed"


def test_reply_and_correlation_come_from_the_document_else_from_the_message() -> None:
    """Both are honoured; a refusal can be answered with either."""
    found = request({"input": {"a": 1}}, reply_to="q", correlation_id="c")
    assert (found.reply_to, found.run.reply_to, found.correlation_id) == ("q", "q", "c")
    found = request({"input": {"a": 1}, "reply_to": "mine"}, reply_to="q")
    assert (found.reply_to, found.run.reply_to) == ("mine", "mine")
    refused = request(b"{", reply_to="q", correlation_id="c", message_id="m-1")
    assert (refused.reply_to, refused.correlation_id, refused.id) == ("q", "c", "m-1")


NESTED = b'{"id": "x", "input": ' + b'{"a":' * 1000 + b"1" + b"}" * 1001
POISON = {
    "truncated": (b'{"id": "x", "input": {"a"', {}),
    "not an object": (b"[1, 2]", {}),
    "empty": (b"", {}),
    "too large": (b'{"id":"x","input":{"a":"' + b"a" * BODY_MAX + b'"}}', {}),
    "many lists": (b'{"id":"x","input":{"a":[' + b"[]," * 1_000_001 + b"[]]}}", {}),
    "latin": ('{"id":"x","input":{"a":"café"}}'.encode("latin-1"), {}),
    "utf-16": ('{"id":"x","input":{"a":1}}'.encode("utf-16"), {}),
    "charset": (b'{"id":"x","input":{"a":1}}', {"content_type": "application/json; charset=latin-1"}),
    "compressed": (b'{"id":"x","input":{"a":1}}', {"content_encoding": "gzip"}),
    "pickle": (b"\x80\x04.", {"content_type": "application/x-python-serialize"}),
    "1,000 levels": (NESTED, {}),
    "100,000 levels": (b'{"a":' * 100_000, {}),
    "101 levels": (b'{"id":"x","input":' + b'{"a":' * 101 + b"1" + b"}" * 102, {}),
    "NUL": (b'{"id":"x","input":{"a":"\x00"}}', {}),
    "NUL outside": (b'{"id":"x","input":{"a":1}}\x00', {}),
    "duplicate": (b'{"id":"x","input":{"a":1},"input":{"a":2}}', {}),
    "deep duplicate": (b'{"id":"x","input":{"a":1,"a":1}}', {}),
    "NaN": (b'{"id":"x","input":{"a":NaN}}', {}),
    "infinite": (b'{"id":"x","input":{"a":1e999}}', {}),
    "long": (b'{"id":"x","input":{"a":' + b"9" * 5000 + b"}}", {}),
    "over 64 bits": (b'{"id":"x","input":{"a":18446744073709551616}}', {}),
    "half a pair": (b'{"id":"x","input":{"a":"\\ud800"}}', {}),
    "two documents": (b'{"id":"x","input":{"a":1}}{}', {}),
    "wrong types": (b'{"id":"x","input":"text"}', {}),
    "number for id": (b'{"id":7,"input":{"a":1}}', {}),
    "id with space": (b'{"id":"a b","input":{"a":1}}', {}),
    "unknown kind": (b'{"kind":"nobody knows","payload":[]}', {}),
    "unknown argument": (b'{"id":"x","input":{"a":1},"imput":{}}', {}),
    "empty input": (b'{"id":"x","input":{}}', {}),
    "reserved": (b'{"id":"x","input":{"a":1},"callback":"http://x"}', {}),
    "control character": (b'{"id":"x","input":{"a":1},"correlation_id":"a\\u0000"}', {}),
}  # fmt: skip


@pytest.mark.parametrize("name", POISON)
def test_poison_is_a_typed_refusal_that_names_the_rule(name: str) -> None:
    """Never an exception, whatever it is."""
    body, properties = POISON[name]
    found = request(body, **properties)
    assert isinstance(found, Refused)
    assert found.reason in {"malformed", "too_large", "rejected", "unknown_kind"}
    assert found.message
    assert len(found.digest) == 64


def test_what_looks_like_poison_and_is_not_is_taken() -> None:
    """Numbers that 64 bits and doubles hold, 100 levels, escapes of NUL and whole surrogate pairs in an input."""
    deep: Any = 1
    for _ in range(98):
        deep = [deep]
    for value in (2**64 - 1, -(2**63), 1.5e300, "12345678901234567890", "a\u0000b", "\U0001f600", deep, "1e999"):
        found = request({"id": "x", "input": {"a": value}})
        assert isinstance(found, Request), found
        assert found.run.input == {"a": value}


def test_commands_are_checked_by_their_own_arguments() -> None:
    """The control task's names and types; who asks; no key of a request."""
    found = command({"op": "cancel", "id": "x", "by": "anna", "reply_to": "q", "correlation_id": "c"})
    assert (found.op, found.arguments, found.by, found.reply_to) == ("cancel", {"id": "x"}, "anna", "q")
    for broken, field in (
        ({"op": "explode"}, "op"),
        ({"id": "x"}, "op"),
        ({"op": "cancel", "id": 7}, "id"),
        ({"op": "purge", "endpoint": "a", "pending": "yes"}, "pending"),
        ({"op": "cancel", "id": "x", "input": {}}, "input"),
        ({"op": "cancel", "id": "x", "by": 7}, "by"),
    ):
        refused = command(broken)
        assert (refused.kind, refused.field) == ("commands", field)
        assert refused.reason == ("unknown_kind" if field == "op" else "rejected")


HEADERS = st.dictionaries(
    st.one_of(st.text(max_size=20), st.sampled_from(["ce-specversion", "cloudEvents:id", "traceparent"])),
    st.one_of(st.none(), st.integers(), st.binary(max_size=9), st.floats(), st.text(max_size=9), st.lists(st.text())),
    max_size=3,
)
PROPERTIES = st.dictionaries(
    st.sampled_from(["content_type", "content_encoding", "message_id", "correlation_id", "reply_to", "routing_key"]),
    st.one_of(st.text(max_size=20), st.integers(), st.none(), st.sampled_from(["application/json", "job.submit.a"])),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from([*"ab", "id", "input", "op", "endpoint", "policy", "metadata", "reply_to", "data", "specversion"]),
    JSON,
    max_size=6,
)


@settings(max_examples=300)
@given(
    st.one_of(st.binary(max_size=200), DOCUMENTS.map(lambda found: json.dumps(found).encode())),
    HEADERS,
    PROPERTIES,
    st.sampled_from(["requests", "commands"]),
)
def test_nothing_but_a_request_a_command_or_a_refusal_comes_out(
    body: bytes, headers: Any, properties: Any, kind: Any
) -> None:
    """Whatever goes in."""
    assert isinstance(take(body, headers, "amqp", properties, kind), Request | Command | Refused)


def test_a_refusal_names_the_field_also_where_its_name_begins_like_a_kind() -> None:
    """`stream` begins with what pydantic calls a string."""
    with pytest.raises(JobRejected, match=r"^stream: "):
        parse_run({"input": {"a": 1}, "stream": "yes"})
