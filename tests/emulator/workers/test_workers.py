"""The built-in RunPod workers: scaling, cold starts, idle timeouts, pausing."""

from __future__ import annotations

from typing import Any

import pytest


def states(call: Any) -> list[str]:
    """Return the status of every job, sorted."""
    return sorted(job["status"] for job in call.emulator.jobs("demo"))


def test_jobs_wait_when_all_runpod_workers_are_busy(calling: Any) -> None:
    """Two RunPod workers of one job each run two of five; the rest follows in order."""
    call = calling(workers_max=2, jobs_per_worker=1)
    for number in range(5):
        call.run({"mock_delay": 10, "n": number})
    assert states(call).count("IN_PROGRESS") == 2
    assert call.health()["workers"]["running"] == 2
    call.emulator.advance(10.5)
    running = [job["input"]["n"] for job in call.emulator.jobs("demo") if job["status"] == "IN_PROGRESS"]
    assert running == [2, 3]


def test_a_cold_start_shows_as_initializing_and_in_delay_time(calling: Any) -> None:
    """A queued job during scale-up: inQueue 1, initializing 1."""
    call = calling(cold_start_s=30)
    job = call.run({"x": 1})
    assert call.health()["workers"]["initializing"] == 1
    assert call.health()["jobs"]["inQueue"] == 1
    call.emulator.advance(30.5)
    shown = call.status(job)
    assert shown["status"] == "COMPLETED"
    assert 30_000 <= shown["delayTime"] < 31_000


def test_an_idle_runpod_worker_goes_after_the_idle_timeout(calling: Any) -> None:
    """And workers_min of them stay."""
    call = calling(workers_min=1, workers_max=3, jobs_per_worker=1)
    for _ in range(3):
        call.run({"mock_delay": 1})
    assert call.health()["workers"]["running"] == 3
    call.emulator.advance(1.1)
    assert call.health()["workers"]["idle"] == 3
    call.emulator.advance(5.1)
    assert call.health()["workers"]["idle"] == 1


def test_no_runpod_workers_means_waiting_for_ever(calling: Any) -> None:
    """As on an endpoint that was scaled down to 0."""
    call = calling(workers_max=0)
    job = call.run()
    call.emulator.advance(3600)
    assert call.status(job) == {"id": job, "status": "IN_QUEUE"}


def test_low_priority_runs_when_nothing_else_waits_and_starts_no_runpod_worker(calling: Any) -> None:
    """policy.lowPriority ("send requests")."""
    call = calling(workers_max=1, jobs_per_worker=1)
    low = call.run({"x": "low"}, policy={"lowPriority": True})
    call.emulator.advance(60)
    assert call.status(low)["status"] == "IN_QUEUE"
    call.run({"mock_delay": 5})
    normal = call.run({"mock_delay": 5})
    call.emulator.advance(5.5)
    assert (call.status(normal)["status"], call.status(low)["status"]) == ("IN_PROGRESS", "IN_QUEUE")
    call.emulator.advance(5.5)
    assert call.status(low)["status"] == "COMPLETED"


def test_a_paused_endpoint_takes_jobs_and_runs_none(call: Any) -> None:
    """Until the faults are cleared."""
    call.emulator.fault("paused", endpoint="demo")
    job = call.run()
    call.emulator.advance(100)
    assert call.status(job)["status"] == "IN_QUEUE"
    call.emulator.clear_faults()
    call.emulator.advance(1)
    assert call.status(job)["status"] == "COMPLETED"


def test_a_thousand_jobs_run_at_once_by_default(calling: Any) -> None:
    """Nothing waits, and they end together."""
    call = calling(enforced=False)
    for _ in range(1000):
        call.run({"mock_delay": 100})
    assert call.health()["jobs"]["inProgress"] == 1000
    call.emulator.advance(102)
    assert call.health()["jobs"]["completed"] == 1000


def test_progress_in_the_mock_workers_form_comes_after_the_delay(call: Any) -> None:
    """`mock_delay` first, `wait_time` after each update, as its code does."""
    progress = {"updates": ["a", "b"], "wait_time": 10}
    job = call.run({"mock_progress": progress, "mock_delay": 5, "mock_return": "done"})
    for seconds, output in ((5.2, "a"), (10, "b")):
        call.emulator.advance(seconds)
        shown = call.status(job)
        assert (shown["status"], shown["output"]) == ("IN_PROGRESS", output)
    call.emulator.advance(10.2)
    assert call.status(job)["output"] == "done"


def test_without_echo_the_built_in_worker_says_hello_as_runpods(calling: Any) -> None:
    """As output, and as the one chunk of a generator."""
    assert calling(echo=False).runsync({"x": 1})["output"] == "Hello World!"
    call = calling(echo=False, generator=True, aggregate_streams=True)
    assert call.runsync({"x": 1})["output"] == ["Hello World!"]


def test_a_result_that_is_lost_on_its_way_is_as_a_lost_runpod_worker(call: Any) -> None:
    """`mock_external`: sent out once more, then failed."""
    job = call.run({"mock_external": {"error_job_return": True}})
    call.emulator.advance(60)
    shown = call.status(job)
    assert (shown["status"], shown["retries"]) == ("FAILED", 1)


def test_mock_refresh_replaces_the_runpod_worker_after_the_job(call: Any) -> None:
    """The output is what the package leaves of the mock worker's."""
    first = call.runsync({"mock_refresh": True, "mock_return": "x"})
    assert first["output"] == {"mock_return": "x"}
    second = call.runsync({"x": 1})
    assert second["workerId"] != first["workerId"]
    assert call.runsync({"x": 1})["workerId"] == second["workerId"]


def test_a_generator_yields_the_letters_of_a_text(calling: Any) -> None:
    """As Python's `for` goes over it in the mock worker."""
    call = calling(generator=True, aggregate_streams=True)
    assert call.runsync({"mock_return": "ab"})["output"] == ["a", "b"]


def test_a_generator_yields_the_items_of_mock_return(calling: Any) -> None:
    """Streamed; the output is their list where streams are aggregated, an empty one otherwise."""
    for aggregated in (True, False):
        call = calling(generator=True, aggregate_streams=aggregated)
        job = call.run({"mock_return": ["a", "b"]})
        assert [one["output"] for one in call.stream(job)["stream"]] == ["a", "b"]
        assert call.status(job)["output"] == (["a", "b"] if aggregated else [])


def test_what_mock_return_says_is_read_as_a_real_handlers_result(call: Any) -> None:
    """`error` fails the job beside its output, `refresh_worker` ends the RunPod worker; neither is output."""
    failed = call.runsync({"mock_return": {"error": "no face found", "seen": 0}})
    assert (failed["status"], failed["error"], failed["output"]) == ("FAILED", "no face found", {"seen": 0})
    bare = call.runsync({"mock_return": {"error": ["no", "face"]}})
    assert (bare["status"], bare["error"], "output" in bare) == ("FAILED", '["no", "face"]', False)
    fine = call.runsync({"mock_return": {"error": None, "seen": 1}})
    assert (fine["status"], fine["output"]) == ("COMPLETED", {"seen": 1})
    last = call.runsync({"mock_return": {"refresh_worker": True, "seen": 2}})
    assert (last["status"], last["output"]) == ("COMPLETED", {"seen": 2})
    assert call.runsync({"error": "echoed"})["output"] == {"error": "echoed"}
    assert call.runsync({"x": 1})["workerId"] != last["workerId"]


def test_a_chunk_with_an_error_fails_the_job_and_is_not_streamed(call: Any) -> None:
    """As the package has it; chunks before it stay."""
    job = call.runsync({"mock_stream": ["a", {"error": "out of memory"}, "b"], "mock_aggregate": True})
    assert (job["status"], job["error"], "output" in job) == ("FAILED", "out of memory", False)
    assert [one["output"] for one in call.stream(job["id"])["stream"]] == ["a"]


@pytest.mark.parametrize(
    "asked", [{"mock_stream": 10**9}, {"mock_progress": 10**9}, {"mock_progress": {"updates": 10**400}}]
)
def test_a_count_that_would_fill_the_memory_fails_its_job(call: Any, asked: dict[str, Any]) -> None:
    """By the name of the key; the next job runs."""
    job = call.runsync(asked)
    assert (job["status"], job["error"]) == ("FAILED", f"{next(iter(asked))}: a count may be 100000 at most")
    assert call.runsync({"x": 1})["status"] == "COMPLETED"


def test_a_delay_of_more_digits_than_a_float_has_is_a_long_one(call: Any) -> None:
    """As any other is."""
    assert call.runsync({"mock_delay": 10**400}, wait=1000)["status"] == "IN_PROGRESS"
    assert call.runsync({"mock_delay": -(10**400)})["status"] == "COMPLETED"
