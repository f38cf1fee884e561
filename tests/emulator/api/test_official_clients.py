"""RunPod's own Python package works against the emulator, unmodified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.emulator import Emulator

HEALTH = {
    "jobs": {"completed", "failed", "inProgress", "inQueue", "retried"},
    "workers": {"idle", "initializing", "ready", "running", "throttled", "unhealthy"},
}


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What the program in official_client.py saw."""
    program = Path(__file__).with_name("official_client.py")
    with Emulator(["demo"]) as emulator:
        done = subprocess.run(
            [sys.executable, str(program)],
            env=os.environ | {"RUNPOD_ENDPOINT_BASE_URL": emulator.base_url},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def test_the_synchronous_client_runs_streams_cancels_and_purges(seen: dict[str, dict[str, Any]]) -> None:
    """run_sync, run, output, status, stream, cancel, health, purge_queue."""
    sync = seen["sync"]
    assert sync["run_sync"] == {"prompt": "hi"}
    assert (sync["output"], sync["status"]) == ({"n": 1}, "COMPLETED")
    assert sync["stream"] == ["a", "b", "c"]
    assert sync["cancel"]["status"] == sync["cancelled"] == "CANCELLED"
    assert (sync["failed_output"], sync["failed"]) == (None, "FAILED")
    assert {name: set(fields) for name, fields in sync["health"].items()} == HEALTH
    assert sync["purge"] == {"removed": 0, "status": "completed"}


def test_the_asyncio_client_runs_streams_cancels_and_purges(seen: dict[str, dict[str, Any]]) -> None:
    """run, output, status, stream, cancel, health, purge_queue."""
    told = seen["asyncio"]
    assert (told["output"], told["status"]) == ({"n": 2}, "COMPLETED")
    assert told["stream"] == ["a", "b"]
    assert told["cancel"]["status"] == "CANCELLED"
    assert {name: set(fields) for name, fields in told["health"].items()} == HEALTH
    assert told["purge"]["status"] == "completed"
