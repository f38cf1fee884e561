"""Queues into which what follows requests was sent, and those of them that nobody reads; kept for all processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: So many names are kept, each for so long after the last message (I16).
QUEUES_MAX, KEPT_MS = 500, 7 * 86_400_000
#: Seconds that a look is believed: engines that have all stopped tell nothing.
BELIEVED_S = 120


class FollowUps:
    """All methods raise LedgerUnavailable, and LedgerFault."""

    def __init__(self, client: redis.Redis, names: Names, now: Callable[[], int]) -> None:
        """`now` is the ledger's time in ms."""
        self._client, self._now = client, now
        self._sent, self._turn = names.key("follow_ups"), names.key("follow_ups_turn")
        self._depths, self._unread = names.key("follow_ups_depths"), names.key("follow_ups_unread")

    def sent(self, queue: str) -> None:
        """Something that follows a request went into this queue."""
        with mapped():
            if int(self._client.hlen(self._sent)) < QUEUES_MAX or self._client.hexists(self._sent, queue):
                self._client.hset(self._sent, queue, self._now())

    def queues(self) -> list[str]:
        """Those into which something was sent in the last days; older names are forgotten."""
        with mapped():
            found: Any = self._client.hgetall(self._sent)
            old = [queue for queue, at in found.items() if int(at) < self._now() - KEPT_MS]
            if old:
                self._client.hdel(self._sent, *old)
        return sorted(found.keys() - set(old))

    def turn(self, look_s: float) -> bool:
        """Whether this process looks now, for all."""
        with mapped():
            return bool(self._client.set(self._turn, "1", nx=True, px=max(1, int(look_s * 900))))

    def depths(self) -> dict[str, int]:
        """Messages in each queue at the last look."""
        return self._read(self._depths)

    def unread(self) -> dict[str, int]:
        """Messages in each queue that had no reader at the last look."""
        return self._read(self._unread)

    def looked(self, depths: Mapping[str, int], unread: Mapping[str, int]) -> None:
        """What was found now."""
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._depths, json.dumps(dict(depths)), ex=BELIEVED_S)
            pipe.set(self._unread, json.dumps(dict(unread)), ex=BELIEVED_S)
            pipe.execute()

    def _read(self, key: str) -> dict[str, int]:
        with mapped():
            text = self._client.get(key)
        return json.loads(text) if text else {}
