"""One shared record of whether an endpoint may be used: our account's trouble is nobody's failure (HARDENING 2).

401, 402, 403, 409 and an unknown endpoint close the gate for every process; tries are spaced, by one caller at a time,
and the first success opens it. An operator's pause stops submits alone.

A submit that is not taken while the endpoint answers its health is about that request, or about all submits: which one
is told by the others (`denied`). One request alone closes no gate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import redis

from bridge.runpod.limits.scripts import read, run, write
from bridge.telemetry import tell

#: Milliseconds between tries: first, longest.
FIRST_TRY_MS, LONGEST_TRY_MS = 5_000, 300_000
#: The longest where submits alone are in trouble: a try costs one call, and a request that came meanwhile may be taken.
LONGEST_SUBMIT_TRY_MS = 15_000
#: How long a submit that was taken speaks for the others; how many requests in a row that were not taken close the gate
#: for submits, and how many where the answers are none of RunPod's own.
SPEAKS_MS, IN_A_ROW, FOREIGN_IN_A_ROW = 10_000, 2, 5
#: How long it is believed that a process gets no answer; it says so again while that lasts.
AWAY_MS = 60_000
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
    paused_at_ms: int = 0  # 0 where an older version has paused it
    ever_succeeded: bool = False
    said: str = ""  # what was answered, and to which request
    request: str = ""
    submits_only: bool = False  # all other calls are answered
    suspected: bool = False  # some request was not taken, and none was since
    away: str = ""  # why some process gets no answer, since when, and when it last said so
    away_said: str = ""
    away_at_ms: int = 0
    told: str = ""  # the reason that those who wait were told last

    def changed_by_success(self, *, submitted: bool) -> bool:
        """Whether a call that is answered with success, a submit or another, would change anything here."""
        if not self.ever_succeeded or self.away:
            return True
        return (submitted and self.suspected) or (self.reason is not None and (submitted or not self.submits_only))


class Denied(IntEnum):
    """Whose trouble it is that a submit was not taken."""

    FIRST = 0  # not known yet
    OWN = 1  # the request's own
    SHARED = 2  # not only its own, as far as anybody knows


class CircuitBreaker:
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
            paused_at_ms=int(float(found.get("paused_at", 0))),
            ever_succeeded="ok" in found,
            said=found.get("said", ""),
            request=found.get("request", ""),
            submits_only=found.get("scope") == "run",
            suspected="suspect" in found,
            away=found.get("away", ""),
            away_said=found.get("away_said", ""),
            away_at_ms=int(found.get("away_at", 0)),
            told=found.get("told", ""),
        )
        with self._lock:
            self._known[endpoint] = (time.monotonic(), state)
        return state

    def trouble(self, endpoint: str, reason: str, said: str = "", request: str = "") -> bool:
        """Close, or stay closed and space the tries. True when the reason is news."""
        args = [endpoint, reason, FIRST_TRY_MS, LONGEST_TRY_MS, said, request]
        news = bool(run(self._client, "trouble", self._prefix, args, self._now()))
        self._known.pop(endpoint, None)
        if news:
            tell("gate.closed", endpoint=endpoint, reason=reason, request_id=request or None)
        return news

    def denied(
        self, endpoint: str, request: str, reason: str, said: str, *, foreign: bool, before_ms: int, taken_ms: int
    ) -> Denied:
        """A submit was not taken, and /health is answered. `before_ms`: when the same request was not taken before.

        `taken_ms` is when this process last saw a submit taken; both are ledger times, 0 for never.
        """
        args = [endpoint, request, reason, said, int(foreign), before_ms, taken_ms]
        args += (FIRST_TRY_MS, LONGEST_SUBMIT_TRY_MS, SPEAKS_MS, IN_A_ROW, FOREIGN_IN_A_ROW)
        verdict, news = run(self._client, "denied", self._prefix, args, self._now())
        self._known.pop(endpoint, None)
        if news:
            tell("gate.closed", endpoint=endpoint, reason=reason, request_id=request)
        return Denied(verdict)

    def away(self, endpoint: str, reason: str, said: str) -> None:
        """This process gets no answer: every process can say so."""
        run(self._client, "away", self._prefix, [endpoint, reason, said[:300]], self._now())
        self._known.pop(endpoint, None)

    def tell(self, endpoint: str, reason: str) -> None:
        """Those who wait have been told this reason ("" for none)."""
        write(self._client, self._key(endpoint), {"told": reason})
        self._known.pop(endpoint, None)

    def try_now(self, endpoint: str) -> None:
        """What a gate was closed for has changed here: its next try is due."""
        run(self._client, "try_now", self._prefix, [endpoint], self._now())
        self._known.pop(endpoint, None)

    def try_turn(self, endpoint: str, token: str) -> bool:
        """Whether this caller may try a closed endpoint now."""
        return bool(run(self._client, "try_turn", self._prefix, [endpoint, token, TURN_MS], self._now()))

    def succeeded(self, endpoint: str, *, submitted: bool = False) -> bool:
        """A call was answered with success; True when that opened the gate. Costs nothing when all is well."""
        known = self._known.get(endpoint)
        if known and not known[1].changed_by_success(submitted=submitted):
            return False
        opened = bool(run(self._client, "succeeded", self._prefix, [endpoint, int(submitted)], self._now()))
        self._known.pop(endpoint, None)
        if opened:
            tell("gate.opened", endpoint=endpoint)
        return opened

    def forget(self, endpoint: str) -> None:
        """Believe nothing that was read: somebody of this process has changed it (a pause is the ledger's to write)."""
        self._known.pop(endpoint, None)

    def _key(self, endpoint: str) -> str:
        return f"{self._prefix}gate:{endpoint}"
