"""What a record waits for next, and which of its deadlines has passed."""

from __future__ import annotations

from bridge.job.change import Draft
from bridge.job.enums import Status, Step, Wish
from bridge.job.record import Record
from bridge.job.state_table import A, E, R, T

#: A deadline waits this long for a status read younger than it.
DEADLINE_PATIENCE_MS = 60_000


def submit_step(record: Record, now: int) -> Step:
    """In which due set the record waits to be submitted, or for the time when it may be."""
    if record.not_before > now:
        return Step.SCHEDULED
    if record.lane:
        return Step.SUBMIT_BATCH
    return Step.SUBMIT_SYNC if record.sync_wait_ms else Step.SUBMIT


def next_look(draft: Draft, poll_ms: int) -> tuple[Step, int]:
    """What is due, and in how many ms: a cancel that is wished for, or a read, at the latest at a deadline."""
    record = draft.record
    if record.wish and draft.now >= record.cancel_at:
        return Step.CANCEL, 0
    if record.wish:
        return Step.POLL, min(poll_ms, max(250, record.cancel_at - draft.now))
    clocks = [clock for clock in (record.deadline, record.queue_deadline) if clock > draft.now]
    return Step.POLL, min([poll_ms, *(clock - draft.now + 5 for clock in clocks)])


def look_or_cancel(record: Record, now: int) -> Step:
    """A cancel, where one is wished for and may be called again; else a read."""
    return Step.CANCEL if record.wish and now >= record.cancel_at else Step.POLL


def step_of(record: Record, now: int) -> Step:
    """What a record in this phase waits for."""
    steps = {A: submit_step(record, now), R: Step.RETRY, E: Step.FINISH}
    return steps.get(record.phase, look_or_cancel(record, now))


def passed(record: Record, now: int) -> Wish | None:
    """The deadline that has passed and may be acted on."""
    if record.phase.ended or record.wish:
        return None
    if record.deadline and record.deadline <= now and _fresh(record, record.deadline, now):
        return Wish.TIMEOUT
    queue = record.queue_deadline if record.status != Status.IN_PROGRESS else 0
    return Wish.QUEUE_TIMEOUT if queue and queue <= now and _fresh(record, queue, now) else None


def _fresh(record: Record, clock: int, now: int) -> bool:
    """A deadline is acted on only after a status read younger than it; where nobody answers, a minute later."""
    return record.phase is not T or record.observed_at >= clock or now - clock > DEADLINE_PATIENCE_MS
