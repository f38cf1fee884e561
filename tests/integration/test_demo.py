"""scripts/demo's program, as a user would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.support.house import ROOT


def test_the_demo_ends_as_it_should(tmp_path: Path) -> None:
    """Exit 0, a summary on stdout, a picture, and nothing left behind."""
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--json", "--out", str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert all(summary["checks"].values()), summary
    assert len(summary["checks"]) == 5
    with Image.open(picture) as image:
        assert image.size == (960, 640)


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
