"""What the bridge tells, as models: the document of a request, transitions, chunks, dead letters.

The documents themselves are built in `document.py`, where speed counts; a test holds the two together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge.job.enums import DeadReason, Reason
from bridge.job.request import Policy

Time = str
Words = Literal[
    "ACCEPTED", "IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST", "REJECTED"
]  # fmt: skip


class Open(BaseModel):
    """Readers must accept names they do not know: within a major version only additions are made."""

    model_config = ConfigDict(extra="allow")


class JobOfRequest(Open):
    """One RunPod job of a request."""

    job_id: str
    endpoint_id: str
    attempt: int


class OutputLink(Open):
    """Where anybody who is told may read an output, and until when."""

    url: str
    expires_at: Time


class OutputReference(Open):
    """What travels where a large output does not."""

    size: int = Field(description="bytes of the output's JSON text")
    sha256: str
    url: str | None = Field(default=None, description="in the object store; null: the ledger has it")
    href: str | None = Field(default=None, description="path of the HTTP door, where it is open: gives it whole")
    link: OutputLink | None = Field(default=None, description="given to those who ask a status for `content`")


class Unreadable(Open):
    """Since when, and why, answers about a job cannot be read."""

    since: Time
    error: str | None = None


class Document(Open):
    """A request as `bridge.status`, ends and `--json` tell it: RunPod's names and units (ms), times RFC 3339 UTC."""

    id: str
    correlation_id: str | None = None
    endpoint: str
    endpoint_id: str | None = None
    job_id: str | None = None
    attempt: int
    round: int
    jobs: list[JobOfRequest]
    phase: str
    status: Words | str
    reason: Reason | None = None
    field: str | None = Field(default=None, description="of a rejected request: the argument at fault")
    started: bool
    completed: bool
    succeeded: bool
    delayTime: int | None = None
    executionTime: int | None = None
    workerId: str | None = None
    retries: int = 0
    progress: Any = None
    output: Any = None
    output_ref: OutputReference | None = None
    error: Any = None
    possible_duplicate: bool = False
    lane: str | None = Field(default=None, description="`batch`: by RunPod's Batch API")
    batch_id: str | None = Field(default=None, description="RunPod's id of the batch that the job is part of")
    metadata: dict[str, Any] = {}
    policy: Policy | dict[str, Any] = {}
    accepted_at: Time | None = None
    not_before: Time | None = Field(default=None, description="submitted no earlier")
    submitted_at: Time | None = None
    started_at: Time | None = None
    ended_at: Time | None = None
    observed_at: Time | None = None
    left_out: list[str] | None = Field(
        default=None, description="members of RunPod's answer whose values cannot be: null here, nothing is booked"
    )
    nonfinite: int | None = Field(
        default=None, description="NaN and infinities of `output` or `progress`: null there, as JSON does not have them"
    )
    chunks_untold: int | None = Field(
        default=None,
        description="chunks over BRIDGE_CHUNK_EVENTS_MAX: in the request's own stream alone",
    )
    unreadable: Unreadable | None = Field(
        default=None, description="RunPod's answers about the job cannot be read; see reason `unreadable`"
    )


class Transition(Open):
    """The `data` of an event that is no end; an event adds what it tells: `progress`, `index` and `output`, `by` ..."""

    id: str
    correlation_id: str | None = None
    endpoint: str
    job_id: str | None = None
    phase: str
    status: Words | str
    attempt: int
    round: int
    reason: Reason | None = None
    possible_duplicate: bool
    metadata: dict[str, Any]
    accepted_at: Time | None = None
    not_before: Time | None = Field(default=None, description="submitted no earlier")
    submitted_at: Time | None = None
    started_at: Time | None = None
    index: int | None = Field(default=None, description="of a chunk, from 0")
    output: Any = None  # of a chunk
    output_ref: OutputReference | None = Field(default=None, description="of a chunk over BRIDGE_INLINE_LIMIT")
    metrics: Any = None
    nonfinite: int | None = Field(default=None, description="of a chunk: its NaN and infinities, which are null in it")
    progress: Any = None


class Letter(Open):
    """What could not be taken or told."""

    reason: DeadReason
    time: Time
    door: str = Field(description="amqp, stream, celery, finish or publish")
    source: str | None = Field(default=None, description="the queue, stream or task it came by, or was meant for")
    request_id: str | None = None
    detail: str = Field(description="what was wrong, in a sentence")
    size: int = Field(description="bytes of the whole original")
    sha256: str = Field(description="of the whole original")
    encoding: Literal["utf-8", "base64"] | None = Field(default=None, description="of `original`")
    original: str | None = Field(default=None, description="at most 64 KiB; null with BRIDGE_DEAD_ORIGINALS=off")
    truncated: bool
    headers: dict[str, Any]


class Chunk(Open):
    """An entry of the stream of a request's chunks; the last one has `end` and no `index`."""

    index: int | None = None
    output: Any = None
    metrics: Any = None
    nonfinite: int | None = Field(default=None, description="NaN and infinities of `output` and `metrics`: null there")
    repaired: bool = False
    end: bool = False
    status: str | None = None
    reason: str | None = None
    chunks: int | None = None
    stream_incomplete: str | None = Field(default=None, description="of the end: `possible` when chunks may be missing")
    stream_repaired: int | None = Field(default=None, description="of the end: chunks filled in from the aggregate")
