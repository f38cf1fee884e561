"""What may be asked of the bridge, and what may be changed, as plain functions over the ledger; every door calls these.

Asking (status, health) is kept apart from changing (cancel, retry, purge, pause, resume). None of them calls RunPod
but `health`, `purge`, and the two that are given a bare job id: short calls, one at a time.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.errors import ApiError, JobUnknown
from bridge.job.document import document, unpack_error
from bridge.job.request import check_request_id, rejected
from bridge.job.table import Table, same
from bridge.job.words import Outcome, Phase, Status, Step, Wish, is_end
from bridge.ledger.ledger import ALL
from bridge.runpod.answers import ABSENT
from bridge.runpod.operations import Operation
from bridge.telemetry import tell

if TYPE_CHECKING:
    from bridge.endpoints import EndpointBook
    from bridge.engine.vitals import Vitals
    from bridge.job.document import Held
    from bridge.ledger import Ledger
    from bridge.runpod.client import RunPodClient

#: Seconds an answer about an endpoint's health serves many askers.
HEALTH_CACHE_S = 2.0
#: A COLD verdict becomes UNHEALTHY only with unhealthy RunPod workers; waiting alone is not a fault.
_LIVE_PHASES = (Phase.ACCEPTED, Phase.SUBMITTING, Phase.UNANSWERED, Phase.TRACKED, Phase.RETRYING, Phase.SETTLED)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and through which door; both stand in the event."""

    by: str | None = None
    door: str = "celery"


@dataclass(slots=True)
class Control:
    """One per process; thread-safe."""

    ledger: Ledger
    book: EndpointBook
    vitals: Vitals
    client_of: Callable[[str], RunPodClient]
    noticed: Callable[[Any], None]
    inline_limit: int
    _health: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict, init=False)
    _locks: dict[str, threading.Lock] = field(default_factory=dict, init=False)

    # Asking

    def status(
        self, *, id: str | None = None, job_id: str | None = None, endpoint: str | None = None, refresh: bool = False
    ) -> dict[str, Any]:
        """The document of a request, or what RunPod says of a bare job. Raises JobRejected when neither is known."""
        if id is None:
            return self._job(self._job_of(job_id, endpoint), job_id or "")
        held = self._load(check_request_id(id))
        if held is None:
            tomb = self.ledger.tombstone(id)
            if tomb is None:
                raise rejected("id", f"id: the bridge knows no request {id}", id=id)
            return {
                "id": id,
                "endpoint": tomb.get("ep"),
                "phase": Phase.CLOSED.value,
                "status": tomb["status"],
                "reason": tomb["reason"] or None,
                "completed": True,
                "succeeded": tomb["status"] == Status.COMPLETED,
                "retained": False,
            }
        if refresh and held.record.phase is Phase.TRACKED:
            self.look_now(held)
        return self.document(held)

    def find(self, metadata: Mapping[str, str]) -> list[str]:
        """Requests that have not ended and whose metadata says so; those that cost nothing to cancel come first."""
        found = self.ledger.find(metadata)
        phases = dict(zip(found, self.ledger.phases(found), strict=True)) if found else {}
        return sorted(found, key=lambda request_id: phases[request_id] is not Phase.ACCEPTED)

    def find_stamped(self, stamps: Mapping[str, Sequence[str]]) -> list[str]:
        """Requests that have not ended and carry one of these stamps."""
        return self.ledger.find_by_canvas(lambda canvas: _stamped(canvas, stamps))

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """Requests that have not ended: id, endpoint, phase, status, job_id."""
        found = []
        for held in self.ledger.live(limit):
            record = held.record
            found.append({name: getattr(record, name) for name in ("id", "endpoint", "status", "job_id", "attempt")})
            found[-1]["phase"] = record.phase.value
        return found

    def known(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """What the ledger knows of endpoints, without a call to RunPod."""
        names = [self.book.resolve(endpoint).name] if endpoint else sorted({*self.book.all(), *self.ledger.endpoints()})
        return [
            {"endpoint": name, "phases": self.ledger.counts(name), "waiting_for": self.vitals.waiting_for(name)}
            for name in names
        ]

    def document(self, held: Held) -> dict[str, Any]:
        """The whole document, with large outputs as references."""
        told = document(held, inline_limit=self.inline_limit, clock_offset=self.ledger.clock.offset)
        if held.record.phase is Phase.ACCEPTED:
            told["waiting_for"] = self.vitals.waiting_for(held.record.endpoint) or "budget"
        return told

    def look_now(self, held: Held) -> None:
        """Make the next status read of a request due now."""
        change = self.ledger.change(held, lambda fresh, now: _sooner(self.ledger.table, fresh, now))
        self.noticed(change)

    def _load(self, request_id: str) -> Held | None:
        return self.ledger.load(request_id, wanted=ALL, output=True)

    def _job_of(self, job_id: str | None, endpoint: str | None) -> Any:
        if not job_id or not endpoint:
            raise rejected("id", "id: is required, or job_id together with endpoint")
        return self.book.resolve(endpoint)

    def _job(self, endpoint: Any, job_id: str) -> dict[str, Any]:
        try:
            heard = self.client_of(endpoint.name).status(endpoint.id, job_id)
        except JobUnknown:
            raise rejected(
                "job_id", f"job_id: RunPod knows no job {job_id} of {endpoint.name}", job_id=job_id
            ) from None
        told: dict[str, Any] = {
            "id": None,
            "endpoint": endpoint.name,
            "endpoint_id": endpoint.id,
            "job_id": heard.job_id,
            "status": heard.status,
            "completed": is_end(heard.status),
            "succeeded": heard.status == Status.COMPLETED,
            "delayTime": heard.delay_time,
            "executionTime": heard.execution_time,
            "workerId": heard.worker_id,
            "error": unpack_error(heard.error),
        }
        if heard.output is not ABSENT:
            told["output"] = heard.output
        return told

    # Changing

    def cancel(
        self, *, id: str | None = None, job_id: str | None = None, endpoint: str | None = None, asker: Asker
    ) -> dict[str, Any]:
        """Cancel in whatever phase the request is. Answers `{id, job_id, status, outcome}`."""
        if id is None:
            return self._cancel_job(self._job_of(job_id, endpoint), job_id or "", asker)
        held = self._load(check_request_id(id))
        if held is None:
            kept = self.ledger.wish(id, {"by": asker.by, "door": asker.door})
            if kept == "known":
                held = self._load(id)
            if held is None:
                outcome = Outcome.ALREADY_ENDED if kept == "ended" else Outcome.UNKNOWN
                return {"id": id, "job_id": None, "status": None, "outcome": outcome.value}
        table = self.ledger.table
        change = self.ledger.change(
            held, lambda fresh, now: table.wish(fresh, now, Wish.CANCEL, by=asker.by, door=asker.door)
        )
        self.noticed(change)
        outcome = {"cancelled": Outcome.CANCELLED, "already_ended": Outcome.ALREADY_ENDED}.get(
            change.verdict, Outcome.REQUESTED
        )
        tell(
            "cancel.asked",
            request_id=id,
            endpoint=change.record.endpoint,
            outcome=outcome.value,
            by=asker.by,
            door=asker.door,
        )
        return {
            "id": id,
            "job_id": change.record.job_id or None,
            "status": change.record.status,
            "outcome": outcome.value,
        }

    def _cancel_job(self, endpoint: Any, job_id: str, asker: Asker) -> dict[str, Any]:
        try:
            heard = self.client_of(endpoint.name).cancel(endpoint.id, job_id)
        except JobUnknown:
            return {"id": None, "job_id": job_id, "status": None, "outcome": Outcome.UNKNOWN.value}
        tell(
            "cancel.asked", request_id=None, endpoint=endpoint.name, outcome=heard.status, by=asker.by, door=asker.door
        )
        outcome = Outcome.CANCELLED if heard.status == Status.CANCELLED else Outcome.REQUESTED
        return {"id": None, "job_id": job_id, "status": heard.status, "outcome": outcome.value}

    def retry(
        self, *, id: str | None = None, job_id: str | None = None, endpoint: str | None = None, asker: Asker
    ) -> dict[str, Any]:
        """Another round of a FAILED or TIMED_OUT request. Raises JobRejected for any other."""
        if id is None:
            found = self._job_of(job_id, endpoint)
            heard = self.client_of(found.name).retry(found.id, job_id or "")
            return {"id": None, "job_id": heard.job_id, "endpoint": found.name, "status": heard.status}
        held = self._load(check_request_id(id))
        if held is None:
            raise rejected("id", f"id: the bridge knows no request {id}, or its retention is over", id=id)
        nonce = secrets.token_hex(8)
        table = self.ledger.table
        change = self.ledger.change(
            held, lambda fresh, now: table.ask_retry(fresh, now, nonce, by=asker.by, door=asker.door)
        )
        if change.verdict != "retrying":
            why = {
                "try_again": "its end is still being told; try again",
                "not_ended": f"it is {held.record.status}, not ended",
            }.get(change.verdict, f"it ended {held.record.status}; only FAILED and TIMED_OUT can be retried")
            raise rejected("id", f"id: {id} cannot be retried: {why}", id=id)
        self.noticed(change)
        return self.document(change.after)

    def stream(self, *, id: str) -> dict[str, Any]:
        """Turn streaming on for a request that is under way. Raises JobRejected when there is none."""
        held = self._load(check_request_id(id))
        if held is None:
            raise rejected("id", f"id: the bridge knows no request {id}", id=id)
        change = self.ledger.change(held, self.ledger.table.stream_on)
        self.noticed(change)
        return {"id": id, "status": change.record.status, "outcome": change.verdict}

    def pause(self, endpoint: str, reason: str | None, asker: Asker) -> dict[str, Any]:
        """No submit leaves for the endpoint in any process within a second."""
        name = self.book.resolve(endpoint).name
        self.vitals.gate.pause(name, reason or "", asker.by or "")
        tell("endpoint.paused", endpoint=name, reason=reason, by=asker.by, door=asker.door)
        return {"endpoint": name, "paused": True, "reason": reason}

    def resume(self, endpoint: str, asker: Asker) -> dict[str, Any]:
        """Submits leave again."""
        name = self.book.resolve(endpoint).name
        self.vitals.gate.resume(name)
        tell("endpoint.resumed", endpoint=name, by=asker.by, door=asker.door)
        self.ledger.wake()
        return {"endpoint": name, "paused": False}

    def purge(self, endpoint: str, asker: Asker, *, pending: bool = False) -> dict[str, Any]:
        """RunPod's purge-queue, then settles those of the bridge's own that are gone: seen by a read, not assumed."""
        found = self.book.resolve(endpoint)
        token = secrets.token_hex(8)
        grant = self.vitals.budget.acquire(found.id, Operation.PURGE, 1, token=token, slot_ms=10_000)
        if grant.count == 0:
            raise rejected(
                "endpoint", f"endpoint: purge-queue is busy; try again in {grant.retry_after_ms / 1000:.1f} s"
            )
        try:
            answer = self.client_of(found.name).purge_queue(found.id)
        finally:
            self.vitals.budget.release(found.id, Operation.PURGE, token, used=1, unused=0)
        self.ledger.purged(found.name)
        settled = self._purge_pending(found.name, asker) if pending else 0
        looked = self._look_at_queued(found.name)
        tell(
            "endpoint.purged",
            endpoint=found.name,
            removed=answer.removed,
            settled=settled,
            by=asker.by,
            door=asker.door,
        )
        return {
            "endpoint": found.name,
            "removed": answer.removed,
            "status": answer.status,
            "settled": settled,
            "checked": looked,
        }

    def _purge_pending(self, endpoint: str, asker: Asker) -> int:
        """End what has not left yet."""
        count = 0
        purge = partial(self.ledger.table.purge_pending, by=asker.by, door=asker.door)
        steps = [Step.SUBMIT, Step.SUBMIT_SYNC]
        while steps:
            claimed = self.ledger.claim(steps[0], {endpoint: 100}, lease_ms=30_000)
            if not claimed.records:
                steps.pop(0)
                continue
            changes = self.ledger.change_many([(held, purge) for held in claimed.records])
            for change in changes:
                self.noticed(change)
                count += change.verdict == "purged"
        return count

    def _look_at_queued(self, endpoint: str) -> int:
        """Make the next read of everything that may have been purged due now."""
        count = 0
        for request_id in self.ledger.standing_in(endpoint, Step.POLL):
            held = self.ledger.load(request_id)
            if held is not None and held.record.status == Status.IN_QUEUE:
                self.look_now(held)
                count += 1
        return count

    # Health

    def health(self, endpoint: str | None = None) -> Any:
        """RunPod's counters and the bridge's own, a verdict and its reasons. One cached call serves many askers."""
        if endpoint is not None:
            return self._health_of(self.book.resolve(endpoint).name)
        names = sorted({*self.book.all(), *(n for n in self.ledger.endpoints() if n != "_invalid")})
        return [self._health_of(name) for name in names]

    def _health_of(self, name: str) -> dict[str, Any]:
        lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            cached = self._health.get(name)
            if cached and time.monotonic() - cached[0] < HEALTH_CACHE_S:
                return cached[1]
            told = self._ask_health(name)
            self._health[name] = (time.monotonic(), told)
            return told

    def _ask_health(self, name: str) -> dict[str, Any]:
        endpoint = self.book.resolve(name)
        runpod: dict[str, Any] | None = None
        try:
            heard = self.client_of(name).health(endpoint.id)
        except ApiError as error:
            self.vitals.failed(name, endpoint.id, Operation.HEALTH, error)
        else:
            self.vitals.ok(name)
            runpod = {"jobs": dict(heard.jobs), "workers": dict(heard.workers)}
            self.vitals.budget.raise_to(endpoint.id, heard.workers.get("running", 0))
        counts = self.ledger.counts(name)
        state = self.vitals.gate.state(name)
        own: dict[str, Any] = {
            "phases": {phase.value: counts.get(phase.value, 0) for phase in _LIVE_PHASES},
            "waiting_for": self.vitals.waiting_for(name),
            "paused": state.paused,
            "paused_by": state.paused_by or None,
            "budget": self.vitals.budget.state(endpoint.id),
            "paid_twice_ms": counts.get("paid_twice_ms", 0),
            "engines": self.ledger.engines(),
        }
        verdict, reasons = judge(runpod, paused=state.paused, trouble=state.reason)
        return {
            "endpoint": name,
            "endpoint_id": endpoint.id,
            "runpod": runpod,
            "bridge": own,
            "verdict": verdict,
            "reasons": reasons,
        }


def judge(runpod: Mapping[str, Any] | None, *, paused: bool, trouble: str | None) -> tuple[str, list[str]]:
    """The verdict and its reasons: ok, cold, throttled, unhealthy, paused, unreachable, or the gate's word."""
    if paused:
        return "paused", ["paused by an operator"]
    if trouble:
        return trouble, [f"RunPod answers {trouble}"]
    if runpod is None:
        return "unreachable", ["RunPod does not answer /health"]
    return _judge_workers(runpod["jobs"].get("inQueue", 0), runpod["workers"])


def _judge_workers(queued: int, workers: Mapping[str, int]) -> tuple[str, list[str]]:
    up = workers.get("ready", 0) + workers.get("running", 0) + workers.get("idle", 0)
    if up:
        return "ok", []
    if queued and workers.get("unhealthy", 0):
        return "unhealthy", [
            f"{queued} queued, {workers['unhealthy']} RunPod workers unhealthy: does the handler start?"
        ]
    if queued and workers.get("throttled", 0):
        return "throttled", [f"{queued} queued, {workers['throttled']} RunPod workers throttled: no GPU is free"]
    return "cold", ["no RunPod worker is up; the next job waits for a cold start"]


def _sooner(table: Table, held: Held, now: int) -> Any:
    record = held.record
    if record.phase is not Phase.TRACKED or record.due != Step.POLL:
        return same(held, "busy")
    return table.missed(held, now, delay_ms=0)


def _stamped(canvas: Mapping[str, Any], stamps: Mapping[str, Sequence[str]]) -> bool:
    carried = (canvas.get("options") or {}).get("stamps") or {}
    for name, wanted in stamps.items():
        values = carried.get(name)
        values = [values] if isinstance(values, str) else values or []
        if set(map(str, values)) & set(map(str, wanted)):
            return True
    return False
