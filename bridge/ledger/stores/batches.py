"""Batches at RunPod that are built or watched: which of their jobs is whose, and when each is looked at next.

What a batch holds is kept before its first request can run, so that whoever finds a batch knows whose its jobs are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: Seconds that what a batch holds is remembered after the last look at it (I16).
KEPT_S = 8 * 24 * 3600
#: A field of that hash which is no job: the whole batch was cancelled.
_CANCELLED = "!cancelled"


class Batch(NamedTuple):
    """One batch, and where it lives (I14)."""

    id: str
    endpoint: str
    endpoint_id: str
    base_url: str

    @property
    def member(self) -> str:
        """As it stands in the set."""
        return json.dumps(self)


class Batches:
    """All methods raise LedgerUnavailable, and LedgerFault; all may be repeated (I15)."""

    def __init__(self, client: redis.Redis, names: Names, now: Callable[[], int]) -> None:
        """`now` is ledger time in ms."""
        self._client, self._names, self._now = client, names, now
        self._set = names.key("batches")

    def watch(self, batch: Batch, *, in_ms: int) -> None:
        """Look at it in so many ms, also when it was to be looked at some other time."""
        with mapped():
            self._client.zadd(self._set, {batch.member: self._now() + in_ms})

    def creating(self, endpoint_id: str, token: str, *, at: int) -> None:
        """A create leaves now (`at`: epoch ms): its draft is nobody's until it is watched."""
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(self._unheard(endpoint_id), token, at)
            pipe.expire(self._unheard(endpoint_id), KEPT_S)
            pipe.execute()

    def created(self, endpoint_id: str, token: str) -> None:
        """What came of that create is known."""
        with mapped():
            self._client.hdel(self._unheard(endpoint_id), token)

    def unheard(self, endpoint_id: str) -> dict[str, int]:
        """Creates of which nobody knows what came: tokens to epoch ms."""
        with mapped():
            found: Any = self._client.hgetall(self._unheard(endpoint_id))
        return {token: int(at) for token, at in found.items()}

    def watched(self, batch: Batch) -> None:
        """Make sure that it is looked at: soon, unless that is so already."""
        with mapped():
            self._client.zadd(self._set, {batch.member: self._now()}, nx=True)
            self._client.zadd(self._set, {batch.member: self._now() + 1_000}, lt=True)

    def due(self, limit: int) -> tuple[list[Batch], int]:
        """Those to look at now, and ms until the next one (-1: none)."""
        now = self._now()
        with mapped():
            found: Any = self._client.zrange(self._set, 0, limit, withscores=True)
        ready = [Batch(*json.loads(member)) for member, at in found if at <= now]
        later = [at - now for _, at in found if at > now]
        return ready[:limit], int(min(later)) if later else -1

    def turn(self, batch: Batch, token: str, lease_ms: int) -> bool:
        """Whether the look is this token's; a second engine looks when its lease has ended."""
        key = f"{self._key(batch)}:turn"
        with mapped():
            if not self._client.set(key, token, nx=True, px=lease_ms) and self._client.get(key) != token:
                return False
            self._client.zadd(self._set, {batch.member: self._now() + lease_ms}, xx=True)
        return True

    def looked(self, batch: Batch, *, again_ms: int | None) -> None:
        """The look is over: the next one in so many ms, or (None) never."""
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            if again_ms is None:
                pipe.zrem(self._set, batch.member)
                pipe.delete(self._key(batch))
            else:
                pipe.zadd(self._set, {batch.member: self._now() + again_ms}, xx=True)
                pipe.expire(self._key(batch), KEPT_S)
            pipe.delete(f"{self._key(batch)}:turn")
            pipe.execute()

    def placed(self, batch: Batch, job_id: str, request_id: str) -> None:
        """This job of the batch is this request's."""
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            pipe.hset(self._key(batch), job_id, request_id)
            pipe.expire(self._key(batch), KEPT_S)
            pipe.execute()

    def dropped(self, batch: Batch, job_ids: Iterable[str]) -> None:
        """These jobs are nobody's any more."""
        if ids := list(job_ids):
            with mapped():
                self._client.hdel(self._key(batch), *ids)

    def jobs(self, batch: Batch) -> dict[str, str]:
        """Ids of its jobs to ids of their requests."""
        with mapped():
            found: Any = self._client.hgetall(self._key(batch))
        return {job_id: request_id for job_id, request_id in found.items() if job_id != _CANCELLED}

    def cancelled(self, batch: Batch) -> None:
        """RunPod has heard that the whole batch is to be cancelled."""
        with mapped():
            self._client.hset(self._key(batch), _CANCELLED, "1")

    def is_cancelled(self, batch: Batch) -> bool:
        """Whether it has."""
        with mapped():
            return bool(self._client.hexists(self._key(batch), _CANCELLED))

    def active(self, endpoint_id: str) -> int:
        """How many of an endpoint are built or watched."""
        return len(self.known(endpoint_id))

    def known(self, endpoint_id: str) -> set[str]:
        """Their ids."""
        with mapped():
            found: Any = self._client.zrange(self._set, 0, -1)
        return {batch.id for batch in (Batch(*json.loads(one)) for one in found) if batch.endpoint_id == endpoint_id}

    def _unheard(self, endpoint_id: str) -> str:
        return self._names.key(f"batch:unheard:{endpoint_id}")

    def _key(self, batch: Batch) -> str:
        return self._names.key(f"batch:{batch.endpoint_id}:{batch.id}")
