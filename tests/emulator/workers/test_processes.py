"""What a handler process is given: a folder of its own, its environment's Python, and every job that it asked for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from requests.utils import should_bypass_proxies

from bridge.emulator import Emulator, EndpointConfig, Handler
from bridge.emulator.model.clock import Clock
from bridge.emulator.model.endpoint import Endpoint
from bridge.emulator.model.job import IN_PROGRESS, IN_QUEUE
from bridge.emulator.workers.fleet import READY
from bridge.emulator.workers.processes import HandlerProcess, ProcessFleet
from tests.emulator.conftest import Caller
from tests.support.helpers import eventually

HERE = Path(__file__).parent


def test_each_runpod_worker_has_a_folder_of_its_own_with_the_handlers_files() -> None:
    """What one leaves there (the package: the jobs it took) neither the next one nor the developer finds."""
    config = EndpointConfig(workers_max=1)
    with (
        Emulator({"demo": config}, handlers={"demo": HERE / "handler_folder.py"}) as emulator,
        Caller(emulator) as call,
    ):
        one, two = (call.runsync({"x": 1})["output"] for _ in range(2))
        assert one["cwd"] != two["cwd"]
        assert (one["found"], two["found"]) == (False, False)
        assert one["note"].startswith("read from beside the handler")
        assert one["path"] == str(HERE)
        assert one["downloads"] == "true"
    eventually(lambda: not Path(two["cwd"]).exists())
    assert not (HERE / "left_by_a_job").exists()
    assert not Path("left_by_a_job").exists()


def test_a_handler_runs_in_another_environment_with_arguments_of_its_own(tmp_path: Path) -> None:
    """A Python is what its path says, links kept: an environment's is a link."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    log = tmp_path / "log"
    handler = Handler(HERE / "handler_arguments.py", str(python), (str(log), "--rp_log_level", "ERROR"))
    with Emulator(["demo"], handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        call.run({"x": 1})
        eventually(lambda: log.read_text() == "--rp_log_level ERROR")


def test_what_a_thread_of_the_handler_has_forked_outlives_the_thread() -> None:
    """As in a container; Linux's death signal would come with the thread's end."""
    with Emulator(["demo"], handlers={"demo": HERE / "handler_forks.py"}) as emulator, Caller(emulator) as call:
        assert call.runsync({"program": True})["output"] == [None, None]


def test_a_worker_that_holds_several_takes_loses_no_job() -> None:
    """Each take is answered with a job of its own."""
    config = EndpointConfig(workers_max=1)
    with (
        Emulator({"demo": config}, handlers={"demo": HERE / "handler_takes.py"}) as emulator,
        Caller(emulator) as call,
    ):
        jobs = [call.run({"n": n}) for n in range(24)]
        eventually(lambda: call.health()["jobs"]["completed"] == 24)
        assert [call.status(job)["output"] for job in jobs] == [{"n": n} for n in range(24)]


def test_a_job_offered_to_who_hung_up_is_the_next_one_again() -> None:
    """It was never with a RunPod worker: IN_QUEUE, first in the queue, no run counted."""

    async def walk() -> None:
        clock = Clock()
        endpoint = Endpoint("demo", EndpointConfig(workers_max=1), clock)
        fleet = endpoint.runners = ProcessFleet(endpoint, Handler(HERE / "handler_takes.py"))
        fleet._loop = asyncio.get_running_loop()
        worker = HandlerProcess()
        worker.state = READY
        fleet.workers[worker.id] = worker
        gone, there = fleet.hold(worker, 1), fleet.hold(worker, 1)
        first, second, third = (endpoint.submit({"input": {"n": n}}, sync=False) for n in range(3))
        assert [first.status, second.status, third.status] == [IN_PROGRESS, IN_PROGRESS, IN_QUEUE]
        assert fleet.took(worker, gone, heard=False) == []
        assert fleet.took(worker, there, heard=True) == [second]
        assert (first.status, first.runs, first.delay_ms) == (IN_QUEUE, 0, None)
        assert (endpoint.queued, endpoint.running) == (2, 1)
        again = fleet.hold(worker, 2)
        assert fleet.took(worker, again, heard=True) == [first, third]
        clock.close()
        worker.folder.cleanup()

    asyncio.run(walk())


def test_a_worker_that_takes_nothing_is_replaced_when_its_idle_time_is_over() -> None:
    """A handler that hangs after a cancel holds no job-take; what waits is not left to the next call."""

    async def walk() -> None:
        fleet, worker = _fleet(EndpointConfig(workers_max=1, idle_timeout_s=5))
        fleet.rest(worker)
        fleet.endpoint.submit({"input": {"n": 1}}, sync=False)
        assert list(fleet.workers.values()) == [worker]
        await fleet.clock.advance(5)
        assert [each.id for each in fleet.workers.values()] == ["next"]
        fleet.clock.close()

    asyncio.run(walk())


def test_a_fast_clock_leaves_a_worker_the_time_to_ask_for_its_next_job() -> None:
    """The package asks about a second after a job, in real time: five virtual seconds are over by then."""

    async def walk() -> None:
        fleet, worker = _fleet(EndpointConfig(workers_max=1, idle_timeout_s=5), speed=60)
        fleet.rest(worker)
        await fleet.clock.advance(60)
        assert worker.id in fleet.workers
        await fleet.clock.advance(180)
        assert worker.id not in fleet.workers
        fleet.clock.close()

    asyncio.run(walk())


def test_a_worker_that_fell_silent_about_its_job_idles_out() -> None:
    """The package never reports a result that is no JSON: the platform goes by the pings."""

    async def walk() -> None:
        fleet, worker = _fleet(EndpointConfig(workers_max=1, lost_after_s=0.01, platform_retries=0))
        job = fleet.endpoint.submit({"input": {"n": 1}}, sync=False)
        worker.jobs[job.id] = job
        fleet.endpoint.start(job, worker.id)
        worker.seen[job.id] = 0.0
        fleet._look()
        assert job.error == "job timed out after 0 retries"
        await fleet.clock.advance(5)
        assert worker.id not in fleet.workers
        fleet.stop()
        fleet.clock.close()

    asyncio.run(walk())


def test_a_cancelled_worker_that_does_not_ask_what_to_stop_is_killed() -> None:
    """`runpod` before 1.10; one with other jobs goes on, and so does the cancelled job."""
    config = EndpointConfig(workers_max=1, idle_timeout_s=600)
    with (
        Emulator({"demo": config}, handlers={"demo": HERE / "handler_takes.py"}) as emulator,
        Caller(emulator) as call,
    ):
        alone = call.run({"sleep": 600})
        eventually(lambda: call.status(alone)["status"] == "IN_PROGRESS")
        first = call.status(alone)["workerId"]
        call.post(f"cancel/{alone}")
        two = [call.run({"sleep": 600}), call.run({"sleep": 2})]
        eventually(lambda: all(call.status(job)["status"] == "IN_PROGRESS" for job in two))
        second = call.status(two[0])["workerId"]
        call.post(f"cancel/{two[0]}")
        eventually(lambda: call.status(two[1])["status"] == "COMPLETED")
        assert second != first
        assert call.status(two[1])["workerId"] == second


@pytest.mark.parametrize("given", [None, "intranet.example", "*"])
def test_no_proxy_of_the_developers_stands_between_a_handler_and_the_emulator(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """The package's pings would take it, and a job without pings counts as lost; what is set already stays."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("NO_PROXY", given)
    fleet = ProcessFleet(Endpoint("demo", EndpointConfig(), Clock()), Handler(HERE / "handler_takes.py"))
    fleet.origin = "http://127.0.0.1:8700"
    worker = HandlerProcess()
    worker.folder.cleanup()
    environment = fleet._environment(worker)
    assert environment["no_proxy"] == environment["NO_PROXY"]
    for host in ("127.0.0.1", given):
        assert host is None or should_bypass_proxies(f"http://{host}/", no_proxy=environment["no_proxy"])


def _fleet(config: EndpointConfig, speed: float = 1.0) -> tuple[ProcessFleet, HandlerProcess]:
    """A fleet with one idle process that holds no job-take; the next one that it would begin is called "next"."""
    endpoint = Endpoint("demo", config, Clock(speed))
    fleet = endpoint.runners = ProcessFleet(endpoint, Handler(HERE / "handler_takes.py"))
    fleet._loop = asyncio.get_running_loop()

    def begin() -> HandlerProcess:
        began = HandlerProcess()
        began.folder.cleanup()
        began.id = "next"
        return began

    fleet.begin = begin  # type: ignore[method-assign]
    worker = HandlerProcess()
    worker.folder.cleanup()
    worker.state = READY
    fleet.workers[worker.id] = worker
    return fleet, worker
