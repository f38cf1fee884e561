"""Keeps secrets out of what Celery shows of a request: `task-received` events, logs, `inspect`, Flower (I11)."""

from __future__ import annotations

from typing import Any

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
