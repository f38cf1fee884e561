"""Endpoints for which little comes: what comes for one of them is no part of a burst, and need not wait for others."""

from __future__ import annotations

import time

#: Seconds without anything, after which an endpoint counts as calm.
CALM_S = 0.1


class CalmEndpoints:
    """All are calm at first. `in` tells whether one is now."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._came_at: dict[str, float] = {}

    def came(self, endpoint: str) -> None:
        """Something has come for it."""
        self._came_at[endpoint] = time.monotonic()

    def __contains__(self, endpoint: str) -> bool:
        """Whether nothing has come for it lately."""
        return time.monotonic() - self._came_at.get(endpoint, 0.0) > CALM_S
