"""What the client hears, as values: chunks, events, and how a request ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bridge.errors import BridgeError, JobError, JobFailed, JobLost, JobRejected, JobTimedOut
from bridge.job.document import error_text
from bridge.job.enums import END_EVENT, Status

ENDS = frozenset(name.value for name in END_EVENT.values())


class UnknownRequest(BridgeError):
    """The bridge knows no request of this id, and remembers none."""


class Refused(BridgeError):
    """A command was refused; the message says why."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One yield of a streaming handler.

    `index` counts from 0 over the request. A chunk that was lost on the way comes at the end, `repaired` from the
    job's aggregate; it takes the place of the one that had its index before.
    """

    index: int
    output: Any
    metrics: Mapping[str, Any] | None = None
    repaired: bool = False

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From the contract's JSON."""
        return cls(told["index"], told["output"], told.get("metrics"), bool(told.get("repaired")))


@dataclass(frozen=True, slots=True)
class Event:
    """One transition: `name` is accepted, submitted, started, progress, chunk, completed, failed, ...

    `sequence` counts from 1 per request without gaps; `data` is the contract's (docs/services.md).
    """

    name: str
    request_id: str
    sequence: int
    time: str
    data: Mapping[str, Any]

    @classmethod
    def of(cls, body: str | None) -> Self:
        """From a CloudEvent's text; what somebody else has written into the stream is an event of no request."""
        told = document_of(body)
        sequence, data = str(told.get("sequence") or 0), told.get("data")
        return cls(
            name=str(told.get("type") or "").rpartition(".")[2],
            request_id=str(told.get("subject") or ""),
            sequence=int(sequence) if sequence.isdecimal() else 0,
            time=str(told.get("time") or ""),
            data=data if isinstance(data, dict) else {},
        )

    @classmethod
    def of_end(cls, document: Mapping[str, Any]) -> Self:
        """The end of a request whose own event is not to be had; its sequence is 0."""
        name = END_EVENT[Status(document["status"])].value
        return cls(name, str(document["id"]), 0, str(document.get("ended_at") or ""), document)

    @property
    def ends(self) -> bool:
        """Whether this is an end."""
        return self.name in ENDS


def document_of(body: str | None) -> dict[str, Any]:
    """An entry's JSON object; an empty one for what is none."""
    try:
        told = json.loads(body or "{}")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def lacks_output(document: Mapping[str, Any]) -> bool:
    """Whether a request has completed and its document tells only where the output is, for its size."""
    return (
        document.get("status") == Status.COMPLETED
        and document.get("retained") is not False
        and "output" not in document
        and isinstance(document.get("output_ref"), Mapping)
    )


def outcome(document: Mapping[str, Any]) -> Any:
    """The output of an ended request whose document has it; raises the error that tells how else it ended."""
    status = document.get("status")
    if status == Status.COMPLETED and document.get("retained") is False:
        raise UnknownRequest(f"{document.get('id')}: completed; its output is not kept any more")
    if status == Status.COMPLETED:
        return document["output"]
    raise failure(document)


def failure(document: Mapping[str, Any]) -> JobError:
    """The same classes as `AsyncResult.get` raises; a cancelled request is a JobError of its own words."""
    status, reason = str(document.get("status")), document.get("reason")
    kinds: Mapping[str, type[JobError]] = {
        Status.FAILED: JobFailed,
        Status.TIMED_OUT: JobTimedOut,
        Status.LOST: JobLost,
        Status.REJECTED: JobRejected,
    }
    said = document.get("error")
    message = f"{document.get('id')}: {status}" + (f" ({reason})" if reason else "")
    return kinds.get(status, JobError)(f"{message}: {error_text(said)}" if said else message, document)
