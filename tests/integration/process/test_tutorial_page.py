"""docs/tutorial.md as a stranger follows it: every command, in one shell, in the order of the page."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.helpers import COMMAND_S, eventually, free_ports
from tests.support.house import ROOT

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
#: What each file of the page is called; it stands in its first line.
FILE = re.compile(r"# (\w+\.py)\n")


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    """First result, chord, stream, cancel, a killed worker, events; on other ports than the page's."""
    commands = []
    for kind, block in BLOCKS:
        if kind == "sh":
            commands.append(block)
        else:
            named = FILE.match(block)
            assert named is not None, block
            (tmp_path / named[1]).write_text(block)
    redis, emulator, http = free_ports(3)
    script = "\n".join(commands)
    for shown, here in (("6379", redis), ("8700", emulator), ("9464", http)):
        script = script.replace(f":{shown}", f":{here}").replace(f"--port {shown}", f"--port {here}")
    script = script.replace("bridge emulate", f"bridge emulate --port {emulator}")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BRIDGE_", "CELERY_", "RUNPOD_"))},
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BRIDGE_HTTP_BIND": f"127.0.0.1:{http}",
    }
    with tempfile.TemporaryFile() as said:
        shell = subprocess.Popen(
            ["/bin/bash", "-c", f"set -eu\n{script}\necho all done"],
            cwd=tmp_path,
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            shell.wait(COMMAND_S)
        finally:
            if _alive(shell.pid):
                os.killpg(shell.pid, signal.SIGTERM)
            shell.wait()
        said.seek(0)
        told = said.read().decode()
    eventually(lambda: not _alive(shell.pid))
    assert "all done" in told, told
    assert "{'prompt': 'a heron'}" in told
    assert "{'pages': [0, 1, 2, 3]}" in told
    assert "Once upon a time." in told
    assert "CANCELLED" in told
    assert "still here" in told
    names = re.findall(r" bridge\.job\.(\w+)$", told, re.MULTILINE)
    assert {"accepted", "submitted", "started", "chunk", "completed", "cancelled"} <= set(names)
    assert "retried" not in names
    assert not re.search(r"possible_duplicate\s+True", told)
    submits = re.findall(r"^tough-1 +\d+ bridge\.job\.submitted$", told, re.MULTILINE)
    assert len(submits) == 1, told  # a killed worker is no second submit
