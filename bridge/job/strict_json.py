"""Bytes as one JSON object, or a Fault that says why not. Pure, and raises nothing else.

Strict where readers of JSON differ, so that the bridge and whoever reads its events see the same document: no duplicate
keys, no NaN, no number that a double or 64 bits cannot hold, no half surrogates, UTF-8 alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from bridge.job.request import RUNSYNC_BODY_MAX, STRANGE_NAME, rejected

#: Bytes of a message: RunPod's largest body, and room for the request around it.
BODY_MAX = RUNSYNC_BODY_MAX + 1024 * 1024
#: Levels of objects and lists.
DEPTH_MAX = 100
#: Objects and lists in one message: each costs 60 to 90 bytes of memory, however short its text.
CONTAINERS_MAX = 1_000_000
#: Names in the objects of one message: reading a million holds the process up for seconds.
NAMES_MAX = 200_000
#: What 64 bits hold, signed or not.
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1

#: Bytes of a correlation id, and of who asks; characters of why.
TEXT_MAX = 255
_PLAIN = re.compile(r"[^\x00-\x1f\x7f]*")

# Only a document that could hold such a number pays for looking at each one.
_LONG_NUMBER = re.compile(rb"[0-9]{19}|[0-9][eE]")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


class Fault(Exception):
    """Why the bytes were not taken: `reason` is a word for metrics, the text names the rule."""

    def __init__(self, reason: str, text: str, field: str = "body") -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text
        self.field = field

    @property
    def rule(self) -> str:
        """The text for who says himself where the fault is."""
        return self.text.removeprefix("body: ")


def read_object(body: bytes) -> dict[str, Any]:
    """The object that the bytes spell. Raises Fault."""
    if len(body) > BODY_MAX:
        raise Fault("too_large", f"body: {len(body)} bytes; at most {BODY_MAX} are taken")
    containers = body.count(b"{") + body.count(b"[")
    if containers > CONTAINERS_MAX:
        raise Fault("too_large", f"body: over {CONTAINERS_MAX} objects and lists")
    if body.count(b'":') + body.count(b'" :') > NAMES_MAX:
        raise Fault("too_large", f"body: over {NAMES_MAX} names in its objects")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault("malformed", f"body: is not UTF-8 (byte {error.start})") from None
    numbers: dict[str, Any] = {"parse_int": _integer, "parse_float": _float} if _LONG_NUMBER.search(body) else {}
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, **numbers)
    except RecursionError:
        raise Fault("malformed", f"body: is nested deeper than {DEPTH_MAX} levels") from None
    except ValueError as error:
        raise Fault("malformed", f"body: is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        task = isinstance(found, list) and len(found) == 3 and isinstance(found[1], dict)  # noqa: PLR2004  (Celery's form)
        hint = "; this is a Celery task: those go to the queue bridge.run" if task else ""
        raise Fault("malformed", f"body: must be one JSON object{hint}")
    if containers > DEPTH_MAX and _deeper(found):
        raise Fault("malformed", f"body: is nested deeper than {DEPTH_MAX} levels")
    if _HALF_PAIR.search(body) and not _encodes(found):
        raise Fault("malformed", "body: holds half of a surrogate pair, which UTF-8 cannot carry")
    return found


def short(text: str) -> bool:
    """Whether a text may travel as a property of a message: few bytes, none of them a control character."""
    return len(text.encode(errors="surrogatepass")) <= TEXT_MAX and plain(text)


def plain(text: str) -> bool:
    """Whether a text has no control character."""
    return _PLAIN.fullmatch(text) is not None


def check_json(document: Mapping[str, Any]) -> str:
    """The document as JSON text that every reader takes for the same.

    Raises JobRejected naming the member at fault, and the rule.
    """
    found = _fault_of(document)
    if isinstance(found, str):
        return found
    for name, value in document.items():
        one = _fault_of({name: value})
        if isinstance(one, Fault):
            raise rejected(name, f"{name}: {one.rule}")
    raise rejected("input", f"input: {found.rule}")


def _fault_of(document: Mapping[str, Any]) -> str | Fault:
    """Its text, or what is wrong with it."""
    try:
        text = json.dumps(document, ensure_ascii=False)
        read_object(text.encode())
    except Fault as fault:
        return fault
    except UnicodeEncodeError:
        return Fault("malformed", "body: holds half of a surrogate pair, which UTF-8 cannot carry")
    except RecursionError:
        return Fault("malformed", f"body: is nested deeper than {DEPTH_MAX} levels")
    except (TypeError, ValueError) as error:
        strange = isinstance(error, TypeError) and "keys must be" in str(error)
        return Fault("malformed", f"body: {STRANGE_NAME if strange else f'cannot be sent as JSON: {error}'}")
    return Fault("malformed", f"body: {STRANGE_NAME}") if _has_strange_names(document) else text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Fault("malformed", f"body: the key {twice[:60]!r} stands twice in one object")
    return found


def _constant(word: str) -> NoReturn:
    raise Fault("malformed", f"body: {word} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not INTEGER_MIN <= (value := int(digits)) <= INTEGER_MAX:  # noqa: PLR2004  (of 2**64)
        raise Fault("malformed", f"body: the number {digits[:24]}... does not fit 64 bits")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Fault("malformed", f"body: the number {digits[:24]} does not fit a double")
    return value


def _has_strange_names(document: Mapping[str, Any]) -> bool:
    """Whether a name in it, at any depth, is no text: JSON would make text of a number, and another document of it."""
    left: list[Any] = [document]
    while left:
        holder = left.pop()
        if isinstance(holder, dict):
            if any(not isinstance(name, str) for name in holder):
                return True
            holder = holder.values()
        left += [item for item in holder if isinstance(item, dict | list | tuple)]
    return False


def _deeper(value: Any) -> bool:
    """Whether anything stands below the deepest level that is taken."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for holder in level
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
