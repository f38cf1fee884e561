"""RunPod's /retry, by itself or asked for; and the echo of the attempt before."""

from __future__ import annotations

from bridge.job.change import Change, Draft
from bridge.job.clocks import RUN_RETENTION_MS, SYNC_RETENTION_MS
from bridge.job.document import Held
from bridge.job.enums import EventName, Reason, Sink, Status, Step
from bridge.job.observation import Observation
from bridge.job.record import Long
from bridge.job.state_table import C, E, R, T, check, same
from bridge.job.transitions.base import Base
from bridge.job.transitions.due import next_look

#: For this long after a /retry, an end equal to the previous one is read again, not believed.
RETRY_ECHO_MS = 10_000
#: /retry calls whose answer was lost, before the end that stood is accepted.
RETRY_CALLS_MAX = 3
RETRY_CHECK_MS = 2_000


class Retrying(Base):
    """The next attempt of the same job, and the next round of an ended request."""

    def retry_sending(self, held: Held, now: int, lease: str) -> Change:
        """/retry leaves now; only for the holder of the lease."""
        record = held.record
        if record.phase is not R or not record.leased_by(lease, now):
            return same(held, "lost")
        draft = self._draft(held, now).set(retried_at=now, retry_calls=record.retry_calls + 1)
        return check(draft.done("sending"), "retry_sending")

    def retry_answered(self, held: Held, now: int, *, poll_ms: int) -> Change:
        """RunPod took it: the next attempt of the same job."""
        if held.record.phase is not R:
            return same(held, "late")
        draft = self._draft(held, now)
        reopen(draft)
        draft.tell(EventName.QUEUED)
        draft.due(*next_look(draft, poll_ms))
        return check(draft.done("retried"), "retry_answered")

    def retry_refused(self, held: Held, now: int) -> Change:
        """RunPod will not: the end it had stands."""
        if held.record.phase is not R:
            return same(held, "late")
        draft = self._draft(held, now)
        self._stand(draft)
        return check(draft.done("settled"), "retry_refused")

    def retry_unanswered(self, held: Held, now: int) -> Change:
        """The answer was lost: a status read will tell whether it took."""
        if held.record.phase is not R:
            return same(held, "late")
        return check(self._draft(held, now).due(Step.RETRY, RETRY_CHECK_MS).done("unanswered"), "retry_unanswered")

    def retry_deferred(self, held: Held, now: int, *, delay_ms: int) -> Change:
        """429 or nothing was sent: /retry has not left."""
        record = held.record
        if record.phase is not R:
            return same(held, "late")
        draft = self._draft(held, now).set(retried_at=0, retry_calls=max(0, record.retry_calls - 1))
        return check(draft.due(Step.RETRY, delay_ms).done("deferred"), "retry_unanswered")

    def _after_echo(self, held: Held, now: int) -> Change:
        record = held.record
        draft = self._draft(held, now)
        if record.phase is not R:
            return check(draft.due(Step.POLL, RETRY_CHECK_MS).done("echo"), "observed")
        if record.retry_calls >= RETRY_CALLS_MAX:
            self._stand(draft)
            return check(draft.done("settled"), "observed")
        return check(draft.set(retried_at=0).due(Step.RETRY).done("try_again"), "observed")

    def ask_retry(self, held: Held, now: int, nonce: str, *, by: str | None = None, door: str | None = None) -> Change:
        """A caller asks for another round of an ended request. Never before everybody was told of the last."""
        record = held.record
        if record.phase is E:
            return same(held, "try_again")
        if record.phase is not C:
            return same(held, "not_ended")
        if record.status not in {Status.FAILED, Status.TIMED_OUT} or not record.job_id:
            return same(held, "not_retryable")
        if record.batch_id:
            return same(held, "in_a_batch")
        if record.ended_at and now - record.ended_at > (SYNC_RETENTION_MS if record.sync_wait_ms else RUN_RETENTION_MS):
            return same(held, "expired")
        draft = self._draft(held, now).set(
            phase=R, round=record.round + 1, nonce=nonce, retried_at=0, retry_calls=0, wish="", cancel_at=0, ended_at=0,
            deadline=0, queue_deadline=0, turns=0, turn="", turn_until=0, finish_sends=0,
            sinks=",".join(sorted(_sinks_again(held))),
        )  # fmt: skip
        draft.drop(Long.WISHED)
        draft.tell(EventName.RETRIED, **{k: v for k, v in (("by", by), ("door", door)) if v})
        draft.due(Step.RETRY)
        return check(draft.done("retrying"), "retry")


def retry_on(held: Held) -> tuple[str, ...]:
    """The reasons for which the request is tried again."""
    arguments = held.json(Long.ARGUMENTS) or {}
    return tuple(arguments.get("retry_on") or (Reason.HANDLER_ERROR, Reason.WORKER_LOST, Reason.TTL_EXPIRED))


def begin_retry(draft: Draft, status: str, reason: str) -> None:
    """No end yet: another attempt, after a pause that doubles."""
    used = draft.record.attempt
    draft.set(
        phase=R,
        status=status,
        reason=reason,
        retries_left=draft.record.retries_left - 1,
        retried_at=0,
        retry_calls=0,
    )
    draft.tell(EventName.RETRIED)
    draft.due(Step.RETRY, min(1_000 * 2 ** min(used - 1, 6), 60_000))


def reopen(draft: Draft) -> None:
    """The next attempt has begun: what belonged to the last one is forgotten."""
    draft.set(
        phase=T,
        attempt=draft.record.attempt + 1,
        status=Status.IN_QUEUE.value,
        reason="",
        retried_at=draft.now,
        observed_at=draft.now,
        submitted_at=draft.now,
        started_at=0,
        gone_at=0,
        unread_since=0,
        unread_told=0,
        stream_done=0,
        drain_until=0,
        drain_since=0,
        chunks_from=draft.record.chunks,
    )
    if draft.record.stream:
        draft.read_stream(0)
    draft.drop(Long.ERROR, Long.PROGRESS, Long.UNREAD).result(None)


def is_echo(held: Held, now: int, heard: Observation) -> bool:
    """Whether this end may be the last attempt's, read before RunPod had begun the new one."""
    record = held.record
    if not record.retried_at:
        return False
    equal = (heard.status, heard.execution_time or -1) == (
        record.status if record.phase is R else heard.status,
        record.execution_time,
    ) and (heard.worker_id or "")[:63] == record.worker_id
    return equal and (record.phase is R or now - record.retried_at < RETRY_ECHO_MS)


def _sinks_again(held: Held) -> set[Sink]:
    sinks = set()
    if Long.CANVAS in held.long:
        sinks.add(Sink.CELERY)
    reply = held.json(Long.REPLY) or {}
    if reply.get("to"):
        sinks.add(Sink.REPLY)
    elif reply:
        sinks.add(Sink.RESULTS)
    if Long.CALLBACK in held.long:
        sinks.add(Sink.CALLBACK)
    return sinks
