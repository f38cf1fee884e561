"""The spans of a request, made at its end from its record: the times in them are the ledger's and RunPod's own.

Ids are hashes of the request's id and the span's name: a trace that is sent again, by whoever follows a process that
died, is the same trace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from bridge import __version__
from bridge.job import enums
from bridge.job.record import Record
from bridge.telemetry.logs import trace_id_of

_SCOPE = InstrumentationScope("bridge", __version__)
_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class _Times:
    """Wall time in ms; 0 for what never was."""

    accepted: int
    may_go: int
    sent: int
    submitted: int
    started: int
    ended: int
    told: int


def spans(
    event: Mapping[str, Any], record: Record, resource: Resource, *, told_ms: int, clock_offset: int = 0
) -> list[ReadableSpan]:
    """Of a request whose end the event tells, the outermost first; none where the caller's trace is not sampled.

    `told_ms`: wall time at which the result was stored; 0 where it is not, or nobody waits for one.
    """
    request_id, data = event["subject"], event["data"]
    trace = _trace_of(event, resource)
    if trace is None:
        return []
    accepted = _ms(data["accepted_at"])
    times = _Times(
        accepted=accepted,
        may_go=max(accepted, _ms(data["not_before"])),
        sent=record.sent_at - clock_offset if record.sent_at else 0,
        submitted=_ms(data["submitted_at"]),
        started=_ms(data["started_at"]),
        ended=_ms(data["ended_at"]),
        told=told_ms,
    )
    status = data["status"]
    attributes = {
        "bridge.request.id": request_id,
        "bridge.endpoint": data["endpoint"],
        "bridge.door": record.door,
        "bridge.tenant": record.tenant,
        "bridge.status": status,
        "bridge.reason": data["reason"],
        "bridge.attempt": data["attempt"],
        "bridge.round": data["round"],
        "bridge.possible_duplicate": data["possible_duplicate"] or None,
        "runpod.endpoint.id": data["endpoint_id"],
        "runpod.job.id": data["job_id"],
        "runpod.worker.id": data["workerId"],
    }
    root = trace.span(
        f"bridge.run {data['endpoint']}", "request", times.accepted, max(times.ended, times.told), trace.caller,
        kind=SpanKind.CONSUMER, attributes=attributes, status=_outcome(status, data["reason"]),
        events=(Event("accepted", {"bridge.door": record.door}, times.accepted * 1_000_000),),
    )  # fmt: skip
    return [root, *_parts(trace, root.context, times, record, data)]


def earlier_attempt(event: Mapping[str, Any], resource: Resource) -> list[ReadableSpan]:
    """Of an attempt that RunPod is asked to repeat, told by the event that says so; the last attempt's come at the end.

    Its times are those at which the bridge saw it: RunPod's own lengths are kept of the last attempt alone. None of a
    retry by command: that attempt has been told with its round.
    """
    data = event["data"]
    trace = None if "door" in data or "by" in data else _trace_of(event, resource)
    if trace is None:
        return []
    number = data["attempt"]
    submitted, started, seen = _ms(data["submitted_at"]), _ms(data["started_at"]), _ms(event["time"])
    about = {"runpod.job.id": data["job_id"], "bridge.attempt": number}
    root, failed = trace.context("request"), _outcome(data["status"], data["reason"])
    made = [trace.span("runpod queue", f"queue:{number}", submitted, started or seen, root, attributes=about)]
    if started:
        made.append(trace.span("runpod run", f"run:{number}", started, seen, root, attributes=about, status=failed))
    return made


def _parts(
    trace: _Trace, root: SpanContext | None, times: _Times, record: Record, data: Mapping[str, Any]
) -> Iterator[ReadableSpan]:
    """What the request's time went into. A span of RunPod's is as long as RunPod says."""
    if times.may_go > times.accepted:
        yield trace.span("scheduled", "scheduled", times.accepted, min(times.may_go, times.ended), root)
    if times.may_go < times.ended:
        yield trace.span("wait", "wait", times.may_go, times.sent or times.ended, root)
    if times.sent:
        yield trace.span(
            "submit", "submit", times.sent, times.submitted or times.ended, root, kind=SpanKind.CLIENT,
            attributes={"bridge.submits": record.submits},
            status=Status(StatusCode.UNSET if times.submitted else StatusCode.ERROR),
        )  # fmt: skip
    if times.submitted:
        about = {"runpod.job.id": data["job_id"], "bridge.attempt": data["attempt"]}
        begins, delay_ms, run_ms = times.submitted, record.delay_time, record.execution_time
        if record.retried_at:  # the last attempt's times are counted from its /retry
            begins = max(begins, times.ended - max(0, delay_ms) - max(0, run_ms))
        runs = begins + delay_ms if delay_ms >= 0 else times.started or times.ended
        yield trace.span("runpod queue", "queue", begins, runs, root, attributes=about)
        if run_ms >= 0 or times.started:
            ends = runs + run_ms if run_ms >= 0 else times.ended
            about |= {"runpod.worker.id": data["workerId"]}
            failed = _outcome(data["status"], data["reason"])
            yield trace.span("runpod run", "run", runs, ends, root, attributes=about, status=failed)
    if times.told:
        done = record.continued == record.round
        yield trace.span(
            "finish", "finish", times.ended, times.told, root, kind=SpanKind.PRODUCER,
            attributes={"bridge.finish.turns": record.turns, "bridge.follow_ups.sent": done or None},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Trace:
    """The trace of one round of a request, inside the span of its caller where that is told."""

    request_id: str
    round: str
    trace_id: str
    resource: Resource
    caller: SpanContext | None

    @property
    def id(self) -> int:
        """As OpenTelemetry has it."""
        return int(self.trace_id, 16)

    def context(self, part: str) -> SpanContext:
        """The ids of a part, the same whoever makes it."""
        digest = hashlib.sha256(f"{self.request_id}\0{self.round}\0{part}".encode()).digest()
        span_id, sampled = int.from_bytes(digest[:8], "big") or 1, TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(self.id, span_id, is_remote=False, trace_flags=sampled)

    def span(
        self,
        name: str,
        part: str,
        start_ms: int,
        end_ms: int,
        parent: SpanContext | None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        status: Status | None = None,
        events: tuple[Event, ...] = (),
    ) -> ReadableSpan:
        """One that has ended; attributes that are None or empty are left out."""
        return ReadableSpan(
            name=name,
            context=self.context(part),
            parent=parent,
            resource=self.resource,
            attributes={key: value for key, value in (attributes or {}).items() if value not in {None, ""}},
            events=events,
            kind=kind,
            instrumentation_scope=_SCOPE,
            status=status or Status(StatusCode.UNSET),
            start_time=start_ms * 1_000_000,
            end_time=max(start_ms, end_ms) * 1_000_000,
        )


def _trace_of(event: Mapping[str, Any], resource: Resource) -> _Trace | None:
    """Of the request that the event tells of; None where its caller's trace is not sampled."""
    request_id, told = event["subject"], event.get("traceparent")
    found, trace_id = _PARENT.fullmatch(str(told)), trace_id_of(told, request_id)
    if found and not int(found[3], 16) & TraceFlags.SAMPLED:
        return None
    caller = SpanContext(int(trace_id, 16), int(found[2], 16), is_remote=True) if found else None
    return _Trace(request_id, str(event["data"]["round"]), trace_id, resource, caller)


def _outcome(status: str, reason: str | None) -> Status:
    """A cancel is what somebody wanted; every other end that is no success is an error."""
    if status == enums.Status.COMPLETED:
        return Status(StatusCode.OK)
    if status == enums.Status.CANCELLED:
        return Status(StatusCode.UNSET)
    return Status(StatusCode.ERROR, f"{status}: {reason}")


def _ms(stamp: str | None) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1000) if stamp else 0
