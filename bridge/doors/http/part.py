"""What one address serves is put together of parts, each of which can be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.routing import BaseRoute


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Part:
    """Routes, and what ends before the server does: answers that would go on for as long as somebody listens."""

    routes: Sequence[BaseRoute]
    close: Callable[[], None] = _nothing
    #: Connections that the part holds for long, beside those that BRIDGE_HTTP_CONNECTIONS_MAX counts.
    held_max: int = 0
