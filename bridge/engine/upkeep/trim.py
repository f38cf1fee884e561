"""Keeps the bounds of what is written by many and read by nobody in particular: event stream and dead letters (I16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.ledger import Ledger
    from bridge.ledger.streams.outbox import Bounds

TURN_S = 5.0


@dataclass(frozen=True, slots=True)
class Trim:
    """Any number of engines may do it: trimming twice is trimming once."""

    ledger: Ledger
    bounds: Bounds
    dead_bytes_max: int
    dead_retention_ms: int

    def once(self) -> float:
        """Returns seconds until the next look."""
        if not self.ledger.outbox.relayed:  # else the relay does it, who knows what AMQP has confirmed
            self.ledger.outbox.trim(self.bounds)
        self.ledger.dead.trim(self.dead_bytes_max, self.dead_retention_ms)
        return TURN_S
