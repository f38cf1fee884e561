"""Watches whole batches of RunPod's Batch API: one look tells of all their jobs.

A look also settles what a process that died has left: a draft that holds nobody's request is cancelled; one whose
finalize may have left is finalized, which runs each of its jobs once however often it is sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from bridge.engine.watch.observation import observation_of
from bridge.errors import ApiError, JobUnknown, LedgerError, Refused, Unanswered
from bridge.job.enums import Phase, Status, is_end
from bridge.job.transitions.watching import Purge
from bridge.ledger.queries import scan
from bridge.ledger.records.read import COMMON
from bridge.runpod import batches as api
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.engine.calls.threads import Callers
    from bridge.engine.calls.write_queue import WriteQueue
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.job.change import Change
    from bridge.job.document import Held
    from bridge.job.observation import Observation
    from bridge.job.record import Record
    from bridge.ledger import Ledger
    from bridge.ledger.stores.batches import Batch
    from bridge.runpod.answers import JobState
    from bridge.runpod.client import RunPodClient

T = TypeVar("T")

#: Seconds between looks for batches that are due.
IDLE_S = 1.0
#: Milliseconds: a look may take so long; the first ones are so far apart, later ones a tenth of the batch's age.
LEASE_MS, SOON_MS, FIRST_MS, SLOWEST_MS = 120_000, 200, 2_000, 60_000
#: A record of a batch is looked at again after so long at most; its batch is watched apart.
NET_MS = 15 * 60_000
#: Its jobs are listed when so many of a hundred have changed, and after so many seconds in any case.
CHANGED_SHARE, LIST_S = 0.05, 300.0
#: Jobs on a page; fewer where their outputs are too large together.
PAGE = 50


@dataclass(slots=True)
class _Seen:
    """What this process has seen of a batch."""

    since: float
    listed_at: float = 0.0
    listed: tuple[int, ...] = ()


class _NotNowError(Exception):
    """No permit for the call."""


@dataclass(frozen=True, slots=True)
class BatchWatch:
    """One `once()` dispatches a look at every batch that is due."""

    ledger: Ledger
    writes: WriteQueue
    endpoint_health: EndpointHealth
    callers: Callers
    client_of: Callable[[str], RunPodClient]
    slot_ms: int
    observed: Callable[[Held, Observation, int], None]
    _seen: dict[str, _Seen] = field(default_factory=dict, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        ready, wait_ms = self.ledger.batches.due(max(1, self.callers.free))
        for batch in ready:
            if self.callers.free > 0 and self.ledger.batches.turn(batch, secrets.token_hex(8), LEASE_MS):
                self.callers.start(self._look, batch, owner=batch.endpoint)
        return IDLE_S if wait_ms < 0 else min(IDLE_S, wait_ms / 1000)

    def _look(self, batch: Batch) -> None:
        again_ms: int | None = FIRST_MS
        try:
            again_ms = self._looked(batch)
        except (_NotNowError, LedgerError):
            pass
        except ApiError as error:
            tell("batch.unread", endpoint=batch.endpoint, batch=batch.id, error=error.logged)
            again_ms = self.endpoint_health.again_ms(batch.endpoint, FIRST_MS / 1000)
        if again_ms is None:
            self._seen.pop(batch.id, None)
        self.ledger.batches.looked(batch, again_ms=again_ms)

    def _looked(self, batch: Batch) -> int | None:
        """Milliseconds until the next look; None when nobody waits for the batch any more."""
        jobs = self.ledger.batches.jobs(batch)
        live = self._live(batch, jobs)
        strays = [job_id for job_id in jobs if job_id not in live]
        try:
            state = self._call(batch, partial(api.summary, self._client(batch), batch.endpoint_id, batch.id))
        except JobUnknown:
            return self._unknown(live)
        if not live:
            return self._abandoned(batch, state)
        if state.status == api.DRAFT:
            return self._finalized(batch, live, strays)
        self.ledger.batches.dropped(batch, strays)
        untold = {job_id: held for job_id, held in live.items() if held.record.phase is not Phase.TRACKED}
        for job_id, held in untold.items():
            make = partial(self.ledger.table.submitted, job_id=job_id, status=Status.IN_QUEUE.value, poll_ms=NET_MS)
            self.writes.put(held, make)
        return SOON_MS if untold else self._read(batch, live, state)

    def _live(self, batch: Batch, jobs: dict[str, str]) -> dict[str, Held]:
        """Its jobs, with the requests that wait for them."""
        held = scan.load_many(self.ledger, list(jobs.values()), wanted=COMMON)
        live = {
            one.record.id: one
            for one in held.values()
            if one.record.batch_id == batch.id and not one.record.phase.ended
        }
        return {job_id: live[request_id] for job_id, request_id in jobs.items() if request_id in live}

    # What somebody has left

    def _abandoned(self, batch: Batch, state: api.BatchState) -> int | None:
        """Nobody's: a draft of a process that died, or all of its requests have ended here."""
        if not state.over:
            with suppress(JobUnknown, Refused):
                self._call(batch, partial(api.cancel, self._client(batch), batch.endpoint_id, batch.id))
        return None

    def _finalized(self, batch: Batch, live: dict[str, Held], strays: list[str]) -> int:
        """Its finalize may have left, or may leave yet: this one does the same.

        What has come into the draft, and was not let go with the others, is taken out first: another draft has
        it, or it was cancelled.
        """
        now = self.ledger.now()
        if any(held.record.phase is Phase.SUBMITTING and held.record.lease_until > now for held in live.values()):
            return FIRST_MS  # whoever fills it is about to
        if self.endpoint_health.waiting_for(batch.endpoint) == "paused":
            return FIRST_MS
        where = self._client(batch), batch.endpoint_id, batch.id
        for job_id in strays:
            with suppress(JobUnknown):
                self._call(batch, partial(api.remove, *where, job_id))
        self.ledger.batches.dropped(batch, strays)
        for job_id, held in list(live.items()):
            if held.record.wish:  # it has not run, and never will
                with suppress(JobUnknown):
                    self._call(batch, partial(api.remove, *where, job_id))
                self.writes.put(held, self.ledger.table.batch_removed)
                del live[job_id]
        if not live:
            return SOON_MS
        self._call(batch, partial(api.finalize, *where))  # however that is answered, the next look tells how it stands
        tell("batch.finalized", endpoint=batch.endpoint, batch=batch.id, requests=len(live))
        return SOON_MS

    def _unknown(self, live: dict[str, Held]) -> int | None:
        """404 of the batch: as that of each of its jobs."""
        for job_id, held in live.items():
            self._gone(held, job_id)
        return FIRST_MS if live else None

    def _gone(self, held: Held, job_id: str) -> None:
        table, record = self.ledger.table, held.record
        if record.phase is Phase.UNANSWERED:
            self.writes.put(held, table.batch_unknown)
            return
        ok_at = self.endpoint_health.ok_at(record.endpoint)

        def gone(fresh: Held, now: int) -> Change:
            attempt = record.attempt
            return table.gone(fresh, now, job_id, attempt, endpoint_ok_at=ok_at, purge=Purge(), poll_ms=NET_MS)

        self.writes.put(held, gone)

    # Its jobs

    def _read(self, batch: Batch, live: dict[str, Held], state: api.BatchState) -> int:
        """List its jobs where that may tell something new."""
        now = time.monotonic()
        seen = self._seen.setdefault(batch.id, _Seen(now))
        counts = (state.in_progress, state.completed, state.failed)
        changed = sum(abs(a - b) for a, b in zip(counts, seen.listed or (0, 0, 0), strict=True))
        due = now - seen.listed_at >= LIST_S or changed >= max(1, CHANGED_SHARE * state.total)
        due = due or any(_runs_out(held.record, self.ledger.now()) for held in live.values())
        if state.over or due or not seen.listed:
            found = self._list(batch, live, state)
            seen.listed_at, seen.listed = now, counts
            if state.over:
                self.endpoint_health.ok(batch.endpoint)
                for job_id, held in live.items():
                    if job_id not in found:
                        self._gone(held, job_id)
                return FIRST_MS
        return int(min(SLOWEST_MS, max(FIRST_MS, (now - seen.since) * 100)))

    def _list(self, batch: Batch, live: dict[str, Held], state: api.BatchState) -> set[str]:
        """Write what is new of its jobs; answers which of them it told of."""
        found: set[str] = set()
        offset, size, more = 0, PAGE, True
        where = self._client(batch), batch.endpoint_id, batch.id
        while more:
            try:
                page = self._call(batch, partial(api.requests, *where, offset, size))
            except Unanswered:
                if size == 1:
                    raise
                size = max(1, size // 4)  # the outputs of a page may be too large together
                continue
            while self.writes.room() <= 0:  # the ledger is slow: no more outputs in memory than it takes
                time.sleep(0.05)
            for job in page.jobs:
                if job.job_id in live:
                    found.add(job.job_id)
                    self._heard(live[job.job_id], _as_it_ends(job, batch, state))
            offset += len(page.jobs)
            more = page.more and bool(page.jobs)
        return found

    def _heard(self, held: Held, job: JobState) -> None:
        record = held.record
        if is_end(job.status) or job.status != record.status or _runs_out(record, self.ledger.now()):
            self.observed(held, observation_of(job, held.record.attempt), NET_MS)

    def _call(self, batch: Batch, call: Callable[[], T]) -> T:
        """One call inside the budget (I9). Raises ApiError, noted; _NotNowError without a permit."""
        op = Operation.BATCH
        for pause_s in (0.1, 0.3, 1.0, 2.0, None):
            called = self.endpoint_health.permitted(
                batch.endpoint, batch.endpoint_id, op, lambda: (call(),), slot_ms=self.slot_ms
            )
            if called is not None:
                return called[0]
            if pause_s is not None:
                time.sleep(pause_s)
        raise _NotNowError

    def _client(self, batch: Batch) -> RunPodClient:
        return self.client_of(batch.endpoint)


def _runs_out(record: Record, now: int) -> bool:
    """Whether a clock of the request has run out, and waits for a look that is younger."""
    clocks = [record.deadline, *([record.queue_deadline] if record.status != Status.IN_PROGRESS else [])]
    return not record.wish and any(record.observed_at < clock <= now for clock in clocks)


def _as_it_ends(job: JobState, batch: Batch, state: api.BatchState) -> JobState:
    """What has not ended when its batch has failed or is cancelled never will."""
    if is_end(job.status) or state.status not in {api.FAILED, api.CANCELLED}:
        return job
    if state.status == api.CANCELLED:
        return replace(job, status=Status.CANCELLED.value)
    return replace(job, status=Status.FAILED.value, error=f"RunPod's batch {batch.id} failed before this request ended")
