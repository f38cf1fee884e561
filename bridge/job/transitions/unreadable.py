"""Answers about a job that nobody can read: told after a while, and an end before RunPod forgets the job."""

from __future__ import annotations

from bridge.job.change import Change, Draft
from bridge.job.clocks import rescue_at, unread_until
from bridge.job.document import Held
from bridge.job.enums import Reason, Status, Step
from bridge.job.record import Long
from bridge.job.state_table import R, T, check, same
from bridge.job.transitions.base import Base
from bridge.job.transitions.due import look_or_cancel
from bridge.job.transitions.several_jobs import alive_job, follow, forget_job

#: Answers that cannot be read are told when they have come for so long.
UNREAD_TOLD_MS = 10_000
#: The longest pause between two reads of a job whose answers cannot be read.
UNREAD_PAUSE_MS = 60_000


class Unreading(Base):
    """It is the job's own trouble while RunPod answers others; else RunPod's, and waited out."""

    def unread(
        self, held: Held, now: int, job_id: str, attempt: int, *, why: str, endpoint_ok_at: int, delay_ms: int
    ) -> Change:
        """What RunPod answers about the job cannot be read, time after time, while it answers others.

        Told after a while, and given up before its result could be forgotten: as `gone`, since nobody will ever know.
        """
        record = held.record
        if record.phase not in {T, R} or attempt != record.attempt:
            return same(held, "late")
        since = record.unread_since or now
        draft = self._draft(held, now).set(unread_since=since, polls=record.polls + 1)
        others_answered = endpoint_ok_at > since
        if others_answered and now - since >= UNREAD_TOLD_MS:
            draft.set(unread_told=1).keep_text(Long.UNREAD, why[:1000])
        until = unread_until(draft.record)
        if now < until or not others_answered:
            pause = max(delay_ms, min((now - since) // 4, UNREAD_PAUSE_MS, max(1_000, until - now)))
            step = Step.RETRY if record.phase is R else look_or_cancel(record, now)
            draft.due(Step.RESCUE if step is Step.POLL and now >= rescue_at(record) else step, pause)
            news = draft.record.unread_told > record.unread_told
            return check(draft.done("unreadable" if news else "missed"), "observed")
        return check(self._given_up(draft, job_id, why).done("settled"), "gone")

    def _given_up(self, draft: Draft, job_id: str, why: str) -> Draft:
        """It may run on, and have ended well: nobody can tell. Another job of the request goes on alone."""
        forget_job(draft, job_id, "GONE")
        record, alive = draft.record, alive_job(draft)
        if job_id != record.job_id:
            return draft.set(unread_since=0, unread_told=0).drop(Long.UNREAD).due(Step.POLL)
        if alive:
            return follow(draft, alive).set(unread_since=0, unread_told=0).drop(Long.UNREAD)
        if record.phase is R:
            self._stand(draft)
            return draft
        draft.set(may_run=1)
        if record.wish:
            return self._end_by_wish(draft)
        draft.result(draft.before.long.get(Long.PROGRESS)).keep(Long.ERROR, why[:1000])
        return draft.settle(Status.LOST, Reason.UNREADABLE)
