"""Commands for later (control tasks with an ETA): kept whole until their time, so that no message waits in a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bridge.ledger.scripts import run
from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: So many commands are kept, each at most so large (I16).
COMMANDS_MAX, BYTES_MAX = 100_000, 256 * 1024
#: How long who sends a command on may take until it is another's to send.
LEASE_MS = 30_000
#: RabbitMQ takes an unacked message back within half an hour.
SENT_S = 3_600


class Later:
    """All methods raise LedgerUnavailable, and LedgerFault; all may be repeated (I15)."""

    def __init__(self, client: redis.Redis, names: Names, now: Callable[[], int]) -> None:
        """`now` is the ledger's time in ms."""
        self._client, self._prefix, self._now = client, names.prefix, now
        self._times, self._messages = names.key("later"), names.key("later_messages")
        self._sent = names.key("later_sent:")

    def keep(self, task_id: str, at: int, message: str) -> bool:
        """Until `at` in ledger ms; False when there are too many."""
        with mapped():
            if self.count() >= COMMANDS_MAX and self._client.zscore(self._times, task_id) is None:
                return False
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hset(self._messages, task_id, message)
                pipe.zadd(self._times, {task_id: at})
                pipe.execute()
        return True

    def holds(self, task_id: str) -> bool:
        """Whether this command is kept, or was sent on within the hour."""
        with mapped():
            kept = self._client.zscore(self._times, task_id)
            return kept is not None or bool(self._client.exists(self._sent + task_id))

    def take(self, limit: int) -> tuple[list[tuple[str, str]], int]:
        """Those whose time has come, as (task id, message), and ms until the next one (-1: none)."""
        wait_ms, *flat = run(self._client, "due_commands", [self._prefix], [limit, LEASE_MS])
        return list(zip(flat[::2], flat[1::2], strict=True)), int(wait_ms)

    def sent(self, task_id: str) -> None:
        """It was sent on. A copy of its first message may still come, from a worker that died before it could ack."""
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._sent + task_id, "1", ex=SENT_S)
            pipe.hdel(self._messages, task_id)
            pipe.zrem(self._times, task_id)
            pipe.execute()

    def revoke(self, task_ids: Sequence[str]) -> None:
        """They are not wanted any more."""
        if task_ids:
            with mapped(), self._client.pipeline(transaction=True) as pipe:
                pipe.hdel(self._messages, *task_ids)
                pipe.zrem(self._times, *task_ids)
                pipe.execute()

    def count(self) -> int:
        """How many are kept."""
        with mapped():
            return int(self._client.zcard(self._times))
