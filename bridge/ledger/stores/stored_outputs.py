"""Which outputs stand in the object store, so that none stays there for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names


class BlobList:
    """Requests and URLs, each with the time of the next look. All raise LedgerUnavailable."""

    def __init__(self, client: redis.Redis, names: Names, now: Callable[[], int]) -> None:
        """`now` is ledger time in ms."""
        self._client = client
        self._key = names.key("blobs")
        self._now = now

    def note(self, request_id: str, url: str, *, in_ms: int) -> None:
        """An output stands, or is about to stand, in the object store: look in so many ms whether it may go."""
        with mapped():
            self._client.zadd(self._key, {json.dumps([request_id, url]): self._now() + in_ms})

    def due(self, limit: int, *, again_ms: int) -> list[tuple[str, str]]:
        """Requests and URLs to look at now; each comes again unless it is forgotten."""
        now = self._now()
        with mapped():
            found: Any = self._client.zrangebyscore(self._key, "-inf", now, start=0, num=limit)
            if found:
                self._client.zadd(self._key, dict.fromkeys(found, now + again_ms), xx=True)
        return [tuple(json.loads(member)) for member in found]

    def forget(self, request_id: str, url: str) -> None:
        """It is gone from the store."""
        with mapped():
            self._client.zrem(self._key, json.dumps([request_id, url]))
