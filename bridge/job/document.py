"""The document of a request and its events, as every caller sees them (DESIGN, contracts)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from bridge.job.enums import EventName, Phase, Reason, Status
from bridge.job.lenient_json import read_json, spelled
from bridge.job.record import Long, Record, dumps

SCHEMA = "urn:bridge:schema:job-event:1"
DEAD_SCHEMA = "urn:bridge:schema:dead-letter:1"
ENDPOINT_SCHEMA = "urn:bridge:schema:endpoint-event:1"
COMMAND_SCHEMA = "urn:bridge:schema:command-answer:1"
CONTENT_TYPE = "application/cloudevents+json"


class Held(NamedTuple):
    """A record as it was read, with those of its long values that were asked for."""

    record: Record
    long: Mapping[Long, str]
    output: str | None = None  # JSON text

    def json(self, name: Long) -> Any:
        """One long value, read; None when there is none."""
        text = self.long.get(name)
        return None if text is None else json.loads(text)


@lru_cache(maxsize=4096)  # each event of a request tells the same moments again
def stamp(ledger_ms: int, clock_offset: int = 0) -> str | None:
    """RFC 3339 in UTC; None for "never". Documents tell wall time, so the ledger's offset is taken off (I17)."""
    if not ledger_ms:
        return None
    moment = datetime.fromtimestamp((ledger_ms - clock_offset) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unpack_error(error: str | None) -> Any:
    """RunPod's JSON-in-a-string of a handler's exception as `{type, message, traceback}`; other text as it is."""
    if not error or not error.startswith("{"):
        return error
    try:
        told = read_json(error)
    except ValueError:
        return error
    if not isinstance(told, dict) or "error_message" not in told:
        return error
    unpacked = {name: told.get(f"error_{name}") for name in ("type", "message", "traceback")}
    return json.loads(spelled(unpacked)[0])


def error_text(error: object) -> str:
    """One line of an error for an exception's message."""
    if isinstance(error, dict):
        kind, message = error.get("type"), error.get("message")
        return f"{kind}: {message}" if kind else str(message)
    return str(error or "no error text")


def output_reference(output: str, url: str | None = None) -> dict[str, Any]:
    """What travels where a large output does not: its size in bytes and SHA-256 (of the JSON text), and where it is."""
    raw = output.encode()
    return {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest(), "url": url}


def size_over(text: str, limit: int) -> bool:
    """Whether the text has more than so many bytes."""
    return len(text) > limit or (not text.isascii() and len(text.encode()) > limit)


def _fitting(error: Any, limit: int) -> Any:
    """An error that an event can carry: long texts of it are cut, each to a quarter of the limit."""
    if isinstance(error, str):
        return error[: limit // 4]
    if isinstance(error, dict):
        return {name: _fitting(item, limit) for name, item in error.items()}
    return error if not isinstance(error, list) else None


def document(held: Held, *, inline_limit: int | None = None, clock_offset: int = 0) -> dict[str, Any]:
    """The whole document. Over `inline_limit` bytes an output becomes `output_ref`, and an error is cut; None never."""
    record, arguments = held.record, held.json(Long.ARGUMENTS) or {}
    status = record.status
    ended = record.phase.ended
    body: dict[str, Any] = {
        "id": record.id,
        "correlation_id": (held.json(Long.REPLY) or {}).get("correlation_id"),
        "endpoint": record.endpoint,
        "endpoint_id": record.endpoint_id or None,
        "job_id": record.job_id or None,
        "attempt": record.attempt,
        "round": record.round,
        "jobs": held.json(Long.JOBS)
        or (
            [{"job_id": record.job_id, "endpoint_id": record.endpoint_id, "attempt": record.attempt}]
            if record.job_id
            else []
        ),
        "phase": record.phase.value,
        "status": status,
        "reason": record.reason or None,
        "started": record.started_at > 0 or status in {Status.IN_PROGRESS, Status.COMPLETED},
        "completed": ended,
        "succeeded": ended and status == Status.COMPLETED,
        "delayTime": _or_none(record.delay_time),
        "executionTime": _or_none(record.execution_time),
        "workerId": record.worker_id or None,
        "retries": record.platform_retries,
        "progress": held.json(Long.PROGRESS),
        "error": _error(held, inline_limit),
        "possible_duplicate": bool(record.possible_duplicate),
        "lane": record.lane or None,
        "batch_id": record.batch_id or None,
        "metadata": held.json(Long.METADATA) or {},
        "policy": arguments.get("policy") or {},
        "accepted_at": stamp(record.accepted_at, clock_offset),
        "not_before": stamp(record.not_before, clock_offset),
        "submitted_at": stamp(record.submitted_at, clock_offset),
        "started_at": stamp(record.started_at, clock_offset),
        "ended_at": stamp(record.ended_at, clock_offset),
        "observed_at": stamp(record.observed_at, clock_offset),
    }
    if record.reason == Reason.REJECTED and isinstance(body["error"], str):  # a refusal begins with its field
        body["field"] = body["error"].partition(": ")[0][:100]
    body |= _marks(held, clock_offset)
    if record.wish:
        body["wish"] = {"cause": record.wish, **(held.json(Long.WISHED) or {})}
    reference = held.json(Long.OUTPUT_REF)
    if held.output is not None and (inline_limit is None or not size_over(held.output, inline_limit)):
        body["output"] = json.loads(held.output)
    elif held.output is not None or reference is not None:
        reference = reference or output_reference(held.output or "")
        body["output_ref"] = {**reference, "href": f"/v1/requests/{record.id}/output"}
    elif ended and status == Status.COMPLETED:
        body["output"] = None
    return body


def _marks(held: Held, clock_offset: int) -> dict[str, Any]:
    """What is out of the ordinary: most documents have none of it."""
    record = held.record
    told: dict[str, Any] = {mark: True for mark in ("may_run", "output_missing") if getattr(record, mark)}
    if record.left_out:
        told["left_out"] = record.left_out.split(",")
    if record.nonfinite:
        told["nonfinite"] = record.nonfinite
    if record.unread_told:
        told["unreadable"] = {"since": stamp(record.unread_since, clock_offset), "error": held.long.get(Long.UNREAD)}
    if record.stream_incomplete:
        told["stream_incomplete"] = "possible"
    if record.chunks_untold:
        told["chunks_untold"] = record.chunks_untold
    if record.stream_repaired >= 0:
        told["stream_repaired"] = record.stream_repaired
    return told


def _error(held: Held, inline_limit: int | None) -> Any:
    text = held.long.get(Long.ERROR)
    if text is None:
        return None
    cut = inline_limit is not None and size_over(text, inline_limit)
    return _fitting(json.loads(text), inline_limit or 0) if cut else json.loads(text)


#: Reasons of ends that only a job which ran can have.
_RAN = frozenset({Reason.HANDLER_ERROR, Reason.EXECUTION_TIMEOUT, Reason.WORKER_LOST})


def remembered(request_id: str, tomb: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a request whose record is gone: its end, and that nothing else is retained."""
    status, reason = tomb["status"], tomb["reason"]
    record = Record(
        id=request_id, phase=Phase.CLOSED, endpoint=str(tomb.get("ep") or "_invalid"), status=status, reason=reason
    )
    told = document(Held(record, {})) | {"retained": False}
    told.pop("output", None)
    return told | {"started": status == Status.COMPLETED or reason in _RAN}


def transition(held: Held, *, clock_offset: int = 0, **more: Any) -> dict[str, Any]:
    """The `data` of an event that is not an end."""
    record = held.record
    data: dict[str, Any] = {
        "id": record.id,
        "correlation_id": (held.json(Long.REPLY) or {}).get("correlation_id"),
        "endpoint": record.endpoint,
        "job_id": record.job_id or None,
        "phase": record.phase.value,
        "status": record.status,
        "attempt": record.attempt,
        "round": record.round,
        "reason": record.reason or None,
        "possible_duplicate": bool(record.possible_duplicate),
        "metadata": held.json(Long.METADATA) or {},
        "accepted_at": stamp(record.accepted_at, clock_offset),
        "not_before": stamp(record.not_before, clock_offset) if record.not_before else None,
        "submitted_at": stamp(record.submitted_at, clock_offset),
        "started_at": stamp(record.started_at, clock_offset),
    }
    data.update(more)
    return data


def event_of(
    name: EventName,
    data: Mapping[str, Any],
    *,
    request_id: str,
    endpoint: str,
    sequence: int,
    time: str,
    trace: str | None = None,
    schema: str = SCHEMA,
    suffix: str = "",
) -> dict[str, Any]:
    """One CloudEvents 1.0 document, as a value, `data` last. Its id is request id and sequence: copies are equal.

    `suffix` tells refusals of one id apart: they make no record, and all have sequence 0.
    """
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{request_id}:{sequence}{':' if suffix else ''}{suffix}",
        "source": f"/bridge/{endpoint}",
        "subject": request_id,
        "type": f"bridge.job.{name.value}",
        "sequence": f"{sequence:010d}",
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": schema,
    }
    if trace:
        event["traceparent"] = trace
    event["data"] = data
    return event


def cloud_event(name: EventName, data: Mapping[str, Any], **about: Any) -> str:
    """The same as JSON text: see `event_of`."""
    return dumps(event_of(name, data, **about))


def joined(event: Mapping[str, Any], data: Mapping[str, Any], output: str | None, limit: int) -> str | None:
    """An event's body with `output` (JSON text) in place of its reference; None without one, or over `limit` bytes."""
    if output is None or size_over(output, limit):
        return None
    rest = {name: value for name, value in data.items() if name != "output_ref"}
    text = dumps({**event, "data": rest})
    # `data` stands last, so the output goes in before its end, as the text it is.
    return f'{text[:-2]}{"," if rest else ""}"output":{output}}}}}'


def dead_event(letter: Mapping[str, Any]) -> str:
    """A dead letter as a CloudEvent: a Celery consumer that meets one refuses it by its content type."""
    return dumps(
        {
            "specversion": "1.0",
            "id": f"dead:{letter['time']}:{letter['sha256'][:8]}",
            "source": "/bridge/dead",
            "type": "bridge.dead.kept",
            "time": letter["time"],
            "datacontenttype": "application/json",
            "dataschema": DEAD_SCHEMA,
            "data": letter,
        }
    )


def endpoint_event(name: EventName, data: Mapping[str, Any], *, endpoint: str, sequence: int, time: str) -> str:
    """The same of an endpoint: its subject is the endpoint, which has a sequence of its own."""
    return cloud_event(
        name,
        data,
        request_id=endpoint,
        endpoint=endpoint,
        sequence=sequence,
        time=time,
        schema=ENDPOINT_SCHEMA,
    )


def command_event(
    name: str,
    data: Mapping[str, Any],
    *,
    id: str,
    subject: str | None,
    endpoint: str | None,
    time: str,
    trace: str | None,
) -> str:
    """The answer to a command (`answered` or `refused`), as one CloudEvents 1.0 structured JSON document."""
    event = {
        "specversion": "1.0",
        "id": id,
        "source": f"/bridge/{endpoint}" if endpoint else "/bridge",
        "type": f"bridge.command.{name}",
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": COMMAND_SCHEMA,
    }
    if subject:
        event["subject"] = subject
    if trace:
        event["traceparent"] = trace
    return dumps({**event, "data": data})


def _or_none(milliseconds: int) -> int | None:
    return None if milliseconds < 0 else milliseconds
