"""The state machine of a request: what each event makes of a record in each phase, as pure functions.

`TABLE` lists every cell that may move; the functions below carry them out, and `check` refuses a change
that is not in the table. Tests walk it cell by cell; docs/lifecycle.md is drawn from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.job.change import RUN_RETENTION_MS, SYNC_RETENTION_MS, Change, Draft, Rules, replies_of, wish_end
from bridge.job.document import Held, unpack_error
from bridge.job.record import Long, Record, altered, dumps
from bridge.job.words import Delivery, EventName, Phase, Reason, Sink, Status, Step, Wish, is_end, rank

A, S, U, T, R, E, C = (
    Phase.ACCEPTED,
    Phase.SUBMITTING,
    Phase.UNANSWERED,
    Phase.TRACKED,
    Phase.RETRYING,
    Phase.SETTLED,
    Phase.CLOSED,
)

#: (phase, event) -> the phases it may lead to. An end whose sinks are all told at once closes in the same change.
TABLE: Mapping[tuple[Phase, str], frozenset[Phase]] = {
    key: frozenset(value)
    for key, value in {
        (A, "sending"): {S},
        (A, "cancel"): {E, C},
        (A, "deadline"): {E, C},
        (A, "purge"): {E, C},
        (A, "refused"): {E, C},
        (A, "doubted"): {U},
        (S, "submitted"): {T, E, C},
        (S, "refused"): {E, C},
        (S, "deferred"): {A, E, C},
        (S, "unanswered"): {U, E, C},
        (S, "cancel"): {S},
        (S, "deadline"): {S},
        (U, "cancel"): {U},
        (U, "deadline"): {U},
        (U, "submitted"): {T, E, C},
        (U, "grace_ended"): {A, E, C},
        (A, "submitted"): {T, E, C},
        (T, "submitted"): {T},
        (T, "observed"): {T, R, E, C},
        (T, "cancel"): {T},
        (T, "deadline"): {T},
        (T, "gone"): {T, E, C},
        (T, "stream"): {T},
        (R, "retry_sending"): {R},
        (R, "retry_answered"): {T},
        (R, "retry_refused"): {E, C},
        (R, "retry_unanswered"): {R},
        (R, "gone"): {R, E, C},
        (R, "observed"): {T, R, E, C},
        (R, "cancel"): {R, E, C},
        (R, "deadline"): {R, E, C},
        (E, "observed"): {E, C},
        (E, "submitted"): {E, T},
        (C, "submitted"): {C},
        (E, "delivered"): {E, C},
        (E, "finish"): {E},
        (C, "retry"): {R},
    }.items()
}

#: 404s of one job count as gone when this far apart, with a success of the endpoint between. Milliseconds.
GONE_APART_MS = 30_000
#: A call to RunPod takes at most so long: its answer may be written that much after a purge.
PURGE_UNDER_WAY_MS = 30_000
#: An IN_PROGRESS whose executionTime stands still this long will not end any more (runpod-python#250).
STUCK_MS = 10 * 60_000
#: For this long after a /retry, an end equal to the previous one is read again, not believed.
RETRY_ECHO_MS = 10_000
#: /retry calls whose answer was lost, before the end that stood is accepted.
RETRY_CALLS_MAX = 3
RETRY_CHECK_MS = 2_000
#: How long an end waits for the last chunks of its stream, and how often it is looked at meanwhile. Longer than a
#: reader's lease, so that the stream of a reader that died is read on.
DRAIN_MS, DRAIN_LOOK_MS = 40_000, 2_000
#: How soon an end that lacks chunks, which were recorded while it was read, is read again.
CHUNKS_AGAIN_MS = 100
CANCEL_AGAIN_MS = 5_000
#: Reads that callbacks cause are at least this far apart.
HINTS_APART_MS = 200
#: How many senders of one request are told of its end, beside the first.
ALSO_MAX = 8
#: A deadline waits this long for a status read younger than it.
DEADLINE_PATIENCE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Heard:
    """One observation of one job, in the table's words. `attempt` was current when the call STARTED."""

    job_id: str
    status: str
    attempt: int
    delay_time: int | None = None
    execution_time: int | None = None
    worker_id: str | None = None
    retries: int | None = None
    output: str | None = None  # JSON text; None when the answer had none
    ref: str | None = None  # JSON: where the object store has that output
    error: str | None = None
    chunks: tuple[Any, ...] | None = None  # outputs of the attempt's recorded chunks, where the end may need them


def check(change: Change, event: str) -> Change:
    """The change, if the table has it. A cell outside of it is a defect of ours and never reaches the ledger."""
    if change.before is not None and not change.empty:
        was, becomes = change.before.record.phase, change.record.phase
        if was is not becomes and becomes not in TABLE.get((was, event), ()):
            fault = f"no such transition: {was} --{event}--> {becomes}"
            raise AssertionError(fault)
    return change


def same(held: Held, verdict: str) -> Change:
    """Nothing to write."""
    return Change(verdict, held, held)


class Table:
    """The transitions, under one set of rules. `now` is ledger time in milliseconds."""

    def __init__(self, rules: Rules) -> None:
        """The rules come from the settings."""
        self.rules = rules
        self.clock_offset = 0  # kept current by the ledger; only for the times that documents tell

    def _draft(self, held: Held, now: int) -> Draft:
        return Draft(held, now, self.rules, self.clock_offset)

    # Coming in

    def accept(self, held: Held, now: int, wish: Mapping[str, Any] | None = None) -> Change:
        """A new record. A cancel that came first makes it be born ended."""
        draft = self._draft(held, now).set(accepted_at=now)
        draft.before = replace(draft.before, record=altered(held.record, sequence=0))
        draft.tell(EventName.ACCEPTED, door=held.record.door)
        for name, text in held.long.items():
            draft.keep_text(name, text)
        if wish is not None:
            draft.set(wish=Wish.CANCEL.value).keep(Long.WISHED, wish)
            draft.settle(Status.CANCELLED, Reason.CANCELLED, **wish)
        else:
            draft.due(_submit_step(held.record))
        change = draft.done("accepted")
        return replace(change, before=None)

    def reject(self, held: Held, now: int, field: str, message: str) -> Change:
        """A new record that is refused as it comes in: its end is told like any other."""
        draft = self._draft(held, now).set(accepted_at=now)
        for name, text in held.long.items():
            draft.keep_text(name, text)
        draft.keep(Long.ERROR, message)
        draft.settle(Status.REJECTED, Reason.REJECTED, field=field)
        draft.drop(Long.INPUT, Long.S3CONFIG)
        return replace(draft.done("rejected"), before=None)

    def also_reply(self, held: Held, now: int, reply: Mapping[str, Any]) -> Change:
        """The same request came again from elsewhere: its sender hears the rest as well. `reply`: see Long.REPLY."""
        if held.record.phase.ended:
            return same(held, "ended")
        key = ("to", "via", "correlation_id")
        if any(all(known.get(name) == reply.get(name) for name in key) for known in replies_of(held)):
            return same(held, "known")
        first = held.json(Long.REPLY) or {"to": None, "on": [], "via": reply["via"], "correlation_id": None}
        also = [*first.get("also", ()), dict(reply)]
        if len(also) > ALSO_MAX:
            return same(held, "full")
        draft = self._draft(held, now).keep(Long.REPLY, {**first, "also": also})
        if reply["via"] == "amqp":
            draft.set(sinks=",".join(sorted({*held.record.waiting_sinks, Sink.REPLY})))
        return draft.done("noted")

    # Submitting

    def sending(self, held: Held, now: int, lease: str, *, endpoint_id: str, base_url: str, hook: str = "") -> Change:
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
        draft.drop(Long.S3CONFIG, Long.INPUT, Long.EVIDENCE)  # I11, I16: another submit is not possible any more
        draft.due(*self._next_look(draft, poll_ms))
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
        draft = self._draft(held, now).set(phase=A, submits=max(0, record.submits - 1), sent_at=0)
        if record.wish:
            draft.set(may_run=int(record.submits > 1))
            return check(self._end_by_wish(draft).done("ended_by_wish"), "deferred")
        return check(draft.due(_submit_step(record)).done("deferred"), "deferred")

    def unanswered(self, held: Held, now: int, *, seen: bool) -> Change:
        """The answer was lost. `seen`: by the engine that asked; otherwise its lease ended."""
        record = held.record
        if record.phase is not S:
            return same(held, "late")
        draft = self._draft(held, now)
        if seen and not record.hook and self._delivery(held) is Delivery.AT_MOST_ONCE:
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
        again = (
            self._delivery(held) is Delivery.AT_LEAST_ONCE
            and not record.wish
            and record.submits < self.rules.submits_max
            and Long.INPUT in held.long
        )
        if again:
            draft.set(phase=A, possible_duplicate=1, grace_until=0).due(_submit_step(record))
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

    # Ending early

    def wish(self, held: Held, now: int, cause: Wish, *, by: str | None = None, door: str | None = None) -> Change:
        """Somebody, or a clock, wants the end. Free where nothing has left; kept and carried out elsewhere."""
        record = held.record
        event = "cancel" if cause is Wish.CANCEL else "deadline"
        if record.phase.ended:
            return same(held, "already_ended")
        if record.wish:
            return same(held, "requested")
        draft = self._draft(held, now).set(wish=cause.value).keep(Long.WISHED, {"by": by, "door": door})
        nothing_left = record.phase is A or (record.phase is R and not record.retried_at)
        if nothing_left and record.submits == 0:
            return check(self._end_by_wish(draft).done("cancelled"), event)
        if nothing_left:
            draft.set(may_run=int(record.phase is A))
            return check(self._end_by_wish(draft).done("cancelled"), event)
        if record.phase is T:
            if record.lease:
                draft.set(cancel_at=0)
            else:
                draft.due(Step.CANCEL)
        return check(draft.done("requested"), event)

    def _end_by_wish(self, draft: Draft) -> Draft:
        status, reason = wish_end(draft.record.wish)
        wished = json.loads(draft._put.get(Long.WISHED) or draft.before.long.get(Long.WISHED) or "{}")  # noqa: SLF001
        return draft.settle(status, reason, **self._cause(draft.record.wish), **{k: v for k, v in wished.items() if v})

    @staticmethod
    def _cause(wish: str) -> dict[str, str]:
        return {} if wish == Wish.CANCEL else {"cause": wish}

    def purge_pending(self, held: Held, now: int, *, by: str | None = None, door: str | None = None) -> Change:
        """The bridge's own purge of what has not left yet."""
        if held.record.phase is not A:
            return same(held, "not_pending")
        draft = self._draft(held, now)
        said = {k: v for k, v in (("by", by), ("door", door)) if v}
        return check(draft.settle(Status.CANCELLED, Reason.PURGED, **said).done("purged"), "purge")

    def purge_look(self, held: Held, now: int, *, by: str | None = None, door: str | None = None) -> Change:
        """The queue was purged: a status read tells whether this job was in it; whose purge it was is kept."""
        record = held.record
        if record.phase is not T or record.status != Status.IN_QUEUE:
            return same(held, "not_queued")
        draft = self._draft(held, now)
        if not record.wish:
            draft.keep(Long.WISHED, {"by": by, "door": door})
        if record.due == Step.POLL:
            draft.due(Step.POLL)
        return check(draft.set(polls=record.polls + 1).done("looking"), "observed")

    def cancel_called(self, held: Held, now: int, *, landed: bool) -> Change:
        """/cancel was called. Its answer ends nothing: it only makes a status read due now."""
        record = held.record
        if record.phase is not T:
            return same(held, "late")
        draft = self._draft(held, now).set(
            cancels=record.cancels + 1, cancel_at=now + self._cancel_pause(record.cancels)
        )
        return check(draft.due(Step.POLL, 0 if landed else 1_000).done("cancel_called"), "observed")

    @staticmethod
    def _cancel_pause(calls: int) -> int:
        return int(min(CANCEL_AGAIN_MS * 2 ** min(calls, 6), 60_000))

    # Watching

    def observed(self, held: Held, now: int, heard: Heard, *, poll_ms: int) -> Change:
        """Something was heard of a job (I4: stale news changes nothing)."""
        return self._other_than_news(held, now, heard, poll_ms) or self._news(held, now, heard, poll_ms)

    def _other_than_news(self, held: Held, now: int, heard: Heard, poll_ms: int) -> Change | None:
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
        if is_end(heard.status) and self._echo(held, now, heard):
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

    def _news(self, held: Held, now: int, heard: Heard, poll_ms: int) -> Change:
        record = held.record
        draft = self._draft(held, now)
        if is_end(heard.status) and record.stream and not record.stream_done and not self._drained(draft):
            return check(draft.done("draining"), "observed")
        if heard.status == Status.COMPLETED and self._needs_chunks(record, heard):
            # Chunks were recorded while this read was under way: without them the end would lack its last words.
            return check(draft.due(Step.POLL, CHUNKS_AGAIN_MS).done("draining"), "observed")
        if record.phase is R:  # the /retry whose answer was lost did take
            self._reopen(draft)
        self._note(draft, heard)
        if is_end(heard.status):
            self._end_heard(draft, heard)
        else:
            self._progress_heard(draft, heard)
            if self._stuck(draft):
                draft.result(heard.output or self.before_output(held))
                draft.settle(Status.LOST, Reason.STUCK)
            else:
                cause = self._passed(draft.record, now)
                if cause is not None:  # this read is the one that the deadline waited for
                    draft.set(wish=cause.value).keep(Long.WISHED, {"by": None, "door": None})
                draft.due(*self._next_look(draft, poll_ms))
        return check(draft.done("settled" if draft.record.phase.ended else "heard"), "observed")

    def _drained(self, draft: Draft) -> bool:
        """An end waits a while for its last chunks, so that it stays the last event of its round."""
        record = draft.record
        if not record.drain_until:
            draft.set(drain_until=draft.now + DRAIN_MS)
        elif draft.now >= record.drain_until:
            draft.set(stream_done=1, stream_incomplete=1).read_stream(None)
            return True
        if not record.reading:
            draft.read_stream(0)
        draft.due(Step.POLL, DRAIN_LOOK_MS)
        return False

    @staticmethod
    def _needs_chunks(record: Record, heard: Heard) -> bool:
        """Whether this end is made or mended from the chunks, and was not read together with all of them."""
        recorded = record.chunks - record.chunks_from
        wanted = (recorded and heard.output in {None, "[]"}) or record.stream_incomplete
        return bool(wanted) and (heard.chunks is None or len(heard.chunks) < recorded)

    @staticmethod
    def _with_chunks(draft: Draft, heard: Heard) -> Heard:
        """An empty aggregate is filled from the chunks, and lost chunks from the aggregate (I13)."""
        if not heard.chunks and not draft.record.stream_incomplete:
            return heard
        known = list(heard.chunks or ())
        if heard.output in {None, "[]"}:
            # Without `return_aggregate_stream` a generator's output is an empty list: its chunks are the output.
            return replace(heard, output=heard_json(known), ref=None) if known else heard
        whole = json.loads(heard.output or "null")
        if draft.record.stream_incomplete and isinstance(whole, list) and _runs_through(known, whole):
            first = draft.record.chunks_from
            lost = [(n, item) for n, item in enumerate(whole) if n >= len(known) or known[n] != item]
            for n, item in lost:
                draft.mend_chunk(first + n, item)
            draft.set(stream_repaired=len(lost))
        return heard

    @staticmethod
    def before_output(held: Held) -> str | None:
        """The last progress, kept when a job never ends."""
        return held.long.get(Long.PROGRESS)

    def _note(self, draft: Draft, heard: Heard) -> None:
        record = draft.record
        draft.set(
            observed_at=draft.now,
            polls=record.polls + 1,
            gone_at=0,
            delay_time=record.delay_time if heard.delay_time is None else heard.delay_time,
            worker_id=heard.worker_id[:63] if heard.worker_id else record.worker_id,
            platform_retries=heard.retries or record.platform_retries,
        )
        stands = (
            heard.execution_time is not None
            and heard.execution_time == record.execution_time
            and not is_end(heard.status)
        )
        draft.set(stuck_since=(record.stuck_since or draft.now) if stands else 0)
        if heard.execution_time is not None:
            draft.set(execution_time=heard.execution_time)

    def _progress_heard(self, draft: Draft, heard: Heard) -> None:
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
            draft.began(self._began_at(draft, heard))
            if record.stream and not record.reading and not record.stream_done:
                draft.read_stream(0)
        if heard.status == Status.IN_PROGRESS and heard.output not in (None, draft.before.long.get(Long.PROGRESS)):
            progress = heard.output or ""
            if len(progress) <= self.rules.inline_limit:
                draft.keep_text(Long.PROGRESS, progress).tell(EventName.PROGRESS, progress=json.loads(progress))

    def _stuck(self, draft: Draft) -> bool:
        record = draft.record
        past_ttl = record.ttl_ms and draft.now > record.submitted_at + record.ttl_ms + STUCK_MS
        stands_still = (
            record.stuck_since and draft.now - record.stuck_since >= STUCK_MS and record.status == Status.IN_PROGRESS
        )
        return bool(past_ttl or stands_still)

    @staticmethod
    def _began_at(draft: Draft, heard: Heard) -> int:
        """When the job began to run, by RunPod's own times as far as it tells them; never before it was submitted."""
        record, at = draft.record, draft.now
        if heard.delay_time is not None and record.attempt == 1:  # of a later attempt it may count from the first
            at = min(at, record.submitted_at + heard.delay_time)
        if heard.execution_time is not None and is_end(heard.status):
            at = min(at, draft.now - heard.execution_time)
        return max(at, record.submitted_at)

    def _end_heard(self, draft: Draft, heard: Heard) -> None:
        record = draft.record
        self._forget_job(draft, record.job_id, heard.status)
        if heard.status == Status.COMPLETED or heard.execution_time is not None:
            # It has run between two looks (fact: what ends in the queue has no executionTime).
            draft.began(self._began_at(draft, heard))
        if heard.status == Status.COMPLETED:
            heard = self._with_chunks(draft, heard)
            draft.set(output_missing=int(heard.output is None))
            draft.result(heard.output, heard.ref).paid(heard.execution_time)
            self._strays(draft)
            draft.settle(Status.COMPLETED)
            return
        alive = self._alive(draft)
        draft.paid(heard.execution_time, twice=alive is not None)
        if alive:  # another job of this request may still complete
            draft.set(job_id=alive["job_id"], endpoint_id=alive["endpoint_id"], status=alive["status"])
            draft.due(Step.POLL)
            return
        status, reason = self._end_of(record.status, heard)
        if heard.error is not None:
            draft.keep(Long.ERROR, unpack_error(heard.error))
        if heard.output is not None:  # a handler's {"error": x, **rest} gives both
            draft.result(heard.output, heard.ref)
        if record.wish and status != Status.COMPLETED:
            self._end_by_wish(draft)
        elif (
            status in {Status.FAILED, Status.TIMED_OUT}
            and record.retries_left > 0
            and reason in self._retry_on(draft.before)
        ):
            self._begin_retry(draft, status, reason)
        else:
            more = {"cause": "runpod"} if status == Status.TIMED_OUT else {}
            draft.settle(status, reason, **more)

    @staticmethod
    def _end_of(last_seen: str, heard: Heard) -> tuple[Status, Reason]:
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

    def _late(self, held: Held, now: int, heard: Heard) -> Change:
        """News after the end. Only LOST may still become a real end, until somebody was told."""
        record = held.record
        untold = record.phase is E and record.continued < record.round and not record.turn
        if record.status != Status.LOST or not untold or not is_end(heard.status) or heard.job_id != record.job_id:
            return same(held, "late")
        draft = self._draft(held, now).drop(Long.ERROR)
        self._note(draft, heard)
        self._end_heard(draft, heard)
        return draft.done("found")

    # More than one job

    def _other_job_observed(self, held: Held, now: int, heard: Heard, poll_ms: int) -> Change:
        jobs = held.json(Long.JOBS) or []
        if heard.job_id not in {job["job_id"] for job in jobs}:
            return self._look_again(held, now, poll_ms, "unknown_job")
        draft = self._draft(held, now)
        if heard.status == Status.COMPLETED:
            other = next(job for job in jobs if job["job_id"] == heard.job_id)
            draft.set(job_id=heard.job_id, endpoint_id=other["endpoint_id"])
            self._note(draft, heard)
            self._end_heard(draft, heard)
        else:
            if is_end(heard.status) and any(j["job_id"] == heard.job_id and not is_end(j["status"]) for j in jobs):
                draft.paid(heard.execution_time, twice=True)
            self._forget_job(draft, heard.job_id, heard.status)
        return draft.done("settled" if draft.record.phase.ended else "heard")

    @staticmethod
    def _jobs(draft: Draft) -> list[dict[str, Any]]:
        text = draft._put.get(Long.JOBS) or draft.before.long.get(Long.JOBS)  # noqa: SLF001
        return json.loads(text) if text else []

    def _forget_job(self, draft: Draft, job_id: str, status: str) -> None:
        jobs = self._jobs(draft)
        for job in jobs:
            if job["job_id"] == job_id:
                job["status"] = status
        if jobs:
            draft.keep(Long.JOBS, jobs)

    def _alive(self, draft: Draft) -> dict[str, Any] | None:
        return next((job for job in self._jobs(draft) if not is_end(job["status"]) and job["status"] != "GONE"), None)

    def _strays(self, draft: Draft) -> None:
        for job in self._jobs(draft):
            if not is_end(job["status"]) and job["status"] != "GONE" and job["job_id"] != draft.record.job_id:
                draft.cancel_job(job["job_id"], job["endpoint_id"])

    # 404

    def gone(
        self, held: Held, now: int, job_id: str, attempt: int, *, endpoint_ok_at: int, purged_at: int, poll_ms: int
    ) -> Change:
        """RunPod does not know the job, and the answer did not name the endpoint (HARDENING 2)."""
        record = held.record
        if record.phase not in {T, R} or attempt != record.attempt:
            return same(held, "late")
        draft = self._draft(held, now).set(polls=record.polls + 1)
        seen_at = max(record.submitted_at, record.observed_at, 1)
        queued = record.status == Status.IN_QUEUE
        purged = queued and purged_at >= seen_at
        # An answer that was under way during the purge is written after it: then one 404 is not enough, two are.
        maybe_purged = queued and purged_at + PURGE_UNDER_WAY_MS >= seen_at and purged_at > 0
        sure = record.gone_at and now - record.gone_at >= GONE_APART_MS and endpoint_ok_at >= record.gone_at
        if not purged and not sure:
            wait = max(1_000, (record.gone_at or now) + GONE_APART_MS - now)
            draft.set(gone_at=record.gone_at or now).due(Step.POLL if record.phase is T else Step.RETRY, wait)
            return check(draft.done("missed"), "gone")
        self._forget_job(draft, job_id, "GONE")
        if job_id != record.job_id:
            return check(draft.due(Step.POLL, poll_ms).done("heard"), "observed")
        alive = self._alive(draft)
        if alive:
            draft.set(job_id=alive["job_id"], endpoint_id=alive["endpoint_id"], status=alive["status"], gone_at=0).due(
                Step.POLL
            )
            return check(draft.done("heard"), "gone")
        if record.phase is R:
            self._stand(draft)
        elif record.wish:
            self._end_by_wish(draft)
        elif purged or maybe_purged:
            said = {k: v for k, v in (held.json(Long.WISHED) or {}).items() if v}
            draft.settle(Status.CANCELLED, Reason.PURGED, **said)
        elif record.ttl_ms and now >= record.submitted_at + record.ttl_ms:
            draft.settle(Status.TIMED_OUT, Reason.TTL_EXPIRED, cause="runpod")
        else:
            retention = SYNC_RETENTION_MS if record.sync_wait_ms else RUN_RETENTION_MS
            expired = now - max(record.observed_at, record.submitted_at) > retention
            draft.settle(Status.LOST, Reason.RESULT_EXPIRED if expired else Reason.VANISHED)
        return check(draft.done("settled"), "gone")

    def missed(self, held: Held, now: int, *, delay_ms: int) -> Change:
        """A read brought nothing (RunPod away, no budget): look again."""
        record = held.record
        if record.phase not in {T, R}:
            return same(held, "late")
        step = Step.RETRY if record.phase is R else self._look_or_cancel(record, now)
        return check(self._draft(held, now).due(step, delay_ms).done("missed"), "observed")

    def _look_again(self, held: Held, now: int, poll_ms: int, verdict: str) -> Change:
        if held.record.phase is not T or held.record.due:
            return same(held, verdict)
        return check(self._draft(held, now).due(Step.POLL, poll_ms).done(verdict), "observed")

    def _next_look(self, draft: Draft, poll_ms: int) -> tuple[Step, int]:
        record = draft.record
        if record.wish and draft.now >= record.cancel_at:
            return Step.CANCEL, 0
        if record.wish:
            return Step.POLL, min(poll_ms, max(250, record.cancel_at - draft.now))
        clocks = [clock for clock in (record.deadline, record.queue_deadline) if clock > draft.now]
        return Step.POLL, min([poll_ms, *(clock - draft.now + 5 for clock in clocks)])

    @staticmethod
    def _look_or_cancel(record: Record, now: int) -> Step:
        return Step.CANCEL if record.wish and now >= record.cancel_at else Step.POLL

    # Streams

    def stream_on(self, held: Held, now: int) -> Change:
        """A caller asks for chunks of a request that is under way (RunPod needs no word of it at the submit)."""
        record = held.record
        if record.phase.ended:
            return same(held, "already_ended")
        if record.stream:
            return same(held, "streaming")
        draft = self._draft(held, now).set(stream=1)
        if record.phase is T:
            draft.read_stream(0)
        return draft.done("streaming")

    def stream_read(
        self, held: Held, now: int, chunks: Sequence[tuple[Any, Any]], *, reader: str, again_ms: int | None, lost: bool
    ) -> Change:
        """What a /stream call brought. `again_ms` None: the job has ended and nothing is left to read.

        Chunks are facts and are kept whoever brings them; only who is `reading` now says when the next read is due.
        """
        record = held.record
        mine = record.reading == reader
        if record.phase is not T or not (mine or chunks or lost):
            return same(held, "late")
        draft = self._draft(held, now)
        if lost or not mine:
            draft.set(stream_incomplete=1)
        if chunks and (mine or record.attempt == 1):  # of an attempt before this one they say nothing of this one
            draft.began(now)
        for output, metrics in chunks:
            draft.chunk(output, metrics)
        if chunks and record.drain_until:
            draft.set(drain_until=now + DRAIN_MS)
        if mine:
            draft.set(reading="").read_stream(again_ms)
            if again_ms is None:
                draft.set(stream_done=1)
                if record.due == Step.POLL:
                    draft.due(Step.POLL)
        return check(draft.done("read"), "stream")

    # RunPod's /retry

    def _retry_on(self, held: Held) -> tuple[str, ...]:
        arguments = held.json(Long.ARGUMENTS) or {}
        return tuple(arguments.get("retry_on") or (Reason.HANDLER_ERROR, Reason.WORKER_LOST, Reason.TTL_EXPIRED))

    @staticmethod
    def _begin_retry(draft: Draft, status: str, reason: str) -> None:
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
        self._reopen(draft)
        draft.tell(EventName.QUEUED)
        draft.due(*self._next_look(draft, poll_ms))
        return check(draft.done("retried"), "retry_answered")

    @staticmethod
    def _reopen(draft: Draft) -> None:
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
            stream_done=0,
            drain_until=0,
            chunks_from=draft.record.chunks,
        )
        if draft.record.stream:
            draft.read_stream(0)
        draft.drop(Long.ERROR, Long.PROGRESS).result(None)

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

    def _stand(self, draft: Draft) -> None:
        if draft.record.wish:
            self._end_by_wish(draft)
        else:
            draft.settle(draft.record.status, draft.record.reason)

    def _echo(self, held: Held, now: int, heard: Heard) -> bool:
        record = held.record
        if not record.retried_at:
            return False
        equal = (heard.status, heard.execution_time or -1) == (
            record.status if record.phase is R else heard.status,
            record.execution_time,
        ) and (heard.worker_id or "")[:63] == record.worker_id
        return equal and (record.phase is R or now - record.retried_at < RETRY_ECHO_MS)

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
        if record.ended_at and now - record.ended_at > (SYNC_RETENTION_MS if record.sync_wait_ms else RUN_RETENTION_MS):
            return same(held, "expired")
        draft = self._draft(held, now).set(
            phase=R, round=record.round + 1, nonce=nonce, retried_at=0, retry_calls=0, wish="", cancel_at=0, ended_at=0,
            deadline=0, queue_deadline=0, turns=0, turn="", turn_until=0, finish_sends=0,
            sinks=",".join(sorted(self._sinks_again(held))),
        )  # fmt: skip
        draft.drop(Long.WISHED)
        draft.tell(EventName.RETRIED, **{k: v for k, v in (("by", by), ("door", door)) if v})
        draft.due(Step.RETRY)
        return check(draft.done("retrying"), "retry")

    @staticmethod
    def _sinks_again(held: Held) -> set[Sink]:
        sinks = set()
        if Long.CANVAS in held.long:
            sinks.add(Sink.CELERY)
        reply = held.json(Long.REPLY) or {}
        if reply.get("to"):
            sinks.add(Sink.REPLY)
        elif reply:
            sinks.add(Sink.RESULTS)
        return sinks

    def output_forgotten(self, held: Held, now: int, url: str) -> Change:
        """The object store lets an output go: the record says so first, so that no reference leads nowhere."""
        ref = held.json(Long.OUTPUT_REF)
        if not held.record.phase.ended or not ref or ref.get("url") != url:
            return same(held, "another")
        return self._draft(held, now).set(stored=0).keep(Long.OUTPUT_REF, {**ref, "url": None}).done("forgotten")

    # Clocks

    def tick(self, held: Held, now: int) -> Change:
        """One of the record's clocks has run out: a lease, a deadline, a grace, or a retention."""
        record = held.record
        if record.due == Step.PARKED:  # once a day it is tried again (HARDENING 14)
            return check(
                self._draft(held, now).set(parked=0).due(self._step_of(record, now)).done("unparked"), "observed"
            )
        if record.lease and record.lease_until <= now:
            return self._lease_ended(held, now)
        cause = self._passed(record, now)
        if cause is not None:
            return self.wish(held, now, cause)
        if record.phase is U and record.grace_until <= now:
            return self.grace_ended(held, now)
        if record.phase is T and record.due == Step.POLL:
            return check(self._draft(held, now).due(Step.RESCUE).done("rescue"), "observed")
        draft = self._draft(held, now)
        if record.phase is T and record.due:  # a cancel that waits; or a deadline that is younger than the last read
            draft.due(Step.POLL if record.due == Step.CANCEL else record.step)
        return check(draft.done("ticked"), "observed")

    def _passed(self, record: Record, now: int) -> Wish | None:
        """The deadline that has passed and may be acted on."""
        if record.phase.ended or record.wish:
            return None
        if record.deadline and record.deadline <= now and self._fresh(record, record.deadline, now):
            return Wish.TIMEOUT
        queue = record.queue_deadline if record.status != Status.IN_PROGRESS else 0
        return Wish.QUEUE_TIMEOUT if queue and queue <= now and self._fresh(record, queue, now) else None

    @staticmethod
    def _fresh(record: Record, clock: int, now: int) -> bool:
        """A deadline is acted on only after a status read younger than it; where nobody answers, a minute later."""
        return record.phase is not T or record.observed_at >= clock or now - clock > DEADLINE_PATIENCE_MS

    def _step_of(self, record: Record, now: int) -> Step:
        """What a record in this phase waits for."""
        steps = {A: _submit_step(record), R: Step.RETRY, E: Step.FINISH}
        return steps.get(record.phase, self._look_or_cancel(record, now))

    def _lease_ended(self, held: Held, now: int) -> Change:
        record = held.record
        if record.phase is S:
            return self.unanswered(held, now, seen=False)
        step = self._step_of(record, now)
        if record.phase in {U, C}:
            return check(self._draft(held, now).due(None).done("lease_ended"), "observed")
        return check(self._draft(held, now).due(step).done("lease_ended"), "observed")

    # Telling the end

    def finish_sent(self, held: Held, now: int, *, delay_ms: int, sent: bool = True) -> Change:
        """A finish message is on its way (or was held back: nobody reads); another follows if nobody reports (I8)."""
        record = held.record
        if record.phase is not E or Sink.CELERY not in record.waiting_sinks:
            return same(held, "late")
        draft = self._draft(held, now).set(finish_sends=record.finish_sends + int(sent))
        if record.turn:  # a copy would only find the turn taken
            delay_ms = max(delay_ms, record.turn_until - now)
        return check(draft.due(Step.FINISH, delay_ms).done("sent" if sent else "held_back"), "finish")

    def finish_begin(self, held: Held, now: int, *, round_: int, nonce: str, turn: str, turn_ms: int) -> Change:
        """One finish at a time: the turn has a lease of its own."""
        record = held.record
        if (
            record.phase is not E
            or record.round != round_
            or record.nonce != nonce
            or Sink.CELERY not in record.waiting_sinks
        ):
            return same(held, "not_this_one")
        if record.turn and record.turn != turn and record.turn_until > now:
            return same(held, "somebody_elses_turn")
        if record.turn == turn and record.turn_until > now:
            return same(held, "turn")
        # Somebody reads, so the pauses between copies begin anew. Who dies in its turn is followed when the turn is
        # over; copies before that would be in vain.
        draft = self._draft(held, now).set(turn=turn, turn_until=now + turn_ms, turns=record.turns + 1, finish_sends=0)
        return check(draft.due(Step.FINISH, turn_ms).done("turn"), "finish")

    def continued(self, held: Held, now: int, turn: str) -> Change:
        """What follows the request has been published; a copy of this finish only stores."""
        record = held.record
        if record.phase is not E or record.turn != turn:
            return same(held, "not_this_one")
        if record.continued >= record.round:
            return same(held, "continued")
        return check(self._draft(held, now).set(continued=record.round).done("continued"), "finish")

    def give_back_turn(self, held: Held, now: int, turn: str, fault: str, *, delay_ms: int) -> Change:
        """The finish could not store the end: another turn later."""
        record = held.record
        if record.phase is not E or record.turn != turn:
            return same(held, "not_this_one")
        draft = self._draft(held, now).set(turn="", turn_until=0).keep_text(Long.LAST_FAULT, fault[:1000])
        return check(draft.due(Step.FINISH, delay_ms).done("given_back"), "finish")

    def delivered(self, held: Held, now: int, sink: Sink, *, round_: int) -> Change:
        """A sink has been told this round's end; the last one closes the record."""
        record = held.record
        if record.phase is not E or record.round != round_ or sink not in record.waiting_sinks:
            return same(held, "late")
        left = record.waiting_sinks - {sink}
        draft = self._draft(held, now).set(sinks=",".join(sorted(left)))
        if sink is Sink.CELERY:
            draft.set(turn="", turn_until=0, continued=record.round).due(None)
        if not left:
            draft.set(phase=C).due(None)
        return check(draft.done("closed" if not left else "delivered"), "delivered")


def _runs_through(known: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Whether all that is known stands in the whole, in this order: only then is the whole what was streamed."""
    left = iter(whole)
    return all(any(item == one for one in left) for item in known)


def _submit_step(record: Record) -> Step:
    return Step.SUBMIT_SYNC if record.sync_wait_ms else Step.SUBMIT


def heard_json(value: object) -> str:
    """An output as JSON text. NaN and infinities, which JSON does not have, become null."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(_without_nan(value))


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None  # noqa: PLR0124
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
