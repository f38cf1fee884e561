"""The real Flower, in an environment of its own: what it shows of jobs, and what its revoke does.

`FLOWER_PICTURE=docs/images/flower.png pytest -m versions tests/integration/doors/celery/worker/test_flower.py` renews
the picture of docs/monitoring.md; that needs a browser.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chromium import HOW_TO_GET_CHROMIUM, find_chromium
from tests.support.helpers import eventually, free_port
from tests.support.house import House

pytestmark = pytest.mark.versions


@pytest.fixture(scope="module")
def celery_of_flower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `celery` command beside a Flower from the index."""
    environment = tmp_path_factory.mktemp("flower") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=300)
    command = [str(environment / "bin" / "pip"), "install", "--quiet", "flower>=2", "celery[redis]"]
    subprocess.run(command, check=True, timeout=600)
    return environment / "bin" / "celery"


def test_flower_shows_jobs_and_its_revoke_cancels_at_runpod(
    celery_of_flower: Path, tmp_path: Path, redis_url: str
) -> None:
    """Name, state, arguments, result and run time; asked for by Flower itself, the workers know of no `-E`."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house, httpx.Client(base_url=address) as flower:
        worker = house.worker()
        # Its own directory: in that of the project it would find another app's settings.
        words = ["--workdir", str(tmp_path), "-b", redis_url, "flower", "--address=127.0.0.1", f"--port={port}"]
        words.append("--tasks-columns=name,uuid,state,args,kwargs,result,runtime,worker")
        more = {"FLOWER_UNAUTHENTICATED_API": "true", "PYTHONPATH": ""}
        house.start("flower", str(celery_of_flower), *words, **more)
        eventually(lambda: flower.get("/api/workers", params={"refresh": 1}).json(), timeout=30)
        eventually(lambda: "Events of group {task} enabled" in worker.said(), timeout=30)

        def shown(request_id: str) -> dict[str, Any]:
            answer: dict[str, Any] = flower.get(f"/api/task/info/{request_id}").json()
            return answer

        def has(sent: Any, state: str) -> dict[str, Any]:
            eventually(lambda: shown(sent.id)["state"] == state, timeout=30)
            return shown(sent.id)

        done = house.send({"prompt": "a heron", "steps": 30, "mock_delay": 1.4}, timeout=60_000)
        failed = house.send({"prompt": "a heron", "mock_error": "out of memory"})
        runs, cancelled = house.send({"mock_delay": 600}), house.send({"mock_delay": 600})

        told = has(done, "SUCCESS")
        assert told["name"] == "bridge.run"
        assert told["kwargs"] == "{'timeout': 60000, 'input': {'prompt': '***', 'steps': 30, 'mock_delay': 1.4}}"
        assert told["result"] == "{'prompt': 'a heron', 'steps': 30, 'mock_delay': 1.4}"
        assert told["runtime"] == pytest.approx(1.4, abs=0.3)
        assert "out of memory" in has(failed, "FAILURE")["exception"]
        has(runs, "STARTED")
        has(cancelled, "STARTED")
        flower.post(f"/api/task/revoke/{cancelled.id}", params={"terminate": "true"}).raise_for_status()
        has(cancelled, "REVOKED")
        assert [call["op"] for call in house.emulator.calls()].count("cancel") == 1
        assert house.names_of(cancelled.id)[-1] == "cancelled"
        if picture := os.environ.get("FLOWER_PICTURE"):
            options = [
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                "--window-size=1880,560",
                "--virtual-time-budget=10000",
            ]
            command = [
                find_chromium() or pytest.fail(HOW_TO_GET_CHROMIUM),
                *options,
                f"--screenshot={Path(picture).absolute()}",
            ]
            subprocess.run([*command, f"{address}/tasks"], check=True, timeout=120)
