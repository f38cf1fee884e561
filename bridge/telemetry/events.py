"""Telling an event: code says `tell("submit.unanswered", ...)`; metrics and traces subscribe, logs get a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bridge.telemetry import logs
from bridge.telemetry.catalogue import CATALOGUE

Subscriber = Callable[[str, Mapping[str, Any]], None]

_subscribers: list[Subscriber] = []


def tell(name: str, **fields: Any) -> None:
    """Tell an event. Raises KeyError for a name that is not in the catalogue, and nothing else."""
    level = CATALOGUE[name][0]
    for subscriber in _subscribers:
        try:
            subscriber(name, fields)
        except Exception as error:  # noqa: BLE001  (no metric is worth the record that is being worked on)
            told = {"told": name, "error": f"{type(error).__name__}: {error}"}
            logs.write("telemetry.failed", CATALOGUE["telemetry.failed"][0], told)
    logs.write(name, level, fields)


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Hear every event; the answer is the way out."""
    _subscribers.append(subscriber)
    return lambda: _subscribers.remove(subscriber)
