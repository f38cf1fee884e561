"""Carries out what was asked of a running job: RunPod's /cancel for wishes and orphans, /retry for retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bridge.engine.calls.endpoint_isolation import apart
from bridge.engine.watch.observation import observation_of
from bridge.errors import ApiError, EndpointTrouble, JobUnknown, Refused, Throttled, Unanswered, Unreachable
from bridge.job.enums import Step, is_end
from bridge.job.observation import most_ms
from bridge.ledger.queries import scan
from bridge.ledger.records.read import COMMON
from bridge.ledger.stores.batches import Batch
from bridge.runpod import batches
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.engine.watch.poll_pace import Pace
    from bridge.engine.watch.unreadable import Unread
    from bridge.job.change import OrphanJob
    from bridge.job.document import Held
    from bridge.job.observation import Observation
    from bridge.job.record import Record
    from bridge.ledger import Ledger
    from bridge.runpod.answers import JobState
    from bridge.runpod.client import RunPodClient

IDLE_S = 1.0
BATCH = 20
ORPHAN_AGAIN_MS = 5_000
#: How long a job that no longer counts is looked at when its answers cannot be read: RunPod's longest ttl.
UNREAD_STRAY_MS = 7 * 24 * 3_600_000
#: Until the next look at a job whose /retry was not answered, when this one was not possible.
LOOK_AGAIN_MS = 1_000


@dataclass(frozen=True, slots=True)
class CarryOut:
    """`once()` claims and dispatches cancels and retries; `orphans()` does the same for jobs that no longer count."""

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth
    callers: Callers
    retriers: Callers
    pace: Pace
    client_of: Callable[[str], RunPodClient]
    endpoint_id_of: Callable[[str], str]
    lease_ms: int
    slot_ms: int
    observed: Callable[[Held, Observation, int], None]
    unread: Unread

    def once(self) -> float:
        """Returns seconds until the next look."""
        wait = IDLE_S
        for due in self.ledger.due(Step.CANCEL, Step.RETRY):
            if due.ready:
                turn = partial(self._endpoint, due.endpoint, due.step, due.ready)
                wait = min(wait, apart(f"{due.step.value} {due.endpoint}", turn))
            else:
                wait = min(wait, due.wait_ms / 1000)
        return max(wait, 0.0)

    def _endpoint(self, endpoint: str, step: Step, ready: int) -> float:
        allowed, wait = self.endpoint_health.may_call(endpoint, submitting=False)
        # Threads of their own: no cancel waits behind a /retry that hangs.
        callers = self.callers if step is Step.CANCEL else self.retriers
        wanted = min(ready, callers.free_for(endpoint), BATCH)
        if allowed is not None:
            wanted = min(wanted, allowed)
        if wanted <= 0:
            return wait or IDLE_S
        op = Operation.CANCEL if step is Step.CANCEL else Operation.RETRY
        endpoint_id = self.endpoint_id_of(endpoint)
        permits = Permits.take(self.endpoint_health.budget, endpoint_id, op, wanted, slot_ms=self.slot_ms)
        if permits.count == 0:
            return permits.retry_after_ms / 1000
        with permits.unused_if_away(permits.count):
            claimed = self.ledger.claim(step, {endpoint: permits.count}, lease_ms=self.lease_ms, long=COMMON)
        permits.give_back(permits.count - len(claimed.records))
        for held in claimed.records:
            if held.record.batch_id and step is Step.CANCEL:
                permits.give_back(1)
                callers.start(self._cancel_in_batch, held, owner=endpoint)
                continue
            call = self._cancel if step is Step.CANCEL else self._retry
            callers.start(call, held, permits, claimed.token, owner=endpoint)
        return 0.0 if ready > len(claimed.records) and claimed.records else IDLE_S

    def _cancel(self, held: Held, permits: Permits, _lease: str) -> None:
        with permits.spend():
            landed = self._send_cancel(held.record)
        self.writes.put(held, lambda fresh, now: self.ledger.table.cancel_called(fresh, now, landed=landed))

    def _cancel_in_batch(self, held: Held) -> None:
        """RunPod cancels whole batches only: so it is when all who wait for it want that, within a while.

        Else this request ends here, and its job goes on for nobody (`may_run`).
        """
        record, table = held.record, self.ledger.table
        batch = Batch(record.batch_id, record.endpoint, record.endpoint_id, record.base_url)
        ids = list(self.ledger.batches.jobs(batch).values())
        others = scan.load_many(self.ledger, ids, wanted=COMMON).values()
        wanted = any(
            one.record.batch_id == batch.id and not one.record.phase.ended and not one.record.wish for one in others
        )
        if wanted and record.cancels:
            self.writes.put(held, table.batch_goes_on)
            return
        landed = not wanted and self._send_batch_cancel(batch)
        self.writes.put(held, lambda fresh, now: table.cancel_called(fresh, now, landed=landed))

    def _send_batch_cancel(self, batch: Batch) -> bool:
        """Whether RunPod has heard it; sent once for all of its requests."""
        if self.ledger.batches.is_cancelled(batch):
            return True
        client = self.client_of(batch.endpoint)
        call = partial(batches.cancel, client, batch.endpoint_id, batch.id)
        try:
            answer = self.endpoint_health.permitted(
                batch.endpoint, batch.endpoint_id, Operation.BATCH, lambda: (call(),), slot_ms=self.slot_ms
            )
        except (JobUnknown, Refused):  # the next look at it tells how it stands
            return True
        except ApiError:  # noted by `permitted`
            return False
        if answer is None:
            return False
        self.ledger.batches.cancelled(batch)
        tell("cancel.sent", request_id=None, endpoint=batch.endpoint, job_id=batch.id, answer="")
        return True

    def _send_cancel(self, record: Record) -> bool:
        """Whether RunPod has heard it."""
        try:
            answer = self.client_of(record.endpoint).cancel(record.endpoint_id, record.job_id)
        except (JobUnknown, Refused):  # ended or gone: the status read that follows tells which
            return True
        except ApiError as error:
            self.endpoint_health.failed(record.endpoint, record.endpoint_id, Operation.CANCEL, error)
            return False
        self.endpoint_health.ok(record.endpoint)
        named = {"request_id": record.id, "endpoint": record.endpoint, "job_id": record.job_id}
        tell("cancel.sent", **named, answer=answer.status)
        return True

    def _retry(self, held: Held, permits: Permits, lease: str) -> None:
        """RunPod's /retry. One whose answer was lost is looked for by a status read before another leaves."""
        if held.record.retried_at:
            permits.give_back(1)
            self._look(held, permits.endpoint_id)
            return
        with permits.spend():
            self._ask(held, lease)

    def _ask(self, held: Held, lease: str) -> None:
        record, table = held.record, self.ledger.table
        loaded = self.ledger.load(record.id, output=True) or held
        change = self.ledger.change(loaded, lambda fresh, now: table.retry_sending(fresh, now, lease))
        if change.verdict != "sending":
            return
        poll_ms = self.pace.first_ms(record.endpoint)
        try:
            self.client_of(record.endpoint).retry(record.endpoint_id, record.job_id)
        except (JobUnknown, Refused):
            self.writes.put(change.after, table.retry_refused)
        except ApiError as error:
            self.endpoint_health.failed(record.endpoint, record.endpoint_id, Operation.RETRY, error)
            if isinstance(error, Throttled | EndpointTrouble | Unreachable):
                delay_ms = self.endpoint_health.again_ms(record.endpoint, 1.0)
                self.writes.put(change.after, lambda fresh, now: table.retry_deferred(fresh, now, delay_ms=delay_ms))
            else:
                self.writes.put(change.after, table.retry_unanswered)
        else:
            self.endpoint_health.ok(record.endpoint)
            self.writes.put(change.after, lambda fresh, now: table.retry_answered(fresh, now, poll_ms=poll_ms))

    def _look(self, held: Held, endpoint_id: str) -> None:
        """A status read, with a status read's permit (I9)."""
        record, table = held.record, self.ledger.table
        loaded = self.ledger.load(record.id, output=True) or held
        status = self.client_of(record.endpoint).status
        answer = None
        try:
            answer = self.endpoint_health.permitted(
                record.endpoint, endpoint_id, Operation.STATUS, lambda: status(record.endpoint_id, record.job_id),
                slot_ms=self.slot_ms,
            )  # fmt: skip
        except JobUnknown:
            self.writes.put(loaded, table.retry_refused)
            return
        except (Unanswered, Refused) as error:
            self.unread.heard(loaded, record.job_id, endpoint_id, error, noted=True)
            return
        except ApiError:  # noted by `permitted`
            pass
        if answer is None:
            self.writes.put(loaded, lambda fresh, now: table.missed(fresh, now, delay_ms=LOOK_AGAIN_MS))
        else:
            self.observed(loaded, observation_of(answer, record.attempt), 500)

    def orphans(self) -> float:
        """Cancel jobs of ended requests, watch them to their end, and count what they cost as paid twice."""
        if self.callers.free == 0:
            return 0.2
        found = self.ledger.orphans(min(BATCH, self.callers.free))
        for orphan in found:
            self.callers.start(self._orphan, orphan)
        return 0.2 if len(found) == BATCH else IDLE_S

    def _orphan(self, orphan: OrphanJob) -> None:
        try:
            answer = self._permitted(orphan, Operation.STATUS)
            if answer is not None and not is_end(answer.status):
                self._permitted(orphan, Operation.CANCEL)
        except JobUnknown:
            self.ledger.orphan_seen(orphan, again_ms=None)
            return
        except (Unanswered, Refused):
            self.ledger.orphan_seen(orphan, again_ms=self._unread_again_ms(orphan))
            return
        except ApiError:
            answer = None
        if answer is None or not is_end(answer.status):
            self.ledger.orphan_seen(orphan, again_ms=ORPHAN_AGAIN_MS)
            return
        held = self.ledger.load(orphan.request_id)
        most = most_ms(held.record, self.ledger.now()) if held else 0
        cost = observation_of(answer, 1).believed(most).execution_time or 0
        named = {"request_id": orphan.request_id, "endpoint": orphan.endpoint, "job_id": orphan.job_id}
        tell("stray.ended", **named, executionTime=cost)
        self.ledger.orphan_seen(orphan, again_ms=None, paid_twice_ms=cost)

    def _unread_again_ms(self, orphan: OrphanJob) -> int | None:
        """Rarer and rarer; never again once RunPod has forgotten the job, and nobody will ever know its cost."""
        held = self.ledger.load(orphan.request_id)
        age_ms = self.ledger.now() - held.record.ended_at if held else UNREAD_STRAY_MS
        return max(ORPHAN_AGAIN_MS, age_ms // 4) if age_ms < UNREAD_STRAY_MS else None

    def _permitted(self, orphan: OrphanJob, op: Operation) -> JobState | None:
        """One call inside the budget (I9); None when there is no permit now."""
        client = self.client_of(orphan.endpoint)
        call = client.status if op is Operation.STATUS else client.cancel
        return self.endpoint_health.permitted(
            orphan.endpoint, orphan.endpoint_id, op, lambda: call(orphan.endpoint_id, orphan.job_id),
            slot_ms=self.slot_ms,
        )  # fmt: skip
