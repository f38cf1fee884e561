"""Is it the whole endpoint, or one request? Its health tells, asked once for all calls that failed together."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from bridge.errors import ApiError, EndpointTrouble, LedgerError
from bridge.runpod.limits.permits import Permits
from bridge.runpod.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.runpod.limits.budget import Budget

#: Seconds that an answer serves.
WHOLE_S = 2.0


class WholeEndpoint:
    """Thread-safe; of one process."""

    def __init__(
        self, budget: Budget, health: Callable[[str, str], object], well: Callable[[str], None], slot_ms: int
    ) -> None:
        """`health` asks for the health of an endpoint, by name and id; `well` is told of one that answered.

        A permit counts as used after `slot_ms`.
        """
        self._budget, self._health, self._well, self._slot_ms = budget, health, well, slot_ms
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._known: dict[str, tuple[float, bool | None]] = {}

    def in_trouble(self, endpoint: str, endpoint_id: str) -> bool | None:
        """As its health answers now, or did within WHOLE_S; None when that does not answer."""
        with self._lock:
            lock = self._locks.setdefault(endpoint, threading.Lock())
        with lock:
            known = self._known.get(endpoint)
            if known is None or time.monotonic() - known[0] > WHOLE_S:
                known = time.monotonic(), self._ask(endpoint, endpoint_id)
                self._known[endpoint] = known
            return known[1]

    def _ask(self, endpoint: str, endpoint_id: str) -> bool | None:
        try:
            permits = Permits.take(self._budget, endpoint_id, Operation.HEALTH, slot_ms=self._slot_ms, kind="small")
        except LedgerError:  # nobody gives permits: the answer that is asked about must not be lost for it
            return None
        if not permits.count:
            return None
        try:
            with permits.spend():
                self._health(endpoint, endpoint_id)
        except EndpointTrouble:
            return True
        except ApiError:
            return None
        self._well(endpoint)
        return False
