"""Opens the ledger's Redis and says whether it may be trusted with money."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis
import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    DataError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from bridge.errors import LedgerUnavailable, SettingsError, chain_of
from bridge.redis.address import open_redis

#: The first server with `#!lua flags=`, which lets a script save a paid result in a full memory.
OLDEST_SERVER = (7, 0)
#: Seconds. A script takes microseconds; a server that is silent this long is away.
SOCKET_TIMEOUT_S = 5.0


#: What names the ledger's address, unless `Settings.ledger_variable` says that another does.
_VARIABLE = "BRIDGE_REDIS_URL"


def connect(url: str, *, variable: str = _VARIABLE, max_connections: int = 64, decode: bool = True) -> redis.Redis:
    """A client that repeats a call a few times by itself (which is why every script may be repeated, I15).

    `variable` is where the address stands. `decode` off gives bytes: what strangers have written need not be UTF-8.
    Connects to nothing yet. Raises SettingsError for options in the address that nobody knows.
    """
    try:
        client = open_redis(
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
            # What a stranger has written need not be UTF-8, and half a surrogate pair is legal in JSON: neither fails.
            encoding_errors="backslashreplace",
            command_packer=_Packer(),
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        # What redis-py says of it may hold a part of the address.
        raise SettingsError(
            f"{variable}: an option behind the ? is none of redis-py's, or has a value that it cannot read"
        ) from None
    return client


class _Packer:
    """redis-py's own for hiredis, which looks at each of our 400 arguments a job for types that we never send."""

    @staticmethod
    def pack(*args: Any) -> list[bytes]:
        """A command as bytes; a name of two words ("CONFIG GET") is two arguments."""
        name, *rest = args
        words = name.split() if isinstance(name, bytes) else name.encode().split()
        try:
            return [hiredis.pack_command((*words, *rest))]
        except TypeError as error:
            raise DataError(str(error)) from error


def refusal_of(error: BaseException) -> str | None:
    """What a server refuses and no second try can mend, with what to do; None for everything else."""
    return next((says for one in chain_of(error) if (says := _refusal(one)) is not None), None)


def lacks_a_right(error: BaseException) -> bool:
    """Whether the server has let the user in, and not let it do what was asked."""
    return any(isinstance(one, NoPermissionError) for one in chain_of(error))


def _refusal(error: BaseException) -> str | None:  # noqa: PLR0911  (a table)
    said = str(error)
    match error:
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not trusted ({error.verify_message}): name its CA, ssl_ca_certs=FILE"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or 'no reason given'}): does the server speak TLS on this port?"
        case NoPermissionError():
            return f"Redis does not let this user do what is needed ({said.splitlines()[0]}): {_RIGHTS}"
        case AuthenticationError() if "without any password" in said:
            return "the address has a password, and Redis has none: take it out of the address, or set `requirepass`"
        case AuthenticationError() | AuthorizationError():
            return "Redis refuses the user or the password: mend the address (a password is percent-encoded in it)"
        case ResponseError() if said.startswith(("NOAUTH", "WRONGPASS")) or "AUTH" in said:
            return "Redis wants a password, or another one: mend the address (a password is percent-encoded in it)"
        case InvalidResponse():
            return "what answers there does not speak Redis: is it the port of another server?"
        case ResponseError() if "unknown command" in said and "sentinel" in said.lower():
            return "the server there is no sentinel: name the sentinels' own port (26379), or the server as redis://"
        case ResponseError() if "DB index" in said:
            return "Redis has no database of that number: name a lower one, or raise `databases` in its configuration"
    return None


_RIGHTS = "the ledger needs `ACL SETUSER NAME ~* &* +@all -@dangerous +info +config|get`"


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
    #: What `min-replicas-to-write` says, "unknown" where it may not be asked.
    min_replicas: str = "unknown"
    #: Where its address stands.
    variable: str = _VARIABLE

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
            found.append(f"{self.variable}: the server is Redis {self.version}; 7.0 or Valkey is the least")
        if self.cluster:
            found.append(
                f"{self.variable}: the server runs in cluster mode; the ledger needs a standalone server or Sentinel. "
                "Who outgrows one divides the endpoints among several bridges, each with a server of its own, or with "
                "a BRIDGE_NAMESPACE of its own on the same one"
            )
        if self.eviction.startswith("allkeys") and not allow_eviction:
            found.append(
                f"{self.variable}: maxmemory-policy is {self.eviction}: a full server would forget paid jobs; "
                "set `maxmemory-policy noeviction`, or BRIDGE_ALLOW_EVICTION=on if losing them is fine"
            )
        return found


def inspect_server(client: redis.Redis, variable: str = _VARIABLE) -> Server:
    """Ask the server what it is. Raises LedgerUnavailable, or SettingsError where it refuses to be asked."""
    info = _asked(client.info, variable)
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
        min_replicas=_config(client, "min-replicas-to-write"),
        variable=variable,
    )


def run_a_script(client: redis.Redis, key: str, variable: str = _VARIABLE) -> None:
    """One that reads and writes `key`, as all of the ledger's do. Raises LedgerUnavailable or SettingsError."""
    _asked(lambda: client.eval(_PROBE, 1, key), variable)


#: Written in a full memory too: whether there is room is not what is asked.
_PROBE = """#!lua flags=allow-oom
redis.call('SET', KEYS[1], '1', 'PX', 1000)
redis.call('DEL', KEYS[1])
return redis.call('TIME')"""


def _asked(call: Callable[[], Any], variable: str) -> Any:
    try:
        return call()
    except RedisError as error:
        if (refusal := refusal_of(error)) is not None:
            raise SettingsError(f"{variable}: {refusal}") from None
        fault = "does not do what it is asked" if isinstance(error, ResponseError) else "does not answer"
        raise LedgerUnavailable(f"the ledger's Redis {fault}: {error}") from error
    except OSError as error:  # redis-py lets those of files (a CA that is not there) and of TLS through
        raise LedgerUnavailable(f"the ledger's Redis cannot be reached: {error}") from error


def _config(client: redis.Redis, name: str) -> str:
    try:
        return str(client.config_get(name).get(name, "unknown"))
    except RedisError:  # managed servers often forbid CONFIG
        return "unknown"
