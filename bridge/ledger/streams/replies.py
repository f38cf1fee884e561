"""Reply streams: where services that speak plain JSON over Redis read what they asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.ledger.scripts import mapped

if TYPE_CHECKING:
    import redis

    from bridge.ledger.keys import Names

#: Bounds of a reply stream, as `_prelude.lua` has them.
REPLIES_MAX, REPLIES_KEPT_S = 100_000, 604_800


class Replies:
    """Bounded like those that the scripts write (I16). Raises LedgerUnavailable."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        """The client is shared by threads."""
        self._client = client
        self._names = names

    def write(self, answers: Sequence[tuple[str, str]]) -> None:
        """Write documents to reply streams: (reply_to, body). Bounded like those that the scripts write (I16)."""
        with mapped(), self._client.pipeline(transaction=False) as pipe:
            for name, body in answers:
                stream = self._names.reply(name)
                pipe.xadd(stream, {"data": body}, maxlen=REPLIES_MAX, approximate=True)
                pipe.expire(stream, REPLIES_KEPT_S)
            pipe.execute()
