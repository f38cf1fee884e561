"""RunPod workers that are real processes of an unmodified handler file.

A process asks for jobs itself (job-take), so it has room while such a call is held; see `protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from bridge.emulator.config import Handler
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import Job
from bridge.emulator.workers import launch
from bridge.emulator.workers.fleet import READY, UNHEALTHY, Fleet, RunPodWorker

#: Real seconds between SIGTERM and SIGKILL.
GRACE_S = 2.0
#: Real seconds within which the package asks for its next job.
ASKS_S = 3.0
#: Real seconds within which the package begins a job that it has taken. To stop one before has no effect.
BEGINS_S = 1.0
#: A handler that keeps dying while it starts is started again after at most this long, virtual seconds.
MOST_RESTART_S = 30.0


#: What versions 1.7.11 to 1.10.0 of the package leave in the working directory: the jobs that they have taken.
JOBS_FILE = ".runpod_jobs.pkl"


@dataclass(slots=True, eq=False)
class Take:
    """One held job-take: how many jobs it takes, those offered so far, and what it waits for."""

    wanted: int
    offer: asyncio.Future[None]
    offered: list[Job] = field(default_factory=list)

    def room(self) -> int:
        """Return how many more jobs it takes."""
        return 0 if self.offer.cancelled() else self.wanted - len(self.offered)


class HandlerProcess(RunPodWorker):
    """One process, and the calls of it that are held."""

    def __init__(self) -> None:
        super().__init__()
        self.process: subprocess.Popen[bytes] | None = None
        #: Its working directory, which a container would give it: nobody else's files are in it.
        self.folder = tempfile.TemporaryDirectory(prefix="runpod-worker-", ignore_cleanup_errors=True)
        #: Held job-takes, oldest first; older versions of the package hold one for each job that they could run.
        self.takes: list[Take] = []
        #: Ids of jobs to stop, and the held job-stop.
        self.stops: list[str] = []
        self.stopping: asyncio.Future[None] | None = None
        #: Whether it has asked for jobs to stop; the package does so since 1.10.
        self.asks_stops = False
        #: When each job was last told in a ping, real seconds.
        self.seen: dict[str, float] = {}
        self.ending = False


class ProcessFleet(Fleet):
    """Handler processes of one endpoint."""

    def __init__(self, endpoint: Endpoint, handler: Handler, path: str = "") -> None:
        super().__init__(endpoint)
        #: What stands for this fleet in the URLs of the worker protocol.
        self.path = path or endpoint.name
        self.handler = handler
        #: Where the emulator listens; set before the first process is begun.
        self.origin = ""
        #: What a process shows as its key.
        self.key = secrets.token_urlsafe(16)
        if self.clock.speed > 1:  # between two jobs it would be taken for idle
            self.idle_s = max(self.idle_s, ASKS_S * self.clock.speed)
        self.ping_s = int(min(10.0, max(1.0, self.config.lost_after_s / self.clock.speed / 3)))
        self._silence_s = max(self.config.lost_after_s / self.clock.speed, 2.5 * self.ping_s)
        self._most_at_once = 1
        self._deaths = 0
        self._processes: set[HandlerProcess] = set()
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop
        self._watch: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- as every fleet

    def start(self) -> None:
        """Start workers_min processes, and look for silent ones from now on."""
        self._loop = asyncio.get_running_loop()
        self._look()
        super().start()

    def stop(self) -> None:
        """End all processes; `gone` waits for them."""
        self._stopped = True
        if self._watch is not None:
            self._watch.cancel()
        super().stop()

    async def gone(self) -> None:
        """Wait until all processes are gone; those that do not go are killed."""
        deadline = time.monotonic() + GRACE_S
        while self._processes:
            if time.monotonic() > deadline:
                for worker in self._processes:
                    _signal(worker, signal.SIGKILL)
                deadline = float("inf")
            await asyncio.sleep(0.01)

    def room(self, worker: RunPodWorker) -> int:
        """Return how many more jobs the held job-takes would take."""
        assert isinstance(worker, HandlerProcess)  # noqa: S101 - begin() makes no others
        return sum(take.room() for take in worker.takes)

    def capacity(self) -> int:
        """Return the most jobs that one process was seen to run at once."""
        return self._most_at_once

    def begin(self) -> RunPodWorker:
        """Begin a process; it is ready with its first job-take."""
        worker = HandlerProcess()
        _furnish(Path(worker.folder.name), self.handler.file.parent, Path.cwd())
        worker.process = subprocess.Popen(  # noqa: S603 - the user's own handler
            [self.handler.python, launch.__file__, str(self.handler.file), *self.handler.arguments],
            cwd=worker.folder.name,
            env=self._environment(worker),
            stdin=subprocess.DEVNULL,
            stdout=2,  # ours stays clean: it tells the exports
            start_new_session=True,
        )
        self._processes.add(worker)
        threading.Thread(target=self._await_exit, args=(worker,), name=f"handler-{worker.id}", daemon=True).start()
        return worker

    def give(self, worker: RunPodWorker, job: Job) -> None:
        """Offer `job` to the oldest held job-take with room."""
        assert isinstance(worker, HandlerProcess)  # noqa: S101
        take = next(take for take in worker.takes if take.room())
        take.offered.append(job)
        worker.seen[job.id] = time.monotonic()
        self._most_at_once = max(self._most_at_once, len(worker.jobs))
        limit = job.execution_timeout_ms / 1000 + self.config.execution_timeout_lag_s
        job.run_timer = self.clock.after(limit, self._overran, job)
        if not take.offer.done():
            take.offer.set_result(None)

    def abort(self, job: Job) -> None:
        """Tell the process to stop `job`, over the held job-stop. A blocking handler goes on all the same.

        One that never asks what to stop is killed, unless it has other jobs: then `job` goes on, as runpod-python#510
        tells it.
        """
        self.clock.cancel(job.run_timer)
        worker = self.workers.get(job.worker or "")
        if not isinstance(worker, HandlerProcess) or job.id not in worker.jobs:
            return
        if not worker.asks_stops and len(worker.jobs) == 1:
            worker.jobs.clear()
            self._kill(worker)
            self.wake()
            return
        early = worker.seen.pop(job.id, 0.0) + BEGINS_S - time.monotonic()
        self._loop.call_later(max(0.0, early), self._tell_stop, worker, job)
        self.release(job, worker)

    def end(self, worker: RunPodWorker) -> None:
        """Stop one process: SIGTERM, and SIGKILL when that is not heard."""
        super().end(worker)
        assert isinstance(worker, HandlerProcess)  # noqa: S101
        worker.ending = True
        _signal(worker, signal.SIGTERM)
        for held in (*(take.offer for take in worker.takes), worker.stopping):  # it ends only after its held calls
            if held is not None and not held.done():
                held.set_result(None)
        if not self._stopped:
            self._loop.call_later(GRACE_S, _signal, worker, signal.SIGKILL)

    # ---------------------------------------------------------------- told by the protocol

    def hold(self, worker: HandlerProcess, wanted: int) -> Take:
        """Note that `worker` asks for `wanted` jobs, and offer it what waits."""
        take = Take(wanted, self._loop.create_future())
        worker.takes.append(take)
        self.wake()
        return take

    def took(self, worker: HandlerProcess, take: Take, *, heard: bool) -> list[Job]:
        """Return what `take` was offered, and note that it is over; who hung up is not `heard` and got nothing."""
        worker.takes.remove(take)
        offered = [job for job in take.offered if job.id in worker.jobs]
        if heard:
            return offered
        for job in reversed(offered):
            self.clock.cancel(job.run_timer)
            job.run_timer = None
            worker.jobs.pop(job.id)
            worker.seen.pop(job.id, None)
            self.endpoint.give_back(job)
        if offered and not self._stopped:
            self.rest(worker)
            self.wake()
        return []

    def done(self, worker: HandlerProcess, job: Job, *, refresh: bool) -> None:
        """Note that `worker` reported the end of `job`; with `refresh` it wants to be started anew."""
        self.clock.cancel(job.run_timer)
        job.run_timer = None
        worker.seen.pop(job.id, None)
        if refresh:
            worker.jobs.pop(job.id, None)
            self._kill(worker)
            self.wake()
        elif job.id in worker.jobs:
            self.release(job, worker)

    # ---------------------------------------------------------------- inside

    @staticmethod
    def _tell_stop(worker: HandlerProcess, job: Job) -> None:
        worker.stops.append(job.id)
        if worker.stopping is not None and not worker.stopping.done():
            worker.stopping.set_result(None)

    def _environment(self, worker: HandlerProcess) -> dict[str, str]:
        """Return what RunPod sets for its workers; the URLs must hold a `?`, and `$ID` is the package's to fill."""
        base = f"{self.origin}/v2/{self.path}"
        return {
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            # Since 1.11 the package downloads nothing from loopback, where a developer's files are served.
            "RUNPOD_ALLOW_PRIVATE_DOWNLOAD_URLS": "true",
            **os.environ,
            **_unproxied(self.origin),
            "PYTHONUNBUFFERED": "1",
            launch.PARENT: str(os.getpid()),
            "RUNPOD_POD_ID": worker.id,
            "RUNPOD_POD_HOSTNAME": f"{worker.id}-emulated",
            "RUNPOD_ENDPOINT_ID": self.endpoint.name,
            "RUNPOD_AI_API_KEY": self.key,
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=emulated",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=emulated",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=emulated",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_PING_INTERVAL": str(self.ping_s * 1000),
        }

    def _await_exit(self, worker: HandlerProcess) -> None:
        assert worker.process is not None  # noqa: S101
        worker.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)  # its ping process must not stay behind
        worker.folder.cleanup()
        try:
            self._loop.call_soon_threadsafe(self._exited, worker)
        except RuntimeError:
            self._processes.discard(worker)  # the loop is closed: the emulator was torn down

    def _exited(self, worker: HandlerProcess) -> None:
        self._processes.discard(worker)
        if self._stopped or worker.id not in self.workers:
            return
        starting = worker.state != READY
        self._deaths = self._deaths + 1 if starting else 0
        self._lose_jobs(worker)
        worker.state = UNHEALTHY
        self.clock.cancel(worker.timer)
        pause = min(MOST_RESTART_S, self.config.restart_s * 2 ** min(self._deaths, 10)) if starting else 0.0
        worker.timer = self.clock.after(pause, self._bury, worker)

    def _bury(self, worker: RunPodWorker) -> None:
        self.workers.pop(worker.id, None)
        self.wake()

    def _lose_jobs(self, worker: HandlerProcess) -> None:
        """Notice after a while that the jobs of a dead process are lost."""
        for job in worker.jobs.values():
            self.clock.cancel(job.run_timer)
            job.run_timer = self.clock.after(self.config.lost_after_s, self._lost, job)
        worker.jobs.clear()

    def _lost(self, job: Job) -> None:
        job.run_timer = None
        self.endpoint.lost(job)

    def _overran(self, job: Job) -> None:
        """End a job past its executionTimeout: "job fails and the worker stops" (endpoint configurations).

        A process that asks what to stop is told first: "async handlers receive an `asyncio.CancelledError`"
        (handler functions). With other jobs it goes on.
        """
        job.run_timer = None
        worker = self.workers.get(job.worker or "")
        self.endpoint.execution_timed_out(job)
        if not isinstance(worker, HandlerProcess):
            return
        worker.jobs.pop(job.id, None)
        if not worker.asks_stops:
            self._kill(worker)
        else:
            self._tell_stop(worker, job)
            if not worker.jobs:
                super().end(worker)  # it takes no other job
                worker.ending = True
                self._loop.call_later(GRACE_S, _signal, worker, signal.SIGKILL)
        self.wake()

    def _kill(self, worker: HandlerProcess) -> None:
        self._lose_jobs(worker)
        worker.ending = True
        super().end(worker)
        _signal(worker, signal.SIGKILL)

    def _look(self) -> None:
        """Take jobs as lost that no ping told of for a while, in real time: pings do not run faster with the clock."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            assert isinstance(worker, HandlerProcess)  # noqa: S101
            silent = [job for job in worker.jobs.values() if now - worker.seen.get(job.id, now) > self._silence_s]
            for job in silent:
                self.clock.cancel(job.run_timer)
                job.run_timer = None
                worker.seen.pop(job.id, None)
                worker.jobs.pop(job.id)
                self.endpoint.lost(job)
            if silent:
                self.rest(worker)
        self._watch = self._loop.call_later(self._silence_s / 4, self._look)


def _unproxied(origin: str) -> dict[str, str]:
    """Return what keeps the developer's proxy, if there is one, out of the way to `origin`: pings would take it."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    host = urllib.parse.urlsplit(origin).hostname or ""
    value = given if given.strip() == "*" else ",".join(filter(None, (given, host)))
    return {"no_proxy": value, "NO_PROXY": value}


def _furnish(folder: Path, *shown: Path) -> None:
    """Show the files of the folders `shown` in `folder`, so that relative reads find what they found there.

    Of files with one name those of the first folder are seen. What a handler writes anew stays in `folder`.
    """
    for each in shown:
        for entry in each.iterdir():
            link = folder / entry.name
            if entry.name != JOBS_FILE and not os.path.lexists(link):
                link.symlink_to(entry.absolute())


def _signal(worker: HandlerProcess, number: signal.Signals) -> None:
    """Signal the process group of a process that still runs."""
    process = worker.process
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
