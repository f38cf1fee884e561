"""Runs this room's scripts, and reads and writes its hashes. All raise LedgerUnavailable, or LedgerFault."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis

from bridge.redis.outage import mapped
from bridge.redis.pipelined import Asked, ask

WHAT = "the shared budget's Redis"


@cache
def _source(name: str) -> tuple[str, str]:
    folder = files("bridge.runpod.limits") / "lua"
    source = "#!lua flags=allow-oom\n" + (folder / "_prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return source, hashlib.sha1(source.encode()).hexdigest()  # noqa: S324  (Redis names scripts so)


def asked(name: str, prefix: str, args: Sequence[Any], now: int | None = None) -> Asked:
    """A call of one script; `now` is ledger time by the caller's own clock, where it knows it."""
    source, sha = _source(name)
    return Asked(sha, source, (prefix, "" if now is None else now), args)


def run(client: redis.Redis, name: str, prefix: str, args: Sequence[Any], now: int | None = None) -> Any:
    """Make it. Raises LedgerUnavailable, or LedgerFault."""
    return ask(client, asked(name, prefix, args, now), WHAT)


def read(client: redis.Redis, key: str) -> dict[str, str]:
    """One hash. Raises LedgerUnavailable."""
    with mapped(WHAT):
        return client.hgetall(key)  # type: ignore[return-value]


def first_in(client: redis.Redis, key: str, every_ms: int) -> bool:
    """Whether nobody else has come in the last `every_ms`. Raises LedgerUnavailable."""
    with mapped(WHAT):
        return bool(client.set(key, 1, nx=True, px=every_ms))


def ledger_now(client: redis.Redis, prefix: str) -> int:
    """Ledger time in ms (I17), as the scripts see it. Raises LedgerUnavailable."""
    with mapped(WHAT):
        seconds, micros = client.time()
        offset = client.hget(f"{prefix}meta", "clock_offset")
    return int(seconds) * 1000 + int(micros) // 1000 + int(offset or 0)


def write(
    client: redis.Redis, key: str, values: Mapping[str, str | int], *, drop: Sequence[str] = (), keep_ms: int = 0
) -> None:
    """Set and delete fields of one hash in one step, for `keep_ms` or for ever. Raises LedgerUnavailable."""
    with mapped(WHAT), client.pipeline(transaction=True) as pipe:
        if values:
            pipe.hset(key, items=[part for item in values.items() for part in item])
        if drop:
            pipe.hdel(key, *drop)
        if keep_ms:
            pipe.pexpire(key, keep_ms)
        pipe.execute()
