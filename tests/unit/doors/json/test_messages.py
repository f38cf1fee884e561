"""What a stranger's bytes mean: a request, a command, or a typed refusal; and never anything else."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.doors.commands import COMMANDS
from bridge.doors.parse import NO_DATA, Command, RefusedMessage, Request, take
from bridge.errors import JobRejected
from bridge.job.contract.models import JsonCommand
from bridge.job.request import REQUEST_ID, RUN_BODY_MAX, RUNSYNC_BODY_MAX, RunRequest, parse_run
from bridge.job.strict_json import BODY_MAX, NAMES_MAX, Fault, read_object


def request(document: Any, **properties: str) -> Any:
    """As the requests' door reads it."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return take(body, {}, "amqp", properties)


def command(document: Any, **properties: str) -> Any:
    """As the commands' door reads it."""
    return take(json.dumps(document).encode(), {}, "amqp", properties, "commands")


def test_more_names_than_can_be_read_at_once_are_refused() -> None:
    """A million of them would hold the process up for seconds; as many values without names do not."""
    named = "{" + ",".join(f'"{n}":1' for n in range(NAMES_MAX + 1)) + "}"
    with pytest.raises(Fault, match="names"):
        read_object(f'{{"input": {named}}}'.encode())
    values = json.dumps({"input": {"values": [1] * (NAMES_MAX + 1)}})
    assert len(read_object(values.encode())["input"]["values"]) == NAMES_MAX + 1


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


@pytest.mark.parametrize("said", ["partition:0/offset:5", "shop/4711", "café", "x" * 201, " 7"])
def test_an_event_sent_twice_is_one_request_however_its_producer_writes_ids(said: str) -> None:
    """Source and id make it: the same event gives the same id, another source another one."""
    event = {"specversion": "1.0", "id": said, "source": "/shop", "type": "job", "data": {"input": {"a": 1}}}
    first, again, other = (request({**event, "source": source}).id for source in ("/shop", "/shop", "/till"))
    assert first == again != other
    assert first is not None
    assert REQUEST_ID.fullmatch(first)
    assert request({**event, "data": {"input": {"a": 1}, "id": "mine"}}).id == "mine"


def test_an_events_id_by_the_documented_rule_in_either_mode() -> None:
    """`ce-` and 32 hex digits of the SHA-256 of source, space, id; numbers are their digits."""
    expected = "ce-" + hashlib.sha256(b"/shop a/1").hexdigest()[:32]
    event = {"specversion": "1.0", "id": "a/1", "source": "/shop", "type": "job", "data": {"input": {"a": 1}}}
    assert request(event).id == expected
    headers: dict[str, Any] = {"ce-specversion": "1.0", "ce-id": "a/1", "ce-source": "/shop"}
    found = take(b'{"input": {"a": 1}}', headers, "amqp", {})
    assert isinstance(found, Request)
    assert found.id == expected
    numbered = take(b'{"input": {"a": 1}}', {**headers, "ce-id": 5}, "amqp", {})
    assert isinstance(numbered, Request)
    assert numbered.id == "5" == request({**event, "id": 5}).id
    unusable: list[Any] = ["", [], {"a": 1}, True, 1.5]
    for said in unusable:
        refused = request({**event, "id": said})
        assert (refused.reason, refused.field) == ("malformed", "id")


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
    "a batch": (b'{"id":"x","input":{"a":1}}', {"content_type": "application/cloudevents-batch+json"}),
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
    "reserved": (b'{"id":"x","input":{"a":1},"fallback":"http://x"}', {}),
    "callback by http": (b'{"id":"x","input":{"a":1},"callback":{"url":"http://x"}}', {}),
    "control character": (b'{"id":"x","input":{"a":1},"correlation_id":"a\\u0000"}', {}),
}  # fmt: skip


@pytest.mark.parametrize("name", POISON)
def test_poison_is_a_typed_refusal_that_names_the_rule(name: str) -> None:
    """Never an exception, whatever it is."""
    body, properties = POISON[name]
    found = request(body, **properties)
    assert isinstance(found, RefusedMessage)
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
        ({"op": "cancel", "id": "x", "reply_to": {"queue": "q"}}, "reply_to"),
    ):
        refused = command(broken)
        assert (refused.kind, refused.field) == ("commands", field)
        assert refused.reason == ("unknown_kind" if field == "op" else "rejected")


@pytest.mark.parametrize("op", sorted(name.removeprefix("bridge.") for name in COMMANDS))
def test_what_a_typed_client_leaves_unset_says_nothing_in_any_command(op: str) -> None:
    """Types made of the schema, which is one for all commands, send all its names: null, or a flag's false."""
    unset = json.loads(JsonCommand.model_validate({"op": op}).model_dump_json())
    assert unset.keys() >= {"id", "where", "refresh", "pending"}
    asked = command(unset | {"id": None, "by": "anna"}).arguments
    assert asked == dict.fromkeys(COMMANDS[f"bridge.{op}"][1] & {"refresh", "content", "pending"}, False)
    assert command({"op": "pause", "endpoint": "demo", "refresh": True}).field == "refresh"
    assert command({"op": "pause", "endpoint": "demo", "nonsense": None}).field == "nonsense"
    assert command({"op": "pause", "endpoint": "demo", "id": False}).field == "id"


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
    assert isinstance(take(body, headers, "amqp", properties, kind), Request | Command | RefusedMessage)


def test_a_refusal_names_the_field_also_where_its_name_begins_like_a_kind() -> None:
    """`stream` begins with what pydantic calls a string."""
    with pytest.raises(JobRejected, match=r"^stream: "):
        parse_run({"input": {"a": 1}, "stream": "yes"})


@pytest.mark.parametrize("name", POISON)
def test_who_sent_poison_is_found_out_where_it_can_be(name: str) -> None:
    """By the message's properties always; by the document as far as it can be read."""
    body, properties = POISON[name]
    found = request(body, **properties, reply_to="q", correlation_id="c", message_id="m-1")
    assert (found.reply_to, found.correlation_id or "c") == ("q", "c")
    assert found.id in {"m-1", "x", "y", None}  # None: it names one that is none, or two


MALFORMED = {
    "duplicate": b'{"a":1,"a":2}',
    "NaN": b'{"a":NaN}',
    "infinite": b'{"a":1e999}',
    "over 64 bits": b'{"a":' + b"9" * 5000 + b"}",
    "half a pair": b'{"a":"\\ud800"}',
    "101 levels": b"[" * 101 + b"]" * 101,
    "many lists": b"[" + b"[]," * 1_000_001 + b"[]]",
    "too large": b'"' + b"a" * BODY_MAX + b'"',
    "latin": '{"a":"café"}'.encode("latin-1"),
    "truncated": b'{"a',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_document_that_cannot_be_taken_still_says_whom_to_answer(name: str) -> None:
    """What stands before the fault is read, and behind it where the fault is not in the spelling; in an event too."""
    told = b'"id": "x", "reply_to": "billing", "correlation_id": "c", "endpoint": "sdxl"'
    asked = b"{" + told + b', "input": ' + MALFORMED[name] + b"}"
    for body in (asked, b'{"specversion": "1.0", "id": "e", "data": ' + asked + b"}"):
        found = request(body)
        assert isinstance(found, RefusedMessage)
        assert found.reason in {"malformed", "too_large"}
        assert (found.id, found.reply_to, found.correlation_id, found.endpoint) == ("x", "billing", "c", "sdxl")
    if name not in {"truncated", "many lists", "too large"}:
        found = request(b'{"input": ' + MALFORMED[name] + b", " + told + b"}")
        assert (found.id, found.reply_to) == ("x", "billing")
    order = b'{"op": "status", ' + told + b', "where": ' + MALFORMED[name] + b"}"
    found = take(order, {}, "amqp", {}, "commands")
    assert isinstance(found, RefusedMessage)
    assert (found.kind, found.op, found.id, found.reply_to) == ("commands", "status", "x", "billing")


def test_a_name_that_stands_twice_names_nobody() -> None:
    """Of two reply_to, neither is chosen; the message's own counts."""
    body = b'{"reply_to": "a", "reply_to": "b", "id": "x", "input": {"a": 1}}'
    assert (request(body).reply_to, request(body, reply_to="q").reply_to) == (None, "q")


def test_a_message_at_the_wrong_door_is_told_the_right_one() -> None:
    """And answered as what it is: a command that names a request says nothing of that request."""
    found = request({"op": "cancel", "id": "order-1", "reply_to": "q"})
    assert (found.kind, found.op, found.id, found.reply_to) == ("commands", "cancel", "order-1", "q")
    assert found.message == (
        "op: this is a command; commands go to bridge.commands, exchange bridge.jobs, key job.command"
    )
    found = command({"input": {"a": 1}, "id": "order-1", "reply_to": "q"})
    assert (found.kind, found.id, found.reply_to) == ("requests", "order-1", "q")
    assert found.message == (
        "input: this is a request; requests go to bridge.requests, exchange bridge.jobs, key job.submit"
    )
    body = b'{"op": "cancel", "id": "order-1"}'
    assert take(body, {}, "stream", {}, "requests", "bridge:team:requests").message == (  # type: ignore[union-attr]
        "op: this is a command; commands go to bridge:team:commands"
    )
    assert "bridge.run" in request(b'[[], {"input": {"a": 1}}, {"callbacks": null}]').message


def test_an_entry_without_its_field_is_told_so() -> None:
    """A stream's document stands in `data`; the other fields say whom to answer."""
    fields = {"date": '{"input": {"a": 1}}', "reply_to": "q", "content_type": NO_DATA}
    found = take(json.dumps(fields).encode(), fields, "stream", fields)
    assert isinstance(found, RefusedMessage)
    assert (found.reason, found.field, found.reply_to) == ("malformed", "data", "q")
    assert found.message.startswith("data: the entry has no field `data`")


S3 = {"accessId": "a", "accessSecret": "a", "bucketName": "b", "endpointUrl": "c"}
S3_RULE = "must be an object of accessId, accessSecret, bucketName and endpointUrl, or the name of one"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": "text"}, "input: must be an object"),
    ({"input": [1]}, "input: must be an object"),
    ({"input": None}, "input: must be an object"),
    ({}, "input: is required"),
    ({"endpoint": 7}, "endpoint: must be a string"),
    ({"policy": []}, "policy: must be an object of executionTimeout, ttl and lowPriority"),
    ({"policy": {"ttl": "1"}}, "policy.ttl: must be a whole number of milliseconds"),
    ({"policy": {"ttl": 10}}, "policy.ttl: must be at least 10000 (milliseconds: 600 is 0.6 s)"),
    ({"policy": {"lowPriority": 1}}, "policy.lowPriority: must be true or false"),
    ({"policy": {"int": 1}}, "policy.int: unknown argument"),
    ({"timeout": 1.5e4}, "timeout: must be a whole number of milliseconds"),
    ({"timeout": True}, "timeout: must be a whole number of milliseconds"),
    ({"stream": "yes"}, "stream: must be true or false"),
    ({"sync": "yes"}, "sync: must be true, false or milliseconds, 1000 to 300000"),
    ({"delivery": "twice"}, "delivery: must be at_least_once or at_most_once"),
    ({"retries": -1}, "retries: must be a whole number, 0 to 100"),
    ({"retries": 101}, "retries: must be a whole number, 0 to 100"),
    ({"retry_on": "all"}, "retry_on: must be a list of execution_timeout, handler_error, ttl_expired, worker_lost"),
    ({"retry_on": [1]}, "retry_on: must be a list of execution_timeout, handler_error, ttl_expired, worker_lost"),
    ({"priority": 10}, "priority: must be a whole number, 0 to 9"),
    ({"s3Config": 1}, f"s3Config: {S3_RULE}"),
    ({"s3Config": S3 | {"accessId": 1}}, "s3Config.accessId: must be a string"),
    ({"s3Config": S3 | {"colour": "red"}}, "s3Config.colour: unknown argument"),
    ({"reply_to": {}}, "reply_to: must be a string"),
    ({"reply_on": "end"}, "reply_on: must be a list of accepted, submitted, started, progress, chunk, end"),
    ({"reply_on": ["end", "start"]}, "reply_on: must be a list of accepted, submitted, started, progress, chunk, end"),
    ({"result": "both"}, "result: must be output or document"),
    ({"metadata": "flat"}, "metadata: must be an object"),
    ({"metadata": {"float": [1]}}, "metadata.float: must be a string, a number, true, false or null"),
    ({"imput": {}}, "imput: unknown argument; is it input?"),
    ({"nonsense": {}}, "nonsense: unknown argument"),
    ({"policy": {"lowpriority": True}}, "policy.lowpriority: unknown argument; is it policy.lowPriority?"),
    ({"fallback": "http://x"}, "fallback: not yet: the name is reserved for a later version"),
    ({"callback": "http://x"}, "callback: must be an object of url and events"),
    ({"callback": {"url": "http://x"}}, "callback.url: must begin with https://"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "text"), WRONG)
def test_a_refusal_names_the_field_and_the_rule_in_our_words(wrong: dict[str, Any], text: str) -> None:
    """Whole sentences: nothing of what the checking library calls things."""
    arguments = ({"input": {"a": 1}} | wrong) if wrong else {}
    with pytest.raises(JobRejected) as caught:
        parse_run(arguments)
    assert (caught.value.message, caught.value.document["field"]) == (text, text.partition(":")[0])
    refused = request({"id": "x", **arguments})
    assert (refused.reason, refused.message) == ("rejected", text)


def test_what_is_no_request_is_told_by_the_names_that_no_request_has() -> None:
    """`inputs` is a misspelt input, which its sender has to see."""
    refused = request({"id": "x", "inputs": {"a": 1}})
    assert refused.reason == "unknown_kind"
    assert refused.message == "body: is no request: it has no `input`, and no request has inputs"


WORDLESS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text("ab")),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text("ab"), inner)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*RunRequest.model_fields, "imput"]), WORDLESS, min_size=1, max_size=4))
def test_no_refusal_speaks_in_the_librarys_words(arguments: dict[str, Any]) -> None:
    """Whatever is wrong."""
    said = ""
    try:
        parse_run(arguments)
    except JobRejected as fault:
        said = fault.message
    for words in ("nput should", "valid ", "function-", "pydantic", "tuple", "dictionary", "S3Config.", ".0:"):
        assert words not in said


def test_what_runpod_would_not_take_for_its_size_is_refused() -> None:
    """10 MiB for /run, 20 MiB for /runsync; counted in bytes as they are sent."""
    bound, brim = {"a": "a" * (RUN_BODY_MAX - 20)}, {"a": "a" * RUN_BODY_MAX}
    assert parse_run({"input": bound}).input == bound
    with pytest.raises(JobRejected, match=r"^input: the request is 104857\d\d bytes; RunPod takes at most 10485760$"):
        parse_run({"input": brim})
    assert parse_run({"input": brim, "sync": True}).input == brim
    assert parse_run({"input": {"a": "é" * (RUN_BODY_MAX // 2 - 20)}}).input  # two bytes each, six in an escape
    with pytest.raises(JobRejected, match="at most 20971520"):
        parse_run({"input": {"a": "é" * (RUNSYNC_BODY_MAX // 2)}, "sync": True})
