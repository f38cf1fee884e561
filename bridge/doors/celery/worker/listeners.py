"""Whether somebody listens to what Celery tells around a task; while nobody does, it need not be told."""

from __future__ import annotations

from typing import Any


def task_events_wanted(dispatcher: Any) -> bool:
    """Of a worker's event dispatcher, None while it has none: whether Flower, `-E` and the like get task events."""
    if dispatcher is None or not dispatcher.enabled:
        return False
    return not dispatcher.groups or "task" in dispatcher.groups  # the heartbeat alone uses the group "worker"


def heard(*signals: Any) -> bool:
    """Whether any of Celery's signals has a receiver."""
    return any(signal.receivers for signal in signals)
