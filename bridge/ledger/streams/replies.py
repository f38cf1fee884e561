"""Reply streams: where services that speak plain JSON over Redis read what they asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.ledger.scripts import run

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
        for name, body in answers:
            stream = self._names.reply(name)
            run(self._client, "reply", [self._names.prefix, stream], [body, REPLIES_MAX, REPLIES_KEPT_S])
