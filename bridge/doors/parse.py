"""What a service's message asks, read from its bytes: a request, a command, or a typed refusal. Pure; never raises.

One function for both doors and for replays, so that a message means the same by whichever way it comes. Bare JSON, or
CloudEvents 1.0: structured (content type `application/cloudevents+json`, or `specversion` in the body), or binary
(`ce-`, `cloudEvents:` or `cloudEvents_` headers), whose `data` is the request or command.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ValidationError

from bridge.doors.broken_json import glimpse
from bridge.doors.commands import COMMANDS, FLAGS, check_argument
from bridge.errors import JobRejected
from bridge.job.request import ENDPOINT, REQUEST_ID, RunRequest, explain, rejected
from bridge.job.strict_json import TEXT_MAX, Fault, read_object, short

Kind = Literal["requests", "commands"]

#: What may stand before the name of a CloudEvents attribute in a header.
CE_PREFIXES = ("ce-", "cloudEvents:", "cloudEvents_", "cloudevents:", "cloudevents_", "ce_")
_JSON_TYPE = re.compile(r"(application|text)/json")
_CLOUD_EVENT = re.compile(r"application/cloudevents(\+json)?")
_TYPES = "application/json or application/cloudevents+json"
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: Commands whose endpoint may come from the routing key.
_OF_ENDPOINTS = frozenset({"health", "purge", "pause", "resume"})
#: Arguments of any command. Types made of the schema, which is one for all, send them unset with each.
_ARGUMENTS = frozenset[str]().union(*(allowed for _, allowed in COMMANDS.values()))
#: What a stream's door says of the content of an entry without field `data`.
NO_DATA = "(no field data)"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message said beside what it asks for."""

    reply_to: str | None = None
    reply_beside: str | None = None  # what the message's own properties name, whatever the document does
    correlation_id: str | None = None
    trace: str | None = None
    digest: str = ""  # SHA-256 of the bytes, hex


@dataclass(frozen=True, slots=True)
class Request(Asked):
    """A job request; `id` is None when the message named none, and the door makes one."""

    id: str | None = None
    run: RunRequest = field(default=RunRequest.model_construct(input={}))


@dataclass(frozen=True, slots=True)
class Command(Asked):
    """`op` and the arguments of the control task of that name, checked for name and type."""

    op: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None


@dataclass(frozen=True, slots=True)
class RefusedMessage(Asked):
    """Not taken: `reason` is one of DeadReason. What was understood is for the answer."""

    reason: str = "malformed"
    field: str = "body"
    message: str = ""
    kind: Kind = "requests"
    id: str | None = None
    endpoint: str | None = None
    op: str | None = None


Taken = Request | Command | RefusedMessage


def take(
    body: bytes | str,
    headers: Mapping[str, Any] | None,
    door: str,
    properties: Mapping[str, Any] | None,
    kind: Kind = "requests",
    source: str = "",
) -> Taken:
    """Read one message.

    `properties` are AMQP's by name (content_type, content_encoding, message_id, correlation_id, reply_to) and
    `routing_key`; on a stream, the entry's other fields serve as both headers and properties. `door` (amqp, stream)
    and `source`, its queue or stream, are told in refusals alone. Who asked is in the refusal, however little else of
    the message can be read.
    """
    raw = body if isinstance(body, bytes) else str(body).encode(errors="surrogatepass")
    reader = _Reader(raw, _texts(headers), _texts(properties), kind)
    reader.source = source or f"{'bridge:' if door == 'stream' else 'bridge.'}{kind}"
    try:
        return reader.read()
    except Fault as fault:
        reader.look_for_the_sender()
        return reader.refused(fault.reason, fault.field, fault.text)
    except JobRejected as fault:
        return reader.refused("rejected", str(fault.document.get("field", "arguments")), fault.message)
    except ValidationError as fault:
        return reader.refused("rejected", *explain(fault))
    except Exception as error:  # noqa: BLE001  (I12: whatever a stranger has found, it is one message's fault)
        return reader.refused("malformed", "body", f"body: cannot be read at the {door} door: {type(error).__name__}")


class _Reader:
    """One message being read; keeps what was understood so far, for the answer to a refusal."""

    def __init__(self, body: bytes, headers: Mapping[str, str], properties: Mapping[str, str], kind: Kind) -> None:
        self.body = body
        self.source = ""
        self.parsed = False
        self.headers = headers
        self.properties = properties
        self.kind: Kind = kind
        self.id = _fitting(properties.get("message_id"), REQUEST_ID) if kind == "requests" else None
        self.reply_to = properties.get("reply_to") or None
        self.correlation_id = properties.get("correlation_id") or None
        self.trace = _fitting(headers.get("traceparent"), _TRACE)
        self.endpoint: str | None = None
        self.op: str | None = None
        self.digest = hashlib.sha256(body).hexdigest()

    def refused(self, reason: str, field: str, message: str) -> RefusedMessage:
        """With what may be said in the answer."""
        return RefusedMessage(
            **self._asked(), reason=reason, field=field, message=message[:2000], kind=self.kind,
            id=self.id, endpoint=self.endpoint, op=self.op,
        )  # fmt: skip

    def look_for_the_sender(self) -> None:
        """Who asked, and for what, as far as a document says so that could not be read whole."""
        if self.parsed:
            return
        said = glimpse(self.body, ("id", "reply_to", "correlation_id", "endpoint", "op"))
        self.id = _fitting(said.get("id"), REQUEST_ID) or self.id
        self.reply_to = said.get("reply_to") or self.reply_to
        correlation_id = said.get("correlation_id", "")
        if correlation_id and short(correlation_id):
            self.correlation_id = correlation_id
        self.endpoint = _fitting(said.get("endpoint"), ENDPOINT)
        if self.kind == "commands" and f"bridge.{said.get('op')}" in COMMANDS:
            self.op = said["op"]

    def read(self) -> Taken:
        """Raises Fault, JobRejected or ValidationError."""
        document = self._unwrapped()
        self._sender(document)
        said = document.pop("correlation_id", None)
        if isinstance(said, str):
            self.correlation_id = said
        elif said is not None:
            raise _rejected("correlation_id", "must be a string")
        if self.correlation_id is not None and not short(self.correlation_id):
            self.correlation_id = None
            raise _rejected("correlation_id", f"must be at most {TEXT_MAX} bytes, without control characters")
        if self.kind == "commands":
            return self._command(document)
        return self._request(document)

    def _unwrapped(self) -> dict[str, Any]:
        """The document, whatever it is wrapped in."""
        content_type = self._content_type()
        attributes = self._attributes()
        if "specversion" in attributes:  # binary mode: the body is the data
            self._event(attributes)
            return self._read_body()
        document = self._read_body()
        if not _CLOUD_EVENT.fullmatch(content_type) and "specversion" not in document:
            return document
        data = document.get("data")
        if isinstance(data, dict):
            self._sender(data)
        self._event(document)
        if "data_base64" in document:
            try:
                data = read_object(base64.b64decode(document["data_base64"], validate=True))
            except (binascii.Error, ValueError, TypeError):
                raise Fault("malformed", "data_base64: is not base64 of a JSON object") from None
        if not isinstance(data, dict):
            raise Fault("malformed", "data: must be the request or command, a JSON object")
        return data

    def _read_body(self) -> dict[str, Any]:
        document = read_object(self.body)
        self.parsed = True
        return document

    def _content_type(self) -> str:
        """The media type in small letters; nothing said means JSON."""
        if self.properties.get("content_type") == NO_DATA:
            raise Fault("malformed", "data: the entry has no field `data`, which is to hold the JSON document", "data")
        return media_type(self.properties.get("content_type", ""), self.properties.get("content_encoding", ""))

    def _attributes(self) -> dict[str, str]:
        """CloudEvents attributes that came as headers."""
        return {
            name[len(prefix) :].lower(): value
            for name, value in self.headers.items()
            for prefix in CE_PREFIXES
            if name.startswith(prefix)
        }

    def _event(self, event: Mapping[str, Any]) -> None:
        """What the envelope says. Its id serves where the data and the broker name none."""
        said = event.get("specversion")
        if said != "1.0":
            wrong = "is required of a CloudEvent: 1.0" if said is None else f"{str(said)[:20]!r} is not 1.0"
            raise Fault("malformed", f"specversion: {wrong}")
        self.trace = _fitting(event.get("traceparent"), _TRACE) or self.trace
        if self.id is None and self.kind == "requests":
            self.id = _request_id_of(event)

    def _sender(self, document: dict[str, Any]) -> None:
        """Note early whom a refusal is to be told to, and of what."""
        if isinstance(document.get("reply_to"), str):
            self.reply_to = document["reply_to"]
        self.endpoint = _fitting(document.get("endpoint"), ENDPOINT)
        if self.kind == "requests" and document.get("id") is not None:
            self.id = _fitting(document["id"], REQUEST_ID)

    def _request(self, document: dict[str, Any]) -> Request:
        given = document.pop("id", None)
        said = given if given is not None else self.properties.get("message_id") or None
        if said is not None and self.id is None:
            raise _rejected("id", "must be 1 to 200 of A-Z a-z 0-9 . _ : -")
        if document.get("endpoint") is None and (word := self._routed()) is not None:
            document["endpoint"] = word
            self.endpoint = _fitting(word, ENDPOINT)
        if document.get("reply_to") is None and self.reply_to is not None:
            document["reply_to"] = self.reply_to
        if "input" not in document and "op" in document:
            self.op = document["op"] if f"bridge.{document['op']}" in COMMANDS else None
            raise self._misplaced("op", "this is a command", "commands")
        if "input" not in document and (strange := sorted(document.keys() - RunRequest.model_fields.keys())):
            names = ", ".join(name[:60] for name in strange[:5])
            raise Fault("unknown_kind", f"body: is no request: it has no `input`, and no request has {names}", "input")
        run = RunRequest.model_validate(document)
        return Request(**self._asked(), id=self.id, run=run)

    def _command(self, document: dict[str, Any]) -> Command:
        op = document.pop("op", None)
        self.id = _fitting(document.get("id"), REQUEST_ID)
        if op is None and "input" in document:
            raise self._misplaced("input", "this is a request", "requests")
        if not isinstance(op, str) or f"bridge.{op}" not in COMMANDS:
            ops = ", ".join(sorted(name.removeprefix("bridge.") for name in COMMANDS))
            raise Fault("unknown_kind", "op: is required: " + ops if op is None else f"op: must be one of {ops}", "op")
        self.op = op
        reply_to = document.pop("reply_to", None)
        if reply_to is not None and not isinstance(reply_to, str):
            raise _rejected("reply_to", "must be a string")
        by = document.pop("by", None)
        if by is not None and not (isinstance(by, str) and short(by)):
            raise _rejected("by", f"must be a string of at most {TEXT_MAX} bytes")
        if op in _OF_ENDPOINTS and document.get("endpoint") is None and (word := self._routed()) is not None:
            document["endpoint"] = word
            self.endpoint = _fitting(word, ENDPOINT)
        allowed = COMMANDS[f"bridge.{op}"][1]
        arguments = {}
        for name, value in document.items():
            if name in _ARGUMENTS and (value is None or (value is False and name in FLAGS - allowed)):
                continue
            if name not in allowed:
                raise _rejected(name[:60], f"unknown argument; {op} takes {', '.join(sorted(allowed))}")
            check_argument(name, value)
            arguments[name] = value
        return Command(**self._asked(), op=op, arguments=arguments, by=by)

    def _misplaced(self, field: str, what: str, kind: Kind) -> Fault:
        """It is answered as what it is: a command names a request that is not to be told as refused."""
        place, self.kind = self.source.removesuffix(self.kind) + kind, kind
        key = "" if ":" in place else f", exchange bridge.jobs, key job.{'submit' if kind == 'requests' else 'command'}"
        return Fault("unknown_kind", f"{field}: {what}; {kind} go to {place}{key}", field)

    def _routed(self) -> str | None:
        """The third word of `job.submit.<endpoint>` or `job.command.<endpoint>`."""
        words = self.properties.get("routing_key", "").split(".")
        verb = "submit" if self.kind == "requests" else "command"
        return words[2] if words[:2] == ["job", verb] and len(words) > 2 and words[2] else None  # noqa: PLR2004

    def _asked(self) -> dict[str, Any]:
        correlation_id = self.correlation_id
        return {
            "reply_to": self.reply_to,
            "reply_beside": self.properties.get("reply_to") or None,
            "correlation_id": correlation_id if correlation_id is not None and short(correlation_id) else None,
            "trace": self.trace,
            "digest": self.digest,
        }


def media_type(content_type: str, encoding: str) -> str:
    """The kind of document in small letters, "" for none said. Raises Fault for one that is no JSON in UTF-8."""
    encoding = encoding.strip().lower()
    if encoding not in {"", "utf-8", "utf8", "us-ascii", "ascii", "identity"}:
        raise Fault("malformed", f"content_encoding: {encoding[:60]!r} is not taken; send UTF-8, uncompressed")
    media, *parameters = content_type.lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('" ') not in {"utf-8", "utf8", "us-ascii", "ascii"}:
            raise Fault("malformed", f"content_type: charset {value[:60]} is not taken; JSON is UTF-8")
    media = media.strip()
    if media and not _JSON_TYPE.fullmatch(media) and not _CLOUD_EVENT.fullmatch(media):
        raise Fault("malformed", f"content_type: {media[:100]!r} is not taken; send {_TYPES}")
    return media


def _rejected(field: str, rule: str) -> JobRejected:
    return rejected(field, f"{field}: {rule}")


def _fitting(value: object, pattern: re.Pattern[str]) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _request_id_of(event: Mapping[str, Any]) -> str | None:
    """The same for the same event, however its producer writes ids (`partition:0/offset:5`); None where it has none.

    CloudEvents makes source and id together unique. One that cannot be a request's id as it stands becomes `ce-` and 32
    hex digits of the SHA-256 of `<source> <id>`: an event that is sent twice is one job.
    """
    said = event.get("id")
    if said is None:
        return None
    text = str(said) if isinstance(said, str | int) and not isinstance(said, bool) else ""
    if not text:
        raise Fault("malformed", "id: of a CloudEvent must be a string, and not empty", "id")
    if REQUEST_ID.fullmatch(text):
        return text
    both = f"{event.get('source', '')} {text}".encode(errors="surrogatepass")
    return f"ce-{hashlib.sha256(both).hexdigest()[:32]}"


def _texts(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Only what is text, or bytes or numbers that are: headers of odder types say nothing that a request could need."""
    found: dict[str, str] = {}
    for name, value in (given or {}).items():
        if isinstance(value, bytes | bytearray):
            found[str(name)] = value.decode(errors="replace")
        elif isinstance(value, str):
            found[str(name)] = value
        elif isinstance(value, int) and not isinstance(value, bool):
            found[str(name)] = str(value)
    return found
