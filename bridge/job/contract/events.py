"""The CloudEvents that the bridge sends, one model for each `type`, so that generators make a named type of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from bridge.job.contract.documents import Document, Letter, Open, OutputReference, Time, Transition
from bridge.job.enums import Reason


class Envelope(Open):
    """What every CloudEvents 1.0 document of the bridge has, in structured mode."""

    specversion: Literal["1.0"]
    source: str = Field(description="/bridge/<endpoint>")
    time: Time
    datacontenttype: Literal["application/json"]


class RequestEvent(Envelope):
    """Of one request, on `bridge.events`, `bridge:events` and reply queues."""

    id: str = Field(description="<request id>:<sequence>")
    subject: str = Field(description="the request id")
    sequence: str = Field(pattern=r"^\d{10}$", description="1, 2, 3 ... per request, gapless")
    dataschema: Literal["urn:bridge:schema:job-event:1"]
    traceparent: str | None = None


# The data of the events that tell more than a transition


class AcceptedData(Transition):
    """`door`: by which the request came."""

    door: str | None = None


class ProgressData(Transition):
    """What the handler has told."""

    progress: Any


class ChunkData(Transition):
    """One yield of a streaming handler: `output`, or `output_ref` in place of a large one."""

    index: int = Field(description="from 0; the same index again, `repaired`, takes its place")
    output: Any = None
    output_ref: OutputReference | None = None
    repaired: bool = False


class RetriedData(Transition):
    """`by` and `door`: of a retry that was asked for."""

    by: str | None = None
    door: str | None = None


class RejectedData(Document):
    """The document of a refused request; `dead_letter` where no record was made of it."""

    dead_letter: str | None = None
    door: str | None = None


# The events


class AcceptedEvent(RequestEvent):
    """The ledger holds the request."""

    type: Literal["bridge.job.accepted"]
    data: AcceptedData


class SubmittedEvent(RequestEvent):
    """RunPod has the job: `job_id`."""

    type: Literal["bridge.job.submitted"]
    data: Transition


class QueuedEvent(RequestEvent):
    """It waits in RunPod's queue."""

    type: Literal["bridge.job.queued"]
    data: Transition


class StartedEvent(RequestEvent):
    """A RunPod worker has it."""

    type: Literal["bridge.job.started"]
    data: Transition


class ProgressEvent(RequestEvent):
    """The handler has told how far it is."""

    type: Literal["bridge.job.progress"]
    data: ProgressData


class ChunkEvent(RequestEvent):
    """A streaming handler has yielded."""

    type: Literal["bridge.job.chunk"]
    data: ChunkData


class RetriedEvent(RequestEvent):
    """RunPod runs it again."""

    type: Literal["bridge.job.retried"]
    data: RetriedData


class CompletedEvent(RequestEvent):
    """An end: its output."""

    type: Literal["bridge.job.completed"]
    data: Document


class FailedEvent(RequestEvent):
    """An end: its error."""

    type: Literal["bridge.job.failed"]
    data: Document


class CancelledEvent(RequestEvent):
    """An end: nobody wants it any more."""

    type: Literal["bridge.job.cancelled"]
    data: Document


class TimedOutEvent(RequestEvent):
    """An end: a limit has passed."""

    type: Literal["bridge.job.timed_out"]
    data: Document


class LostEvent(RequestEvent):
    """An end: nobody can tell how it ended."""

    type: Literal["bridge.job.lost"]
    data: Document


class RejectedEvent(RequestEvent):
    """An end: a rule is broken, or RunPod will not take it."""

    type: Literal["bridge.job.rejected"]
    data: RejectedData


class JobEvent(
    RootModel[
        Annotated[
            AcceptedEvent
            | SubmittedEvent
            | QueuedEvent
            | StartedEvent
            | ProgressEvent
            | ChunkEvent
            | RetriedEvent
            | CompletedEvent
            | FailedEvent
            | CancelledEvent
            | TimedOutEvent
            | LostEvent
            | RejectedEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """An event of a request: `type` says which. A later version may send types that are not here: pass over them."""


# Endpoints


class EndpointEnvelope(Envelope):
    """Of an endpoint."""

    id: str = Field(description="<endpoint>:<sequence>")
    subject: str = Field(description="the endpoint")
    sequence: str = Field(pattern=r"^\d{10}$", description="1, 2, 3 ... per endpoint, gapless")
    dataschema: Literal["urn:bridge:schema:endpoint-event:1"]


class EndpointData(Open):
    """Who has changed what, and by which door."""

    endpoint: str | None = None
    by: str | None = None
    door: str | None = None
    reason: str | None = None


class PurgedEvent(EndpointEnvelope):
    """RunPod's queue of the endpoint was cleared."""

    type: Literal["bridge.job.purged"]
    data: EndpointData


class PausedEvent(EndpointEnvelope):
    """No submit leaves for it."""

    type: Literal["bridge.job.paused"]
    data: EndpointData


class ResumedEvent(EndpointEnvelope):
    """Submits leave again."""

    type: Literal["bridge.job.resumed"]
    data: EndpointData


class EndpointEvent(RootModel[Annotated[PurgedEvent | PausedEvent | ResumedEvent, Field(discriminator="type")]]):
    """An event of an endpoint: `type` says which."""


# Answers to commands


class AnswerEnvelope(Envelope):
    """What a command's `reply_to` is sent."""

    id: str
    source: str = Field(description="/bridge, or /bridge/<endpoint>")
    subject: str | None = Field(default=None, description="the request id, where the command named one")
    dataschema: Literal["urn:bridge:schema:command-answer:1"]
    traceparent: str | None = None


class AnsweredData(Open):
    """What came of it: the document of a status or retry, `{id, job_id, status, outcome}` of a cancel, and so on."""

    op: str
    id: str | None = None
    correlation_id: str | None = None
    result: Any


class RefusedData(Open):
    """Why it was not carried out."""

    op: str | None = None
    id: str | None = None
    correlation_id: str | None = None
    reason: str | Reason = Field(description="rejected, busy, runpod or failed")
    field: str | None = Field(default=None, description="the argument at fault")
    error: str
    dead_letter: str | None = None


class CommandAnswered(AnswerEnvelope):
    """It was carried out."""

    type: Literal["bridge.command.answered"]
    data: AnsweredData


class CommandRefused(AnswerEnvelope):
    """It was not."""

    type: Literal["bridge.command.refused"]
    data: RefusedData


class CommandAnswer(RootModel[Annotated[CommandAnswered | CommandRefused, Field(discriminator="type")]]):
    """The answer to a command: `type` says whether it was carried out."""


class DeadLetter(Envelope):
    """A dead letter on the stream `bridge:dead` and the queue `bridge.dead`."""

    id: str
    source: Literal["/bridge/dead"]
    type: Literal["bridge.dead.kept"]
    dataschema: Literal["urn:bridge:schema:dead-letter:1"]
    data: Letter
