"""The pytest plugin, in a pytest run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CONFTEST = 'pytest_plugins = ["bridge.emulator.pytest_plugin"]\n'
TESTS = """
import os

import httpx
import pytest

from bridge.emulator import EndpointConfig


def get(what):
    base = os.environ["RUNPOD_ENDPOINT_BASE_URL"]
    return httpx.get(f"{base}/{what}", headers={"Authorization": os.environ["RUNPOD_API_KEY"]})


def test_plain(runpod_emulator):
    assert get("demo/health").status_code == 200
    runpod_emulator.fault("500")
    assert get("demo/health").status_code == 500


@pytest.mark.runpod_emulator(endpoints={"flux": EndpointConfig()}, api_keys=["other"], speed=60)
def test_marked(runpod_emulator):
    assert get("flux/health").status_code == 200
    assert get("demo/health").status_code == 404


@pytest.mark.runpod_emulator(["one", "two"], ["other"])
def test_marked_without_names(runpod_emulator):
    assert get("two/health").status_code == 200
"""


def test_the_fixture_gives_each_test_its_own_emulator_and_environment(tmp_path: Path) -> None:
    """With and without the marker, whose arguments are Emulator's, named or not."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-p", "no:valkey"]
    done = subprocess.run(
        [*command, "--strict-markers", "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_recipe_for_a_workers_repository_works_as_it_stands(tmp_path: Path) -> None:
    """docs/test-a-worker.md, "In pytest": its block beside a handler."""
    page = (Path(__file__).parents[2] / "docs/test-a-worker.md").read_text()
    blocks = page.partition("## In pytest")[2].split("```python\n")[1:3]
    for name, block in zip(("conftest.py", "test_mine.py"), blocks, strict=True):
        (tmp_path / name).write_text(block.partition("```")[0])
    (tmp_path / "handler.py").write_text(
        "import runpod\n\nrunpod.serverless.start({'handler': lambda job: job['input']['prompt']})\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--strict-markers",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:valkey",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
