"""Kombu's JSON, by which the canvas is kept as it came: datetimes, UUIDs, Decimals, bytes, and what an app registered.

Kombu spells such a value `{"__type__": ..., "__value__": ...}` and refuses a message with a type that it does not know.
A bridge worker knows none of what other teams have registered, and need not: it leaves such a value as it is spelled,
and whoever gets the follow-up reads it.
"""

from __future__ import annotations

from typing import Any

from kombu.serialization import register
from kombu.utils import json as kombu_json


def _known(value: dict[str, Any]) -> Any:
    try:
        return kombu_json.object_hook(value)
    except ValueError:  # a type that is registered elsewhere
        return value


def dumps(value: Any) -> str:
    """As kombu spells it, compact."""
    return str(kombu_json.dumps(value, separators=(",", ":")))


def loads(text: Any) -> Any:
    """What kombu knows as what it is, all else as it is spelled. Raises ValueError."""
    return kombu_json.loads(text, object_hook=_known)


def load(text: str | None) -> dict[str, Any]:
    """A kept canvas; {} for none."""
    found = loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def use_here() -> None:
    """Read the messages of this process so."""
    register("json", kombu_json.dumps, loads, content_type="application/json", content_encoding="utf-8")
