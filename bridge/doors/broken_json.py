"""Who has sent what cannot be read (`bridge.job.strict_json`), as far as its bytes tell."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from bridge.job.strict_json import BODY_MAX, CONTAINERS_MAX

#: Characters that are looked at of a document whose size alone is its fault.
_GLIMPSE = 65_536
_EVENT = frozenset({"specversion", "data"})
_MEMBER = re.compile(r'[\s,]*"([^"\\]*)"\s*:\s*')
_LENIENT = json.JSONDecoder(
    strict=False, parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=lambda _: None
)


def glimpse(body: bytes, wanted: Collection[str]) -> dict[str, str]:
    """Of a document that is not taken: the texts that stand under these names at its top, so that somebody can be told.

    As far as it can be read; also inside the `data` of a CloudEvent. A name that stands twice says nothing.
    """
    whole = len(body) <= BODY_MAX and body.count(b"{") + body.count(b"[") <= CONTAINERS_MAX
    text = (body if whole else body[:_GLIMPSE]).decode("utf-8-sig", errors="replace")
    start = re.match(r"\s*\{", text)
    return _top(text, start.end(), frozenset(wanted)) if start else {}


def _top(text: str, at: int, wanted: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    places: dict[str, int] = {}
    while (member := _MEMBER.match(text, at)) is not None:
        name, at = member[1], member.end()
        first = name not in places
        if name in wanted or name in _EVENT:
            places.setdefault(name, at)
        try:
            value, at = _LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if name in wanted and first and isinstance(value, str):
            found[name] = value
        elif not first:
            found.pop(name, None)
    if places.keys() >= _EVENT and text.startswith("{", places["data"]):
        found |= _top(text, places["data"] + 1, wanted)
    return found
