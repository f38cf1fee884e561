"""Celery workers that are forked from a parent which has imported what they need: a second of CPU less for each start.

A child is what `python -m celery ...` is: a session, variables, output, signals and an end of its own. Where that
cannot be, it is started by its command: Python's and the linker's variables are read before any import, and gevent must
come before it. Tests about commands, starts and ends start theirs by `House.start`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import NoReturn

from bridge.embedded import tied

ROOT = Path(__file__).parents[2]
#: What every worker of Celery's imports by itself, sooner or later.
CELERY = (
    "celery.__main__",
    "celery.app.control",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.events.state",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.loops",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
)
#: What the bridge's imports beside; its module reads no setting.
BRIDGE = (*CELERY, "bridge.app", "bridge.doors.celery.consumer.consumer", "bridge.process.build_engine")
REQUEST_MAX = 1 << 17
_PR_SET_PDEATHSIG = 1


def dies_with_its_parent() -> None:
    """From here on this process is killed when the one that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A worker, in the words of `subprocess.Popen`."""

    def __init__(self, told: socket.socket) -> None:
        """`told` brings a line with the process' id, and one with its end."""
        self._told = told
        self._lock = threading.Lock()
        self.pid = self._line()
        self._code: int | None = None

    def _line(self) -> int:
        """Without one, the process that watches was killed and the worker with it."""
        return int(self._told.recv(16) or -signal.SIGKILL)

    def poll(self) -> int | None:
        """How it ended: its code, or the negative number of a signal; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        with self._lock:
            if self._code is None:
                if not select.select([self._told], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired("celery", timeout or 0)
                self._code = self._line()
                self._told.close()
            return self._code


class _Parent:
    """One process that forks; it ends with this one."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = tied(sys.executable, "-m", "tests.support.warm", str(theirs.fileno()), *modules)
        with theirs:
            self._process = subprocess.Popen(command, cwd=ROOT, env=_environment(), pass_fds=[theirs.fileno()])
        atexit.register(self._end)

    def fork(self, words: list[str], environment: dict[str, str], log: Path) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as out:
            request = json.dumps([words, environment]).encode()
            assert len(request) <= REQUEST_MAX
            socket.send_fds(self._asked, [request], [out.fileno(), theirs.fileno()])
        return Child(ours)

    def _end(self) -> None:
        self._asked.close()
        self._process.wait(30)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@cache
def _parent(modules: tuple[str, ...]) -> _Parent:
    return _Parent(modules)


def forked(command: list[str], environment: dict[str, str], log: Path, modules: tuple[str, ...]) -> Child | None:
    """What this command of Celery's would be in the root, from a parent with these modules; None where it differs."""
    own = _environment()
    early = {name for name in own.keys() | environment.keys() if name.startswith(("PYTHON", "LD_"))}
    if (
        command[:3] != [sys.executable, "-m", "celery"]
        or "gevent" in command
        or any(own.get(name) != environment.get(name) for name in early)
        or sys.platform != "linux"
        or threading.current_thread() is not threading.main_thread()  # the parent would end with it (`tied`)
    ):
        return None
    return _parent(modules).fork(command[3:], environment, log)


# In the parent


def _watch(pid: int, told: socket.socket) -> NoReturn:
    """Say the worker's id and later its end: nobody but its parent can know it."""
    told.send(b"%d" % pid)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    told.send(b"%d" % (ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    told.recv(1)  # until it is heard and closed, the id is this process' own, and a signal to it finds it
    os.waitpid(pid, 0)
    os._exit(0)


def _children(asked: socket.socket, modules: list[str]) -> list[str]:
    """Fork for each request until nobody can send one; returns in a child alone, with the words of its command."""
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who watches needs no burial
    while True:
        request, files, *_ = socket.recv_fds(asked, REQUEST_MAX, 2)
        if not request:
            os._exit(0)
        out, told = files
        if os.fork() == 0:
            break
        os.close(out)
        os.close(told)
    asked.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    dies_with_its_parent()
    words, environment = json.loads(request)
    line = socket.socket(fileno=told)
    if pid := os.fork():
        _watch(pid, line)
    line.close()
    dies_with_its_parent()
    os.setsid()
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.environ.clear()
    os.environ.update(environment)
    return [str(word) for word in words]


if __name__ == "__main__":
    sys.argv[1:] = _children(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    from celery.__main__ import __file__ as program
    from celery.__main__ import main

    sys.argv[0] = program
    main()
