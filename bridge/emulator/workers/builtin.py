"""The built-in RunPod worker: jobs are timers, so ten thousand at once cost nothing.

What a job does is told by its input (the keys of RunPod's own mock worker, and some more):

- `mock_delay`: seconds until it ends; with chunks or progress updates, seconds between two of them.
- `mock_return`: what the handler returns, which RunPod's package reads as a real one's: `error` in it fails the job,
  `refresh_worker` replaces the RunPod worker. Without it the input is echoed, or "Hello World!" where the setting
  `echo` is off.
- `mock_error`: true raises in the handler (the error is RunPod's JSON string); a text is returned as `error`.
  A number fails the first so many runs only, so that /retry can succeed.
- `mock_crash`: the RunPod worker dies under this job; true always, a number on the first so many runs.
- `mock_progress`: progress updates, as a list or a count. They share `mock_delay` evenly. RunPod's form is known too:
  `{"updates": [...], "wait_time": seconds}`, after `mock_delay`, with a wait after each.
- `mock_external`: `{"error_job_return": true}` loses the result on its way; the platform hears nothing.
- `mock_refresh`: the RunPod worker is replaced after the job, whose output is `{"mock_return": ...}`.
- `mock_stream`: chunks of a generator, as a list or a count; one with an `error` fails the job. `mock_aggregate` makes
  the output their list.
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any

from bridge.emulator.model.job import ABSENT, Job
from bridge.emulator.workers.fleet import READY, Fleet, RunPodWorker

#: Told as `runpod_version` in the error of a handler that raised.
_VERSION = "1.12.0"
#: Chunks or progress updates that a count may ask for; what a list has is bounded by the request's body.
COUNT_MAX = 100_000
#: What RunPod's mock worker answers unless it is told otherwise.
HELLO = "Hello World!"


class BuiltinFleet(Fleet):
    """RunPod workers that are only timers."""

    def room(self, worker: RunPodWorker) -> int:
        """Return how many more jobs `worker` would take now."""
        return self.config.jobs_per_worker - len(worker.jobs)

    def capacity(self) -> int:
        """Return how many jobs one RunPod worker runs at once."""
        return self.config.jobs_per_worker

    def begin(self) -> RunPodWorker:
        """Begin to start one more RunPod worker; without a cold start it is ready at once."""
        worker = RunPodWorker()
        if self.config.cold_start_s:
            worker.timer = self.clock.after(self.config.cold_start_s, self.ready, worker)
        else:
            worker.state = READY
            self.rest(worker)
        return worker

    def give(self, worker: RunPodWorker, job: Job) -> None:  # noqa: ARG002 - a process needs to know its own
        """Plan the whole run of `job`: one timer at a time."""
        asked = job.input if isinstance(job.input, dict) else {}
        external = asked.get("mock_external")
        unheard = isinstance(external, dict) and bool(external.get("error_job_return"))
        if not asked or unheard or _still(asked.get("mock_crash"), job.runs):
            # An empty input is dropped on the way: the RunPod worker rejects the job and never answers.
            job.run_timer = self.clock.after(self.config.lost_after_s, self._lost, job)
            return
        if (wrong := _too_many(asked)) is not None:
            job.run_timer = self.clock.after(0, partial(self._done, error=wrong), job)
            return
        delay = _seconds(asked.get("mock_delay"))
        limit = job.execution_timeout_ms / 1000
        streams = self._chunks(asked)
        progress = asked.get("mock_progress")
        paced = progress if isinstance(progress, dict) else None
        steps = streams or _items(progress if paced is None else paced.get("updates"), "progress")
        run = _Run(job, asked, iter(steps), len(steps), self.clock.now() + limit) if steps else None
        if run is not None:
            run.streams = bool(streams)
            run.every = run.last = delay if streams else delay / (len(steps) + 1)
            first = run.every
            if paced is not None and not streams:
                first, run.every = delay, _seconds(paced.get("wait_time"))
                run.last = run.every
            self._after(job, first, run)
        elif delay > limit:
            job.run_timer = self.clock.after(limit + self.config.execution_timeout_lag_s, self._overran, job)
        else:
            job.run_timer = self.clock.after(delay, self._done, job)

    def abort(self, job: Job) -> None:
        """Drop what was planned for `job`."""
        self.clock.cancel(job.run_timer)
        job.run_timer = None
        worker = self.workers.get(job.worker or "")
        if worker is not None and job.id in worker.jobs:
            self.release(job, worker)

    def _after(self, job: Job, seconds: float, run: _Run) -> None:
        limit = run.deadline - self.clock.now()
        if seconds > limit:
            job.run_timer = self.clock.after(limit + self.config.execution_timeout_lag_s, self._overran, job)
        else:
            job.run_timer = self.clock.after(seconds, self._step, run)

    def _step(self, run: _Run) -> None:
        job = run.job
        streams = run.streams
        for item in run.steps:
            if streams and isinstance(item, dict) and item.get("error"):
                self._done(job, error=str(item["error"]))  # the package sends no such chunk, and its text is Python's
                return
            if streams:
                run.sent.append(item)
                self.endpoint.chunk(job, item)
            else:
                self.endpoint.progress(job, item)
            run.left -= 1
            if streams and not run.left:
                break
            if wait := run.every if run.left else run.last:
                self._after(job, wait, run)
                return
        if streams and ("mock_return" not in run.asked or self.config.generator):
            aggregate = run.asked.get("mock_aggregate", self.config.aggregate_streams)
            self._done(job, run.sent if aggregate else [])
        else:
            self._done(job)

    def _done(self, job: Job, output: Any = ABSENT, error: str | None = None) -> None:
        job.run_timer = None
        asked = job.input
        worker = self.workers.get(job.worker or "")
        raised = asked.get("mock_error")
        refresh = bool(asked.get("mock_refresh"))
        if error is None and raised is not None and raised is not False and _still(raised, job.runs):
            output, error = ABSENT, raised if isinstance(raised, str) else _raised(job)
        elif error is None and output is ABSENT:
            output = asked.get("mock_return", asked if self.config.echo else HELLO)
            if refresh:
                output = {"mock_return": output}
            elif "mock_return" in asked and isinstance(output, dict):
                output, error, refresh = _read(output)
            if output is None or output == {}:
                output = ABSENT  # the SDK drops an empty result, and the caller sees COMPLETED without output
        self.endpoint.finish(job, output, error)
        if worker is not None:
            if refresh:
                self.end(worker)  # what else it ran goes on as timers, and is told all the same
                self.wake()
            else:
                self.release(job, worker)

    def _chunks(self, asked: dict[str, Any]) -> list[Any]:
        """Return what the job yields: `mock_stream`, or `mock_return` where the handler is a generator."""
        if "mock_stream" not in asked and self.config.generator:
            given = asked.get("mock_return", [asked if self.config.echo else HELLO])
            return list(given) if isinstance(given, list | str | dict) else [given]  # as a `for` of Python's goes
        return _items(asked.get("mock_stream"), "chunk")

    def _overran(self, job: Job) -> None:
        job.run_timer = None
        worker = self.workers.get(job.worker or "")
        self.endpoint.execution_timed_out(job)
        if worker is not None:
            self.release(job, worker)

    def _lost(self, job: Job) -> None:
        job.run_timer = None
        worker = self.workers.get(job.worker or "")
        if worker is not None:
            worker.jobs.pop(job.id, None)
        self.endpoint.lost(job)
        if worker is not None:
            self.release(job, worker)


class _Run:
    """A run with steps: chunks or progress updates, `every` so many seconds, until `deadline`."""

    __slots__ = ("asked", "deadline", "every", "job", "last", "left", "sent", "steps", "streams")

    def __init__(self, job: Job, asked: dict[str, Any], steps: Any, left: int, deadline: float) -> None:
        self.job = job
        self.asked = asked
        self.steps = steps
        self.left = left
        self.deadline = deadline
        self.every = self.last = 0.0
        self.streams = False
        self.sent: list[Any] = []


def _still(times: Any, runs: int) -> bool:
    """Return whether `times` (true: always; a number: the first so many runs) covers run number `runs`."""
    if isinstance(times, bool) or not isinstance(times, int):
        return bool(times)
    return runs <= times


def _read(returned: dict[str, Any]) -> tuple[dict[str, Any], str | None, bool]:
    """Return output, error and whether to replace the RunPod worker, as the package reads a dict of a handler."""
    output = {name: value for name, value in returned.items() if name not in {"error", "refresh_worker"}}
    error = returned.get("error") or None
    text = error if error is None or isinstance(error, str) else json.dumps(error)
    return output, text, bool(returned.get("refresh_worker"))


def _seconds(value: Any) -> float:
    try:
        return max(0.0, float(value)) if isinstance(value, int | float) else 0.0
    except OverflowError:  # of more digits than a float has
        return math.inf if value > 0 else 0.0


def _too_many(asked: dict[str, Any]) -> str | None:
    """Return the error of a job whose count would fill the memory."""
    progress = asked.get("mock_progress")
    counts = {
        "mock_stream": asked.get("mock_stream"),
        "mock_progress": progress.get("updates") if isinstance(progress, dict) else progress,
    }
    over = [name for name, count in counts.items() if isinstance(count, int) and count > COUNT_MAX]
    return f"{over[0]}: a count may be {COUNT_MAX} at most" if over else None


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return [f"{name} {number}" for number in range(1, value + 1)]
    return []


def _raised(job: Job) -> str:
    return json.dumps(
        {
            "error_type": "<class 'Exception'>",
            "error_message": "Mock error",
            "error_traceback": "Traceback (most recent call last):\nException: Mock error\n",
            "hostname": f"{job.worker}-host",
            "worker_id": job.worker,
            "runpod_version": _VERSION,
        }
    )
