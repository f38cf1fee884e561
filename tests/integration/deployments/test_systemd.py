"""docker/systemd/bridge@.service, as systemd reads it."""

from __future__ import annotations

import json
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
COMMAND = UNIT.with_name("runpod-bridge")
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


def test_the_command_of_such_a_host_has_the_units_settings_and_key(tmp_path: Path) -> None:
    """Under a name that is not iproute2's; each line of settings.env is what systemd makes of it."""
    unit, script = UNIT.read_text(), COMMAND.read_text()
    for path in ("/opt/runpod-bridge/bin/bridge", "/etc/runpod-bridge"):
        assert path in unit
        assert path in script
    program = tmp_path / "bridge"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    )
    program.chmod(0o755)
    (tmp_path / "settings.env").write_text(
        "# a comment\n\nBRIDGE_REDIS_URL=sentinel://s1:1,s2:2/0?master_name=m&db=1\nRUNPOD_ENDPOINT_ID='abc 123'\n"
        'BRIDGE_BLOB_OPTIONS={"key": "a$b"}\nBRIDGE_NAME="it is"'
    )
    command = tmp_path / COMMAND.name
    command.write_text(
        script.replace("/opt/runpod-bridge/bin/bridge", str(program)).replace("/etc/runpod-bridge", str(tmp_path))
    )
    done = subprocess.run(
        ["/bin/sh", str(command), "run", "--input", '{"a": "b c"}'],
        env={}, capture_output=True, text=True, timeout=COMMAND_S, check=True,
    )  # fmt: skip
    words, environment = json.loads(done.stdout)
    assert words == ["run", "--input", '{"a": "b c"}']
    assert environment["BRIDGE_REDIS_URL"] == "sentinel://s1:1,s2:2/0?master_name=m&db=1"
    assert environment["RUNPOD_ENDPOINT_ID"] == "abc 123"
    assert environment["BRIDGE_BLOB_OPTIONS"] == '{"key": "a$b"}'
    assert environment["BRIDGE_NAME"] == "it is"
    assert environment["RUNPOD_API_KEY_FILE"] == str(tmp_path / "runpod_api_key")


def test_the_page_installs_all_that_such_a_host_needs() -> None:
    """Units and command; they can be run as they stand."""
    page = (ROOT / "docs" / "deploying.md").read_text()
    for file in UNIT.parent.iterdir():
        assert f"docker/systemd/{file.name} " in page
    assert os.access(COMMAND, os.X_OK)
    assert subprocess.run(["/bin/sh", "-n", str(COMMAND)], check=False).returncode == 0


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
