"""A bridge worker with the oldest Celery and kombu that pyproject.toml allows; the lock has newer ones."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from celery import chain
from packaging.requirements import Requirement

from tests.support.helpers import eventually
from tests.support.house import ROOT, House

pytestmark = pytest.mark.versions


def oldest(*names: str) -> list[str]:
    """As pip takes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {wanted.name: wanted for wanted in map(Requirement, project["dependencies"])}
    return [f"{name}=={one.version}" for name in names for one in found[name].specifier if one.operator == ">="]


def test_the_oldest_celery_carries_a_chain_and_an_errback_that_is_one(redis_url: str, tmp_path: Path) -> None:
    """Everything but the two is this environment's."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=300)
    install = [str(environment / "bin" / "pip"), "install", "--quiet", "--no-deps", *oldest("celery", "kombu")]
    subprocess.run(install, check=True, timeout=600)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    behind = environment / "lib" / version / "site-packages" / "behind.pth"
    behind.write_text(sysconfig.get_path("purelib") + os.linesep)
    with House(tmp_path, broker=redis_url, redis_url=redis_url) as house:
        worker = house.start("worker", str(environment / "bin" / "python"), "-m", "bridge.cli", "worker")
        eventually(lambda: "ready." in worker.said() or not worker.running, timeout=30)
        assert worker.running, worker.said()[-3000:]
        assert f"v{oldest('celery')[0].partition('==')[2]} " in worker.said()
        house.foreign_worker()
        task = house.app.signature
        made = chain(task("tests.foreign.make", args=[1]), task("bridge.run", queue="bridge.run")).apply_async()
        assert made.get(timeout=60) == {"value": 1}
        errback = task("tests.foreign.note_error", args=["by-chain"]) | task("tests.foreign.note", args=["behind-it"])
        failed = house.send({"mock_error": "x"}, link_error=errback)
        assert isinstance(failed.get(timeout=60, propagate=False), Exception)
        assert eventually(lambda: house.client.lrange("noted:by-chain", 0, -1), timeout=20) == [failed.id]
        eventually(lambda: house.client.llen("noted:behind-it") == 1, timeout=20)
