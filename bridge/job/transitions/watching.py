"""What is heard of a job: its states, its progress, its end; or that RunPod does not know it."""

from __future__ import annotations

import json
from typing import NamedTuple

from bridge.job.change import Change, Draft
from bridge.job.clocks import RUN_RETENTION_MS, SYNC_RETENTION_MS
from bridge.job.document import Held, unpack_error
from bridge.job.enums import EventName, Reason, Status, Step, is_end, rank
from bridge.job.observation import Observation, most_ms
from bridge.job.record import Long
from bridge.job.state_table import A, E, R, S, T, U, check, same
from bridge.job.transitions.base import forget_attempt
from bridge.job.transitions.due import look_or_cancel, next_look, passed
from bridge.job.transitions.retrying import Retrying, begin_retry, is_echo, reopen, retry_on
from bridge.job.transitions.several_jobs import alive_job, cancel_others, follow, forget_job
from bridge.job.transitions.streaming import CHUNKS_AGAIN_MS, drained, lacks_chunks, with_chunks

#: 404s of one job count as gone when this far apart, with a success of the endpoint between. Milliseconds.
GONE_APART_MS = 30_000
#: The same of a job whose submit was under way when the bridge purged its queue.
PURGED_APART_MS = 1_000
#: A call to RunPod takes at most so long: its answer may be written that much after a purge.
PURGE_UNDER_WAY_MS = 30_000
#: An IN_PROGRESS whose executionTime stands still this long will not end any more (runpod-python#250).
STUCK_MS = 10 * 60_000
#: Reads that callbacks cause are at least this far apart.
HINTS_APART_MS = 200


class Purge(NamedTuple):
    """The last time that the bridge cleared an endpoint's queue: ledger ms, 0 for never; who asked, by which door."""

    at: int = 0
    by: str | None = None
    door: str | None = None


class Watching(Retrying):
    """What status reads, callbacks and 404s say."""

    def observed(self, held: Held, now: int, heard: Observation, *, poll_ms: int) -> Change:
        """Something was heard of a job (I4: stale news changes nothing)."""
        heard = heard.believed(most_ms(held.record, now))
        return self._other_than_news(held, now, heard, poll_ms) or self._news(held, now, heard, poll_ms)

    def _other_than_news(self, held: Held, now: int, heard: Observation, poll_ms: int) -> Change | None:
        """What is to be done when this tells nothing new of the current attempt of the current job."""
        record = held.record
        if record.phase in {S, U, A} and not record.job_id:
            return same(held, "unknown_job")  # a webhook goes through `submitted` first
        if record.phase.ended:
            return check(self._late(held, now, heard), "observed")
        if heard.job_id != record.job_id:
            return check(self._other_job_observed(held, now, heard, poll_ms), "observed")
        if heard.attempt != record.attempt or (record.phase is R and not record.retried_at):
            return self._look_again(held, now, poll_ms, "stale")
        if is_end(heard.status) and is_echo(held, now, heard):
            return self._after_echo(held, now)
        return None

    def hinted(self, held: Held, now: int) -> Change:
        """Somebody says that there is news. A read that is under way may have left before it: another one follows."""
        record = held.record
        if record.phase is not T:
            return same(held, "late")
        if record.hint or (record.due and record.hinted_at > now):
            return same(held, "repeated")
        at = max(now, record.hinted_at + HINTS_APART_MS)  # a flood of callbacks is no flood of reads
        draft = self._draft(held, now).set(hinted_at=at)
        if record.due in {Step.POLL, Step.RESCUE}:
            draft.due(Step(record.due), at - now)
        else:
            draft.set(hint=1)
        return check(draft.done("hinted"), "observed")

    def _news(self, held: Held, now: int, heard: Observation, poll_ms: int) -> Change:
        record = held.record
        draft = self._draft(held, now)
        if is_end(heard.status) and record.stream and not record.stream_done and not drained(draft):
            return check(draft.done("draining"), "observed")
        if heard.status == Status.COMPLETED and lacks_chunks(record, heard):
            # Chunks were recorded while this read was under way: without them the end would lack its last words.
            return check(draft.due(Step.POLL, CHUNKS_AGAIN_MS).done("draining"), "observed")
        if record.phase is R:  # the /retry whose answer was lost did take
            reopen(draft)
        _note(draft, heard)
        if is_end(heard.status):
            self._end_heard(draft, heard)
        else:
            self._progress_heard(draft, heard)
            if _stuck(draft):
                _forget_last_attempt(draft)
                draft.result(heard.output or _last_progress(held))
                draft.settle(Status.LOST, Reason.STUCK)
            else:
                cause = passed(draft.record, now)
                if cause is not None:  # this read is the one that the deadline waited for
                    draft.set(wish=cause.value).keep(Long.WISHED, {"by": None, "door": None})
                draft.due(*next_look(draft, poll_ms))
        return check(draft.done("settled" if draft.record.phase.ended else "heard"), "observed")

    def _progress_heard(self, draft: Draft, heard: Observation) -> None:
        record = draft.record
        if rank(heard.status) > rank(record.status) or (
            rank(heard.status) == rank(record.status) and heard.status != record.status
        ):
            draft.set(status=heard.status)
            if heard.status == Status.IN_QUEUE:
                draft.tell(EventName.QUEUED)
        elif rank(heard.status) < rank(record.status):
            return
        if heard.status == Status.IN_PROGRESS and not record.started_at:
            draft.began(_began_at(draft, heard))
            if record.stream and not record.reading and not record.stream_done:
                draft.read_stream(0)
        if heard.status == Status.IN_PROGRESS and heard.output not in (None, draft.before.long.get(Long.PROGRESS)):
            progress = heard.output or ""
            if len(progress) <= self.rules.inline_limit:
                draft.keep_text(Long.PROGRESS, progress).tell(EventName.PROGRESS, progress=json.loads(progress))

    def _end_heard(self, draft: Draft, heard: Observation) -> None:
        record = draft.record
        forget_job(draft, record.job_id, heard.status)
        if heard.status == Status.COMPLETED or heard.execution_time is not None:
            # It has run between two looks (fact: what ends in the queue has no executionTime).
            draft.began(_began_at(draft, heard))
        if heard.status == Status.COMPLETED:
            heard = with_chunks(draft, heard)
            draft.set(output_missing=int(heard.output is None))
            draft.result(heard.output, heard.ref).paid(heard.execution_time)
            cancel_others(draft)
            draft.settle(Status.COMPLETED)
            return
        alive = alive_job(draft)
        draft.paid(heard.execution_time, twice=alive is not None)
        if alive:  # another job of this request may still complete
            follow(draft, alive)
            return
        status, reason = _end_of(record.status, heard)
        if heard.error is not None:
            draft.keep(Long.ERROR, unpack_error(heard.error))
        if heard.output is not None:  # a handler's {"error": x, **rest} gives both
            draft.result(heard.output, heard.ref)
        if record.wish and status != Status.COMPLETED:
            self._end_by_wish(draft)
        elif (
            status in {Status.FAILED, Status.TIMED_OUT} and record.retries_left > 0 and reason in retry_on(draft.before)
        ):
            begin_retry(draft, status, reason)
        else:
            more = {"cause": "runpod"} if status == Status.TIMED_OUT else {}
            draft.settle(status, reason, **more)

    def _late(self, held: Held, now: int, heard: Observation) -> Change:
        """News after the end. Only LOST may still become a real end, until somebody was told."""
        record = held.record
        untold = record.phase is E and record.continued < record.round and not record.turn
        if record.status != Status.LOST or not untold or not is_end(heard.status) or heard.job_id != record.job_id:
            return same(held, "late")
        draft = self._draft(held, now).drop(Long.ERROR).set(may_run=0)
        _note(draft, heard)
        self._end_heard(draft, heard)
        return draft.done("found")

    def _other_job_observed(self, held: Held, now: int, heard: Observation, poll_ms: int) -> Change:
        jobs = held.json(Long.JOBS) or []
        if heard.job_id not in {job["job_id"] for job in jobs}:
            return self._look_again(held, now, poll_ms, "unknown_job")
        draft = self._draft(held, now)
        if heard.status == Status.COMPLETED:
            other = next(job for job in jobs if job["job_id"] == heard.job_id)
            draft.set(job_id=heard.job_id, endpoint_id=other["endpoint_id"])
            _note(draft, heard)
            self._end_heard(draft, heard)
        else:
            if is_end(heard.status) and any(j["job_id"] == heard.job_id and not is_end(j["status"]) for j in jobs):
                draft.paid(heard.execution_time, twice=True)
            forget_job(draft, heard.job_id, heard.status)
        return draft.done("settled" if draft.record.phase.ended else "heard")

    def gone(
        self, held: Held, now: int, job_id: str, attempt: int, *, endpoint_ok_at: int, purge: Purge, poll_ms: int
    ) -> Change:
        """RunPod does not know the job, and the answer did not name the endpoint (HARDENING 2)."""
        record = held.record
        if record.phase not in {T, R} or attempt != record.attempt:
            return same(held, "late")
        draft = self._draft(held, now).set(polls=record.polls + 1)
        seen_at = max(record.submitted_at, record.observed_at, 1)
        queued = record.status == Status.IN_QUEUE
        purged = queued and purge.at >= seen_at
        # An answer that was under way during the purge is written after it: then one 404 is not enough, two are.
        maybe_purged = queued and purge.at + PURGE_UNDER_WAY_MS >= seen_at and purge.at > 0
        # Its submit was under way, and nothing but that was heard: two soon after another, as a purge explains them.
        submitting = maybe_purged and 0 < record.sent_at <= purge.at and record.observed_at <= record.submitted_at
        apart = PURGED_APART_MS if submitting else GONE_APART_MS
        sure = record.gone_at and now - record.gone_at >= apart and (submitting or endpoint_ok_at >= record.gone_at)
        if not purged and not sure:
            wait = max(1_000, (record.gone_at or now) + apart - now)
            draft.set(gone_at=record.gone_at or now).due(Step.POLL if record.phase is T else Step.RETRY, wait)
            return check(draft.done("missed"), "gone")
        forget_job(draft, job_id, "GONE")
        if job_id != record.job_id:
            return check(draft.due(Step.POLL, poll_ms).done("heard"), "observed")
        alive = alive_job(draft)
        if alive:
            return check(follow(draft, alive).set(gone_at=0).done("heard"), "gone")
        _forget_last_attempt(draft)
        if record.phase is R:
            self._stand(draft)
        elif record.wish:
            self._end_by_wish(draft)
        elif purged or maybe_purged:
            whose = held.json(Long.WISHED) or {"by": purge.by, "door": purge.door}  # read before it could be kept here
            said = {k: v for k, v in whose.items() if v}
            draft.settle(Status.CANCELLED, Reason.PURGED, **said)
        elif record.ttl_ms and now >= record.submitted_at + record.ttl_ms:
            draft.settle(Status.TIMED_OUT, Reason.TTL_EXPIRED, cause="runpod")
        else:
            retention = SYNC_RETENTION_MS if record.sync_wait_ms else RUN_RETENTION_MS
            expired = now - max(record.observed_at, record.submitted_at) > retention
            draft.settle(Status.LOST, Reason.RESULT_EXPIRED if expired else Reason.VANISHED)
        return check(draft.done("settled"), "gone")

    def batch_rests(self, held: Held, now: int, *, delay_ms: int) -> Change:
        """Its batch is looked at by somebody else; this record only waits, at most until its next cancel."""
        if held.record.phase is not T:
            return same(held, "late")
        draft = self._draft(held, now)
        return check(draft.due(*next_look(draft, delay_ms)).done("missed"), "observed")

    def batch_goes_on(self, held: Held, now: int) -> Change:
        """The request shall end, and RunPod can cancel only whole batches: it ends here, and its job may run."""
        if held.record.phase is not T or not held.record.wish:
            return same(held, "late")
        return check(self._end_by_wish(self._draft(held, now).set(may_run=1)).done("settled"), "observed")

    def batch_removed(self, held: Held, now: int) -> Change:
        """It shall end, and was taken out of a draft whose finalize had not left: it never ran."""
        if held.record.phase is not U or not held.record.wish:
            return same(held, "late")
        return check(self._end_by_wish(self._draft(held, now)).done("ended_by_wish"), "grace_ended")

    def batch_unknown(self, held: Held, now: int) -> Change:
        """RunPod does not know the batch whose finalize was not answered: the grace decides, as for /run."""
        if held.record.phase is not U:
            return same(held, "late")
        return check(self._draft(held, now).set(batch_id="", grace_until=now).done("in_doubt"), "grace_ended")

    def missed(self, held: Held, now: int, *, delay_ms: int) -> Change:
        """A read brought nothing (RunPod away, no budget): look again."""
        record = held.record
        if record.phase not in {T, R}:
            return same(held, "late")
        step = Step.RETRY if record.phase is R else look_or_cancel(record, now)
        return check(self._draft(held, now).due(step, delay_ms).done("missed"), "observed")

    def _look_again(self, held: Held, now: int, poll_ms: int, verdict: str) -> Change:
        if held.record.phase is not T or held.record.due:
            return same(held, verdict)
        return check(self._draft(held, now).due(Step.POLL, poll_ms).done(verdict), "observed")


def _note(draft: Draft, heard: Observation) -> None:
    if heard.status != Status.IN_QUEUE:
        _forget_last_attempt(draft)
    record = draft.record
    draft.set(
        observed_at=draft.now,
        polls=record.polls + 1,
        gone_at=0,
        delay_time=record.delay_time if heard.delay_time is None else heard.delay_time,
        worker_id=heard.worker_id[:63] if heard.worker_id else record.worker_id,
        platform_retries=heard.retries or record.platform_retries,
        left_out=",".join(heard.odd),
        nonfinite=heard.nonfinite,
    )
    if record.unread_since:
        draft.set(unread_since=0, unread_told=0).drop(Long.UNREAD)
    stands = (
        heard.execution_time is not None and heard.execution_time == record.execution_time and not is_end(heard.status)
    )
    draft.set(stuck_since=(record.stuck_since or draft.now) if stands else 0)
    if heard.execution_time is not None:
        draft.set(execution_time=heard.execution_time)
    elif "executionTime" in heard.odd and is_end(heard.status):
        draft.set(execution_time=-1)  # what it was on the way is not what it was


def _forget_last_attempt(draft: Draft) -> None:
    """Of an attempt that was not seen to run, all that is known is the last one's: kept to know its echo by."""
    if draft.record.phase is T and draft.record.attempt > 1 and not draft.record.started_at:
        forget_attempt(draft)


def _stuck(draft: Draft) -> bool:
    record = draft.record
    past_ttl = record.ttl_ms and draft.now > record.submitted_at + record.ttl_ms + STUCK_MS
    stands_still = (
        record.stuck_since and draft.now - record.stuck_since >= STUCK_MS and record.status == Status.IN_PROGRESS
    )
    return bool(past_ttl or stands_still)


def _began_at(draft: Draft, heard: Observation) -> int:
    """When the job began to run, by RunPod's own times as far as it tells them; never before it was submitted."""
    record, at = draft.record, draft.now
    if heard.delay_time is not None and record.attempt == 1:  # of a later attempt it may count from the first
        at = min(at, record.submitted_at + heard.delay_time)
    if heard.execution_time is not None and is_end(heard.status):
        at = min(at, draft.now - heard.execution_time)
    return max(at, record.submitted_at)


def _end_of(last_seen: str, heard: Observation) -> tuple[Status, Reason]:
    """RunPod's end and our reason for it (fact: an executionTimeout ends FAILED, with this text)."""
    status = Status(heard.status)
    error = (heard.error or "").lower()
    if status is Status.CANCELLED:
        return status, Reason.CANCELLED
    if "executiontimeout" in error.replace(" ", ""):
        return status, Reason.EXECUTION_TIMEOUT
    if error.startswith("job timed out after"):
        return status, Reason.WORKER_LOST
    if status is Status.TIMED_OUT:
        return status, Reason.TTL_EXPIRED if last_seen == Status.IN_QUEUE else Reason.WORKER_LOST
    return status, Reason.HANDLER_ERROR


def _last_progress(held: Held) -> str | None:
    """The last progress, kept when a job never ends."""
    return held.long.get(Long.PROGRESS)
