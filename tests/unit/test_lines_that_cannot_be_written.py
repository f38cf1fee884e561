"""Standard error is a file on a full disk, or a pipe that nobody reads any more: the work goes on without its lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: A loop whose every turn is told, and cannot be.
LOOP = """
import os, queue, sys
from bridge.runtime.loop import Loop
from bridge.telemetry import configure_logging

if sys.argv[1] == "full":
    sys.stderr = open("/dev/full", "w")
else:
    read, write = os.pipe()
    os.close(read)
    sys.stderr = os.fdopen(write, "w")
configure_logging()
turns = queue.SimpleQueue()

def once():
    turns.put(1)
    raise RuntimeError(f"fault {turns.qsize()}")

Loop("test", once).start()
try:
    for _ in range(3):
        turns.get(timeout=20)
except queue.Empty:
    os._exit(1)
os._exit(7)
"""


@pytest.mark.parametrize("where", ["full", "broken"])
def test_a_loop_goes_on_though_what_it_tells_cannot_be_written(where: str) -> None:
    """Its thread would be missing until the worker was started again, whatever became of the disk."""
    if where == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    done = subprocess.run([sys.executable, "-c", LOOP, where], check=False, timeout=180)
    assert done.returncode == 7
