"""How long each endpoint's last jobs waited and ran, in the ledger: every process knows what one has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: Runs of an endpoint that are remembered: the newest push the oldest out, so that a new image is learnt in as many.
KEEP = 128
#: An endpoint that nobody has used for so long is forgotten. Milliseconds.
KEEP_MS = 14 * 24 * 3_600_000


class Runs:
    """Pairs of `(delayTime, executionTime)` in ms. All raise LedgerUnavailable."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        """The client is shared by threads."""
        self._client = client
        self._names = names

    def remember(self, endpoint: str, runs: Sequence[tuple[int, int]]) -> None:
        """Jobs of the endpoint have ended."""
        key = self._key(endpoint)
        with mapped(), self._client.pipeline(transaction=False) as pipe:
            pipe.lpush(key, *(f"{delay}:{run}" for delay, run in runs))
            pipe.ltrim(key, 0, KEEP - 1)
            pipe.pexpire(key, KEEP_MS)
            pipe.execute()

    def read(self, endpoint: str) -> tuple[list[tuple[int, int]], int]:
        """What is remembered, the newest first; and how many jobs of the endpoint are in flight."""
        with mapped(), self._client.pipeline(transaction=False) as pipe:
            pipe.lrange(self._key(endpoint), 0, KEEP - 1)
            pipe.zcard(self._names.key(f"tracked:{endpoint}"))
            found: Any = pipe.execute()
        pairs = (text.partition(":") for text in found[0])
        return [(int(delay), int(run)) for delay, _, run in pairs], int(found[1])

    def _key(self, endpoint: str) -> str:
        return self._names.key(f"runs:{endpoint}")
