"""What a flow yields, so that it does no I/O itself: commands to be carried there, and what was followed."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Do:
    """One Redis command. `until`: monotonic time at which a Redis that is away is no longer waited for."""

    args: tuple[Any, ...]
    until: float
    raw: bool = False  # the answer is bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """One GET of a URL, for its bytes. `limit`: no more than so many are read."""

    url: str
    limit: int
    until: float


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was followed."""

    value: Any


Flow = Generator[Do | Fetch, Any, Any]
Following = Generator[Do | Fetch | Item, Any, None]
