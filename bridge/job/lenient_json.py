"""JSON that RunPod or a handler wrote: read as far as it can be, within bounds.

More is taken than at the doors (`strict_json`): nobody can send an answer again. NaN and Infinity are read, and a
number that no double holds is one of them; whoever keeps the value as JSON says so (`spelled`).
"""

from __future__ import annotations

import json
import re
from typing import Any

from bridge.job.record import dumps

#: Levels of objects and lists: whoever reads a result does so from inside many calls of its own.
DEPTH_MAX = 300
#: Digits of a whole number; Python turns 4,300 into an int.
DIGITS_MAX = 4_000
#: Characters of a word that becomes part of a row: a status, a RunPod worker's id.
WORD_MAX = 63
#: What every reader of JSON holds exactly.
WHOLE_MAX = 2**53

_TEXTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_json(text: str | bytes) -> Any:
    """The value that the text spells. Raises ValueError with what is wrong with it."""
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        found = _loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ValueError(f"is nested deeper than {DEPTH_MAX} levels") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} at character {error.pos}") from None
    if text.count("[") + text.count("{") > DEPTH_MAX and _deeper(text):
        raise ValueError(f"is nested deeper than {DEPTH_MAX} levels")
    return found


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a number of more digits than Python turns into an int
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < DIGITS_MAX else float(digits))


def _deeper(text: str) -> bool:
    """Of valid JSON, without a look at each value: its brackets alone, of which each round takes the innermost away."""
    left = _TEXTS.sub(b"", text.encode("utf-8", "surrogatepass")).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)


def spelled(value: object) -> tuple[str, int]:
    """The value as JSON text, and how many NaN and infinities became null in it, since JSON does not have them."""
    try:
        return dumps(value), 0
    except ValueError:
        found: list[str] = []
        text = json.dumps(value, separators=(",", ":"))
        return dumps(json.loads(text, parse_constant=found.append)), len(found)


def whole(value: object) -> int | None:
    """A count or a time in ms; None for what cannot be one: no number, below 0, or beyond what others read exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= WHOLE_MAX:
        return None
    return int(value)


def word(value: object) -> str | None:
    """A short text that a row can hold, half surrogates as their escapes; None for anything else."""
    return value.encode("utf-8", "backslashreplace").decode()[:WORD_MAX] if isinstance(value, str) else None
