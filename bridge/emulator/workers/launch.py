"""Run an unmodified handler file so that it never outlives the emulator. Started as a file of its own.

The handler's RunPod package forks a process of its own for pings, so each fork asks for the same.

Linux's death signal comes when the thread that forked ends, not its process. A fork of any thread but the first one
looks after its parent itself, or it would be killed as soon as a thread that only loads something is through.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

#: The process id of the emulator, which the handler must not outlive.
PARENT = "BRIDGE_EMULATOR_PID"

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, *, signalled: bool = True) -> None:
    """Have this process killed when the one with id `parent`, whose first thread started it, ends.

    Not `signalled`, it was started by another thread, and sees the end of `parent` a second late.
    """
    if signalled and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main() -> None:
    """Run the handler named by the first argument as the main program."""
    own = os.getpid()
    die_with(int(os.environ[PARENT]))
    forker = [own]
    forking = threading.local()

    def forks() -> None:
        forking.first = threading.get_native_id() == os.getpid()

    def forked() -> None:
        die_with(forker[0], signalled=forking.first)
        forker[0] = os.getpid()

    os.register_at_fork(before=forks, after_in_child=forked)
    file = sys.argv[1]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(file).parent)
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    main()
