"""How long jobs live and how they end: ttl, retention, executionTimeout, lost RunPod workers. Time is virtual."""

from __future__ import annotations

import json
from typing import Any

import pytest


def test_a_result_of_run_is_kept_half_an_hour(call: Any) -> None:
    """30 minutes after its end the job is not found."""
    job = call.run({"mock_delay": 60})
    call.emulator.advance(60.5)
    assert call.status(job)["status"] == "COMPLETED"
    call.emulator.advance(1790)
    assert call.get(f"status/{job}").status_code == 200
    call.emulator.advance(11)
    assert call.get(f"status/{job}").status_code == 404


def test_a_result_of_runsync_is_kept_one_minute(calling: Any) -> None:
    """Where `?wait` does not make that longer, as one page of the documentation has it."""
    call = calling(retention_follows_wait=False)
    job = call.runsync({"x": 1}, wait=300_000)["id"]
    call.emulator.advance(59)
    assert call.get(f"status/{job}").status_code == 200
    call.emulator.advance(2)
    assert call.get(f"status/{job}").status_code == 404


@pytest.mark.parametrize("workers", [0, 3])
def test_a_job_vanishes_at_its_ttl_queued_or_running(calling: Any, workers: int) -> None:
    """The ttl counts from submission; the job is deleted whatever it does."""
    call = calling(workers_max=workers)
    job = call.run({"mock_delay": 600}, policy={"ttl": 20_000})
    call.emulator.advance(19)
    assert call.status(job)["status"] == ("IN_PROGRESS" if workers else "IN_QUEUE")
    call.emulator.advance(2)
    assert call.get(f"status/{job}").status_code == 404
    assert call.health()["jobs"] == {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}


def test_a_job_past_its_ttl_may_be_timed_out_instead(calling: Any) -> None:
    """One page of the docs says so; the setting chooses, and such a job can be retried."""
    call = calling(workers_max=0, ttl_status="TIMED_OUT")
    job = call.run(policy={"ttl": 10_000})
    call.emulator.advance(11)
    assert call.status(job)["status"] == "TIMED_OUT"
    assert call.post(f"retry/{job}").json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize("low", [False, True])
def test_a_job_that_is_retried_after_its_ttl_runs_once(calling: Any, low: bool) -> None:
    """It is not left where it waited before, at whatever priority, for a second one to take."""
    call = calling(workers_max=1, jobs_per_worker=2, ttl_status="TIMED_OUT")
    others = [call.run({"mock_delay": 60}) for _ in range(2)]
    job = call.run({"mock_delay": 5, "mock_error": 1}, policy={"ttl": 20_000, "lowPriority": low})
    call.emulator.advance(21)
    assert call.status(job)["status"] == "TIMED_OUT"
    assert call.post(f"retry/{job}").json()["status"] == "IN_QUEUE"
    for other in others:
        call.post(f"cancel/{other}")
    call.emulator.advance(5.1)
    assert call.status(job)["status"] == "FAILED", "its first run, which mock_error has fail"


def test_execution_timeout_fails_the_job_late_in_the_live_words(call: Any) -> None:
    """FAILED `executionTimeout exceeded`, some seconds after the limit."""
    job = call.run({"mock_delay": 600}, policy={"executionTimeout": 5000})
    call.emulator.advance(7.9)
    assert call.status(job)["status"] == "IN_PROGRESS"
    call.emulator.advance(0.2)
    shown = call.status(job)
    assert (shown["status"], shown["error"]) == ("FAILED", "executionTimeout exceeded")
    assert 7900 <= shown["executionTime"] <= 8200


def test_execution_timeout_defaults_to_ten_minutes(call: Any) -> None:
    """A job of 599 s completes, one of 601 s does not."""
    short, long = call.run({"mock_delay": 599}), call.run({"mock_delay": 601})
    call.emulator.advance(605)
    assert call.status(short)["status"] == "COMPLETED"
    assert call.status(long)["error"] == "executionTimeout exceeded"


def test_a_chatty_job_is_timed_out_as_well(call: Any) -> None:
    """Chunks do not put the executionTimeout off."""
    job = call.run({"mock_stream": 100, "mock_delay": 2}, policy={"executionTimeout": 5000})
    call.emulator.advance(60)
    assert call.status(job)["error"] == "executionTimeout exceeded"


def test_a_lost_job_is_sent_out_once_more_and_then_failed(call: Any) -> None:
    """Status stays IN_PROGRESS, `retries` is 1, delayTime is computed anew; then FAILED as captured live."""
    job = call.run({"mock_crash": True})
    first = call.status(job)
    assert "retries" not in first
    call.emulator.advance(21)
    again = call.status(job)
    assert (again["status"], again["retries"]) == ("IN_PROGRESS", 1)
    assert again["delayTime"] >= 20_000 > first["delayTime"]
    call.emulator.advance(21)
    shown = call.status(job)
    assert (shown["status"], shown["error"]) == ("FAILED", "job timed out after 1 retries")
    assert call.health()["jobs"] == {"completed": 0, "failed": 1, "inProgress": 0, "inQueue": 0, "retried": 1}
    assert call.emulator.jobs("demo")[0]["runs"] == 2


def test_a_job_whose_worker_was_lost_once_completes(call: Any) -> None:
    """A crash on the first run only is repaired by the platform."""
    job = call.run({"mock_crash": 1, "mock_return": "fine"})
    call.emulator.advance(21)
    shown = call.status(job)
    assert (shown["status"], shown["output"], shown["retries"]) == ("COMPLETED", "fine", 1)


@pytest.mark.parametrize("body", [{"input": {}}, {"input": None}, {}])
def test_an_empty_input_that_is_let_in_is_dropped_and_fails_after_a_retry(calling: Any, body: dict[str, Any]) -> None:
    """RunPod's trap as seen live: the RunPod worker never answers for such a job."""
    call = calling(empty_input="accept")
    job = call.post("run", json=body).json()["id"]
    call.emulator.advance(45)
    assert call.status(job)["error"] == "job timed out after 1 retries"


def test_a_raising_handler_gives_a_json_string_and_a_returned_error_a_plain_one(call: Any) -> None:
    """As rp_job.py builds them."""
    raised = call.runsync({"mock_error": True})
    assert raised["status"] == "FAILED"
    told = json.loads(raised["error"])
    assert set(told) == {
        "error_type",
        "error_message",
        "error_traceback",
        "hostname",
        "worker_id",
        "runpod_version",
    }
    assert call.runsync({"mock_error": "no such model"})["error"] == "no such model"


def test_an_empty_result_is_completed_without_output(call: Any) -> None:
    """The SDK drops an empty dict; falsy values that are not empty dicts stay."""
    assert "output" not in call.runsync({"mock_return": {}})
    assert "output" not in call.runsync({"mock_return": None})
    assert call.runsync({"mock_return": 0})["output"] == 0
    assert call.runsync({"mock_return": []})["output"] == []


def test_progress_shows_as_output_while_in_progress(call: Any) -> None:
    """And the result takes its place."""
    job = call.run({"mock_progress": [{"at": 1}, {"at": 2}], "mock_delay": 30, "mock_return": "end"})
    seen = []
    for _ in range(4):
        seen.append((call.status(job)["status"], call.status(job).get("output")))
        call.emulator.advance(10.001)
    assert seen == [
        ("IN_PROGRESS", None),
        ("IN_PROGRESS", {"at": 1}),
        ("IN_PROGRESS", {"at": 2}),
        ("COMPLETED", "end"),
    ]


def test_the_counters_of_health_add_up(calling: Any) -> None:
    """Every job accepted is in exactly one of: completed, failed, in progress, in queue, cancelled, purged."""
    call = calling(workers_max=1, jobs_per_worker=2)
    jobs = [call.run({"mock_delay": 600}) for _ in range(6)]
    call.post(f"cancel/{jobs[0]}")
    call.post(f"cancel/{jobs[5]}")
    call.post("purge-queue")
    call.emulator.advance(601)
    for asked in ({"x": 1}, {"mock_error": "no"}, {"mock_delay": 600}, {"mock_delay": 600}, {"mock_delay": 600}):
        call.run(asked)
    call.emulator.advance(1)
    counts = call.emulator.counts()["demo"]
    assert call.health()["jobs"] == {"completed": 3, "failed": 1, "inProgress": 2, "inQueue": 1, "retried": 0}
    assert (counts["cancelled"], counts["removed"]) == (2, 2)
    assert counts["submitted"] == 11 == 3 + 1 + 2 + 1 + 2 + 2
