"""Tells telemetry what a written change means: logs and metrics hear of each once, from whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.telemetry import END_SEEN, tell

if TYPE_CHECKING:
    from bridge.job.change import Change


def count(change: Change) -> None:
    """Submits, second submits and ends."""
    if change.empty:
        return
    record = change.record
    names = {"request_id": record.id, "endpoint": record.endpoint}
    if change.verdict == "submitted":
        tell("request.submitted", **names, job_id=record.job_id)
    elif change.verdict == "submit_again":
        tell("submit.again", **names)
    if record.phase.ended and (change.before is None or not change.before.record.phase.ended):
        tell(
            "request.ended",
            **names,
            status=record.status,
            reason=record.reason,
            delay_ms=record.delay_time,
            execution_ms=record.execution_time,
        )
        if record.submitted_at and record.delay_time >= 0 and record.execution_time >= 0:
            late = record.ended_at - record.submitted_at - record.delay_time - record.execution_time
            END_SEEN.labels(record.endpoint).observe(max(0, late) / 1000)
