"""Tells Celery anew why an endpoint's requests wait, when that has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge.job.enums import Phase
from bridge.ledger.queries import scan

if TYPE_CHECKING:
    from bridge.engine.endpoint_health import EndpointHealth
    from bridge.engine.tell.celery_states import States
    from bridge.ledger import Ledger

#: Seconds between looks; how many requests of an endpoint are told at most, those first that are submitted next.
LOOK_S, MOST = 1.0, 5_000


@dataclass(frozen=True, slots=True)
class Retell:
    """One `once()` compares each endpoint's trouble with the one that was told last, by whichever process."""

    ledger: Ledger
    states: States
    endpoint_health: EndpointHealth

    def once(self) -> float:
        """Returns seconds until the next look."""
        for endpoint in self.ledger.endpoints():
            if self.ledger.counts(endpoint).get(Phase.ACCEPTED.value, 0) <= 0:
                continue
            reason, told = (
                self.endpoint_health.waiting_for(endpoint) or "",
                self.endpoint_health.gate.state(endpoint).told,
            )
            if reason != told:
                self._tell(endpoint)
                self.endpoint_health.gate.tell(endpoint, reason)
        return LOOK_S

    def _tell(self, endpoint: str) -> None:
        for held in scan.load_many(self.ledger, scan.waiting_ids(self.ledger, endpoint, MOST)).values():
            if held.record.phase is Phase.ACCEPTED and held.record.door == "celery" and not held.record.silent:
                self.states.waits(held)
