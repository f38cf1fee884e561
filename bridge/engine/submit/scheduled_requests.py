"""Lets scheduled requests go when their time has come: they then wait to be submitted like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.ledger import Ledger

#: Seconds between two looks at most: another process may have accepted one that is due earlier.
LOOK_S = 0.5
BATCH = 500


@dataclass(frozen=True, slots=True)
class Schedule:
    """Any number of engines may do it: the script moves each request once."""

    ledger: Ledger
    begun: Callable[[], None]

    def once(self) -> float:
        """Returns seconds until the next look."""
        moved, wait_ms = self.ledger.begin_scheduled(BATCH)
        if moved:
            self.begun()
        return 0.0 if moved == BATCH else LOOK_S if wait_ms < 0 else min(LOOK_S, wait_ms / 1000)
