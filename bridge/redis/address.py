"""How the address of a Redis is read, in whichever library's spelling, and the client that it asks for.

redis-py, kombu and Celery's results name a socket and a Sentinel each in a way of its own. Here one address means the
same for ledger, broker and results:

    redis://  rediss://             a server
    unix:///PATH?db=N               a socket; also redis+socket:///PATH?virtual_host=N
    sentinel://HOST:PORT,HOST:PORT/DB?master_name=NAME      also with `;sentinel://` between the hosts

With an `ssl_...` option a sentinel:// address speaks TLS to the sentinels and to the server that they name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.connection import parse_url
from redis.sentinel import Sentinel

SENTINEL = "sentinel"
SENTINEL_PORT = 26379
#: Seconds until the next of the sentinels is asked.
SENTINEL_TIMEOUT_S = 1.0
SCHEMES = ("redis", "rediss", "unix", "redis+socket", SENTINEL)
#: What a sentinel:// address says of the sentinels themselves; all else is for the server that they name.
_MASTER, _USER, _PASSWORD, _OTHERS = "master_name", "sentinel_username", "sentinel_password", "min_other_sentinels"
#: A socket has none of these.
_TCP_ONLY = ("socket_keepalive", "socket_keepalive_options", "socket_connect_timeout")


def scheme_of(url: str) -> str:
    """What stands before the `://`."""
    return url.partition("://")[0]


def is_redis(url: str) -> bool:
    """Whether Celery or redis-py opens this as a Redis."""
    return "://" in url and scheme_of(url) in SCHEMES


def is_sentinel(url: str) -> bool:
    """Whether sentinels say which server it is."""
    return scheme_of(url) == SENTINEL


def one_by_one(url: str) -> str:
    """A sentinel:// address with each host in an address of its own, as Celery wants them; others as they are.

    User, password, database and options may stand with any of them, and hold for all.
    """
    if not is_sentinel(url):
        return url
    hosts: list[str] = []
    user, path, query = "", "", ""
    for part in url.split(";"):
        split = urlsplit(part)
        before, _, after = split.netloc.rpartition("@")
        hosts += [host for host in after.split(",") if host]
        user, path, query = user or before, path.strip("/") or split.path, query or split.query
    sign = f"{user}@" if user else ""
    more = f"?{query}" if query else ""
    # Libraries have different ports by default.
    hosts = [host if re.search(r":\w+$", host) else f"{host}:{SENTINEL_PORT}" for host in hosts]
    return ";".join(f"{SENTINEL}://{sign}{host}/{path.strip('/')}{more}" for host in hosts)


@dataclass(frozen=True, slots=True)
class Sentinels:
    """What a sentinel:// address says. Passwords are in no repr: it has none of these fields."""

    hosts: tuple[tuple[str, int], ...]
    master_name: str
    #: Keyword arguments of a connection to the server, redis-py's; those of TLS without their class.
    server: dict[str, Any]
    #: The same of the sentinels.
    sentinels: dict[str, Any]
    min_others: int

    def __repr__(self) -> str:
        return f"Sentinels({self.hosts}, {self.master_name!r})"

    @property
    def tls(self) -> dict[str, Any]:
        """Its options, none where it is not spoken."""
        return {name: value for name, value in self.server.items() if name.startswith("ssl_")}


def sentinels(url: str) -> Sentinels:
    """Read a sentinel:// address. Raises ValueError for a value that redis-py cannot read."""
    parts = [urlsplit(part) for part in one_by_one(url).split(";")]
    options = dict(parse_qsl(parts[0].query))
    master, others = options.pop(_MASTER, ""), int(options.pop(_OTHERS, 0))
    own = {"username": options.pop(_USER, None), "password": options.pop(_PASSWORD, None)}
    tls = any(name.startswith("ssl_") for name in options)
    plain = parts[0]._replace(scheme="rediss" if tls else "redis", query=urlencode(options))
    server: dict[str, Any] = dict(parse_url(plain.geturl()))
    for name in ("host", "port", "connection_class"):
        server.pop(name, None)
    asked = {name: value for name, value in own.items() if value} | ({"ssl": True} if tls else {})
    asked |= {name: value for name, value in server.items() if name.startswith("ssl_")}
    return Sentinels(
        tuple((part.hostname or "127.0.0.1", part.port or SENTINEL_PORT) for part in parts),
        master, server, asked, others,
    )  # fmt: skip


def open_redis(url: str, **options: Any) -> redis.Redis:
    """A client of the server that the address names; behind Sentinel of whichever is the master when it connects.

    Connects to nothing yet. Raises ValueError or TypeError for options that redis-py does not know.
    """
    if is_sentinel(url):
        found = sentinels(url)
        asking = Sentinel(list(found.hosts), **_asking(found))
        client: redis.Redis = asking.master_for(found.master_name, **_serving(found, options))
        return client
    return redis.Redis.from_url(as_redis_py_has_it(url), **_without_tcp(url, options))


def open_async(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same to be awaited."""
    if is_sentinel(url):
        found = sentinels(url)
        asking = AsyncSentinel(list(found.hosts), **_asking(found))
        client: redis.asyncio.Redis = asking.master_for(found.master_name, **_serving(found, options))
        return client
    return redis.asyncio.Redis.from_url(as_redis_py_has_it(url), **_without_tcp(url, options))


def as_redis_py_has_it(url: str) -> str:
    """A socket in redis-py's spelling; others as they are."""
    if scheme_of(url) != "redis+socket":
        return url
    split = urlsplit(url)
    query = [("db" if name == "virtual_host" else name, value) for name, value in parse_qsl(split.query)]
    return _socket("unix", split, query)


def as_celery_has_it(url: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """For broker and results: the address, the transport options that go with it, and its TLS options (of Sentinel)."""
    if scheme_of(url) == "unix":
        split = urlsplit(url)
        query = [("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(split.query)]
        return _socket("redis+socket", split, query), {}, {}
    if not is_sentinel(url):
        return url, {}, {}
    found = sentinels(url)
    hosts = ";".join(urlsplit(part)._replace(query="").geturl() for part in one_by_one(url).split(";"))
    options = {"sentinel_kwargs": _asking(found)["sentinel_kwargs"], "min_other_sentinels": found.min_others}
    return hosts, options | ({"master_name": found.master_name} if found.master_name else {}), found.tls


def _socket(scheme: str, split: SplitResult, query: list[tuple[str, str]]) -> str:
    """By hand: `geturl` leaves out the empty host of a scheme that it does not know."""
    return f"{scheme}://{split.netloc}{split.path}{'?' if query else ''}{urlencode(query)}"


def _without_tcp(url: str, options: dict[str, Any]) -> dict[str, Any]:
    socket = scheme_of(url) in {"unix", "redis+socket"}
    return {name: value for name, value in options.items() if not (socket and name in _TCP_ONLY)}


def _asking(found: Sentinels) -> dict[str, Any]:
    timeouts = {"socket_timeout": SENTINEL_TIMEOUT_S, "socket_connect_timeout": SENTINEL_TIMEOUT_S}
    return {"min_other_sentinels": found.min_others, "sentinel_kwargs": {**timeouts, **found.sentinels}}


def _serving(found: Sentinels, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, **found.server, **({"ssl": True} if found.tls else {})}
