"""The clocks of one record: when it must be looked at, and where it stands among others that wait."""

from __future__ import annotations

from bridge.job.enums import Phase, Status, Step
from bridge.job.record import Record

#: Ledger milliseconds: RunPod keeps an ended /run 30 min and an ended /runsync 1 min (docs: send-requests).
RUN_RETENTION_MS = 30 * 60_000
SYNC_RETENTION_MS = 60_000
#: A poll is a rescue when less than this is left of the retention, counted from the last sighting (I10).
RESCUE_MARGIN_MS = 10 * 60_000
#: A job whose /cancel has to wait (no budget, 429, RunPod away) is looked at meanwhile: it may end by itself.
CANCEL_WATCH_MS = 30_000
#: A job whose answers cannot be read is given up at the edge of its retention, never sooner after the first of them.
UNREAD_LEAST_MS, UNREAD_LEAST_SYNC_MS = 5 * 60_000, 15_000
#: Submits are worked by priority, then age: nine bands, each wider than any clock.
PRIORITY_BAND_MS = 10**13
#: How far behind its age a submit stands that RunPod's side did not take.
DENIED_BEHIND_MS = 60_000


def timer(record: Record) -> int:
    """When the sweep must look at the record: the earliest of its clocks, 0 when none runs."""
    clocks: list[int] = []
    if record.lease:
        clocks.append(record.lease_until)
    if not record.phase.ended and not record.wish:
        clocks.append(record.deadline)
        if record.status != Status.IN_PROGRESS:
            clocks.append(record.queue_deadline)
    if record.phase is Phase.UNANSWERED:
        clocks.append(record.grace_until)
    if record.phase is Phase.TRACKED and record.due == Step.POLL and not record.batch_id:  # batches are read whole
        clocks.append(rescue_at(record))
    if record.phase is Phase.TRACKED and record.due == Step.CANCEL:
        clocks.append(max(record.observed_at, record.submitted_at) + CANCEL_WATCH_MS)
    return min((clock for clock in clocks if clock), default=0)


def rescue_at(record: Record) -> int:
    """When a poll of this record becomes urgent (I10)."""
    retention, margin = (
        (SYNC_RETENTION_MS, SYNC_RETENTION_MS // 2) if record.sync_wait_ms else (RUN_RETENTION_MS, RESCUE_MARGIN_MS)
    )
    return max(record.observed_at, record.submitted_at) + retention - margin


def unread_until(record: Record) -> int:
    """When a job whose answers cannot be read is given up: before RunPod forgets its result, should it have ended."""
    least = UNREAD_LEAST_SYNC_MS if record.sync_wait_ms else UNREAD_LEAST_MS
    return max(rescue_at(record), record.unread_since + least)


def submit_score(record: Record) -> int:
    """The order of submits inside an endpoint: priority (9 first), then age, which begins at `not_before`.

    One that was not taken stands behind those that came up to a minute later: the next try is another's.
    `lua/due_requests.lua` spells the same for those that were never tried.
    """
    since = record.denied_at + DENIED_BEHIND_MS if record.denied_at else max(record.accepted_at, record.not_before)
    return (9 - record.priority) * PRIORITY_BAND_MS + since
