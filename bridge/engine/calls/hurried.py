"""What comes alone: one request, one webhook of an endpoint that had none for a while. It does not wait for company."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge.job.enums import Step
from bridge.ledger import Claimed, Due
from bridge.redis.pipelined import Work, both

if TYPE_CHECKING:
    from bridge.ledger import Ledger
    from bridge.runpod.limits.permits import Permits

#: Seconds without anything, after which what comes for an endpoint is no part of a burst.
CALM_S = 0.1
#: Seconds until the look at all that is due which follows: a claim takes who is first, and that may be another.
LOOK_S = 0.02


class Hurried:
    """Between whoever hears of it and the loop that works it; thread-safe."""

    def __init__(self) -> None:
        """Nothing has come."""
        self._came_at: dict[str, float] = {}
        self._due: deque[Due] = deque()

    def came(self, step: Step, endpoint: str, count: int = 1) -> bool:
        """So many have come. Whether they came alone: then `work` has them."""
        now = time.monotonic()
        alone = now - self._came_at.get(endpoint, 0.0) > CALM_S
        self._came_at[endpoint] = now
        if alone:
            self._due.append(Due(endpoint, step, count, 0))
        return alone

    def forget(self) -> None:
        """All that is due is about to be looked at."""
        self._due.clear()

    def work(self, one: Callable[[Due], None]) -> float:
        """Seconds until all that is due is to be looked at."""
        while self._due:
            one(self._due.popleft())
        return LOOK_S


def permitted(ledger: Ledger, permits: Work[Permits], claim: Work[Claimed]) -> tuple[Permits, Claimed]:
    """Permits and leases for as many, in one round trip; what there is more of the one or the other is given back."""
    granted, claimed = both(ledger.client, permits, claim)
    count = min(granted.count, len(claimed.records))
    granted.give_back(granted.count - count)
    ledger.give_back(claimed, claimed.records[count:])
    return granted, replace(claimed, records=claimed.records[:count])
