"""The bridge's messages as Celery sees them: what is shown of them (I11), and who may revoke them.

Celery keeps revoked ids in the memory of each worker and throws their messages away. Of the bridge's requests the
ledger alone knows what was cancelled: a finish that was thrown away would never tell the end, and a run that was thrown
away would end without a record.
"""

from __future__ import annotations

from typing import Any

from celery.utils.collections import LimitedSet
from celery.worker import state
from celery.worker.request import Request

#: What may be shown of `bridge.run`'s arguments.
SHOWN = (
    "endpoint",
    "timeout",
    "queue_timeout",
    "policy",
    "stream",
    "sync",
    "delivery",
    "retries",
    "priority",
    "result",
    "reply_to",
)

#: Ids that were revoked while the ledger was away: of these alone Celery's own list has the last word.
unkept: LimitedSet = LimitedSet(maxlen=10_000, expires=10_800)


def shown(kwargs: dict[str, Any]) -> str:
    """The arguments without inputs and secrets."""
    said = ", ".join(f"{name!r}: {kwargs[name]!r}" for name in SHOWN if name in kwargs)
    return "{" + said + (", ..." if len(kwargs) > len([n for n in SHOWN if n in kwargs]) else "") + "}"


class RedactedRequest(Request):  # type: ignore[misc]
    """A request whose shown arguments leave out what may be secret or large."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Replace what the producer's client has put into the headers."""
        super().__init__(*args, **kwargs)
        kwargs_given = self._kwargs if isinstance(self._kwargs, dict) else {}
        self._kwargsrepr = shown(kwargs_given)
        self._argsrepr = "(...)" if self._args else "()"
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def revoked(self) -> bool:
        """Whether the message is thrown away: expired, or revoked by a stamp or while the ledger was away."""
        if self.type == "bridge.finish":  # shown under the name of what it ends, so `name` says bridge.run
            return False
        if self.type == "bridge.run" and self.id not in unkept:
            state.revoked.discard(self.id)  # the ledger keeps the wish, and `accept` finds it
        return bool(super().revoked())
