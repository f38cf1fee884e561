"""Spans and moments, as people write and read them on a terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment_ms(name: str, text: str | None, now_ms: int) -> int:
    """`15m` (so long ago), or a time of RFC 3339, as ms; 0 for None. Raises UsageError."""
    if not text:
        return 0
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        return now_ms - int(found[1]) * _UNITS[found[2]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{name}: {text!r} is neither 30s, 15m, 4h, 2d nor 2026-11-28T09:30:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def span(seconds: float | None) -> str:
    """`4s`, `12m`, `3h`, `2d`; `-` for None."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size or (unit != "m" and seconds >= 1.5 * size):
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def since(stamp: str | None, now_ms: int) -> str:
    """How long ago a document's time was."""
    if not stamp:
        return "-"
    return span(max(0.0, now_ms / 1000 - datetime.fromisoformat(stamp).timestamp()))
