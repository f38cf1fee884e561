"""Kombu's JSON, by which the canvas is kept as it came: datetimes, UUIDs, Decimals, bytes, and what an app registered.

Kombu spells such a value `{"__type__": ..., "__value__": ...}` and refuses a message with a type that it does not know.
A bridge worker knows none of what other teams have registered, and need not: it leaves such a value as it is spelled,
and whoever gets the follow-up reads it.

An object with just these two names that no Celery message brought is a job's own: plain JSON. Whoever reads it with
kombu would make a value of it, or fail, and hear of no other result either. So it leaves with a third name, which is
taken off where it comes back.
"""

from __future__ import annotations

from typing import Any

from kombu.serialization import register
from kombu.utils import json as kombu_json

_SPELLING = {"__type__", "__value__"}
#: The third name.
PLAIN = "__plain__"


class UnregisteredType:
    """A value of a type that is registered elsewhere, as it came. Only kombu's JSON carries it, as a datetime."""

    def __init__(self, spelled: dict[str, Any]) -> None:
        self._spelled = spelled

    def __json__(self) -> dict[str, Any]:
        """For kombu's encoder."""
        return self._spelled


def _known(value: dict[str, Any]) -> Any:
    if value.keys() == _SPELLING:
        try:
            return kombu_json.object_hook(value)
        except ValueError:  # a type that is registered elsewhere
            return UnregisteredType(value)
    if value.get(PLAIN) is True and value.keys() == _SPELLING | {PLAIN}:
        return {name: value[name] for name in value if name != PLAIN}
    return value


def _marked(value: Any) -> Any:
    """The same with the third name where it belongs."""
    if isinstance(value, list | tuple):
        return list(map(_marked, value))
    came = isinstance(value, UnregisteredType)
    found = value.__json__() if came else value
    if not isinstance(found, dict):
        return value
    told = dict(zip(found, map(_marked, found.values()), strict=True))
    return told if came or told.keys() != _SPELLING else told | {PLAIN: True}


def _written(value: Any, **options: Any) -> str:
    text = str(kombu_json.dumps(value, **options))
    return str(kombu_json.dumps(_marked(value), **options)) if '"__type__"' in text else text


def dumps(value: Any) -> str:
    """As kombu spells it, compact."""
    return _written(value, separators=(",", ":"))


def loads(text: Any) -> Any:
    """What kombu knows as what it is, all else as it is spelled. Raises ValueError."""
    return kombu_json.loads(text, object_hook=_known)


def load(text: str | None) -> dict[str, Any]:
    """A kept canvas; {} for none."""
    found = loads(text) if text else {}
    return found if isinstance(found, dict) else {}


def use_here() -> None:
    """Read and write the messages and results of this process so."""
    register("json", _written, loads, content_type="application/json", content_encoding="utf-8")
