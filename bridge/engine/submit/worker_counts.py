"""Asks busy endpoints how many RunPod workers run, so that the budget may rise with them; one process for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.errors import ApiError

if TYPE_CHECKING:
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.ledger import Ledger

#: Seconds: between looks; an endpoint that is busy for less is not worth a call; between calls, over all processes.
LOOK_S, BUSY_S, EVERY_S = 2.5, 10.0, 15.0
_BUSY_PHASES = ("ACCEPTED", "flying")


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """One `once()` calls /health of the endpoints that have been busy for a while and whose turn it is."""

    ledger: Ledger
    endpoint_health: EndpointHealth
    endpoint_id_of: Callable[[str], str]
    busy_s: float = BUSY_S
    every_s: float = EVERY_S
    _since: dict[str, float] = field(default_factory=dict, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        now = time.monotonic()
        for endpoint in self.ledger.endpoints():
            counts = self.ledger.counts(endpoint)
            if sum(counts.get(name, 0) for name in _BUSY_PHASES) <= 0:
                self._since.pop(endpoint, None)
            elif now - self._since.setdefault(endpoint, now) >= self.busy_s:
                self._ask(endpoint)
        return min(LOOK_S, self.every_s)

    def _ask(self, endpoint: str) -> None:
        endpoint_health, endpoint_id = self.endpoint_health, self.endpoint_id_of(endpoint)
        if endpoint_health.waiting_for(endpoint) not in {None, "paused"}:
            return  # in trouble or away: tries are spaced elsewhere
        if not endpoint_health.budget.may_ask(endpoint_id, int(self.every_s * 1000)):
            return
        with suppress(ApiError):
            heard = endpoint_health.ask_health(endpoint, endpoint_id)
            if heard is not None:
                endpoint_health.budget.raise_to(endpoint_id, heard.workers.get("running", 0))
