"""A test that does not run says so: loudly at home, and as a failure in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import COMMAND_S
from tests.support.house import ROOT

TESTS = """
import pytest

@pytest.fixture(scope="session")
def server():
    pytest.skip("no server here")

def test_by_a_fixture(server): ...

@pytest.mark.skipif(True, reason="no such system")
def test_by_a_mark(): ...

def test_by_itself():
    pytest.skip("no program here")

@pytest.mark.xfail(strict=True)
def test_that_is_to_fail():
    raise AssertionError
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "3 skipped, 1 xfailed"), ("true", "1 failed, 1 xfailed, 2 errors")])
def test_what_is_skipped_is_told_at_home_and_fails_in_ci(ci: str, outcome: str, tmp_path: Path) -> None:
    """By whatever way it is skipped; what is expected to fail is no skip."""
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "CI": ci}, capture_output=True, text=True,
        timeout=COMMAND_S, check=False,
    )  # fmt: skip
    assert outcome in done.stdout.splitlines()[-1], done.stdout
    assert all(why in done.stdout for why in ("no server here", "no such system", "no program here"))
    assert ("3 tests did not run" in done.stdout) == (not ci)
