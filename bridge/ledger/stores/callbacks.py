"""Callbacks as they are owed: in lanes, each what one address is to be told of one request, in its order.

What is owed is written by the change that makes the event (`owe` in `lua/_prelude.lua`), and stands here until it was
delivered or given up; nothing of it is in the memory of a process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

_FIELDS = 8
#: Milliseconds of a host's failing after which what has been owed for too long is given up without a try of its own.
FAILING_MS = 600_000


@dataclass(frozen=True, slots=True)
class Owed:
    """One callback: since when it is owed (ledger ms), to whom, and the event, JSON."""

    since: int
    url: str
    body: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that was handed out; whoever has it alone may call its address. Without `owed` nothing is left in it."""

    token: str
    name: str
    host: str
    tries: int  # of its first one, so far
    news: int
    skipped: int  # events that found no room since somebody looked
    host_fails: int
    over: bool  # owed for too long, by a host that has failed all the while: given up without another try
    owed: Owed | None
    now: int

    @property
    def request_id(self) -> str:
        """Whose events these are."""
        return self.name.partition(":")[2]

    @property
    def key(self) -> str:
        """The address, as `lane` of Long.CALLBACK."""
        return self.name.partition(":")[0]


class Callbacks:
    """One per process; thread-safe. Methods raise LedgerUnavailable, and LedgerFault; all may be repeated (I15)."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        """Nothing is sent before the first call."""
        self._client, self._names = client, names

    def owe(self, lane: str, host: str, url: str, body: str) -> None:
        """An event that no change tells: of a request that ended before this address was named."""
        self._run("owe", "", json.dumps([[lane, host, url, True]]), body)

    def claim(self, token: str, *, lanes: int, of_host: int, lease_ms: int, patience_ms: int) -> tuple[list[Lane], int]:
        """Lanes to work at now, and ms until the next look pays (-1: nothing is owed)."""
        args = (lease_ms, lanes, of_host, patience_ms, min(patience_ms, FAILING_MS))
        now, wait_ms, *flat = self._run("claim", token, *args)
        return [_lane(token, now, flat[i : i + _FIELDS]) for i in range(0, len(flat), _FIELDS)], int(wait_ms)

    def done(self, lane: Lane, *, everything: bool = False, host: str, rests_ms: int = 0) -> bool:
        """The first one (or all) is owed no more; False when the lease was lost. `host` as of `later`."""
        args = (lane.name, lane.host, "all" if everything else "first", host, lane.host_fails + 1, rests_ms)
        return bool(self._run("done", lane.token, *args)[1])

    def later(self, lane: Lane, delay_ms: int, *, host: str, rests_ms: int = 0) -> bool:
        """Try the first one again in so many ms; False when the lease was lost.

        `host`: well, slow, or away, which lets it rest; "": it was not asked.
        """
        args = (lane.name, lane.host, delay_ms, host, lane.host_fails + 1, rests_ms)
        return bool(self._run("later", lane.token, *args)[1])

    def drop(self, lane: Lane) -> bool:
        """Nothing is owed here, and nobody has to be told of it; False when something has come meanwhile."""
        return int(self._run("drop", lane.token, lane.name, lane.host, lane.news)[1]) == 1

    def empty(self, lanes: Sequence[str]) -> bool:
        """Whether none of these lanes holds anything."""
        with mapped():
            return not lanes or not int(self._client.exists(*(self._names.key(f"cb:{lane}") for lane in lanes)))

    def count(self) -> int:
        """How many are owed."""
        with mapped():
            found: Any = self._client.get(self._names.key("cb_owed"))
        return max(0, int(found or 0))

    def oldest_ms(self) -> int:
        """Since when the oldest is owed, ledger ms; 0 for none."""
        with mapped():
            found: Any = self._client.zrange(self._names.key("cb_since"), 0, 0, withscores=True)
        return int(found[0][1]) if found else 0

    def failing(self) -> list[tuple[str, int, int]]:
        """Hosts that cannot be reached or do not answer: name, fails in a row, since when (ledger ms)."""
        with mapped():
            hosts: Any = self._client.zrange(self._names.key("cb_hosts"), 0, -1)
            with self._client.pipeline(transaction=False) as pipe:
                for host in hosts:
                    pipe.hmget(self._names.key(f"cb_host:{host}"), "fails", "since")
                found = pipe.execute() if hosts else []
        named = [(host, int(fails), int(since)) for host, (fails, since) in zip(hosts, found, strict=True) if since]
        return sorted(named, key=lambda one: one[2])

    def _run(self, *args: Any) -> Any:
        return run(self._client, "callback", [self._names.prefix], args)


def _lane(token: str, now: int, part: Sequence[Any]) -> Lane:
    name, host, tries, news, skipped, fails, over, entry = part
    counts = int(tries), int(news), int(skipped), int(fails)
    return Lane(token, name, host, *counts, bool(over), _owed(entry), now)


def _owed(entry: str) -> Owed | None:
    head, _, body = entry.partition("\n")
    since, _, url = head.partition(" ")
    return Owed(int(since), url, body) if entry else None
