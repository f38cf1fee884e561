"""Handlers on a row of versions of the `runpod` package, each in an environment of its own, made by uv.

`pytest -m versions tests/emulator/workers/test_versions.py` needs a package index.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bridge.emulator import Emulator, EndpointConfig, Handler
from tests.emulator.conftest import Caller
from tests.support.helpers import eventually

HERE = Path(__file__).parent

pytestmark = [pytest.mark.versions, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["1.6.2", "1.7.13", "1.9.1", ""])
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
