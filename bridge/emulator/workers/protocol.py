"""RunPod's worker protocol, as the `runpod` package speaks it (rp_job, rp_http, rp_ping, rp_scale).

Under `/v2/<endpoint>/`: `job-take/<worker>`, `job-take-batch/<worker>?batch_size=n`, `job-stop/<worker>` (long polls),
`job-done/<worker>/<job>`, `job-stream/<worker>/<job>`, `ping/<worker>?job_id=a,b`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bridge.emulator.http import answers
from bridge.emulator.http.answers import TEXT, Answer, decode, document
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import ABSENT, Job
from bridge.emulator.workers.fleet import INITIALIZING
from bridge.emulator.workers.processes import HandlerProcess, ProcessFleet

#: Real seconds that job-take and job-stop are held; the package gives up after 90.
HOLD_S = 30.0

_NOTHING = Answer(204, b"", TEXT)
_OK = document({"ok": True})

#: What is asked for under `/v2/<endpoint>/` by RunPod workers.
OPERATIONS = frozenset({"job-take", "job-take-batch", "job-stop", "job-done", "job-stream", "ping"})


class Protocol:
    """Answers the calls of handler processes, by the name of their endpoint."""

    def __init__(self, fleets: Mapping[str, ProcessFleet]) -> None:
        self._fleets = fleets

    async def answer(
        self,
        path: tuple[str, str, str],
        key: str,
        body: bytes,
        query: dict[str, str],
        hung_up: Callable[[], Awaitable[Any]],
    ) -> Answer:
        """Answer one call: `path` is endpoint, operation, rest; `hung_up()` returns when the caller is gone."""
        name, op, rest = path
        fleet = self._fleets.get(name)
        if fleet is None or op not in OPERATIONS:
            return answers.NOT_FOUND
        if key.removeprefix("Bearer ") != fleet.key:
            return Answer(401, b"", TEXT)
        worker_id, _, job_id = rest.partition("/")
        worker = fleet.workers.get(worker_id)
        if worker is not None and not isinstance(worker, HandlerProcess):
            return answers.NOT_FOUND
        match op:
            case "job-take" | "job-take-batch":
                size = int(query["batch_size"]) if query.get("batch_size", "").isdecimal() else 1
                batch = size if op == "job-take-batch" else 0
                held = _ended() if worker is None else _take(fleet, worker, batch, hung_up)
                answer = await held
            case "job-stop":
                answer = await (_ended() if worker is None else _stops(worker, hung_up))
            case "ping":
                answer = _ping(worker, query)
            case "job-done":
                answer = _done(fleet, worker, job_id, body)
            case "job-stream":
                answer = _stream(fleet.endpoint, worker, job_id, body)
            case _:
                answer = answers.NOT_FOUND
        return answer


async def _ended() -> Answer:
    """Answer a process that was told to end; it must not ask again and again meanwhile."""
    await asyncio.sleep(1.0)
    return _NOTHING


async def _take(
    fleet: ProcessFleet, worker: HandlerProcess, batch: int, hung_up: Callable[[], Awaitable[Any]]
) -> Answer:
    if worker.state == INITIALIZING:
        fleet.ready(worker)
    take, heard = fleet.hold(worker, max(1, batch)), False
    try:
        heard = await _first(take.offer, hung_up)
    finally:
        jobs = [_shown(job) for job in fleet.took(worker, take, heard=heard)]
    if not jobs:
        return _NOTHING
    return document(jobs if batch else jobs[0])


async def _stops(worker: HandlerProcess, hung_up: Callable[[], Awaitable[Any]]) -> Answer:
    worker.asks_stops = True
    if not worker.stops:
        worker.stopping = asyncio.get_running_loop().create_future()
        await _first(worker.stopping, hung_up)
        worker.stopping = None
    stops, worker.stops = worker.stops, []
    return document({"jobsToStop": stops}) if stops else _NOTHING


async def _first(future: asyncio.Future[None], hung_up: Callable[[], Awaitable[Any]]) -> bool:
    """Wait for `future`, at most HOLD_S and only while the caller is there; return whether it still is."""
    gone = asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({future, gone}, timeout=HOLD_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left = gone.done()
        gone.cancel()
    return not left


def _shown(job: Job) -> dict[str, Any]:
    """Return a job as the RunPod worker gets it: an empty input is dropped on the way, as live."""
    shown: dict[str, Any] = {"id": job.id}
    if job.input:
        shown["input"] = job.input
    if job.webhook:
        shown["webhook"] = job.webhook
    return shown | (job.extra or {})


def _ping(worker: HandlerProcess | None, query: dict[str, str]) -> Answer:
    if worker is not None:
        now = time.monotonic()
        for job_id in query.get("job_id", "").split(","):
            if job_id in worker.jobs:
                worker.seen[job_id] = now
    return _OK


def _done(fleet: ProcessFleet, worker: HandlerProcess | None, job_id: str, body: bytes) -> Answer:
    """Take a result or a progress update. Of a job that is not this RunPod worker's any more it changes nothing."""
    endpoint = fleet.endpoint
    job = endpoint.jobs.get(job_id)
    told = _object(body)
    if isinstance(told, Answer):
        if worker is not None and job is not None and job.id in worker.jobs:
            endpoint.finish(job)  # as one that is too large: the result cannot be read, and nobody sends another
            fleet.done(worker, job, refresh=False)
        return told
    if worker is None:
        return _OK
    progress = told.get("status") == "IN_PROGRESS"
    if job is not None and job.worker == worker.id and progress:
        endpoint.progress(job, told.get("output"))
    if progress:
        return _OK
    limit = endpoint.config.runsync_body if job is not None and job.sync else endpoint.config.run_body
    fits = len(body) <= limit
    if job is not None and job.id in worker.jobs:
        if not fits:
            # The caller sees COMPLETED without output, and the RunPod worker logs a 400.
            endpoint.finish(job)
        else:
            error = told.get("error")
            text = error if isinstance(error, str) or error is None else json.dumps(error)
            output = told.get("output")
            endpoint.finish(job, ABSENT if output is None else output, text)  # None is no output, nor is it built in
        fleet.done(worker, job, refresh=bool(told.get("stopPod")))
    return _OK if fits else answers.too_large(limit)


def _stream(endpoint: Endpoint, worker: HandlerProcess | None, job_id: str, body: bytes) -> Answer:
    job = endpoint.jobs.get(job_id)
    told = _object(body)
    if isinstance(told, Answer):
        return told
    if job is not None and worker is not None and job.worker == worker.id:
        endpoint.chunk(job, told.get("output"), told.get("metrics"))
    return _OK


def _object(body: bytes) -> dict[str, Any] | Answer:
    try:
        told = decode(body)
    except ValueError:
        return answers.bad_request("body: invalid JSON")
    return told if isinstance(told, dict) else answers.bad_request("body: must be a JSON object")
