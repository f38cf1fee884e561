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

#: The arguments of `bridge.run` whose words are shown, in this order; of all others the form alone.
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
    "not_before",
)
#: Of a list or an object so many members are shown, and of all together so many characters, as Celery's own.
_MEMBERS, _CHARACTERS, _DEPTH, _WORD = 12, 1_024, 3, 64
_VEIL = "***"

#: Ids that were revoked while the ledger was away: of these alone Celery's own list has the last word.
unkept: LimitedSet = LimitedSet(maxlen=10_000, expires=10_800)


def shown(kwargs: dict[str, Any]) -> str:
    """The arguments as monitors and logs show them.

    Numbers and names are told, texts are not: an input may hold anything. `s3Config` is not even told in part.
    """
    told = {name: _form(kwargs[name], _DEPTH, words=True) for name in SHOWN if name in kwargs}
    for name, value in kwargs.items():
        if name not in told:
            told[name] = _VEIL if name in {"s3Config", "callback"} else _form(value, _DEPTH)
    text = repr(told)
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 4] + "...}"


def shown_args(args: Any) -> str:
    """The positionals in the same way."""
    return repr(tuple(_form(value, _DEPTH) for value in args)) if isinstance(args, list | tuple) else "()"


def _form(value: Any, depth: int, *, words: bool = False) -> Any:
    if value is None or isinstance(value, int | float) or (words and isinstance(value, str) and len(value) <= _WORD):
        return value
    if isinstance(value, dict):
        members = list(value.items())
        form = {str(k)[:50]: _form(v, depth - 1) for k, v in members[:_MEMBERS]} if depth else {}
        return form | ({"...": len(members)} if len(members) > len(form) else {})
    if isinstance(value, list | tuple):
        items = [_form(item, depth - 1) for item in value[:_MEMBERS]] if depth else []
        return [*items, "..."] if len(value) > len(items) else items
    return _VEIL


class RedactedRequest(Request):  # type: ignore[misc]
    """A request whose shown arguments leave out what may be secret or large."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Replace what the producer's client has put into the headers."""
        super().__init__(*args, **kwargs)
        kwargs_given = self._kwargs if isinstance(self._kwargs, dict) else {}
        self._kwargsrepr = shown(kwargs_given)
        self._argsrepr = shown_args(self._args)
        self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    def send_event(self, type: str, **fields: Any) -> None:
        """Of a request Celery tells what it knows: that the message came, or was thrown away. The rest the ledger does.

        `bridge.run` has started when its job has (`task_events`), not when it is written down.
        """
        if type != "task-started" or self.type != "bridge.run":
            super().send_event(type, **fields)

    def maybe_expire(self) -> bool:
        """Whether `expires` has passed, by the ledger's time: a step of this process' clock throws nothing away."""
        ledger = self.task.ledger_of()
        if not self.expires or self.expires.timestamp() * 1000 + ledger.clock.offset >= ledger.now():
            return False
        state.revoked.add(self.id)
        return True

    def revoked(self) -> bool:
        """Whether the message is thrown away: expired, or revoked by a stamp or while the ledger was away."""
        if self.type == "bridge.finish":  # shown under the name of what it ends, so `name` says bridge.run
            return False
        if self.type == "bridge.run" and self.id not in unkept:
            state.revoked.discard(self.id)  # the ledger keeps the wish, and `accept` finds it
        return bool(super().revoked())
