"""Who waits for a result at a queue of his own: with `rpc://` a result is a message to its sender, and stored nowhere.

The first sender is in the canvas; whoever sends the same request again while it runs is noted there as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.app.task import Context
from celery.backends.rpc import RPCBackend


def answers_senders(backend: Any) -> bool:
    """Whether results go to those who asked, and to nobody else."""
    return isinstance(backend, RPCBackend)


def askers(canvas: Mapping[str, Any]) -> list[Context]:
    """All of them, as `store_result` takes them."""
    first = {"reply_to": canvas.get("options", {}).get("reply_to"), "correlation_id": canvas.get("correlation_id")}
    return [Context(**one) for one in [first, *canvas.get("also", ())] if one["reply_to"]]
