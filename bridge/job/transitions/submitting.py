"""From the POST that leaves to the job id, or to the doubt whether there is one."""

from __future__ import annotations

from bridge.job.change import Change, Draft
from bridge.job.document import Held
from bridge.job.enums import Delivery, EventName, Reason, Status, Step, rank
from bridge.job.record import Long
from bridge.job.state_table import A, E, R, S, T, U, check, same
from bridge.job.transitions.base import Base
from bridge.job.transitions.due import next_look, submit_step

#: How long a batch whose finalize was not answered is asked how it stands, before `delivery` decides as for /run.
BATCH_DOUBT_MS = 24 * 3_600_000


class Submitting(Base):
    """A lost answer is decided by `delivery`, once its grace is over."""

    def sending(
        self, held: Held, now: int, lease: str, *, endpoint_id: str, base_url: str, hook: str = "", batch_id: str = ""
    ) -> Change:
        """The POST leaves now (I6). Only for the holder of the lease, only while nothing speaks against it."""
        record = held.record
        if record.phase is not A or not record.leased_by(lease, now):
            return same(held, "lost")
        draft = self._draft(held, now)
        draft.set(
            phase=S,
            sent_at=now,
            submits=record.submits + 1,
            endpoint_id=endpoint_id,
            base_url=base_url,
            hook=record.hook or hook,
            batch_id=batch_id,
        )
        return check(draft.done("sending"), "sending")

    def submitted(self, held: Held, now: int, job_id: str, status: str, *, poll_ms: int) -> Change:
        """A job id is known. A fact: never refused for a stale lease (HARDENING 3)."""
        record = held.record
        if job_id == record.job_id or job_id in {job["job_id"] for job in held.json(Long.JOBS) or ()}:
            return same(held, "known")
        draft = self._draft(held, now)
        if record.job_id or record.phase in {T, R}:
            return check(self._another_job(draft, job_id), "submitted")
        if record.phase.ended:
            if (
                record.phase is E
                and record.status == Status.LOST
                and record.continued < record.round
                and not record.turn
            ):
                draft.set(sinks=record.sinks or "")  # not told yet: the request lives after all
            else:
                draft.set(job_id=job_id).cancel_job(job_id, record.endpoint_id)
                return check(draft.done("too_late"), "submitted")
        draft.set(
            phase=T,
            job_id=job_id,
            status=status if rank(status) else Status.IN_QUEUE.value,
            submitted_at=now,
            observed_at=now,
            ended_at=0,
            reason="",
            grace_until=0,
        )
        draft.tell(EventName.SUBMITTED)
        if status == Status.IN_QUEUE:
            draft.tell(EventName.QUEUED)
        if record.denied_at:
            draft.set(denials=0, denied_at=0).drop(Long.DENIED)
        draft.drop(Long.S3CONFIG, Long.INPUT, Long.EVIDENCE)  # I11, I16: another submit is not possible any more
        draft.due(*next_look(draft, poll_ms))
        if record.stream:
            draft.read_stream(0)
        return check(draft.done("submitted"), "submitted")

    def _another_job(self, draft: Draft, job_id: str) -> Change:
        """A second job of one request: both are watched, the first to complete gives the result."""
        record = draft.record
        jobs = draft.before.json(Long.JOBS) or [
            {
                "job_id": record.job_id,
                "endpoint_id": record.endpoint_id,
                "attempt": record.attempt,
                "status": record.status,
            }
        ]
        jobs.append(
            {
                "job_id": job_id,
                "endpoint_id": record.endpoint_id,
                "attempt": record.attempt,
                "status": Status.IN_QUEUE.value,
            }
        )
        draft.keep(Long.JOBS, jobs).set(possible_duplicate=1).drop(Long.EVIDENCE)
        if record.phase.ended:
            draft.cancel_job(job_id, record.endpoint_id)
        return draft.done("another_job")

    def refused(self, held: Held, now: int, message: str, field: str = "input") -> Change:
        """RunPod will never take this body (400), or this endpoint is not to be used any more (`field` endpoint)."""
        if held.record.phase not in {A, S}:
            return same(held, "late")
        draft = self._draft(held, now).keep(Long.ERROR, message)
        return check(draft.settle(Status.REJECTED, Reason.REJECTED, field=field).done("refused"), "refused")

    def deferred(self, held: Held, now: int) -> Change:
        """Nothing was sent, or RunPod said 429: back to waiting, no attempt used."""
        record = held.record
        if record.phase is not S:
            return same(held, "late")
        draft = self._draft(held, now).set(phase=A, submits=max(0, record.submits - 1), sent_at=0, batch_id="")
        if record.wish:
            draft.set(may_run=int(record.submits > 1))
            return check(self._end_by_wish(draft).done("ended_by_wish"), "deferred")
        return check(draft.due(submit_step(record, now)).done("deferred"), "deferred")

    def denied(self, held: Held, now: int, *, denials: int, reason: str, says: str, rest_ms: int) -> Change:
        """It was not taken, and that may be about this request alone: others go first, and it rests for a while.

        It rests under a lease of nobody's, which ends by itself (I5).
        """
        change = self.deferred(held, now)
        if change.verdict != "deferred":
            return change
        draft = self._draft(held, now).set(phase=A, submits=max(0, held.record.submits - 1), sent_at=0)
        draft.set(denials=denials, denied_at=now).keep(Long.DENIED, {"reason": reason, "says": says}).due(None)
        draft.set(lease="denied", lease_until=now + rest_ms)
        return check(draft.done("denied"), "deferred")

    def unanswered(self, held: Held, now: int, *, seen: bool) -> Change:
        """The answer was lost. `seen`: by the engine that asked; otherwise its lease ended."""
        record = held.record
        if record.phase is not S:
            return same(held, "late")
        draft = self._draft(held, now)
        if seen and not record.hook and not record.batch_id and self._delivery(held) is Delivery.AT_MOST_ONCE:
            # No webhook is set, so no evidence can come: waiting would change nothing.
            return check(self._give_up(draft).done("given_up"), "unanswered")
        draft.set(phase=U, grace_until=now + self.rules.grace_ms)
        draft.due(Step.POLL if Long.EVIDENCE in held.long else None)
        return check(draft.done("unanswered"), "unanswered")

    def grace_ended(self, held: Held, now: int) -> Change:
        """No evidence came: `delivery` decides."""
        record = held.record
        confirming = record.lease and record.lease_until > now  # what a callback told
        if record.phase is not U or record.grace_until > now or confirming:
            return same(held, "early")
        draft = self._draft(held, now)
        if record.batch_id and now - record.sent_at < BATCH_DOUBT_MS:
            # The batch itself can be asked: what is in it is never submitted twice for a lost answer.
            return check(draft.set(grace_until=now + self.rules.grace_ms).done("in_doubt"), "grace_ended")
        again = (
            self._delivery(held) is Delivery.AT_LEAST_ONCE
            and not record.wish
            and record.submits < self.rules.submits_max
            and Long.INPUT in held.long
        )
        if again:
            draft.set(phase=A, possible_duplicate=1, grace_until=0, batch_id="").due(submit_step(record, now))
            return check(draft.done("submit_again"), "grace_ended")
        return check(self._give_up(draft).done("given_up"), "grace_ended")

    def evidence(self, held: Held, now: int, job_id: str) -> Change:
        """A callback names a job while the submit's answer is lost: a status read will confirm it, or not.

        So it is when the answer was lost, another submit followed, and the first job calls back after all: it may have
        been paid for and be done (HARDENING 3).
        """
        record = held.record
        if self.names_another(held, job_id):
            draft = self._draft(held, now).keep_text(Long.EVIDENCE, job_id)
            if record.due in {Step.POLL, Step.RESCUE}:
                draft.due(Step(record.due))
            else:
                draft.set(hint=1)
            return check(draft.done("evidence"), "observed")
        if record.phase not in {S, U} or record.job_id:
            return same(held, "late")
        if held.long.get(Long.EVIDENCE) == job_id:
            return same(held, "repeated")
        draft = self._draft(held, now).keep_text(Long.EVIDENCE, job_id)
        if record.phase is U and not record.lease:
            draft.due(Step.POLL)
        return draft.done("evidence")

    @staticmethod
    def names_another(held: Held, job_id: str) -> bool:
        """Whether this may be a job of the request that nobody knows of yet: only where a submit's answer was lost."""
        record = held.record
        known = {record.job_id, *(job["job_id"] for job in held.json(Long.JOBS) or ())}
        return record.phase is T and bool(record.possible_duplicate) and job_id not in known

    def unconfirmed(self, held: Held, now: int, *, again_ms: int | None) -> Change:
        """RunPod does not know the job that a callback named (None), or could not be asked now."""
        if held.record.phase is T and again_ms is None:
            return self._draft(held, now).drop(Long.EVIDENCE).done("unconfirmed")
        if held.record.phase is not U:
            return same(held, "late")
        draft = self._draft(held, now)
        if again_ms is None:
            return draft.drop(Long.EVIDENCE).due(None).done("unconfirmed")
        return draft.due(Step.POLL, again_ms).done("unconfirmed")

    def doubted(self, held: Held, now: int) -> Change:
        """The ledger came back without its latest writes: "never sent" may have been sent (HARDENING 19)."""
        record = held.record
        if record.phase is not A:
            return same(held, "late")
        draft = self._draft(held, now).set(phase=U, grace_until=now + self.rules.grace_ms, submits=record.submits + 1)
        return check(draft.due(None).done("doubted"), "doubted")

    def _delivery(self, held: Held) -> Delivery:
        return Delivery(held.record.delivery or self.rules.delivery)

    def _give_up(self, draft: Draft) -> Draft:
        draft.set(may_run=1)
        if draft.record.wish:
            return self._end_by_wish(draft)
        return draft.settle(Status.LOST, Reason.UNANSWERED)
