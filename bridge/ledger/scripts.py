"""The Lua scripts as package data: one file a verb, each sent with the prelude before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from bridge.errors import LedgerUnavailable
from bridge.redis import round_trips
from bridge.redis.outage import mapped
from bridge.redis.pipelined import Asked, ask

if TYPE_CHECKING:
    import redis

    from bridge.ledger.server.disk import Disk

#: Scripts that save what was paid for run in a full memory as well (HARDENING 11).
_ALLOW_OOM = frozenset(
    {
        "commit",
        "heartbeat",
        "give_back",
        "poison_count",
        "claim",
        "timers",
        "due",
        "orphan",
        "orphan_seen",
        "claim_chunk_reads",
        "amqp_turn",
        "endpoint",
        "callback",
        *("gone_unread", "repair_inbox_group"),  # commands are read then too
        *("list", "tidy"),  # who looks at a full ledger sees it; and room is made
    }
)


@dataclass(frozen=True, slots=True)
class Script:
    """One verb."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Read a verb and put the prelude before it."""
    folder = files("bridge.ledger") / "lua"
    flags = " flags=allow-oom" if name in _ALLOW_OOM else ""
    source = f"#!lua{flags}\n" + (folder / "_prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(name, source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324  (Redis names scripts so)


def asked(name: str, keys: Sequence[Any], args: Sequence[Any]) -> Asked:
    """A call of one script."""
    verb = script(name)
    return Asked(verb.sha, verb.source, keys, args)


def run(client: redis.Redis, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """Call one script. Raises LedgerUnavailable, or LedgerFault."""
    return ask(client, asked(name, keys, args))


def run_many(
    client: redis.Redis, name: str, keys: Sequence[str], many: Sequence[Sequence[Any]], disk: Disk | None = None
) -> list[Any]:
    """Call one script many times in one round trip. Raises LedgerUnavailable if any of the calls failed.

    LedgerFault where one of them cannot be made: call them one by one then.

    With `disk` it returns when what was written is safe, and fails when that takes too long: it may then be written all
    the same, and every script may be repeated (I15).
    """
    if len(many) == 1 and disk is None:
        return [run(client, name, keys, many[0])]
    verb = script(name)
    with mapped():
        try:
            return _pipelined(client, verb, keys, many, disk)
        except NoScriptError:  # every script may be repeated (I15)
            client.script_load(verb.source)
            return _pipelined(client, verb, keys, many, disk)


def _pipelined(
    client: redis.Redis, verb: Script, keys: Sequence[str], many: Sequence[Sequence[Any]], disk: Disk | None
) -> list[Any]:
    wait = disk.command() if disk is not None else None
    head = "EVALSHA", verb.sha, len(keys), *keys
    commands: list[Sequence[Any]] = [(*head, *args) for args in many]
    if disk is None or wait is None:
        return round_trips.call_many(client, commands)
    *answers, _, waited = round_trips.call_many(client, [*commands, ("SET", disk.mark, 1), wait])
    if not disk.safe(waited):
        fault = f"the ledger's server did not say within {wait[-1]} ms that {verb.name} is on its disk ({wait[0]})"
        raise LedgerUnavailable(fault)
    return answers
