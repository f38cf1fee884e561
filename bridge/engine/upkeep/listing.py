"""Keeps the listing of requests true, and writes down how the endpoints stand; nothing of it is on a request's road."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bridge.ledger.endpoints import samples
from bridge.ledger.queries import listing

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds between turns, where there is much to do, and between any two (whoever wakes an engine wakes all its loops).
TURN_S, BUSY_S, LEAST_S = 5.0, 1.0, 1.0
#: Bounded steps of one turn.
STEPS = 10


@dataclass(slots=True)
class Listing:
    """Any number of engines may do it.

    Each engine fills in, once as it starts, what processes of an older version have accepted: the last one of an
    upgrade that starts finds them all.
    """

    ledger: Ledger
    _filled: bool = field(default=False, init=False)
    _cursor: int = field(default=0, init=False)
    _rank: int = field(default=0, init=False)

    def once(self) -> float:
        """Returns seconds until the next look."""
        samples.take(self.ledger)
        for _ in range(STEPS):
            if not self._filled:
                self._cursor = listing.fill(self.ledger, self._cursor)
                self._filled = self._cursor == 0
                continue
            self._rank, gone = listing.tidy(self.ledger, self._rank)
            if gone <= listing.WALK // 10:
                return TURN_S
        return BUSY_S
