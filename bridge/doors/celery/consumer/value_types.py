"""What the values of a message may be: yes or no, and never an error."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

_YEARS = range(1970, 9_000)


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def whole(value: Any) -> bool:
    """A whole number that a double holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def number(value: Any) -> bool:
    """A finite number, of 68 years if it counts seconds."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 2**31
    )


def seconds(value: Any) -> bool:
    """A number of seconds to wait, or none."""
    return value is None or (number(value) and value >= 0)


def limits(value: Any) -> bool:
    """A pair of them: hard and soft."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(seconds, value))  # noqa: PLR2004  (hard, soft)


def moment(value: Any) -> bool:
    """A time in ISO 8601, since 1970."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return False
    if not isinstance(value, datetime) or value.year not in _YEARS:
        return False
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() >= 0


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def object_(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def texts(value: Any) -> bool:
    """A list of texts."""
    return isinstance(value, list | tuple) and all(map(text, value))
