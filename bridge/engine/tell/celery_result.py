"""What Celery is told of an end: its state, and the value or exception of bridge.errors that `get()` gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import states as celery_states
from celery.exceptions import TaskRevokedError

from bridge.errors import JobError, JobFailed, JobLost, JobRejected, JobTimedOut, ResultUndeliverable
from bridge.job.document import document, error_text
from bridge.job.enums import Status
from bridge.job.record import Long

if TYPE_CHECKING:
    from bridge.job.document import Held


@dataclass(frozen=True, slots=True)
class CeleryEnd:
    """An end in Celery's words: the state, and the value or exception that goes with it."""

    state: str
    result: Any


def celery_end(held: Held, *, limit: int, clock_offset: int = 0) -> CeleryEnd:
    """What Celery is told. An output over `limit` bytes is told as its reference, `{"output_ref": {...}}`."""
    record = held.record
    told = document(held, inline_limit=limit, clock_offset=clock_offset)
    if record.status == Status.COMPLETED:
        if record.whole_document:
            return CeleryEnd(celery_states.SUCCESS, told)
        if "output_ref" in told:
            return CeleryEnd(celery_states.SUCCESS, {"output_ref": told["output_ref"]})
        return CeleryEnd(celery_states.SUCCESS, told.get("output"))
    if record.status == Status.CANCELLED:
        return CeleryEnd(celery_states.REVOKED, TaskRevokedError(record.reason))
    return CeleryEnd(celery_states.FAILURE, failure(told))


def failure(told: dict[str, Any]) -> JobError:
    """The exception of an end that is neither a success nor a cancel."""
    name, where = told["id"], f"endpoint {told['endpoint']}, job {told['job_id']}"
    status, reason, error = told["status"], told["reason"], error_text(told["error"])
    if status == Status.REJECTED:
        return JobRejected(error, told)
    if status == Status.TIMED_OUT:
        return JobTimedOut(f"{name} timed out ({reason}; {where})", told)
    if status == Status.LOST:
        return JobLost(f"{name} is lost ({reason}; {where})", told)
    return JobFailed(f"{name} failed ({reason}; {where}): {error}", told)


def undeliverable(held: Held, clock_offset: int) -> ResultUndeliverable:
    """What Celery is told when the end itself could not be stored time and again."""
    told = document(held, inline_limit=0, clock_offset=clock_offset)
    fault = held.long.get(Long.LAST_FAULT, "unknown")
    return ResultUndeliverable(
        f"{held.record.id} ended {held.record.status}, but its result could not be stored: {fault}", told
    )
