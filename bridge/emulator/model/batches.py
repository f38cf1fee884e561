"""The Batch API of one endpoint (beta): drafts that are filled, finalized, and run by RunPod workers of their own.

Source: "batch jobs" of RunPod's docs. What that page leaves open is a setting or a row of docs/emulator.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from bridge.emulator.config import EndpointConfig
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.job import ABSENT, CANCELLED, COMPLETED, FAILED, IN_PROGRESS, IN_QUEUE, TIMED_OUT, Job

DRAFT, FINALIZED = "DRAFT", "FINALIZED"
#: How the console sorts a batch's requests.
_CONSOLE = {FAILED: 0, TIMED_OUT: 0, IN_PROGRESS: 1, IN_QUEUE: 2, COMPLETED: 3, CANCELLED: 4}


class Lane(Protocol):
    """The part of an endpoint that runs the requests of its batches."""

    jobs: dict[str, Job]
    paused: bool

    @property
    def runners(self) -> Runners:
        """Its RunPod workers."""

    def submit(self, request: dict[str, Any], *, sync: bool, id: str | None = None) -> Job:
        """Take in a checked request."""

    def cancel(self, job: Job) -> None:
        """End a job as CANCELLED."""

    def forget(self, job: Job) -> None:
        """Know nothing of a job any more."""


class Runners(Protocol):
    """RunPod workers, as far as a batch needs them."""

    def wake(self) -> None:
        """Give out what can be given out."""


class Child:
    """One request of a batch; it becomes a job when the batch is finalized."""

    __slots__ = ("ended", "failure", "id", "job", "request")

    def __init__(self, request: dict[str, Any]) -> None:
        self.id = f"req_{secrets.token_hex(8)}"
        self.request = request
        self.job: Job | None = None
        #: Virtual seconds.
        self.ended: float | None = None
        #: Why it failed without a word of its handler.
        self.failure: str | None = None

    @property
    def status(self) -> str:
        """RunPod's word; a job that vanished at its ttl has failed."""
        if self.failure is not None:
            return FAILED
        return self.job.status if self.job is not None else IN_QUEUE


class Batch:
    """One batch. `created` is in virtual seconds."""

    __slots__ = ("cancelled", "children", "created", "failed", "finalized", "id", "name")

    def __init__(self, created: float) -> None:
        self.id = f"batch_{secrets.token_hex(10)}"
        self.name: str | None = None
        self.created = created
        self.children: dict[str, Child] = {}
        self.finalized = self.cancelled = self.failed = False

    def count(self, *statuses: str) -> int:
        """How many of its requests are in one of these statuses."""
        return sum(child.status in statuses for child in self.children.values())

    @property
    def over(self) -> bool:
        """Whether nothing of it is to be run any more."""
        return not self.count(IN_QUEUE, IN_PROGRESS)

    @property
    def status(self) -> str:
        """DRAFT, FINALIZED, FAILED; CANCELLED once what was in progress has drained."""
        if self.failed:
            return FAILED
        if not self.finalized:
            return CANCELLED if self.cancelled else DRAFT
        return CANCELLED if self.cancelled and not self.count(IN_PROGRESS) else FINALIZED

    @property
    def active(self) -> bool:
        """Whether it counts against the limit of active batches."""
        return self.status == DRAFT or (self.status == FINALIZED and not self.over)


class Batches:
    """All batches of one endpoint. `lane` is where their requests run: never before or after those of /run."""

    def __init__(self, name: str, config: EndpointConfig, clock: Clock, lane: Lane) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self.lane = lane
        self.known: dict[str, Batch] = {}
        self._running: dict[str, Child] = {}

    # ---------------------------------------------------------------- asked for over HTTP

    def create(self, requests: Sequence[dict[str, Any]]) -> Batch | str:
        """A draft; or the limit that is in the way, in words."""
        if sum(batch.active for batch in self.known.values()) >= self._config.batches_active:
            return f"at most {self._config.batches_active} active batches per endpoint"
        batch = Batch(self._clock.now())
        why = self.add(batch, requests)
        if why is not None:
            return why
        self.known[batch.id] = batch
        return batch

    def add(self, batch: Batch, requests: Sequence[dict[str, Any]]) -> str | None:
        """Append requests to a draft; None, or the limit that is in the way."""
        if len(batch.children) + len(requests) > self._config.batch_requests:
            return f"at most {self._config.batch_requests} requests per batch"
        active = [each for each in self.known.values() if each.active]
        queued = sum(each.count(IN_QUEUE) if each.finalized else len(each.children) for each in active)
        if queued + len(requests) > self._config.batch_queued:
            return f"at most {self._config.batch_queued} queued requests per endpoint"
        for request in requests:
            child = Child(request)
            batch.children[child.id] = child
        return None

    def finalize(self, batch: Batch) -> None:
        """Lock the draft, and let its requests run."""
        batch.finalized = True
        for child in batch.children.values():
            # The worker's package marks its log lines with it (runpod-python#562).
            request = {**child.request, "batchId": batch.id}
            child.job = self.lane.submit(request, sync=False, id=child.id)
            child.job.watched = self._watch
            self._running[child.id] = child
        self.lane.runners.wake()

    def cancel(self, batch: Batch) -> None:
        """End what is queued; what is in progress goes on to its end."""
        batch.cancelled = True
        for child in batch.children.values():
            if child.job is not None and child.job.status == IN_QUEUE and not child.job.gone:
                self.lane.cancel(child.job)

    def fail(self, batch: Batch) -> None:
        """End the batch itself as FAILED (a fault): what has not ended by then never will."""
        batch.failed = batch.finalized = True
        for child in batch.children.values():
            if child.job is not None and not child.job.ended:
                self.lane.forget(child.job)

    def forget(self, batch: Batch) -> None:
        """Know nothing of `batch` any more."""
        self.known.pop(batch.id, None)

    # ---------------------------------------------------------------- shown

    def summary(self, batch: Batch) -> dict[str, Any]:
        """Return GET /batch/{id}."""
        shown = {
            "id": batch.id,
            "endpointId": self._name,
            "status": batch.status,
            "requestTotal": len(batch.children),
            "requestInProgress": batch.count(IN_PROGRESS),
            "requestCompleted": batch.count(COMPLETED),
            "requestFailed": batch.count(FAILED, TIMED_OUT),
            "createdAt": round(self._clock.epoch(batch.created) * 1000),
        }
        return shown if batch.name is None else {**shown, "name": batch.name}

    def listed(self) -> list[dict[str, Any]]:
        """Return all batches, newest first."""
        return [self.summary(batch) for batch in reversed(self.known.values())]

    def page(self, batch: Batch, offset: int, limit: int) -> dict[str, Any]:
        """Return a page of the requests, in the order that the settings say."""
        children = list(batch.children.values())
        if self._config.batch_order == "console" and batch.finalized:
            children.sort(key=lambda child: _CONSOLE.get(child.status, 2))
        elif self._config.batch_order == "id":
            children.sort(key=lambda child: child.id)
        shown = [self._shown(child) for child in children[offset : offset + limit]]
        more = offset + len(shown) < len(children)
        return {"requests": shown, "total": len(children), "offset": offset, "limit": limit, "hasMore": more}

    def _shown(self, child: Child) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": child.id, "status": child.status}
        job = child.job
        if job is None:
            return shown
        if child.failure is not None:
            shown["error"] = child.failure
        elif job.ended:
            shown |= {} if job.output is ABSENT else {"output": job.output}
            shown |= {} if job.error is None else {"error": job.error}
        if job.started is not None:
            shown["startedAt"] = self._stamp(job.started)
        if child.ended is not None:
            shown["completedAt"] = self._stamp(child.ended)
        return shown

    def _stamp(self, at: float) -> str:
        return (
            datetime.fromtimestamp(self._clock.epoch(at), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )

    # ---------------------------------------------------------------- told by the lane

    def _watch(self, job: Job) -> None:
        child = self._running.get(job.id)
        if child is None:
            return
        if job.ended or job.gone:
            del self._running[job.id]
            child.ended = self._clock.now()
            if not job.ended:
                child.failure = "the request was not run to its end"
