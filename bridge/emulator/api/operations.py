"""RunPod's operations on one endpoint, from checked path and body to the answer.

Each function answers at once or, where RunPod holds the connection, awaits. Sources: "operation reference" and
"send requests" of RunPod's docs; what live runs and first-party clients add is told where it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from bridge.emulator.http.answers import JOB_NOT_FOUND, Answer, bad_request, decode, document, too_large
from bridge.emulator.model.clock import Clock, wake
from bridge.emulator.model.endpoint import MAXIMUM_POLICY_MS, MINIMUM_EXECUTION_TIMEOUT_MS, MINIMUM_TTL_MS, Endpoint
from bridge.emulator.model.job import ABSENT, COMPLETED, FAILED, TIMED_OUT, Job

#: `wait` in ms (RunPod's own clients and its server code agree).
WAIT_MIN_MS, WAIT_MAX_MS = 1_000, 300_000

Query = dict[str, str]


def parse(endpoint: Endpoint, body: bytes, limit: int) -> dict[str, Any] | Answer:
    """Check the body of /run and /runsync; return the request, or the 400 that RunPod gives."""
    if len(body) > limit:
        return too_large(limit)
    try:
        request = decode(body)
    except ValueError:
        return bad_request("body: invalid JSON")
    wrong = wrong_request(endpoint, request)
    return bad_request(f"body: {wrong}") if wrong else request


def wrong_request(endpoint: Endpoint, request: Any) -> str | None:
    """Return what is wrong with a request, of /run or of a batch; None when nothing is."""
    return _wrong_field(request, endpoint.config.empty_input == "accept") or _wrong_policy(
        endpoint, request.get("policy")
    )


def _wrong_field(request: Any, empty: bool) -> str | None:
    """Return what is wrong; an `input` that is absent, null or `{}` is let through where `empty` is."""
    if not isinstance(request, dict):
        return "must be a JSON object"
    for name in ("input", "s3Config", "policy"):
        if not isinstance(request.get(name), dict | None):
            return f"{name}: must be a JSON object"
    if not request.get("input") and not empty:
        return "input: required, and must not be empty"
    if not isinstance(request.get("webhook"), str | None):
        return "webhook: must be a string"
    return None


def _wrong_policy(endpoint: Endpoint, policy: dict[str, Any] | None) -> str | None:
    if policy is None:
        return None
    for name, least in (("executionTimeout", MINIMUM_EXECUTION_TIMEOUT_MS), ("ttl", MINIMUM_TTL_MS)):
        value = policy.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            return f"policy.{name}: must be a number of milliseconds"
        if value > MAXIMUM_POLICY_MS and endpoint.config.above_maximum == "reject":
            return f"policy.{name}: must be at most {MAXIMUM_POLICY_MS}"
        if value < least and endpoint.config.below_minimum == "reject":
            return f"policy.{name}: must be at least {least}"
    if not isinstance(policy.get("lowPriority"), bool | None):
        return "policy.lowPriority: must be a boolean"
    return None


def wait_of(endpoint: Endpoint, query: Query, default_s: float) -> float | Answer:
    """Return the seconds that `?wait=` (ms) asks for."""
    text = query.get("wait")
    if text is None:
        return default_s
    try:
        asked = int(text)
    except ValueError:
        return bad_request("query: wait: must be a number of milliseconds")
    if not WAIT_MIN_MS <= asked <= WAIT_MAX_MS:
        if endpoint.config.wait_out_of_range == "reject":
            return bad_request(f"query: wait: must lie between {WAIT_MIN_MS} and {WAIT_MAX_MS}")
        asked = min(max(asked, WAIT_MIN_MS), WAIT_MAX_MS)
    return asked / 1000


async def changed(clock: Clock, job: Job, until: float) -> bool:
    """Wait for the next change of `job`; False when virtual time `until` came first."""
    left = until - clock.now()
    if left <= 0:
        return False
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if job.waiting is None:
        job.waiting = []
    job.waiting.append(future)
    timer = clock.after(left, wake, future)
    try:
        await future
    finally:
        clock.cancel(timer)
    return clock.now() < until


async def ended(clock: Clock, job: Job, seconds: float) -> None:
    """Wait until `job` has ended or is gone, at most `seconds`."""
    until = clock.now() + seconds
    while not (job.ended or job.gone) and await changed(clock, job, until):
        pass


def run(endpoint: Endpoint, body: bytes) -> Answer:
    """POST /run: take the job in, answer `{"id", "status": "IN_QUEUE"}` at once."""
    request = parse(endpoint, body, endpoint.config.run_body)
    if isinstance(request, Answer):
        return request
    job = endpoint.submit(request, sync=False)
    return document({"id": job.id, "status": "IN_QUEUE"})._replace(job_id=job.id)


async def runsync(endpoint: Endpoint, body: bytes, query: Query) -> Answer:
    """POST /runsync: hold until the job ended or `wait` is over, then show its true status."""
    seconds = wait_of(endpoint, query, endpoint.config.runsync_wait_s)
    if isinstance(seconds, Answer):
        return seconds
    request = parse(endpoint, body, endpoint.config.runsync_body)
    if isinstance(request, Answer):
        return request
    job = endpoint.submit(request, sync=True)
    if "wait" in query and endpoint.config.retention_follows_wait:
        job.waited_s = seconds
    await ended(endpoint.clock, job, seconds)
    return document(job.document())._replace(job_id=job.id)


def status(endpoint: Endpoint, job: Job, query: Query) -> Answer:
    """GET|POST /status/{id}; `?ttl=` (ms) shortens how long the result is kept."""
    if (ttl := query.get("ttl")) is not None:
        if not ttl.isdecimal():
            return bad_request("query: ttl: must be a number of milliseconds")
        endpoint.keep(job, float(ttl) / 1000)
    return document(job.document())


async def status_sync(endpoint: Endpoint, job: Job, query: Query) -> Answer:
    """GET|POST /status-sync/{id}?wait=: /status, held until the job ended."""
    seconds = wait_of(endpoint, query, endpoint.config.status_sync_wait_s)
    if isinstance(seconds, Answer):
        return seconds
    await ended(endpoint.clock, job, seconds)
    return JOB_NOT_FOUND if job.gone else document(job.document())


async def stream(endpoint: Endpoint, job: Job, query: Query) -> Answer:
    """GET|POST /stream/{id}?wait=: drain buffered chunks, at most a page; hold while there is none."""
    seconds = wait_of(endpoint, query, endpoint.config.stream_hold_s)
    if isinstance(seconds, Answer):
        return seconds
    until = endpoint.clock.now() + seconds
    while not (job.chunks or job.ended or job.gone) and await changed(endpoint.clock, job, until):
        pass
    if job.gone:
        return JOB_NOT_FOUND
    chunks = job.chunks
    page = [chunks.popleft() for _ in range(min(len(chunks), endpoint.config.page))] if chunks else []
    shown: dict[str, Any] = {"id": job.id, "status": job.status, "stream": page}
    if job.delay_ms is not None:
        shown["delayTime"] = job.delay_ms
    last = job.status == COMPLETED and not page
    if last and endpoint.config.stream_final_output and job.output is not ABSENT:
        shown["output"] = job.output
    return document(shown)


def cancel(endpoint: Endpoint, job: Job) -> Answer:
    """POST /cancel/{id}: at once, queued or running; a job that has ended shows its true status."""
    if job.ended and endpoint.config.cancel_ended == "not_found":
        return JOB_NOT_FOUND
    endpoint.cancel(job)
    return document(job.brief())


def retry(endpoint: Endpoint, job: Job) -> Answer:
    """POST /retry/{id}: only of FAILED and TIMED_OUT; same id and input."""
    if job.status not in {FAILED, TIMED_OUT}:
        return bad_request(f"job is {job.status}; only FAILED and TIMED_OUT jobs can be retried")
    endpoint.retry(job)
    return document({"id": job.id, "status": "IN_QUEUE"})


def purge_queue(endpoint: Endpoint) -> Answer:
    """POST /purge-queue: remove every job that is IN_QUEUE."""
    return document({"removed": endpoint.purge(), "status": "completed"})


def health(endpoint: Endpoint) -> Answer:
    """GET /health: five job fields, cumulative where a job has ended, and six worker fields."""
    jobs = {
        "completed": endpoint.completed,
        "failed": endpoint.failed,
        "inProgress": endpoint.running,
        "inQueue": endpoint.queued,
        "retried": endpoint.retried,
    }
    return document({"jobs": jobs, "workers": endpoint.runners.counts()})


def requests(endpoint: Endpoint) -> Answer:
    """GET /requests. Its shape is documented nowhere; this one is typed by a third party's client."""
    shown = [
        {"id": job.id, "status": job.status} | ({} if job.delay_ms is None else {"delayTime": job.delay_ms})
        for job in endpoint.jobs.values()
    ]
    return document({"requests": shown})


def metrics(endpoint: Endpoint) -> Answer:
    """GET /metrics. Undocumented; this is what RunPod's own flash package reads."""
    return document({"readyWorkers": endpoint.runners.ready_ids(), "workers": endpoint.runners.counts()})


#: Operations without body, query and waiting.
OF_THE_ENDPOINT: Mapping[str, Callable[[Endpoint], Answer]] = {
    "purge-queue": purge_queue,
    "health": health,
    "requests": requests,
    "metrics": metrics,
}
