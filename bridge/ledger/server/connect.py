"""Opens the ledger's Redis and says whether it may be trusted with money."""

from __future__ import annotations

from dataclasses import dataclass

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from bridge.errors import LedgerUnavailable

#: The first server with `#!lua flags=`, which lets a script save a paid result in a full memory.
OLDEST_SERVER = (7, 0)
#: Seconds. A script takes microseconds; a server that is silent this long is away.
SOCKET_TIMEOUT_S = 5.0


def connect(url: str, *, max_connections: int = 64, decode: bool = True) -> redis.Redis:
    """A client that repeats a call a few times by itself (which is why every script may be repeated, I15).

    `decode` off gives bytes: what strangers have written need not be UTF-8.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=decode,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=0,
        max_connections=max_connections,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.01), retries=2),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        protocol=2,
        # What a stranger has written need not be UTF-8, and half a surrogate pair is legal in JSON: no errors, both.
        encoding_errors="backslashreplace",
    )


@dataclass(frozen=True, slots=True)
class Server:
    """What INFO and CONFIG say of the ledger's server."""

    version: str
    cluster: bool
    eviction: str
    appendonly: bool
    appendfsync: str
    memory_used: int
    memory_max: int
    valkey: bool
    replicas: int = 0

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor version of Redis that it speaks."""
        return tuple(int(part) for part in self.version.split(".")[:2])

    @property
    def memory_ratio(self) -> float:
        """Used part of maxmemory; 0.0 when there is no limit."""
        return self.memory_used / self.memory_max if self.memory_max else 0.0

    def faults(self, *, allow_eviction: bool) -> list[str]:
        """Why this server must not hold the ledger; empty when it may."""
        found = []
        if self.release < OLDEST_SERVER:
            found.append(f"BRIDGE_REDIS_URL: the server is Redis {self.version}; 7.0 or Valkey is the least")
        if self.cluster:
            found.append(
                "BRIDGE_REDIS_URL: the server runs in cluster mode; the ledger needs a standalone server or Sentinel"
            )
        if self.eviction.startswith("allkeys") and not allow_eviction:
            found.append(
                f"BRIDGE_REDIS_URL: maxmemory-policy is {self.eviction}: a full server would forget paid jobs; "
                "set `maxmemory-policy noeviction`, or BRIDGE_ALLOW_EVICTION=on if losing them is fine"
            )
        return found


def inspect_server(client: redis.Redis) -> Server:
    """Ask the server what it is. Raises LedgerUnavailable."""
    try:
        info = client.info()
    except RedisError as error:
        fault = f"the ledger's Redis does not answer: {error}"
        raise LedgerUnavailable(fault) from error
    return Server(
        version=str(info.get("redis_version", "0.0")),
        cluster=bool(info.get("cluster_enabled")),
        eviction=str(info.get("maxmemory_policy", "noeviction")),
        appendonly=bool(info.get("aof_enabled")),
        appendfsync=_config(client, "appendfsync"),
        memory_used=int(info.get("used_memory", 0)),
        memory_max=int(info.get("maxmemory", 0)),
        valkey="valkey_version" in info,
        replicas=int(info.get("connected_slaves", 0)),
    )


def _config(client: redis.Redis, name: str) -> str:
    try:
        return str(client.config_get(name).get(name, "unknown"))
    except RedisError:  # managed servers often forbid CONFIG
        return "unknown"
