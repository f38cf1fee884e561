"""One shared record of whether an endpoint may be used: our account's trouble is nobody's failure (HARDENING 2).

401, 402, 403 and an unknown endpoint close the gate for every process; tries are spaced, by one caller at a time,
and the first success opens it. An operator's pause stops submits alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from bridge.runpod.shared import read, run
from bridge.telemetry import tell

#: Milliseconds between tries: first, longest.
FIRST_TRY_MS, LONGEST_TRY_MS = 5_000, 300_000
#: How long one caller's try may take before another may have it.
TURN_MS = 30_000
#: Seconds a state is believed without asking; half of what a pause may take to reach every process.
CACHE_S = 0.5


@dataclass(frozen=True, slots=True)
class GateState:
    """As last read. `reason` None means open."""

    reason: str | None = None
    since_ms: int = 0
    next_try_ms: int = 0
    paused: bool = False
    pause_reason: str = ""
    paused_by: str = ""
    ever_succeeded: bool = False


class Gate:
    """Thread-safe; every method may raise LedgerUnavailable."""

    def __init__(
        self, client: redis.Redis, prefix: str = "bridge:_:", now: Callable[[], int | None] = lambda: None
    ) -> None:
        """Shares the ledger's Redis. `now` is ledger time by this process' clock, None while it does not know it."""
        self._client = client
        self._prefix = prefix
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, GateState]] = {}

    def state(self, endpoint: str) -> GateState:
        """At most half a second old."""
        known = self._known.get(endpoint)
        if known and time.monotonic() - known[0] < CACHE_S:
            return known[1]
        found = read(self._client, self._key(endpoint))
        state = GateState(
            reason=found.get("reason"),
            since_ms=int(found.get("since", 0)),
            next_try_ms=int(float(found.get("next_try", 0))),
            paused="paused" in found,
            pause_reason=found.get("pause_reason", ""),
            paused_by=found.get("paused_by", ""),
            ever_succeeded="ok" in found,
        )
        with self._lock:
            self._known[endpoint] = (time.monotonic(), state)
        return state

    def trouble(self, endpoint: str, reason: str) -> bool:
        """Close, or stay closed and space the tries. True when the reason is news."""
        args = [endpoint, reason, FIRST_TRY_MS, LONGEST_TRY_MS]
        news = bool(run(self._client, "trouble", self._prefix, args, self._now()))
        self._known.pop(endpoint, None)
        if news:
            tell("gate.closed", endpoint=endpoint, reason=reason)
        return news

    def try_turn(self, endpoint: str, token: str) -> bool:
        """Whether this caller may try a closed endpoint now."""
        return bool(run(self._client, "try_turn", self._prefix, [endpoint, token, TURN_MS], self._now()))

    def succeeded(self, endpoint: str) -> bool:
        """A call was answered with success; True when that opened the gate. Costs nothing when all is well."""
        known = self._known.get(endpoint)
        if known and known[1].ever_succeeded and known[1].reason is None:
            return False
        opened = bool(run(self._client, "succeeded", self._prefix, [endpoint]))
        self._known.pop(endpoint, None)
        if opened:
            tell("gate.opened", endpoint=endpoint)
        return opened

    def forget(self, endpoint: str) -> None:
        """Believe nothing that was read: somebody of this process has changed it (a pause is the ledger's to write)."""
        self._known.pop(endpoint, None)

    def _key(self, endpoint: str) -> str:
        return f"{self._prefix}gate:{endpoint}"
