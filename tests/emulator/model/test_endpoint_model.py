"""Whatever is done to an endpoint in whatever order, its counters add up and its jobs end as they must."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.emulator import EndpointConfig
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import FAILED, IN_PROGRESS, IN_QUEUE, TIMED_OUT, Job
from bridge.emulator.workers.builtin import BuiltinFleet

INPUTS: list[dict[str, Any]] = [
    {"x": 1},
    {},
    {"mock_delay": 7},
    {"mock_delay": 700},
    {"mock_error": 1},
    {"mock_error": "no", "mock_delay": 3},
    {"mock_crash": True},
    {"mock_crash": 1, "mock_delay": 2},
    {"mock_stream": 3, "mock_delay": 4},
    {"mock_progress": 2, "mock_delay": 9},
]
POLICIES: list[dict[str, Any]] = [{}, {"ttl": 10_000}, {"executionTimeout": 5000}, {"lowPriority": True}]
SUBMIT = st.tuples(st.just("submit"), st.sampled_from(INPUTS), st.sampled_from(POLICIES))
ON_A_JOB = st.tuples(st.sampled_from(["cancel", "retry", "forget"]), st.integers(0, 30), st.none())
STEP = st.tuples(st.sampled_from(["advance"]), st.floats(0, 40), st.none())
OTHER = st.tuples(st.sampled_from(["purge", "pause", "go on"]), st.none(), st.none())


@given(st.lists(SUBMIT | SUBMIT | ON_A_JOB | STEP | OTHER, max_size=40), st.sampled_from(["gone", "TIMED_OUT"]))
@settings(max_examples=150)
def test_counters_add_up_and_every_job_ends(actions: list[tuple[str, Any, Any]], ttl: Any) -> None:
    """After each action, and again when a day has passed."""
    config = EndpointConfig(workers_max=2, jobs_per_worker=2, cold_start_s=5, ttl_status=ttl, run_retention_s=1e6)
    asyncio.run(play(actions, config))


async def play(actions: list[tuple[str, Any, Any]], config: EndpointConfig) -> None:
    """Carry out `actions` on a fresh endpoint and check it after each."""
    clock = Clock()
    endpoint = Endpoint("demo", config, clock)
    endpoint.runners = BuiltinFleet(endpoint)
    endpoint.runners.start()
    jobs: list[Job] = []
    for what, first, second in actions:
        await act(endpoint, jobs, what, first, second)
        check(endpoint)
    endpoint.paused = False
    endpoint.runners.wake()
    await clock.advance(90_000)
    check(endpoint)
    # Low priority starts no RunPod worker, so such a job may wait until its ttl; nothing else is left.
    assert endpoint.queued == endpoint.running == 0
    assert not endpoint.runners.workers
    assert all(job.ended or job.gone for job in jobs)
    clock.close()


async def act(endpoint: Endpoint, jobs: list[Job], what: str, first: Any, second: Any) -> None:
    """Carry out one action; one on a job that the platform would refuse is left out."""
    match what:
        case "submit":
            jobs.append(endpoint.submit({"input": first, "policy": second}, sync=False))
        case "advance":
            await endpoint.clock.advance(first)
        case "purge":
            endpoint.purge()
        case "pause" | "go on":
            endpoint.paused = what == "pause"
            endpoint.runners.wake()
        case _ if jobs and not (job := jobs[first % len(jobs)]).gone:
            if what == "cancel":
                endpoint.cancel(job)
                assert job.ended
            elif what == "forget":
                endpoint.forget(job)
            elif job.status in {FAILED, TIMED_OUT}:
                endpoint.retry(job)


def check(endpoint: Endpoint) -> None:
    """The counters are those of the jobs; nobody runs more than there is room for, or what is over."""
    statuses = Counter(job.status for job in endpoint.jobs.values())
    assert (endpoint.queued, endpoint.running) == (statuses[IN_QUEUE], statuses[IN_PROGRESS])
    assert isinstance(endpoint.runners, BuiltinFleet)
    workers = endpoint.runners.workers.values()
    assert len(workers) <= endpoint.config.workers_max
    held = [job for worker in workers for job in worker.jobs.values()]
    assert len(held) == len({job.id for job in held})
    assert all(job.status == IN_PROGRESS and not job.gone for job in held)
    assert all(len(worker.jobs) <= endpoint.config.jobs_per_worker for worker in workers)
