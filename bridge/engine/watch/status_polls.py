"""Watches jobs by reading their status: rescues first, then what is due, within the budget of status reads.

An observation belongs to the attempt that was current when its read started; the table judges whether it is news.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.engine.calls.endpoint_isolation import apart_in_step
from bridge.engine.calls.hurried import Hurried, permitted
from bridge.engine.calls.threads import Planned
from bridge.engine.calls.write_queue import FULL_S
from bridge.engine.watch.batch import NET_MS
from bridge.engine.watch.observation import observation_of
from bridge.errors import ApiError, JobUnknown, Refused, Unanswered
from bridge.job.enums import Phase, Status, Step, is_end
from bridge.job.observation import Observation, most_ms
from bridge.job.record import Long, Record
from bridge.job.transitions.watching import GONE_APART_MS, Purge
from bridge.ledger.stores.batches import Batch
from bridge.redis.pipelined import Work, in_step
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.engine.watch.poll_pace import Pace
    from bridge.engine.watch.unreadable import Unread
    from bridge.job.document import Held
    from bridge.ledger import Claimed, Due, Ledger
    from bridge.runpod.answers import JobState
    from bridge.runpod.client import RunPodClient, Told

IDLE_S = 1.0
#: Seconds after a turn that has left nothing: what comes due next was not looked at, and may be near.
NEXT_S = 0.1
#: A running job whose stream is read tells its end there; its status is read at least so many ms apart.
STREAMED_MS = 10_000
#: Polls of one endpoint taken in one turn at most.
BATCH = 32


def share_of_polls(granted: int, polls: int) -> int:
    """How many of so many permits rescues leave to ordinary polls: a tenth, in the long run also of single ones."""
    return min(polls, granted // 10 + (random.random() < granted % 10 / 10))  # noqa: S311  (no secret)


@dataclass(frozen=True, slots=True)
class StatusPolls:
    """One `once()` claims and dispatches a batch of status reads."""

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth
    callers: Callers
    pace: Pace
    client_of: Callable[[str], RunPodClient]
    endpoint_id_of: Callable[[str], str]
    lease_ms: int
    slot_ms: int
    last_purge: Callable[[str], Purge]
    observed: Callable[[Held, Observation, int], None]  # writes it, a large output to the object store first
    unread: Unread
    #: Jobs of which RunPod has news, that came alone.
    hurried: Hurried = field(default_factory=Hurried, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        self.hurried.forget()
        wait = IDLE_S
        ready: dict[str, dict[Step, int]] = {}
        for due in self.ledger.due(Step.RESCUE, Step.POLL):
            if due.ready:
                ready.setdefault(due.endpoint, {})[due.step] = due.ready
            else:
                wait = min(wait, due.wait_ms / 1000)
        free = Planned(self.callers, len(ready))
        turns = [
            apart_in_step(f"track {name}", self._endpoint(name, steps, free))
            for name, steps in sorted(ready.items(), key=lambda one: sum(one[1].values()))
        ]
        return max(min([wait, *in_step(self.ledger.client, turns)]), 0.0)

    def _endpoint(self, endpoint: str, steps: dict[Step, int], free: Planned) -> Work[float]:
        self.pace.refresh(endpoint)
        allowed, wait = self.endpoint_health.may_call(endpoint, submitting=False)
        ready = sum(steps.values())
        room = self.writes.room()
        part = free.free_for(endpoint)
        wanted = min(ready, part, BATCH, room)
        if allowed is not None:
            wanted = min(wanted, allowed)
        if wanted <= 0:
            others = self.callers.free_for(endpoint) > part
            return wait or (FULL_S if others or not room else IDLE_S)
        free.take(wanted)
        permits = yield from self._permits(endpoint, wanted)
        left = permits.count
        for step in (Step.RESCUE, Step.POLL):
            if left and steps.get(step):
                rest = share_of_polls(left, steps.get(Step.POLL, 0)) if step is Step.RESCUE else 0
                with permits.unused_if_away(left):
                    claimed = yield from self._claim(step, endpoint, left - rest)
                left -= len(claimed.records)
                self._start(claimed.records, permits)
        permits.give_back(left)
        if permits.count == 0:
            return permits.retry_after_ms / 1000
        return 0.0 if ready > permits.count - left else NEXT_S

    def at_once(self) -> float:
        """What came alone, without a look at what is due; seconds until that must follow."""
        return self.hurried.work(self._one_at_once)

    def _one_at_once(self, due: Due) -> None:
        """As far as it can be; what is left is due."""
        name = due.endpoint
        allowed, _ = self.endpoint_health.may_call(name, submitting=False)
        wanted = min(due.ready, self.callers.free_for(name), self.writes.room())
        if wanted <= 0 or allowed is not None:
            return
        permits, claimed = permitted(self.ledger, self._permits(name, wanted), self._claim(due.step, name, wanted))
        self._start(claimed.records, permits)

    def _permits(self, endpoint: str, wanted: int) -> Work[Permits]:
        budget, endpoint_id = self.endpoint_health.budget, self.endpoint_id_of(endpoint)
        return Permits.taking(budget, endpoint_id, Operation.STATUS, wanted, slot_ms=self.slot_ms)

    def _claim(self, step: Step, endpoint: str, wanted: int) -> Work[Claimed]:
        return self.ledger.claiming(step, {endpoint: wanted}, lease_ms=self.lease_ms)

    def _start(self, records: Sequence[Held], permits: Permits) -> None:
        for held in records:
            if held.record.batch_id:
                permits.give_back(1)
                self._batch_watched(held)
            elif not self._begin(held, permits):
                self.callers.start(self._read, held, permits, owner=held.record.endpoint)

    def _batch_watched(self, held: Held) -> None:
        """Jobs of a batch are read together; its next look is soon."""
        record = held.record
        batch = Batch(record.batch_id, record.endpoint, record.endpoint_id, record.base_url)
        self.ledger.batches.watched(batch)
        self.writes.put(held, partial(self.ledger.table.batch_rests, delay_ms=NET_MS))

    def _begin(self, held: Held, permits: Permits) -> bool:
        """Let the read leave at once, over a connection that is open; False where a thread must see to it.

        So where more than one call or question may follow: a request of several jobs, one that has chunks.
        """
        record = held.record
        if (
            record.phase is Phase.UNANSWERED
            or record.stream
            or record.chunks
            or {Long.JOBS, Long.EVIDENCE} & held.long.keys()
        ):
            return False
        leave = partial(self.client_of(record.endpoint).begin_status, record.endpoint_id, record.job_id)
        return self.callers.begin(leave, self._answered, held, permits, owner=record.endpoint)

    def _answered(self, held: Held, permits: Permits, told: Told) -> None:
        with permits.spend():
            self._hear(held, held.record.job_id, held.record.endpoint_id, told.answer)

    def _read(self, held: Held, permits: Permits) -> None:
        record = held.record
        with permits.spend():
            if record.phase is Phase.UNANSWERED:
                self._confirm(held)
                return
            self._read_job(held, record.job_id, record.endpoint_id)
        for job in held.json(Long.JOBS) or ():
            # More than one job lives (a submit's answer was lost): each is looked at (HARDENING 3).
            if job["job_id"] != record.job_id and not is_end(job["status"]) and job["status"] != "GONE":
                self._read_other(held, job["job_id"], job["endpoint_id"])
        if Long.EVIDENCE in held.long:
            self._read_other(held, held.long[Long.EVIDENCE], record.endpoint_id, unknown=True)

    def _read_other(self, held: Held, job_id: str, endpoint_id: str, *, unknown: bool = False) -> None:
        """A permit of its own (I9); where none is left, the next look at the record tries again."""
        permits = Permits.take(
            self.endpoint_health.budget, endpoint_id, Operation.STATUS, slot_ms=self.slot_ms, kind="small"
        )
        if not permits.count:
            return
        with permits.spend():
            if unknown:
                self._confirm(held)
            else:
                self._read_job(held, job_id, endpoint_id)

    def _confirm(self, held: Held) -> None:
        """The submit's answer was lost, and a callback has named a job: it counts when RunPod knows it."""
        record, table = held.record, self.ledger.table
        job_id = held.long.get(Long.EVIDENCE, "")
        try:
            answer = self.client_of(record.endpoint).status(record.endpoint_id, job_id)
        except (JobUnknown, ValueError) as error:
            tell("webhook.refused", why="unconfirmed", error=str(error), request_id=record.id)
            self.writes.put(held, partial(table.unconfirmed, again_ms=None))
        except ApiError as error:
            self.endpoint_health.failed(record.endpoint, record.endpoint_id, Operation.STATUS, error)
            delay_ms = self.endpoint_health.again_ms(record.endpoint, 0.5)
            self.writes.put(held, partial(table.unconfirmed, again_ms=delay_ms))
        else:
            self.endpoint_health.ok(record.endpoint)
            known = answer.job_id or job_id
            self.writes.put(held, lambda fresh, now: table.submitted(fresh, now, known, "IN_PROGRESS", poll_ms=0))

    def _read_job(self, held: Held, job_id: str, endpoint_id: str) -> None:
        self._hear(held, job_id, endpoint_id, partial(self.client_of(held.record.endpoint).status, endpoint_id, job_id))

    def _hear(self, held: Held, job_id: str, endpoint_id: str, call: Callable[[], JobState]) -> None:
        """What a read comes to: `call` makes it, or tells the answer of one that has left."""
        record, table = held.record, self.ledger.table
        try:
            answer = call()
        except JobUnknown:
            self._unknown(held, job_id, endpoint_id)
        except (Unanswered, Refused) as error:
            self.unread.heard(held, job_id, endpoint_id, error)
        except ApiError as error:
            self.endpoint_health.failed(record.endpoint, endpoint_id, Operation.STATUS, error)
            delay_ms = self.endpoint_health.again_ms(record.endpoint, 0.25)
            self.writes.put(held, lambda fresh, now: table.missed(fresh, now, delay_ms=delay_ms))
        else:
            self.endpoint_health.ok(record.endpoint)
            now = self.ledger.now()
            heard = self._with_chunks(record, observation_of(answer, record.attempt).believed(most_ms(record, now)))
            age_ms = now - record.submitted_at
            if heard.status == "COMPLETED":
                self.pace.learn(record.endpoint, heard.delay_time, heard.execution_time, age_ms)
            progressing = Long.PROGRESS in held.long or heard.output is not None
            poll_ms = self.pace.next_ms(
                record.endpoint, heard.status, age_ms, delay_ms=heard.delay_time, progressing=progressing
            )
            if record.stream and not record.stream_done and heard.status == Status.IN_PROGRESS:
                poll_ms = max(poll_ms, STREAMED_MS)
            self.observed(held, heard, poll_ms)

    def _with_chunks(self, record: Record, heard: Observation) -> Observation:
        """An end that is made or mended from its chunks carries them; what is recorded meanwhile, the table notices."""
        if heard.status != Status.COMPLETED or not (record.stream or record.chunks):
            return heard
        if heard.output in {None, "[]"} or record.stream_incomplete:
            chunks = self.ledger.chunks(record.id, record.chunks_from)
            nonfinite = heard.nonfinite or sum(chunk.get("nonfinite", 0) for chunk in chunks)
            outputs = tuple(chunk["output"] for chunk in chunks)
            return replace(heard, chunks=outputs, chunks_to=record.chunks - record.chunks_from, nonfinite=nonfinite)
        return heard

    def _unknown(self, held: Held, job_id: str, endpoint_id: str) -> None:
        """404 of a job. It counts only beside a success of the same endpoint and key (HARDENING 2)."""
        record, table = held.record, self.ledger.table
        second = record.gone_at and self.ledger.now() - record.gone_at >= GONE_APART_MS
        if second and self.endpoint_health.ok_at(record.endpoint) < record.gone_at:
            with suppress(ApiError):
                self.endpoint_health.ask_health(record.endpoint, endpoint_id)
        known: dict[str, Any] = {
            "endpoint_ok_at": self.endpoint_health.ok_at(record.endpoint),
            "purge": self.last_purge(record.endpoint),
            "poll_ms": 1_000,
        }
        self.writes.put(held, lambda fresh, now: table.gone(fresh, now, job_id, record.attempt, **known))
