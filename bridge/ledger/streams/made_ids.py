"""Ids that a door has made for requests which name none, remembered until their messages are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.redis.outage import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: How long an id outlives its message.
MADE_KEPT_S = 3_600


class MadeIds:
    """By the digest of the message. All raise LedgerUnavailable."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        """The client is shared by threads."""
        self._client = client
        self._names = names

    def make(self, wanted: Sequence[tuple[str, str, bool]]) -> list[str]:
        """Ids for requests that name none: (digest of the message, a fresh id, delivered before) of each.

        A message that comes again gets the id that was made for it the first time, because a second id would be a
        second job. The ids are kept for an hour, or until `forget`.
        """
        with mapped(), self._client.pipeline(transaction=True) as pipe:
            for digest, _, again in wanted:
                key = self._names.key(f"made:{digest}")
                if again:
                    pipe.lmove(key, key, "LEFT", "RIGHT")
                else:
                    pipe.ping()
            known = pipe.execute()
        made = [old if again and old else fresh for (_, fresh, again), old in zip(wanted, known, strict=True)]
        with mapped(), self._client.pipeline(transaction=False) as pipe:
            for (digest, fresh, _), id_ in zip(wanted, made, strict=True):
                if id_ == fresh:
                    key = self._names.key(f"made:{digest}")
                    pipe.rpush(key, fresh)
                    pipe.expire(key, MADE_KEPT_S)
            pipe.execute()
        return made

    def forget(self, made: Sequence[tuple[str, str]]) -> None:
        """Their messages will not come again: (digest, id) of each."""
        with mapped(), self._client.pipeline(transaction=False) as pipe:
            for digest, id_ in made:
                pipe.lrem(self._names.key(f"made:{digest}"), 1, id_)
            pipe.execute()
