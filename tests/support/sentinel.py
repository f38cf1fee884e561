"""Three real sentinels over a master and its replicas, on loopback; they fail over within seconds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Self

import redis

from bridge.embedded import find_server, tied
from tests.support.helpers import eventually, free_port
from tests.support.servers import RedisServer

MASTER = "mymaster"
#: Milliseconds until a silent server counts as down, and within which the next try of a failover follows.
DOWN_MS, FAILOVER_MS = 1_000, 4_000


class _Server(RedisServer):
    """A Redis that may be a replica, and syncs at once."""

    def __init__(self, directory: Path, *more: str) -> None:
        super().__init__(directory)
        self._options = (*self._options, "--repl-diskless-sync-delay", "0", *more)


class Sentinels:
    """`url` names them as an address of ledger, broker and results."""

    def __init__(self, directory: Path, replicas: int = 1) -> None:
        """Nothing runs before `start`."""
        self._directory = directory
        self._count = replicas
        self.servers: list[_Server] = []
        self._ports: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """All three, in the short spelling."""
        return f"sentinel://{','.join(f'127.0.0.1:{port}' for port in self._ports)}/0?master_name={MASTER}"

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Return when replicas are in step and the sentinels know one another."""
        # What an operator is told to set; with one replica nothing could be written after a failover.
        written = ("--min-replicas-to-write", "1") if self._count > 1 else ()
        first = _Server(self._directory / "server-0", *written).start()
        self.servers = [first]
        for n in range(1, self._count + 1):
            more = ("--replicaof", f"127.0.0.1 {first.port}", *written)
            self.servers.append(_Server(self._directory / f"server-{n}", *more).start())
        for n in range(3):
            self._ports.append(self._sentinel(self._directory / f"sentinel-{n}", first.port))
        eventually(self._settled, timeout=30)
        return self

    def stop(self) -> None:
        """All of them, frozen or not."""
        for process in self._processes:
            process.kill()
            process.wait(10)
        for server in self.servers:
            server.stop()

    def master(self) -> RedisServer:
        """The server that the sentinels name now."""
        port = int(self._asked()["port"])
        return next(server for server in self.servers if server.port == port)

    def failed_over(self, old: RedisServer) -> None:
        """Return when another one has taken its place, and takes writes."""
        eventually(lambda: self.master() is not old, timeout=30)
        eventually(lambda: _role(self.master()) == "master", timeout=30)

    def _settled(self) -> bool:
        found = self._asked()
        seen = (int(found["num-other-sentinels"]), int(found["num-slaves"]))
        with redis.Redis(port=self.servers[0].port, decode_responses=True) as client:
            info: Any = client.info("replication")
        online = sum(info.get(f"slave{n}", {}).get("state") == "online" for n in range(self._count))
        return seen == (2, self._count) and online == self._count

    def _asked(self) -> Any:
        with redis.Redis(port=self._ports[-1], socket_timeout=2, decode_responses=True) as client:
            return client.sentinel_master(MASTER)

    def _sentinel(self, home: Path, port_of_master: int) -> int:
        port = free_port()
        home.mkdir(parents=True)
        (home / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {home}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {port_of_master} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MS}\n"
            f"sentinel failover-timeout {MASTER} {FAILOVER_MS}\n"
        )
        with (home / "log").open("ab") as log:
            binary = self.servers[0]._binary or find_server()
            command = tied(binary, home / "sentinel.conf", "--sentinel")
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home))
        return port


def _role(server: RedisServer) -> str:
    with redis.Redis(port=server.port, socket_timeout=2, decode_responses=True) as client:
        answer: Any = client.info("replication")
        return str(answer["role"])
