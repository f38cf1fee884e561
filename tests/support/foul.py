"""Messages that no Celery would send, to the queues of the bridge: raw, as a stranger's client could write them."""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

import pika
import redis
from hypothesis import strategies as st

from tests.support.odd import Raw, table

QUEUES = ("bridge.run", "bridge.finish", "bridge.control")
#: Stands in every foul message where a secret or an input would; no log may show it.
SECRET = "hunter2-ZmFrZQ"


@dataclass(frozen=True, slots=True)
class Foul:
    """One message. An `envelope` goes onto a Redis list as it is; RabbitMQ gets body, headers, properties."""

    body: bytes = b""
    headers: dict[str, Any] = field(default_factory=dict)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"
    properties: dict[str, Any] = field(default_factory=dict)
    envelope: bytes | None = None
    queue: str = "bridge.run"


def good_headers(**more: Any) -> dict[str, Any]:
    """What Celery says of a request, with changes; None takes a header away."""
    task_id = f"foul-{uuid.uuid4().hex}"
    headers = {
        "lang": "py", "task": "bridge.run", "id": task_id, "root_id": task_id, "retries": 0, "timelimit": [None, None],
        "argsrepr": "()", "kwargsrepr": f"{{'input': '{SECRET}'}}", "ignore_result": False,
    }  # fmt: skip
    return {name: value for name, value in {**headers, **more}.items() if value is not None}


def body_of(**kwargs: Any) -> bytes:
    """A body of protocol 2."""
    said = {"input": {"secret_input": SECRET}, "s3Config": {"accessSecret": SECRET}, **kwargs}
    return json.dumps([[], said, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


DEEP = b"[" * 5_000 + b"]" * 5_000
_GZIP = zlib.compress(body_of())

#: By what is wrong. None of them is a request; each has an id that can be read, unless its name says otherwise.
FOUL: dict[str, Foul] = {
    "content type pickle": Foul(b"\x80\x04}.", good_headers(), "application/x-python-serialize", "binary"),
    "content type yaml": Foul(b"a: b", good_headers(), "application/x-yaml"),
    "no content type": Foul(body_of(), good_headers(), None),
    "body cut": Foul(body_of()[:-20], good_headers()),
    "body empty": Foul(b"", good_headers()),
    "body an object": Foul(b'{"a": 1}', good_headers()),
    "body two parts": Foul(b"[[],{}]", good_headers()),
    "body a number": Foul(b"7", good_headers()),
    "body null": Foul(b"null", good_headers()),
    "body a text": Foul(b'"args"', good_headers()),
    "kwargs a list": Foul(b"[[],[],{}]", good_headers()),
    "args an object": Foul(b"[{},{},{}]", good_headers()),
    "embed a number": Foul(b"[[],{},7]", good_headers()),
    "callbacks a number": Foul(b'[[],{},{"callbacks":7}]', good_headers()),
    "callbacks of numbers": Foul(b'[[],{},{"callbacks":[7]}]', good_headers()),
    "chord a text": Foul(b'[[],{},{"chord":"x"}]', good_headers()),
    "embed takes the id": Foul(b'[[],{"input":{"a":1}},{"id":[1]}]', good_headers()),
    "embed is eager": Foul(b'[[],{"input":{"a":1}},{"is_eager":true}]', good_headers()),
    "invalid UTF-8": Foul(b'[[],{"input":"\xff\xfe"},{}]', good_headers()),
    "5,000 levels": Foul(DEEP, good_headers()),
    "half a surrogate pair": Foul(b'[[],{"input":{"a":"\\ud800"}},{}]', good_headers()),
    "a number of 5,000 digits": Foul(b'[[],{"input":{"a":' + b"9" * 5_000 + b"}},{}]", good_headers()),
    "a uuid that is none": Foul(b'[[],{"input":{"__type__":"uuid","__value__":7}},{}]', good_headers()),
    "no id": Foul(body_of(), {k: v for k, v in good_headers().items() if k != "id"}),
    "id a list": Foul(body_of(), good_headers(id=["x"])),
    "id a number": Foul(body_of(), good_headers(id=7)),
    "no task": Foul(body_of(), {k: v for k, v in good_headers().items() if k != "task"}),
    "task a list": Foul(body_of(), good_headers(task=["bridge.run"])),
    "task unknown": Foul(body_of(), good_headers(task="nobody.knows")),
    "no headers (no id)": Foul(body_of()),
    "timelimit a number": Foul(body_of(), good_headers(timelimit=7)),
    "timelimit of texts": Foul(body_of(), good_headers(timelimit=["a", "b"])),
    "timelimit of one": Foul(body_of(), good_headers(timelimit=[7])),
    "traceparent an object": Foul(body_of(), good_headers(traceparent={"a": 1})),
    "traceparent a list": Foul(body_of(), good_headers(traceparent=["a"])),
    "headers a text": Foul(body_of(), good_headers(headers="x")),
    "stamps a list": Foul(body_of(), good_headers(stamped_headers=["a"], stamps=["a"])),
    "stamped headers a number": Foul(body_of(), good_headers(stamped_headers=7)),
    "stamped headers of objects": Foul(body_of(), good_headers(stamped_headers=[{"a": 1}])),
    "eta a word": Foul(body_of(), good_headers(eta="tomorrow")),
    "eta a number": Foul(body_of(), good_headers(eta=7)),
    "eta long ago": Foul(body_of(), good_headers(eta="0001-01-01T00:00:00+14:00")),
    "expires a word": Foul(body_of(), good_headers(expires="never")),
    "expires an object": Foul(body_of(), good_headers(expires={"a": 1})),
    "expires beyond time": Foul(body_of(), good_headers(expires="9999-12-31T23:59:59-14:00")),
    "retries a text": Foul(body_of(), good_headers(retries="x")),
    "shadow an object": Foul(body_of(), good_headers(shadow={"a": 1})),
    "group a list": Foul(body_of(), good_headers(group=["a"])),
    "ignore_result a text": Foul(body_of(), good_headers(ignore_result="yes")),
    "compression unknown": Foul(body_of(), good_headers(compression="application/x-nobody")),
    "compression a list": Foul(body_of(), good_headers(compression=["gzip"])),
    "compression that does not unpack": Foul(body_of(), good_headers(compression="application/x-gzip")),
    "compression cut": Foul(_GZIP[:-5], good_headers(compression="application/x-gzip")),
    "protocol 1 without id (no id)": Foul(b'{"task":"bridge.run","args":[],"kwargs":{"input":{"a":1}}}'),
    "protocol 1 with odd args": Foul(b'{"task":"bridge.run","id":"foul-one","args":7,"kwargs":{}}'),
}  # fmt: skip

#: What only a Redis list can hold.
ENVELOPES: dict[str, bytes] = {
    "not JSON": b"not json",
    "empty": b"",
    "a list": b"[1, 2]",
    "a number": b"7",
    "no properties": b"{}",
    "properties empty": b'{"properties": {}}',
    "invalid UTF-8": b'{"body": "\xff", "properties": {"delivery_tag": "t1", "delivery_info": {"exchange": "", '
    b'"routing_key": "bridge.run"}}}',
    "5,000 levels": b'{"body": ' + DEEP + b', "properties": {"delivery_tag": "t2", "delivery_info": {}}}',
    "tag a list": b'{"properties": {"delivery_tag": ["t3"], "delivery_info": {}}}',
    "headers a list": b'{"body": "", "headers": [], "properties": {"delivery_tag": "t4", "delivery_info": {}}}',
    "headers a list of things": b'{"headers": [1], "properties": {"delivery_tag": "t5", "delivery_info": {}}}',
    "body a list": b'{"body": [1], "headers": {"id": "foul-b", "task": "bridge.run"}, "properties": {"delivery_tag": '
    b'"t6", "delivery_info": {}, "body_encoding": "base64"}}',
    "body no base64": b'{"body": "***", "headers": {"id": "foul-c", "task": "bridge.run"}, "properties": '
    b'{"delivery_tag": "t7", "delivery_info": {}, "body_encoding": "base64"}}',
    "encoding unknown": b'{"body": "x", "headers": {}, "properties": {"delivery_tag": "t8", "delivery_info": {}, '
    b'"body_encoding": "rot13"}}',
    "encoding a number": b'{"body": "x", "headers": {}, "properties": {"delivery_tag": "t9", "delivery_info": {}, '
    b'"body_encoding": 7}}',
    "delivery info a text": b'{"properties": {"delivery_tag": "t10", "delivery_info": "x"}}',
    "a number cjson takes": b'{"x": 0x10, "properties": {"delivery_tag": "t11", "delivery_info": {}}}',
    "half a surrogate pair": b'{"body": "\\ud800", "headers": {"\\ud800": 1}, "properties": {"delivery_tag": "t12", '
    b'"delivery_info": {}}}',
    "a uuid that is none": b'{"a": {"__type__": "uuid", "__value__": 7}, "properties": {"delivery_tag": "t13", '
    b'"delivery_info": {}}}',
    "secret": b'{"body": "' + base64.b64encode(body_of()) + b'", "headers": [], "properties": {"delivery_tag": "t14", '
    b'"delivery_info": {}}}',
}  # fmt: skip

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_NAMES = ("task", "id", "root_id", "parent_id", "group", "shadow", "eta", "expires", "retries", "timelimit", "argsrepr",
          "kwargsrepr", "origin", "ignore_result", "stamped_headers", "stamps", "traceparent", "headers", "compression",
          "replaced_task_nesting", "group_index", "reply_to", "correlation_id", "properties", "delivery_info", "utc",
          "callbacks", "chord", "is_eager", "args", "kwargs", "hostname", "lang", "priority")  # fmt: skip
_PLAUSIBLE = st.sampled_from([
    "bridge.run", "bridge.status", "bridge.finish", "celery.ping", "2026-13-01", "2030-01-01T00:00:00", [None, None],
    [1, 2], [1e308, None], {}, [], "", 0, -1, True, ["a"], {"a": "b"}, "gzip", "application/zstd", "bzip2",
])  # fmt: skip
_headers = st.builds(
    lambda changed, gone: {k: v for k, v in {**good_headers(), **changed}.items() if k not in gone},
    st.dictionaries(st.sampled_from(_NAMES), _json | _PLAUSIBLE, max_size=4),
    st.sets(st.sampled_from(_NAMES), max_size=2),
)
_call = st.builds(lambda *parts: list(parts), _json, _json, _json) | st.builds(
    lambda embed: [[], {"input": {"a": SECRET}}, embed],
    st.dictionaries(st.sampled_from((*_NAMES, "errbacks", "chain")), _json | _PLAUSIBLE, max_size=3),
)
_one = st.dictionaries(st.sampled_from(_NAMES), _json | _PLAUSIBLE, max_size=6)
_document = (_call | _one | _json).map(lambda value: json.dumps(value).encode())
_bodies = st.one_of(
    _document,
    st.binary(max_size=64),
    st.builds(lambda body, at: body[:at], _document, st.integers(0, 60)),
    st.just(body_of()),
    st.sampled_from([zlib.compress(body_of()), DEEP]),
)
_types = st.sampled_from(["application/json"] * 6 + [
    None, "", "application/x-python-serialize", "application/x-yaml", "application/data", "application/text", "x" * 200,
])  # fmt: skip
_properties = st.dictionaries(
    st.sampled_from(("priority", "reply_to", "correlation_id", "body_encoding", "delivery_info", "delivery_mode")),
    _json | st.sampled_from(["base64", "utf-8", 3]),
    max_size=2,
)
#: Any message.
fouls = st.builds(
    Foul,
    body=_bodies,
    headers=_headers | _one | st.just({}),
    content_type=_types,
    content_encoding=st.sampled_from(["utf-8"] * 4 + [None, "binary", "latin-1", "utf-16", "nobody"]),
    properties=_properties,
    envelope=st.none() | st.none() | st.none() | _json.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=80),
    queue=st.sampled_from(QUEUES),
)


class RedisSender:
    """Onto the lists of a Redis broker."""

    def __init__(self, url: str) -> None:
        self.client: Any = redis.Redis.from_url(url)

    def send(self, foul: Foul) -> None:
        """As it is, or in an envelope as kombu writes it."""
        self.client.lpush(foul.queue, envelope_of(foul) if foul.envelope is None else foul.envelope)

    def left(self) -> int:
        """Messages on the queues, and those that somebody has not acked."""
        queues = sum(self.client.llen(queue) for queue in (*QUEUES, "bridge.unreadable"))
        return int(queues + self.client.hlen("bridge.unacked"))

    def close(self) -> None:
        """Go."""
        self.client.close()


def envelope_of(foul: Foul) -> bytes:
    """As kombu writes it."""
    tag = uuid.uuid4().hex
    envelope = {
        "body": base64.b64encode(foul.body).decode(),
        "content-type": foul.content_type,
        "content-encoding": foul.content_encoding,
        "headers": foul.headers,
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": foul.queue},
            **foul.properties,
            "delivery_tag": tag,
        },
    }
    return json.dumps(envelope).encode()


class AmqpSender:
    """Into the queues of RabbitMQ."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel: Any = self._connection.channel()

    def send(self, foul: Foul) -> None:
        """Raw where there is an envelope: it becomes the value of a header of a type that py-amqp cannot read."""
        known = {k: v for k, v in foul.properties.items() if k in {"reply_to", "correlation_id"}}
        properties = pika.BasicProperties(
            content_type=foul.content_type,
            content_encoding=foul.content_encoding,
            headers=_as_table(foul.headers),
            **{name: str(value)[:200].encode(errors="replace").decode()[:100] for name, value in known.items()},
        )
        self._channel.basic_publish("", foul.queue, foul.body, properties)

    def left(self) -> int:
        """Messages that are ready."""
        return sum(int(self._channel.queue_declare(queue, passive=True).method.message_count) for queue in QUEUES)

    def close(self) -> None:
        """Go."""
        if self._connection.is_open:
            self._connection.close()


def _as_table(value: Any) -> Any:
    """As far as a table of AMQP can hold it."""
    if isinstance(value, dict):
        return {_short(name): _as_table(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_table(item) for item in value]
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(2**62), min(2**62, value))
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _short(name: str) -> str:
    return name.encode(errors="replace").decode()[:60]


__all__ = ["ENVELOPES", "FOUL", "QUEUES", "SECRET", "AmqpSender", "Foul", "Raw", "RedisSender", "fouls", "table"]
