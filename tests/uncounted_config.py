"""Celery settings of a worker whose pool has missed one result of each of its processes."""

from __future__ import annotations

from typing import Any

from billiard import pool

_waits = pool.Worker._ensure_messages_consumed


def _one_more(self: Any, completed: int) -> Any:
    return _waits(self, completed + 1)


pool.Worker._ensure_messages_consumed = _one_more
