"""RunPod's own JavaScript package works against the emulator, unmodified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bridge.emulator import Emulator

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).with_name("npm")
HOW_TO_GET_IT = "needs Node.js 18 or later and: npm install --no-package-lock --prefix tests/emulator/api/npm"


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the program in npm/client.mjs saw."""
    node = shutil.which("node")
    if node is None or not (FOLDER / "node_modules" / "runpod-sdk").is_dir():
        pytest.skip(HOW_TO_GET_IT)
    with Emulator(["demo"]) as emulator:
        done = subprocess.run(
            [node, "client.mjs"],
            cwd=FOLDER,
            env=os.environ | {"RUNPOD_ENDPOINT_BASE_URL": emulator.base_url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_run_status_and_status_sync(seen: dict[str, Any]) -> None:
    """From IN_QUEUE over IN_PROGRESS to the output."""
    assert (seen["run"]["status"], seen["status"]["status"]) == ("IN_QUEUE", "IN_PROGRESS")
    assert (seen["statusSync"]["status"], seen["statusSync"]["output"]) == ("COMPLETED", {"n": 1})
    assert seen["statusSync"]["succeeded"] is True


def test_run_sync_ends_or_gives_the_unfinished_job(seen: dict[str, Any]) -> None:
    """Within its timeout the result, over it the last state."""
    assert seen["runSync"]["output"] == {"prompt": "hi"}
    assert (seen["runSyncLong"]["status"], seen["runSyncLong"]["completed"]) == ("IN_PROGRESS", False)
    assert (seen["failed"]["status"], seen["failed"]["succeeded"]) == ("FAILED", False)


def test_stream_cancel_health_and_purge(seen: dict[str, Any]) -> None:
    """Everything else that the package offers."""
    assert seen["stream"] == ["a", "b", "c"]
    assert seen["cancel"]["status"] == "CANCELLED"
    assert set(seen["health"]) == {"jobs", "workers"}
    assert seen["purge"]["status"] == "completed"
    assert seen["unknown"] == "refused"
