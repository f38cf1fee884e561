"""docker/systemd/bridge@.service, as systemd reads it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.helpers import COMMAND_S
from tests.support.house import ROOT

UNIT = ROOT / "docker" / "systemd" / "bridge@.service"
HOW_TO_GET_IT = "systemd-analyze is not installed: it comes with systemd"


def analysed(*arguments: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze's answer; skips without it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip(HOW_TO_GET_IT)
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=COMMAND_S, check=False)


def test_systemd_finds_nothing_wrong_in_the_unit(tmp_path: Path) -> None:
    """Its program stands in here for the one that an installation has; a word that systemd does not know is found."""
    text = UNIT.read_text()
    program = Path(sys.executable).with_name("bridge")
    assert os.access(program, os.X_OK)
    unit = tmp_path / "bridge@1.service"
    unit.write_text(text.replace("/opt/runpod-bridge/bin/bridge", str(program)))
    done = analysed("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in analysed("verify", "--man=no", str(unit)).stderr


def test_the_unit_is_shut_in() -> None:
    """Under 2.5 of 10, where 10 is everything."""
    done = analysed("security", "--offline=yes", "--threshold=25", str(UNIT))
    assert done.returncode == 0, done.stdout


def test_the_unit_gives_the_bridge_time_to_stop_and_no_second_try_at_a_wrong_setting() -> None:
    """Its figures are those of the documentation."""
    text = UNIT.read_text()
    assert re.search(r"^RestartPreventExitStatus=11$", text, re.MULTILINE)
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert stop
    assert int(stop[1]) >= 30
