"""Every operation answers as the fact sheet's captures do."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.support.helpers import eventually


def test_run_answers_at_once_with_id_and_in_queue(call: Any) -> None:
    """The answer is exactly `{"id", "status"}`, and the id fits what RunPod's tools accept."""
    answer = call.post("run", json={"input": {"mock_delay": 600}})
    assert set(answer.json()) == {"id", "status"}
    assert answer.json()["status"] == "IN_QUEUE"
    assert re.fullmatch(r"[0-9a-f-]{36}-u1", answer.json()["id"])


def test_a_job_echoes_its_input_and_shows_its_timings(call: Any) -> None:
    """A finished job has delayTime, executionTime, id, output, status and workerId; nothing else."""
    job = call.run({"prompt": "hi"})
    done = eventually(lambda: (shown := call.status(job))["status"] == "COMPLETED" and shown)
    assert set(done) == {"delayTime", "executionTime", "id", "output", "status", "workerId"}
    assert done["output"] == {"prompt": "hi"}


def test_a_running_job_shows_no_execution_time(call: Any) -> None:
    """While IN_PROGRESS there are delayTime and workerId only."""
    job = call.run({"mock_delay": 600})
    assert set(call.status(job)) == {"delayTime", "id", "status", "workerId"}


def test_runsync_holds_until_the_job_has_ended(call: Any) -> None:
    """The answer is the finished job, with a sync id."""
    began = time.monotonic()
    done = call.runsync({"mock_delay": 0.3, "mock_return": [1, 2]})
    assert time.monotonic() - began >= 0.3
    assert done["status"] == "COMPLETED"
    assert done["output"] == [1, 2]
    assert done["id"].startswith("sync-")
    assert done["executionTime"] >= 299


def test_runsync_shows_the_true_status_when_its_wait_is_over(call: Any) -> None:
    """200 with IN_PROGRESS and an id to poll."""
    shown = call.runsync({"mock_delay": 600}, wait=1000)
    assert shown["status"] == "IN_PROGRESS"
    assert call.status(shown["id"])["status"] == "IN_PROGRESS"


def test_a_wait_out_of_range_is_clamped_or_rejected(calling: Any) -> None:
    """`wait` lies between 1000 and 300000 ms; what happens otherwise is a setting."""
    began = time.monotonic()
    assert calling().runsync({"mock_delay": 600}, wait=1)["status"] == "IN_PROGRESS"
    assert time.monotonic() - began >= 0.95
    rejected = calling(wait_out_of_range="reject").runsync({"x": 1}, wait=1)
    assert rejected["status"] == 400
    assert "wait" in rejected["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("op", ["status", "status-sync", "stream"])
def test_status_status_sync_and_stream_take_both_methods(call: Any, op: str, method: str) -> None:
    """Today's docs say GET; the Go SDK and older docs say POST."""
    job = call.run({"x": 1})
    answer = call.http.request(method, f"{op}/{job}")
    assert answer.status_code == 200
    assert answer.json()["id"] == job


def test_status_sync_returns_as_soon_as_the_job_ends(call: Any) -> None:
    """It holds while the job runs, and no longer."""
    began = time.monotonic()
    job = call.run({"mock_delay": 0.3})
    assert call.get(f"status-sync/{job}", params={"wait": "300000"}).json()["status"] == "COMPLETED"
    assert 0.3 <= time.monotonic() - began < 60  # of the five minutes that it would be held


def test_cancel_ends_a_running_job_and_keeps_it_cancelled(call: Any) -> None:
    """The answer is `{"id", "status": "CANCELLED"}`; the running one keeps its timings."""
    job = call.run({"mock_delay": 600})
    assert call.post(f"cancel/{job}").json() == {"id": job, "status": "CANCELLED"}
    shown = call.status(job)
    assert shown["status"] == "CANCELLED"
    assert "executionTime" in shown
    assert "output" not in shown


def test_cancel_of_a_queued_job_leaves_no_timings_and_never_runs_it(calling: Any) -> None:
    """A queued job that is cancelled shows id and status, and no RunPod worker gets it."""
    call = calling(workers_max=0)
    job = call.run({"x": 1})
    call.post(f"cancel/{job}")
    assert call.status(job) == {"id": job, "status": "CANCELLED"}
    assert call.emulator.jobs("demo")[0]["runs"] == 0


def test_cancel_of_an_ended_job_tells_its_true_status(calling: Any) -> None:
    """An ended job stays what it is; the other reading, 404, is a setting."""
    call = calling()
    job = call.runsync({"x": 1})["id"]
    assert call.post(f"cancel/{job}").json() == {"id": job, "status": "COMPLETED"}
    call = calling(cancel_ended="not_found")
    job = call.runsync({"x": 1})["id"]
    assert call.post(f"cancel/{job}").status_code == 404


def test_retry_runs_a_failed_job_again_under_its_id(call: Any) -> None:
    """Previous output and error are gone; the second run may succeed."""
    job = call.runsync({"mock_error": 1, "mock_return": "fine"})["id"]
    assert call.status(job)["status"] == "FAILED"
    assert call.post(f"retry/{job}").json() == {"id": job, "status": "IN_QUEUE"}
    done = eventually(lambda: (shown := call.status(job))["status"] == "COMPLETED" and shown)
    assert done["output"] == "fine"
    assert "error" not in done


def test_retry_is_for_failed_and_timed_out_jobs_alone(call: Any) -> None:
    """Everything else is a bad request."""
    running, done = call.run({"mock_delay": 600}), call.runsync({"x": 1})["id"]
    for job in (running, done):
        assert call.post(f"retry/{job}").status_code == 400
    assert call.status(done)["status"] == "COMPLETED"


def test_purge_removes_what_waits_and_nothing_else(calling: Any) -> None:
    """Running jobs go on; a purged job is not found any more."""
    call = calling(workers_max=1, jobs_per_worker=1)
    running = call.run({"mock_delay": 600})
    waiting = [call.run({"mock_delay": 600}) for _ in range(3)]
    assert call.post("purge-queue").json() == {"removed": 3, "status": "completed"}
    assert call.status(running)["status"] == "IN_PROGRESS"
    assert [call.get(f"status/{job}").status_code for job in waiting] == [404, 404, 404]
    assert call.post("purge-queue").json()["removed"] == 0


def test_purged_jobs_may_be_cancelled_instead(calling: Any) -> None:
    """What /status says of a purged job is an open question, so it is a setting."""
    call = calling(workers_max=0, purged="CANCELLED")
    job = call.run()
    call.post("purge-queue")
    assert call.status(job)["status"] == "CANCELLED"
    assert call.health()["jobs"]["inQueue"] == 0


def test_health_has_five_job_fields_and_six_worker_fields(call: Any) -> None:
    """The live shape; an idle RunPod worker counts as ready too."""
    call.runsync({"x": 1})
    health = call.health()
    assert health["jobs"] == {"completed": 1, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
    assert health["workers"] == {
        "idle": 1,
        "initializing": 0,
        "ready": 1,
        "running": 0,
        "throttled": 0,
        "unhealthy": 0,
    }


def test_requests_and_metrics_answer_in_the_shapes_that_clients_read(call: Any) -> None:
    """`/requests` as a third party types it, `/metrics` as RunPod's flash reads it."""
    job = call.runsync({"x": 1})
    listed = call.get("requests").json()["requests"]
    assert [(one["id"], one["status"]) for one in listed] == [(job["id"], "COMPLETED")]
    metrics = call.get("metrics").json()
    assert metrics["readyWorkers"] == [job["workerId"]]
    assert metrics["workers"]["ready"] == 1


@pytest.mark.parametrize("key", ["Bearer test-key", "test-key"])
def test_both_forms_of_the_key_are_let_in(call: Any, key: str) -> None:
    """RunPod's SDKs send Bearer, its own curl examples the bare key."""
    assert call.get("health", headers={"Authorization": key}).status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer wrong"}, {"Authorization": ""}, {}])
def test_a_wrong_or_missing_key_is_401_and_does_nothing(call: Any, headers: dict[str, str]) -> None:
    """401 is plain text, and no job exists afterwards."""
    answer = httpx.post(f"{call.emulator.base_url}/demo/run", json={"input": {"x": 1}}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/plain")
    assert call.emulator.jobs("demo") == []


def test_status_ttl_shortens_how_long_a_result_is_kept(call: Any) -> None:
    """`?ttl=6000` removes the result 6 s later instead of after its retention."""
    job = call.runsync({"x": 1})["id"]
    assert call.status(job, ttl="6000")["status"] == "COMPLETED"
    call.emulator.advance(5)
    assert call.get(f"status/{job}").status_code == 200
    call.emulator.advance(2)
    assert call.get(f"status/{job}").status_code == 404


@pytest.mark.parametrize("ttl", ["3600000", "9" * 400])
def test_status_ttl_makes_no_result_last_longer(call: Any, ttl: str) -> None:
    """Half an hour stays half an hour, however often and for however long somebody asks."""
    job = call.run({"x": 1})
    eventually(lambda: call.status(job, ttl=ttl)["status"] == "COMPLETED")
    for _ in range(3):
        call.emulator.advance(590)
        assert call.get(f"status/{job}", params={"ttl": ttl}).status_code == 200
    call.emulator.advance(40)
    assert call.get(f"status/{job}").status_code == 404
