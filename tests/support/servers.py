"""Private servers for tests: a Redis and a RabbitMQ node that belong to one test run and end with it.

Nothing here touches a server that runs already: ports, directories, node name and Erlang's port mapper
(epmd) are the run's own. Every process is tied to this one (bridge.embedded.tied), so that an interrupted
or killed test run leaves none behind. `kill`, `freeze` and `restart` are for chaos tests.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import redis

from bridge.embedded import EmbeddedRedis, tied
from tests.support.helpers import eventually, free_ports

#: Seconds for a RabbitMQ node from start to first greeting (usual: 4 to 7) and to a good end (usual: 2 to 4).
RABBITMQ_START_S = 240.0
RABBITMQ_STOP_S = 120.0
#: Databases of the private Redis: each test gets a fresh one, so nothing is ever flushed.
REDIS_DATABASES = 4096

HOW_TO_GET_RABBITMQ = (
    "RabbitMQ's server is not installed: Debian and Ubuntu: apt-get install rabbitmq-server; "
    "macOS: brew install rabbitmq; elsewhere put rabbitmq-server on PATH or set RABBITMQ_SERVER_BIN"
)


class CanBeHurt(ABC):
    """What a test does to a server of its own."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of a server that runs."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether it has not ended."""

    def kill(self) -> None:
        """Kill -9, and return when it is gone; `start` brings it back on the same port with its data.

        A quorum queue of RabbitMQ declared in the last seconds may be lost by this, which is RabbitMQ's own fault.
        """
        os.kill(self.pid, signal.SIGKILL)
        eventually(lambda: not self.running)

    def freeze(self) -> None:
        """Stop the process where it is; connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)


class RedisServer(EmbeddedRedis, CanBeHurt):
    """A private Redis (the system's, as the older one, else the embedded one) that can be hurt."""

    def __init__(self, directory: Path) -> None:
        system = shutil.which("redis-server")
        binary = None if os.environ.get("REDIS_SERVER_BIN") or system is None else Path(system)
        self.socket = directory / "redis.sock"
        options = ("--databases", str(REDIS_DATABASES), "--unixsocket", str(self.socket))
        super().__init__(directory=directory, binary=binary, options=options)
        self._numbers = itertools.count(1)

    def fresh_url(self) -> str:
        """Return the URL of a database that nobody has used."""
        return f"redis://127.0.0.1:{self.port}/{next(self._numbers)}"

    def restart(self) -> None:
        """Kill -9 once every write that was answered is in the file, and start again."""
        with redis.Redis(port=self.port) as client:
            client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        self.wait_for_file()
        self.kill()
        self.start()

    def wait_for_file(self) -> None:
        """Return when the append-only file holds every write that was answered before this call.

        While a sync of the disk takes long, `appendfsync everysec` keeps later writes in Redis' own memory, for two
        seconds at most, and they die with it (docs/operations.md says what that means). A test that kills for the
        bridge's sake must not depend on how slow a disk is.
        """
        with redis.Redis(port=self.port) as client:
            eventually(lambda: _unwritten_bytes(client) == 0)

    def stop(self) -> None:
        """End it, frozen or not."""
        if self.running:
            self.thaw()
        super().stop()


def _unwritten_bytes(client: redis.Redis) -> int:
    """What the append-only file will hold and the system has not been given yet."""
    told: Any = client.info("persistence")
    return int(told["aof_buffer_length"])


def find_rabbitmq() -> Path | None:
    """Return the rabbitmq-server script that an ordinary user may run, or None."""
    if chosen := os.environ.get("RABBITMQ_SERVER_BIN"):
        return Path(chosen) if shutil.which(chosen) else None
    # Debian's wrapper on PATH wants root; the script behind it does not.
    inner = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if inner.exists():
        return inner
    found = shutil.which("rabbitmq-server")
    return Path(found).resolve() if found else None


class RabbitServer(CanBeHurt):
    """One private RabbitMQ node: own name, ports, epmd, cookie and directories, all on loopback."""

    def __init__(self, script: Path, directory: Path) -> None:
        self._script = script
        self._home = directory
        self.port, self._distribution, self._mapper = free_ports(3)
        self.node = f"t{self.port}@localhost"
        self._cookie = secrets.token_hex(16)
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (self._home / "plugins").write_text("[].")
        (self._home / "node.conf").write_text(
            "loopback_users = none\n"
            # Small figures: a test machine's disk or memory must not block publishers.
            "disk_free_limit.absolute = 50MB\n"
            "vm_memory_high_watermark.absolute = 1GiB\n"
            "log.file.level = warning\n"
        )
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test-{number}" for number in itertools.count(1))

    def told(self) -> dict[str, Any]:
        """What another process of this machine must know to use it."""
        own = {"home": str(self._home), "cookie": self._cookie}
        return {**own, "port": self.port, "distribution": self._distribution, "mapper": self._mapper}

    def _take(self, told: Mapping[str, Any], *, names: str) -> None:
        """Be the node that another process told of; virtual hosts are named apart from those of others."""
        self._home, self._cookie = Path(told["home"]), told["cookie"]
        self.port, self._distribution, self._mapper = told["port"], told["distribution"], told["mapper"]
        self.node = f"t{self.port}@localhost"
        self._names = (f"{names}-{number}" for number in itertools.count(1))

    @property
    def pid(self) -> int:
        """The node's process id."""
        assert self._process is not None, "the node was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the node's process is alive (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    def url(self, vhost: str = "%2F") -> str:
        """Return the AMQP address of a virtual host (percent-encoded)."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    def fresh_url(self) -> str:
        """Return the URL of a new virtual host, which takes about 0.1 s to make."""
        name = next(self._names)
        self.erl(
            f'ok = case rabbit_vhost:add(<<"{name}">>, <<"guest">>) of {{error, W}} -> W; _ -> ok end, '
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"guest">>)'
        )
        return self.url(name)

    def erl(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node and return its printed value."""
        if erl_call := shutil.which("erl_call"):
            # A small C program: 15 ms a call. rabbitmqctl, an Erlang node of its own, takes a second.
            # By a name of its own: a node takes no second one of the same name, and others may call at this moment.
            name, place = f"c{secrets.token_hex(4)}", f"127.0.0.1:{self._distribution}"
            command = [erl_call, "-h", name, "-c", self._cookie, "-address", place, "-e"]
        else:
            command = [str(self._script.with_name("rabbitmqctl")), "-n", self.node, "eval", f"{expression}."]
        done = subprocess.run(
            command,
            input=f"{expression}.\n",
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        answer = done.stdout.strip()
        # erl_call prints {ok, Value} or {error, Reason} and returns 0 for both.
        failed = done.returncode != 0 or answer.startswith("{error, ")
        assert not failed, f"{self.node} on {expression}: {answer} {done.stderr}"
        return answer.removeprefix("{ok, ").removesuffix("}") if erl_call else answer

    def start(self) -> Self:
        """Start the node and return when it greets on AMQP; already running, do nothing."""
        if self.running:
            return self
        if self._epmd is None:
            mapper = tied("epmd", "-port", str(self._mapper), "-address", "127.0.0.1")
            self._epmd = self._spawn(mapper, "epmd.log")
            eventually(lambda: _connects(self._mapper))
        node = self._process = self._spawn(tied(self._script), "node.log")
        deadline = time.monotonic() + RABBITMQ_START_S
        while not _greets(self.port):
            if node.poll() is not None or time.monotonic() > deadline:
                log = (self._home / "node.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{self.node} did not start: {log}")
            time.sleep(0.05)
        return self

    def restart(self) -> None:
        """End it in good order and start it again."""
        self._end(self._process)
        self.start()

    def stop(self) -> None:
        """End the node and its epmd, frozen or not."""
        if self.running:
            self.thaw()
        self._end(self._process)
        self._end(self._epmd)
        self._process = self._epmd = None

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self._home / log).open("ab") as sink:
            return subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None:
            return
        process.terminate()
        try:
            process.wait(RABBITMQ_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def _environment(self) -> dict[str, str]:
        home = self._home
        mine = {
            "HOME": home,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution,
            "ERL_EPMD_PORT": self._mapper,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": home / "mnesia",
            "RABBITMQ_LOG_BASE": home / "log",
            "RABBITMQ_PID_FILE": home / "node.pid",
            "RABBITMQ_CONFIG_FILE": home / "node.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": home / "none.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": home / "plugins",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # One scheduler that sleeps when idle: tests share two cores.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            # Makes the start script become the node, so that its process id is the node's.
            "detached": "true",
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {name: str(value) for name, value in mine.items()}


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def _greets(port: int) -> bool:
    """Whether an AMQP broker opens with connection.start, a method frame of channel 0."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=2) as connection,
    ):
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        return connection.recv(3) == b"\x01\x00\x00"
    return False
