"""The RunPod workers of an endpoint: scaled up while jobs wait, down when idle, counted for /health."""

from __future__ import annotations

import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Iterator

from bridge.emulator.model.clock import Timer
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import Job

INITIALIZING, READY, THROTTLED, UNHEALTHY = "initializing", "ready", "throttled", "unhealthy"
_ALPHABET = string.ascii_lowercase + string.digits


class RunPodWorker:
    """One RunPod worker: built in, or a process of a real handler."""

    def __init__(self) -> None:
        self.id = "".join(secrets.choice(_ALPHABET) for _ in range(14))
        self.state = INITIALIZING
        self.jobs: dict[str, Job] = {}
        #: Cold start while initializing; idle timeout while idle.
        self.timer: Timer | None = None


class Fleet(ABC):
    """Scales between workers_min and workers_max, and gives waiting jobs to RunPod workers with room."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.config = endpoint.config
        self.clock = endpoint.clock
        #: How long an idle RunPod worker is kept.
        self.idle_s = self.config.idle_timeout_s
        self.workers: dict[str, RunPodWorker] = {}
        self._waking = False

    @abstractmethod
    def room(self, worker: RunPodWorker) -> int:
        """Return how many more jobs `worker` would take now."""

    @abstractmethod
    def capacity(self) -> int:
        """Return how many jobs one RunPod worker is expected to run at once."""

    @abstractmethod
    def begin(self) -> RunPodWorker:
        """Begin to start one more RunPod worker."""

    @abstractmethod
    def give(self, worker: RunPodWorker, job: Job) -> None:
        """Hand `job` to `worker`, which has room."""

    @abstractmethod
    def abort(self, job: Job) -> None:
        """Stop work on `job`, which is over for the platform, as far as that is possible."""

    def end(self, worker: RunPodWorker) -> None:
        """Stop one RunPod worker for good."""
        self.clock.cancel(worker.timer)
        self.workers.pop(worker.id, None)

    def start(self) -> None:
        """Start workers_min RunPod workers."""
        self.wake()

    def stop(self) -> None:
        """End all RunPod workers."""
        for worker in list(self.workers.values()):
            self.end(worker)

    def wake(self) -> None:
        """Give out what can be given out, and start what is missing. Cheap when there is nothing to do."""
        if self._waking:
            return
        self._waking = True
        try:
            while True:
                self._give_out()
                if not self._grow():
                    return
        finally:
            self._waking = False

    def release(self, job: Job, worker: RunPodWorker) -> None:
        """Note that `worker` is done with `job`."""
        worker.jobs.pop(job.id, None)
        if not worker.jobs:
            self.rest(worker)
        self.wake()

    def rest(self, worker: RunPodWorker) -> None:
        """Let an idle RunPod worker go after the idle timeout."""
        self.clock.cancel(worker.timer)
        worker.timer = None
        if worker.state == READY and not worker.jobs:
            worker.timer = self.clock.after(self.idle_s, self._idled, worker)

    def ready(self, worker: RunPodWorker) -> None:
        """Note that `worker` has started and takes jobs."""
        worker.state = READY
        self.rest(worker)
        self.wake()

    def counts(self) -> dict[str, int]:
        """Return the six worker fields of /health; an idle RunPod worker counts as ready too."""
        idle = running = initializing = throttled = unhealthy = 0
        for worker in self.workers.values():
            if worker.state == READY:
                if worker.jobs:
                    running += 1
                else:
                    idle += 1
            elif worker.state == INITIALIZING:
                initializing += 1
            elif worker.state == THROTTLED:
                throttled += 1
            else:
                unhealthy += 1
        return {
            "idle": idle,
            "initializing": initializing,
            "ready": idle,
            "running": running,
            "throttled": throttled,
            "unhealthy": unhealthy,
        }

    def ready_ids(self) -> list[str]:
        """Return the ids of RunPod workers that take jobs."""
        return [worker.id for worker in self.workers.values() if worker.state == READY]

    def _roomy(self) -> Iterator[RunPodWorker]:
        for worker in list(self.workers.values()):
            while worker.state == READY and self.room(worker) > 0:
                yield worker

    def _give_out(self) -> None:
        for worker in self._roomy():
            job = self.endpoint.take()
            if job is None:
                return
            self.clock.cancel(worker.timer)
            worker.timer = None
            worker.jobs[job.id] = job
            self.endpoint.start(job, worker.id)
            self.give(worker, job)

    def _grow(self) -> bool:
        """Start missing RunPod workers; return whether one is ready at once."""
        waits = 0 if self.endpoint.paused else self.endpoint.waits()
        starting = sum(worker.state != READY for worker in self.workers.values())
        wanted = max(
            self.config.workers_min - len(self.workers),
            -(-waits // self.capacity()) - starting,
        )
        wanted = min(wanted, self.config.workers_max - len(self.workers))
        ready = False
        for _ in range(wanted):
            worker = self.begin()
            self.workers[worker.id] = worker
            ready = ready or worker.state == READY
        return ready

    def _idled(self, worker: RunPodWorker) -> None:
        worker.timer = None
        if worker.id in self.workers and not worker.jobs and len(self.workers) > self.config.workers_min:
            self.end(worker)
            self.wake()  # one that took nothing, because it hangs, has kept others from being started
