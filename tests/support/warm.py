"""Workers, engines and commands, forked from a parent that has imported what they need: a second of CPU less for each.

A child is what `python -m celery ...` or `python -m bridge.cli ...` is: a session, variables, files, signals and an end
of its own. Where that cannot be, it is started by its command: some variables are read as Python starts or as modules
are imported, and gevent must come before them. Tests about starts and ends start theirs by `House.start`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NoReturn

from bridge.embedded import tied
from tests.support.helpers import COMMAND_S

ROOT = Path(__file__).parents[2]
#: What every worker of Celery's imports by itself, sooner or later.
CELERY = (
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
#: What the bridge's imports beside, and its commands; its modules read no setting.
BRIDGE = (
    *CELERY,
    "bridge.app",
    "bridge.doors.celery.consumer.consumer",
    "bridge.process.build_engine",
    "bridge.cli.requests.request",
    "bridge.client",
)
PROGRAMS = ("celery", "bridge.cli")
#: How variables begin that are read before an import or by one.
EARLY = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "DJANGO_")
REQUEST_MAX = 1 << 17
_PR_SET_PDEATHSIG = 1


def dies_with_its_parent() -> None:
    """From here on this process is killed when the one that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A forked process, in the words of `subprocess.Popen`."""

    def __init__(self, told: socket.socket) -> None:
        """`told` brings a line with the process' id, and one with its end."""
        self._told = told
        self._lock = threading.Lock()
        self.pid = self._line()
        self._code: int | None = None

    def _line(self) -> int:
        """Without one, the process that watches was killed and the child with it."""
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
                    raise subprocess.TimeoutExpired("forked", timeout or 0)
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

    def fork(self, request: bytes, files: list[int]) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._asked, [request], [*files, theirs.fileno()])
        return Child(ours)

    def _end(self) -> None:
        self._asked.close()
        self._process.wait(30)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


_parents: dict[tuple[str, ...], _Parent] = {}


def _parent(modules: tuple[str, ...]) -> _Parent | None:
    """Made by the main thread alone: it would end with another one (`tied`)."""
    if modules not in _parents and threading.current_thread() is threading.main_thread():
        _parents[modules] = _Parent(modules)
    return _parents.get(modules)


def forked(
    command: list[str], environment: Mapping[str, str], files: tuple[IO[bytes], IO[bytes], IO[bytes]],
    modules: tuple[str, ...],
) -> Child | None:  # fmt: skip
    """What this command would be in the root, from a parent with these modules; None where it differs.

    `files` are its own: what it reads, writes, and writes of errors.
    """
    own = _environment()
    early = {name for name in own.keys() | environment.keys() if name.startswith(EARLY)}
    request = json.dumps([command[2:], dict(environment)]).encode()
    if (
        command[:2] != [sys.executable, "-m"]
        or command[2] not in PROGRAMS
        or any(word.endswith("gevent") for word in command)
        or any(own.get(name) != environment.get(name) for name in early)
        or len(request) > REQUEST_MAX
        or sys.platform != "linux"
        or (parent := _parent(modules)) is None
    ):
        return None
    return parent.fork(request, [file.fileno() for file in files])


def bridge(
    *words: str, environment: Mapping[str, str], given: str = "", timeout: float = COMMAND_S
) -> subprocess.CompletedProcess[str]:
    """One run of `bridge WORDS` to its end, as `subprocess.run` tells it; `given` is what it reads."""
    command = [sys.executable, "-m", "bridge.cli", *words]
    with TemporaryFile() as reads, TemporaryFile() as says, TemporaryFile() as complains:
        reads.write(given.encode())
        reads.seek(0)
        child = forked(command, environment, (reads, says, complains), BRIDGE)
        if child is None:
            return subprocess.run(
                command, cwd=ROOT, env=dict(environment), input=given, capture_output=True, text=True, timeout=timeout,
                check=False,
            )  # fmt: skip
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(COMMAND_S)
            raise
        for file in (says, complains):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, says.read().decode(), complains.read().decode())


# In the parent


def _watch(pid: int, told: socket.socket) -> NoReturn:
    """Say the child's id and later its end: nobody but its parent can know it."""
    told.send(b"%d" % pid)
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    told.send(b"%d" % (ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    told.recv(1)  # until it is heard and closed, the id is this process' own, and a signal to it finds it
    os.waitpid(pid, 0)
    os._exit(0)


def _children(asked: socket.socket, modules: list[str]) -> list[str]:
    """Fork for each request until nobody can send one; returns in a child alone, with its program and words."""
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who watches needs no burial
    while True:
        request, files, *_ = socket.recv_fds(asked, REQUEST_MAX, 4)
        if not request:
            os._exit(0)
        *standard, told = files
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    asked.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    dies_with_its_parent()
    program, environment = json.loads(request)
    line = socket.socket(fileno=told)
    if pid := os.fork():
        for file in standard:
            os.close(file)
        _watch(pid, line)
    line.close()
    dies_with_its_parent()
    os.setsid()
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    return [str(word) for word in program]


if __name__ == "__main__":
    program, *words = _children(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    sys.argv[1:] = words
    runpy.run_module(program, run_name="__main__", alter_sys=True)
