"""scripts/demo's program, as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from bridge.ledger import connect
from tests.support.house import ROOT

pytestmark = pytest.mark.slow


def test_the_demo_ends_as_it_should_whatever_the_shell_is_set_to(redis_url: str, tmp_path: Path) -> None:
    """Exit 0, a summary on stdout, a picture that git does not see, and not a word to the shell's own broker."""
    shell = {
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "CELERY_CONFIG_MODULE": "no_such_module",
        "BRIDGE_REDIS_URL": redis_url,
        "BRIDGE_PREFIX": "live:",
        "BRIDGE_CONFIG_FILE": "/no/such/file",
        "BRIDGE_ENDPOINTS": "theirs",
        "RUNPOD_API_KEY": "rpa_of_the_shell",
        "RUNPOD_ENDPOINT_BASE_URL": "http://127.0.0.1:9/v2",
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    drawn = tmp_path / "demo.svg"
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--json", "--svg", str(drawn)],
        cwd=ROOT,
        env=os.environ | shell,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert all(summary["checks"].values()), summary
    assert len(summary["checks"]) == 5
    with Image.open(summary["picture"]) as image:
        assert image.size == (960, 640)
    terminal = drawn.read_text()  # the picture of the README: it names no place of this machine, and no other server
    assert all(word in terminal for word in ("completed", "cancelled", "failed"))
    assert str(ROOT) not in terminal
    assert "@font-face" not in terminal
    if (git := shutil.which("git")) and (ROOT / ".git").exists():
        ignored = subprocess.run([git, "check-ignore", "-q", summary["picture"]], cwd=ROOT, check=False)
        assert ignored.returncode == 0, "the picture is an untracked file"
    with closing(connect(redis_url)) as client:
        assert client.dbsize() == 0, client.keys()


def test_live_without_its_variables_says_what_is_missing() -> None:
    """A clear error, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--live"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "--live needs RUNPOD_API_KEY and RUNPOD_ENDPOINT_ID" in done.stderr
    assert "Traceback" not in done.stderr
