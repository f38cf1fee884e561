"""A child that is forked while a thread of its parent writes a line: prefork's pool renews its children at any time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: The parent's line is under way until the child has ended; who waits for it is killed after a while.
FORKS = """
import os, sys, threading
from bridge.telemetry import configure_logging, tell

parent, writing, goes_on = os.getpid(), threading.Event(), threading.Event()

class File:
    def write(self, text):
        if os.getpid() == parent:
            writing.set()
            goes_on.wait()
    def flush(self):
        pass
    def isatty(self):
        return False

def line():
    tell("loop.failed", loop=str(os.getpid()), error="y", fails=1)

sys.stderr = File()
configure_logging()
threading.Thread(target=line, daemon=True).start()
writing.wait()
configure_logging()  # as a worker does that starts; who has written before goes on as it was
child = os.fork()
if not child:
    line()
    os._exit(7)
threading.Timer(20, os.kill, (child, 9)).start()
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
goes_on.set()
os._exit(code if code > 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no prefork either")
def test_a_child_writes_its_lines_though_it_was_forked_in_the_middle_of_one() -> None:
    """Else its first line would never end, and its message never be acked."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=False, timeout=180)
    assert done.returncode == 7
