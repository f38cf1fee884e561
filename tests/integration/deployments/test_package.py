"""`scripts/package`: what is published can be installed alone, and does a job."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.house import ROOT


@pytest.mark.versions
@pytest.mark.timeout(900)
def test_wheel_and_sdist_do_a_job_in_an_empty_environment_of_this_python() -> None:
    """And a Python that is not there is named, and tried by nobody."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(
        [str(ROOT / "scripts" / "package"), here, "3.99"], capture_output=True, text=True, timeout=880, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("checked, and a job has run") == 2
    assert f"tried on Python {here}\n" in done.stdout
    assert "NOT TRIED, no interpreter here: Python 3.99" in done.stderr
