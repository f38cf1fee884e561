"""Unmodified handlers in real processes of the real `runpod` package, driven over RunPod's worker protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.emulator import Emulator, EndpointConfig
from tests.emulator.conftest import Caller
from tests.support.helpers import eventually

HERE = Path(__file__).parent


def processes(of: Emulator) -> list[int]:
    """Return the ids of all processes started by the emulator `of`, by the address in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{of.base_url}/".encode() in environment:
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One emulator for the module, since a handler takes seconds to come up."""
    plain = EndpointConfig(
        workers_max=1, idle_timeout_s=600, lost_after_s=3, execution_timeout_lag_s=0.2, empty_input="accept"
    )
    handlers = {"plain": HERE / "handler_async.py", "stream": HERE / "handler_stream.py"}
    with Emulator({"plain": plain, "stream": plain}, handlers=handlers) as started:
        yield started


@pytest.fixture
def plain(emulator: Emulator) -> Iterator[Caller]:
    """The endpoint with the asynchronous handler."""
    with Caller(emulator, "plain") as caller:
        yield caller


@pytest.fixture
def stream(emulator: Emulator) -> Iterator[Caller]:
    """The endpoint with the generator."""
    with Caller(emulator, "stream") as caller:
        yield caller


def test_a_handler_gets_its_job_and_returns_its_output(plain: Caller) -> None:
    """One process serves one job after another; s3Config and webhook reach it, policy does not."""
    first = plain.runsync({"a": 1})
    assert first["output"]["echo"] == {"a": 1}
    assert first["output"]["keys"] == ["id", "input"]
    second = plain.runsync(
        {"a": 2}, s3Config={"bucketName": "b"}, webhook="http://127.0.0.1:1/", policy={"ttl": 60_000}
    )
    assert second["output"]["keys"] == ["id", "input", "s3Config", "webhook"]
    assert second["output"]["pid"] == first["output"]["pid"]
    assert second["workerId"] == first["workerId"]


def test_a_raising_handler_fails_the_job_with_the_packages_own_document(plain: Caller) -> None:
    """`error` is a JSON string with type, message, traceback and the RunPod worker's id."""
    shown = plain.runsync({"raise": "boom"})
    assert shown["status"] == "FAILED"
    error = json.loads(shown["error"])
    assert error["error_message"] == "boom"
    assert error["worker_id"] == shown["workerId"]


def test_a_returned_error_comes_with_the_rest_as_output(plain: Caller) -> None:
    """`{"error": x, ...rest}` gives both."""
    shown = plain.runsync({"error": "bad prompt"})
    assert (shown["status"], shown["error"], shown["output"]) == ("FAILED", "bad prompt", {"seen": 1})


def test_a_handler_that_returns_nothing_is_completed_without_output(plain: Caller) -> None:
    """Neither None nor an empty object is one, as with the built-in RunPod worker."""
    empty: list[Any] = [None, {}]
    for nothing in empty:
        shown = plain.runsync({"return": nothing})
        assert (shown["status"], "output" in shown) == ("COMPLETED", False)
    assert plain.runsync({"return": 0})["output"] == 0


@pytest.mark.slow
def test_a_progress_update_shows_while_the_job_runs(plain: Caller) -> None:
    """It is `output` while IN_PROGRESS."""
    job = plain.run({"progress": {"step": 1}, "sleep": 5})
    eventually(lambda: plain.status(job).get("output") == {"step": 1})
    assert plain.status(job)["status"] == "IN_PROGRESS"
    eventually(lambda: plain.status(job)["status"] == "COMPLETED")
    assert plain.status(job)["output"]["echo"]["sleep"] == 5


def test_refresh_worker_ends_the_process_after_the_job(plain: Caller) -> None:
    """The next job meets a new one."""
    old = plain.runsync({"refresh": True})
    assert old["status"] == "COMPLETED"
    new = plain.runsync({"a": 1})
    assert new["workerId"] != old["workerId"]


def test_cancel_stops_the_running_handler_however_early_it_comes(plain: Caller, tmp_path: Path) -> None:
    """Over job-stop; the process stays and takes the next job. IN_PROGRESS shows before the handler has begun."""
    process = plain.runsync({"a": 1})["output"]["pid"]
    note = tmp_path / "note"
    job = plain.run({"sleep": 60, "note": str(note)})
    eventually(lambda: plain.status(job)["status"] == "IN_PROGRESS")
    plain.post(f"cancel/{job}")
    eventually(lambda: note.exists() and note.read_text() == "stopped")
    assert plain.status(job)["status"] == "CANCELLED"
    assert plain.runsync({"a": 2})["output"]["pid"] == process


@pytest.mark.slow
def test_execution_timeout_tells_the_handler_and_ends_the_process(plain: Caller, tmp_path: Path) -> None:
    """The job fails, the handler hears of it (`asyncio.CancelledError`), the RunPod worker is gone."""
    note = tmp_path / "note"
    shown = plain.runsync({"sleep": 60, "note": str(note)}, policy={"executionTimeout": 5000})
    eventually(lambda: note.exists() and note.read_text() == "stopped")
    assert (shown["status"], shown["error"]) == ("FAILED", "executionTimeout exceeded")
    assert plain.runsync({"a": 1})["workerId"] != shown["workerId"]


@pytest.mark.slow
def test_a_handler_that_dies_under_its_job_is_replaced_and_the_job_fails_after_a_retry(plain: Caller) -> None:
    """Two deaths: `retries` 1, and the live words."""
    shown = plain.runsync({"die": True})
    assert (shown["status"], shown["error"]) == ("FAILED", "job timed out after 1 retries")
    assert shown["retries"] == 1
    assert plain.runsync({"a": 1})["status"] == "COMPLETED"


@pytest.mark.slow
def test_an_empty_input_is_rejected_by_the_package_and_never_answered(plain: Caller) -> None:
    """RunPod's trap, with the package's own validation."""
    assert plain.runsync({})["error"] == "job timed out after 1 retries"


def test_a_result_over_the_limit_is_completed_without_output(plain: Caller) -> None:
    """The RunPod worker logs a 400, the caller sees nothing (runpod-python#309)."""
    job = plain.run({"large": 11 * 1024 * 1024})
    shown = eventually(lambda: (now := plain.status(job))["status"] == "COMPLETED" and now)
    assert "output" not in shown


def test_a_generators_chunks_come_by_stream_and_as_aggregate(stream: Caller) -> None:
    """In order, once each."""
    job = stream.run({"count": 5, "every": 0.1})
    got: list[Any] = []
    while True:
        page = stream.stream(job)
        got += [chunk["output"]["number"] for chunk in page["stream"]]
        if page["status"] == "COMPLETED" and not page["stream"]:
            break
    assert got == [0, 1, 2, 3, 4]
    assert stream.status(job)["output"] == [{"number": n} for n in range(5)]


def test_a_generator_that_raises_fails_after_its_chunks(stream: Caller) -> None:
    """`error` begins as the package writes it, the chunks are there."""
    job = stream.run({"count": 2, "raise": True})
    shown = eventually(lambda: (now := stream.status(job))["status"] == "FAILED" and now)
    assert shown["error"].startswith("handler: in the middle")
    assert len(stream.stream(job)["stream"]) == 2


def test_a_streamed_completion_is_relayed_as_it_was_yielded(stream: Caller) -> None:
    """The body is what the handler's chunks say, in their order."""
    answer = stream.post("openai/v1/chat/completions", json={"stream": True, "messages": []})
    assert answer.headers["content-type"] == "text/event-stream"
    lines = [line for line in answer.text.splitlines() if line]
    assert [line.startswith("data: ") for line in lines] == [True] * 3
    assert '"Hello"' in lines[0]
    assert lines[-1] == "data: [DONE]"


def test_concurrent_jobs_share_a_process(stream: Caller) -> None:
    """The concurrency modifier of the handler decides."""
    stream.runsync({"count": 1})  # the process is up, and its modifier was asked
    jobs = [stream.run({"count": 20, "every": 0.1}) for _ in range(2)]

    def both() -> bool:
        shown = [stream.status(job) for job in jobs]
        return [one["status"] for one in shown] == ["IN_PROGRESS"] * 2 and len({one["workerId"] for one in shown}) == 1

    eventually(both)
    eventually(lambda: all(stream.status(job)["status"] == "COMPLETED" for job in jobs))


def test_only_the_emulators_own_processes_speak_the_worker_protocol(plain: Caller, emulator: Emulator) -> None:
    """The API key does not open it."""
    assert plain.get("job-take/x?gpu=y").status_code == 401
    assert httpx.get(f"{emulator.base_url}/nope/job-take/x").status_code == 404


def test_a_handler_that_never_comes_up_leaves_jobs_in_queue_and_shows_unhealthy() -> None:
    """A crash loop and no capacity look alike in the status alone."""
    config = EndpointConfig(workers_max=1, restart_s=0.5)
    with (
        Emulator({"broken": config}, handlers={"broken": HERE / "handler_broken.py"}) as emulator,
        Caller(emulator, "broken") as call,
    ):
        job = call.run({"x": 1})
        eventually(lambda: call.health()["workers"]["unhealthy"] == 1)
        assert call.status(job) == {"id": job, "status": "IN_QUEUE"}


@pytest.mark.slow
def test_an_idle_process_is_ended_and_stop_leaves_none() -> None:
    """Neither the handler nor the process it forks for pings."""
    config = EndpointConfig(workers_max=2, idle_timeout_s=1)
    handlers = {"plain": HERE / "handler_async.py"}
    with Emulator({"plain": config}, handlers=handlers) as emulator, Caller(emulator, "plain") as call:
        call.runsync({"x": 1})
        assert processes(emulator)
        eventually(lambda: not processes(emulator), timeout=60)
        call.run({"sleep": 60})
        eventually(lambda: call.health()["jobs"]["inProgress"] == 1)
    assert not processes(emulator)


@pytest.mark.parametrize("handler", ["handler_async.py", "handler_forks.py"])
@pytest.mark.skipif(sys.platform != "linux", reason="it looks for processes in /proc")
@pytest.mark.slow
def test_handlers_do_not_outlive_an_emulator_that_is_killed(tmp_path: Path, handler: str) -> None:
    """SIGKILL, no chance to clean up. Nor does what they have forked."""
    command = [sys.executable, "-m", "bridge.emulator", "--port", "0", "--handler", str(HERE / handler)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HERE.parents[2])
    with process:
        assert process.stdout is not None
        base = process.stdout.readline().strip().partition("=")[2]
        answer = httpx.post(
            f"{base}/demo/runsync", json={"input": {"x": 1}}, headers={"Authorization": "test-key"}, timeout=60
        )
        assert answer.json()["status"] == "COMPLETED"
        shadow = Emulator(port=int(base.rsplit(":", 1)[1].partition("/")[0]))  # for its address; never started
        shadow_processes = [pid for pid in processes(shadow) if pid != process.pid]
        assert len(shadow_processes) >= 2, "the handler and its ping process"
        process.kill()
        process.wait()
        eventually(lambda: not processes(shadow))
