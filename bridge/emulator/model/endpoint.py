"""One emulated endpoint: its queue, and every change of a job's status.

Calls come in from the HTTP operations and from the fleet of RunPod workers; nothing here waits.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from bridge.emulator.config import EndpointConfig
from bridge.emulator.model.batches import Batches
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.job import ABSENT, CANCELLED, COMPLETED, FAILED, IN_PROGRESS, IN_QUEUE, TIMED_OUT, Job

#: Minimum of a policy in ms ("send requests", execution policies).
MINIMUM_EXECUTION_TIMEOUT_MS = 5_000
MINIMUM_TTL_MS = 10_000
#: Seven days, for both.
MAXIMUM_POLICY_MS = 7 * 86_400_000


class Runners(Protocol):
    """Who runs the jobs of an endpoint, as far as the platform and its API see them."""

    def wake(self) -> None:
        """Give out what can be given out, and start what is missing."""

    def abort(self, job: Job) -> None:
        """Stop work on `job`, which is over for the platform, as far as that is possible."""

    def counts(self) -> dict[str, int]:
        """Return the six worker fields of /health."""

    def ready_ids(self) -> list[str]:
        """Return the ids of RunPod workers that take jobs."""


class Endpoint:
    """The platform's side of one endpoint. `ended(endpoint, job)` is called once for each job that ends."""

    def __init__(self, name: str, config: EndpointConfig, clock: Clock) -> None:
        self.name = name
        self.config = config
        self.clock = clock
        self.jobs: dict[str, Job] = {}
        self.queued = self.running = 0
        self.submitted = self.completed = self.failed = self.cancelled = self.retried = self.removed = 0
        self.paused = False
        self.ended: Callable[[Endpoint, Job], None] = lambda _endpoint, _job: None
        #: Set before the first call comes in. The lane of an endpoint's batches has none itself.
        self.runners: Runners
        self.batches: Batches
        self._queue: deque[Job] = deque()
        self._low: deque[Job] = deque()

    # ---------------------------------------------------------------- asked for over HTTP

    def submit(self, request: dict[str, Any], *, sync: bool, id: str | None = None) -> Job:
        """Take in a checked request: `{"input", "webhook"?, "policy"?, ...}`. One of a batch has its id already."""
        now = self.clock.now()
        name = id or (f"sync-{uuid.uuid4()}-u1" if sync else f"{uuid.uuid4()}-u1")
        job = Job(name, request.get("input"), now, sync=sync)
        policy = request.get("policy")
        execution, ttl = self.config.execution_timeout_ms, self.config.ttl_ms
        if policy:
            clamped = self.config.below_minimum == "clamp"
            if asked := policy.get("executionTimeout"):
                execution = max(asked, MINIMUM_EXECUTION_TIMEOUT_MS) if clamped else asked
            if asked := policy.get("ttl"):
                ttl = max(asked, MINIMUM_TTL_MS) if clamped else asked
            job.low_priority = bool(policy.get("lowPriority"))
        job.execution_timeout_ms, job.ttl_ms = execution, ttl
        if len(request) > 1:
            job.webhook = request.get("webhook") or None
            job.extra = {k: v for k, v in request.items() if k not in {"input", "webhook", "policy"}} or None
        self.jobs[job.id] = job
        self.submitted += 1
        job.life = self.clock.after(ttl / 1000, self._expire, job)
        self._enqueue(job)
        self.runners.wake()
        return job

    def cancel(self, job: Job) -> None:
        """End a job as CANCELLED, wherever it is; one that has ended stays as it is."""
        if job.ended:
            return
        running = job.status == IN_PROGRESS
        if running:
            self._time(job)
        self._settle(job, CANCELLED)
        self.runners.abort(job)

    def retry(self, job: Job) -> None:
        """Queue an ended job again: same id and input, previous output removed."""
        if job.status == TIMED_OUT:  # at its ttl: it may still stand where it waited
            for queue in (self._queue, self._low):
                if job in queue:
                    queue.remove(job)
        self.failed -= 1
        job.output, job.error = ABSENT, None
        job.delay_ms = job.execution_ms = job.worker = job.chunks = job.started = None
        job.retries = 0
        job.queued = self.clock.now()
        job.status = IN_QUEUE
        self.retried += 1
        self.clock.cancel(job.life)
        job.life = self.clock.after(job.ttl_ms / 1000, self._expire, job)
        self._enqueue(job)
        self.runners.wake()

    def purge(self) -> int:
        """Remove every job that is IN_QUEUE; return how many. Running jobs go on."""
        waiting = [job for job in (*self._queue, *self._low) if job.status == IN_QUEUE and not job.gone]
        for job in waiting:
            if self.config.purged == "gone":
                self.forget(job)
            else:
                self._settle(job, CANCELLED)
        self.removed += len(waiting)
        return len(waiting)

    def keep(self, job: Job, seconds: float) -> None:
        """Keep the result of `job` for at most `seconds` from its end, or from now; never longer (/status?ttl=)."""
        job.keep_s = seconds
        if job.ended and job.life is not None and self.clock.now() + seconds < job.life[0]:
            self.clock.cancel(job.life)
            job.life = self.clock.after(seconds, self.forget, job)

    def forget(self, job: Job) -> None:
        """Know nothing of `job` any more, whatever it was doing."""
        if self.jobs.pop(job.id, None) is None:
            return
        job.gone = True
        self.clock.cancel(job.life)
        if job.status == IN_QUEUE:
            self.queued -= 1
        elif job.status == IN_PROGRESS:
            self.running -= 1
            self.runners.abort(job)
        job.wake()

    # ---------------------------------------------------------------- told by the fleet

    def waits(self) -> int:
        """Return how many jobs wait for a RunPod worker and are worth starting one (all but low priority)."""
        self._drop_stale(self._queue)
        return min(len(self._queue), self.queued + self.running)

    def take(self) -> Job | None:
        """Take the next waiting job, low priority last; None when none waits or the endpoint is paused."""
        if self.paused:
            return None
        for queue in (self._queue, self._low):
            self._drop_stale(queue)
            if queue:
                return queue.popleft()
        return None

    def start(self, job: Job, worker: str) -> None:
        """Note that the RunPod worker `worker` has `job` now."""
        if job.status == IN_QUEUE:
            self.queued -= 1
            self.running += 1
            job.status = IN_PROGRESS
        now = self.clock.now()
        job.runs += 1
        job.started = now
        job.worker = worker
        job.delay_ms = round((now - job.queued) * 1000)

    def give_back(self, job: Job) -> None:
        """Note that `job` reached no RunPod worker after all: it is the next one, as if it had never been taken."""
        if job.gone or job.status != IN_PROGRESS:
            return
        job.runs -= 1
        job.worker = job.started = None
        if not job.runs:
            job.status, job.delay_ms = IN_QUEUE, None
            self.running -= 1
            self.queued += 1
        (self._low if job.low_priority else self._queue).appendleft(job)

    def progress(self, job: Job, output: Any) -> None:
        """Show a progress update: `output` while IN_PROGRESS."""
        if job.gone or job.status == IN_QUEUE:
            return
        if job.ended:
            if self.config.late_progress == "ignore" or job.status != COMPLETED:
                return
            self.completed -= 1
            self.running += 1
            job.status = IN_PROGRESS
        job.output = output

    def chunk(self, job: Job, output: Any, metrics: Any = None) -> None:
        """Buffer one chunk of a generator job for /stream."""
        if job.gone or job.status == CANCELLED:
            return
        if job.chunks is None:
            job.chunks = deque()
        for piece in pieces(output, self.config.chunk_body):
            job.chunks.append({"output": piece} if metrics is None else {"metrics": metrics, "output": piece})
        job.wake()

    def finish(self, job: Job, output: Any = ABSENT, error: str | None = None) -> None:
        """End a running job as the RunPod worker reported it; a job that is not running stays as it is."""
        if job.gone or job.status != IN_PROGRESS:
            return
        job.output, job.error = output, error
        self._time(job)
        self._settle(job, COMPLETED if error is None else FAILED)

    def execution_timed_out(self, job: Job) -> None:
        """End a running job that is past its executionTimeout."""
        if job.gone or job.status != IN_PROGRESS:
            return
        job.output, job.error = ABSENT, "executionTimeout exceeded"
        self._time(job)
        self._settle(job, self.config.execution_timeout_status)

    def lost(self, job: Job) -> None:
        """Send a job out again whose RunPod worker was lost, or fail it when that was done often enough.

        Status stays IN_PROGRESS meanwhile, `retries` counts, `delayTime` is recomputed (a captured run).
        """
        if job.gone or job.status != IN_PROGRESS:
            return
        if job.retries >= self.config.platform_retries:
            self.finish(job, error=f"job timed out after {job.retries} retries")
            return
        job.retries += 1
        self.retried += 1
        job.worker = None
        job.chunks = None
        self._queue.appendleft(job)
        self.runners.wake()

    # ---------------------------------------------------------------- inside

    def _enqueue(self, job: Job) -> None:
        self.queued += 1
        (self._low if job.low_priority else self._queue).append(job)

    @staticmethod
    def _drop_stale(queue: deque[Job]) -> None:
        while queue and (queue[0].gone or queue[0].ended):
            queue.popleft()

    def _time(self, job: Job) -> None:
        if job.started is not None:
            job.execution_ms = round((self.clock.now() - job.started) * 1000)

    def _settle(self, job: Job, status: str) -> None:
        if job.status == IN_QUEUE:
            self.queued -= 1
        else:
            self.running -= 1
        job.status = status
        if status == COMPLETED:
            self.completed += 1
        elif status == CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1
        self.clock.cancel(job.life)
        kept = max(self.config.sync_retention_s, job.waited_s) if job.sync else self.config.run_retention_s
        job.life = self.clock.after(kept if job.keep_s is None else min(kept, job.keep_s), self.forget, job)
        job.wake()
        self.ended(self, job)

    def _expire(self, job: Job) -> None:
        """End a job's ttl: it vanishes whatever it was doing ("send requests")."""
        if self.config.ttl_status == "gone":
            self.forget(job)
            return
        running = job.status == IN_PROGRESS
        if running:
            self._time(job)
        self._settle(job, TIMED_OUT)
        if running:
            self.runners.abort(job)


def pieces(output: Any, most: int) -> list[Any]:
    """Return a chunk's output as it is told: a text over `most` bytes in several, anything else whole."""
    if not isinstance(output, str) or len(output) * 4 <= most:
        return [output]
    cut: list[str] = []
    start = size = 0
    for at, letter in enumerate(output):
        length = len(letter.encode(errors="surrogatepass"))
        if size + length > most:
            cut.append(output[start:at])
            start, size = at, 0
        size += length
    return [*cut, output[start:]]
