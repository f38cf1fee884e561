"""Handlers and clients on a row of versions of the `runpod` package, each in an environment of its own, made by uv.

`pytest -m versions tests/emulator/workers/test_versions.py` needs a package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.emulator import Emulator, EndpointConfig, Handler
from tests.emulator.conftest import Caller
from tests.support.helpers import eventually

HERE = Path(__file__).parent

pytestmark = [pytest.mark.versions, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["1.6.2", "1.7.13", "1.8.2", "1.9.1", ""])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with that version; the empty one is the newest."""
    folder = tmp_path_factory.mktemp("environment")
    package = f"runpod=={request.param}" if request.param else "runpod"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", str(folder), "--python", sys.executable], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(folder / "bin/python"), package], check=True)
    return folder / "bin/python"


def test_replaced_workers_go_on_and_all_share_the_jobs(python: Path) -> None:
    """Each job refreshes its RunPod worker; the next one takes what waits."""
    handler = Handler(HERE / "handler_folder.py", str(python), ("--rp_log_level", "ERROR"))
    config = EndpointConfig(workers_max=2)
    with Emulator({"demo": config}, handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        jobs = [call.run({"n": n}) for n in range(4)]
        eventually(lambda: call.health()["jobs"]["completed"] == 4, timeout=300)
        outputs = [call.status(job)["output"] for job in jobs]
        assert len({one["cwd"] for one in outputs}) == 4
        assert not any(one["found"] for one in outputs)
        assert {one["python"] for one in outputs} == {str(python)}
        assert {tuple(one["argv"]) for one in outputs} == {("--rp_log_level", "ERROR")}


def test_concurrent_jobs_all_end(python: Path) -> None:
    """Whether the version holds one job-take for all of them or one for each."""
    handler = Handler(HERE / "handler_stream.py", str(python))
    config = EndpointConfig(workers_max=1)
    with Emulator({"demo": config}, handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        for n in range(12):
            call.run({"count": n % 3, "every": 0.05})
        eventually(lambda: call.health()["jobs"]["completed"] == 12, timeout=300)


def test_a_cancel_frees_the_runpod_worker(python: Path) -> None:
    """Told of it since 1.10; before, the process is killed. The next job is not behind the cancelled one."""
    handler = Handler(HERE / "handler_async.py", str(python))
    config = EndpointConfig(workers_max=1, idle_timeout_s=600)
    with Emulator({"demo": config}, handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        job = call.run({"progress": "begun", "sleep": 600})  # the package forgets a stop of what it has not begun
        eventually(lambda: call.status(job).get("output") == "begun", timeout=120)
        assert call.post(f"cancel/{job}").json() == {"id": job, "status": "CANCELLED"}
        after = call.run({"a": 1})
        eventually(lambda: call.status(after)["status"] == "COMPLETED", timeout=120)


def test_what_a_handler_returns_or_raises_reaches_the_caller(python: Path) -> None:
    """An error of its own beside the rest, an exception as the package's document, progress, `refresh_worker`."""
    handler = Handler(HERE / "handler_async.py", str(python))
    with Emulator({"demo": EndpointConfig()}, handlers={"demo": handler}) as emulator, Caller(emulator) as call:
        job = call.run({"progress": {"step": 1}, "sleep": 2})
        eventually(lambda: call.status(job).get("output") == {"step": 1}, timeout=120)
        eventually(lambda: call.status(job)["status"] == "COMPLETED", timeout=60)
        returned = call.runsync({"error": "no such style"})
        assert (returned["status"], returned["error"], returned["output"]) == ("FAILED", "no such style", {"seen": 1})
        raised = json.loads(call.runsync({"raise": "boom"})["error"])
        assert (raised["error_type"], raised["error_message"]) == ("<class 'ValueError'>", "boom")
        assert call.runsync({"refresh": True})["output"].keys() == {"pid"}


def test_the_packages_own_clients_work(python: Path) -> None:
    """From 1.8: 1.6 does not read RUNPOD_ENDPOINT_BASE_URL, `AsyncioEndpoint.health` of 1.7 has no address."""
    ask = [str(python), "-c", "import runpod; print(runpod.__version__)"]
    version = subprocess.run(ask, capture_output=True, text=True, check=True)
    if version.stdout.startswith(("1.6.", "1.7.")):
        pytest.skip("broken in the package itself")
    program = HERE.parent / "api" / "official_client.py"
    with Emulator(["demo"]) as emulator:
        environment = os.environ | {"RUNPOD_ENDPOINT_BASE_URL": emulator.base_url}
        done = subprocess.run(
            [str(python), str(program)], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["sync"]["stream"], seen["asyncio"]["stream"]) == (["a", "b", "c"], ["a", "b"])
